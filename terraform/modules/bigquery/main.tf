# The warehouse: dataset, the adapter's own tables, the analysts' views, and who may do what.
#
# Columns, partitions and clusters of the tables are the adapter's: it writes them down in bigquery-adapter/sql/tables.json, and a test of it compares. Tables
# for rules of your own are made by the adapter when the first message comes. Views are bigquery-adapter/sql/*.sql.

locals {
  tables = { for table in jsondecode(file("${var.sql}/tables.json")) : table.name => table }
  ours = {
    messages     = { description = "What no rule sends elsewhere. A row is a message, once.", days = var.messages_days }
    dead_letters = { description = "Messages that fit no table, with the reason: bigquery-adapter dead-letters.", days = var.dead_letters_days }
  }

  # create or replace view `DATASET.NAME` as QUERY; what is no view is left out.
  statements = [for file in fileset(var.sql, "*.sql") : file("${var.sql}/${file}")]
  view       = "(?s)create or replace view `DATASET\\.(\\w+)` as\\n(.*);"
  found      = flatten([for text in local.statements : [for match in regexall(local.view, text) : { name = match[0], query = match[1] }]])
  queries    = { for view in local.found : view.name => view.query }
  # Views that read other views, and so are made after them.
  derived = toset([for name, query in local.queries : name if anytrue([for other in keys(local.queries) : can(regex("`DATASET\\.${other}`", query))])])

  dataset_name = "${var.project_id}.${google_bigquery_dataset.this.dataset_id}"
  made         = { for name, query in local.queries : name => replace(query, "DATASET", local.dataset_name) }
}

resource "google_bigquery_dataset" "this" {
  project                    = var.project_id
  location                   = var.location
  dataset_id                 = var.dataset
  description                = "Messages of devices, as the brokers have acknowledged them."
  delete_contents_on_destroy = !var.deletion_protection
}

resource "google_bigquery_table" "tables" {
  for_each = local.tables

  project             = var.project_id
  dataset_id          = google_bigquery_dataset.this.dataset_id
  table_id            = each.key
  description         = local.ours[each.key].description
  schema              = jsonencode(each.value.schema)
  clustering          = each.value.clustering
  deletion_protection = var.deletion_protection

  time_partitioning {
    type          = "DAY"
    field         = each.value.partition_by
    expiration_ms = local.ours[each.key].days == 0 ? null : local.ours[each.key].days * 24 * 60 * 60 * 1000
  }

  lifecycle {
    # The adapter adds columns when a new version, or a rule, has more of them.
    ignore_changes = [schema]
  }
}

resource "google_bigquery_table" "views" {
  for_each = { for name, query in local.made : name => query if !contains(local.derived, name) }

  project             = var.project_id
  dataset_id          = google_bigquery_dataset.this.dataset_id
  table_id            = each.key
  deletion_protection = false

  view {
    query          = each.value
    use_legacy_sql = false
  }

  depends_on = [google_bigquery_table.tables]
}

resource "google_bigquery_table" "derived_views" {
  for_each = { for name, query in local.made : name => query if contains(local.derived, name) }

  project             = var.project_id
  dataset_id          = google_bigquery_dataset.this.dataset_id
  table_id            = each.key
  deletion_protection = false

  view {
    query          = each.value
    use_legacy_sql = false
  }

  depends_on = [google_bigquery_table.views]
}

# What the adapter needs: write rows, make and extend tables. On this dataset, and nothing on the project.
resource "google_bigquery_dataset_iam_member" "adapter" {
  project    = var.project_id
  dataset_id = google_bigquery_dataset.this.dataset_id
  role       = "roles/bigquery.dataEditor"
  member     = var.adapter_member
}

resource "google_project_iam_member" "adapter_queries" {
  count = var.adapter_may_query ? 1 : 0

  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = var.adapter_member
}

resource "google_bigquery_dataset_iam_member" "analysts" {
  for_each = toset(var.analysts)

  project    = var.project_id
  dataset_id = google_bigquery_dataset.this.dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = each.value
}

resource "google_project_iam_member" "analysts_queries" {
  for_each = toset(var.analysts)

  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = each.value
}
