output "broker_email" {
  description = "Service account of brokers. For the ServiceAccount in k8s/."
  value       = google_service_account.this["broker"].email
}

output "adapter_email" {
  description = "Service account of adapters. For the ServiceAccount in k8s/."
  value       = google_service_account.this["adapter"].email
}

output "adapter_member" {
  description = "Service account of adapters. For the module bigquery."
  value       = google_service_account.this["adapter"].member
}

output "broker_members" {
  description = "Brokers: their service account, and their pods themselves. For the module secrets."
  value       = { account = google_service_account.this["broker"].member, pods = local.pods["broker"] }
}

output "adapter_members" {
  description = "Adapters: their service account, and their pods themselves. For the module secrets."
  value       = { account = google_service_account.this["adapter"].member, pods = local.pods["adapter"] }
}
