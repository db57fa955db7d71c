//! What a fleet did: for people, and the same as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::run::Options;
use super::schedule::Speed;
use super::tally::{Counts, Tally};
use crate::error::Error;
use crate::latency::{Percentiles, human_us};
use crate::scenario::Scenario;

/// The result of a fleet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's file, or `built-in`.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Devices.
    pub devices: usize,
    /// QoS of all messages.
    pub qos: u8,
    /// MQTT version, `3.1.1` or `5.0`.
    pub mqtt: String,
    /// Virtual seconds per real one; `None` for as fast as possible.
    pub speedup: Option<f64>,
    /// Seconds from the first due message to the last acknowledgement.
    pub duration_s: f64,
    /// All messages.
    pub messages: Counts,
    /// The same by station.
    pub stations: Vec<StationReport>,
    /// Connections that broke and were made again.
    pub reconnects: u64,
    /// Of these, without the session that the broker had promised to keep.
    pub sessions_lost: u64,
    /// `due` (open loop) or `sent` (closed loop): the moment latencies are counted from.
    pub latency_counted_from: &'static str,
    /// To the acknowledgement; at QoS 0 to the end of the write.
    pub latency: Percentiles,
    /// The latest reason for a broken connection or a refused message.
    pub last_trouble: Option<String>,
    /// Whether the run was stopped before its end.
    pub interrupted: bool,
}

/// The result of one station.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StationReport {
    /// Its name.
    pub station: String,
    /// Its messages.
    #[serde(flatten)]
    pub messages: Counts,
}

impl Report {
    pub(crate) fn new(
        scenario: &Scenario,
        options: &Options,
        devices: usize,
        tally: &Tally,
        duration: Duration,
        interrupted: bool,
    ) -> Self {
        let speedup = match options.speed {
            Speed::Times(times) => Some(times),
            Speed::AsFastAsPossible => None,
        };
        let stations = scenario.stations.iter().zip(&tally.stations);
        Self {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            devices,
            qos: options.qos as u8,
            mqtt: options.login.version.to_string(),
            speedup,
            duration_s: duration.as_secs_f64(),
            messages: tally.total(),
            stations: stations
                .map(|(station, counts)| StationReport {
                    station: station.name.clone(),
                    messages: *counts,
                })
                .collect(),
            reconnects: tally.reconnects,
            sessions_lost: tally.sessions_lost,
            latency_counted_from: if speedup.is_some() { "due" } else { "sent" },
            latency: tally.latencies.percentiles(),
            last_trouble: tally.last_trouble.clone(),
            interrupted,
        }
    }

    /// Whether every message is acknowledged.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when not, or when the run was interrupted.
    pub fn verdict(&self) -> Result<(), Error> {
        let missing = self.messages.due.saturating_sub(self.messages.acknowledged);
        if missing == 0 && !self.interrupted {
            return Ok(());
        }
        Err(Error::Incomplete {
            missing,
            due: self.messages.due,
            failed: self.messages.failed,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.messages;
        let speed = self
            .speedup
            .map_or("as fast as possible".to_owned(), |times| {
                format!("speed-up {times}")
            });
        writeln!(
            out,
            "fleet {}: {} devices, MQTT {}, QoS {}, {speed}, seed {}",
            self.scenario, self.devices, self.mqtt, self.qos, self.seed
        )?;
        writeln!(
            out,
            "{:<20} {:>10} {:>10} {:>12} {:>8}",
            "station", "due", "sent", "acknowledged", "failed"
        )?;
        let mut line = |name: &str, counts: &Counts| {
            writeln!(
                out,
                "{name:<20} {:>10} {:>10} {:>12} {:>8}",
                counts.due, counts.sent, counts.acknowledged, counts.failed
            )
        };
        for station in &self.stations {
            line(&station.station, &station.messages)?;
        }
        line("all", counts)?;
        if self.qos == 0 {
            writeln!(
                out,
                "QoS 0 is not acknowledged: counted is what was written to a connection"
            )?;
        }
        let rate = if self.duration_s > 0.0 {
            counts.acknowledged as f64 / self.duration_s
        } else {
            0.0
        };
        writeln!(out, "{:.1} s, {rate:.0} messages/s", self.duration_s)?;
        writeln!(
            out,
            "reconnects {}, sessions lost {}, sent again {}, without subscriber {}",
            self.reconnects, self.sessions_lost, counts.resent, counts.no_subscriber
        )?;
        let latency = &self.latency;
        writeln!(
            out,
            "latency, counted from when a message was {}: p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            self.latency_counted_from,
            human_us(latency.p50_us),
            human_us(latency.p90_us),
            human_us(latency.p99_us),
            human_us(latency.p999_us),
            human_us(latency.max_us)
        )?;
        if let Some(trouble) = &self.last_trouble {
            writeln!(out, "last trouble: {trouble}")?;
        }
        if self.interrupted {
            writeln!(out, "interrupted before its end")?;
        }
        Ok(())
    }
}
