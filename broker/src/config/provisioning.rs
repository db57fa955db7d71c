//! Identities for devices that have none yet: the table `[provisioning]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{TlsConfig, reader::Section};
use crate::error::Code;

/// How devices ask over MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapConfig {
    /// PEM file: the authorities whose certificates are bootstrap credentials.
    pub client_ca: Option<PathBuf>,
    /// How long a connection lives at the most.
    pub lifetime: Duration,
}

/// How devices get an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisioningConfig {
    /// What it binds.
    pub listen: Option<SocketAddr>,
    /// TLS; certificates of its `client_ca` are bootstrap credentials.
    pub tls: Option<TlsConfig>,
    /// Devices may ask over MQTT, too; `None`: they may not.
    pub mqtt: Option<BootstrapConfig>,
    /// PEM files: the keys that bootstrap tokens are verified by.
    pub keys: Vec<PathBuf>,
    /// What bootstrap tokens are for.
    pub audience: String,
    /// Only serial numbers on the list `allow` may ask.
    pub listed_only: bool,
    /// PEM file: our authority, then those above it.
    pub ca_certificate: Option<PathBuf>,
    /// PEM file: its key.
    pub ca_key: Option<PathBuf>,
    /// How long the certificates are good.
    pub validity: Duration,
    /// Who else is asked.
    pub hook_url: Option<String>,
    /// PEM file: who may have signed its certificate.
    pub hook_ca_file: Option<PathBuf>,
    /// How long it may take.
    pub hook_timeout: Duration,
    /// Requests per minute of one bootstrap credential, and of one address.
    pub per_minute: u64,
}

impl ProvisioningConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let listen = section.optional::<SocketAddr>("listen", &());
        let keys = section
            .optional::<Vec<String>>("keys", &())
            .unwrap_or_default();
        let plain = section.get("plain", false, &());
        let mqtt = section.get("mqtt", false, &());
        let bootstrap = BootstrapConfig {
            client_ca: section
                .optional::<String>("mqtt_client_ca", &())
                .map(PathBuf::from),
            lifetime: Duration::from_millis(section.get(
                "mqtt_lifetime_ms",
                60_000_u64,
                &(1_000..=3_600_000),
            )),
        };
        let without = !mqtt && bootstrap.client_ca.is_some();
        let config = Self {
            listen,
            tls: section.with_table("tls", TlsConfig::read),
            mqtt: mqtt.then_some(bootstrap),
            keys: keys.into_iter().map(PathBuf::from).collect(),
            audience: section.get("audience", "provisioning".to_owned(), &()),
            listed_only: section.get("listed_only", true, &()),
            ca_certificate: section
                .optional::<String>("ca_certificate", &())
                .map(PathBuf::from),
            ca_key: section.optional::<String>("ca_key", &()).map(PathBuf::from),
            validity: Duration::from_secs(
                86_400 * section.get("validity_days", 365_u64, &(1..=36_500)),
            ),
            hook_url: section.optional("hook_url", &()),
            hook_ca_file: section
                .optional::<String>("hook_ca_file", &())
                .map(PathBuf::from),
            hook_timeout: Duration::from_millis(section.get(
                "hook_timeout_ms",
                5_000_u64,
                &(10..=60_000),
            )),
            per_minute: section.get("per_minute", 600_u64, &(1..=1_000_000)),
        };
        if without {
            let text = "provisioning.mqtt_client_ca is for devices that ask over MQTT: add mqtt = true, or remove it";
            section.problem(Code::Contradiction, "mqtt_client_ca", text);
        }
        if config.listen.is_none() && config.mqtt.is_none() {
            for key in [
                "plain",
                "tls",
                "mqtt",
                "mqtt_lifetime_ms",
                "audience",
                "listed_only",
                "validity_days",
                "hook_timeout_ms",
                "per_minute",
            ] {
                section.hide(key);
            }
            if !section.has("listen")
                && (!config.keys.is_empty() || config.ca_certificate.is_some())
            {
                let text = "provisioning has no listen: add listen = \"127.0.0.1:9444\", or mqtt = true, or remove the table";
                section.problem(Code::Contradiction, "listen", text);
            }
            return None;
        }
        if let Some(address) = config.listen
            && !address.ip().is_loopback()
            && !section.has("tls")
            && !plain
        {
            let text = format!(
                "provisioning.listen is {address}, which other machines can reach, and has no TLS: add provisioning.tls = {{ certificate = \"server.pem\", key = \"server.key\" }}, \
                 or plain = true when something in front of it does TLS"
            );
            section.problem(Code::WhoMayConnect, "listen", text);
        }
        if config.ca_certificate.is_some() != config.ca_key.is_some() {
            let text = "an authority needs both ca_certificate and ca_key";
            section.problem(Code::Contradiction, "ca_key", text);
        }
        if config.listen.is_none() && section.has("tls") {
            let text = "provisioning.tls is that of provisioning.listen, which is not there: add listen, or remove the table";
            section.problem(Code::Contradiction, "tls", text);
        }
        let over_https = config
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
        let over_mqtt = config
            .mqtt
            .as_ref()
            .is_some_and(|mqtt| mqtt.client_ca.is_some());
        let by_certificate = over_https || over_mqtt;
        if config.keys.is_empty() && !by_certificate {
            let text = "nobody can ask: add keys = [\"bootstrap.pem\"] for tokens, or tls.client_ca (over MQTT: mqtt_client_ca) for certificates";
            section.problem(Code::Contradiction, "keys", text);
        }
        Some(config)
    }
}
