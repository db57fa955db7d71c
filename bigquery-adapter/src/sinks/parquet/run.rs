//! The sink at work: commits into the journal, and what is due by time.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::Settings;
use super::answer::judge;
use super::journal::{SegmentWriter, Snapshot};
use super::layout::Layout;
use super::roller::Roller;
use crate::batch::{Batch, entries};
use crate::error::{Code, SinkError};
use crate::health::{Health, Part};
use crate::ledger::Ledger;
use crate::ops::metrics::Metrics;
use crate::sinks::Sink;

/// The open warehouse.
#[derive(Debug)]
pub struct ParquetSink {
    pub(super) settings: Settings,
    pub(super) layout: Layout,
    pub(super) writer: u32,
    pub(super) ledger: Ledger,
    pub(super) segment: SegmentWriter,
    /// When the segment got its first row.
    pub(super) since: Option<Instant>,
    pub(super) roller: Roller,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    /// Held as long as the warehouse is open.
    pub(super) _lock: File,
}

impl ParquetSink {
    /// The ledger as of the last commit.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn is_due(&self) -> bool {
        self.segment.committed() >= self.settings.roll_bytes
            || self
                .since
                .is_some_and(|since| since.elapsed() >= self.settings.roll_after)
    }

    /// Seals the segment when it is due and there is room for it with the roller.
    fn roll_if_due(&mut self) -> Result<(), SinkError> {
        if self.is_due() && self.roller.has_room() {
            self.roll()?;
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), SinkError> {
        let mut ledger = Vec::new();
        self.ledger.encode(&mut ledger);
        let snapshot = Snapshot {
            writer: self.writer,
            number: self.segment.number() + 1,
            ledger: &ledger,
        };
        let next =
            SegmentWriter::create(&self.layout, &snapshot).map_err(|error| SinkError::Retry {
                code: Code::JOURNAL_WRITE,
                text: format!(
                    "beginning segment {} of the journal failed: {error}",
                    snapshot.number
                ),
            })?;
        let sealed = std::mem::replace(&mut self.segment, next);
        self.since = None;
        self.roller.hand_over(sealed.number())
    }

    /// Refuses to let the journal grow without a bound while the roller is stuck.
    fn check_room(&self) -> Result<(), SinkError> {
        if self.segment.committed() < self.settings.roll_bytes.saturating_mul(2) {
            return Ok(());
        }
        Err(SinkError::Retry {
            code: Code::ROLL,
            text: "the journal is full: its rows are not getting into Parquet files fast enough"
                .to_owned(),
        })
    }
}

impl Sink for ParquetSink {
    fn commit(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.roll_if_due()?;
        self.check_room()?;
        let begun = Instant::now();
        if let Err(error) = self.segment.append(batch.as_bytes(), batch.rows()) {
            let error = judge(&error, self.segment.path());
            self.health.set(Part::Journal, Some(error.to_string()));
            return Err(error);
        }
        self.health.set(Part::Journal, None);
        self.metrics.committed(batch, begun.elapsed());
        for entry in entries(batch.as_bytes()) {
            entry
                .and_then(|entry| self.ledger.apply(&entry))
                .map_err(|error| SinkError::Fatal {
                    code: Code::SINK_STOPPED,
                    text: format!("a batch holds what cannot be read back: {error}"),
                })?;
        }
        if self.since.is_none() && batch.rows() > 0 {
            self.since = Some(begun);
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), SinkError> {
        self.roll_if_due()
    }

    fn close(mut self: Box<Self>) -> Result<(), SinkError> {
        let rolled = if self.segment.rows() > 0 {
            self.roll()
        } else {
            Ok(())
        };
        self.roller.close().and(rolled)
    }
}
