variable "project_id" {
  description = "Project."
  type        = string
}

variable "project_number" {
  description = "Number of the project."
  type        = string
}

variable "name" {
  description = "What the names of service accounts begin with."
  type        = string
}

variable "namespace" {
  description = "Namespace of Kubernetes."
  type        = string
}

variable "workload_pool" {
  description = "Pool of the identities of pods, of the cluster."
  type        = string
}
