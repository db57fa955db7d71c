output "alerts" {
  description = "Names of the alert policies. For tests."
  value       = keys(google_monitoring_alert_policy.rules)
}

output "dashboards" {
  description = "Names of the dashboards. For tests."
  value       = keys(google_monitoring_dashboard.this)
}
