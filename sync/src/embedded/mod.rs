//! The store on a local directory.
//!
//! Everything is kept in the tables of an embedded storage engine (fjall, a log-structured merge
//! tree): a round of batches is one engine batch, written to its journal and flushed before anybody
//! is told. What the engine would pass over in silence is checked here: see [`journal`],
//! [`manifest`] and [`acknowledged`].

mod acknowledged;
mod journal;
mod keys;
mod layout;
mod manifest;
mod records;
mod recover;
mod sweep;
mod tables;
pub(crate) mod values;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::Readable;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use self::acknowledged::{Acknowledged, Mark};
use self::layout::Layout;
use self::tables::{Tables, read_error};
use self::values::StoredEntry;
use self::writer::Writer;
use crate::pipeline::Pipeline;
use crate::records::{Listeners, Records};
use crate::{
    Batch, BoxFuture, Delivery, Durability, Message, QueueEntry, QueueState, Recovered, SessionId,
    Store, StoreError, Ticket,
};

/// How an [`EmbeddedStore`] is opened.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// When a batch counts as durable. Default [`Durability::Always`].
    pub durability: Durability,
    /// Bytes of table blocks that are kept in memory for reading. Default 16 MiB.
    pub cache_bytes: u64,
    /// Bytes of changes to queues that gather in memory before they are written as a table, and a
    /// quarter of it for changes to sessions, retained messages, wills, shared messages and records each. Default
    /// 32 MiB. Worst memory, when the disk is slow: about four times this for each of the six.
    /// Takes effect when the store is created.
    pub write_buffer_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            cache_bytes: 16 << 20,
            write_buffer_bytes: 32 << 20,
        }
    }
}

/// A [`Store`] on a directory of the local disk.
pub struct EmbeddedStore {
    // Ends before the tables and the lock go.
    pipeline: Pipeline,
    tables: Tables,
    records: Arc<records::Handle>,
    next_session: AtomicU64,
    recovered: Mutex<Option<Recovered>>,
    _layout: Layout,
}

impl EmbeddedStore {
    /// Opens the store in `path`, or creates it there if the directory is empty or missing. Reads
    /// everything once; takes about a second per million queued messages.
    ///
    /// # Errors
    ///
    /// Each says what is wrong where, and what to do: in use by another process, no permission, not
    /// a directory, not a store, another format, damaged, acknowledged data lost.
    pub fn open(path: impl AsRef<Path>, options: &EmbeddedOptions) -> Result<Self, StoreError> {
        let layout = Layout::prepare(path.as_ref())?;
        let mark = Acknowledged::read(&layout.acknowledged())?;
        let tables = open_tables(&layout, mark.as_ref(), options)?;
        let (recovered, state) = recover::read_all_guarded(&tables, &layout.data())?;
        info!(
            path = %layout.root().display(),
            commit = state.commit,
            sessions = recovered.sessions.len(),
            retained = recovered.retained.len(),
            wills = recovered.wills.len(),
            "store opened"
        );
        let always = options.durability == Durability::Always;
        let acknowledged = Acknowledged::open(&layout.acknowledged(), state.commit, always)?;
        let next_session = AtomicU64::new(state.session_limit);
        let listeners = Arc::new(Listeners::default());
        let writer = Writer::new(
            tables.clone(),
            Arc::clone(&listeners),
            layout.root().to_path_buf(),
            options.durability,
            acknowledged,
            state,
        );
        let pipeline = Pipeline::start("store-writer", writer)
            .map_err(|error| StoreError::io("start the writer of", layout.root(), &error))?;
        let records = Arc::new(records::Handle {
            submitter: pipeline.submitter(),
            tables: tables.clone(),
            listeners,
        });
        Ok(Self {
            pipeline,
            tables,
            records,
            next_session,
            recovered: Mutex::new(Some(recovered)),
            _layout: layout,
        })
    }
}

/// Creates the tables, or checks and opens those that are there.
fn open_tables(
    layout: &Layout,
    mark: Option<&Mark>,
    options: &EmbeddedOptions,
) -> Result<Tables, StoreError> {
    let data = layout.data();
    if !layout.has_data()? {
        if mark.is_some() {
            return Err(StoreError::damaged(
                data.display().to_string(),
                "the directory is missing",
            ));
        }
        // Dropped at once, as the engine remembers its path.
        Tables::create(&layout.data_new(), options)?;
        layout.adopt_new_data()?;
    }
    let present = layout.tables(keys::FIRST_TABLES, keys::TABLES.len())?;
    layout.check_data(present)?;
    manifest::verify(&data, present)?;
    let summary = journal::verify(&data, mark)?;
    if summary.torn_bytes > 0 {
        warn!(
            bytes = summary.torn_bytes,
            "dropped an unfinished commit at the end of the journal: it was never acknowledged"
        );
    }
    let mut tables = Tables::open(&data, options)?;
    if recover::is_half_upgraded(&tables)? {
        warn!("making the table of records again: that was interrupted");
        tables.forget_records(&data)?;
        tables = Tables::open(&data, options)?;
    }
    recover::check_upgrade(&tables, present)?;
    let found = recover::last_commit(&tables)?;
    let required = mark.map_or(0, Mark::required);
    let required = required.max(summary.last_commit.unwrap_or(0));
    if found < required {
        return Err(StoreError::AcknowledgedLost {
            path: layout.root().to_path_buf(),
            acknowledged: required,
            found,
            detail: String::new(),
        });
    }
    Ok(tables)
}

