//! The writer thread's side: operations to keys and values, one engine batch per round.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fjall::{Keyspace, OwnedWriteBatch, PersistMode};

use super::acknowledged::Acknowledged;
use super::keys;
use super::recover::{NumberMap, WriterState};
use super::sweep::Sweep;
use super::tables::{Tables, write_error};
use super::values;
use crate::pipeline::{Backend, Next};
use crate::records::Listeners;
use crate::{
    Appended, Delivery, Durability, Message, MessageError, Op, SessionId, SessionRecord,
    StoreError, SubscriptionRecord,
};

/// Sequence numbers are reserved in blocks of this size: one more write in as many, and as many are
/// skipped at most after a crash.
const TAIL_BLOCK: u64 = 64;
/// Session ids are reserved in blocks of this size.
const SESSION_BLOCK: u64 = 1024;
/// A message that goes to more than one queue in a batch is stored once from this size on. With ten
/// queues that costs the writer no more CPU than copies from 100 bytes on (1.7 µs per queue against
/// 1.8; 1.7 against 2.7 at 1,000; 2.7 against 16 at 16,000), but a reference holds about 20 bytes of
/// memory for as long as its entry is queued, and for two queues it saves nothing below about this.
const SHARE_BYTES_MIN: usize = 1024;
/// Tables waiting to be written, per table, at which the writer waits itself. The engine would wait
/// at 4, but for ever if the thread that writes them has failed.
const UNWRITTEN_TABLES_MAX: usize = 2;
/// Small tables on disk not yet merged, at which the writer waits itself; the engine would at 30.
const UNMERGED_TABLES_MAX: usize = 24;
/// Pause between two looks at them.
const STALL_PAUSE: Duration = Duration::from_millis(2);

