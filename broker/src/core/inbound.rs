//! What a session remembers of the QoS 2 publishes that its client has sent and not yet released.

use std::collections::HashMap;

use crate::hash::RandomState;
use dunlin_protocol::PacketId;

/// What a QoS 2 publish is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It has not been seen.
    Fresh,
    /// It was taken before: it must not be delivered again. [MQTT-4.3.3-10]
    Held,
    /// Another process had taken it, under this count, and it is not known whether it came to the
    /// end of delivering it: it is to be delivered again under the same count, by which every
    /// receiver that has it leaves it out.
    Unsure(u64),
}

#[derive(Clone, Copy, Debug)]
enum Held {
    Delivered,
    Unsure(u64),
}

/// Packet ids between PUBREC and PUBREL. Holds no memory while there are none; never more than the
/// receive maximum granted to the client, which the connection enforces.
#[derive(Debug, Default)]
pub(crate) struct InboundQos2 {
    #[expect(
        clippy::box_collection,
        reason = "eight bytes in every session, and most have none"
    )]
    ids: Option<Box<HashMap<PacketId, Held, RandomState>>>,
}

impl InboundQos2 {
    /// Number of packet ids held.
    pub(crate) fn len(&self) -> usize {
        self.ids.as_ref().map_or(0, |ids| ids.len())
    }

    /// Remembers `id`.
    pub(crate) fn insert(&mut self, id: PacketId) -> Admitted {
        let held = self.ids.get_or_insert_default().insert(id, Held::Delivered);
        match held {
            None => Admitted::Fresh,
            Some(Held::Delivered) => Admitted::Held,
            Some(Held::Unsure(count)) => Admitted::Unsure(count),
        }
    }

    /// Remembers an id that another process took and whose message it has delivered to all.
    pub(crate) fn recall_delivered(&mut self, id: PacketId) {
        self.ids.get_or_insert_default().insert(id, Held::Delivered);
    }

    /// Remembers an id that another process took, with its count.
    pub(crate) fn recall(&mut self, id: PacketId, count: u64) {
        self.ids
            .get_or_insert_default()
            .insert(id, Held::Unsure(count));
    }

    /// Ids that this process took, whether or not their messages have reached all receivers.
    pub(crate) fn taken(&self) -> impl Iterator<Item = PacketId> {
        self.ids
            .iter()
            .flat_map(|ids| ids.iter())
            .filter(|(_, held)| matches!(held, Held::Delivered))
            .map(|(id, _)| *id)
    }

    /// Whether `id` is held.
    pub(crate) fn contains(&self, id: PacketId) -> bool {
        self.ids.as_ref().is_some_and(|ids| ids.contains_key(&id))
    }

    /// Forgets `id`. Gives back whether it was held.
    pub(crate) fn remove(&mut self, id: PacketId) -> bool {
        let Some(ids) = &mut self.ids else {
            return false;
        };
        let held = ids.remove(&id).is_some();
        if ids.is_empty() {
            self.ids = None;
        }
        held
    }
}
