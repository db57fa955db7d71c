variable "project_id" {
  description = "Project."
  type        = string
}

variable "region" {
  description = "Where secrets are kept."
  type        = string
}

variable "name" {
  description = "What the names of secrets begin with."
  type        = string
}

variable "broker_members" {
  description = "Identities of brokers."
  type = object({
    account = string
    pods    = string
  })
}

variable "adapter_members" {
  description = "Identities of adapters."
  type = object({
    account = string
    pods    = string
  })
}

variable "redis_ca" {
  description = "Authorities that the certificates of Redis are from, PEM."
  type        = string
}

variable "redis_has_password" {
  description = "Whether Redis has a password."
  type        = bool
}

variable "redis_password" {
  description = "That password. It is handed to Secret Manager and not written into the state by this module."
  type        = string
  sensitive   = true
}

variable "admin" {
  description = "Whether brokers are administered over HTTPS."
  type        = bool
}

variable "provisioning" {
  description = "off, keys, or authority: what devices without an identity can ask for."
  type        = string
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to destroy secrets."
  type        = bool
}