pub(crate) struct Writer {
    pub(crate) tables: Tables,
    pub(super) listeners: Arc<Listeners>,
    pub(crate) root: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) state: WriterState,
    pub(super) batch: OwnedWriteBatch,
    pub(super) scratch: Vec<u8>,
    /// Deleted sessions whose keys are still there, with the place to go on from.
    pub(super) sweep: VecDeque<Sweep>,
    /// Acknowledged since this moment without a flush.
    unsynced_since: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(
        tables: Tables,
        listeners: Arc<Listeners>,
        root: PathBuf,
        durability: Durability,
        acknowledged: Acknowledged,
        mut state: WriterState,
    ) -> Self {
        let sweep = std::mem::take(&mut state.orphan_sessions)
            .into_iter()
            .map(Sweep::new)
            .collect();
        Self {
            batch: OwnedWriteBatch::with_capacity(tables.db.clone(), 0),
            tables,
            listeners,
            root,
            durability,
            acknowledged,
            state,
            scratch: Vec::new(),
            sweep,
            unsynced_since: None,
        }
    }

    fn apply(
        &mut self,
        op: Op,
        shared: &mut NumberMap<usize, Option<u64>>,
        appended: &mut Vec<Appended>,
    ) -> Result<(), StoreError> {
        match op {
            Op::PutSession(record) => self.put_session(&record),
            Op::DeleteSession(session) => {
                self.delete_session(session);
                Ok(())
            }
            Op::PutSubscription(session, record) => self.put_subscription(session, &record),
            Op::DeleteSubscription(session, filter) => {
                keys::filter(session, &filter, &mut self.scratch);
                self.batch.remove(&self.tables.state, &*self.scratch);
                Ok(())
            }
            Op::Enqueue {
                session,
                delivery,
                message,
                ..
            } => {
                let seq = self.enqueue(session, &delivery, &message, shared)?;
                appended.push(Appended {
                    session,
                    seq,
                    delivery,
                    message,
                });
                Ok(())
            }
            Op::Release { session, seq } => {
                self.release(session, seq);
                Ok(())
            }
            Op::Dequeue { session, seq } => {
                self.dequeue(session, seq);
                Ok(())
            }
            Op::PutInboundQos2 {
                session, packet_id, ..
            } => {
                if self.state.sessions.contains_key(&session) {
                    let key = keys::inbound(session, packet_id);
                    self.batch.insert(&self.tables.state, key, []);
                }
                Ok(())
            }
            Op::DeleteInboundQos2 { session, packet_id } => {
                let key = keys::inbound(session, packet_id);
                self.batch.remove(&self.tables.state, key);
                Ok(())
            }
            Op::PutRetained(message) => {
                self.scratch.clear();
                message.encode_into(&mut self.scratch).map_err(unwritable)?;
                self.batch
                    .insert(&self.tables.retained, message.topic(), &*self.scratch);
                Ok(())
            }
            Op::DeleteRetained(topic) => {
                self.batch.remove(&self.tables.retained, &*topic);
                Ok(())
            }
            Op::PutWill(will) => {
                values::put_will(&mut self.scratch, &will).map_err(unwritable)?;
                self.batch
                    .insert(&self.tables.wills, &*will.client_id, &*self.scratch);
                Ok(())
            }
            Op::DeleteWill { client_id } => {
                self.batch.remove(&self.tables.wills, &*client_id);
                Ok(())
            }
            // Of a cluster; there is no other process to tell.
            Op::Relay { .. }
            | Op::PutRoute { .. }
            | Op::ReleaseClaim(_)
            | Op::DeleteWillOf { .. }
            | Op::Tap { .. }
            | Op::TapKnown { .. } => Ok(()),
            Op::Records(batch) => self.put_records(&batch),
        }
    }

    fn put_session(&mut self, record: &SessionRecord) -> Result<(), StoreError> {
        values::put_session(&mut self.scratch, record).map_err(|error| unwritable(error.into()))?;
        let key = keys::of_session(keys::SESSION, record.id);
        self.batch.insert(&self.tables.state, key, &*self.scratch);
        if record.id.0 >= self.state.session_limit {
            self.state.session_limit = record.id.0.saturating_add(SESSION_BLOCK);
            let limit = self.state.session_limit.to_be_bytes();
            self.batch
                .insert(&self.tables.state, keys::SESSION_LIMIT, limit);
        }
        self.state.sessions.entry(record.id).or_default();
        Ok(())
    }

    /// Without its record the session is gone; what else it has is invisible and swept later.
    fn delete_session(&mut self, session: SessionId) {
        let Some(live) = self.state.sessions.remove(&session) else {
            return;
        };
        for kind in [keys::SESSION, keys::TAIL] {
            self.batch
                .remove(&self.tables.state, keys::of_session(kind, session));
        }
        for body in live.shared.into_values() {
            self.drop_body(body);
        }
        self.sweep.push_back(Sweep::new(session));
    }

    fn put_subscription(
        &mut self,
        session: SessionId,
        record: &SubscriptionRecord,
    ) -> Result<(), StoreError> {
        if !self.state.sessions.contains_key(&session) {
            return Ok(());
        }
        let mut key = Vec::new();
        keys::filter(session, &record.filter, &mut key);
        values::put_subscription(&mut self.scratch, record)
            .map_err(|error| unwritable(error.into()))?;
        self.batch.insert(&self.tables.state, key, &*self.scratch);
        Ok(())
    }

    fn enqueue(
        &mut self,
        session: SessionId,
        delivery: &Delivery,
        message: &Arc<Message>,
        shared: &mut NumberMap<usize, Option<u64>>,
    ) -> Result<u64, StoreError> {
        if !self.state.sessions.contains_key(&session) {
            return Ok(Appended::DROPPED);
        }
        let body = match shared.get_mut(&address(message)) {
            Some(Some(body)) => Some(*body),
            Some(slot) => {
                let body = self.state.next_body;
                *slot = Some(body);
                self.store_body(body, message)?;
                Some(body)
            }
            None => None,
        };
        match body {
            Some(body) => {
                *self.state.bodies.entry(body).or_default() += 1;
                values::put_shared(&mut self.scratch, delivery, message, body)
            }
            None => values::put_inline(&mut self.scratch, delivery, message),
        }
        .map_err(unwritable)?;
        let seq = self.next_seq(session, body);
        self.batch.insert(
            &self.tables.queue,
            keys::entry(session, seq),
            &*self.scratch,
        );
        Ok(seq)
    }

    fn store_body(&mut self, body: u64, message: &Message) -> Result<(), StoreError> {
        self.state.next_body += 1;
        self.scratch.clear();
        message.encode_into(&mut self.scratch).map_err(unwritable)?;
        self.batch
            .insert(&self.tables.bodies, body.to_be_bytes(), &*self.scratch);
        Ok(())
    }

    /// Takes the next number of an existing session's queue.
    fn next_seq(&mut self, session: SessionId, body: Option<u64>) -> u64 {
        let Some(live) = self.state.sessions.get_mut(&session) else {
            return Appended::DROPPED;
        };
        let seq = live.tail;
        live.tail += 1;
        if let Some(body) = body {
            live.shared.insert(seq, body);
        }
        if live.tail > live.tail_limit {
            live.tail_limit = seq + TAIL_BLOCK;
            let limit = live.tail_limit.to_be_bytes();
            let key = keys::of_session(keys::TAIL, session);
            self.batch.insert(&self.tables.state, key, limit);
        }
        seq
    }

    fn release(&mut self, session: SessionId, seq: u64) {
        let Some(live) = self.state.sessions.get_mut(&session) else {
            return;
        };
        if seq >= live.tail {
            return;
        }
        if let Some(body) = live.shared.remove(&seq) {
            self.drop_body(body);
        }
        self.batch.insert(
            &self.tables.queue,
            keys::entry(session, seq),
            values::RELEASED_ENTRY,
        );
    }

    fn dequeue(&mut self, session: SessionId, seq: u64) {
        let Some(live) = self.state.sessions.get_mut(&session) else {
            return;
        };
        if seq >= live.tail {
            return;
        }
        if let Some(body) = live.shared.remove(&seq) {
            self.drop_body(body);
        }
        self.batch
            .remove(&self.tables.queue, keys::entry(session, seq));
    }

    /// One entry less refers to the body; the last one takes it along.
    fn drop_body(&mut self, body: u64) {
        if let Some(count) = self.state.bodies.get_mut(&body) {
            *count = count.saturating_sub(1);
            if *count > 0 {
                return;
            }
            self.state.bodies.remove(&body);
        }
        self.batch.remove(&self.tables.bodies, body.to_be_bytes());
    }

    /// Commits the batch that has gathered, if there is anything in it.
    pub(super) fn commit_batch(&mut self, mode: PersistMode) -> Result<(), StoreError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.wait_for_room()?;
        let capacity = self.batch.len();
        let next = OwnedWriteBatch::with_capacity(self.tables.db.clone(), capacity);
        let mut batch = std::mem::replace(&mut self.batch, next);
        let commit = self.state.commit + 1;
        batch.insert(&self.tables.state, keys::COMMIT, commit.to_be_bytes());
        batch
            .durability(Some(mode))
            .commit()
            .map_err(|error| write_error(&self.root, &error))?;
        self.state.commit = commit;
        let synced = mode != PersistMode::Buffer;
        if synced {
            self.unsynced_since = None;
        } else if self.unsynced_since.is_none() {
            self.unsynced_since = Some(Instant::now());
        }
        self.acknowledged.advance(commit, synced)
    }

    /// Waits while the engine's background work is behind, for as long as it is alive.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        let behind = |table: &&Keyspace| {
            table.sealed_memtable_count() > UNWRITTEN_TABLES_MAX
                || table.l0_table_count() > UNMERGED_TABLES_MAX
        };
        while self.tables.all().iter().any(behind) {
            // The only question to the engine that reveals a failure in the background.
            self.tables
                .db
                .persist(PersistMode::Buffer)
                .map_err(|error| write_error(&self.root, &error))?;
            std::thread::sleep(STALL_PAUSE);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.tables
            .db
            .persist(PersistMode::SyncData)
            .map_err(|error| write_error(&self.root, &error))?;
        self.unsynced_since = None;
        self.acknowledged.synced()
    }

    /// What is left of the interval, if commits wait for a flush.
    fn sync_due(&self) -> Option<Duration> {
        let Durability::Interval(interval) = self.durability else {
            return None;
        };
        let since = self.unsynced_since?;
        Some(interval.saturating_sub(since.elapsed()))
    }
}

