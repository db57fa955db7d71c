//! Two saved runs side by side: how a figure of the one stands to that of the other, and how sure that is.

mod table;

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::report::{Report, Spread, Summary};
use super::{Outcome, Workload};
use crate::error::Error;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// CPU time of the broker for each message, connection or visit.
    Cpu,
    /// Messages or visits in a second.
    PerSecond,
    /// Half of the latencies are below.
    P50,
    /// 99 of 100 latencies are below.
    P99,
    /// Memory for each connection or retained message.
    Bytes,
}

impl Figure {
    /// All, in the order of the table.
    pub const ALL: [Self; 5] = [
        Self::Cpu,
        Self::PerSecond,
        Self::P50,
        Self::P99,
        Self::Bytes,
    ];

    /// Its name and unit.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU µs each",
            Self::PerSecond => "per second",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::Bytes => "bytes each",
        }
    }

    pub(super) fn of(self, outcome: &Outcome) -> Option<f64> {
        let found = match self {
            Self::Cpu => outcome.cpu_us?,
            Self::PerSecond => outcome.delivered_per_s,
            Self::P50 => outcome.latency.p50_us,
            Self::P99 => outcome.latency.p99_us,
            Self::Bytes => outcome.bytes_each?.anonymous,
        };
        (found > 0.0).then_some(found)
    }
}

/// How a figure of the second run stands to that of the first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Of what.
    pub figure: Figure,
    /// In the first run.
    pub first: Spread,
    /// In the second.
    pub second: Spread,
    /// The median of the second by that of the first; the least and the greatest that a repetition of the one
    /// and a repetition of the other give.
    pub ratio: Spread,
    /// Repetitions of that with fewer.
    runs: usize,
}

/// With fewer repetitions on a side, that they do not overlap says nothing.
const RUNS_MIN: usize = 3;

impl Ratio {
    fn of(figure: Figure, first: &[&Outcome], second: &[&Outcome]) -> Option<Self> {
        let runs = first.len().min(second.len());
        let values = |outcomes: &[&Outcome]| {
            Spread::of(outcomes.iter().filter_map(|outcome| figure.of(outcome)))
        };
        let (first, second) = (values(first)?, values(second)?);
        Some(Self {
            figure,
            first,
            second,
            ratio: Spread {
                median: second.median / first.median,
                min: second.min / first.max,
                max: second.max / first.min,
            },
            runs,
        })
    }

    /// Whether every repetition of the one is on the same side of every repetition of the other, of at least three.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.runs >= RUNS_MIN && (self.ratio.min > 1.0 || self.ratio.max < 1.0)
    }
}

/// One workload in both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The workload.
    pub workload: Workload,
    /// The broker in the first run, and that in the second.
    pub brokers: (String, String),
    /// Repetitions in each.
    pub runs: (usize, usize),
    /// What both have measured.
    pub ratios: Vec<Ratio>,
}

/// Two runs side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What is known of the first and the second, for people.
    pub titles: (String, String),
    /// Circumstances that are not the same in both: the ratios may come from them.
    pub differences: Vec<String>,
    /// Workloads that both have.
    pub lines: Vec<Line>,
    /// Workloads that only one has.
    pub alone: usize,
}

impl Report {
    /// Reads a saved run.
    ///
    /// # Errors
    /// [`Error::ScenarioUnreadable`] when there is no such file, [`Error::Data`] when it is not a run of
    /// this version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::ScenarioUnreadable {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|problem| Error::Data {
            name: path.display().to_string(),
            problem: format!(
                "this is no run that this version of `loadtest bench` has saved: {problem}"
            ),
        })
    }
}

