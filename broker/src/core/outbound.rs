//! What a session owes its client at QoS 1 and 2: the window of packets in flight and the messages
//! that wait for a place in it.
//!
//! Packet ids are not stored. Every message has a sequence number in its session, the id is
//! `seq % 65535 + 1`, and a message is sent only while the oldest unfinished one is less than 65,535
//! behind. So a persistent session that is resumed after a crash, or by another process, resends
//! each message under the id it had, which QoS 2 needs, without one write for it.

mod stored;
mod window;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use dunlin_protocol::{PacketId, QoS};
use dunlin_sync::cluster::Held;
use dunlin_sync::{Delivery, Message, SessionId};

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
    /// As in [`Shared`].
    held: Option<Held>,
}

/// A message that another member of its shared group gets if this session ends without having
/// acknowledged it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) message: Arc<Message>,
    pub(crate) delivery: Delivery,
    /// Keeps it in this replica's inbox, for others should the replica die.
    pub(crate) held: Option<Held>,
}

/// What is to be known of a packet in flight beside its size.
#[derive(Debug)]
pub(crate) enum More {
    /// Another member of the group must get the message if this session ends.
    Shared(Shared),
    /// It brings this version of the configuration of the device that the client is.
    Config(NonZeroU64),
}

#[derive(Debug)]
enum Slot {
    Done,
    Sent {
        qos: QoS,
        /// What the message weighs, to be given back to the session's queue bound.
        size: u32,
        /// What few packets have.
        more: Option<Box<More>>,
    },
    Released,
}

/// What the deliveries of a call came to; added to the metrics once per batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// By QoS.
    pub(crate) sent: [u64; 3],
    pub(crate) sent_bytes: u64,
    pub(crate) resent: u64,
    /// QoS 0 dropped because the client reads too slowly.
    pub(crate) dropped_outbox: u64,
    /// Dropped because the session's queue is full.
    pub(crate) dropped_queue: u64,
    pub(crate) expired: u64,
    pub(crate) too_large: u64,
    /// No longer allowed to be read.
    pub(crate) withheld: u64,
}

impl Tally {
    /// Messages that were put into an outbox, and their bytes.
    #[inline]
    pub(crate) fn sent(&mut self, qos: QoS, messages: u64, bytes: usize) {
        if let Some(sent) = self.sent.get_mut(qos as usize) {
            *sent += messages;
        }
        self.sent_bytes += bytes as u64;
    }
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
    /// The same; it was this version of the configuration of the device that the client is.
    Config(NonZeroU64),
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
    /// The session is a stored one, whose queue is in the store.
    pub(crate) fn is_stored(&self) -> bool {
        self.store_id.is_some()
    }

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

    /// A persistent session of a cluster, as it was claimed; otherwise as [`Self::recovered`]. Without word of how far
    /// it was sent, anything below `tail` may have been: acknowledgements that were not written any more have moved
    /// the window on.
    pub(crate) fn claimed(
        store_id: SessionId,
        head: u64,
        tail: u64,
        queued: u64,
        queued_bytes: u64,
    ) -> Self {
        Self {
            cluster: true,
            counted_to: tail,
            sent_to: tail,
            ..Self::recovered(store_id, head, tail, queued, queued_bytes, 0)
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
        held: Option<Held>,
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
            held,
        };
        self.ready.push_back(pending);
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
