variable "project_id" {
  description = "Project."
  type        = string
}

variable "location" {
  description = "Where the dataset is."
  type        = string
}

variable "dataset" {
  description = "Name of the dataset."
  type        = string
}

variable "sql" {
  description = "Folder with the adapter's tables.json and views."
  type        = string
}

variable "messages_days" {
  description = "Days for which messages are kept; 0: for ever."
  type        = number
}

variable "dead_letters_days" {
  description = "Days for which dead letters are kept; 0: for ever."
  type        = number
}

variable "adapter_member" {
  description = "Identity of adapters."
  type        = string
}

variable "adapter_may_query" {
  description = "Whether the adapter may run queries."
  type        = bool
}

variable "analysts" {
  description = "Who may read and query."
  type        = list(string)
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to destroy tables and their rows."
  type        = bool
}
