//! What goes to taps: programs outside the brokers that get everything that matches, through Redis.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_protocol::QoS;
use dunlin_sync::cluster::tap::{Definition, name_of};
use dunlin_sync::publisher::client_of;
use dunlin_sync::{Message, Op};
use parking_lot::Mutex;

use super::Hub;
use super::publish::Outcome;
use crate::core::frames::Frames;

/// The taps of the cluster, by name.
#[derive(Debug, Default)]
pub(crate) struct Taps(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_name: BTreeMap<Arc<str>, (u64, Arc<Definition>)>,
    /// Numbers given so far.
    numbers: u64,
}

impl Taps {
    /// Says that this replica appends to all of them: it has another number now.
    pub(super) fn known(&self) -> Vec<Op> {
        let known = self.0.lock();
        let definitions = known.by_name.values();
        definitions
            .map(|(_, definition)| known_op(definition))
            .collect()
    }
}

fn known_op(definition: &Definition) -> Op {
    Op::TapKnown {
        tap: definition.name.clone(),
        revision: definition.revision,
    }
}

impl Hub {
    /// A message of the table of retained messages that is the definition of a tap; `false`: it is a message.
    pub(super) fn tap_changed(self: &Arc<Self>, message: &Message) -> bool {
        let definition = match Definition::of_message(message) {
            None => return false,
            Some(Ok(definition)) => Arc::new(definition),
            Some(Err(error)) => {
                tracing::error!(tap = message.topic(), %error, "the definition of a tap cannot be read: nothing is appended to it");
                return true;
            }
        };
        {
            let mut known = self.taps.0.lock();
            let before = known.by_name.get(&definition.name).cloned();
            let number = before.as_ref().map_or(known.numbers, |(number, _)| *number);
            known.numbers = known.numbers.max(number + 1);
            known
                .by_name
                .insert(definition.name.clone(), (number, definition.clone()));
            let before = before.as_ref().map(|(_, definition)| &**definition);
            self.directory.set_tap(number, before, Some(&definition));
        }
        tracing::info!(tap = %definition.name, filters = ?definition.filters, partitions = definition.partitions, "what matches is appended to a tap");
        self.submit(vec![known_op(&definition)]);
        true
    }

    /// The counterpart of [`Self::tap_changed`].
    pub(super) fn tap_deleted(&self, key: &str) -> bool {
        let Some(name) = name_of(key) else {
            return false;
        };
        let before = self.taps.0.lock().by_name.remove(name);
        if let Some((number, definition)) = before {
            self.directory.set_tap(number, Some(&definition), None);
        }
        true
    }

    /// Appends a run to the taps that match. QoS 0 does not wait for a store that is behind.
    pub(super) fn tap_run(
        &self,
        frames: &Frames<'_, '_>,
        taps: &[Arc<Definition>],
        outcome: &mut Outcome,
    ) {
        let publisher = client_of(frames.origin().publisher.as_deref().unwrap_or_default());
        let behind = self.store.pending_bytes() > self.limits.store_pending_bytes / 2;
        for tap in taps {
            let partition = tap.partition_of(publisher);
            for (index, publish) in frames.run().iter().enumerate() {
                if behind && publish.qos == QoS::AtMostOnce {
                    self.metrics.tap_skipped();
                    continue;
                }
                outcome.ops.push(Op::Tap {
                    tap: tap.clone(),
                    partition,
                    message: frames.message(index),
                    once: publish.once,
                });
            }
        }
    }
}
