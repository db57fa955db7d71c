//! What a session remembers of the QoS 2 publishes that its client has sent and not yet released.

use std::collections::HashSet;

use dunlin_protocol::PacketId;
use foldhash::fast::RandomState;

/// Packet ids between PUBREC and PUBREL. Holds no memory while there are none; never more than the
/// receive maximum granted to the client, which the connection enforces.
#[derive(Debug, Default)]
pub(crate) struct InboundQos2 {
    #[expect(
        clippy::box_collection,
        reason = "eight bytes in every session, and most have none"
    )]
    ids: Option<Box<HashSet<PacketId, RandomState>>>,
}

impl InboundQos2 {
    /// Number of packet ids held.
    pub(crate) fn len(&self) -> usize {
        self.ids.as_ref().map_or(0, |ids| ids.len())
    }

    /// Remembers `id`. `false`: it is held already, so that the publish is a repetition and must
    /// not be delivered again. [MQTT-4.3.3-10]
    pub(crate) fn insert(&mut self, id: PacketId) -> bool {
        self.ids.get_or_insert_default().insert(id)
    }

    /// Forgets `id`. Gives back whether it was held.
    pub(crate) fn remove(&mut self, id: PacketId) -> bool {
        let Some(ids) = &mut self.ids else {
            return false;
        };
        let held = ids.remove(&id);
        if ids.is_empty() {
            self.ids = None;
        }
        held
    }
}
