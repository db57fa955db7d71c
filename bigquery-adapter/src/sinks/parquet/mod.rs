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

mod answer;
mod compaction;
mod day;
mod encode;
mod journal;
mod layout;
mod open;
mod part;
mod recovery;
mod roller;
mod run;
mod schema;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tests;
mod warehouse;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use day::micros;
pub use run::ParquetSink;
pub use schema::Codec;
pub use warehouse::Rolled;

#[cfg(doc)]
use crate::ledger::Ledger;

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
