# Who brokers and adapters are to Google Cloud. No keys: pods of the right service account in the right namespace become these by Workload Identity.
# What they may do is granted where it is done: on secrets by the module secrets, on the dataset by the module bigquery.

locals {
  programs = {
    broker  = "Brokers of ${var.name}"
    adapter = "Adapters of ${var.name}: from the tap into BigQuery"
  }

  # The identity of the pods themselves, which the Secret Manager add-on uses.
  pods = {
    for program in keys(local.programs) :
    program => "${local.subjects}/ns/${var.namespace}/sa/${program}"
  }

  pools    = "principal://iam.googleapis.com/projects/${var.project_number}/locations/global/workloadIdentityPools"
  subjects = "${local.pools}/${var.workload_pool}/subject"
}

resource "google_service_account" "this" {
  for_each = local.programs

  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = each.value
}

resource "google_service_account_iam_member" "pods" {
  for_each = local.programs

  service_account_id = google_service_account.this[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.workload_pool}[${var.namespace}/${each.key}]"
}

# The HorizontalPodAutoscaler reads connections and messages from Managed Prometheus through Google's adapter, which needs to read metrics.
resource "google_project_iam_member" "metrics_reader" {
  project = var.project_id
  role    = "roles/monitoring.viewer"
  member  = "${local.subjects}/ns/custom-metrics/sa/custom-metrics-stackdriver-adapter"
}
