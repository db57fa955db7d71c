variable "project_id" {
  description = "Project."
  type        = string
}

variable "region" {
  description = "Region."
  type        = string
}

variable "name" {
  description = "Name of Redis."
  type        = string
}

variable "network" {
  description = "Network from which Redis is reached."
  type        = string
}

variable "subnetwork" {
  description = "Subnet of the endpoints of a cluster; empty for a standalone one."
  type        = string
}

variable "peering_range" {
  description = "Reserved range of a standalone one; empty for a cluster."
  type        = string
}

variable "kind" {
  description = "cluster, valkey or standalone."
  type        = string

  validation {
    condition     = contains(["cluster", "valkey", "standalone"], var.kind)
    error_message = "One of cluster, valkey, standalone."
  }
}

variable "node_type" {
  description = "Size of a cluster's nodes, such as standard-small."
  type        = string
}

variable "shards" {
  description = "Shards of a cluster."
  type        = number
}

variable "replicas" {
  description = "Replicas of each shard; of a standalone one, whether there is a standby."
  type        = number
}

variable "memory_gb" {
  description = "GiB of a standalone one."
  type        = number
}

variable "zone" {
  description = "The only zone, or empty: all of the region."
  type        = string
}

variable "maintenance" {
  description = "Day and hour (UTC) at which Google may update Redis."
  type = object({
    day  = string
    hour = number
  })
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to destroy Redis."
  type        = bool
}
