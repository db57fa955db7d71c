variable "project_id" {
  description = "Project of Google Cloud that everything is made in. It must exist, with billing."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "A project id has 6 to 30 lower case letters, digits and hyphens, and begins with a letter."
  }
}

variable "region" {
  description = "Region of everything: the nearer to the devices the better. All zones of it are used, unless redis_zone says otherwise."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "This is no region. Give a region such as europe-west1, not a zone such as europe-west1-b: an Autopilot cluster is regional."
  }
}

variable "name" {
  description = "What all names begin with. Another one makes a second installation in the same project."
  type        = string
  default     = "dunlin"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,17}[a-z0-9]$", var.name))
    error_message = "3 to 19 lower case letters, digits and hyphens, beginning with a letter: service accounts add eight, and have thirty at most."
  }
}

variable "namespace" {
  description = "Namespace of Kubernetes that the manifests in k8s/ use."
  type        = string
  default     = "dunlin"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "A namespace has at most 63 lower case letters, digits and hyphens."
  }
}

variable "labels" {
  description = "Labels of everything that can have labels, besides app and managed-by. Bills can be split by them."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))])
    error_message = "Labels are lower case letters, digits, _ and -, 63 at most; a key begins with a letter."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to destroy what holds data: cluster, Redis, dataset, tables, secrets. To destroy all: apply with false, then destroy."
  type        = bool
  default     = true
}

# Network

variable "nodes_cidr" {
  description = "Addresses of nodes."
  type        = string
  default     = "10.128.0.0/20"

  validation {
    condition     = can(cidrhost(var.nodes_cidr, 0)) && try(tonumber(split("/", var.nodes_cidr)[1]), 0) <= 24
    error_message = "Not a range of addresses with 256 or more, such as 10.128.0.0/20."
  }
}

variable "pods_cidr" {
  description = "Addresses of pods: 64 for each node (Autopilot puts at most 32 pods on one), so 65,536 are enough for 1,024 nodes. Cannot be changed later."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(cidrhost(var.pods_cidr, 0)) && try(tonumber(split("/", var.pods_cidr)[1]), 0) <= 20
    error_message = "Not a range of addresses with 4,096 or more, such as 10.64.0.0/16."
  }
}

variable "services_cidr" {
  description = "Addresses of services of Kubernetes. Cannot be changed later."
  type        = string
  default     = "10.80.0.0/22"

  validation {
    condition     = can(cidrhost(var.services_cidr, 0)) && try(tonumber(split("/", var.services_cidr)[1]), 0) <= 27
    error_message = "Not a range of addresses with 32 or more, such as 10.80.0.0/22."
  }
}

variable "redis_cidr" {
  description = "Addresses at which Redis is reached. A Redis Cluster takes two, a standalone one a block of its own."
  type        = string
  default     = "10.81.0.0/24"

  validation {
    condition     = can(cidrhost(var.redis_cidr, 0)) && try(tonumber(split("/", var.redis_cidr)[1]), 0) <= 28
    error_message = "Not a range of addresses with 16 or more, such as 10.81.0.0/24."
  }

  validation {
    condition     = startswith(var.redis_cidr, "10.") || startswith(var.redis_cidr, "192.168.") || can(regex("^172\\.(1[6-9]|2[0-9]|3[01])\\.", var.redis_cidr))
    error_message = "Redis must have private addresses."
  }
}

variable "flow_logs" {
  description = "Whether a sample of the connections in the network is logged. Costs money with many devices; helps when something cannot be reached."
  type        = bool
  default     = false
}

variable "domain" {
  description = "Name under which devices reach the brokers, such as mqtt.example.com; it is also what the certificate must say. Empty: they use the address."
  type        = string
  default     = ""

  validation {
    condition     = var.domain == "" || can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.domain))
    error_message = "Not the name of a host such as mqtt.example.com (without a dot at the end)."
  }
}

variable "dns_zone" {
  description = "Name of a managed zone of Cloud DNS in this project that gets an A record for the domain. Empty: you make the record yourself."
  type        = string
  default     = ""

  validation {
    condition     = var.dns_zone == "" || var.domain != ""
    error_message = "A dns_zone needs a domain."
  }
}

# Kubernetes

variable "release_channel" {
  description = "When Kubernetes is upgraded: RAPID, REGULAR, STABLE or EXTENDED (which costs more)."
  type        = string
  default     = "REGULAR"

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.release_channel)
    error_message = "One of RAPID, REGULAR, STABLE, EXTENDED."
  }
}

