# Mistakes in variables are told before anything is made.

variables {
  project_id = "check-only"
}

run "a_zone_is_no_region" {
  command = plan
  variables {
    region = "europe-west1-b"
  }
  expect_failures = [var.region]
}

run "the_zone_of_redis_is_in_the_region" {
  command = plan
  variables {
    redis_zone = "us-central1-a"
  }
  expect_failures = [var.redis_zone]
}

run "a_project_number_is_no_project_id" {
  command = plan
  variables {
    project_id = "123456789"
  }
  expect_failures = [var.project_id]
}

run "a_name_leaves_room_for_those_of_service_accounts" {
  command = plan
  variables {
    name = "a-name-that-is-too-long"
  }
  expect_failures = [var.name]
}

run "the_world_is_no_authorized_network" {
  command = plan
  variables {
    authorized_networks = { everybody = "0.0.0.0/0" }
  }
  expect_failures = [var.authorized_networks]
}

run "the_world_is_no_analyst" {
  command = plan
  variables {
    analysts = ["allAuthenticatedUsers"]
  }
  expect_failures = [var.analysts]
}

run "redis_has_private_addresses" {
  command = plan
  variables {
    redis_cidr = "8.8.8.0/24"
  }
  expect_failures = [var.redis_cidr]
}

run "a_maintenance_window_has_four_hours" {
  command = plan
  variables {
    maintenance_window = { start = "2026-01-03T01:00:00Z", end = "2026-01-03T02:00:00Z", recurrence = "FREQ=DAILY" }
  }
  expect_failures = [var.maintenance_window]
}

run "a_zone_of_dns_needs_a_domain" {
  command = plan
  variables {
    dns_zone = "example"
  }
  expect_failures = [var.dns_zone]
}

run "a_budget_is_more_than_nothing" {
  command = plan
  variables {
    billing_account = "012345-6789AB-CDEF01"
  }
  expect_failures = [var.monthly_budget]
}

run "three_replicas_of_a_shard_are_too_many" {
  command = plan
  variables {
    redis_replicas = 3
  }
  expect_failures = [var.redis_replicas]
}

run "provisioning_is_not_switched_on_by_a_word_of_its_own" {
  command = plan
  variables {
    admin        = true
    provisioning = "on"
  }
  expect_failures = [var.provisioning]
}

run "provisioning_needs_somebody_who_lists_serial_numbers" {
  command = plan
  variables {
    provisioning = "keys"
  }
  expect_failures = [var.provisioning]
}
