//! Every metric of the broker: all names are in this file.
//!
//! The hot path adds up what it does and tells it here once per batch ([`Metrics::received`],
//! [`Metrics::delivered`]), so that no cache line is shared per message. Gauges are set once a second, or when
//! they are scraped. What is here is in `docs/metrics.md`: a test holds them together.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use dunlin_protocol::{ReasonCode, Version};
use dunlin_sync::cluster::BackplaneStatus;
use dunlin_sync::cluster::engine::Figures;
use dunlin_telemetry::process::Process;
use parking_lot::{Mutex, RwLock};

use super::Health;
use super::sys::{self, LoadAverages, Snapshot};
use crate::config::limits::Limits;

/// Versions of MQTT as they are shown, in the order of [`version_index`].
const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5.0"];

const fn version_index(version: Version) -> usize {
    match version {
        Version::V31 => 0,
        Version::V311 => 1,
        Version::V5 => 2,
    }
}

/// A label with a fixed set of values.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value with its text, in the order of [`Label::index`].
    const VALUES: &'static [&'static str];
    /// The position of this value in [`Label::VALUES`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident ($label:literal) { $( $(#[$vdoc:meta])* $value:ident = $text:literal, )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$vdoc])* $value, )* }
        impl Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($text,)*];
            fn index(self) -> usize { self as usize }
        }
    };
}

label! {
    /// Why a message was not delivered to one subscriber.
    Dropped ("reason") {
        /// The queue of a persistent session was full.
        QueueFull = "queue_full",
        /// A slow reader, QoS 0.
        OutboxFull = "outbox_full",
        /// Its expiry interval had passed.
        Expired = "expired",
        /// Larger than the subscriber's Maximum Packet Size.
        TooLarge = "too_large",
    }
}

label! {
    /// Quality of service.
    ByQos ("qos") {
        /// At most once.
        AtMostOnce = "0",
        /// At least once.
        AtLeastOnce = "1",
        /// Exactly once.
        ExactlyOnce = "2",
    }
}

label! {
    /// A bound of the configuration.
    Bound ("limit") {
        /// `limits.max_connections`.
        Connections = "connections",
        /// `limits.max_sessions`.
        Sessions = "sessions",
        /// `limits.max_retained`.
        RetainedMessages = "retained_messages",
        /// `limits.max_retained_bytes`.
        RetainedBytes = "retained_bytes",
        /// `limits.store_pending_bytes`.
        StorePendingBytes = "store_pending_bytes",
    }
}

label! {
    /// How something that was asked for ended.
    Outcome ("result") {
        /// It is in force.
        Ok = "ok",
        /// What was there stays.
        Refused = "refused",
    }
}

/// What is read again while the broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The configuration.
    Config,
    /// Certificates, keys and authorities.
    Certificates,
}

/// One gauge per value of a label.
pub struct Gauged<L> {
    gauges: Box<[Gauge]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L> fmt::Debug for Gauged<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.gauges.iter().map(|gauge| gauge.get()))
            .finish()
    }
}

impl<L: Label> Gauged<L> {
    /// Sets the gauge of one value.
    pub fn set(&self, value: L, n: u64) {
        if let Some(gauge) = self.gauges.get(value.index()) {
            gauge.set(whole(n));
        }
    }
}

/// A gauge of seconds, or of a share.
type Seconds = Gauge<f64, AtomicU64>;

/// Seconds that add up.
type SecondsCounted = Counter<f64, AtomicU64>;

