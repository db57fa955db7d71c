output "cluster_name" {
  description = "Cluster. For `gcloud container clusters get-credentials`."
  value       = google_container_cluster.this.name
}

output "workload_pool" {
  description = "Pool of the identities of pods; there when the cluster is. For the module identity."
  value       = google_container_cluster.this.workload_identity_config[0].workload_pool
}

output "nodes_member" {
  description = "Identity of nodes. For the module registry."
  value       = google_service_account.nodes.member
}