impl Comparison {
    /// Compares what both have. `brokers`: one of the first with one of the second; without it, each with the
    /// one of its own name, or the only one of each.
    ///
    /// # Errors
    /// [`Error::Option`] when there is nothing that both have.
    pub fn of(
        first: &Report,
        second: &Report,
        brokers: Option<(&str, &str)>,
    ) -> Result<Self, Error> {
        let pairs = pairs(first, second, brokers)?;
        let mut lines = Vec::new();
        let mut met = 0;
        for (one, other) in &pairs {
            for of_one in first.summaries.iter().filter(|of| of.broker == *one) {
                let same = |of: &&Summary| of.broker == *other && of.workload == of_one.workload;
                if second.summaries.iter().any(|of| same(&of)) {
                    met += 1;
                    lines.push(line(first, second, of_one.workload, (one, other)));
                }
            }
        }
        if lines.is_empty() {
            return Err(Error::Option(
                "there is no workload that both runs have measured".to_owned(),
            ));
        }
        let of = |report: &Report, name: fn(&(String, String)) -> &String| {
            let asked = |summary: &&Summary| pairs.iter().any(|pair| *name(pair) == summary.broker);
            report.summaries.iter().filter(asked).count()
        };
        Ok(Self {
            titles: (title(first), title(second)),
            differences: differences(first, second),
            alone: of(first, |pair| &pair.0) + of(second, |pair| &pair.1) - 2 * met,
            lines,
        })
    }

    /// Whether nothing costs surely more CPU time than `limit` times what it did: every repetition of the
    /// second run above every one of the first, and the median by more than the limit.
    ///
    /// # Errors
    /// [`Error::TooDear`] with all that do.
    pub fn check(&self, limit: f64) -> Result<(), Error> {
        let mut wrong = Vec::new();
        for line in &self.lines {
            let costs = line.ratios.iter().filter(|one| one.figure == Figure::Cpu);
            for cost in costs.filter(|cost| cost.is_sure() && cost.ratio.median > limit) {
                wrong.push(format!(
                    "{} on {}: {:.2} times as much ({:.2}-{:.2}), {limit} allowed",
                    line.workload.name(),
                    line.brokers.1,
                    cost.ratio.median,
                    cost.ratio.min,
                    cost.ratio.max
                ));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::TooDear(wrong.join("; ")))
        }
    }
}

/// Which broker is compared with which.
fn pairs(
    first: &Report,
    second: &Report,
    brokers: Option<(&str, &str)>,
) -> Result<Vec<(String, String)>, Error> {
    let has = |report: &Report, name: &str| report.brokers.iter().any(|(known, _)| known == name);
    if let Some((one, other)) = brokers {
        for (report, name, which) in [(first, one, "first"), (second, other, "second")] {
            if !has(report, name) {
                let known: Vec<&str> = report.brokers.iter().map(|(name, _)| &**name).collect();
                return Err(Error::Option(format!(
                    "the {which} run has no broker {name:?}; it has {}",
                    known.join(", ")
                )));
            }
        }
        return Ok(vec![(one.to_owned(), other.to_owned())]);
    }
    let same: Vec<(String, String)> = first
        .brokers
        .iter()
        .filter(|(name, _)| has(second, name))
        .map(|(name, _)| (name.clone(), name.clone()))
        .collect();
    if !same.is_empty() {
        return Ok(same);
    }
    match (&first.brokers[..], &second.brokers[..]) {
        ([(one, _)], [(other, _)]) => Ok(vec![(one.clone(), other.clone())]),
        _ => Err(Error::Option(
            "no broker is in both runs: name one of each with --brokers ONE,OTHER".to_owned(),
        )),
    }
}

fn line(first: &Report, second: &Report, workload: Workload, brokers: (&str, &str)) -> Line {
    let one = outcomes(first, workload, brokers.0);
    let other = outcomes(second, workload, brokers.1);
    let ratios = Figure::ALL.iter();
    Line {
        workload,
        brokers: (brokers.0.to_owned(), brokers.1.to_owned()),
        runs: (one.len(), other.len()),
        ratios: ratios
            .filter_map(|figure| Ratio::of(*figure, &one, &other))
            .collect(),
    }
}

fn outcomes<'a>(report: &'a Report, workload: Workload, broker: &str) -> Vec<&'a Outcome> {
    let of = report.outcomes.iter();
    of.filter(|outcome| outcome.workload == workload && outcome.broker == broker)
        .collect()
}