/// When what is served on a listener ends, in Unix time.
type ByListener = Family<[(&'static str, String); 1], Gauge>;

/// Clients connected through a listener, by version of MQTT.
type ByListenerAndVersion = Family<[(&'static str, String); 2], Gauge>;

/// One counter per value of a label.
pub struct Counters<L> {
    counters: Box<[Counter]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L> fmt::Debug for Counters<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.counters.iter().map(|counter| counter.get()))
            .finish()
    }
}

impl<L: Label> Counters<L> {
    /// Adds to the counter of one value.
    pub fn add(&self, value: L, n: u64) {
        if let Some(counter) = self.counters.get(value.index()) {
            add(counter, n);
        }
    }

    /// Adds to the counters of all values, in their order.
    fn add_each(&self, counts: [u64; 3]) {
        for (counter, n) in self.counters.iter().zip(counts) {
            add(counter, n);
        }
    }

    /// What has been counted for one value.
    #[must_use]
    pub fn get(&self, value: L) -> u64 {
        self.counters.get(value.index()).map_or(0, Counter::get)
    }

    /// What has been counted for all values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.counters.iter().map(|counter| counter.get()).sum()
    }
}

/// Counters by a reason in words or a reason code: a label of which the broker itself makes every
/// value, so that there are few.
type ByReason = Family<[(&'static str, String); 1], Counter>;

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $field:ident : $ty:tt $(<$label:ident>)? = $name:literal $(, $unit:ident)? ; )*) => {
        /// The metrics. Names, as they are scraped, begin with `dunlin_`.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            averages: Mutex<LoadAverages>,
            /// The gauges of `clients_by_listener`, so that a connection needs no text to find its own.
            listeners: RwLock<Vec<(Box<str>, [Gauge; VERSIONS.len()])>>,
            $( $(#[doc = $help])+ pub $field: $ty $(<$label>)?, )*
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::default();
                registry.register_collector(Box::new(Process::default()));
                let own = registry.sub_registry_with_prefix("dunlin");
                own.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
                $(
                    let $field = <$ty $(<$label>)? as Kind>::register(
                        own, $name, concat!($($help),+).trim().trim_end_matches('.'), metrics!(@unit $($unit)?),
                    );
                )*
                Self { registry, averages: Mutex::default(), listeners: RwLock::default(), $( $field, )* }
            }
        }
    };
    (@unit) => { None };
    (@unit Ratios) => { Some(Unit::Other("ratio".to_owned())) };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

/// A kind of metric that can be registered under a name.
trait Kind {
    fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self;
}

macro_rules! plain_kind {
    ($($ty:ty => $make:expr),* $(,)?) => {$(
        impl Kind for $ty {
            fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self {
                let metric: $ty = $make;
                match unit {
                    Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
                    None => registry.register(name, help, metric.clone()),
                }
                metric
            }
        }
    )*};
}
plain_kind! {
    Counter => Counter::default(),
    Gauge => Gauge::default(),
    ByReason => ByReason::default(),
    ByListener => ByListener::default(),
    ByListenerAndVersion => ByListenerAndVersion::default(),
    Seconds => Seconds::default(),
    SecondsCounted => SecondsCounted::default(),
    // From 1 ms, about a timer's resolution, to 16 s, at which a replica has lost its lease.
    Histogram => Histogram::new(exponential_buckets(0.001, 2.0, 15)),
}

impl<L: Label> Kind for Gauged<L> {
    fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Gauge>::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        let gauges = L::VALUES
            .iter()
            .map(|text| family.get_or_create_owned(&[(L::NAME, *text)]))
            .collect();
        Self {
            gauges,
            label: std::marker::PhantomData,
        }
    }
}

impl<L: Label> Kind for Counters<L> {
    fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
            None => registry.register(name, help, family.clone()),
        }
        let counters = L::VALUES
            .iter()
            .map(|text| family.get_or_create_owned(&[(L::NAME, *text)]))
            .collect();
        Self {
            counters,
            label: std::marker::PhantomData,
        }
    }
}

