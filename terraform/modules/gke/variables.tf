variable "project_id" {
  description = "Project."
  type        = string
}

variable "region" {
  description = "Region."
  type        = string
}

variable "name" {
  description = "Name of the cluster, and what other names begin with."
  type        = string
}

variable "labels" {
  description = "Labels of the cluster."
  type        = map(string)
}

variable "network" {
  description = "Network."
  type        = string
}

variable "subnetwork" {
  description = "Subnet of nodes."
  type        = string
}

variable "pods_range" {
  description = "Name of the subnet's range of pods."
  type        = string
}

variable "services_range" {
  description = "Name of the subnet's range of services."
  type        = string
}

variable "nodes_tag" {
  description = "Network tag of the nodes, by which firewall rules know them."
  type        = string
}

variable "release_channel" {
  description = "RAPID, REGULAR, STABLE or EXTENDED."
  type        = string
}

variable "maintenance_window" {
  description = "When Google may replace nodes."
  type = object({
    start      = string
    end        = string
    recurrence = string
  })
}

variable "authorized_networks" {
  description = "Networks that reach the control plane by its address. Empty: that address is off."
  type        = map(string)
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to destroy the cluster."
  type        = bool
}

variable "binary_authorization" {
  description = "Whether the project's policy of Binary Authorization is enforced."
  type        = bool
}
