# From an empty project to what k8s/overlays/gke needs. The road: docs/google-cloud.md; why it is as it is: docs/adr/0016-google-cloud.md.

locals {
  labels = merge({ app = var.name, managed-by = "terraform" }, var.labels)

  # Nodes carry this tag, and only they reach Redis.
  nodes_tag = "${var.name}-nodes"

  services = toset([
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",
    "billingbudgets.googleapis.com",
    "binaryauthorization.googleapis.com",
    "compute.googleapis.com",
    "container.googleapis.com",
    "dns.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "memorystore.googleapis.com",
    "monitoring.googleapis.com",
    "networkconnectivity.googleapis.com",
    "redis.googleapis.com",
    "secretmanager.googleapis.com",
    "serviceconsumermanagement.googleapis.com",
    "servicenetworking.googleapis.com",
  ])
}

resource "google_project_service" "this" {
  for_each = local.services

  project = var.project_id
  service = each.value
  # Something else in the project may use it.
  disable_on_destroy = false
}

data "google_project" "this" {
  project_id = var.project_id
}

module "network" {
  source = "./modules/network"

  project_id    = var.project_id
  region        = var.region
  name          = var.name
  nodes_cidr    = var.nodes_cidr
  pods_cidr     = var.pods_cidr
  services_cidr = var.services_cidr
  redis_cidr    = var.redis_cidr
  redis_peering = var.redis_kind == "standalone"
  redis_ports   = module.redis.ports
  nodes_tag     = local.nodes_tag
  flow_logs     = var.flow_logs
  domain        = var.domain
  dns_zone      = var.dns_zone

  depends_on = [google_project_service.this]
}

module "gke" {
  source = "./modules/gke"

  project_id           = var.project_id
  region               = var.region
  name                 = var.name
  labels               = local.labels
  network              = module.network.network
  subnetwork           = module.network.nodes_subnetwork
  pods_range           = module.network.pods_range
  services_range       = module.network.services_range
  nodes_tag            = local.nodes_tag
  release_channel      = var.release_channel
  maintenance_window   = var.maintenance_window
  authorized_networks  = var.authorized_networks
  binary_authorization = var.binary_authorization
  deletion_protection  = var.deletion_protection

  depends_on = [google_project_service.this]
}

module "redis" {
  source = "./modules/redis"

  project_id          = var.project_id
  region              = var.region
  name                = var.name
  network             = module.network.network
  subnetwork          = module.network.redis_subnetwork
  peering_range       = module.network.redis_peering_range
  kind                = var.redis_kind
  node_type           = var.redis_node_type
  shards              = var.redis_shards
  replicas            = var.redis_replicas
  memory_gb           = var.redis_memory_gb
  zone                = var.redis_zone
  maintenance         = var.redis_maintenance
  deletion_protection = var.deletion_protection

  depends_on = [google_project_service.this]
}

module "registry" {
  source = "./modules/registry"

  project_id   = var.project_id
  region       = var.region
  name         = var.name
  versions     = var.image_versions
  nodes_member = module.gke.nodes_member
  publishers   = var.image_publishers

  depends_on = [google_project_service.this]
}

module "identity" {
  source = "./modules/identity"

  project_id     = var.project_id
  project_number = data.google_project.this.number
  name           = var.name
  namespace      = var.namespace
  workload_pool  = module.gke.workload_pool

  depends_on = [google_project_service.this]
}

module "secrets" {
  source = "./modules/secrets"

  project_id          = var.project_id
  region              = var.region
  name                = var.name
  broker_members      = module.identity.broker_members
  adapter_members     = module.identity.adapter_members
  redis_ca            = module.redis.ca
  redis_has_password  = var.redis_kind == "standalone"
  redis_password      = module.redis.password
  admin               = var.admin
  provisioning        = var.provisioning
  deletion_protection = var.deletion_protection

  depends_on = [google_project_service.this]
}

module "bigquery" {
  source = "./modules/bigquery"

  project_id          = var.project_id
  location            = coalesce(var.bigquery_location, var.region)
  dataset             = var.bigquery_dataset
  sql                 = "${path.module}/../bigquery-adapter/sql"
  messages_days       = var.messages_days
  dead_letters_days   = var.dead_letters_days
  adapter_member      = module.identity.adapter_member
  adapter_may_query   = var.adapter_may_query
  analysts            = var.analysts
  deletion_protection = var.deletion_protection

  depends_on = [google_project_service.this]
}

module "observability" {
  source = "./modules/observability"

  project_id            = var.project_id
  project_number        = data.google_project.this.number
  name                  = var.name
  folder                = "${path.module}/../observability"
  emails                = var.alert_emails
  notification_channels = var.notification_channels
  billing_account       = var.billing_account
  monthly_budget        = var.monthly_budget

  depends_on = [google_project_service.this]
}