metrics! {
    /// Whether the replica should be given work, as `/health/ready` says.
    ready: Gauge = "ready";
    /// Whether the replica is stopping.
    draining: Gauge = "draining";
    /// Bounds of the configuration.
    limits: Gauged<Bound> = "limit";
    /// How late a timer of a worker's thread fires.
    worker_delay: Histogram = "worker_delay", Seconds;
    /// Times that the configuration was read again.
    config_reloads: Counters<Outcome> = "config_reloads";
    /// Times that certificates were read again.
    certificate_reloads: Counters<Outcome> = "certificate_reloads";
    /// When the certificate of a listener expires, in Unix time.
    certificate_expires: ByListener = "certificate_expires_timestamp", Seconds;
    /// Spans of traces that the collector has taken.
    trace_spans_sent: Counter = "trace_spans_sent";
    /// Spans of traces that were dropped: too many waited, or the collector did not take them.
    trace_spans_dropped: Counter = "trace_spans_dropped";
    /// Sockets open now, from accept to close.
    sockets_open: Gauge = "sockets_open";
    /// Sockets accepted.
    sockets_accepted: Counter = "sockets_accepted";
    /// Connections between the accepted socket and the CONNACK now.
    handshakes: Gauge = "handshakes";
    /// Sockets that waited because connect_rate or max_handshakes was reached.
    accepts_delayed: Counter = "accepts_delayed";
    /// Clients disconnected because memory was short and most waited for them.
    memory_disconnects: Counter = "memory_disconnects";
    /// Memory that the process may use: limits.max_memory, else the container's, else the machine's.
    memory_limit: Gauge = "memory_limit", Bytes;
    /// Errors of accept, such as too many open files.
    accept_errors: Counter = "accept_errors";
    /// Clients connected now, their CONNECT accepted.
    clients_connected: Gauge = "clients_connected";
    /// Most clients connected at once since the start.
    clients_connected_max: Gauge = "clients_connected_max";
    /// Clients connected now, by listener and version of MQTT.
    clients_by_listener: ByListenerAndVersion = "clients_by_listener";
    /// Connected clients for whom so much waits to be written that their publishers give way.
    clients_congested: Gauge = "clients_congested";
    /// Clients connected since the start.
    connections: Counter = "connections";
    /// Connections refused before or at CONNECT.
    connections_refused: ByReason = "connections_refused";
    /// Packets received.
    packets_received: Counter = "packets_received";
    /// Packets sent that carry or acknowledge a message.
    packets_sent: Counter = "packets_sent";
    /// Bytes received.
    received: Counter = "received", Bytes;
    /// Bytes sent.
    sent: Counter = "sent", Bytes;
    /// PUBLISH packets received.
    publishes_received: Counters<ByQos> = "publishes_received";
    /// Payload bytes of the PUBLISH packets received.
    publishes_received_payload: Counter = "publishes_received_payload", Bytes;
    /// PUBLISH packets sent.
    publishes_sent: Counters<ByQos> = "publishes_sent";
    /// Bytes of the PUBLISH packets sent.
    publishes_sent_packets: Counter = "publishes_sent_packets", Bytes;
    /// PUBLISH packets sent again after a reconnect.
    retransmissions: Counter = "retransmissions";
    /// Acknowledgements sent.
    acknowledgements_sent: Counter = "acknowledgements_sent";
    /// Messages not delivered to a subscriber.
    publishes_dropped: Counters<Dropped> = "publishes_dropped";
    /// Publishes refused by an access rule.
    publishes_refused: Counter = "publishes_refused";
    /// Retained messages refused because a bound was reached.
    retained_refused: Counter = "retained_refused";
    /// Sessions, persistent or not.
    sessions: Gauge = "sessions";
    /// Persistent sessions.
    sessions_stored: Gauge = "sessions_stored";
    /// Persistent sessions ended by their expiry.
    sessions_expired: Counter = "sessions_expired";
    /// Subscriptions of all sessions.
    subscriptions: Gauge = "subscriptions";
    /// Groups of shared subscriptions.
    shared_groups: Gauge = "shared_groups";
    /// Retained messages.
    retained_messages: Gauge = "retained_messages";
    /// Bytes of retained messages.
    retained: Gauge = "retained", Bytes;
    /// Bytes on their way to the store.
    store_pending: Gauge = "store_pending", Bytes;
    /// Packets that broke the protocol, by reason code.
    protocol_errors: ByReason = "protocol_errors";
    /// Connections closed after one and a half times the keep alive.
    keep_alive_timeouts: Counter = "keep_alive_timeouts";
    /// Connections ended by a newer one with the same client id.
    takeovers: Counter = "takeovers";
    /// Connected clients that took their QoS 1 and 2 messages too slowly for their publishers to wait.
    slow_receivers: Counter = "slow_receivers";
    /// Wills published.
    wills_published: Counter = "wills_published";
    /// Replicas of the cluster that are alive, this one included; 0 without a cluster.
    cluster_replicas: Gauge = "cluster_replicas";
    /// Age of the lease: how long ago it was renewed.
    cluster_lease_age: Seconds = "cluster_lease_age", Seconds;
    /// Times that this replica stopped acknowledging, as it could not renew its lease or hear the others.
    cluster_suspended: Counter = "cluster_suspended";
    /// Times that this replica was taken for dead and joined anew.
    cluster_rejoined: Counter = "cluster_rejoined";
    /// Dead replicas that this one has cleared away after.
    cluster_reaped: Counter = "cluster_reaped";
    /// Messages relayed to other replicas at most once.
    cluster_messages_out: Counter = "cluster_messages_out";
    /// Messages relayed by other replicas at most once.
    cluster_messages_in: Counter = "cluster_messages_in";
    /// Messages put into inboxes of other replicas.
    cluster_inbox_messages_out: Counter = "cluster_inbox_messages_out";
    /// Messages read from the own inbox.
    cluster_inbox_messages_in: Counter = "cluster_inbox_messages_in";
    /// Messages appended to queues of persistent sessions.
    cluster_appends: Counter = "cluster_appends";
    /// Messages for which the queue of a persistent session had no room.
    cluster_queue_full: Counter = "cluster_queue_full";
    /// Messages for which a lane to another replica had no room.
    cluster_lane_dropped: Counter = "cluster_lane_dropped";
    /// Bytes that wait on lanes to other replicas.
    cluster_lane_waiting: Gauge = "cluster_lane_waiting", Bytes;
    /// Frames that other replicas have sent and that did not arrive; tables are repaired, messages at most once are lost.
    cluster_frames_missing: Counter = "cluster_frames_missing";
    /// Frames, or parts of them, that a newer replica or something foreign wrote.
    cluster_frames_unknown: Counter = "cluster_frames_unknown";
    /// Frames and records in Redis that cannot be read.
    cluster_damaged: Counter = "cluster_damaged";
    /// Changes of tables that were applied.
    cluster_table_changes: Counter = "cluster_table_changes";
    /// Requests sent to Redis in rounds of changes.
    cluster_requests: Counter = "cluster_requests";
    /// Rounds of changes that Redis has not answered yet.
    cluster_rounds_open: Gauge = "cluster_rounds_open";
    /// Gaps noticed in what other replicas have said.
    cluster_gaps: Counter = "cluster_gaps";
    /// Shares of tables loaded anew because of a gap.
    cluster_reloads: Counter = "cluster_reloads";
    /// Messages appended to taps.
    tap_messages: Counter = "tap_messages";
    /// Messages of QoS 0 for which a tap had no room.
    tap_dropped: Counter = "tap_dropped";
    /// Messages of QoS 0 that were not appended to a tap, as Redis was behind.
    tap_skipped: Counter = "tap_skipped";
    /// Messages that wait for room in a tap.
    tap_waiting: Gauge = "tap_waiting";
    /// Claims of client ids.
    cluster_claims: Counter = "cluster_claims";
    /// Claims that were not answered in time.
    cluster_claims_failed: Counter = "cluster_claims_failed";
    /// Writes refused because the client id had been claimed by another replica.
    cluster_fenced: Counter = "cluster_fenced";
    /// Batches that wait now until this replica may acknowledge again.
    cluster_commits_held: Gauge = "cluster_commits_held";
    /// Batches that wait now until every replica has applied them.
    cluster_barriers_open: Gauge = "cluster_barriers_open";
    /// Batches that have waited until every replica had applied them.
    cluster_barriers: Counter = "cluster_barriers";
    /// Time that batches have waited until every replica had applied them, together.
    cluster_barrier_wait: SecondsCounted = "cluster_barrier_wait", Seconds;
    /// Wills whose time had come, found by this replica.
    cluster_wills_due: Counter = "cluster_wills_due";
    /// Dead replicas that this one is clearing away after now.
    cluster_reaping: Gauge = "cluster_reaping";
    /// Whether every master of Redis answers.
    redis_connected: Gauge = "redis_connected";
    /// Whether Redis refuses writes for want of memory.
    redis_full: Gauge = "redis_full";
    /// Connections to Redis made anew.
    redis_reconnects: Counter = "redis_reconnects";
    /// Failovers of Redis noticed.
    redis_failovers: Counter = "redis_failovers";
    /// Requests that Redis has not answered yet.
    redis_pending: Gauge = "redis_pending_requests";
    /// What the last PING to Redis took; of several masters the slowest.
    redis_ping: Seconds = "redis_ping", Seconds;
    /// Memory that Redis uses, over all masters, as it says every few seconds; 0 until it has been asked.
    redis_memory_used: Gauge = "redis_memory_used", Bytes;
    /// Memory that Redis may use, over all masters; 0: no bound.
    redis_memory_limit: Gauge = "redis_memory_limit", Bytes;
    /// Used memory over allowed memory of the fullest master of Redis; 0 without a bound.
    redis_memory: Seconds = "redis_memory", Ratios;
}

