//! Whether the adapter does its work, part by part.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A part whose state is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Connected to the source and subscribed.
    Source,
    /// Commits reach the journal.
    Journal,
    /// Rows of the journal become Parquet files.
    Parquet,
    /// Rows reach BigQuery.
    BigQuery,
    /// Not shutting down.
    Running,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 5] = [
        Self::Source,
        Self::Journal,
        Self::Parquet,
        Self::BigQuery,
        Self::Running,
    ];

    /// Its name in the readiness answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Journal => "journal",
            Self::Parquet => "parquet",
            Self::BigQuery => "bigquery",
            Self::Running => "running",
        }
    }
}

/// What is wrong at the moment. The adapter is ready when nothing is.
#[derive(Debug, Default)]
pub struct Health {
    problems: Mutex<BTreeMap<Part, String>>,
}

impl Health {
    /// Says what is wrong with a part, or that nothing is.
    pub fn set(&self, part: Part, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => drop(problems.insert(part, problem)),
            None => drop(problems.remove(&part)),
        }
    }

    /// Everything that is wrong.
    #[must_use]
    pub fn problems(&self) -> Vec<(Part, String)> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems
            .iter()
            .map(|(part, problem)| (*part, problem.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stays_until_it_is_taken_back() {
        let health = Health::default();
        health.set(Part::Source, Some("not connected".to_owned()));
        health.set(Part::Journal, Some("disk full".to_owned()));
        health.set(Part::Source, None);
        assert_eq!(health.problems(), [(Part::Journal, "disk full".to_owned())]);
    }
}