fn title(report: &Report) -> String {
    let machine = &report.machine;
    format!("commit {}, {}", machine.commit, machine.date)
}

fn differences(first: &Report, second: &Report) -> Vec<String> {
    let (one, other) = (&first.machine, &second.machine);
    let mut found = Vec::new();
    let mut look = |what: &str, one: String, other: String| {
        if one != other {
            found.push(format!("{what}: {one} and {other}"));
        }
    };
    look("processor", one.processor.clone(), other.processor.clone());
    look(
        "processors",
        one.processors.to_string(),
        other.processors.to_string(),
    );
    look("kernel", one.kernel.clone(), other.kernel.clone());
    look("MQTT", first.mqtt.clone(), second.mqtt.clone());
    let pinned = |report: &Report| format!("{:?}", report.pinned);
    look("pinned", pinned(first), pinned(second));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Machine, Shape};
    use crate::proc::Usage;

    /// A run with so much CPU time for each message of a workload, in several repetitions.
    fn report(broker: &str, costs: &[(usize, &[f64])]) -> Report {
        let mut outcomes = Vec::new();
        let mut workloads = Vec::new();
        for (clients, costs) in costs {
            let workload = Workload::new(Shape::FanIn, *clients, 1);
            workloads.push(workload);
            for cost in *costs {
                let mut outcome = Outcome::new(broker, workload, 1.0, 1000, Usage::default());
                outcome.cpu_us = Some(*cost);
                outcomes.push(outcome);
            }
        }
        let brokers = vec![(broker.to_owned(), String::new())];
        Report::of(&workloads, "5.0", None, Machine::look(), brokers, outcomes)
    }

    #[test]
    fn the_spread_is_what_any_two_repetitions_give() {
        let first = report("a", &[(10, &[2.0, 4.0, 3.0]), (20, &[1.0])]);
        let second = report("a", &[(10, &[6.0, 5.0, 9.0]), (30, &[1.0])]);
        let found = Comparison::of(&first, &second, None).unwrap();
        assert_eq!((found.lines.len(), found.alone), (1, 2));
        let cost = found.lines[0].ratios[0];
        assert_eq!(cost.figure, Figure::Cpu);
        assert_eq!(
            (cost.ratio.median, cost.ratio.min, cost.ratio.max),
            (2.0, 1.25, 4.5)
        );
        assert!(cost.is_sure());
        assert!(found.check(1.9).unwrap_err().to_string().contains("2.00"));
        assert!(found.check(2.1).is_ok());
    }

    #[test]
    fn what_overlaps_is_not_sure_and_no_error() {
        let first = report("a", &[(10, &[2.0, 2.0, 4.0]), (20, &[1.0, 1.0])]);
        let second = report("a", &[(10, &[3.9, 8.0, 8.0]), (20, &[5.0, 5.0])]);
        let found = Comparison::of(&first, &second, None).unwrap();
        for line in &found.lines {
            assert!(!line.ratios[0].is_sure(), "{line:?}");
        }
        assert!(found.check(1.1).is_ok());
    }

    #[test]
    fn brokers_of_other_names_are_compared_when_they_are_named_or_the_only_ones() {
        let (first, second) = (report("a", &[(10, &[2.0])]), report("b", &[(10, &[4.0])]));
        for asked in [None, Some(("a", "b"))] {
            let found = Comparison::of(&first, &second, asked).unwrap();
            assert_eq!(found.lines[0].brokers, ("a".to_owned(), "b".to_owned()));
            assert!(found.to_string().contains("fan-in 10 QoS 1"), "{found}");
        }
        let text = Comparison::of(&first, &second, Some(("a", "c"))).unwrap_err();
        assert!(text.to_string().contains("it has b"), "{text}");
        let other = report("b", &[(11, &[4.0])]);
        assert!(Comparison::of(&first, &other, None).is_err());
    }
}
