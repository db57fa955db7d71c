output "url" {
  description = "What the names of images begin with, without a slash at the end. For whoever builds, and k8s/."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.this.repository_id}"
}