variable "maintenance_window" {
  description = "When Google may replace nodes: start and end of the first window (RFC 3339, UTC), and how it recurs (RFC 5545). At least 48 hours within 32 days, in pieces of 4 hours or more."
  type = object({
    start      = string
    end        = string
    recurrence = string
  })
  default = {
    start      = "2026-01-03T01:00:00Z"
    end        = "2026-01-03T07:00:00Z"
    recurrence = "FREQ=WEEKLY;BYDAY=SA,SU,MO"
  }

  validation {
    condition     = can(timecmp(var.maintenance_window.start, var.maintenance_window.end)) && try(timecmp(timeadd(var.maintenance_window.start, "4h"), var.maintenance_window.end), 1) <= 0
    error_message = "start and end must be times such as 2026-01-03T01:00:00Z, four hours or more apart."
  }

  validation {
    condition     = can(regex("^FREQ=(DAILY|WEEKLY)", var.maintenance_window.recurrence))
    error_message = "The recurrence must be FREQ=DAILY or FREQ=WEEKLY, with more behind it."
  }
}

variable "authorized_networks" {
  description = "Networks (name = range) that reach the control plane by its address. Empty: that address is off, and kubectl goes by the cluster's DNS name, which asks IAM first."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for range in values(var.authorized_networks) : can(cidrhost(range, 0)) && try(tonumber(split("/", range)[1]), 0) >= 8])
    error_message = "Each must be a range of addresses, not wider than /8: 0.0.0.0/0 would let the world in."
  }
}

variable "binary_authorization" {
  description = "Whether only images start that the project's policy of Binary Authorization lets in. Write the policy first: the one that a project begins with lets in everything."
  type        = bool
  default     = false
}

# Devices

variable "admin" {
  description = "Whether brokers are administered over HTTPS, from within the cluster: devices, credentials, bans. Makes secrets for its certificate and tokens, which you fill before brokers start."
  type        = bool
  default     = false
}

variable "provisioning" {
  description = "What devices without an identity can ask for, over HTTPS: off (nothing), keys (they register public keys), authority (they get certificates from an authority whose key is in Secret Manager)."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "keys", "authority"], var.provisioning)
    error_message = "One of off, keys, authority."
  }

  validation {
    condition     = var.provisioning == "off" || var.admin
    error_message = "Provisioning needs admin: a serial number may ask when the administration has listed it."
  }
}

# Redis

variable "redis_kind" {
  description = "What Redis is: cluster (Memorystore for Redis Cluster), valkey (Memorystore for Valkey in cluster mode), or standalone (Memorystore for Redis, with a standby in another zone)."
  type        = string
  default     = "cluster"

  validation {
    condition     = contains(["cluster", "valkey", "standalone"], var.redis_kind)
    error_message = "One of cluster, valkey, standalone."
  }
}

variable "redis_node_type" {
  description = "Size of a node of a cluster: shared-core-nano (1.1 GB to write; no SLA), standard-small (5.2 GB), highmem-medium (10.4 GB), highmem-xlarge (46.4 GB), highcpu-medium, standard-large, highmem-2xlarge. More shards do more than larger nodes. Of no use to standalone."
  type        = string
  default     = "standard-small"

  validation {
    condition     = contains(["shared-core-nano", "highcpu-medium", "standard-small", "standard-large", "highmem-medium", "highmem-xlarge", "highmem-2xlarge"], var.redis_node_type)
    error_message = "One of shared-core-nano, highcpu-medium, standard-small, standard-large, highmem-medium, highmem-xlarge, highmem-2xlarge."
  }
}

variable "redis_shards" {
  description = "Shards of a cluster. docs/sizing.md says how many. Can be changed while everything runs. Of no use to standalone."
  type        = number
  default     = 3

  validation {
    condition     = var.redis_shards >= 1 && var.redis_shards <= 250 && floor(var.redis_shards) == var.redis_shards
    error_message = "1 to 250 shards."
  }
}

variable "redis_replicas" {
  description = "Replicas of each shard, in other zones. 0 saves half the money: when a node dies, its shard is read from disk, or begins empty. For standalone 0 means no standby."
  type        = number
  default     = 1

  validation {
    condition     = var.redis_replicas >= 0 && var.redis_replicas <= 2 && floor(var.redis_replicas) == var.redis_replicas
    error_message = "0, 1 or 2 replicas."
  }
}

