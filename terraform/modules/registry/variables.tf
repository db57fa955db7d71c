variable "project_id" {
  description = "Project."
  type        = string
}

variable "region" {
  description = "Region."
  type        = string
}

variable "name" {
  description = "Name of the repository."
  type        = string
}

variable "versions" {
  description = "Newest versions of each image that are kept."
  type        = number
}

variable "nodes_member" {
  description = "Identity of the nodes, which pull."
  type        = string
}

variable "publishers" {
  description = "Who may push."
  type        = list(string)
}
