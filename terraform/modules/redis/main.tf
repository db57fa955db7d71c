# Memorystore, in one of three kinds. What the brokers need of it is in docs/redis.md: nothing evicted, TLS, as durable as it can be.
#
# Redis Cluster and Valkey have no passwords that last (tokens of IAM end after an hour): who can reach them can use them, and who can is said by the firewall
# of the module network and by the NetworkPolicy in k8s/. A standalone one has a password.

locals {
  clustered = var.kind != "standalone"
  zonal     = var.zone != ""

  # What only one of the kinds has is null for the others.
  endpoint = one(concat(
    [for cluster in google_redis_cluster.this : "rediss+cluster://${cluster.discovery_endpoints[0].address}:${cluster.discovery_endpoints[0].port}"],
    [for valkey in google_memorystore_instance.this : "rediss+cluster://${valkey.discovery_endpoints[0].address}:${valkey.discovery_endpoints[0].port}"],
    [for redis in google_redis_instance.this : "rediss://${redis.host}:${redis.port}"],
  ))
  authorities = concat(
    flatten([for cluster in google_redis_cluster.this : cluster.managed_server_ca[*].ca_certs[*].certificates]),
    flatten([for valkey in google_memorystore_instance.this : valkey.managed_server_ca[*].ca_certs[*].certificates]),
    flatten([for redis in google_redis_instance.this : redis.server_ca_certs[*].cert]),
  )
}

resource "google_network_connectivity_service_connection_policy" "this" {
  count = local.clustered ? 1 : 0

  project       = var.project_id
  location      = var.region
  name          = "${var.name}-redis"
  description   = "Lets Memorystore make its endpoints in the network."
  network       = var.network
  service_class = var.kind == "valkey" ? "gcp-memorystore" : "gcp-memorystore-redis"

  psc_config {
    subnetworks = [var.subnetwork]
  }
}

resource "google_redis_cluster" "this" {
  count = var.kind == "cluster" ? 1 : 0

  project                     = var.project_id
  region                      = var.region
  name                        = var.name
  node_type                   = upper(replace("redis-${var.node_type}", "-", "_"))
  shard_count                 = var.shards
  replica_count               = var.replicas
  authorization_mode          = "AUTH_MODE_DISABLED"
  transit_encryption_mode     = "TRANSIT_ENCRYPTION_MODE_SERVER_AUTHENTICATION"
  deletion_protection_enabled = var.deletion_protection

  redis_configs = {
    maxmemory-policy = "noeviction"
  }

  psc_configs {
    network = var.network
  }

  persistence_config {
    mode = "AOF"
    aof_config {
      append_fsync = "EVERYSEC"
    }
  }

  zone_distribution_config {
    mode = local.zonal ? "SINGLE_ZONE" : "MULTI_ZONE"
    zone = local.zonal ? var.zone : null
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = var.maintenance.day
      start_time {
        hours = var.maintenance.hour
      }
    }
  }

  depends_on = [google_network_connectivity_service_connection_policy.this]
}

resource "google_memorystore_instance" "this" {
  count = var.kind == "valkey" ? 1 : 0

  project                     = var.project_id
  location                    = var.region
  instance_id                 = var.name
  engine_version              = "VALKEY_8_0"
  mode                        = "CLUSTER"
  node_type                   = upper(replace(var.node_type, "-", "_"))
  shard_count                 = var.shards
  replica_count               = var.replicas
  authorization_mode          = "AUTH_DISABLED"
  transit_encryption_mode     = "SERVER_AUTHENTICATION"
  deletion_protection_enabled = var.deletion_protection

  engine_configs = {
    maxmemory-policy = "noeviction"
  }

  desired_auto_created_endpoints {
    network    = var.network
    project_id = var.project_id
  }

  persistence_config {
    mode = "AOF"
    aof_config {
      append_fsync = "EVERY_SEC"
    }
  }

  zone_distribution_config {
    mode = local.zonal ? "SINGLE_ZONE" : "MULTI_ZONE"
    zone = local.zonal ? var.zone : null
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = var.maintenance.day
      start_time {
        hours = var.maintenance.hour
      }
    }
  }

  depends_on = [google_network_connectivity_service_connection_policy.this]
}

# One server. It has snapshots only: without a standby a restart, and Google's maintenance twice a year, may lose an hour, but for what the brokers write
# again (30 seconds).
resource "google_redis_instance" "this" {
  count = var.kind == "standalone" ? 1 : 0

  project                 = var.project_id
  region                  = var.region
  name                    = var.name
  redis_version           = "REDIS_7_2"
  tier                    = var.replicas > 0 ? "STANDARD_HA" : "BASIC"
  memory_size_gb          = var.memory_gb
  location_id             = local.zonal ? var.zone : null
  authorized_network      = var.network
  connect_mode            = "PRIVATE_SERVICE_ACCESS"
  reserved_ip_range       = var.peering_range
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  deletion_protection     = var.deletion_protection

  redis_configs = {
    maxmemory-policy = "noeviction"
  }

  persistence_config {
    persistence_mode    = "RDB"
    rdb_snapshot_period = "ONE_HOUR"
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = var.maintenance.day
      start_time {
        hours = var.maintenance.hour
      }
    }
  }
}
