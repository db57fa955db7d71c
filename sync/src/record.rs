//! The records a store keeps, and what it hands back.

use std::sync::Arc;

use dunlin_protocol::QoS;

use crate::Message;

/// Number of a persistent session; allocated by the store and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A persistent session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// From [`Store::next_session_id`](crate::Store::next_session_id).
    pub id: SessionId,
    /// The client it belongs to.
    pub client_id: Arc<str>,
    /// Seconds it outlives its connection; `u32::MAX` is for ever.
    pub expiry_interval: u32,
    /// Unix time in milliseconds; `None` means that its client was connected.
    pub disconnected_at: Option<u64>,
    /// Fencing number: every claim of the session raises it.
    pub epoch: u64,
}

/// A subscription of a persistent session, keyed by its filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// The filter as the client sent it, `$share/...` included.
    pub filter: Box<str>,
    /// The subscription options byte.
    pub options: u8,
    /// Subscription identifier, if the client gave one.
    pub identifier: Option<u32>,
}

/// A will, keyed by its client id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillRecord {
    /// The client whose will it is.
    pub client_id: Arc<str>,
    /// Its persistent session, if it has one.
    pub session: Option<SessionId>,
    /// Epoch of the connection that set it.
    pub epoch: u64,
    /// Will delay in seconds.
    pub delay: u32,
    /// Unix time in milliseconds at which it is to be published; `None` while its client is connected.
    pub due_at: Option<u64>,
    /// Message expiry in seconds, counted from its publication.
    pub expiry_interval: Option<u32>,
    /// What is to be published.
    pub message: Arc<Message>,
}

/// What is owed to the client for a queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueState {
    /// The PUBLISH, for the first time or again.
    Queued,
    /// The PUBREL: the client has sent PUBREC, the message itself is dropped.
    Released,
}

/// How a session gets a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Granted quality of service.
    pub qos: QoS,
    /// Retain flag as it is to be sent.
    pub retain: bool,
    /// Subscription identifiers to be sent, in order.
    pub subscription_ids: Box<[u32]>,
    /// The `$share/group/filter` it came through.
    pub share: Option<Arc<str>>,
}

impl Delivery {
    /// A delivery at `qos` with nothing else to say. A [`QueueState::Released`] entry carries
    /// `Delivery::plain(QoS::ExactlyOnce)`, whatever it was queued with.
    #[must_use]
    pub fn plain(qos: QoS) -> Self {
        Self {
            qos,
            retain: false,
            subscription_ids: Box::default(),
            share: None,
        }
    }
}

/// One entry of a session's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Position in the queue.
    pub seq: u64,
    /// What is owed.
    pub state: QueueState,
    /// How it is delivered.
    pub delivery: Delivery,
    /// The message; `None` exactly when `state` is [`QueueState::Released`].
    pub message: Option<Arc<Message>>,
}

/// Tells the submitter of an [`Op::Enqueue`](crate::Op::Enqueue) where the message went.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The session it was queued for.
    pub session: SessionId,
    /// Its position there, or [`Appended::DROPPED`], or [`Appended::ELSEWHERE`].
    pub seq: u64,
    /// As it was handed in.
    pub delivery: Delivery,
    /// As it was handed in.
    pub message: Arc<Message>,
}

impl Appended {
    /// Sequence number of a message that was not queued, as its session did not exist (any more), or its
    /// queue was at its bound.
    pub const DROPPED: u64 = u64::MAX;
    /// Sequence number of a message that is in the queue of a session that is not connected to this
    /// process: whoever has the session is told. Only stores that several processes share say it.
    pub const ELSEWHERE: u64 = u64::MAX - 1;

    /// Whether there is nothing to deliver here: the message was not queued, or is
    /// [elsewhere](Self::is_elsewhere).
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.seq >= Self::ELSEWHERE
    }

    /// Whether the message is queued, and delivering it is another's task.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.seq == Self::ELSEWHERE
    }
}

/// Everything a store held when it was opened, but the bodies of queues.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Persistent sessions, by id.
    pub sessions: Vec<RecoveredSession>,
    /// Retained messages, by topic.
    pub retained: Vec<Arc<Message>>,
    /// Wills, by client id.
    pub wills: Vec<WillRecord>,
}

/// A persistent session as it was found.
#[derive(Debug)]
pub struct RecoveredSession {
    /// The session.
    pub record: SessionRecord,
    /// Its subscriptions, by filter.
    pub subscriptions: Vec<SubscriptionRecord>,
    /// Packet ids of QoS 2 messages that its client has not released yet, ascending.
    pub inbound_qos2: Vec<u16>,
    /// First live sequence number; equals `queue_tail` when the queue is empty.
    pub queue_head: u64,
    /// Next sequence number to be assigned; it may have skipped some after a crash.
    pub queue_tail: u64,
    /// Entries in the queue.
    pub queue_len: u64,
    /// What the messages in the queue weigh ([`Message::size`]).
    pub queue_bytes: u64,
}