/// Figures that are counted where they are kept, and shown now and then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Clients connected.
    pub connections: usize,
    /// Sessions, persistent or not.
    pub sessions: usize,
    /// Persistent sessions.
    pub sessions_stored: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Groups of shared subscriptions.
    pub shared_groups: usize,
    /// Retained messages.
    pub retained: usize,
    /// Bytes of retained messages.
    pub retained_bytes: u64,
    /// Bytes on their way to the store.
    pub store_pending_bytes: usize,
    /// Connections with more to be written than makes their publishers give way.
    pub congested: usize,
}

/// As a gauge takes it.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Microseconds as seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "centuries of microseconds are exact"
)]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl Metrics {
    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a String does not fail.
            Err(fmt::Error) => "# EOF\n".to_owned(),
        }
    }

    /// Sets the figures that are counted elsewhere.
    pub fn set_gauges(&self, gauges: &Gauges) {
        let set = |gauge: &Gauge, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.sessions, gauges.sessions);
        set(&self.sessions_stored, gauges.sessions_stored);
        set(&self.subscriptions, gauges.subscriptions);
        set(&self.shared_groups, gauges.shared_groups);
        set(&self.retained_messages, gauges.retained);
        set(&self.store_pending, gauges.store_pending_bytes);
        set(&self.clients_congested, gauges.congested);
        self.retained.set(whole(gauges.retained_bytes));
    }

    /// Sets the bounds that are in force.
    pub fn set_limits(&self, limits: &Limits) {
        let bound = |bound: Bound, value: usize| self.limits.set(bound, value as u64);
        bound(Bound::Connections, limits.max_connections);
        bound(Bound::Sessions, limits.max_sessions);
        bound(Bound::RetainedMessages, limits.max_retained);
        bound(Bound::StorePendingBytes, limits.store_pending_bytes);
        self.limits
            .set(Bound::RetainedBytes, limits.max_retained_bytes);
    }

    /// Sets what `/health/ready` says: at each scrape.
    pub fn set_health(&self, health: &Health) {
        self.ready.set(i64::from(health.reasons().is_empty()));
        self.draining.set(i64::from(health.is_draining()));
    }

    /// So much memory may be used.
    pub fn set_memory_limit(&self, bytes: u64) {
        self.memory_limit
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The certificate that a listener shows ends then, in Unix time.
    pub fn certificate(&self, listener: &str, expires: i64) {
        self.certificate_expires
            .get_or_create(&[("listener", listener.to_owned())])
            .set(expires);
    }

    /// Something was read again; or what was read was refused, and what was there stays.
    pub fn reloaded(&self, what: Reload, ok: bool) {
        let outcome = if ok { Outcome::Ok } else { Outcome::Refused };
        match what {
            Reload::Config => self.config_reloads.add(outcome, 1),
            Reload::Certificates => self.certificate_reloads.add(outcome, 1),
        }
    }

    /// Sets what the cluster's engine counts.
    pub fn set_cluster(&self, figures: &Figures, redis: &BackplaneStatus) {
        let total = |counter: &Counter, value: u64| {
            counter.inner().store(value, Ordering::Relaxed);
        };
        let now = |gauge: &Gauge, value: u64| {
            gauge.set(whole(value));
        };
        now(&self.cluster_replicas, figures.peers + 1);
        self.cluster_lease_age.set(seconds(figures.lease_age_us));
        total(&self.cluster_suspended, figures.suspended);
        total(&self.cluster_rejoined, figures.rejoined);
        total(&self.cluster_reaped, figures.reaped);
        total(&self.cluster_messages_out, figures.messages_out);
        total(&self.cluster_messages_in, figures.messages_in);
        total(&self.cluster_inbox_messages_out, figures.inbox_messages_out);
        total(&self.cluster_inbox_messages_in, figures.inbox_messages_in);
        total(&self.cluster_appends, figures.appends);
        total(&self.cluster_queue_full, figures.queue_full);
        total(&self.cluster_lane_dropped, figures.lane_dropped);
        now(&self.cluster_lane_waiting, figures.lane_waiting_bytes);
        total(&self.cluster_frames_missing, figures.frames_missing);
        total(&self.cluster_frames_unknown, figures.frames_unknown);
        total(&self.cluster_damaged, figures.damaged);
        total(&self.cluster_table_changes, figures.table_changes);
        total(&self.cluster_requests, figures.round_requests);
        now(&self.cluster_rounds_open, figures.rounds_open);
        total(&self.cluster_gaps, figures.gaps);
        total(&self.cluster_reloads, figures.reloads);
        total(&self.tap_messages, figures.tap_appends);
        total(&self.tap_dropped, figures.tap_dropped);
        now(&self.tap_waiting, figures.tap_waiting);
        total(&self.cluster_claims, figures.claims);
        total(&self.cluster_claims_failed, figures.claims_failed);
        total(&self.cluster_fenced, figures.fenced);
        now(&self.cluster_commits_held, figures.commits_held);
        now(&self.cluster_barriers_open, figures.barriers_open);
        total(&self.cluster_barriers, figures.barriers);
        let waited = seconds(figures.barrier_wait_us).to_bits();
        self.cluster_barrier_wait
            .inner()
            .store(waited, Ordering::Relaxed);
        total(&self.cluster_wills_due, figures.wills_due);
        now(&self.cluster_reaping, figures.reaping);
        now(&self.redis_connected, u64::from(redis.connected));
        now(&self.redis_full, u64::from(redis.full));
        total(&self.redis_reconnects, redis.reconnects);
        total(&self.redis_failovers, redis.failovers);
        now(&self.redis_pending, redis.pending);
        self.redis_ping.set(seconds(redis.ping_us));
        now(&self.redis_memory_used, redis.memory_used);
        now(&self.redis_memory_limit, redis.memory_limit);
        self.redis_memory
            .set(f64::from(redis.memory_per_mille) / 1000.0);
    }

    /// A client has connected to a listener. Its gauge is to be lowered by [`Metrics::connection_closed`].
    pub fn connection_opened(&self, listener: &str, version: Version) -> Gauge {
        let here = self.clients_of(listener, version);
        here.inc();
        self.connections.inc();
        let now = self.clients_connected.inc() + 1;
        self.clients_connected_max
            .inner()
            .fetch_max(now, Ordering::Relaxed);
        here
    }

    /// A client that had connected is gone; with what [`Metrics::connection_opened`] gave.
    pub fn connection_closed(&self, here: &Gauge) {
        here.dec();
        self.clients_connected.dec();
    }

    fn clients_of(&self, listener: &str, version: Version) -> Gauge {
        let index = version_index(version);
        let find = |listeners: &[(Box<str>, [Gauge; VERSIONS.len()])]| {
            let (_, gauges) = listeners.iter().find(|(name, _)| **name == *listener)?;
            gauges.get(index).cloned()
        };
        if let Some(gauge) = find(&self.listeners.read()) {
            return gauge;
        }
        let mut listeners = self.listeners.write();
        if let Some(gauge) = find(&listeners) {
            return gauge;
        }
        let gauges = VERSIONS.map(|version| {
            let labels = [
                ("listener", listener.to_owned()),
                ("version", version.to_owned()),
            ];
            self.clients_by_listener.get_or_create_owned(&labels)
        });
        let gauge = gauges.get(index).cloned().unwrap_or_default();
        listeners.push((Box::from(listener), gauges));
        gauge
    }

    /// A connection has been refused. The reason is one of a fixed set of words.
    pub fn refused(&self, reason: &str) {
        let label = reason.to_lowercase().replace([' ', '-'], "_");
        self.connections_refused
            .get_or_create(&[("reason", label)])
            .inc();
    }

    /// A client broke the protocol.
    pub fn protocol_error(&self, reason: ReasonCode) {
        let label = format!("0x{:02x}", reason.0);
        self.protocol_errors
            .get_or_create(&[("reason", label)])
            .inc();
    }

    /// One batch of packets has been received, `publishes` of them PUBLISH, by QoS.
    pub fn received(&self, packets: u64, bytes: u64, publishes: [u64; 3], payload_bytes: u64) {
        add(&self.packets_received, packets);
        add(&self.received, bytes);
        self.publishes_received.add_each(publishes);
        add(&self.publishes_received_payload, payload_bytes);
    }

    /// One write to a socket.
    pub fn written(&self, bytes: u64) {
        add(&self.sent, bytes);
    }

    /// Messages have been put into outboxes: how many by QoS, their bytes, how many of them once more.
    pub fn delivered(&self, messages: [u64; 3], bytes: u64, again: u64) {
        add(&self.packets_sent, messages.iter().sum());
        self.publishes_sent.add_each(messages);
        add(&self.publishes_sent_packets, bytes);
        add(&self.retransmissions, again);
    }

    /// Acknowledgements have been put into an outbox.
    pub fn acknowledged(&self, acknowledgements: u64) {
        add(&self.packets_sent, acknowledgements);
        add(&self.acknowledgements_sent, acknowledgements);
    }

    /// Messages have not been delivered to a subscriber, by reason.
    pub fn dropped(&self, queue_full: u64, outbox_full: u64, expired: u64, too_large: u64) {
        self.publishes_dropped.add(Dropped::QueueFull, queue_full);
        self.publishes_dropped.add(Dropped::OutboxFull, outbox_full);
        self.publishes_dropped.add(Dropped::Expired, expired);
        self.publishes_dropped.add(Dropped::TooLarge, too_large);
    }

    /// A message of QoS 0 was not appended to a tap, as the store is behind.
    pub fn tap_skipped(&self) {
        self.tap_skipped.inc();
    }

    /// A publish was refused by an access rule.
    pub fn publish_refused(&self) {
        self.publishes_refused.inc();
    }

    /// Retained messages were refused because a bound was reached.
    pub fn retained_refused(&self, messages: u64) {
        self.retained_refused.inc_by(messages);
    }

    /// A persistent session has ended by its expiry.
    pub fn session_expired(&self) {
        self.sessions_expired.inc();
    }

    /// A connection was ended by a newer one with the same client id.
    pub fn takeover(&self) {
        self.takeovers.inc();
    }

    /// A connected client turned out to be slow.
    pub fn slow_receiver(&self) {
        self.slow_receivers.inc();
    }

    /// A will was published.
    pub fn will_published(&self) {
        self.wills_published.inc();
    }

    /// A connection was closed after one and a half times the keep alive.
    pub fn keep_alive_timeout(&self) {
        self.keep_alive_timeouts.inc();
    }

    /// The `$SYS` topics and their values now. To be called at each publication: the load averages
    /// take the time since the last call into account.
    #[must_use]
    pub fn sys_topics(&self, uptime: Duration) -> Vec<(String, String)> {
        let snapshot = self.snapshot(uptime);
        let mut averages = self.averages.lock();
        averages.update(&snapshot);
        sys::topics(&snapshot, &averages)
    }

    fn snapshot(&self, uptime: Duration) -> Snapshot {
        let gauge = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        let stored = gauge(&self.sessions_stored);
        let connected = gauge(&self.clients_connected);
        Snapshot {
            uptime,
            clients_connected: connected,
            clients_maximum: gauge(&self.clients_connected_max),
            sessions: gauge(&self.sessions).max(stored).max(connected),
            sessions_expired: self.sessions_expired.get(),
            messages_received: self.packets_received.get(),
            messages_sent: self.packets_sent.get(),
            publishes_received: self.publishes_received.sum(),
            publishes_sent: self.publishes_sent.sum(),
            publishes_dropped: self.publishes_dropped.sum(),
            publish_bytes_received: self.publishes_received_payload.get(),
            publish_bytes_sent: self.publishes_sent_packets.get(),
            bytes_received: self.received.get(),
            bytes_sent: self.sent.get(),
            subscriptions: gauge(&self.subscriptions),
            shared_groups: gauge(&self.shared_groups),
            retained: gauge(&self.retained_messages),
            retained_bytes: gauge(&self.retained),
            connections: self.connections.get(),
            sockets: self.sockets_accepted.get(),
        }
    }
}

/// Most batches have nothing of most kinds: a shared line is not touched for nothing.
fn add(counter: &Counter, n: u64) {
    if n > 0 {
        counter.inc_by(n);
    }
}
