//! The configuration: read from its layers, checked as a whole, printed on request.
//!
//! A TOML file, then environment variables, then flags; the later layer wins. Every problem is found
//! before any is reported, and all are reported before a port is bound. The reader knows a key only
//! by asking for it, so a key that the broker does not use cannot pass as known.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

mod access;
mod admin;
mod audit;
pub mod features;
mod layers;
pub mod limits;
mod listener;
mod methods;
mod prepare;
mod provisioning;
mod reader;
mod redis;
pub(crate) mod report;
pub(crate) mod setting;
mod tenant;

pub use access::{AccessRule, AuthConfig, Effect, Methods, RuleAction};
pub use admin::AdminConfig;
pub use features::Features;
pub use layers::{Override, OverrideValue, Sources};
pub use limits::{Limits, QueueFull};
pub use listener::{
    ClientAuth, ListenerConfig, ListenerKind, NameFrom, ProxyProtocol, SniConfig, TenantFrom,
    TlsConfig, TlsVersion,
};
pub(crate) use methods::ANSWER_MAX;
pub use methods::{HookConfig, JwtConfig, UserConfig, WhenAway};
pub use prepare::{AdminFiles, Loaded, load, ops_address};
pub(crate) use prepare::{load_admin_tokens, load_methods, load_rules, load_users};
pub use provisioning::{BootstrapConfig, ProvisioningConfig};
pub use redis::RedisConfig;
pub use report::{Problem, Problems};
pub use tenant::{Quotas, TenantConfig};

pub(crate) use report::Report;

use crate::abuse::BansConfig;
use crate::audit::AuditConfig;
use crate::error::Code;
use crate::hub::Farewell;
use reader::Section;
pub use setting::Share;
use setting::{Setting, parse_address, word_setting};

/// Where durable state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// In a folder on this machine.
    Embedded {
        /// The folder; made when it does not exist.
        path: PathBuf,
        /// When a write counts as done.
        durability: Durability,
    },
    /// In memory only: gone when the process ends.
    Memory,
    /// In a Redis that this broker shares with the other replicas of its cluster.
    Redis(Box<RedisConfig>),
}

/// When a write to the store counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it.
    Always,
    /// When the system has it; the disk has it at most this many milliseconds later.
    Interval(u32),
    /// When the system has it: it survives kill -9 and not the loss of power.
    Os,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    Embedded,
    Memory,
}
word_setting!(StoreKind { "embedded" => StoreKind::Embedded, "memory" => StoreKind::Memory });

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DurabilityKind {
    Always,
    Interval,
    Os,
}
word_setting!(DurabilityKind {
    "always" => DurabilityKind::Always,
    "interval" => DurabilityKind::Interval,
    "os" => DurabilityKind::Os,
});

/// The health and metrics endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpsConfig {
    /// What it binds; `None` switches it off.
    pub listen: Option<SocketAddr>,
}

/// How clients are taken leave of after SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainConfig {
    /// How long new clients are still taken when readiness says no already, so that balancers have noticed.
    pub delay: Duration,
    /// How long connections are given to end after that.
    pub timeout: Duration,
    /// Clients that are sent away per second at least.
    pub rate: u32,
    /// Where MQTT 5 clients are told to go.
    pub server_reference: Option<String>,
    /// They are to go there from now on, and not for a while.
    pub server_moved: bool,
}

/// How the log is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level (`info`), or directives such as `info,dunlin_broker::net=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
    /// The same as Cloud Logging reads it: severity, message, timestamp, labels.
    Cloud,
}
word_setting!(LogFormat {
    "auto" => LogFormat::Auto,
    "human" => LogFormat::Human,
    "json" => LogFormat::Json,
    "cloud" => LogFormat::Cloud,
});

/// Which messages are traced, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceConfig {
    /// The OTLP/HTTP address of a collector; `None`: nothing is traced.
    pub endpoint: Option<String>,
    /// Share of the messages without a trace context that are traced.
    pub sample: Share,
}

