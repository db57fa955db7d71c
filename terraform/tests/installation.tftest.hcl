# Two installations in one project, and what is on and off by itself.

variables {
  project_id = "check-only"
}

run "nothing_needs_to_be_said_but_the_project" {
  command = plan

  assert {
    condition     = output.cluster_name == "dunlin" && output.broker_tls_secret == "dunlin-broker-tls"
    error_message = "Names begin with dunlin unless said otherwise."
  }

  assert {
    condition     = output.domain == "" && output.bigquery_dataset == "fleet"
    error_message = "Nothing needs to be said but the project."
  }

  assert {
    condition     = alltrue([for name in [output.broker_admin_tls_secret, output.broker_admin_tokens_secret, output.provisioning_keys_secret, output.provisioning_authority_secret] : name == ""])
    error_message = "Administration and provisioning are off until somebody asks for them."
  }
}

run "devices_may_register_keys_without_an_authority" {
  command = plan
  variables {
    admin        = true
    provisioning = "keys"
  }

  assert {
    condition     = output.broker_admin_tokens_secret == "dunlin-broker-admin-tokens" && output.provisioning_keys_secret == "dunlin-provisioning-keys"
    error_message = "The secrets of administration and provisioning are missing."
  }

  assert {
    condition     = output.provisioning_authority_secret == ""
    error_message = "An authority was made that nobody asked for."
  }
}

run "another_name_makes_another_installation" {
  variables {
    name             = "second"
    bigquery_dataset = "second"
    domain           = "mqtt.example.com"
    dns_zone         = "example"
  }

  assert {
    condition     = alltrue([for name in [output.cluster_name, output.mqtt_address_name, output.broker_tls_secret, output.redis_ca_secret] : startswith(name, "second")])
    error_message = "A name is shared with the first installation."
  }

  assert {
    condition     = output.registry == "europe-west1-docker.pkg.dev/check-only/second"
    error_message = "The registry is ${output.registry}."
  }
}
