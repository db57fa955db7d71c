# What broker and adapter are told of Redis, for each kind of it.

variables {
  project_id = "check-only"

  # Of the module by itself.
  region              = "europe-west1"
  name                = "dunlin"
  network             = "projects/check-only/global/networks/dunlin"
  subnetwork          = "projects/check-only/regions/europe-west1/subnetworks/dunlin-redis"
  peering_range       = "dunlin-redis"
  kind                = "cluster"
  node_type           = "standard-small"
  shards              = 3
  replicas            = 1
  memory_gb           = 5
  zone                = ""
  maintenance         = { day = "SUNDAY", hour = 2 }
  deletion_protection = false
}

run "a_cluster_is_found_by_its_discovery_endpoint" {
  module {
    source = "./modules/redis"
  }

  assert {
    condition     = startswith(output.url, "rediss+cluster://")
    error_message = "The broker has to go to a cluster with TLS, and is told ${output.url}."
  }

  assert {
    condition     = output.ports == tolist(["6379", "11000-13047"]) && output.wait_replicas == 1
    error_message = "The nodes of a cluster have ports of their own, and an acknowledgement waits for a replica."
  }

  assert {
    condition     = output.ca != "" && nonsensitive(output.password == null)
    error_message = "A cluster has authorities, and no password."
  }
}

run "valkey_is_found_alike" {
  module {
    source = "./modules/redis"
  }

  variables {
    kind = "valkey"
  }

  assert {
    condition     = startswith(output.url, "rediss+cluster://") && output.ca != ""
    error_message = "The broker has to go to a cluster with TLS, and is told ${output.url}."
  }
}

run "a_standalone_one_has_a_password" {
  module {
    source = "./modules/redis"
  }

  variables {
    kind = "standalone"
  }

  assert {
    condition     = startswith(output.url, "rediss://") && output.ca != ""
    error_message = "The broker has to go to one server with TLS, and is told ${output.url}."
  }

  assert {
    condition     = nonsensitive(output.password != null) && output.wait_replicas == 0
    error_message = "It has a password, and its standby cannot be waited for."
  }
}

run "pods_are_told_where_a_standalone_one_is_and_where_its_password_is" {
  command = plan

  variables {
    redis_kind = "standalone"
    redis_cidr = "172.20.4.0/24"
  }

  assert {
    condition     = output.redis_password_secret == "dunlin-redis-password" && output.redis_ca_secret == "dunlin-redis-ca"
    error_message = "Brokers and adapters need password and authorities."
  }

  assert {
    condition     = output.redis_ranges == tolist(["172.20.4.0/24"]) && output.redis_ports == tolist(["6378"])
    error_message = "The NetworkPolicy in k8s/ needs to know where it is."
  }
}

run "without_replicas_none_is_waited_for" {
  command = plan

  variables {
    redis_replicas = 0
  }

  assert {
    condition     = output.redis_wait_replicas == 0 && output.redis_password_secret == ""
    error_message = "Nothing would ever be acknowledged; and a cluster has no password."
  }
}
