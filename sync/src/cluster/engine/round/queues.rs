//! Changes of queues: what is appended, and what clients have done with it.

use std::sync::Arc;

use bytes::Bytes;

use super::{APPEND_BYTES, APPEND_MAX, BLOCK, Builder, CHUNK, Draft, Settle, Target, What, note};

use crate::cluster::Appending;
use crate::embedded::values;
use crate::{Appended, Delivery, Message, SessionId};

impl Builder<'_> {
    pub(super) fn enqueue(
        &mut self,
        batch: u32,
        session: SessionId,
        delivery: Delivery,
        message: Arc<Message>,
        once: Option<(u64, u64)>,
    ) {
        let body = self.encode(&delivery, &message);
        let Some(staged) = self.batches.get_mut(batch as usize) else {
            return;
        };
        let place = (batch, staged.appended.len() as u32);
        staged.appended.push(Appended {
            session,
            seq: Appended::DROPPED,
            delivery,
            message,
        });
        let Some(body) = body else { return };
        let last = self.numbered.as_mut().unwrap_or(&mut self.own.appends);
        *last += 1;
        let appending = Appending {
            number: *last,
            once,
            body,
        };
        let slots = self.sessions.entry(session).or_default();
        if let Some(draft) = slots.append.and_then(|at| self.then.get_mut(at))
            && let What::Append { entries, bytes } = &mut draft.what
            && let Target::Append { slots, .. } = &mut draft.target
            && entries.len() < APPEND_MAX
            && *bytes < APPEND_BYTES
        {
            *bytes += appending.body.len();
            entries.push(appending);
            slots.push(place);
            return;
        }
        slots.append = Some(self.then.len());
        self.then.push(Draft {
            what: What::Append {
                bytes: appending.body.len(),
                entries: vec![appending],
            },
            target: Target::Append {
                session,
                slots: vec![place],
            },
        });
    }

    /// The stored form; a message that goes to many queues in the same way is encoded once.
    pub(super) fn encode(&mut self, delivery: &Delivery, message: &Arc<Message>) -> Option<Bytes> {
        if let Some((last, how, body)) = &self.last_entry
            && Arc::ptr_eq(last, message)
            && how == delivery
        {
            return Some(body.clone());
        }
        values::put_inline(&mut self.scratch, delivery, message).ok()?;
        if self.block.capacity() < self.scratch.len() {
            self.block.reserve(self.scratch.len().max(BLOCK));
        }
        self.block.extend_from_slice(&self.scratch);
        let body = self.block.split().freeze();
        self.last_entry = Some((Arc::clone(message), delivery.clone(), body.clone()));
        Some(body)
    }

    /// A packet id of a publisher: the publishes of its batch follow only if that was not fenced.
    pub(super) fn remember(&mut self, batch: u32, session: SessionId, packet_id: u16, count: u64) {
        self.settle(batch, session, None, |settle| {
            settle.inbound.insert(packet_id, Some(count));
        });
        let slots = self.sessions.get(&session);
        let at = slots.and_then(|slots| slots.settle);
        if let Some(draft) = at.and_then(|at| self.first.get_mut(at))
            && let Target::Settle { publishing, .. } = &mut draft.target
        {
            note(publishing, batch);
        }
    }

    /// A change of what a client has done with its queue; `seq`: the entry it is about.
    pub(super) fn settle(
        &mut self,
        batch: u32,
        session: SessionId,
        seq: Option<u64>,
        change: impl FnOnce(&mut Settle),
    ) {
        let Some(own) = self.own.sessions.get(&session) else {
            return;
        };
        let early = own.made_in != self.id && seq.is_none_or(|seq| seq < own.tail);
        let epoch = own.fence();
        let slots = self.sessions.entry(session).or_default();
        let (at, part) = if early {
            (slots.settle, &mut self.first)
        } else {
            // Not before an append of the same round.
            (
                slots.late.filter(|late| Some(*late) > slots.append),
                &mut self.then,
            )
        };
        if let Some(draft) = at.and_then(|at| part.get_mut(at))
            && let What::Settle(settle) = &mut draft.what
            && let Target::Settle { batches, .. } = &mut draft.target
            && settle.len() < CHUNK
        {
            change(settle);
            note(batches, batch);
            return;
        }
        let mut settle = Settle::default();
        change(&mut settle);
        let place = Some(part.len());
        part.push(Draft {
            what: What::Settle(settle),
            target: Target::Settle {
                session,
                epoch,
                batches: vec![batch],
                publishing: Vec::new(),
            },
        });
        if early {
            slots.settle = place;
        } else {
            slots.late = place;
        }
    }
}
