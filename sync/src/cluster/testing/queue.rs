//! A session's queue, and the QoS 2 packet ids of its own publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::bucket::BucketState;
use super::register::JUMP;
use crate::SessionId;
use crate::cluster::{
    AppendFate, Appending, Epoch, RELEASED_ENTRY, ReplicaId, Reply, Request, SENT_MARK,
    SessionFields,
};

/// Publishers in one of the two generations of [`SeenOnce`].
const SEEN_MAX: usize = 8192;

/// A persistent session: its hash, its queue and its record.
#[derive(Clone)]
pub(super) struct SessionState {
    pub(super) client_id: Arc<str>,
    pub(super) expiry_interval: u32,
    pub(super) epoch: Epoch,
    pub(super) owner: ReplicaId,
    pub(super) record: Bytes,
    pub(super) queue: Queue,
    inbound: BTreeMap<u16, u64>,
    /// Packet ids put or deleted since the last failover, or again, and under which epoch: what comes again
    /// from an older one does not count for them.
    touched: BTreeMap<u16, Epoch>,
    /// Under which claim word was left of how far its connection had sent.
    marked: Epoch,
    /// The claim that the last failover has left: what was done under older ones was not lost.
    known: Epoch,
}

/// Entries by sequence number.
#[derive(Clone, Default)]
pub(super) struct Queue {
    entries: BTreeMap<u64, Bytes>,
    tail: u64,
    bytes: u64,
    /// Number of the last append of each origin.
    origins: BTreeMap<ReplicaId, u64>,
    seen: SeenOnce,
    /// What the last failover may have lost: places from here on that an append may take again.
    lost_from: u64,
    lost_to: u64,
    /// Of those: dequeued, or released, before their append has come again.
    done: BTreeSet<u64>,
    released: BTreeSet<u64>,
    /// Entries that were restored without their append, which may come yet.
    orphans: BTreeSet<Bytes>,
}

/// Counts by publisher, bounded: the older of two generations is forgotten when the newer is full.
#[derive(Clone, Default)]
pub(super) struct SeenOnce {
    newer: BTreeMap<u64, u64>,
    older: BTreeMap<u64, u64>,
}

impl SeenOnce {
    fn last(&self, publisher: u64) -> Option<u64> {
        self.newer
            .get(&publisher)
            .or_else(|| self.older.get(&publisher))
            .copied()
    }

    pub(super) fn was_seen(&self, once: Option<(u64, u64)>) -> bool {
        once.is_some_and(|(publisher, count)| {
            self.last(publisher).is_some_and(|last| count <= last)
        })
    }

    pub(super) fn note(&mut self, once: Option<(u64, u64)>) {
        if let Some((publisher, count)) = once {
            self.put(publisher, count);
        }
    }

    fn put(&mut self, publisher: u64, count: u64) {
        if self.newer.len() >= SEEN_MAX && !self.newer.contains_key(&publisher) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(publisher, count);
    }
}

impl SessionState {
    pub(super) fn new(client_id: Arc<str>, record: Bytes) -> Self {
        Self {
            client_id,
            expiry_interval: 0,
            epoch: Epoch::default(),
            owner: ReplicaId::default(),
            record,
            queue: Queue::default(),
            inbound: BTreeMap::new(),
            touched: BTreeMap::new(),
            marked: Epoch::default(),
            known: Epoch::default(),
        }
    }

    pub(super) fn begin_anew(&mut self) {
        self.queue.begin_anew();
        self.touched.clear();
        self.known = self.epoch;
    }

    pub(super) fn fields(&self) -> SessionFields {
        SessionFields {
            expiry_interval: self.expiry_interval,
            epoch: self.epoch,
            owner: self.owner,
            head: self.queue.head(),
            tail: self.queue.tail,
            len: self.queue.entries.len() as u64,
            bytes: self.queue.bytes,
            inbound: self
                .inbound
                .iter()
                .map(|(id, count)| (*id, *count))
                .collect(),
        }
    }
}

impl Queue {
    fn head(&self) -> u64 {
        self.entries.keys().next().copied().unwrap_or(self.tail)
    }

    /// Another server holds the queue now and may lack its end. Numbers go on above all that may have
    /// been given: the acknowledgement of a lost entry must not hit another one.
    pub(super) fn begin_anew(&mut self) {
        self.lost_from = self.tail;
        self.tail += JUMP;
        self.lost_to = self.tail;
        self.done.clear();
        self.released.clear();
        self.orphans.clear();
    }

