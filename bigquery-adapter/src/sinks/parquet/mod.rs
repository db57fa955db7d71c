//! The embedded warehouse: Parquet files by day, fed through a journal.
//!
//! Why a journal: a Parquet file is only readable when it is complete, so either every acknowledgement would wait for a
//! file of its own, tens of thousands a day, or acknowledged rows would wait in memory. Instead a commit is one append and one
//! sync to the `journal`; every few seconds the rows in it move into a part file. The order of steps that
//! makes every crash harmless:
//!
//! 1. the next segment is created with a snapshot of the ledger, and is durable;
//! 2. the rows of the sealed one are written to a file under `tmp/` and synced, together with the rows of the part that is to grow;
//! 3. the file is renamed into its day, and the directory is synced; the footer says which segments are in it;
//! 4. the sealed segment is removed.
//!
//! A crash before 3 leaves a segment that is rolled at the next start, a crash between 3 and 4 a segment whose number
//! is in the footer of its day's newest part: it is removed without writing its rows again. Compaction only touches parts whose
//! segments are gone.

mod columns;
mod compaction;
mod day;
mod journal;

mod layout;
mod part;
mod recovery;
mod roller;
mod schema;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tests;
mod warehouse;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::{AppendError, SegmentWriter, Snapshot};
use layout::Layout;
use roller::Roller;
use warehouse::PartSizes;

pub(crate) use day::micros;
pub use schema::Codec;
pub use warehouse::Rolled;

use super::Sink;
use crate::batch::{Batch, entries};
use crate::error::{Code, SinkError, WarehouseError};
use crate::health::{Health, Part};
use crate::ledger::Ledger;
use crate::ops::metrics::Metrics;

/// Settings of the warehouse.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its directory; made where there is none.
    pub path: PathBuf,
    /// A segment is sealed when its first row is this old: rows are seen by queries after about this time.
    pub roll_after: Duration,
    /// Or when it has this many bytes.
    pub roll_bytes: u64,
    /// A day's last part grows until it has this many rows.
    pub grow_rows: u64,
    /// Or this many bytes.
    pub grow_bytes: u64,
    /// Whether past days are compacted.
    pub compact: bool,
    /// Rows of a compacted part, at most.
    pub compact_rows: u64,
    /// Bytes of a compacted part, at most.
    pub compact_bytes: u64,
    /// Compression of part files.
    pub compression: Codec,
    /// QoS 1 messages to remember, see [`Ledger`]: as many as may be unacknowledged.
    pub window: u16,
}

/// The open warehouse.
#[derive(Debug)]
pub struct ParquetSink {
    settings: Settings,
    layout: Layout,
    writer: u32,
    ledger: Ledger,
    segment: SegmentWriter,
    /// When the segment got its first row.
    since: Option<Instant>,
    roller: Roller,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// Held as long as the warehouse is open.
    _lock: File,
}

impl ParquetSink {
    /// Opens the warehouse and brings what is left in its journal into part files.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use, or has files that cannot be understood. Nothing is dropped.
    pub fn open(
        settings: Settings,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WarehouseError> {
        let layout = Layout::new(&settings.path);
        let lock = recovery::prepare(&settings.path, &layout)?;
        let sizes = PartSizes {
            grow_rows: settings.grow_rows,
            grow_bytes: settings.grow_bytes,
            compact_rows: settings.compact_rows,
            compact_bytes: settings.compact_bytes,
        };
        let recovered = recovery::recover(&layout, settings.compression, sizes, settings.window)?;
        metrics.recovered_rows.inc_by(recovered.rows);
        let roller = Roller::start(
            recovered.warehouse,
            settings.compact,
            Arc::clone(&health),
            Arc::clone(&metrics),
        )
        .map_err(WarehouseError::path(
            "starting the roller of",
            &settings.path,
        ))?;
        Ok(Self {
            writer: recovered.writer,
            ledger: recovered.ledger,
            segment: recovered.segment,
            since: None,
            roller,
            health,
            metrics,
            _lock: lock,
            settings,
            layout,
        })
    }

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
            let error = append_error(&error, &self.segment);
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

fn append_error(error: &AppendError, segment: &SegmentWriter) -> SinkError {
    let path = segment.path().display();
    match error {
        AppendError::Write(error) => SinkError::Retry {
            code: Code::JOURNAL_WRITE,
            text: format!("writing to {path} failed: {error}"),
        },
        AppendError::Unknown(error) => SinkError::Fatal {
            code: Code::JOURNAL_SYNC,
            text: format!(
                "{path} could not be made durable: {error}; nothing after the last commit was acknowledged"
            ),
        },
    }
}
