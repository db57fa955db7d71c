//! What a run of benchmarks found: medians, and how far the runs lie apart.

use std::fmt;

use dunlin_protocol::Version;
use serde::Serialize;

use super::machine::Machine;
use super::measure::Outcome;
use super::plan::{Plan, Shape, Workload};
use crate::error::Error;
use crate::latency::human_us;

/// A run, as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// On which machine, and when.
    pub machine: Machine,
    /// Brokers and what they say of their versions, in the order of measuring.
    pub brokers: Vec<(String, String)>,
    /// MQTT version.
    pub mqtt: String,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Processors of the broker and of the load generator, where they were pinned.
    pub pinned: Option<(usize, usize)>,
    /// By workload and broker.
    pub summaries: Vec<Summary>,
    /// Every measurement.
    pub outcomes: Vec<Outcome>,
}

/// The runs of one workload on one broker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The workload.
    pub workload: Workload,
    /// The broker.
    pub broker: String,
    /// How many runs.
    pub runs: usize,
    /// CPU time of the broker per delivered message (idle: per connect), in microseconds.
    pub cpu_us: Option<Spread>,
    /// Its CPU time in parts of that of the last broker.
    pub cpu_ratio: Option<f64>,
    /// Deliveries per second.
    pub delivered_per_s: Spread,
    /// Median latency, in microseconds.
    pub p50_us: Spread,
    /// 99 of 100, in microseconds.
    pub p99_us: Spread,
    /// CPU time of the load generator per delivered message, in microseconds.
    pub own_cpu_us: Spread,
    /// Context switches of the broker per thousand deliveries.
    pub switches_per_thousand: Option<Spread>,
    /// Idle: memory of the broker per connection that is no file's, in bytes.
    pub bytes_per_connection: Option<Spread>,
    /// Over all runs.
    pub lost: u64,
    /// Over all runs.
    pub duplicated: u64,
    /// Over all runs.
    pub reordered: u64,
}

/// A figure over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle run.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        machine: Machine,
        brokers: Vec<(String, String)>,
        outcomes: Vec<Outcome>,
    ) -> Self {
        let mut summaries: Vec<Summary> = Vec::new();
        for workload in &plan.workloads {
            let first = summaries.len();
            summaries.extend(brokers.iter().filter_map(|(broker, _)| {
                let of = outcomes
                    .iter()
                    .filter(|outcome| outcome.broker == *broker && outcome.workload == *workload);
                summary(*workload, broker, &of.collect::<Vec<_>>())
            }));
            let cost = |summary: &Summary| {
                summary
                    .cpu_us
                    .map(|cpu| cpu.median)
                    .filter(|cpu| *cpu > 0.0)
            };
            let reference = summaries
                .get(first..)
                .and_then(<[Summary]>::last)
                .and_then(cost);
            for summary in summaries.iter_mut().skip(first) {
                summary.cpu_ratio = cost(summary).zip(reference).map(|(own, other)| own / other);
            }
        }
        Self {
            machine,
            brokers,
            mqtt: if plan.version == Version::V5 {
                "5.0".to_owned()
            } else {
                "3.1.1".to_owned()
            },
            payload_bytes: plan.payload_bytes,
            pinned: plan.pinned,
            summaries,
            outcomes,
        }
    }

    /// Whether QoS 1 and 2 lost nothing and QoS 2 repeated nothing.
    ///
    /// # Errors
    /// [`Error::WrongCounts`] with all that is wrong.
    pub fn check_counts(&self) -> Result<(), Error> {
        let wrong: Vec<String> = self
            .summaries
            .iter()
            .filter(|one| {
                (one.workload.qos > 0 && one.lost > 0)
                    || (one.workload.qos == 2 && one.duplicated > 0)
            })
            .map(|one| {
                format!(
                    "{} on {}: {} lost, {} repeated",
                    one.workload.name(),
                    one.broker,
                    one.lost,
                    one.duplicated
                )
            })
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::WrongCounts(wrong.join("; ")))
        }
    }

    /// `2026-11-21T06-30-00Z-abc123.json`
    #[must_use]
    pub fn file_name(&self) -> String {
        format!(
            "{}-{}.json",
            self.machine.date.replace(':', "-"),
            self.machine.commit
        )
    }
}

