//! What can be asked of a store, in batches.

use std::sync::Arc;

use crate::cluster::tap::Definition;
use crate::cluster::{Epoch, ReleaseRequest, ReplicaId, Route};
use crate::records::RecordBatch;
use crate::{
    Appended, Delivery, Message, SessionId, SessionRecord, StoreError, SubscriptionRecord,
    WillRecord,
};

/// Longest topic, filter or client id, in bytes: what an MQTT string can hold.
const TEXT_MAX: usize = 65_535;
/// Most subscription identifiers on one delivery.
const SUBSCRIPTION_IDS_MAX: usize = 65_535;

/// One change.
///
/// An operation on a session that the store does not hold (never put, or deleted before) changes
/// nothing and is not an error: a publish may race with the end of a session.
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates or replaces a session. An id that was deleted must not come back.
    PutSession(SessionRecord),
    /// Deletes a session with its subscriptions, its queue and its QoS 2 packet ids.
    DeleteSession(SessionId),
    /// Creates or replaces a subscription.
    PutSubscription(SessionId, SubscriptionRecord),
    /// Deletes the subscription with this filter.
    DeleteSubscription(SessionId, Box<str>),
    /// Appends a message to the session's queue; the store assigns the sequence number.
    Enqueue {
        /// Whose queue.
        session: SessionId,
        /// How it is to be delivered.
        delivery: Delivery,
        /// What is to be delivered.
        message: Arc<Message>,
        /// Publisher and its count, where a repetition of the append must be noticed even if another
        /// process repeats it; see [`cluster::Appending::once`](crate::cluster::Appending::once). Only
        /// stores that several processes share look at it.
        once: Option<(u64, u64)>,
    },
    /// PUBREC has come: turns a live entry into [`QueueState::Released`](crate::QueueState::Released)
    /// and drops its message.
    Release {
        /// Whose queue.
        session: SessionId,
        /// An entry that has not been dequeued: else it would come back without its message.
        seq: u64,
    },
    /// Removes an entry: acknowledged, expired or moved.
    Dequeue {
        /// Whose queue.
        session: SessionId,
        /// The entry; nothing happens if it is gone.
        seq: u64,
    },
    /// Remembers a QoS 2 packet id that the session's client has published and not yet released.
    PutInboundQos2 {
        /// Whose publish.
        session: SessionId,
        /// Its packet id.
        packet_id: u16,
        /// How many QoS 2 publishes the session had made before. Only stores that several processes
        /// share keep it.
        count: u64,
    },
    /// Forgets a QoS 2 packet id: the client has released it.
    DeleteInboundQos2 {
        /// Whose publish.
        session: SessionId,
        /// Its packet id.
        packet_id: u16,
    },
    /// Sets the retained message of its topic.
    PutRetained(Arc<Message>),
    /// Removes the retained message of a topic.
    DeleteRetained(Box<str>),
    /// Sets the will of a client.
    PutWill(WillRecord),
    /// Removes the will of a client.
    DeleteWill {
        /// The client.
        client_id: Arc<str>,
    },
    /// Relays a message to connected sessions of another replica, in its inbox. Like the following
    /// ones only for a [`Cluster`](crate::cluster::Cluster); other stores do nothing.
    Relay {
        /// To which.
        to: ReplicaId,
        /// To one member of this shared group there, and to nobody else.
        share: Option<Arc<str>>,
        /// What.
        message: Arc<Message>,
    },
    /// What the sessions that are connected here want of a filter.
    PutRoute {
        /// The filter.
        filter: Arc<str>,
        /// Empty: nothing any more.
        route: Route,
        /// Rises with every change that the broker makes to its routes: submits of several threads may
        /// overtake each other, and of one filter only the newest change counts.
        stamp: u64,
    },
    /// The connection of a claim is over.
    ReleaseClaim(ReleaseRequest),
    /// A will that was taken is published.
    DeleteWillOf {
        /// Whose.
        client_id: Arc<str>,
        /// Of which claim.
        epoch: Epoch,
    },
    /// Appends a message to a tap. If it is of QoS 0 the batch does not wait for room.
    Tap {
        /// Which.
        tap: Arc<Definition>,
        /// See [`Definition::partition_of`].
        partition: u16,
        /// What.
        message: Arc<Message>,
        /// As of [`Op::Enqueue`].
        once: Option<(u64, u64)>,
    },
    /// This replica appends to a tap as this revision of its definition says.
    TapKnown {
        /// Which.
        tap: Arc<str>,
        /// Of [`Definition`].
        revision: u64,
    },
    /// Changes records. What becomes of each is left in it.
    Records(Arc<RecordBatch>),
}

impl Op {
    /// Bytes of memory that the operation holds until it is durable, roughly.
    pub(crate) fn weight(&self) -> usize {
        const BASE: usize = 96;
        BASE + match self {
            Self::PutSession(record) => record.client_id.len(),
            Self::PutSubscription(_, record) => record.filter.len(),
            Self::DeleteSubscription(_, text) | Self::DeleteRetained(text) => text.len(),
            Self::Enqueue { message, .. }
            | Self::Tap { message, .. }
            | Self::PutRetained(message) => message.size(),
            Self::PutWill(will) => will.client_id.len() + will.message.size(),
            Self::DeleteWill { client_id } | Self::DeleteWillOf { client_id, .. } => {
                client_id.len()
            }
            Self::Relay { message, share, .. } => {
                message.size() + share.as_ref().map_or(0, |share| share.len())
            }
            Self::PutRoute { filter, .. } => filter.len(),
            Self::ReleaseClaim(release) => release.client_id.len(),
            Self::TapKnown { tap, .. } => tap.len(),
            Self::Records(records) => records.weight(),
            Self::DeleteSession(_)
            | Self::Release { .. }
            | Self::Dequeue { .. }
            | Self::PutInboundQos2 { .. }
            | Self::DeleteInboundQos2 { .. } => 0,
        }
    }

