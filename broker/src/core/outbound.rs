//! What a session owes its client at QoS 1 and 2: the window of packets in flight and the messages
//! that wait for a place in it.
//!
//! Packet ids are not stored. Every message has a sequence number in its session, the id is
//! `seq % 65535 + 1`, and a message is sent only while the oldest unfinished one is less than 65,535
//! behind. So a persistent session that is resumed after a crash, or by another process, resends
//! each message under the id it had, which QoS 2 needs, without one write for it.

use std::collections::VecDeque;
use std::sync::Arc;

use dunlin_protocol::{PacketId, QoS, ReasonCode};
use dunlin_sync::{Delivery, Message, Op, QueueEntry, QueueState, SessionId};

use super::frames::is_expired;
use super::link::Link;

/// Number of packet ids.
const IDS: u64 = 65_535;

/// A message that waits; for persistent sessions a copy of a queue entry.
#[derive(Debug)]
struct Pending {
    /// Position in the stored queue; unused in a session that is not stored.
    seq: u64,
    /// `None`: PUBREC has come, the PUBREL is owed.
    message: Option<Arc<Message>>,
    delivery: Delivery,
}

#[derive(Debug)]
enum Slot {
    Done,
    Sent {
        qos: QoS,
        /// What the message weighs, to be given back to the session's queue bound.
        size: u32,
        /// Kept where another member of the group must get the message if this session ends.
        shared: Option<Box<(Arc<Message>, Delivery)>>,
    },
    Released,
}

/// What the deliveries of a call came to; added to the metrics once per batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) resent: u64,
    /// QoS 0 dropped because the client reads too slowly.
    pub(crate) dropped_outbox: u64,
    /// Dropped because the session's queue is full.
    pub(crate) dropped_queue: u64,
    pub(crate) expired: u64,
    pub(crate) too_large: u64,
}

/// Bounds of one session's waiting messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueBounds {
    /// Messages that may wait.
    pub(crate) messages: u64,
    /// Bytes that may wait.
    pub(crate) bytes: u64,
    /// At the bound the oldest waiting message makes place, instead of the new one being dropped.
    /// Only for sessions that are not stored: what a stored session has acknowledged stays.
    pub(crate) drop_oldest: bool,
    /// Messages of a stored queue that are held in memory while its client is connected.
    pub(crate) ready: usize,
}

/// What a client's acknowledgement means for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    /// It is done with.
    Done,
    /// PUBREL is to be sent, once the operations are durable.
    Release,
    /// No such packet id is in flight: answered where the protocol has an answer, else ignored.
    Unknown,
    /// The acknowledgement is of another QoS than the packet: a protocol error.
    WrongKind,
}

/// The sending side of a session.
#[derive(Debug)]
pub(crate) struct Outbound {
    store_id: Option<SessionId>,
    /// Sequence number of the first slot.
    base: u64,
    slots: VecDeque<Slot>,
    /// Slots that are not done.
    in_flight: u32,
    /// Most slots that may be unfinished: the client's Receive Maximum or our own bound.
    quota: u32,
    ready: VecDeque<Pending>,
    /// Stored sessions: everything below has been taken into `ready` or beyond.
    loaded_to: u64,
    /// Stored sessions: one past the last entry of the stored queue.
    tail: u64,
    /// Everything below has been sent before: it goes out with DUP.
    sent_to: u64,
    /// Of a cluster: other processes append to the queue too, and its bound is looked at where it is.
    cluster: bool,
    /// Of a cluster: everything below has been counted in `queued`.
    counted_to: u64,
    /// The queue may hold more than is known: it is to be read once.
    probe: bool,
    /// Numbers that were not in the queue when what follows them was read, ascending: a failover of
    /// Redis may have lost entries there that come back.
    #[expect(
        clippy::box_collection,
        reason = "eight bytes in every session, and most have none"
    )]
    gaps: Option<Box<Vec<(u64, u64)>>>,
    /// They may have come back.
    restored: bool,
    /// Messages that count against the bounds: waiting, or (stored sessions) not yet acknowledged.
    queued: u64,
    queued_bytes: u64,
}