/// A configuration that has passed every check that needs no other file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where clients may connect.
    pub listeners: Vec<ListenerConfig>,
    /// Worker threads that serve connections.
    pub workers: usize,
    /// How clients are taken leave of after SIGTERM.
    pub drain: DrainConfig,
    /// How often certificates and users files are looked at; zero: never.
    pub watch: Duration,
    /// Every bound.
    pub limits: Limits,
    /// What is offered.
    pub features: Features,
    /// Where durable state is kept.
    pub store: StoreConfig,
    /// Who may connect, and do what.
    pub auth: AuthConfig,
    /// What is recorded of who comes and of what is changed.
    pub audit: AuditConfig,
    /// Who is banned by itself.
    pub bans: BansConfig,
    /// The tenants.
    pub tenants: Vec<TenantConfig>,
    /// Health and metrics.
    pub ops: OpsConfig,
    /// The administration of devices; `None`: there is none.
    pub admin: Option<AdminConfig>,
    /// Identities for devices that have none yet; `None`: there is none.
    pub provisioning: Option<ProvisioningConfig>,
    /// The log.
    pub log: LogConfig,
    /// Traces.
    pub trace: TraceConfig,
}

impl Config {
    /// Reads and merges the layers. Faults go to the report; the result is then not to be used.
    /// The table is the effective configuration.
    pub(crate) fn read(sources: &Sources, report: &mut Report) -> (Self, toml::Table) {
        let values = layers::merge(sources, report);
        let mut root = Section::root(&values, report);
        let config = Self::read_root(&mut root);
        let effective = root.end();
        config.check(report);
        warn_about_single_underscores(sources, report);
        (config, effective)
    }

