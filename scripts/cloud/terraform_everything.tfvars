# Everything that is off by itself is on: what check-terraform plans besides the examples.
domain                = "mqtt.example.com"
dns_zone              = "example"
flow_logs             = true
redis_replicas        = 0
redis_zone            = "europe-west1-b"
authorized_networks   = { office = "192.0.2.0/24" }
analysts              = ["group:data@example.com"]
binary_authorization  = true
adapter_may_query     = true
messages_days         = 400
dead_letters_days     = 30
image_publishers      = ["serviceAccount:ci@check-only.iam.gserviceaccount.com"]
alert_emails          = ["ops@example.com"]
notification_channels = ["projects/check-only/notificationChannels/1"]
billing_account       = "012345-6789AB-CDEF01"
monthly_budget        = 500
labels                = { team = "devices" }
admin                 = true
provisioning          = "authority"
