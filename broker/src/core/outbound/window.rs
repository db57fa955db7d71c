//! The window: what is in flight, and what its acknowledgements mean.

use std::collections::VecDeque;

use dunlin_protocol::{PacketId, QoS, ReasonCode};
use dunlin_sync::Op;

use super::{Acked, IDS, More, Outbound, Pending, Shared, Slot, Tally, packet_id, weight};
use crate::core::frames::is_expired;
use crate::core::link::Link;

impl Outbound {
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
        if !link.is_for(message.topic()) || self.store_id.is_some() && !link.lets(message.topic()) {
            tally.withheld += 1;
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
        tally.sent(pending.delivery.qos, 1, link.out.len() - before);
        tally.resent += u64::from(dup);
        let more = match (&pending.delivery.share, self.store_id) {
            (Some(_), None) => Some(More::Shared(Shared {
                message: message.clone(),
                delivery: pending.delivery.clone(),
                held: pending.held,
            })),
            _ => link.config_version_of(message).map(More::Config),
        };
        self.place(
            seq,
            Slot::Sent {
                qos: pending.delivery.qos,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                more: more.map(Box::new),
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
    pub(crate) fn take_place(&mut self, qos: QoS, more: Option<Box<More>>) -> PacketId {
        let seq = self.next_seq();
        self.place(seq, Slot::Sent { qos, size: 0, more });
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

    pub(super) fn next_seq(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    pub(super) fn may_send(&self, seq: u64) -> bool {
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
        match &mut self.slots[index] {
            Slot::Sent {
                qos: QoS::AtLeastOnce,
                size,
                more,
            } => {
                let (size, more) = (*size, more.take());
                let done = self.finish(index, u64::from(size), ops);
                match more.as_deref() {
                    Some(More::Config(version)) => Acked::Config(*version),
                    _ => done,
                }
            }
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
    pub(crate) fn take_shared(&mut self) -> Vec<Shared> {
        let mut taken = Vec::new();
        // What waits here is a copy of what is in the queue, which is moved there.
        if self.store_id.is_some() {
            return taken;
        }
        for slot in self.slots.drain(..) {
            if let Slot::Sent {
                qos: QoS::AtLeastOnce,
                more: Some(more),
                ..
            } = slot
                && let More::Shared(shared) = *more
            {
                taken.push(shared);
            }
        }
        for pending in self.ready.drain(..) {
            if let (Some(message), Some(_)) = (pending.message, &pending.delivery.share) {
                taken.push(Shared {
                    message,
                    delivery: pending.delivery,
                    held: pending.held,
                });
            }
        }
        taken
    }
}