    fn read_root(root: &mut Section<'_>) -> Self {
        let listeners = read_listeners(root);
        let certificates = listeners.iter().any(|listener| {
            let tls = listener.tls.as_ref();
            tls.is_some_and(|tls| tls.name_from.is_some())
        });
        let provisioning = root.with_table("provisioning", ProvisioningConfig::read);
        let bootstrap = provisioning
            .as_ref()
            .is_some_and(|provisioning| provisioning.mqtt.is_some());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers: root.get("workers", cores, &(1..=1_024)),
            drain: read_drain(root),
            watch: Duration::from_millis(root.get("watch_files_ms", 5_000, &(0..=3_600_000))),
            limits: root.table("limits"),
            features: root.table("features"),
            store: read_where(root),
            audit: root.with_table("audit", audit::read),
            bans: root.with_table("bans", audit::read_bans),
            auth: root.with_table("auth", |auth| {
                AuthConfig::read(auth, certificates, bootstrap)
            }),
            tenants: root
                .tables("tenant", TenantConfig::read)
                .unwrap_or_default(),
            ops: root.with_table("ops", read_ops),
            admin: root.with_table("admin", AdminConfig::read),
            provisioning,
            log: root.with_table("log", read_log),
            trace: root.with_table("trace", read_trace),
            listeners,
        }
    }

    /// Checks what one key alone cannot show.
    fn check(&self, report: &mut Report) {
        self.check_tenants(report);
        self.check_methods("auth.methods", self.auth.methods.as_ref(), report);
        self.check_bootstrap(report);
        for (index, listener) in self.listeners.iter().enumerate() {
            let earlier = &self.listeners[..index];
            if earlier.iter().any(|other| other.name == listener.name) {
                let text = format!(
                    "two listeners are named {:?}: give each a name of its own",
                    listener.name
                );
                report.problem_at(Code::ListenerConflict, &listener.key, text);
            }
            let fixed = listener.address.port() != 0;
            if let Some(other) = earlier
                .iter()
                .find(|other| fixed && other.address == listener.address)
            {
                let text = format!(
                    "listeners {:?} and {:?} have the same address {}",
                    other.name, listener.name, listener.address
                );
                report.problem_at(Code::ListenerConflict, &listener.key, text);
            }
            if Some(listener.address) == self.ops.listen && fixed {
                let text = format!(
                    "listener {:?} and ops.listen have the same address {}",
                    listener.name, listener.address
                );
                report.problem_at(Code::ListenerConflict, &listener.key, text);
            }
            let key = format!("{}.auth", listener.key);
            self.check_methods(&key, listener.auth.as_ref(), report);
            self.check_who_may_connect(listener, report);
        }
    }

    fn check_tenants(&self, report: &mut Report) {
        for (index, tenant) in self.tenants.iter().enumerate() {
            if self.tenants[..index]
                .iter()
                .any(|other| other.name == tenant.name)
            {
                let text = format!(
                    "two tenants are named {:?}: one entry is enough",
                    tenant.name
                );
                report.problem_at(Code::Contradiction, &format!("tenant[{index}].name"), text);
            }
        }
        for listener in &self.listeners {
            let Some(name) = &listener.tenant else {
                continue;
            };
            let known = |tenant: &TenantConfig| tenant.name == *name || tenant.name == "*";
            if !self.tenants.iter().any(known) {
                let text = format!(
                    "listener {:?} is of tenant {name:?}, which has no entry: add [[tenant]] with name = {name:?}",
                    listener.name
                );
                report.problem_at(
                    Code::Contradiction,
                    &format!("{}.tenant", listener.key),
                    text,
                );
            }
        }
    }

    /// A method that is asked must have been told what it needs.
    fn check_methods(&self, key: &str, methods: Option<&Methods>, report: &mut Report) {
        for method in methods.iter().flat_map(|methods| methods.0.iter()) {
            if let Some(needed) = self.auth.lacks(*method) {
                let text = format!(
                    "{key} has \"{}\", which needs {needed}: add it, or take the method out",
                    method.as_str()
                );
                report.problem_at(Code::Contradiction, key, text);
            }
        }
    }

    /// Whoever may ask over MQTT must have where to.
    fn check_bootstrap(&self, report: &mut Report) {
        let Some(mqtt) = self.provisioning.as_ref().and_then(|it| it.mqtt.as_ref()) else {
            return;
        };
        let takes = |listener: &&ListenerConfig| {
            self.methods_of(listener)
                .contains(&crate::auth::Method::Provisioning)
        };
        if !self.listeners.iter().any(|listener| takes(&listener)) {
            let text = "no listener asks for bootstrap credentials: add \"provisioning\" to auth.methods, or to the auth of a listener";
            report.problem_at(Code::Contradiction, "provisioning.mqtt", text.to_owned());
        }
        let verifies = |listener: &ListenerConfig| {
            let tls = listener.tls.as_ref();
            tls.is_some_and(|tls| tls.client_auth != ClientAuth::None)
        };
        let mut listeners = self.listeners.iter().filter(takes);
        if mqtt.client_ca.is_some() && !listeners.any(verifies) {
            let text = "no listener that takes bootstrap credentials asks for certificates: add client_ca to its tls, with a file that has this authority, too";
            report.problem_at(
                Code::Contradiction,
                "provisioning.mqtt_client_ca",
                text.to_owned(),
            );
        }
    }

    /// A broker that others can reach is not open to all by silence.
    fn check_who_may_connect(&self, listener: &ListenerConfig, report: &mut Report) {
        let by_certificate = listener
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_auth == ClientAuth::Required);
        let said =
            listener.anonymous.or(self.auth.anonymous).is_some() || self.verifies_names(listener);
        if !said && !by_certificate && !listener.address.ip().is_loopback() {
            let text = format!(
                "listener {:?} on {} can be reached from other machines, and nothing says who may connect: \
                 either name a users file (auth.users = \"users.txt\", made by `broker passwd`), \
                 or let everybody in (auth.anonymous = true)",
                listener.name, listener.address
            );
            report.problem_at(Code::WhoMayConnect, &listener.key, text);
        }
        if listener.anonymous.or(self.auth.anonymous) == Some(false)
            && !self.verifies_names(listener)
            && listener
                .tls
                .as_ref()
                .is_none_or(|tls| tls.name_from.is_none())
        {
            let text = format!(
                "nobody can connect to listener {:?}: anonymous is false, and there is neither a users file (auth.users) nor a name from certificates (tls.name_from)",
                listener.name
            );
            report.problem_at(Code::WhoMayConnect, &listener.key, text);
        }
    }

    /// What clients are told when the broker stops.
    pub(crate) fn farewell(&self) -> Farewell {
        Farewell {
            reference: self.drain.server_reference.clone(),
            moved: self.drain.server_moved,
        }
    }

    /// Whether a client without a name may use a listener: what the listener says, else what `[auth]`
    /// says, else yes when nothing can verify a name (the check has made sure that only this machine
    /// can reach the listener, or that certificates are required).
    #[must_use]
    pub fn anonymous_allowed(&self, listener: &ListenerConfig) -> bool {
        listener
            .anonymous
            .or(self.auth.anonymous)
            .unwrap_or(!self.verifies_names(listener))
    }

    /// The methods that are asked who a client of a listener is, in order.
    #[must_use]
    pub fn methods_of(&self, listener: &ListenerConfig) -> std::sync::Arc<[crate::auth::Method]> {
        let said = listener.auth.as_ref().or(self.auth.methods.as_ref());
        said.cloned().unwrap_or_default().0
    }

    /// Whether there is a method that verifies what clients of a listener say in CONNECT.
    fn verifies_names(&self, listener: &ListenerConfig) -> bool {
        let methods = self.methods_of(listener);
        methods.iter().any(|method| self.auth.verifies(*method))
    }
}

