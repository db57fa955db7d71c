# To try it: one small Redis in one zone, nothing protected. The price: README.md beside this.
region              = "us-central1"
redis_kind          = "cluster"
redis_node_type     = "shared-core-nano"
redis_shards        = 1
redis_replicas      = 0
redis_zone          = "us-central1-a"
messages_days       = 30
dead_letters_days   = 30
adapter_may_query   = true
image_versions      = 2
deletion_protection = false
