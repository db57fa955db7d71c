output "network" {
  description = "Network. For the modules gke and redis."
  value       = google_compute_network.this.id
}

output "nodes_subnetwork" {
  description = "Subnet of nodes. For the module gke."
  value       = google_compute_subnetwork.nodes.id
}

output "pods_range" {
  description = "Name of the range of pods. For the module gke."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[0].range_name
}

output "services_range" {
  description = "Name of the range of services. For the module gke."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[1].range_name
}

output "redis_subnetwork" {
  description = "Subnet for the endpoints of Redis Cluster and Valkey; empty for a standalone one. For the module redis."
  value       = var.redis_peering ? "" : google_compute_subnetwork.redis[0].id
}

output "redis_peering_range" {
  description = "Reserved range of a standalone Redis, when it is peered; empty for the others. For the module redis."
  value       = var.redis_peering ? google_service_networking_connection.redis[0].reserved_peering_ranges[0] : ""
}

output "redis_ranges" {
  description = "Addresses that Redis has. For the NetworkPolicy in k8s/."
  value       = tolist(local.redis_ranges)
}

output "mqtt_address" {
  description = "Address of the brokers. For devices."
  value       = google_compute_address.mqtt.address
}

output "mqtt_address_name" {
  description = "Name of that address. For the Service in k8s/."
  value       = google_compute_address.mqtt.name
}
