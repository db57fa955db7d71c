//! What is told to the metrics, and how they are shown.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use dunlin_protocol::{ReasonCode, Version};
use dunlin_sync::cluster::BackplaneStatus;
use dunlin_sync::cluster::engine::Figures;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge},
};

use super::Metrics;
use super::VERSIONS;
use super::labels::{Bound, Dropped, Outcome, Reload};
use crate::config::limits::Limits;
use crate::ops::Health;
use crate::ops::sys::{self, Snapshot};

const fn version_index(version: Version) -> usize {
    match version {
        Version::V31 => 0,
        Version::V311 => 1,
        Version::V5 => 2,
    }
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
pub(super) fn whole(value: u64) -> i64 {
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

    /// Shows a tenant with its figures from now on.
    pub fn tenant(&self, name: &str) {
        let label = [("tenant", name.to_owned())];
        for gauges in [
            &self.tenant_clients,
            &self.tenant_sessions,
            &self.tenant_retained,
            &self.tenant_retained_bytes,
            &self.tenant_queued_bytes,
        ] {
            drop(gauges.get_or_create(&label));
        }
        for counters in [
            &self.tenant_publishes,
            &self.tenant_publish_bytes,
            &self.tenant_refused,
            &self.tenant_slowed,
        ] {
            drop(counters.get_or_create(&label));
        }
    }

    /// Messages were not delivered because their receiver may not read them.
    pub fn withheld(&self, messages: u64) {
        self.publishes_dropped.add(Dropped::Withheld, messages);
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

    /// A connection was ended as the time of what its client had shown is over.
    pub fn credential_expired(&self) {
        self.credentials_expired.inc();
    }

    /// A connection was ended as what its client had shown was withdrawn.
    pub fn credential_revoked(&self) {
        self.credentials_revoked.inc();
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
pub(super) fn add(counter: &Counter, n: u64) {
    if n > 0 {
        counter.inc_by(n);
    }
}