impl Outbound {
    pub(crate) fn new(store_id: Option<SessionId>) -> Self {
        Self {
            store_id,
            base: 0,
            slots: VecDeque::new(),
            in_flight: 0,
            quota: 0,
            ready: VecDeque::new(),
            loaded_to: 0,
            tail: 0,
            sent_to: 0,
            cluster: false,
            counted_to: 0,
            probe: false,
            gaps: None,
            restored: false,
            queued: 0,
            queued_bytes: 0,
        }
    }

    /// A stored session as it was found at start. `window` is the most that can have been in flight
    /// before: so many of the oldest messages may have been sent already.
    pub(crate) fn recovered(
        store_id: SessionId,
        head: u64,
        tail: u64,
        queued: u64,
        queued_bytes: u64,
        window: u32,
    ) -> Self {
        Self {
            base: head,
            loaded_to: head,
            tail,
            sent_to: tail.min(head + u64::from(window)),
            queued,
            queued_bytes,
            ..Self::new(Some(store_id))
        }
    }

    /// A persistent session of a cluster, as it was claimed; otherwise as [`Self::recovered`].
    pub(crate) fn claimed(
        store_id: SessionId,
        head: u64,
        tail: u64,
        queued: u64,
        queued_bytes: u64,
        window: u32,
    ) -> Self {
        Self {
            cluster: true,
            counted_to: tail,
            ..Self::recovered(store_id, head, tail, queued, queued_bytes, window)
        }
    }

    /// Everything below has been sent before, as whoever had the session has left word.
    pub(crate) fn set_sent_to(&mut self, sent_to: u64) {
        self.sent_to = sent_to;
    }

    /// Up to where messages have been sent, if there are any left that a successor may ask it of.
    pub(crate) fn sent_mark(&self) -> Option<u64> {
        let (head, tail) = self.stored_range();
        (head < tail).then_some(self.sent_to)
    }

    /// The queue reaches up to `tail` at least.
    pub(crate) fn grown(&mut self, tail: u64) {
        self.tail = self.tail.max(tail);
    }

    /// The queue may have grown unnoticed.
    pub(crate) fn may_have_grown(&mut self) {
        self.probe = true;
    }

    /// Entries may have come back below what was read.
    pub(crate) fn may_be_restored(&mut self) {
        self.probe = true;
        self.restored = self.gaps.is_some();
    }

    /// Whether and from where the queue is to be looked through for entries that have come back.
    pub(crate) fn restored_from(&self) -> Option<u64> {
        let gaps = self.gaps.as_ref().filter(|_| self.restored)?;
        gaps.first().map(|(from, _)| *from)
    }

    /// Of entries that were read from [`Self::restored_from`] on, those that have come back: they go to
    /// the end of the queue, where they get a number that is free. `None`: no more is to be read.
    pub(crate) fn take_restored(
        &mut self,
        entries: Vec<QueueEntry>,
        ops: &mut Vec<Op>,
    ) -> Option<u64> {
        let (Some(session), Some(gaps)) = (self.store_id, &self.gaps) else {
            self.restored = false;
            return None;
        };
        let next = entries.last().map(|entry| entry.seq + 1);
        for entry in entries {
            let lost = gaps
                .iter()
                .any(|(from, to)| (*from..*to).contains(&entry.seq));
            if !lost || entry.seq >= self.loaded_to {
                continue;
            }
            ops.push(Op::Dequeue {
                session,
                seq: entry.seq,
            });
            if let (QueueState::Queued, Some(message)) = (entry.state, entry.message) {
                ops.push(Op::Enqueue {
                    session,
                    delivery: entry.delivery,
                    message,
                    once: None,
                });
            }
        }
        let next = next.filter(|next| *next < self.loaded_to);
        self.restored = next.is_some();
        next
    }

    fn note_gap(&mut self, from: u64, to: u64) {
        /// Gaps that are remembered: one for each failover, and one for entries that were
        /// acknowledged out of order before.
        const GAPS: usize = 64;
        if !self.cluster || from >= to {
            return;
        }
        let gaps = self.gaps.get_or_insert_default();
        if gaps.len() >= GAPS {
            gaps.remove(0);
        }
        gaps.push((from, to));
    }

    fn count(&mut self, seq: u64, size: usize) {
        if self.cluster && seq >= self.counted_to {
            self.counted_to = seq + 1;
            self.queued += 1;
            self.queued_bytes += size as u64;
        }
    }

