//! What is appended to taps.

use std::sync::Arc;

use super::super::taps::Tapping;
use super::{APPEND_BYTES, APPEND_MAX, BLOCK, Builder, Draft, Target, What};

use dunlin_protocol::QoS;

use crate::Message;
use crate::cluster::Appending;
use crate::cluster::frame::{MessageView, put_tapped};
use crate::cluster::tap::{Definition, TapPartition};

impl Builder<'_> {
    pub(super) fn tap(
        &mut self,
        batch: u32,
        tap: &Arc<Definition>,
        partition: u16,
        message: &Message,
        once: Option<(u64, u64)>,
    ) {
        let waits = message.qos() > QoS::AtMostOnce;
        let known = self
            .taps
            .iter()
            .rev()
            .find(|(known, of, _)| *of == partition && Arc::ptr_eq(known, tap));
        let known = known.map(|(_, _, at)| *at);
        let to = || TapPartition {
            tap: Arc::clone(&tap.name),
            partition,
        };
        let stalled = self.own.taps.any() && self.own.taps.is_stalled(&to());
        // A batch that was kept gets the numbers that it had.
        let last = self.numbered.as_mut().unwrap_or(&mut self.own.appends);
        *last += 1;
        let number = *last;
        if stalled && !waits {
            self.own.taps.dropped += 1;
            return;
        }
        self.scratch.clear();
        if put_tapped(&mut self.scratch, number, &MessageView::of(message)).is_err() {
            return;
        }
        if self.block.capacity() < self.scratch.len() {
            self.block.reserve(self.scratch.len().max(BLOCK));
        }
        self.block.extend_from_slice(&self.scratch);
        let appending = Appending {
            number,
            once,
            body: self.block.split().freeze(),
        };
        if stalled {
            let ticket = self.batches.get(batch as usize).map(|staged| staged.ticket);
            return self.own.taps.wait((&to(), tap.bound()), appending, ticket);
        }
        if let Some(draft) = known.and_then(|at| self.then.get_mut(at))
            && let Target::Tap(tapping) = &mut draft.target
            && tapping.slots.len() < APPEND_MAX
            && tapping.bytes < APPEND_BYTES
            && let Some(entries) = Arc::get_mut(&mut tapping.entries)
        {
            tapping.bytes += appending.body.len();
            entries.push(appending);
            tapping.slots.push((batch, waits));
            return;
        }
        let to = to();
        let tapping = Tapping {
            attempt: self.own.taps.attempt(&to),
            to,
            bound: tap.bound(),
            bytes: appending.body.len(),
            entries: Arc::new(vec![appending]),
            slots: vec![(batch, waits)],
        };
        self.taps
            .retain(|(known, of, _)| *of != partition || !Arc::ptr_eq(known, tap));
        self.taps
            .push((Arc::clone(tap), partition, self.then.len()));
        self.then.push(Draft {
            what: What::Tap,
            target: Target::Tap(Box::new(tapping)),
        });
    }
}
