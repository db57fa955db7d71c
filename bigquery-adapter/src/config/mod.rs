//! The configuration: raw values in, checked settings out, or all problems at once.

mod layers;
mod reader;
mod tap;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dunlin_protocol::{QoS, topic};
use dunlin_telemetry::trace::Settings;

pub use dunlin_telemetry::log::Format as LogFormat;
pub use layers::{ENVIRONMENT_PREFIX, Layers};
use reader::Reader;
pub use tap::RulesFile;

use crate::error::Code;
use crate::mqtt_client::{Address, TlsFiles};
use crate::pipeline;
use crate::sinks::bigquery;
use crate::sinks::parquet::{self, Codec};
use crate::sources::mqtt::{self, VersionChoice};
use crate::sources::tap as source_tap;

/// Something that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// Where: file and line, name of a variable or flag, or the key. May be empty.
    pub place: String,
    /// What, and what is allowed.
    pub text: String,
}

impl Problem {
    fn new(code: Code, place: &str, text: String) -> Self {
        Self {
            code,
            place: place.to_owned(),
            text,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.place.is_empty() { "" } else { ": " };
        write!(f, "{} {}{separator}{}", self.code, self.place, self.text)
    }
}

/// Where messages come from and rows go to.
#[derive(Debug)]
pub enum Path {
    /// A broker, over MQTT, into Parquet files: see [`Config::mqtt`] and [`Config::parquet`].
    MqttToParquet,
    /// A tap, into Parquet files.
    TapToParquet(Box<source_tap::Settings>),
    /// A tap, into BigQuery.
    TapToBigQuery(Box<source_tap::Settings>, Box<bigquery::Settings>),
}

/// Everything that can be set, checked.
#[derive(Debug)]
pub struct Config {
    /// From where to where.
    pub path: Path,
    /// Rules of the BigQuery sink.
    pub rules: RulesFile,
    /// The MQTT source.
    pub mqtt: mqtt::Settings,
    /// Batches.
    pub batch: pipeline::Settings,
    /// The Parquet sink.
    pub parquet: parquet::Settings,
    /// Address of health and metrics.
    pub ops: Option<SocketAddr>,
    /// What is logged: a level, or directives of the `RUST_LOG` kind.
    pub log_filter: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// The OTLP/HTTP address of a collector; `None`: nothing is traced.
    pub trace_endpoint: Option<String>,
    /// Limit for finishing after a signal.
    pub shutdown_timeout: Duration,
    effective: Vec<(&'static str, toml::Value)>,
}

impl Config {
    /// Reads the layers. Reads the files that they name (certificates, password), opens no port and makes nothing.
    ///
    /// # Errors
    /// Every problem that there is.
    pub fn load(layers: &Layers) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let found = layers.merge(&mut problems);
        let mut read = Reader::new(found, problems);
        let path = read.choice("adapter.source", &[("mqtt", false), ("tap", true)], false);
        let sinks = [("parquet", false), ("bigquery", true)];
        let path = (path, read.choice("adapter.sink", &sinks, false));
        let mqtt = read_mqtt(&mut read);
        let batch = read_batch(&mut read);
        let window = mqtt.as_ref().map_or(1, |mqtt| mqtt.receive_maximum);
        let parquet = read_parquet(&mut read, window);
        let from_tap = tap::read_tap(&mut read, path.0);
        let rules = tap::read_rules(&mut read);
        let ahead = from_tap.as_ref().map_or(0, |tap| tap.ahead_bytes);
        let to_bigquery = tap::read_bigquery(&mut read, path.1, ahead);
        if path == (false, true) {
            read.problem(
                "adapter.sink",
                "\"bigquery\" needs adapter.source = \"tap\": only a tap knows what was stored when the adapter dies",
            );
        }
        let path = match path {
            (true, true) => from_tap
                .zip(to_bigquery)
                .map(|(tap, bigquery)| Path::TapToBigQuery(Box::new(tap), Box::new(bigquery))),
            (true, false) => from_tap.map(|tap| Path::TapToParquet(Box::new(tap))),
            (false, _) => Some(Path::MqttToParquet),
        };
        let ops = read.parsed("ops.listen", "127.0.0.1:9101", |text| match text {
            "off" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                "it must be \"off\" or an address and port such as 127.0.0.1:9101".to_owned()
            }),
        });
        let log_filter = read.parsed("log.level", "info", |text| {
            let parsed = text.parse::<tracing_subscriber::EnvFilter>();
            parsed
                .map(|_| text.to_owned())
                .map_err(|error| error.to_string())
        });
        let formats = [
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Human),
            ("json", LogFormat::Json),
            ("cloud", LogFormat::Cloud),
        ];
        let log_format = read.choice("log.format", &formats, LogFormat::Auto);
        let trace_endpoint = read.parsed("trace.endpoint", "", |endpoint| match endpoint {
            "" => Ok(None),
            endpoint => Settings::check_endpoint(endpoint).map(|()| Some(endpoint.to_owned())),
        });
        let shutdown_timeout =
            Duration::from_secs(read.integer("shutdown.timeout_seconds", 30, 1..=3600));
        let (effective, problems) = read.finish();
        match (path, rules, mqtt, ops, log_filter, trace_endpoint) {
            (
                Some(path),
                Some(rules),
                Some(mqtt),
                Some(ops),
                Some(log_filter),
                Some(trace_endpoint),
            ) if problems.is_empty() => Ok(Self {
                path,
                rules,
                mqtt,
                batch,
                parquet,
                ops,
                log_filter,
                log_format,
                trace_endpoint,
                shutdown_timeout,
                effective,
            }),
            _ => Err(problems),
        }
    }

    /// The effective configuration as TOML, secrets masked.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (key, value) in &self.effective {
            let (of, name) = key.split_once('.').unwrap_or(("", key));
            if of != section {
                text.push_str(&format!(
                    "{}[{of}]\n",
                    if section.is_empty() { "" } else { "\n" }
                ));
                section = of;
            }
            text.push_str(&format!("{name} = {value}\n"));
        }
        text
    }
}

