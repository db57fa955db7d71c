# For devices in the field: three shards with a replica each in all zones, everything protected. The price: README.md beside this.
region          = "us-central1"
redis_kind      = "cluster"
redis_node_type = "standard-small"
redis_shards    = 3
redis_replicas  = 1
release_channel = "STABLE"

# Yours:
# domain          = "mqtt.example.com"
# dns_zone        = "example"
# alert_emails    = ["ops@example.com"]
# analysts        = ["group:data@example.com"]
# billing_account = "012345-6789AB-CDEF01"
# monthly_budget  = 2500