    /// Messages and bytes that count against the bounds.
    pub(crate) fn queued(&self) -> (u64, u64) {
        (self.queued, self.queued_bytes)
    }

    /// Nothing waits in memory to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// Whether a message given now would be sent at once.
    pub(crate) fn is_clear(&self) -> bool {
        self.ready.is_empty() && self.loaded_to == self.tail && self.may_send(self.next_seq())
    }

    /// The client is there: it takes `quota` unacknowledged messages. What was in flight before is
    /// read again from the store.
    pub(crate) fn attach(&mut self, quota: u16) {
        self.quota = u32::from(quota);
    }

    /// The client is gone. A stored session forgets what it holds in memory.
    pub(crate) fn detach(&mut self) {
        if self.store_id.is_none() {
            return;
        }
        let head = if !self.slots.is_empty() {
            self.base
        } else {
            self.ready
                .front()
                .map_or(self.loaded_to, |pending| pending.seq)
        };
        self.base = head;
        self.loaded_to = head;
        self.slots = VecDeque::new();
        self.ready = VecDeque::new();
        self.in_flight = 0;
        self.gaps = None;
        self.restored = false;
    }

    /// Counts a message that is about to be written to the stored queue; `false` at the bound.
    pub(crate) fn admit(&mut self, size: usize, bounds: &QueueBounds) -> bool {
        if self.queued >= bounds.messages || self.queued_bytes + size as u64 > bounds.bytes {
            return false;
        }
        self.queued += 1;
        self.queued_bytes += size as u64;
        true
    }

    fn release_bytes(&mut self, size: u64) {
        self.queued = self.queued.saturating_sub(1);
        self.queued_bytes = self.queued_bytes.saturating_sub(size);
    }

    /// A message that a session without a stored queue cannot be sent now.
    pub(crate) fn wait(
        &mut self,
        message: Arc<Message>,
        delivery: Delivery,
        bounds: &QueueBounds,
        tally: &mut Tally,
    ) {
        let size = message.size();
        if !self.admit(size, bounds) {
            tally.dropped_queue += 1;
            if !bounds.drop_oldest || self.ready.is_empty() {
                return;
            }
            while !self.admit(size, bounds) {
                match self.ready.pop_front() {
                    Some(oldest) => self.release_bytes(weight(&oldest)),
                    None => return,
                }
            }
        }
        let pending = Pending {
            seq: 0,
            message: Some(message),
            delivery,
        };
        self.ready.push_back(pending);
    }

    /// A message is in the stored queue now.
    pub(crate) fn appended(
        &mut self,
        seq: u64,
        message: Arc<Message>,
        delivery: Delivery,
        connected: bool,
        bounds: &QueueBounds,
    ) {
        self.tail = self.tail.max(seq + 1);
        self.count(seq, message.size());
        if connected && self.loaded_to == seq && self.ready.len() < bounds.ready {
            self.loaded_to = seq + 1;
            self.ready.push_back(Pending {
                seq,
                message: Some(message),
                delivery,
            });
        }
    }

    /// Nothing is at hand, though the stored queue holds more: it has to be read before anything can be sent.
    pub(crate) fn is_behind(&self) -> bool {
        self.ready.is_empty() && self.loaded_to < self.tail
    }

    /// From where the stored queue is to be read, when memory has run low; and up to where it is
    /// known to reach, to be handed back to [`Self::refill`].
    pub(crate) fn wants_refill(&self, bounds: &QueueBounds) -> Option<(u64, u64)> {
        let more = self.loaded_to < self.tail || self.probe;
        (more && self.ready.len() <= bounds.ready / 2).then_some((self.loaded_to, self.tail))
    }

    /// Takes what was read from the stored queue. `tail` is as [`Self::wants_refill`] gave it;
    /// `exhausted`: the queue held no more than these.
    pub(crate) fn refill(&mut self, entries: Vec<QueueEntry>, tail: u64, exhausted: bool) {
        // After a probe that found something there may be still more.
        self.probe &= !entries.is_empty();
        for entry in entries {
            if entry.seq < self.loaded_to {
                continue;
            }
            self.note_gap(self.loaded_to, entry.seq);
            self.loaded_to = entry.seq + 1;
            let size = entry.message.as_ref().map_or(0, |message| message.size());
            self.count(entry.seq, size);
            let message = match entry.state {
                QueueState::Queued => entry.message,
                QueueState::Released => None,
            };
            self.ready.push_back(Pending {
                seq: entry.seq,
                message,
                delivery: entry.delivery,
            });
        }
        if exhausted {
            self.loaded_to = self.loaded_to.max(tail);
        }
        self.tail = self.tail.max(self.loaded_to);
    }

