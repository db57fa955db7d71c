# One network: a subnet for nodes and pods, addresses for Redis, a way out without public addresses, and the brokers' address.
#
# Nothing here lets anybody in: the network denies what no rule allows, and the only rules that allow are those that GKE makes for the load balancer.
# Redis cannot be reached from outside the network at all; inside, only nodes of the cluster reach it.

locals {
  peered       = [for range in google_compute_global_address.redis : "${range.address}/${range.prefix_length}"]
  redis_ranges = var.redis_peering ? local.peered : [var.redis_cidr]
}

resource "google_compute_network" "this" {
  project                 = var.project_id
  name                    = var.name
  auto_create_subnetworks = false
  routing_mode            = "REGIONAL"
}

resource "google_compute_subnetwork" "nodes" {
  project                  = var.project_id
  region                   = var.region
  name                     = "${var.name}-nodes"
  network                  = google_compute_network.this.id
  ip_cidr_range            = var.nodes_cidr
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = var.pods_cidr
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = var.services_cidr
  }

  dynamic "log_config" {
    for_each = var.flow_logs ? [1] : []
    content {
      aggregation_interval = "INTERVAL_1_MIN"
      flow_sampling        = 0.1
      metadata             = "INCLUDE_ALL_METADATA"
    }
  }
}

# Redis Cluster and Valkey: endpoints of Private Service Connect in a subnet of their own.
resource "google_compute_subnetwork" "redis" {
  count = var.redis_peering ? 0 : 1

  project                  = var.project_id
  region                   = var.region
  name                     = "${var.name}-redis"
  network                  = google_compute_network.this.id
  ip_cidr_range            = var.redis_cidr
  private_ip_google_access = true
}

# A standalone Redis: a network of Google's, peered with this one.
resource "google_compute_global_address" "redis" {
  count = var.redis_peering ? 1 : 0

  project       = var.project_id
  name          = "${var.name}-redis"
  network       = google_compute_network.this.id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  address       = cidrhost(var.redis_cidr, 0)
  prefix_length = tonumber(split("/", var.redis_cidr)[1])
}

resource "google_service_networking_connection" "redis" {
  count = var.redis_peering ? 1 : 0

  network                 = google_compute_network.this.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.redis[0].name]
}

resource "google_compute_firewall" "redis_from_nodes" {
  project            = var.project_id
  name               = "${var.name}-redis-from-nodes"
  description        = "Nodes of the cluster reach Redis; which of their pods do is said by the NetworkPolicy in k8s/."
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 900
  target_tags        = [var.nodes_tag]
  destination_ranges = local.redis_ranges

  allow {
    protocol = "tcp"
    ports    = var.redis_ports
  }
}

resource "google_compute_firewall" "redis_from_others" {
  project            = var.project_id
  name               = "${var.name}-redis-from-others"
  description        = "Nothing else in the network reaches Redis."
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 1000
  destination_ranges = local.redis_ranges

  deny {
    protocol = "all"
  }

  log_config {
    metadata = "EXCLUDE_ALL_METADATA"
  }
}

# Nodes have no public addresses: this is how they get out (to Google's own services they need it not).
resource "google_compute_router" "this" {
  project = var.project_id
  region  = var.region
  name    = var.name
  network = google_compute_network.this.id
}

resource "google_compute_router_nat" "this" {
  project                             = var.project_id
  region                              = var.region
  name                                = var.name
  router                              = google_compute_router.this.name
  nat_ip_allocate_option              = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat  = "LIST_OF_SUBNETWORKS"
  enable_dynamic_port_allocation      = true
  enable_endpoint_independent_mapping = false

  subnetwork {
    name                    = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

# Regional, as a passthrough load balancer is: connections come to the pods as the devices made them.
resource "google_compute_address" "mqtt" {
  project      = var.project_id
  region       = var.region
  name         = "${var.name}-mqtt"
  description  = "Devices know this address."
  address_type = "EXTERNAL"
  network_tier = "PREMIUM"
}

resource "google_dns_record_set" "mqtt" {
  count = var.dns_zone == "" ? 0 : 1

  project      = var.project_id
  managed_zone = var.dns_zone
  name         = "${var.domain}."
  type         = "A"
  ttl          = 300
  rrdatas      = [google_compute_address.mqtt.address]
}
