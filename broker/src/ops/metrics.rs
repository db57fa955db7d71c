//! Every metric of the broker: all names are in this file.
//!
//! The hot path adds up what it does and tells it here once per batch ([`Metrics::received`],
//! [`Metrics::delivered`]), so that no cache line is shared per message. Gauges are set once a second, or when
//! they are scraped. What is here is in `docs/metrics.md`: a test holds them together.

mod count;
mod kinds;
mod labels;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use dunlin_telemetry::process::Process;
use parking_lot::{Mutex, RwLock};

pub use self::count::Gauges;
pub use self::kinds::{Counters, Gauged};
pub use self::labels::{Asked, Bound, ByQos, Dropped, Label, Outcome, Reload};

use self::kinds::{
    ByListener, ByListenerAndVersion, ByReason, ByTenant, Kind, Seconds, SecondsCounted,
};
use super::sys::LoadAverages;

/// Versions of MQTT as they are shown.
const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5.0"];

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
    /// Reads after which a client had published more than it may in a second.
    publishers_slowed: Counter = "publishers_slowed";
    /// Bans in force.
    bans: Gauge = "bans";
    /// Logins that were refused without a look at the password: too many had been wrong.
    logins_throttled: Counter = "logins_throttled";
    /// Requests of devices for an identity of their own.
    provisioning_requests: Counters<Asked> = "provisioning_requests";
    /// Events taken into the audit log.
    audit_events: Counter = "audit_events";
    /// Events that the audit log has lost: too many waited, or its file could not be written.
    audit_lost: Counter = "audit_lost";
    /// Clients of tenants connected now.
    tenant_clients: ByTenant = "tenant_clients";
    /// Stored sessions of tenants, in the whole cluster.
    tenant_sessions: ByTenant = "tenant_sessions_stored";
    /// Retained messages of tenants, in the whole cluster.
    tenant_retained: ByTenant = "tenant_retained_messages";
    /// What the retained messages of tenants weigh.
    tenant_retained_bytes: ByTenant = "tenant_retained", Bytes;
    /// What waits in the queues of the sessions of tenants on this replica; 0 for tenants without max_queued_bytes.
    tenant_queued_bytes: ByTenant = "tenant_queued", Bytes;
    /// PUBLISH packets received from clients of tenants.
    tenant_publishes: ByReason = "tenant_publishes_received";
    /// Payload bytes of them.
    tenant_publish_bytes: ByReason = "tenant_publishes_received_payload", Bytes;
    /// Connections, sessions, publishes and retained messages refused for a bound of their tenant.
    tenant_refused: ByReason = "tenant_refused";
    /// Times that a client was not read from as its tenant sent too fast.
    tenant_slowed: ByReason = "tenant_slowed";
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
    /// Connections ended as the time of what their clients had shown was over.
    credentials_expired: Counter = "credentials_expired";
    /// Connections ended as what their clients had shown was withdrawn.
    credentials_revoked: Counter = "credentials_revoked";
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
