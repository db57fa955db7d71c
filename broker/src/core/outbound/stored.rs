//! The stored queue of a session, as far as its replica knows it: what is read of it, and what may have
//! come back after a failover.

use std::sync::Arc;

use dunlin_protocol::QoS;

use dunlin_sync::{Delivery, Message, Op, QueueEntry, QueueState};

use super::{Outbound, Pending, QueueBounds};

impl Outbound {
    /// Everything below has been sent before, as whoever had the session has left word.
    pub(crate) fn set_sent_to(&mut self, sent_to: u64) {
        self.sent_to = sent_to;
    }

    /// Up to where messages have been sent. A successor cannot know it otherwise, and what it takes for sent
    /// it sends again even if it has expired since.
    pub(crate) fn sent_mark(&self) -> u64 {
        self.sent_to
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
                held: None,
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
                held: None,
            });
        }
        if exhausted {
            self.loaded_to = self.loaded_to.max(tail);
        }
        self.tail = self.tail.max(self.loaded_to);
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

    /// First entry of the stored queue that was never sent, and one past the last entry.
    pub(crate) fn unsent_range(&self) -> (u64, u64) {
        (self.sent_to, self.tail)
    }

    /// First and one past last entry of the stored queue.
    pub(crate) fn stored_range(&self) -> (u64, u64) {
        (self.base.min(self.loaded_to), self.tail)
    }
}
