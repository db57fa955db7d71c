variable "project_id" {
  description = "Project."
  type        = string
}

variable "project_number" {
  description = "Number of the project."
  type        = string
}

variable "name" {
  description = "What names of alerts and dashboards begin with."
  type        = string
}

variable "folder" {
  description = "Folder with alerts.yaml and dashboards/."
  type        = string
}

variable "emails" {
  description = "Who gets an e-mail for each alert."
  type        = list(string)
}

variable "notification_channels" {
  description = "Other channels for alerts."
  type        = list(string)
}

variable "billing_account" {
  description = "Billing account for a budget, or empty."
  type        = string
}

variable "monthly_budget" {
  description = "Money a month, in the currency of the billing account."
  type        = number
}
