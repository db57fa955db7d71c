//! What the broker offers; v5 clients are told at CONNACK.

use super::setting::settings;

settings! {
    /// The switches of `[features]`.
    pub struct Features {
        /// Highest QoS that is accepted: 0, 1 or 2. Above it a v5 client is closed with 0x9B, and
        /// subscriptions are granted this at most. Default 2.
        pub maximum_qos: u8 = 2, 0..=2;
        /// Whether retained messages exist. Without them a retained PUBLISH is refused (0x9A).
        /// Default true.
        pub retain_available: bool = true, ();
        /// Whether `+` and `#` may be used in subscriptions (else 0xA2). Default true.
        pub wildcard_subscriptions: bool = true, ();
        /// Whether subscription identifiers may be used (else 0xA1). Default true.
        pub subscription_identifiers: bool = true, ();
        /// Whether `$share/group/filter` may be used (else 0x9E). Default true.
        pub shared_subscriptions: bool = true, ();
        /// Whether clients of MQTT 3.1 (`MQIsdp`) are accepted. Default true.
        pub allow_mqtt31: bool = true, ();
        /// Whether a client may leave its id empty and be given one. Default true.
        pub allow_empty_client_id: bool = true, ();
        /// Whether a response topic prefix is given to clients that ask (Response Information).
        /// Default false.
        pub response_information: bool = false, ();
        /// Whether a subscription that an access rule refuses is answered with "not authorized"
        /// (0x87); else with "unspecified error" (0x80). MQTT 3.1.1 has only 0x80. Default true.
        pub reveal_refusals: bool = true, ();
        /// Seconds between two publications of the `$SYS` topics. 0 switches them off. Default 10.
        pub sys_interval: u32 = 10, 0..=86_400;
    }
}
