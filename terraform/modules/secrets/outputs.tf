output "broker_tls" {
  description = "Secret for certificate and key of the brokers. For k8s/, and whoever adds versions."
  value       = google_secret_manager_secret.this["broker-tls"].secret_id
}

output "broker_client_ca" {
  description = "Secret for the authorities of devices' certificates. For k8s/, and whoever adds versions."
  value       = google_secret_manager_secret.this["broker-client-ca"].secret_id
}

output "broker_users" {
  description = "Secret for the users file. For k8s/, and whoever adds versions."
  value       = google_secret_manager_secret.this["broker-users"].secret_id
}

output "redis_ca" {
  description = "Secret with the authorities of Redis. For k8s/."
  value       = google_secret_manager_secret.this["redis-ca"].secret_id
}

output "redis_password" {
  description = "Secret with the password of Redis, or empty. For k8s/."
  value       = var.redis_has_password ? google_secret_manager_secret.this["redis-password"].secret_id : ""
}