fn summary(workload: Workload, broker: &str, outcomes: &[&Outcome]) -> Option<Summary> {
    let spread =
        |value: fn(&Outcome) -> f64| Spread::of(outcomes.iter().map(|outcome| value(outcome)));
    let known = |value: fn(&Outcome) -> Option<f64>| {
        Spread::of(outcomes.iter().filter_map(|outcome| value(outcome)))
    };
    let sum = |value: fn(&Outcome) -> u64| outcomes.iter().map(|outcome| value(outcome)).sum();
    Some(Summary {
        workload,
        broker: broker.to_owned(),
        runs: outcomes.len(),
        cpu_us: known(|outcome| outcome.cpu_us),
        cpu_ratio: None,
        delivered_per_s: spread(|outcome| outcome.delivered_per_s)?,
        p50_us: spread(|outcome| outcome.latency.p50_us)?,
        p99_us: spread(|outcome| outcome.latency.p99_us)?,
        own_cpu_us: spread(|outcome| outcome.own_cpu_us)?,
        switches_per_thousand: known(|outcome| {
            let usage = outcome.broker_usage?;
            let switches = usage.switches_voluntary + usage.switches_involuntary;
            Some(switches as f64 * 1000.0 / outcome.delivered.max(1) as f64)
        }),
        bytes_per_connection: known(|outcome| {
            outcome.bytes_per_connection.map(|memory| memory.anonymous)
        }),
        lost: sum(|outcome| outcome.lost),
        duplicated: sum(|outcome| outcome.duplicated),
        reordered: sum(|outcome| outcome.reordered),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "{}, {} processors, Linux {}, load {}, commit {}, {}",
            machine.processor,
            machine.processors,
            machine.kernel,
            machine.load,
            machine.commit,
            machine.date
        )?;
        for (broker, version) in self
            .brokers
            .iter()
            .filter(|(_, version)| !version.is_empty())
        {
            writeln!(out, "{broker}: {version}")?;
        }
        let pinned = match self.pinned {
            Some((broker, own)) => format!("broker on processor {broker}, load on {own}"),
            None => "nothing pinned".to_owned(),
        };
        writeln!(
            out,
            "MQTT {}, payload {} bytes, {pinned}; medians",
            self.mqtt, self.payload_bytes
        )?;
        let (idle, steady): (Vec<_>, Vec<_>) = self
            .summaries
            .iter()
            .partition(|summary| summary.workload.shape == Shape::Idle);
        if !steady.is_empty() {
            write_steady(out, &steady)?;
        }
        if !idle.is_empty() {
            write_idle(out, &idle)?;
        }
        Ok(())
    }
}

fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

fn range(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |spread| format!("{:.2}-{:.2}", spread.min, spread.max),
    )
}

fn write_steady(out: &mut fmt::Formatter<'_>, summaries: &[&Summary]) -> fmt::Result {
    writeln!(
        out,
        "\n{:<34} {:<12} {:>10} {:>9} {:>13} {:>6} {:>7} {:>9} {:>10} {:>10} {:>6} {:>6} {:>6}",
        "workload",
        "broker",
        "msg/s",
        "µs/msg",
        "min-max",
        "ratio",
        "own µs",
        "switches",
        "p50",
        "p99",
        "lost",
        "again",
        "late"
    )?;
    for one in summaries {
        writeln!(
            out,
            "{:<34} {:<12} {:>10.0} {:>9} {:>13} {:>6} {:>7.2} {:>9} {:>10} {:>10} {:>6} {:>6} {:>6}",
            one.workload.name(),
            one.broker,
            one.delivered_per_s.median,
            optional(one.cpu_us.map(|cpu| cpu.median), 2),
            range(one.cpu_us),
            optional(one.cpu_ratio, 2),
            one.own_cpu_us.median,
            optional(one.switches_per_thousand.map(|switches| switches.median), 1),
            human_us(one.p50_us.median),
            human_us(one.p99_us.median),
            one.lost,
            one.duplicated,
            one.reordered
        )?;
    }
    writeln!(
        out,
        "µs/msg: CPU time of the broker per delivered message; ratio: to the last broker; own µs: the load generator's;\n\
         switches: context switches of the broker per 1000 messages; again, late: repeated, reordered"
    )
}

fn write_idle(out: &mut fmt::Formatter<'_>, summaries: &[&Summary]) -> fmt::Result {
    writeln!(
        out,
        "\n{:<34} {:<12} {:>18} {:>18}",
        "connections", "broker", "bytes each", "µs CPU to connect"
    )?;
    for one in summaries {
        writeln!(
            out,
            "{:<34} {:<12} {:>18} {:>18}",
            one.workload.name(),
            one.broker,
            optional(one.bytes_per_connection.map(|bytes| bytes.median), 0),
            optional(one.cpu_us.map(|cpu| cpu.median), 1)
        )?;
    }
    writeln!(
        out,
        "bytes each: the broker's anonymous memory; the kernel's socket buffers are not in it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }
}
