//! The `$SYS` topics, named and counted as mosquitto's users expect them.
//!
//! Pure: a snapshot in, topics and texts out. The load averages are exponential, per minute, over
//! 1, 5 and 15 minutes.

use std::time::Duration;

/// What the counters say at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Time since the start.
    pub uptime: Duration,
    /// Clients connected.
    pub clients_connected: u64,
    /// Most clients connected at once.
    pub clients_maximum: u64,
    /// Sessions, of connected clients and of those away.
    pub sessions: u64,
    /// Sessions ended by their expiry.
    pub sessions_expired: u64,
    /// Packets received, of every type.
    pub messages_received: u64,
    /// Packets sent.
    pub messages_sent: u64,
    /// PUBLISH packets received.
    pub publishes_received: u64,
    /// PUBLISH packets sent.
    pub publishes_sent: u64,
    /// Messages not delivered.
    pub publishes_dropped: u64,
    /// Payload bytes received.
    pub publish_bytes_received: u64,
    /// Bytes of PUBLISH packets sent.
    pub publish_bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Groups of shared subscriptions.
    pub shared_groups: u64,
    /// Retained messages.
    pub retained: u64,
    /// Bytes of retained messages.
    pub retained_bytes: u64,
    /// Clients connected since the start.
    pub connections: u64,
    /// Sockets accepted since the start.
    pub sockets: u64,
}

/// A part of a topic, and where what it shows is counted.
type Load = (&'static str, fn(&Snapshot) -> u64);

/// The counters that have a load average.
const LOADS: [Load; 9] = [
    ("messages/received", |s| s.messages_received),
    ("messages/sent", |s| s.messages_sent),
    ("publish/received", |s| s.publishes_received),
    ("publish/sent", |s| s.publishes_sent),
    ("publish/dropped", |s| s.publishes_dropped),
    ("bytes/received", |s| s.bytes_received),
    ("bytes/sent", |s| s.bytes_sent),
    ("connections", |s| s.connections),
    ("sockets", |s| s.sockets),
];

/// The time constants: the topic's last part, and minutes.
const SPANS: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

/// Moving averages of what happens per minute.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct LoadAverages {
    last: Snapshot,
    values: [[f64; SPANS.len()]; LOADS.len()],
}

impl LoadAverages {
    /// Takes what has happened since the last snapshot into account. A snapshot at the same moment
    /// as the last, or before it, changes nothing.
    pub fn update(&mut self, now: &Snapshot) {
        let minutes = now.uptime.saturating_sub(self.last.uptime).as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((_, count), values) in LOADS.iter().zip(&mut self.values) {
            let events = count(now).saturating_sub(count(&self.last));
            #[expect(
                clippy::cast_precision_loss,
                reason = "an average needs no more than 52 bits"
            )]
            let rate = events as f64 / minutes;
            for ((_, span), value) in SPANS.iter().zip(values) {
                let keep = (-minutes / span).exp();
                *value = *value * keep + rate * (1.0 - keep);
            }
        }
        self.last = *now;
    }
}

/// Every `$SYS` topic with its value.
#[must_use]
pub fn topics(now: &Snapshot, averages: &LoadAverages) -> Vec<(String, String)> {
    let away = now.sessions.saturating_sub(now.clients_connected);
    let plain: [(&str, u64); 23] = [
        ("clients/connected", now.clients_connected),
        ("clients/active", now.clients_connected),
        ("clients/disconnected", away),
        ("clients/inactive", away),
        ("clients/total", now.sessions),
        ("clients/maximum", now.clients_maximum),
        ("clients/expired", now.sessions_expired),
        ("messages/received", now.messages_received),
        ("messages/sent", now.messages_sent),
        ("messages/stored", now.retained),
        ("store/messages/count", now.retained),
        ("store/messages/bytes", now.retained_bytes),
        ("publish/messages/received", now.publishes_received),
        ("publish/messages/sent", now.publishes_sent),
        ("publish/messages/dropped", now.publishes_dropped),
        ("publish/bytes/received", now.publish_bytes_received),
        ("publish/bytes/sent", now.publish_bytes_sent),
        ("bytes/received", now.bytes_received),
        ("bytes/sent", now.bytes_sent),
        ("subscriptions/count", now.subscriptions),
        ("shared_subscriptions/count", now.shared_groups),
        ("retained messages/count", now.retained),
        ("connections/count", now.connections),
    ];
    let mut topics = vec![
        (
            "$SYS/broker/version".to_owned(),
            concat!("dunlin ", env!("CARGO_PKG_VERSION")).to_owned(),
        ),
        (
            "$SYS/broker/uptime".to_owned(),
            format!("{} seconds", now.uptime.as_secs()),
        ),
    ];
    topics.extend(
        plain
            .iter()
            .map(|(name, value)| (format!("$SYS/broker/{name}"), value.to_string())),
    );
    for ((name, _), values) in LOADS.iter().zip(&averages.values) {
        for ((span, _), value) in SPANS.iter().zip(values) {
            topics.push((
                format!("$SYS/broker/load/{name}/{span}"),
                format!("{value:.2}"),
            ));
        }
    }
    topics
}
