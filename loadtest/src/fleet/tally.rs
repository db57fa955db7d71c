//! What the fleet counts while it runs.

use serde::Serialize;

use crate::latency::Latencies;

/// Counts of messages; of the fleet, or of one station.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages whose time had come.
    pub due: u64,
    /// Of these, sent at least once.
    pub sent: u64,
    /// Acknowledged: PUBACK or PUBCOMP; at QoS 0, written to the connection.
    pub acknowledged: u64,
    /// Refused by the broker, or given up.
    pub failed: u64,
    /// Sent again after a reconnect.
    pub resent: u64,
    /// Acknowledged with the remark that nobody subscribes to it.
    pub no_subscriber: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.resent += other.resent;
        self.no_subscriber += other.no_subscriber;
    }
}

/// Shared by all devices of a fleet, in one thread.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) stations: Vec<Counts>,
    pub(crate) latencies: Latencies,
    pub(crate) connected: usize,
    pub(crate) devices_done: usize,
    pub(crate) reconnects: u64,
    pub(crate) sessions_lost: u64,
    /// The latest reason why a connection broke or a message was refused.
    pub(crate) last_trouble: Option<String>,
}

impl Tally {
    pub(crate) fn new(stations: usize) -> Self {
        Self {
            stations: vec![Counts::default(); stations],
            ..Self::default()
        }
    }

    /// The counts of a station; its number comes from the scenario.
    pub(crate) fn station(&mut self, number: usize) -> &mut Counts {
        if self.stations.len() <= number {
            self.stations.resize(number + 1, Counts::default());
        }
        &mut self.stations[number]
    }

    pub(crate) fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.stations.iter().for_each(|counts| total.add(counts));
        total
    }
}
