//! Sinks: where rows are stored. How to add one: `docs/adding-a-sink.md`.

use crate::batch::Batch;
use crate::error::SinkError;

pub mod bigquery;
#[cfg(test)]
pub(crate) mod conformance;
pub mod parquet;

/// A place that stores batches.
///
/// The contract, which the pipeline relies on:
/// - `commit` returns `Ok` only when every entry of the batch is durable, rows and what is between them alike: it
///   survives the death of the process and of the machine;
/// - a batch is stored as a whole or not at all, also when the process dies in the middle;
/// - after `SinkError::Retry` nothing of the batch is stored and the same batch may be given again; after
///   `SinkError::Fatal` the sink is not called again, and a new process must open it;
/// - batches are stored in the order in which they are given;
/// - opened again, a sink gives back the [ledger](crate::ledger::Ledger) as of the last batch that it has stored.
///
/// All methods may block: a sink has a thread of its own.
pub trait Sink: Send {
    /// Stores a batch.
    ///
    /// # Errors
    /// See the contract.
    fn commit(&mut self, batch: &Batch) -> Result<(), SinkError>;

    /// Called now and then, at the latest a second after the last call of the sink: for what is due by time.
    ///
    /// # Errors
    /// See the contract.
    fn tick(&mut self) -> Result<(), SinkError>;

    /// Makes everything stored visible to readers and lets go of all resources. What cannot be made visible stays
    /// stored, and is when the sink is opened again.
    ///
    /// # Errors
    /// When something has not become visible.
    fn close(self: Box<Self>) -> Result<(), SinkError>;
}
