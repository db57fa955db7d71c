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

output "broker_admin_tls" {
  description = "Secret for certificate and key of the administration, or empty. For k8s/, and whoever adds versions."
  value       = var.admin ? google_secret_manager_secret.this["broker-admin-tls"].secret_id : ""
}

output "broker_admin_tokens" {
  description = "Secret for who may administer, or empty. For k8s/, and whoever adds versions."
  value       = var.admin ? google_secret_manager_secret.this["broker-admin-tokens"].secret_id : ""
}

output "provisioning_keys" {
  description = "Secret for the keys that bootstrap tokens are verified by, or empty. For k8s/, and whoever adds versions."
  value       = var.provisioning != "off" ? google_secret_manager_secret.this["provisioning-keys"].secret_id : ""
}

output "provisioning_authority" {
  description = "Secret for the authority that signs devices' certificates, or empty. For k8s/, and whoever adds versions."
  value       = var.provisioning == "authority" ? google_secret_manager_secret.this["provisioning-authority"].secret_id : ""
}
