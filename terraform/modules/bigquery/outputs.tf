output "dataset" {
  description = "Dataset. For the configuration of the adapter, and analysts."
  value       = google_bigquery_dataset.this.dataset_id
}