    /// Sends what the window and the link have room for.
    pub(crate) fn pump(
        &mut self,
        link: &mut Link,
        now_ms: u64,
        ops: &mut Vec<Op>,
        tally: &mut Tally,
    ) {
        while let Some(next) = self.ready.front() {
            let seq = match self.store_id {
                Some(_) => next.seq,
                None => self.next_seq(),
            };
            if !self.may_send(seq) || !link.has_room(1) {
                return;
            }
            let Some(pending) = self.ready.pop_front() else {
                return;
            };
            self.send(seq, pending, link, now_ms, ops, tally);
        }
        if self.ready.capacity() > 64 {
            self.ready = VecDeque::new();
        }
    }

    fn send(
        &mut self,
        seq: u64,
        pending: Pending,
        link: &mut Link,
        now_ms: u64,
        ops: &mut Vec<Op>,
        tally: &mut Tally,
    ) {
        let size = weight(&pending);
        if self.store_id.is_none() {
            self.release_bytes(size);
        }
        let Some(message) = &pending.message else {
            link.pubrel(packet_id(seq));
            self.place(seq, Slot::Released);
            tally.resent += 1;
            return;
        };
        let dup = seq < self.sent_to;
        let before = link.out.len();
        if is_expired(message, now_ms) && !dup {
            tally.expired += 1;
            return self.discard(seq, size, ops);
        }
        if link
            .publish_message(
                message,
                &pending.delivery,
                Some(packet_id(seq)),
                dup,
                now_ms,
            )
            .is_err()
        {
            tally.too_large += 1;
            return self.discard(seq, size, ops);
        }
        tally.sent += 1;
        tally.resent += u64::from(dup);
        tally.sent_bytes += (link.out.len() - before) as u64;
        let shared = match (&pending.delivery.share, self.store_id) {
            (Some(_), None) => Some(Box::new((message.clone(), pending.delivery.clone()))),
            _ => None,
        };
        self.place(
            seq,
            Slot::Sent {
                qos: pending.delivery.qos,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                shared,
            },
        );
    }

    fn discard(&mut self, seq: u64, size: u64, ops: &mut Vec<Op>) {
        if let Some(session) = self.store_id {
            self.release_bytes(size);
            ops.push(Op::Dequeue { session, seq });
        }
    }

    /// Takes a place in the window for a message that is written by the caller; only when
    /// [`Self::is_clear`], and only in sessions without a stored queue.
    pub(crate) fn take_place(
        &mut self,
        qos: QoS,
        shared: Option<Box<(Arc<Message>, Delivery)>>,
    ) -> PacketId {
        let seq = self.next_seq();
        self.place(
            seq,
            Slot::Sent {
                qos,
                size: 0,
                shared,
            },
        );
        packet_id(seq)
    }

