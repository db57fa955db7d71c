output "project_id" {
  description = "Project. For k8s/overlays/gke (the adapter writes into its BigQuery)."
  value       = var.project_id
}

output "region" {
  description = "Region. For `gcloud container clusters get-credentials`."
  value       = var.region
}

output "cluster_name" {
  description = "Cluster. For `gcloud container clusters get-credentials`."
  value       = module.gke.cluster_name
}

output "namespace" {
  description = "Namespace that the service accounts are bound for. For k8s/overlays/gke."
  value       = var.namespace
}

output "registry" {
  description = "Where images are pushed to and pulled from: REGISTRY/broker, REGISTRY/bigquery-adapter, REGISTRY/loadtest. For whoever builds, and k8s/overlays/gke."
  value       = module.registry.url
}

output "broker_service_account" {
  description = "Service account of brokers. For k8s/overlays/gke (annotation of the ServiceAccount)."
  value       = module.identity.broker_email
}

output "adapter_service_account" {
  description = "Service account of adapters. For k8s/overlays/gke (annotation of the ServiceAccount)."
  value       = module.identity.adapter_email
}

output "redis_url" {
  description = "Redis, as redis.url of broker and adapter wants it. For k8s/overlays/gke."
  value       = module.redis.url
}

output "redis_ranges" {
  description = "Addresses that Redis has. For k8s/overlays/gke (NetworkPolicy)."
  value       = module.network.redis_ranges
}

output "redis_ports" {
  description = "Ports that Redis has, single or as first-last. For k8s/overlays/gke (NetworkPolicy)."
  value       = module.redis.ports
}

output "redis_wait_replicas" {
  description = "Replicas of Redis that must have a write before it is acknowledged (redis.wait_replicas). For k8s/overlays/gke."
  value       = module.redis.wait_replicas
}

output "redis_ca_secret" {
  description = "Secret with the authorities that Redis' certificates are from; Terraform fills it. For k8s/overlays/gke."
  value       = module.secrets.redis_ca
}

output "redis_password_secret" {
  description = "Secret with the password of a standalone Redis; Terraform fills it. Empty for the others, which have none. For k8s/overlays/gke."
  value       = module.secrets.redis_password
}

output "broker_tls_secret" {
  description = "Secret for certificate chain and private key of the brokers, one PEM file. You fill it. For k8s/overlays/gke."
  value       = module.secrets.broker_tls
}

output "broker_client_ca_secret" {
  description = "Secret for the authorities of devices' certificates, PEM. You fill it, if devices have certificates. For k8s/overlays/gke."
  value       = module.secrets.broker_client_ca
}

output "broker_users_secret" {
  description = "Secret for the users file (`broker passwd`). You fill it, if devices have passwords. For k8s/overlays/gke."
  value       = module.secrets.broker_users
}

output "broker_admin_tls_secret" {
  description = "Secret for certificate chain and private key of the administration, one PEM file. You fill it. Empty without `admin`. For k8s/overlays/gke."
  value       = module.secrets.broker_admin_tls
}

output "broker_admin_tokens_secret" {
  description = "Secret for the file of who may administer (`broker token`). You fill it. Empty without `admin`. For k8s/overlays/gke."
  value       = module.secrets.broker_admin_tokens
}

output "provisioning_keys_secret" {
  description = "Secret for the public keys that bootstrap tokens are verified by, PEM. You fill it. Empty without `provisioning`. For k8s/overlays/gke."
  value       = module.secrets.provisioning_keys
}

output "provisioning_authority_secret" {
  description = "Secret for chain and private key of the authority of devices, one PEM file. You fill it. Empty unless `provisioning` is authority. For k8s/overlays/gke."
  value       = module.secrets.provisioning_authority
}

output "mqtt_address" {
  description = "Address of the brokers. For devices, and for whoever makes the DNS record."
  value       = module.network.mqtt_address
}

output "mqtt_address_name" {
  description = "Name of that address. For k8s/overlays/gke (annotation of the Service)."
  value       = module.network.mqtt_address_name
}

output "domain" {
  description = "Name of the brokers. For k8s/overlays/gke, and the certificate."
  value       = var.domain
}

output "bigquery_dataset" {
  description = "Dataset. For k8s/overlays/gke (configuration of the adapter), and analysts."
  value       = module.bigquery.dataset
}