    pub(super) fn is_new(&self) -> bool {
        self.tail == 0
    }

    fn may_be_lost(&self, seq: u64) -> bool {
        (self.lost_from..self.lost_to).contains(&seq) && !self.entries.contains_key(&seq)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn append(
        &mut self,
        origin: ReplicaId,
        max_messages: u64,
        max_bytes: u64,
        entry: &Appending,
    ) -> AppendFate {
        let last = self.origins.entry(origin).or_default();
        if entry.number <= *last {
            return AppendFate::Repeated;
        }
        *last = entry.number;
        if self.was_seen(entry) {
            return AppendFate::Repeated;
        }
        if self.orphans.remove(&entry.body) {
            if let Some((publisher, count)) = entry.once {
                self.seen.put(publisher, count);
            }
            return AppendFate::Repeated;
        }
        let full = self.entries.len() as u64 >= max_messages
            || self.bytes + entry.body.len() as u64 > max_bytes;
        if full {
            return AppendFate::Full;
        }
        AppendFate::At(self.put_at(self.tail, entry))
    }

    fn was_seen(&self, entry: &Appending) -> bool {
        entry.once.is_some_and(|(publisher, count)| {
            self.seen.last(publisher).is_some_and(|last| count <= last)
        })
    }

    fn put_at(&mut self, seq: u64, entry: &Appending) -> u64 {
        if let Some((publisher, count)) = entry.once {
            self.seen.put(publisher, count);
        }
        self.bytes += entry.body.len() as u64;
        self.entries.insert(seq, entry.body.clone());
        self.tail = self.tail.max(seq + 1);
        seq
    }

    /// An append that had been acknowledged before a failover, with the place that it had.
    pub(super) fn append_again(&mut self, origin: ReplicaId, entry: &Appending, seq: u64) {
        let last = self.origins.entry(origin).or_default();
        if entry.number <= *last {
            return;
        }
        *last = entry.number;
        if self.was_seen(entry) {
            return;
        }
        if let Some((publisher, count)) = entry.once {
            self.seen.put(publisher, count);
        }
        if self.orphans.remove(&entry.body) {
            return;
        }
        if self.entries.contains_key(&seq) {
            self.put_at(self.tail, entry);
        } else if self.may_be_lost(seq) && !self.done.contains(&seq) {
            self.put_at(seq, entry);
            if self.released.contains(&seq) {
                self.release(seq);
            }
        }
        // Neither: its client had acknowledged it, and that has been written again already.
    }

    /// An entry that was read before a failover.
    fn restore(&mut self, seq: u64, body: &Bytes) {
        if self.entries.get(&seq) == Some(body) {
            return;
        }
        self.orphans.insert(body.clone());
        if self.may_be_lost(seq) && !self.done.contains(&seq) {
            self.bytes += body.len() as u64;
            self.entries.insert(seq, body.clone());
            if self.released.contains(&seq) {
                self.release(seq);
            }
        }
    }

    fn dequeue(&mut self, seq: u64) {
        // Also what is there: it may be written back again by somebody else who had read it.
        if (self.lost_from..self.lost_to).contains(&seq) {
            self.done.insert(seq);
        }
        if let Some(body) = self.entries.remove(&seq) {
            self.bytes -= body.len() as u64;
        }
    }

    fn release(&mut self, seq: u64) {
        if self.may_be_lost(seq) {
            self.released.insert(seq);
        }
        if let Some(body) = self.entries.get_mut(&seq) {
            self.bytes -= body.len() as u64;
            *body = Bytes::from_static(RELEASED_ENTRY);
            self.bytes += body.len() as u64;
        }
    }

    fn read(&self, from: u64, limit: u32) -> Vec<(u64, Bytes)> {
        self.entries
            .range(from..)
            .take(limit as usize)
            .map(|(seq, body)| (*seq, body.clone()))
            .collect()
    }
}

/// The lists of a [`Request::Settle`].
struct Settling<'a> {
    dequeue: &'a [u64],
    release: &'a [u64],
    inbound_put: &'a [(u16, u64)],
    inbound_delete: &'a [u16],
}

impl SessionState {
    fn settle(&mut self, settling: &Settling<'_>) {
        let epoch = self.epoch;
        for seq in settling.dequeue {
            self.queue.dequeue(*seq);
        }
        for seq in settling.release {
            self.queue.release(*seq);
        }
        for (id, count) in settling.inbound_put {
            self.put_inbound(*id, *count, epoch);
            self.touched.insert(*id, epoch);
        }
        for id in settling.inbound_delete {
            self.inbound.remove(id);
            self.touched.insert(*id, epoch);
        }
    }

