//! The store that keeps nothing across a restart: for tests and for brokers without a disk.
//!
//! Its queues may grow as far as the broker lets them: the bounds are the broker's
//! (`max_queued_messages`, `max_queued_bytes`), as for every store. It runs behind the same writer thread as the embedded store, so that callbacks come from the
//! same place and in the same order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dunlin_protocol::QoS;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::pipeline::{Backend, Next, Pipeline};
use crate::records::Records;
use crate::records::memory::{Handle, MemoryRecords};
use crate::{
    Appended, Batch, BoxFuture, Delivery, Message, Op, QueueEntry, QueueState, Recovered,
    SessionId, Store, StoreError, Ticket,
};

/// A [`Store`] in memory.
pub struct MemoryStore {
    pipeline: Pipeline,
    state: Arc<RwLock<State>>,
    records: Arc<Handle>,
    next_session: AtomicU64,
    recovered: AtomicBool,
}

impl MemoryStore {
    /// An empty store with its own writer thread.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub fn new() -> Result<Self, StoreError> {
        let state = Arc::new(RwLock::new(State::default()));
        let records = Arc::new(MemoryRecords::default());
        let backend = MemoryBackend {
            state: Arc::clone(&state),
            records: Arc::clone(&records),
        };
        let pipeline =
            Pipeline::start("store-memory", backend).map_err(|error| StoreError::WriteFailed {
                path: "memory".into(),
                reason: format!("no thread for its writer: {error}"),
            })?;
        let records = Arc::new(Handle {
            submitter: pipeline.submitter(),
            records,
        });
        Ok(Self {
            pipeline,
            state,
            records,
            next_session: AtomicU64::new(1),
            recovered: AtomicBool::new(false),
        })
    }
}

impl Store for MemoryStore {
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
        let entries = self
            .state
            .read()
            .read_queue(session, from_seq, max_entries, max_bytes);
        Box::pin(std::future::ready(Ok(entries)))
    }

    fn recover(&self) -> Result<Recovered, StoreError> {
        if self.recovered.swap(true, Ordering::AcqRel) {
            return Err(StoreError::AlreadyRecovered);
        }
        Ok(Recovered::default())
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

struct MemoryBackend {
    state: Arc<RwLock<State>>,
    records: Arc<MemoryRecords>,
}

impl Backend for MemoryBackend {
    fn stage(&mut self, ops: Vec<Op>) -> Result<Vec<Appended>, StoreError> {
        let mut appended = Vec::new();
        let mut state = self.state.write();
        for op in ops {
            match op {
                Op::Records(batch) => self.records.apply(&batch),
                op => state.apply(op, &mut appended),
            }
        }
        Ok(appended)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.records.tell();
        Ok(())
    }

    fn background(&mut self) -> Result<Next, StoreError> {
        Ok(self.records.sweep())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Only queues and records are ever read back from a store that does not outlive its process, so only these
/// are kept.
#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Queue, foldhash::fast::RandomState>,
}

#[derive(Default)]
struct Queue {
    tail: u64,
    entries: BTreeMap<u64, QueueEntry>,
}

impl State {
    fn apply(&mut self, op: Op, appended: &mut Vec<Appended>) {
        match op {
            Op::PutSession(record) => {
                self.sessions.entry(record.id).or_default();
            }
            Op::DeleteSession(session) => {
                self.sessions.remove(&session);
            }
            Op::Enqueue {
                session,
                delivery,
                message,
                ..
            } => appended.push(self.enqueue(session, delivery, message)),
            Op::Release { session, seq } => self.release(session, seq),
            Op::Dequeue { session, seq } => {
                if let Some(queue) = self.sessions.get_mut(&session) {
                    queue.entries.remove(&seq);
                }
            }
            Op::PutSubscription(..)
            | Op::DeleteSubscription(..)
            | Op::PutInboundQos2 { .. }
            | Op::DeleteInboundQos2 { .. }
            | Op::PutRetained(_)
            | Op::DeleteRetained(_)
            | Op::PutWill(_)
            | Op::DeleteWill { .. }
            | Op::Relay { .. }
            | Op::PutRoute { .. }
            | Op::ReleaseClaim(_)
            | Op::DeleteWillOf { .. }
            | Op::Tap { .. }
            | Op::TapKnown { .. }
            | Op::Records(_) => {}
        }
    }

    fn enqueue(
        &mut self,
        session: SessionId,
        delivery: Delivery,
        message: Arc<Message>,
    ) -> Appended {
        let mut seq = Appended::DROPPED;
        if let Some(queue) = self.sessions.get_mut(&session) {
            seq = queue.tail;
            queue.tail += 1;
            let entry = QueueEntry {
                seq,
                state: QueueState::Queued,
                delivery: delivery.clone(),
                message: Some(Arc::clone(&message)),
            };
            queue.entries.insert(seq, entry);
        }
        Appended {
            session,
            seq,
            delivery,
            message,
        }
    }

    fn release(&mut self, session: SessionId, seq: u64) {
        let Some(queue) = self.sessions.get_mut(&session) else {
            return;
        };
        if seq < queue.tail {
            let entry = QueueEntry {
                seq,
                state: QueueState::Released,
                delivery: Delivery::plain(QoS::ExactlyOnce),
                message: None,
            };
            queue.entries.insert(seq, entry);
        }
    }

    fn read_queue(
        &self,
        session: SessionId,
        from_seq: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> Vec<QueueEntry> {
        let Some(queue) = self.sessions.get(&session) else {
            return Vec::new();
        };
        let mut bytes = 0;
        queue
            .entries
            .range(from_seq..)
            .map(|(_, entry)| entry)
            .take(max_entries)
            .take_while(|entry| {
                let room = bytes == 0 || bytes < max_bytes;
                bytes += entry.message.as_ref().map_or(1, |message| message.size());
                room
            })
            .cloned()
            .collect()
    }
}