    fn place(&mut self, seq: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.base = seq;
        }
        while self.next_seq() < seq {
            self.slots.push_back(Slot::Done);
        }
        self.slots.push_back(slot);
        self.in_flight += 1;
        self.sent_to = self.sent_to.max(seq + 1);
    }

    fn next_seq(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    fn may_send(&self, seq: u64) -> bool {
        self.in_flight < self.quota && (self.slots.is_empty() || seq - self.base < IDS)
    }

    /// Index of the unfinished slot that has this packet id.
    fn find(&self, id: PacketId) -> Option<usize> {
        let first = self.base % IDS;
        let index = (u64::from(id.get()) - 1 + IDS - first) % IDS;
        let index = usize::try_from(index).ok()?;
        match self.slots.get(index)? {
            Slot::Done => None,
            _ => Some(index),
        }
    }

    /// PUBACK: a QoS 1 message is done with, whatever the reason code says. [MQTT-4.3.2-3]
    pub(crate) fn puback(&mut self, id: PacketId, ops: &mut Vec<Op>) -> Acked {
        let Some(index) = self.find(id) else {
            return Acked::Unknown;
        };
        match self.slots[index] {
            Slot::Sent {
                qos: QoS::AtLeastOnce,
                size,
                ..
            } => self.finish(index, u64::from(size), ops),
            _ => Acked::WrongKind,
        }
    }

    /// PUBREC: from now on the PUBREL is owed, or nothing if the client refused the message.
    /// [MQTT-4.3.3-4]
    pub(crate) fn pubrec(&mut self, id: PacketId, reason: ReasonCode, ops: &mut Vec<Op>) -> Acked {
        let Some(index) = self.find(id) else {
            return Acked::Unknown;
        };
        match self.slots[index] {
            Slot::Sent {
                qos: QoS::ExactlyOnce,
                size,
                ..
            } if reason.is_error() => self.finish(index, u64::from(size), ops),
            Slot::Sent {
                qos: QoS::ExactlyOnce,
                size,
                ..
            } => {
                if let Some(session) = self.store_id {
                    ops.push(Op::Release {
                        session,
                        seq: self.base + index as u64,
                    });
                    // The entry stays, its message does not.
                    self.queued_bytes = self.queued_bytes.saturating_sub(u64::from(size));
                }
                self.slots[index] = Slot::Released;
                Acked::Release
            }
            Slot::Released => Acked::Release,
            _ => Acked::WrongKind,
        }
    }

    /// PUBCOMP: a QoS 2 message is done with.
    pub(crate) fn pubcomp(&mut self, id: PacketId, ops: &mut Vec<Op>) -> Acked {
        let Some(index) = self.find(id) else {
            return Acked::Unknown;
        };
        match self.slots[index] {
            Slot::Released => self.finish(index, 0, ops),
            _ => Acked::WrongKind,
        }
    }

    fn finish(&mut self, index: usize, size: u64, ops: &mut Vec<Op>) -> Acked {
        if let Some(session) = self.store_id {
            ops.push(Op::Dequeue {
                session,
                seq: self.base + index as u64,
            });
            self.release_bytes(size);
        }
        self.slots[index] = Slot::Done;
        self.in_flight -= 1;
        while matches!(self.slots.front(), Some(Slot::Done)) {
            self.slots.pop_front();
            self.base += 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > 64 {
            self.slots = VecDeque::new();
        }
        Acked::Done
    }

    /// Takes out what came through shared subscriptions and is not acknowledged, when a session
    /// without a stored queue ends. QoS 2 that was sent stays with this client. [MQTT-4.8.2-5]
    pub(crate) fn take_shared(&mut self) -> Vec<(Arc<Message>, Delivery)> {
        let mut taken = Vec::new();
        for slot in self.slots.drain(..) {
            if let Slot::Sent {
                qos: QoS::AtLeastOnce,
                shared: Some(shared),
                ..
            } = slot
            {
                taken.push(*shared);
            }
        }
        for pending in self.ready.drain(..) {
            if let (Some(message), Some(_)) = (pending.message, &pending.delivery.share) {
                taken.push((message, pending.delivery));
            }
        }
        taken
    }

    /// Whether an entry of the stored queue may go to another member of its shared group: QoS 1, or
    /// QoS 2 that was never sent.
    pub(crate) fn may_move(&self, entry: &QueueEntry) -> bool {
        entry.delivery.share.is_some()
            && entry.state == QueueState::Queued
            && (entry.delivery.qos == QoS::AtLeastOnce || entry.seq >= self.sent_to)
    }

    /// An entry of the stored queue was moved away while the client is not connected.
    pub(crate) fn moved(&mut self, size: u64) {
        self.release_bytes(size);
    }

    /// First and one past last entry of the stored queue.
    pub(crate) fn stored_range(&self) -> (u64, u64) {
        (self.base.min(self.loaded_to), self.tail)
    }
}

fn weight(pending: &Pending) -> u64 {
    pending
        .message
        .as_ref()
        .map_or(0, |message| message.size() as u64)
}

/// The packet id of a sequence number. See the module's head.
pub(crate) fn packet_id(seq: u64) -> PacketId {
    let id = (seq % IDS) as u16 + 1;
    PacketId::new(id).unwrap_or(PacketId::MAX)
}