    /// Refuses what no store could keep, before anything of its batch is applied.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::PutSession(record) => check_text("client id", &record.client_id),
            Self::PutSubscription(_, record) => check_text("topic filter", &record.filter),
            Self::DeleteSubscription(_, filter) => check_text("topic filter", filter),
            Self::Enqueue {
                delivery, message, ..
            } => {
                check_delivery(delivery)?;
                check_message(message)
            }
            Self::PutRetained(message) => {
                check_message(message)?;
                check_text("topic of a retained message", message.topic())
            }
            Self::DeleteRetained(topic) => check_text("topic of a retained message", topic),
            Self::PutWill(will) => {
                check_text("client id", &will.client_id)?;
                check_message(&will.message)
            }
            Self::DeleteWill { client_id }
            | Self::DeleteWillOf { client_id, .. }
            | Self::ReleaseClaim(ReleaseRequest { client_id, .. }) => {
                check_text("client id", client_id)
            }
            Self::Relay { message, share, .. } => {
                check_message(message)?;
                share
                    .as_ref()
                    .map_or(Ok(()), |share| check_text("shared filter", share))
            }
            Self::PutRoute { filter, .. } => check_text("topic filter", filter),
            Self::Tap { message, .. } => check_message(message),
            Self::TapKnown { tap, .. } => check_text("tap", tap),
            Self::Records(records) => records.check(),
            Self::DeleteSession(_)
            | Self::Release { .. }
            | Self::Dequeue { .. }
            | Self::PutInboundQos2 { .. }
            | Self::DeleteInboundQos2 { .. } => Ok(()),
        }
    }
}

fn check_text(what: &str, text: &str) -> Result<(), StoreError> {
    if (1..=TEXT_MAX).contains(&text.len()) {
        return Ok(());
    }
    Err(StoreError::InvalidOp {
        reason: format!("a {what} has {} bytes, not 1 to {TEXT_MAX}", text.len()),
    })
}

fn check_delivery(delivery: &Delivery) -> Result<(), StoreError> {
    if let Some(share) = &delivery.share {
        check_text("shared filter", share)?;
    }
    if delivery.subscription_ids.len() > SUBSCRIPTION_IDS_MAX {
        return Err(StoreError::InvalidOp {
            reason: format!(
                "a delivery has {} subscription identifiers, more than {SUBSCRIPTION_IDS_MAX}",
                delivery.subscription_ids.len()
            ),
        });
    }
    Ok(())
}

fn check_message(message: &Message) -> Result<(), StoreError> {
    /// More than any MQTT packet can carry, and safely within the 32-bit lengths of records.
    const SIZE_MAX: usize = 1 << 30;
    if message.size() <= SIZE_MAX {
        return Ok(());
    }
    Err(StoreError::InvalidOp {
        reason: format!(
            "a message weighs {} bytes, more than {SIZE_MAX}",
            message.size()
        ),
    })
}

/// Changes that become durable together or not at all.
///
/// The batches of one submitter are applied in the order in which it submitted them.
#[derive(Default)]
pub struct Batch {
    /// The changes, applied in order. An empty batch is a barrier: it is committed after all before it.
    pub ops: Vec<Op>,
    /// Told once, when the fate of the batch is known.
    pub on_commit: Option<Box<dyn Committed>>,
    /// Told only when every live replica has applied the changes that this batch makes to tables
    /// (retained messages, subscriptions of sessions, routes). A store of one process does that at once.
    pub barrier: bool,
    /// What a replica of a cluster does with it that was cut off for so long that it has to give up what is
    /// not acknowledged: it keeps it, and writes it when it is a member again, before anything that is
    /// submitted later, and without repeating what has taken effect in queues. For submitters in whose place
    /// nobody else can have gone on meanwhile. It fails nevertheless if the replica was taken for dead, or
    /// [`Committed::is_wanted`] says no.
    pub keep: bool,
}

impl Batch {
    /// A batch that tells nobody.
    #[must_use]
    pub fn new(ops: Vec<Op>) -> Self {
        Self {
            ops,
            on_commit: None,
            barrier: false,
            keep: false,
        }
    }

    /// A batch that tells `on_commit`.
    #[must_use]
    pub fn with_callback(ops: Vec<Op>, on_commit: Box<dyn Committed>) -> Self {
        Self {
            ops,
            on_commit: Some(on_commit),
            barrier: false,
            keep: false,
        }
    }

    pub(crate) fn weight(&self) -> usize {
        /// The callback, and what the store notes of a batch.
        const BASE: usize = 128;
        BASE + self.ops.iter().map(Op::weight).sum::<usize>()
    }
}

/// Told what became of a [`Batch`]: exactly one of the two, once, on the store's writer thread, in
/// the order of submission over all batches. (Batches that a replica has kept, see [`Batch::keep`], are told
/// when their time has come, in their order.)
///
/// Must not block and must not wait for the store. A panic in it stops the store.
pub trait Committed: Send {
    /// The batch is durable. `appended` has one element for each [`Op::Enqueue`], in order.
    fn committed(self: Box<Self>, appended: Vec<Appended>);

    /// The batch is not acknowledged.
    ///
    /// [`StoreError::InvalidOp`]: nothing of it was applied, the store goes on. Any other error: the
    /// store takes no more changes until it is opened again, and after that the batch is there
    /// either as a whole or not at all (the disk may have it although writing ended in an error).
    fn failed(self: Box<Self>, error: &StoreError);

    /// Asked before a batch that was [kept](Batch::keep) is written: whether anybody still waits for it.
    fn is_wanted(&self) -> bool {
        true
    }
}
