terraform {
  required_version = ">= 1.11"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7"
    }
  }
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = local.labels
  # Budgets and other calls that belong to no project are counted on this one.
  user_project_override = true
  billing_project       = var.project_id
}