fn read_listeners(root: &mut Section<'_>) -> Vec<ListenerConfig> {
    let addresses = root.optional::<Vec<String>>("listen", &());
    let mut index = 0;
    let tables = root.tables("listener", |section| {
        index += 1;
        ListenerConfig::read(section, index - 1)
    });
    let mut listeners: Vec<_> = tables.iter().flatten().flatten().cloned().collect();
    // A flag or variable replaces what the file lists in either form.
    if addresses.is_some()
        && root
            .report
            .place("listen")
            .is_some_and(|place| !is_in_file(&place))
    {
        listeners.clear();
        root.hide("listener");
    }
    let local = SocketAddr::from(([127, 0, 0, 1], 1883));
    let addresses = match (addresses, &tables) {
        (Some(addresses), _) => addresses,
        (None, Some(_)) => Vec::new(),
        (None, None) if root.has("listen") || root.has("listener") => return listeners,
        (None, None) => {
            root.show("listen", vec![local.to_string()].show());
            vec![local.to_string()]
        }
    };
    if addresses.is_empty() && tables.as_ref().is_none_or(Vec::is_empty) {
        let key = if root.has("listen") {
            "listen"
        } else {
            "listener"
        };
        root.problem(
            Code::Contradiction,
            key,
            "there is no listener: add one, or remove the empty list",
        );
    }
    for address in &addresses {
        match parse_address(address) {
            Some(address) => {
                let mut listener = ListenerConfig::tcp(address);
                if listeners.iter().any(|other| other.name == listener.name) {
                    listener.name = format!("tcp-{address}-{}", listeners.len() + 1);
                }
                listeners.push(listener);
            }
            None => {
                let text = format!(
                    "listen has {address:?}: must be an address and a port, such as \"127.0.0.1:1883\" or \"[::]:1883\""
                );
                root.problem(Code::WrongValue, "listen", text);
            }
        }
    }
    listeners
}

fn is_in_file(place: &str) -> bool {
    !place.starts_with("--") && !place.starts_with("environment variable ")
}

/// A Redis makes this broker a replica of a cluster; `[store]` then says nothing.
fn read_where(root: &mut Section<'_>) -> StoreConfig {
    let own = root.with_table("store", read_store);
    match root.with_table("redis", RedisConfig::read) {
        Some(redis) => {
            root.hide("store");
            StoreConfig::Redis(Box::new(redis))
        }
        None => own,
    }
}