fn read_mqtt(read: &mut Reader) -> Option<mqtt::Settings> {
    let address = read.parsed("mqtt.url", "mqtt://127.0.0.1:1883", |text| {
        text.parse::<Address>().map_err(|error| error.to_string())
    });
    let client_id = read.parsed("mqtt.client_id", "bigquery-adapter", |text| {
        match text.len() {
            1..=65_535 if !text.contains('\0') => Ok(text.to_owned()),
            _ => {
                Err("a fixed name is needed, so that the broker knows the session again".to_owned())
            }
        }
    });
    let filters = read_filters(read);
    let qos = read.integer("mqtt.qos", 1_u8, 0..=2);
    let versions = [
        ("5", VersionChoice::V5),
        ("3.1.1", VersionChoice::V311),
        ("auto", VersionChoice::Auto),
    ];
    let version = read.choice("mqtt.version", &versions, VersionChoice::V5);
    let username = read.text("mqtt.username");
    let password = read_password(read);
    let tls = read_tls(read, address.as_ref());
    let session_expiry = read.integer("mqtt.session_expiry_seconds", 604_800, 0..=u32::MAX);
    let receive_maximum = read.integer("mqtt.receive_maximum", 1000, 1..=u16::MAX);
    let max_packet = read.integer("mqtt.max_packet_bytes", 16 << 20, 1024..=268_435_460);
    let keep_alive = read.integer("mqtt.keep_alive_seconds", 30, 5..=u16::MAX);
    let connect_timeout = read.integer("mqtt.connect_timeout_ms", 10_000, 100..=600_000);
    let reconnect_max = read.integer("mqtt.reconnect_max_ms", 30_000, 200..=3_600_000);
    let client_id_property = read.text("mqtt.client_id_property");
    let buffer_bytes = read.integer("batch.buffer_bytes", 64 << 20, 1 << 20..=4 << 30);
    Some(mqtt::Settings {
        address: address?,
        tls: tls.ok()?,
        client_id: client_id?,
        username,
        password,
        filters,
        qos: QoS::try_from(qos).ok()?,
        version,
        session_expiry,
        receive_maximum,
        max_packet,
        keep_alive,
        connect_timeout: Duration::from_millis(connect_timeout),
        reconnect_max: Duration::from_millis(reconnect_max),
        buffer_bytes,
        client_id_property,
    })
}

