//! The contract of a store.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::records::Records;
use crate::{Batch, QueueEntry, Recovered, SessionId, StoreError};

/// A boxed future, so that `Store` can be a trait object.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Number of a submitted batch; rises with every submit. `Ticket(0)` is always durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// When a batch counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After `fdatasync`: survives loss of power.
    #[default]
    Always,
    /// Once the operating system has it, with a `fdatasync` at least this often: survives the death
    /// of the process; a loss of power may take what was acknowledged since the last one.
    Interval(Duration),
    /// Once the operating system has it: survives the death of the process, not a loss of power.
    Os,
}

/// Durable state of one broker.
///
/// - Batches are applied in the order of `submit`, each as a whole.
/// - A committed batch is there after any crash of the process, and after loss of power as far as
///   [`Durability`] says.
/// - Queue sequence numbers begin at 0, rise by order of submission, and are never used twice for a
///   session. After a crash some may be skipped.
/// - After an error other than [`StoreError::InvalidOp`] nothing is accepted any more, every later
///   batch fails, reading still works, and [`health`](Store::health) says why.
pub trait Store: Send + Sync + 'static {
    /// Hands in a batch. Never blocks and never fails: its fate is told to `on_commit`.
    ///
    /// The caller bounds what is under way: see [`pending_bytes`](Store::pending_bytes).
    fn submit(&self, batch: Batch) -> Ticket;

    /// Everything submitted up to and including this ticket is durable, or has failed. It is raised
    /// after the callbacks of those batches have returned.
    fn durable(&self) -> Ticket;

    /// Bytes of memory of batches that are submitted and not yet durable. A broker stops reading
    /// from publishers while this is above its limit.
    fn pending_bytes(&self) -> usize;

    /// Changes whenever [`durable`](Store::durable) rises, which is also when
    /// [`pending_bytes`](Store::pending_bytes) falls. Holds the number of the durable ticket.
    fn watch(&self) -> watch::Receiver<u64>;

    /// A session id that was never handed out, in this run or an earlier one, to a session that was stored.
    fn next_session_id(&self) -> SessionId;

    /// Entries of a queue with `seq >= from_seq`, in order, with gaps where entries were dequeued:
    /// at most `max_entries`, and no more after those read weigh `max_bytes`
    /// ([`Message::size`](crate::Message::size)); one at least if there is any. Sees at least all
    /// that was durable when it was called. Empty for a session that does not exist.
    ///
    /// Must be called within a Tokio runtime, as it may read from the disk on a blocking thread.
    /// Dropping the future is harmless.
    ///
    /// # Errors
    ///
    /// Damaged or unreadable data.
    fn read_queue(
        &self,
        session: SessionId,
        from_seq: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> BoxFuture<Result<Vec<QueueEntry>, StoreError>>;

    /// What was found when the store was opened; once.
    ///
    /// # Errors
    ///
    /// [`StoreError::AlreadyRecovered`] on the second call.
    fn recover(&self) -> Result<Recovered, StoreError>;

    /// The records that it keeps, besides.
    fn records(&self) -> Arc<dyn Records>;

    /// Whether the store still takes changes.
    ///
    /// # Errors
    ///
    /// Why it does not.
    fn health(&self) -> Result<(), StoreError>;

    /// Commits everything submitted so far, then takes nothing more: later batches fail with
    /// [`StoreError::Closed`]. Blocks until that is done; must not be called from a callback.
    ///
    /// # Errors
    ///
    /// The error that had stopped the store before, if any.
    fn close(&self) -> Result<(), StoreError>;
}

/// Resolves when `ticket` is durable or has failed; `false` if the store has stopped before.
///
/// Cancel safe.
pub async fn wait_durable(store: &dyn Store, ticket: Ticket) -> bool {
    let mut watch = store.watch();
    watch.wait_for(|durable| *durable >= ticket.0).await.is_ok()
}
