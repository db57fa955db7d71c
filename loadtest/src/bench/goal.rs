//! What a scenario asks of brokers, and whether a run shows it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::compare::Figure;
use super::plan::Workload;
use super::report::Spread;

/// Name of the broker that is the floor of a machine.
pub(crate) const RELAY: &str = "relay";

/// A bound of one figure of one broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// Of what.
    pub figure: Figure,
    /// Whose.
    pub broker: String,
    /// In parts of the same figure of this broker.
    #[serde(default)]
    pub of: Option<String>,
    /// What the relay needed where the bound comes from: the figure is scaled to that machine.
    #[serde(default)]
    pub relay: Option<f64>,
    /// The greatest value that is good.
    #[serde(default)]
    pub most: Option<f64>,
    /// The least value that is good.
    #[serde(default)]
    pub least: Option<f64>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The workload.
    pub workload: Workload,
    /// What was asked for.
    pub goal: Goal,
    /// The median, the least and the greatest of the repetitions; `None` when it was not measured.
    pub found: Option<Spread>,
}

impl Goal {
    /// What is wrong with it, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let bounds = [self.most, self.least, self.relay];
        if self.most.is_none() && self.least.is_none() {
            Some("a goal has neither `most` nor `least`".to_owned())
        } else if bounds
            .iter()
            .flatten()
            .any(|bound| !(bound.is_finite() && *bound > 0.0))
        {
            Some("the bounds of a goal must be above 0".to_owned())
        } else if self.of.is_some() && self.relay.is_some() {
            Some("a goal has `of` or `relay`, not both".to_owned())
        } else {
            None
        }
    }

    /// Judges by the outcomes of a run. What stands in parts of something else is taken from repetitions that came
    /// one after the other, so that what the machine did besides falls on both.
    pub(crate) fn judge(&self, workload: Workload, outcomes: &[Outcome]) -> Verdict {
        let of = |broker: &str| -> Vec<Option<f64>> {
            let same =
                |outcome: &&Outcome| outcome.workload == workload && outcome.broker == broker;
            let outcomes = outcomes.iter().filter(same);
            outcomes.map(|outcome| self.figure.of(outcome)).collect()
        };
        let own = of(&self.broker);
        let by = match (&self.of, self.relay) {
            (Some(other), _) => Some((of(other), 1.0)),
            (None, Some(there)) => Some((of(RELAY), there)),
            (None, None) => None,
        };
        let values: Vec<f64> = match by {
            None => own.into_iter().flatten().collect(),
            Some((other, scale)) => own
                .into_iter()
                .zip(other)
                .filter_map(|(own, other)| Some(own? / other? * scale))
                .collect(),
        };
        Verdict {
            workload,
            goal: self.clone(),
            found: Spread::of(values),
        }
    }
}

impl Verdict {
    /// Whether the median is within the bounds. What was not measured is not.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.found.is_some_and(|found| {
            self.goal.most.is_none_or(|most| found.median <= most)
                && self.goal.least.is_none_or(|least| found.median >= least)
        })
    }

    /// What was asked for: `CPU µs each of dunlin in parts of mosquitto: at most 0.1`.
    #[must_use]
    pub fn asked(&self) -> String {
        let goal = &self.goal;
        let mut text = format!("{} of {}", goal.figure.name(), goal.broker);
        if let Some(other) = &goal.of {
            text += &format!(" in parts of {other}'s");
        }
        if let Some(there) = goal.relay {
            text += &format!(", scaled to where the relay needs {there}");
        }
        let bounds = [("at most", goal.most), ("at least", goal.least)];
        let bounds: Vec<String> = bounds
            .iter()
            .filter_map(|(name, bound)| Some(format!("{name} {}", (*bound)?)))
            .collect();
        text + ": " + &bounds.join(", ")
    }

    /// What was found: `0.043 (0.041-0.05)`.
    #[must_use]
    pub fn told(&self) -> String {
        self.found.map_or_else(
            || "not measured".to_owned(),
            |found| {
                let Spread { median, min, max } = found;
                format!("{} ({}-{})", short(median), short(min), short(max))
            },
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:<7} {:<40} {:<88} {}",
            if self.is_met() { "met" } else { "NOT MET" },
            self.workload.name(),
            self.asked(),
            self.told()
        )
    }
}

