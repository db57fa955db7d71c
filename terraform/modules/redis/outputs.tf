output "url" {
  description = "Redis, as redis.url of broker and adapter wants it. For k8s/."
  value       = local.endpoint
}

output "ports" {
  description = "Ports: of a cluster the one that tells where the nodes are, and those of the nodes. For the firewall and the NetworkPolicy in k8s/."
  value       = tolist(var.kind == "standalone" ? ["6378"] : ["6379", "11000-13047"])
}

output "ca" {
  description = "Authorities that the certificates of Redis are from, PEM. Public. For the module secrets."
  value       = join("\n", [for certificate in local.authorities : trimspace(certificate)])
}

output "password" {
  description = "Password of a standalone one; null for a cluster. For the module secrets."
  value       = one(google_redis_instance.this[*].auth_string)
  sensitive   = true
}

output "wait_replicas" {
  description = "Replicas that must have a write before it is acknowledged: one, where a shard has replicas. Not of a standalone one, whose standby is Google's own affair. For k8s/."
  value       = var.kind == "standalone" ? 0 : min(1, var.replicas)
}