fn read_store(section: &mut Section<'_>) -> StoreConfig {
    let kind = section.get("kind", StoreKind::Embedded, &());
    let path = section.get("path", "dunlin-data".to_owned(), &());
    let durability = section.get("durability", DurabilityKind::Always, &());
    let interval = section.get("interval_ms", 100, &(1..=60_000));
    if kind == StoreKind::Memory {
        for key in ["path", "durability", "interval_ms"] {
            section.hide(key);
        }
        return StoreConfig::Memory;
    }
    if durability != DurabilityKind::Interval {
        section.hide("interval_ms");
        if section.has("interval_ms") {
            section.problem(
                Code::Contradiction,
                "interval_ms",
                "store.interval_ms has a meaning only with store.durability = \"interval\"",
            );
        }
    }
    let durability = match durability {
        DurabilityKind::Always => Durability::Always,
        DurabilityKind::Interval => Durability::Interval(interval),
        DurabilityKind::Os => Durability::Os,
    };
    StoreConfig::Embedded {
        path: path.into(),
        durability,
    }
}

fn read_ops(section: &mut Section<'_>) -> OpsConfig {
    let enabled = section.get("enabled", true, &());
    let listen = section.get("listen", SocketAddr::from(([127, 0, 0, 1], 9100)), &());
    OpsConfig {
        listen: enabled.then_some(listen),
    }
}

fn read_drain(root: &mut Section<'_>) -> DrainConfig {
    let mut milliseconds =
        |key, default: u64| Duration::from_millis(root.get(key, default, &(0..=3_600_000)));
    let delay = milliseconds("drain_delay_ms", 0);
    let timeout = milliseconds("drain_timeout_ms", 10_000);
    let rate = root.get("drain_rate", 100, &(1..=1_000_000));
    let server_reference = root.optional::<String>("drain_server_reference", &());
    let server_moved = root.get("drain_server_moved", false, &());
    if server_moved && server_reference.is_none() && !root.has("drain_server_reference") {
        root.problem(
            Code::Contradiction,
            "drain_server_moved",
            "drain_server_moved says that clients are to go elsewhere for good, and nothing says where: add drain_server_reference",
        );
    }
    if server_reference
        .as_ref()
        .is_some_and(|text| text.len() > 1_024 || text.contains(char::is_control))
    {
        root.problem(
            Code::WrongValue,
            "drain_server_reference",
            "drain_server_reference must have 1024 bytes at the most and no control characters",
        );
    }
    DrainConfig {
        delay,
        timeout,
        rate,
        server_reference,
        server_moved,
    }
}

fn read_trace(section: &mut Section<'_>) -> TraceConfig {
    let endpoint: Option<String> = section.optional("endpoint", &());
    if let Some(endpoint) = &endpoint
        && let Err(error) = dunlin_telemetry::trace::Settings::check_endpoint(endpoint)
    {
        let text = format!("trace.endpoint is {endpoint:?}: {error}");
        section.problem(Code::WrongValue, "endpoint", text);
    }
    TraceConfig {
        endpoint,
        sample: section.get("sample", Share(0), &()),
    }
}

fn read_log(section: &mut Section<'_>) -> LogConfig {
    let level = section.get("level", "info".to_owned(), &());
    if let Err(error) = crate::logging::check_level(&level) {
        section.problem(
            Code::Log,
            "level",
            format!("log.level is {level:?}: {error}"),
        );
    }
    LogConfig {
        level,
        format: section.get("format", LogFormat::Auto, &()),
    }
}

/// `DUNLIN_LIMITS_MAX_INFLIGHT` sets nothing, and says so. Other names that begin with `DUNLIN_` are
/// somebody else's (Kubernetes makes such names of its services).
fn warn_about_single_underscores(sources: &Sources, report: &mut Report) {
    for (name, _) in &sources.environment {
        let Some(rest) = name
            .strip_prefix("DUNLIN_")
            .filter(|rest| !rest.starts_with('_'))
        else {
            continue;
        };
        let wanted = rest.to_lowercase();
        let meant = report
            .known()
            .iter()
            .find(|path| path.replace('.', "_") == wanted.replace("__", "_"));
        if let Some(path) = meant.cloned() {
            let right = path.replace('.', "__").to_uppercase();
            let text = format!(
                "has no effect: did you mean DUNLIN__{right} (two underscores between the parts)?"
            );
            report.warning(
                Code::Override,
                Some(format!("environment variable {name}")),
                text,
            );
        }
    }
}
