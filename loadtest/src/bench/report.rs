//! What a run of benchmarks found: medians, and how far the runs lie apart.

mod table;

use dunlin_protocol::Version;
use serde::{Deserialize, Serialize};

use super::goal::Verdict;
use super::machine::Machine;
use super::measure::Outcome;
use super::plan::{CostLimit, Plan, Workload};
use crate::error::Error;
use crate::latency::Percentiles;

/// A run, as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// On which machine, and when.
    pub machine: Machine,
    /// Brokers and what they say of their versions, in the order of measuring.
    pub brokers: Vec<(String, String)>,
    /// MQTT version.
    pub mqtt: String,
    /// Processors of the broker and of the load generator, where they were pinned.
    pub pinned: Option<(usize, usize)>,
    /// By workload and broker.
    pub summaries: Vec<Summary>,
    /// What was asked for, and what came of it.
    pub verdicts: Vec<Verdict>,
    /// Every measurement.
    pub outcomes: Vec<Outcome>,
}

/// The runs of one workload on one broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The workload.
    pub workload: Workload,
    /// The broker.
    pub broker: String,
    /// How many runs.
    pub runs: usize,
    /// CPU time of the broker per delivered message (idle: per connect), in microseconds.
    pub cpu_us: Option<Spread>,
    /// The same by role.
    pub roles: Vec<(String, Spread)>,
    /// Its CPU time in parts of that of the last broker.
    pub cpu_ratio: Option<f64>,
    /// Deliveries per second.
    pub delivered_per_s: Spread,
    /// From when a message was due until it was delivered.
    pub latency: Quantiles,
    /// QoS 1 and 2: from when a message was due until its PUBACK or PUBREC.
    pub ack_latency: Option<Quantiles>,
    /// CPU time of the load generator per delivered message, in microseconds.
    pub own_cpu_us: Spread,
    /// Context switches of the broker per thousand deliveries.
    pub switches_per_thousand: Option<Spread>,
    /// The part of all processors' time, from 0 to 1, that somebody else used.
    pub others: Option<Spread>,
    /// By how many bytes its memory grew, where messages flow.
    #[serde(default)]
    pub grown: Option<Spread>,
    /// Memory of the broker per idle connection or stored retained message that is no file's, in bytes.
    pub bytes_each: Option<Spread>,
    /// Over all runs.
    pub lost: u64,
    /// Over all runs.
    pub duplicated: u64,
    /// Over all runs.
    pub reordered: u64,
}

/// Latencies over several runs, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are below.
    pub p50_us: Spread,
    /// 99 of 100 are below.
    pub p99_us: Spread,
    /// 999 of 1000 are below.
    pub p999_us: Spread,
}

impl Quantiles {
    /// `None` where nothing was counted.
    fn of(outcomes: &[&Outcome], which: fn(&Outcome) -> Percentiles) -> Option<Self> {
        let found: Vec<Percentiles> = outcomes.iter().map(|outcome| which(outcome)).collect();
        let counted = found.iter().any(|one| one.count > 0);
        let spread = |value: fn(&Percentiles) -> f64| {
            Spread::of(found.iter().map(value)).filter(|_| counted)
        };
        Some(Self {
            p50_us: spread(|one| one.p50_us)?,
            p99_us: spread(|one| one.p99_us)?,
            p999_us: spread(|one| one.p999_us)?,
        })
    }
}

/// A figure over several runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle run.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
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
        let mqtt = if plan.version == Version::V5 {
            "5.0"
        } else {
            "3.1.1"
        };
        let workloads = &plan.workloads;
        let mut report = Self::of(workloads, mqtt, plan.pinned, machine, brokers, outcomes);
        let goals = plan.goals.iter();
        report.verdicts = goals
            .map(|(workload, goal)| goal.judge(*workload, &report.outcomes))
            .collect();
        report
    }

    pub(super) fn of(
        workloads: &[Workload],
        mqtt: &str,
        pinned: Option<(usize, usize)>,
        machine: Machine,
        brokers: Vec<(String, String)>,
        outcomes: Vec<Outcome>,
    ) -> Self {
        let mut summaries: Vec<Summary> = Vec::new();
        for workload in workloads {
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
            mqtt: mqtt.to_owned(),
            pinned,
            summaries,
            verdicts: Vec::new(),
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

    /// Whether everything that was asked for was found.
    ///
    /// # Errors
    /// [`Error::TooDear`] with all that was not.
    pub fn check_goals(&self) -> Result<(), Error> {
        let wrong: Vec<String> = self
            .verdicts
            .iter()
            .filter(|verdict| !verdict.is_met())
            .map(|verdict| {
                format!(
                    "{}: {}, found {}",
                    verdict.workload.name(),
                    verdict.asked(),
                    verdict.told()
                )
            })
            .collect();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::TooDear(wrong.join("; ")))
        }
    }

    /// Whether no role costs more than it may.
    ///
    /// # Errors
    /// [`Error::TooDear`] with all that do.
    pub fn check_costs(&self, limits: &[CostLimit]) -> Result<(), Error> {
        let mut wrong = Vec::new();
        for summary in &self.summaries {
            for limit in limits {
                let known = summary.roles.iter().find(|(role, _)| *role == limit.role);
                let cost = match known {
                    Some((_, cost)) => Some(*cost),
                    None if limit.role == CostLimit::ALL => summary.cpu_us,
                    None => None,
                };
                let text = match cost {
                    Some(cost) if cost.median <= limit.cpu_us => continue,
                    Some(cost) => format!("{:.3} µs", cost.median),
                    None => "not known".to_owned(),
                };
                wrong.push(format!(
                    "{} on {}: {} of {} allowed for {}",
                    summary.workload.name(),
                    summary.broker,
                    text,
                    limit.cpu_us,
                    limit.role
                ));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::TooDear(wrong.join("; ")))
        }
    }

    /// `2026-11-21T06-30-00Z-abc123`, to be followed by what kind of file it is.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!(
            "{}-{}",
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
        roles: roles(outcomes),
        cpu_ratio: None,
        delivered_per_s: spread(|outcome| outcome.delivered_per_s)?,
        latency: Quantiles::of(outcomes, |outcome| outcome.latency).unwrap_or_default(),
        ack_latency: Quantiles::of(outcomes, |outcome| outcome.ack_latency),
        own_cpu_us: spread(|outcome| outcome.own_cpu_us)?,
        switches_per_thousand: known(|outcome| {
            let usage = outcome.broker_usage?;
            let switches = usage.switches_voluntary + usage.switches_involuntary;
            Some(switches as f64 * 1000.0 / outcome.delivered.max(1) as f64)
        }),
        others: known(|outcome| outcome.others),
        grown: known(|outcome| outcome.grown),
        bytes_each: known(|outcome| outcome.bytes_each.map(|memory| memory.anonymous)),
        lost: sum(|outcome| outcome.lost),
        duplicated: sum(|outcome| outcome.duplicated),
        reordered: sum(|outcome| outcome.reordered),
    })
}

/// The cost of each role, in the order of the processes.
fn roles(outcomes: &[&Outcome]) -> Vec<(String, Spread)> {
    let first = outcomes.first().map_or(&[][..], |outcome| &outcome.roles);
    first
        .iter()
        .filter_map(|known| {
            let costs = outcomes
                .iter()
                .flat_map(|outcome| &outcome.roles)
                .filter(|cost| cost.role == known.role);
            let spread = Spread::of(costs.map(|cost| cost.cpu_us))?;
            Some((known.role.clone(), spread))
        })
        .collect()
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