impl Store for EmbeddedStore {
    fn submit(&self, batch: Batch) -> Ticket {
        self.pipeline.submit(batch)
    }

    fn durable(&self) -> Ticket {
        self.pipeline.durable()
    }

    fn pending_bytes(&self) -> usize {
        self.pipeline.pending_bytes()
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.pipeline.watch()
    }

    fn next_session_id(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    fn read_queue(
        &self,
        session: SessionId,
        from_seq: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> BoxFuture<Result<Vec<QueueEntry>, StoreError>> {
        let tables = self.tables.clone();
        let reading = tokio::task::spawn_blocking(move || {
            read_queue(&tables, session, from_seq, max_entries, max_bytes)
        });
        Box::pin(async move {
            reading.await.unwrap_or_else(|error| {
                Err(StoreError::ReadFailed {
                    reason: error.to_string(),
                })
            })
        })
    }

    fn recover(&self) -> Result<Recovered, StoreError> {
        self.recovered
            .lock()
            .take()
            .ok_or(StoreError::AlreadyRecovered)
    }

    fn records(&self) -> Arc<dyn Records> {
        Arc::clone(&self.records) as Arc<dyn Records>
    }

    fn health(&self) -> Result<(), StoreError> {
        self.pipeline.health()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.pipeline.close()
    }
}

fn read_queue(
    tables: &Tables,
    session: SessionId,
    from_seq: u64,
    max_entries: usize,
    max_bytes: usize,
) -> Result<Vec<QueueEntry>, StoreError> {
    let snapshot = tables.db.snapshot();
    // What a deleted session has left may still be there.
    let record = keys::of_session(keys::SESSION, session);
    let exists = snapshot
        .contains_key(&tables.state, record)
        .map_err(|error| read_error("state", &error))?;
    if !exists {
        return Ok(Vec::new());
    }
    let range = keys::entry(session, from_seq)..=keys::entry(session, u64::MAX);
    let mut entries = Vec::new();
    let mut bytes = 0;
    for guard in snapshot.range(&tables.queue, range).take(max_entries) {
        let (key, value) = guard
            .into_inner()
            .map_err(|error| read_error("queue", &error))?;
        let seq = keys::parse_entry(&key).map_or(0, |(_, seq)| seq);
        let stored =
            values::entry(&value).map_err(|error| recover::damaged_entry(session, seq, &error))?;
        if bytes > 0 && bytes >= max_bytes {
            break;
        }
        bytes += (stored.weight() as usize).max(1);
        entries.push(load(tables, &snapshot, session, seq, stored)?);
    }
    Ok(entries)
}

/// Completes an entry with its message.
fn load(
    tables: &Tables,
    snapshot: &fjall::Snapshot,
    session: SessionId,
    seq: u64,
    stored: StoredEntry<'_>,
) -> Result<QueueEntry, StoreError> {
    let damaged = |reason: &dyn std::fmt::Display| recover::damaged_entry(session, seq, reason);
    let decode = |bytes: &[u8]| {
        Message::decode(bytes)
            .map(|message| Some(Arc::new(message)))
            .map_err(|error| damaged(&error))
    };
    let (state, delivery, message) = match stored {
        StoredEntry::Inline {
            delivery, message, ..
        } => (QueueState::Queued, delivery, decode(message)?),
        StoredEntry::Shared { delivery, body, .. } => {
            let value = snapshot
                .get(&tables.bodies, body.to_be_bytes())
                .map_err(|error| read_error("bodies", &error))?
                .ok_or_else(|| damaged(&format!("its message {body} is missing")))?;
            (QueueState::Queued, delivery, decode(&value)?)
        }
        StoredEntry::Released => (
            QueueState::Released,
            Delivery::plain(dunlin_protocol::QoS::ExactlyOnce),
            None,
        ),
    };
    Ok(QueueEntry {
        seq,
        state,
        delivery,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, LIMIT, samples};

    #[test]
    fn commits_of_the_interval_mode_are_flushed_within_it_without_further_ones() {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            durability: Durability::Interval(std::time::Duration::from_millis(20)),
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(directory.path(), &options).unwrap();
        let driver = Driver::new(Arc::new(store));
        driver.commit(vec![crate::Op::PutRetained(samples::message("x"))]);
        let mark = || {
            let file = directory.path().join("acknowledged");
            Acknowledged::read(&file).unwrap().unwrap()
        };
        let start = std::time::Instant::now();
        while mark().synced != 1 {
            assert!(start.elapsed() < LIMIT, "{:?}", mark());
            std::thread::yield_now();
        }
        assert!(mark().same_boot());
        assert!(!mark().always);
    }
}