fn short(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Shape;
    use crate::proc::Usage;

    fn goal(text: &str) -> Goal {
        toml::from_str(text).unwrap()
    }

    fn outcomes() -> Vec<Outcome> {
        let workload = Workload::new(Shape::FanIn, 10, 1);
        let costs = [
            ("a", [1.0, 2.0, 6.0]),
            ("b", [10.0, 10.0, 20.0]),
            (RELAY, [0.5, 0.5, 1.0]),
        ];
        let one = |broker: &str, cost: f64| {
            let mut outcome = Outcome::new(broker, workload, 1.0, 1000, Usage::default());
            outcome.cpu_us = Some(cost);
            outcome
        };
        (0..3)
            .flat_map(|run| costs.map(|(broker, costs)| one(broker, costs[run])))
            .collect()
    }

    fn judge(text: &str) -> Verdict {
        goal(text).judge(Workload::new(Shape::FanIn, 10, 1), &outcomes())
    }

    #[test]
    fn the_median_is_what_counts() {
        let verdict = judge("figure = \"cpu\"\nbroker = \"a\"\nmost = 2.0");
        let found = verdict.found.unwrap();
        assert_eq!((found.median, found.min, found.max), (2.0, 1.0, 6.0));
        assert!(verdict.is_met());
        assert!(!judge("figure = \"cpu\"\nbroker = \"a\"\nmost = 1.9").is_met());
        assert!(judge("figure = \"per-second\"\nbroker = \"a\"\nleast = 1000").is_met());
        assert!(!judge("figure = \"per-second\"\nbroker = \"a\"\nleast = 1001").is_met());
    }

    #[test]
    fn parts_of_another_are_of_the_same_repetition() {
        let verdict = judge("figure = \"cpu\"\nbroker = \"a\"\nof = \"b\"\nmost = 0.2");
        let found = verdict.found.unwrap();
        assert_eq!((found.median, found.min, found.max), (0.2, 0.1, 0.3));
        assert!(verdict.is_met());
        assert!(verdict.to_string().contains("in parts of b's: at most 0.2"));
        // Where the relay needs twice as much, so does this.
        let verdict = judge("figure = \"cpu\"\nbroker = \"a\"\nrelay = 1.0\nmost = 3.9");
        assert_eq!(verdict.found.unwrap().median, 4.0);
        assert!(!verdict.is_met());
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        for text in [
            "figure = \"cpu\"\nbroker = \"nobody\"\nmost = 1.0",
            "figure = \"cpu\"\nbroker = \"a\"\nof = \"nobody\"\nmost = 1.0",
            "figure = \"bytes\"\nbroker = \"a\"\nmost = 1.0",
        ] {
            let verdict = judge(text);
            assert!(!verdict.is_met() && verdict.told() == "not measured");
        }
    }

    #[test]
    fn a_goal_that_makes_no_sense_is_told() {
        let problem = |text: &str| goal(text).problem();
        assert!(problem("figure = \"p99\"\nbroker = \"a\"\nof = \"b\"\nmost = 1.0").is_none());
        assert!(problem("figure = \"p99\"\nbroker = \"a\"").is_some());
        assert!(problem("figure = \"p99\"\nbroker = \"a\"\nmost = -1.0").is_some());
        assert!(
            problem("figure = \"p50\"\nbroker = \"a\"\nmost = 1\nof = \"b\"\nrelay = 1").is_some()
        );
        assert!(toml::from_str::<Goal>("figure = \"speed\"\nbroker = \"a\"").is_err());
    }
}
