//! What came of the clients that stay.

use std::collections::BTreeMap;
use std::fmt;

use dunlin_protocol::QoS;
use serde::Serialize;
use tokio::time::Instant;

use super::Options;
use crate::error::Error;
use crate::latency::{Latencies, Percentiles};

/// What happened in one second.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Second {
    /// Clients that were let in.
    pub connected: u32,
    /// Connections that ended.
    pub ended: u32,
    /// Attempts that failed.
    pub failed: u32,
}

/// The counts while it runs.
#[derive(Debug)]
pub(super) struct Counts {
    begin: Option<Instant>,
    seconds: Vec<Second>,
    online: usize,
    clients: usize,
    /// Since when a client is away.
    away: Vec<Option<Instant>>,
    away_time: Latencies,
    /// First subscriptions that were acknowledged, and later ones of sessions that were lost.
    pub(super) subscribed: usize,
    endings: BTreeMap<String, u64>,
    troubles: BTreeMap<String, u64>,
    last_trouble: String,
    pub(super) begun: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) sessions_lost: u64,
    /// How often each message of each publisher has been received.
    arrived: Vec<Vec<u8>>,
    different: u64,
    again_qos_1: u64,
    again_qos_2: u64,
}

impl Counts {
    pub(super) fn new(clients: usize) -> Self {
        Self {
            begin: None,
            seconds: Vec::new(),
            online: 0,
            clients,
            away: vec![None; clients],
            away_time: Latencies::default(),
            subscribed: 0,
            endings: BTreeMap::new(),
            troubles: BTreeMap::new(),
            last_trouble: String::new(),
            begun: 0,
            acknowledged: 0,
            refused: 0,
            sessions_lost: 0,
            arrived: vec![Vec::new(); clients],
            different: 0,
            again_qos_1: 0,
            again_qos_2: 0,
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.begin = Some(now);
    }

    pub(super) fn connected(&self) -> usize {
        self.online
    }

    pub(super) fn last_trouble(&self) -> &str {
        &self.last_trouble
    }

    pub(super) fn all_connected(&self) -> bool {
        self.online == self.clients && self.subscribed >= self.clients
    }

    /// Everybody is there, and everything that was begun is acknowledged and received.
    pub(super) fn all_arrived(&self) -> bool {
        self.all_connected()
            && self.acknowledged + self.refused == self.begun
            && self.different >= self.acknowledged
    }

    fn second(&mut self) -> Option<&mut Second> {
        let index = usize::try_from(self.begin?.elapsed().as_secs()).ok()?;
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        self.seconds.get_mut(index)
    }

    pub(super) fn connected_again(&mut self, client: usize, first: bool) {
        self.online += 1;
        if first {
            return;
        }
        if let Some(second) = self.second() {
            second.connected += 1;
        }
        if let Some(since) = self.away.get_mut(client).and_then(Option::take) {
            self.away_time.record(since.elapsed());
        }
    }

    pub(super) fn ended(&mut self, client: usize, how: &str) {
        self.online -= 1;
        *self.endings.entry(how.to_owned()).or_default() += 1;
        if let Some(second) = self.second() {
            second.ended += 1;
        }
        if let Some(away) = self.away.get_mut(client) {
            *away = Some(Instant::now());
        }
    }

    pub(super) fn failed(&mut self, why: &str) {
        if let Some(second) = self.second() {
            second.failed += 1;
        }
        *self.troubles.entry(why.to_owned()).or_default() += 1;
        why.clone_into(&mut self.last_trouble);
    }

    pub(super) fn received(&mut self, publisher: usize, number: u32, qos: QoS) {
        let Some(of) = self.arrived.get_mut(publisher) else {
            return;
        };
        let index = number as usize;
        if of.len() <= index {
            of.resize(index + 1, 0);
        }
        let Some(times) = of.get_mut(index) else {
            return;
        };
        *times = times.saturating_add(1);
        match (*times, qos) {
            (1, _) => self.different += 1,
            (_, QoS::ExactlyOnce) => self.again_qos_2 += 1,
            _ => self.again_qos_1 += 1,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Clients.
    pub clients: usize,
    /// Seconds between two messages of one client.
    pub interval_s: f64,
    /// Messages begun.
    pub begun: u64,
    /// Of these, acknowledged.
    pub acknowledged: u64,
    /// Messages received, each counted once.
    pub received: u64,
    /// Acknowledged and not received.
    pub lost: u64,
    /// Received more than once at QoS 2.
    pub twice_at_qos_2: u64,
    /// Received more than once at QoS 1, which may be.
    pub again_at_qos_1: u64,
    /// Messages that the broker refused.
    pub refused: u64,
    /// Sessions that were gone when their clients came back.
    pub sessions_lost: u64,
    /// How connections ended, by what the broker said or the system.
    pub endings: BTreeMap<String, u64>,
    /// Why attempts to connect failed.
    pub troubles: BTreeMap<String, u64>,
    /// Most clients that were let in within one second.
    pub connects_per_second_max: u32,
    /// From the end of a connection to the CONNACK of the next.
    pub away: Percentiles,
    /// What happened in each second.
    pub seconds: Vec<Second>,
}

impl Report {
    pub(super) fn new(counts: &Counts, options: &Options) -> Self {
        Self {
            clients: counts.clients,
            interval_s: options.interval.as_secs_f64(),
            begun: counts.begun,
            acknowledged: counts.acknowledged,
            received: counts.different,
            lost: counts.acknowledged.saturating_sub(counts.different),
            twice_at_qos_2: counts.again_qos_2,
            again_at_qos_1: counts.again_qos_1,
            refused: counts.refused,
            sessions_lost: counts.sessions_lost,
            endings: counts.endings.clone(),
            troubles: counts.troubles.clone(),
            connects_per_second_max: counts
                .seconds
                .iter()
                .map(|second| second.connected)
                .max()
                .unwrap_or(0),
            away: counts.away_time.percentiles(),
            seconds: counts.seconds.clone(),
        }
    }

    /// Whether the brokers kept what they must.
    ///
    /// # Errors
    /// With what they did not keep.
    pub fn verdict(&self) -> Result<(), Error> {
        let unacknowledged = self.begun - self.acknowledged - self.refused;
        if self.lost + self.twice_at_qos_2 + self.sessions_lost + self.refused + unacknowledged == 0
        {
            return Ok(());
        }
        Err(Error::WrongCounts(format!(
            "{} messages lost, {} twice at QoS 2, {} refused, {unacknowledged} not acknowledged, {} sessions lost",
            self.lost, self.twice_at_qos_2, self.refused, self.sessions_lost
        )))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "second  connected  ended  failed")?;
        for (at, second) in self.seconds.iter().enumerate() {
            let Second {
                connected,
                ended,
                failed,
            } = second;
            if connected + ended + failed > 0 {
                writeln!(f, "{at:>6}  {connected:>9}  {ended:>5}  {failed:>6}")?;
            }
        }
        for (how, count) in &self.endings {
            writeln!(f, "ended: {how}: {count}")?;
        }
        for (why, count) in &self.troubles {
            writeln!(f, "failed: {why}: {count}")?;
        }
        let [median, p99, max] =
            [self.away.p50_us, self.away.p99_us, self.away.max_us].map(|us| us / 1000.0);
        writeln!(
            f,
            "connections per second: {} at the most; away: median {median:.0} ms, 99 % {p99:.0} ms, longest {max:.0} ms",
            self.connects_per_second_max
        )?;
        writeln!(
            f,
            "{} clients: {} messages begun, {} acknowledged, {} received, {} lost, {} twice at QoS 2, {} again at QoS 1, {} sessions lost",
            self.clients,
            self.begun,
            self.acknowledged,
            self.received,
            self.lost,
            self.twice_at_qos_2,
            self.again_at_qos_1,
            self.sessions_lost
        )
    }
}
