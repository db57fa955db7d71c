//! Settings of the source.

use std::sync::Arc;
use std::time::Duration;

use dunlin_protocol::QoS;
use rustls::ClientConfig;

use crate::mqtt_client::Address;

/// Which version to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChoice {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5, and 3.1.1 with a broker that refuses 5.
    Auto,
}

/// Settings of the source, checked.
#[derive(Clone)]
pub struct Settings {
    /// The broker.
    pub address: Address,
    /// TLS and the name in the broker's certificate, for an `mqtts` address.
    pub tls: Option<(Arc<ClientConfig>, String)>,
    /// Fixed: the broker keeps the session under it.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Filters to subscribe to; `$share/group/filter` too.
    pub filters: Vec<String>,
    /// QoS to subscribe with.
    pub qos: QoS,
    /// Version.
    pub version: VersionChoice,
    /// Seconds that the broker shall keep the session while the adapter is away.
    pub session_expiry: u32,
    /// QoS 1 and 2 messages that may be unacknowledged.
    pub receive_maximum: u16,
    /// Bytes of the largest packet.
    pub max_packet: u32,
    /// Seconds between two signs of life.
    pub keep_alive: u16,
    /// Limit for making a connection.
    pub connect_timeout: Duration,
    /// Longest pause between two attempts.
    pub reconnect_max: Duration,
    /// Bytes read and not yet stored above which nothing more is read.
    pub buffer_bytes: usize,
    /// User property in which the broker names the publisher's client id.
    pub client_id_property: Option<String>,
}

impl std::fmt::Debug for Settings {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("address", &self.address)
            .field("client_id", &self.client_id)
            .field("filters", &self.filters)
            .finish_non_exhaustive()
    }
}
