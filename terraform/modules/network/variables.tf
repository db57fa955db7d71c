variable "project_id" {
  description = "Project."
  type        = string
}

variable "region" {
  description = "Region."
  type        = string
}

variable "name" {
  description = "What all names begin with."
  type        = string
}

variable "nodes_cidr" {
  description = "Addresses of nodes."
  type        = string
}

variable "pods_cidr" {
  description = "Addresses of pods."
  type        = string
}

variable "services_cidr" {
  description = "Addresses of services of Kubernetes."
  type        = string
}

variable "redis_cidr" {
  description = "Addresses at which Redis is reached."
  type        = string
}

variable "redis_peering" {
  description = "Whether Redis is in a peered network (standalone), and not behind Private Service Connect."
  type        = bool
}

variable "redis_ports" {
  description = "Ports of Redis."
  type        = list(string)
}

variable "nodes_tag" {
  description = "Network tag of the cluster's nodes."
  type        = string
}

variable "flow_logs" {
  description = "Whether a sample of the connections is logged."
  type        = bool
}

variable "domain" {
  description = "Name of the brokers, or empty."
  type        = string
}

variable "dns_zone" {
  description = "Managed zone for the name, or empty."
  type        = string
}
