# Where images are. A tag, once pushed, stays what it is.

resource "google_artifact_registry_repository" "this" {
  project       = var.project_id
  location      = var.region
  repository_id = var.name
  description   = "Images of ${var.name}: broker, bigquery-adapter, loadtest."
  format        = "DOCKER"

  docker_config {
    immutable_tags = true
  }

  # A version goes when it is older than 30 days and not among the newest of its image.
  cleanup_policies {
    id     = "old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "2592000s"
    }
  }

  cleanup_policies {
    id     = "newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = var.versions
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.this.name
  role       = "roles/artifactregistry.reader"
  member     = var.nodes_member
}

resource "google_artifact_registry_repository_iam_member" "publishers" {
  for_each = toset(var.publishers)

  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.this.name
  role       = "roles/artifactregistry.writer"
  member     = each.value
}