variable "redis_memory_gb" {
  description = "GiB of a standalone Redis. Of no use to the others."
  type        = number
  default     = 5

  validation {
    condition     = var.redis_memory_gb >= 1 && var.redis_memory_gb <= 300 && floor(var.redis_memory_gb) == var.redis_memory_gb
    error_message = "1 to 300 GiB."
  }
}

variable "redis_zone" {
  description = "Puts all nodes of Redis into this zone, which is cheaper (no traffic between zones) and does not outlive the zone. Empty: all zones of the region."
  type        = string
  default     = ""

  validation {
    condition     = var.redis_zone == "" || can(regex("^${var.region}-[a-z]$", var.redis_zone))
    error_message = "Not a zone of the region."
  }
}

variable "redis_maintenance" {
  description = "Day and hour (UTC) at which Google may update Redis; a failover takes seconds."
  type = object({
    day  = string
    hour = number
  })
  default = { day = "SUNDAY", hour = 2 }

  validation {
    condition     = contains(["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"], var.redis_maintenance.day) && contains(range(24), var.redis_maintenance.hour)
    error_message = "A day such as SUNDAY, and an hour from 0 to 23."
  }
}

# BigQuery

variable "bigquery_dataset" {
  description = "Dataset of the messages."
  type        = string
  default     = "fleet"

  validation {
    condition     = can(regex("^[A-Za-z0-9_]+$", var.bigquery_dataset))
    error_message = "Letters, digits and underscores."
  }
}

variable "bigquery_location" {
  description = "Where the dataset is: a region, US or EU. Empty: the region of everything. Cannot be changed later."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|US|EU|[a-z]+-[a-z]+[0-9]+)$", var.bigquery_location))
    error_message = "A region such as europe-west1, US or EU."
  }
}

variable "messages_days" {
  description = "Days for which messages are kept. 0: for ever."
  type        = number
  default     = 0

  validation {
    condition     = var.messages_days >= 0 && var.messages_days <= 36500
    error_message = "0 to 36,500 days."
  }
}

variable "dead_letters_days" {
  description = "Days for which dead letters are kept. 0: for ever."
  type        = number
  default     = 0

  validation {
    condition     = var.dead_letters_days >= 0 && var.dead_letters_days <= 36500
    error_message = "0 to 36,500 days."
  }
}

variable "adapter_may_query" {
  description = "Whether the adapter may run queries in this project: needed by `bigquery-adapter dead-letters`, and by nothing else."
  type        = bool
  default     = false
}

variable "analysts" {
  description = "Who may read the dataset and run queries in the project, such as group:data@example.com."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.analysts : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))])
    error_message = "Each must begin with user:, group:, serviceAccount:, domain:, principal: or principalSet:. allUsers and allAuthenticatedUsers would be the world."
  }
}

# Images

variable "image_versions" {
  description = "Newest versions of each image that are kept; older ones are deleted after 30 days."
  type        = number
  default     = 10

  validation {
    condition     = var.image_versions >= 2 && var.image_versions <= 1000
    error_message = "2 to 1,000: without the one before there is no rolling back."
  }
}

variable "image_publishers" {
  description = "Who may push images, such as serviceAccount:ci@my-project.iam.gserviceaccount.com."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.image_publishers : can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))])
    error_message = "Each must begin with user:, group:, serviceAccount:, principal: or principalSet:."
  }
}

# Alerts and money

variable "alert_emails" {
  description = "Who gets an e-mail for each alert."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", email))])
    error_message = "Each must be an e-mail address."
  }
}

variable "notification_channels" {
  description = "Other channels for alerts (PagerDuty, Slack ...), made elsewhere: projects/PROJECT/notificationChannels/NUMBER."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[0-9]+$", channel))])
    error_message = "Each must be projects/PROJECT/notificationChannels/NUMBER."
  }
}

variable "billing_account" {
  description = "Billing account for a budget of this project, such as 012345-6789AB-CDEF01. Empty: no budget."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6})$", var.billing_account))
    error_message = "Such as 012345-6789AB-CDEF01."
  }
}

variable "monthly_budget" {
  description = "Money a month, in the currency of the billing account, of which half, nine tenths and all are told to alert_emails. Nothing is switched off."
  type        = number
  default     = 0

  validation {
    condition     = var.monthly_budget >= 0 && floor(var.monthly_budget) == var.monthly_budget && (var.billing_account == "" || var.monthly_budget > 0)
    error_message = "A whole number, and more than 0 if there is a billing_account."
  }
}
