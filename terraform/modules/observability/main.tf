# Alerts and dashboards of observability/, brought into Cloud Monitoring as they are there: no expression is written twice. Metrics come by Managed
# Prometheus, which the cluster has; what is scraped is said by the PodMonitoring in k8s/.

locals {
  rules = { for rule in flatten([
    for group in yamldecode(file("${var.folder}/alerts.yaml")).groups : [for rule in group.rules : merge(rule, { group = group.name })]
  ]) : rule.alert => rule }

  # What a level means to who is told. Another one is a mistake, and an error.
  severities = { page = "CRITICAL", ticket = "WARNING" }
  seconds    = { s = 1, m = 60, h = 3600, d = 86400 }

  # 1h30m and the like, in seconds.
  durations = { for name, rule in local.rules : name => sum(concat([0], [
    for part in regexall("(\\d+)([smhd])", try(rule.for, "0s")) : tonumber(part[0]) * local.seconds[part[1]]
  ])) }

  # Cloud Monitoring has no templates of Go: labels are written its way, values are in the incident anyway.
  texts = { for name, rule in local.rules : name => {
    for key, text in rule.annotations : key => replace(replace(text,
      "/\\{\\{\\s*\\$labels\\.(\\w+)\\s*\\}\\}/", "$${metric_or_resource.label.$1}"),
    "/\\{\\{[^}]*\\}\\}/", "(see the chart)")
  } }

  dashboards = { for file in fileset("${var.folder}/dashboards", "*.json") : trimsuffix(file, ".json") => jsondecode(file("${var.folder}/dashboards/${file}")) }

  # Panels in the order of the file, with those inside collapsed rows.
  panels = { for name, dashboard in local.dashboards : name => [
    for panel in flatten([for panel in dashboard.panels : concat([panel], try(panel.panels, []))]) : panel if length(try(panel.targets, [])) > 0
  ] }
}

resource "google_monitoring_notification_channel" "emails" {
  for_each = toset(var.emails)

  project      = var.project_id
  display_name = "${var.name}: ${each.value}"
  type         = "email"
  labels       = { email_address = each.value }
}

locals {
  channels = concat([for channel in google_monitoring_notification_channel.emails : channel.id], var.notification_channels)
}

resource "google_monitoring_alert_policy" "rules" {
  for_each = local.rules

  project               = var.project_id
  display_name          = "${var.name}: ${each.key}"
  combiner              = "OR"
  severity              = local.severities[each.value.labels.severity]
  notification_channels = local.channels
  user_labels           = { app = var.name, group = lower(replace(each.value.group, "/[^a-zA-Z0-9_-]/", "_")) }

  conditions {
    display_name = each.key

    condition_prometheus_query_language {
      query               = each.value.expr
      duration            = "${local.durations[each.key]}s"
      evaluation_interval = "30s"
      rule_group          = each.value.group
      alert_rule          = each.key
      labels              = { severity = each.value.labels.severity }
      # Policies are made before the first broker has said anything.
      disable_metric_validation = true
    }
  }

  documentation {
    mime_type = "text/markdown"
    subject   = substr(local.texts[each.key].summary, 0, 255)
    content   = "${local.texts[each.key].description}\n\nWhat to do: ${each.value.annotations.runbook_url}"
  }

  alert_strategy {
    auto_close = "86400s"
  }
}

resource "google_monitoring_dashboard" "this" {
  for_each = local.dashboards

  project = var.project_id
  dashboard_json = jsonencode({
    displayName = "${var.name}: ${each.value.title}"
    labels      = { (var.name) = "" }
    mosaicLayout = {
      columns = 24
      tiles = [for panel in local.panels[each.key] : {
        xPos   = panel.gridPos.x
        yPos   = panel.gridPos.y
        width  = panel.gridPos.w
        height = panel.gridPos.h
        widget = {
          title = panel.title
          xyChart = {
            dataSets = [for target in panel.targets : {
              plotType = "LINE"
              timeSeriesQuery = {
                # Variables of Grafana: intervals are five minutes, everything else is all of it.
                prometheusQuery = replace(replace(target.expr, "/\\$__\\w+/", "5m"), "/=~?\\s*\"\\$\\{?\\w+(:\\w+)?\\}?\"/", "=~\".*\"")
              }
            }]
          }
        }
      }]
    }
  })
}

resource "google_billing_budget" "this" {
  count = var.billing_account == "" ? 0 : 1

  billing_account = var.billing_account
  display_name    = "${var.name}: ${var.project_id}"

  budget_filter {
    projects = ["projects/${var.project_number}"]
  }

  amount {
    specified_amount {
      units = tostring(var.monthly_budget)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }

  # Besides those who administer the billing account; five channels at most.
  dynamic "all_updates_rule" {
    for_each = length(local.channels) > 0 ? [1] : []
    content {
      monitoring_notification_channels = slice(local.channels, 0, min(5, length(local.channels)))
      disable_default_iam_recipients   = false
    }
  }
}