    /// What had been acknowledged before a failover, whoever has the session since. Those who had it one
    /// after the other come in any order.
    fn settle_again(&mut self, epoch: Option<Epoch>, settling: &Settling<'_>) {
        let epoch = epoch.unwrap_or(self.epoch);
        if epoch < self.known {
            return;
        }
        for seq in settling.dequeue {
            self.queue.dequeue(*seq);
        }
        for seq in settling.release {
            self.queue.release(*seq);
        }
        for (id, count) in settling.inbound_put {
            if self.may_touch(*id, epoch) {
                self.put_inbound(*id, *count, epoch);
            }
        }
        for id in settling.inbound_delete {
            if self.may_touch(*id, epoch) {
                self.inbound.remove(id);
            }
        }
    }

    fn put_inbound(&mut self, id: u16, count: u64, epoch: Epoch) {
        self.inbound.insert(id, count);
        if id == SENT_MARK {
            self.marked = epoch;
        }
    }

    /// How far an older connection than the last one has sent says nothing.
    pub(super) fn forget_old_mark(&mut self) {
        if self.marked != self.epoch {
            self.inbound.remove(&SENT_MARK);
        }
    }

    /// Unless somebody has said how far it was sent: what comes from now on was not.
    pub(super) fn mark_sent(&mut self) {
        if self.marked != self.epoch {
            let end = self.queue.tail.max(self.queue.lost_to);
            self.put_inbound(SENT_MARK, end, self.epoch);
        }
    }

    fn may_touch(&mut self, id: u16, epoch: Epoch) -> bool {
        let last = self.touched.entry(id).or_default();
        let may = *last <= epoch;
        *last = epoch.max(*last);
        may
    }
}

impl BucketState {
    pub(super) fn apply_queues(&mut self, request: &Request) -> Reply {
        match request {
            Request::Append {
                session,
                origin,
                max_messages,
                max_bytes,
                entries,
            } => self.append(*session, *origin, (*max_messages, *max_bytes), entries),
            Request::Settle {
                session,
                epoch,
                dequeue,
                release,
                inbound_put,
                inbound_delete,
            } => {
                let settling = Settling {
                    dequeue,
                    release,
                    inbound_put,
                    inbound_delete,
                };
                self.settle(*session, *epoch, &settling)
            }
            Request::ReadQueue {
                session,
                from,
                limit,
            } => Reply::Queue(
                self.sessions
                    .get(session)
                    .map(|state| state.queue.read(*from, *limit))
                    .unwrap_or_default(),
            ),
            Request::Restore { session, entries } => {
                if let Some(state) = self.sessions.get_mut(session) {
                    for (seq, body) in entries {
                        state.queue.restore(*seq, body);
                    }
                }
                Reply::Done
            }
            Request::GetSession { session } => {
                Reply::Session(self.sessions.get(session).map(SessionState::fields))
            }
            _ => Reply::Done,
        }
    }

    fn append(
        &mut self,
        session: SessionId,
        origin: ReplicaId,
        (max_messages, max_bytes): (u64, u64),
        entries: &[Appending],
    ) -> Reply {
        let Some(state) = self.sessions.get_mut(&session) else {
            return Reply::Appended {
                owner: ReplicaId::default(),
                seqs: vec![AppendFate::Gone; entries.len()],
            };
        };
        Reply::Appended {
            owner: state.owner,
            seqs: entries
                .iter()
                .map(|entry| state.queue.append(origin, max_messages, max_bytes, entry))
                .collect(),
        }
    }

    pub(super) fn settle_again(&mut self, request: &Request) {
        let Request::Settle {
            session,
            epoch,
            dequeue,
            release,
            inbound_put,
            inbound_delete,
        } = request
        else {
            return;
        };
        let settling = Settling {
            dequeue,
            release,
            inbound_put,
            inbound_delete,
        };
        if let Some(state) = self.sessions.get_mut(session) {
            state.settle_again(*epoch, &settling);
        }
    }

    fn settle(
        &mut self,
        session: SessionId,
        epoch: Option<Epoch>,
        settling: &Settling<'_>,
    ) -> Reply {
        let Some(state) = self.sessions.get_mut(&session) else {
            return match epoch {
                Some(_) => Reply::Fenced,
                None => Reply::Done,
            };
        };
        if epoch.is_some_and(|epoch| epoch != state.epoch) {
            return Reply::Fenced;
        }
        state.settle(settling);
        Reply::Done
    }
}