impl Backend for Writer {
    fn stage(&mut self, ops: Vec<Op>) -> Result<Vec<Appended>, StoreError> {
        let mut shared = messages_to_share(&ops);
        let mut appended = Vec::new();
        for op in ops {
            self.apply(op, &mut shared, &mut appended)?;
        }
        Ok(appended)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let mode = match self.durability {
            Durability::Always => PersistMode::SyncData,
            Durability::Interval(_) | Durability::Os => PersistMode::Buffer,
        };
        self.commit_batch(mode)?;
        self.tell_records();
        Ok(())
    }

    fn background(&mut self) -> Result<Next, StoreError> {
        if self.sync_due().is_some_and(|left| left.is_zero()) {
            self.sync()?;
        }
        if self.sweep()? {
            return Ok(Next::Now);
        }
        let sync = self.sync_due().map_or(Next::AfterCommit, Next::After);
        Ok(sync.or(self.sweep_records()?))
    }

    fn close(&mut self) -> Result<(), StoreError> {
        for (id, live) in &mut self.state.sessions {
            if live.tail_limit > live.tail {
                live.tail_limit = live.tail;
                let key = keys::of_session(keys::TAIL, *id);
                self.batch
                    .insert(&self.tables.state, key, live.tail.to_be_bytes());
            }
        }
        self.commit_batch(PersistMode::SyncData)?;
        self.sync()
    }
}

/// Messages that more than one queue gets in this batch and that are large enough to be stored
/// once, by their address; the body's number follows with the first use.
fn messages_to_share(ops: &[Op]) -> NumberMap<usize, Option<u64>> {
    let mut shared = NumberMap::default();
    if ops.len() < 2 {
        return shared;
    }
    let mut seen = NumberMap::<usize, ()>::default();
    for op in ops {
        if let Op::Enqueue { message, .. } = op
            && message.size() >= SHARE_BYTES_MIN
            && seen.insert(address(message), ()).is_some()
        {
            shared.insert(address(message), None);
        }
    }
    shared
}

fn address(message: &Arc<Message>) -> usize {
    Arc::as_ptr(message).addr()
}

/// Lengths were checked before: this is a defect or memory gone wrong, and stops the store.
fn unwritable(error: MessageError) -> StoreError {
    StoreError::WriteFailed {
        path: PathBuf::new(),
        reason: error.to_string(),
    }
}