fn read_filters(read: &mut Reader) -> Vec<String> {
    let (filters, origin) = read.list("mqtt.filters", &["#"]);
    let origin = if origin.is_empty() {
        "mqtt.filters".to_owned()
    } else {
        origin
    };
    if filters.is_empty() {
        read.problem(
            &origin,
            "mqtt.filters is empty: name at least one topic filter, or \"#\" for everything",
        );
    }
    for filter in &filters {
        if let Err(error) = topic::check_filter(filter) {
            read.problem(
                &origin,
                format!("mqtt.filters: {filter:?} is not a topic filter: {error}"),
            );
        }
    }
    filters
}

fn read_password(read: &mut Reader) -> Option<Vec<u8>> {
    let password = read.secret("mqtt.password").map(String::into_bytes);
    let Some(path) = read.text("mqtt.password_file") else {
        return password;
    };
    if password.is_some() {
        read.problem(
            "mqtt.password_file",
            "mqtt.password is set too: one of them must go",
        );
    }
    match std::fs::read(&path) {
        Ok(mut bytes) => {
            // An editor ends a file with a new line, and nobody means it.
            while bytes
                .last()
                .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
            {
                bytes.pop();
            }
            Some(bytes)
        }
        Err(error) => {
            read.problem(
                "mqtt.password_file",
                format!("{path} cannot be read: {error}"),
            );
            None
        }
    }
}

type Tls = Option<(std::sync::Arc<rustls::ClientConfig>, String)>;

fn read_tls(read: &mut Reader, address: Option<&Address>) -> Result<Tls, ()> {
    let mut file = |key| read.text(key).map(PathBuf::from);
    let files = TlsFiles {
        ca: file("mqtt.ca_file"),
        certificate: file("mqtt.certificate_file"),
        key: file("mqtt.key_file"),
    };
    let name = read.text("mqtt.server_name");
    let Some(address) = address else {
        return Err(());
    };
    if !address.tls {
        if files != TlsFiles::default() || name.is_some() {
            read.problem("mqtt.url", "there are settings for TLS, but the address begins with mqtt:// and not with mqtts://");
        }
        return Ok(None);
    }
    match files.load() {
        Ok(config) => Ok(Some((config, name.unwrap_or_else(|| address.host.clone())))),
        Err(error) => {
            read.problem("mqtt", error.to_string());
            Err(())
        }
    }
}

fn read_batch(read: &mut Reader) -> pipeline::Settings {
    pipeline::Settings {
        rows: read.integer("batch.rows", 10_000, 1..=1_000_000),
        bytes: read.integer("batch.bytes", 4 << 20, 1024..=256 << 20),
        age: Duration::from_millis(read.integer("batch.age_ms", 0, 0..=60_000)),
    }
}

fn read_parquet(read: &mut Reader, window: u16) -> parquet::Settings {
    let path = read.parsed("parquet.path", "warehouse", |text| match text {
        "" => Err("a directory is needed".to_owned()),
        text => Ok(PathBuf::from(text)),
    });
    let codecs = [
        ("snappy", Codec::Snappy),
        ("lz4", Codec::Lz4),
        ("none", Codec::None),
    ];
    parquet::Settings {
        path: path.unwrap_or_default(),
        roll_after: Duration::from_millis(read.integer("parquet.roll_ms", 5000, 50..=86_400_000)),
        roll_bytes: read.integer("parquet.roll_bytes", 32 << 20, 1 << 16..=1 << 30),
        grow_rows: read.integer("parquet.grow_rows", 65_536, 0..=10_000_000),
        grow_bytes: read.integer("parquet.grow_bytes", 16 << 20, 0..=1 << 30),
        compact: read.boolean("parquet.compact", true),
        compact_rows: read.integer("parquet.compact_rows", 1_000_000, 1..=100_000_000),
        compact_bytes: read.integer("parquet.compact_bytes", 256 << 20, 1..=16 << 30),
        compression: read.choice("parquet.compression", &codecs, Codec::Snappy),
        window,
    }
}
