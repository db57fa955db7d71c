//! A series of readings: a clock and a join, read step by step.

use std::sync::Arc;

use super::{Join, Tick};
use crate::data::Timestamp;

/// When there are readings.
#[derive(Debug, Clone)]
pub enum Clock {
    /// At the times of a table, row by row.
    Rows(Arc<[Timestamp]>),
    /// Regularly.
    Every {
        /// The first.
        start: Timestamp,
        /// Virtual milliseconds from one to the next.
        interval_ms: i64,
        /// How many.
        count: usize,
    },
}

impl Clock {
    /// The time of a step; `None` after the last.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<Timestamp> {
        match self {
            Self::Rows(times) => times.get(index).copied(),
            Self::Every {
                start,
                interval_ms,
                count,
            } => {
                let steps = i64::try_from(index).ok().filter(|_| index < *count)?;
                Some(Timestamp(
                    interval_ms.checked_mul(steps)?.checked_add(start.0)?,
                ))
            }
        }
    }

    /// How many steps there are, gaps included.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Rows(times) => times.len(),
            Self::Every { count, .. } => *count,
        }
    }

    /// Whether there is no step at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One message to be: when, and the members of its JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Virtual time of the measurement.
    pub at: Timestamp,
    /// JSON members without braces.
    pub fields: Box<str>,
}

/// Readings in the order of their steps. Steps without a value are skipped.
#[derive(Debug)]
pub struct Series {
    clock: Clock,
    join: Join,
    constants: Arc<str>,
    next: usize,
}

impl Series {
    /// `constants` are JSON members that every reading ends with, or empty.
    #[must_use]
    pub fn new(clock: Clock, join: Join, constants: Arc<str>) -> Self {
        Self {
            clock,
            join,
            constants,
            next: 0,
        }
    }
}

impl Iterator for Series {
    type Item = Reading;

    fn next(&mut self) -> Option<Reading> {
        loop {
            let index = self.next;
            let at = self.clock.at(index)?;
            self.next += 1;
            if let Some(fields) = self.join.read(Tick { index, at }, &self.constants) {
                return Some(Reading { at, fields });
            }
        }
    }
}
