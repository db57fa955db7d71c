# Secrets, and who reads them. You add the versions of what is yours (docs/google-cloud.md), so that Terraform's state never holds a private key or a password
# of a device. What Redis itself hands out, Terraform passes on.

locals {
  # Secret = who reads it.
  secrets = merge({
    broker-tls       = ["broker"]
    broker-client-ca = ["broker"]
    broker-users     = ["broker"]
    redis-ca         = ["broker", "adapter"]
    }, var.redis_has_password ? {
    redis-password = ["broker", "adapter"]
    } : {}, var.admin ? {
    broker-admin-tls    = ["broker"]
    broker-admin-tokens = ["broker"]
    } : {}, var.provisioning != "off" ? {
    provisioning-keys = ["broker"]
    } : {}, var.provisioning == "authority" ? {
    provisioning-authority = ["broker"]
  } : {})

  members = { broker = var.broker_members, adapter = var.adapter_members }
  # Keys are known before anything exists; members are not.
  readers = merge([
    for secret, programs in local.secrets : merge([
      for program in programs : {
        for identity in ["account", "pods"] : "${secret}-${program}-${identity}" => { secret = secret, program = program, identity = identity }
      }
    ]...)
  ]...)
}

resource "google_secret_manager_secret" "this" {
  for_each = local.secrets

  project             = var.project_id
  secret_id           = "${var.name}-${each.key}"
  deletion_protection = var.deletion_protection
  # A version that was destroyed by mistake can be had back for a week.
  version_destroy_ttl = "604800s"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}

resource "google_secret_manager_secret_iam_member" "readers" {
  for_each = local.readers

  project   = var.project_id
  secret_id = google_secret_manager_secret.this[each.value.secret].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.members[each.value.program][each.value.identity]
}

# Certificates of authorities are public. When Memorystore gets a new one, `terraform apply` passes on both.
resource "google_secret_manager_secret_version" "redis_ca" {
  secret      = google_secret_manager_secret.this["redis-ca"].id
  secret_data = var.redis_ca
}

resource "google_secret_manager_secret_version" "redis_password" {
  count = var.redis_has_password ? 1 : 0

  secret                 = google_secret_manager_secret.this["redis-password"].id
  secret_data_wo         = var.redis_password
  secret_data_wo_version = "1"
}
