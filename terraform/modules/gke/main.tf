# An Autopilot cluster: Google runs the nodes, pods pay for what they ask for. Nodes are private.

# What nodes may do: write logs and metrics, pull images (granted on the repository by the module registry). Pods have identities of their own.
resource "google_service_account" "nodes" {
  project      = var.project_id
  account_id   = "${var.name}-nodes"
  display_name = "Nodes of ${var.name}"
}

resource "google_project_iam_member" "nodes" {
  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes.member
}

resource "google_container_cluster" "this" {
  project             = var.project_id
  location            = var.region
  name                = var.name
  enable_autopilot    = true
  deletion_protection = var.deletion_protection
  resource_labels     = var.labels

  network    = var.network
  subnetwork = var.subnetwork

  ip_allocation_policy {
    cluster_secondary_range_name  = var.pods_range
    services_secondary_range_name = var.services_range
  }

  private_cluster_config {
    enable_private_nodes = true
  }

  # The DNS name of the control plane asks IAM before anything else. Its address is off, unless somebody needs it.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }
    ip_endpoints_config {
      enabled = length(var.authorized_networks) > 0
    }
  }

  dynamic "master_authorized_networks_config" {
    for_each = length(var.authorized_networks) > 0 ? [1] : []
    content {
      gcp_public_cidrs_access_enabled = false

      dynamic "cidr_blocks" {
        for_each = var.authorized_networks
        content {
          display_name = cidr_blocks.key
          cidr_block   = cidr_blocks.value
        }
      }
    }
  }

  cluster_autoscaling {
    auto_provisioning_defaults {
      service_account = google_service_account.nodes.email
      oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    }
  }

  node_pool_auto_config {
    network_tags {
      tags = [var.nodes_tag]
    }
  }

  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  release_channel {
    channel = var.release_channel
  }

  maintenance_policy {
    recurring_window {
      start_time = var.maintenance_window.start
      end_time   = var.maintenance_window.end
      recurrence = var.maintenance_window.recurrence
    }
  }

  # Secrets are files in the pods, and follow Secret Manager within two minutes: certificates change without a restart.
  secret_manager_config {
    enabled = true
    rotation_config {
      enabled           = true
      rotation_interval = "120s"
    }
  }

  # What is logged and measured is Autopilot's own to say: logs of everything, Managed Prometheus, the state of pods and autoscalers.

  cost_management_config {
    enabled = true
  }

  security_posture_config {
    mode = "BASIC"
  }

  # Enforced, only images that the project's policy lets in start: what it asks for (such as a signature of your pipeline) is yours to write.
  binary_authorization {
    evaluation_mode = var.binary_authorization ? "PROJECT_SINGLETON_POLICY_ENFORCE" : "DISABLED"
  }

  rbac_binding_config {
    enable_insecure_binding_system_authenticated   = false
    enable_insecure_binding_system_unauthenticated = false
  }

  lifecycle {
    # GKE writes the zones and the versions here; they are its own to choose.
    ignore_changes = [node_locations, min_master_version]
  }

  depends_on = [google_project_iam_member.nodes]
}
