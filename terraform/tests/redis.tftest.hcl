# What broker and adapter are told of Redis, for each kind of it.

variables {
  project_id = "check-only"
}

run "a_cluster_is_found_by_its_discovery_endpoint" {
  variables {
    redis_kind = "cluster"
  }

  assert {
    condition     = startswith(output.redis_url, "rediss+cluster://")
    error_message = "The broker has to go to a cluster with TLS, and is told ${output.redis_url}."
  }

  assert {
    condition     = output.redis_password_secret == ""
    error_message = "A cluster has no password."
  }

  assert {
    condition     = output.redis_ports == tolist(["6379", "11000-13047"])
    error_message = "The nodes of a cluster have ports of their own."
  }

  assert {
    condition     = output.redis_wait_replicas == 1
    error_message = "An acknowledgement has to wait for a replica."
  }

  assert {
    condition     = module.secrets.redis_ca == "dunlin-redis-ca"
    error_message = "The authorities of Redis have a secret."
  }
}

run "valkey_is_found_alike" {
  variables {
    redis_kind = "valkey"
  }

  assert {
    condition     = startswith(output.redis_url, "rediss+cluster://")
    error_message = "The broker has to go to a cluster with TLS, and is told ${output.redis_url}."
  }
}

run "without_replicas_none_is_waited_for" {
  command = plan
  variables {
    redis_replicas = 0
  }

  assert {
    condition     = output.redis_wait_replicas == 0
    error_message = "Nothing would ever be acknowledged."
  }
}

run "a_standalone_one_has_a_password_and_addresses_of_its_own" {
  variables {
    redis_kind = "standalone"
    redis_cidr = "172.20.4.0/24"
  }

  assert {
    condition     = startswith(output.redis_url, "rediss://")
    error_message = "The broker has to go to one server with TLS, and is told ${output.redis_url}."
  }

  assert {
    condition     = output.redis_password_secret == "dunlin-redis-password"
    error_message = "Brokers and adapters need the password."
  }

  assert {
    condition     = output.redis_ranges == tolist(["172.20.4.0/24"]) && output.redis_ports == tolist(["6378"])
    error_message = "The NetworkPolicy in k8s/ needs to know where it is."
  }
}
