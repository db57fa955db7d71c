//! What a broker asks of the cluster, and what the cluster tells the broker.

use std::sync::Arc;

use super::{Epoch, ReplicaId, Route, SessionEntry};
use crate::{
    Appended, BoxFuture, Message, MessageParts, SessionId, Store, SubscriptionRecord, WillRecord,
};

/// A connection that wants its client id.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Who.
    pub client_id: Arc<str>,
    /// What is there is to be deleted. [MQTT-3.1.2-4]
    pub clean_start: bool,
    /// Seconds that the session outlives the connection; `u32::MAX`: for ever.
    pub expiry_interval: u32,
    /// The connection's will; its `session`, `epoch` and `due_at` are filled in by the cluster.
    pub will: Option<WillRecord>,
}

/// A client id that is the caller's now.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The claim.
    pub epoch: Epoch,
    /// The persistent session, if any.
    pub session: Option<SessionId>,
    /// It was there before. [MQTT-3.2.2-3]
    pub present: bool,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionRecord>,
    /// First entry of its queue.
    pub queue_head: u64,
    /// One past the last entry of its queue.
    pub queue_tail: u64,
    /// Entries in its queue.
    pub queue_len: u64,
    /// Bytes in its queue.
    pub queue_bytes: u64,
    /// QoS 2 packet ids that its client has not released, with the publisher's count.
    pub inbound: Vec<(u16, u64)>,
    /// The will of an older connection that ends with this claim: to be published by the caller, now.
    pub old_will: Option<TakenWill>,
    /// An older connection, here or elsewhere, was sent away.
    pub took_over: bool,
}

/// A will that the receiver publishes. When everything that comes of it is durable it is deleted with
/// [`Op::DeleteWillOf`](crate::Op::DeleteWillOf) in the same batch.
#[derive(Clone, Debug)]
pub struct TakenWill {
    /// The will; its `epoch` says which.
    pub record: WillRecord,
}

/// A connection that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// Who.
    pub client_id: Arc<str>,
    /// The claim.
    pub epoch: Epoch,
    /// Its persistent session, if any.
    pub session: Option<SessionId>,
    /// Seconds the session goes on; `None`: it ends now.
    pub expiry_interval: Option<u32>,
    /// Milliseconds until its will is due; `None`: there is none, or it is not to be published.
    pub will_due_in: Option<u64>,
}

/// Why a client id cannot be claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Redis does not answer in time, or this replica has lost its lease.
    #[error("the cluster cannot be asked now: {0}")]
    Unavailable(String),
}

/// A message that another replica has relayed to this one's connected sessions.
#[derive(Clone, Debug)]
pub struct Relayed<'a> {
    /// The message; its texts are borrowed from the frame.
    pub message: MessageParts<'a>,
    /// `$share/group/filter`: to one member of this group here, and to nobody else.
    pub share: Option<&'a str>,
}

/// Keeps a frame in this replica's inbox, or the inbox of one that is gone, or those waiting whose messages found no
/// inbox: dropping the last clone lets go of it. A frame of this replica's that is held while more than [`EngineOptions::held_bytes`](super::EngineOptions::held_bytes) come after it is let go
/// of anyway.
#[derive(Clone)]
pub struct Held(Arc<dyn HeldFrame>);

/// What is done when the last clone of a [`Held`] is dropped, by its own `Drop`.
pub(crate) trait HeldFrame: Send + Sync {
    /// Whether what it holds is nowhere but in this process.
    fn is_owed(&self) -> bool {
        false
    }
}

impl Held {
    pub(crate) fn new(frame: Arc<dyn HeldFrame>) -> Self {
        Self(frame)
    }

    /// Whether what it holds is nowhere but in this process: if it cannot be written, it is to be tried again, and this
    /// to be kept meanwhile. Otherwise another replica finds it when this one lets go or dies.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.0.is_owed()
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clones = Arc::strong_count(&self.0);
        f.debug_struct("Held").field("clones", &clones).finish()
    }
}

/// A [`Store`] that several replicas share.
///
/// What it adds to a store: a claim on each client id, and lanes to the other replicas. Batches with
/// [`Batch::barrier`](crate::Batch::barrier) are told of when every live replica has applied their
/// changes of tables; other batches overtake them.
pub trait Cluster: Store {
    /// This replica. Changes when it had to join anew.
    fn replica(&self) -> ReplicaId;

    /// Claims a client id for a connection here, and sends away whoever had it elsewhere. Resolves
    /// within the bound that the configuration sets on waiting for Redis.
    ///
    /// Dropping the future may leave the claim in place: it is another's as soon as somebody claims it.
    fn claim(&self, request: ClaimRequest) -> BoxFuture<Result<Claimed, ClaimError>>;

    /// Sends messages to the connected sessions of other replicas, at most once, as soon as the lane is
    /// free. What exceeds the lane's bound is dropped and counted.
    fn relay(&self, to: ReplicaId, messages: &[Relayed<'_>]);

    /// Whether a publish that needs nothing of Redis may be acknowledged now: this replica's lease runs
    /// and its tables are whole. Two atomic reads and one of the clock.
    fn may_acknowledge(&self) -> bool;

    /// Whether this replica's lease runs: as long as it does, whoever subscribes elsewhere waits until this replica
    /// knows of it. One atomic read and one of the clock.
    fn lease_runs(&self) -> bool;

    /// Begins: from here on `events` is told what happens, first of all everything that the tables hold.
    /// Resolves when the tables are whole and all live replicas know of this one. Called once.
    fn start(&self, events: Arc<dyn ClusterEvents>) -> BoxFuture<Result<(), ClaimError>>;

    /// Leaves: everything submitted is committed, then the lease is given back. Resolves when that is
    /// done, or Redis has not answered for `patience`.
    fn leave(&self, patience: std::time::Duration) -> BoxFuture<()>;
}

/// Told what happens in the cluster, one call at a time and in order. Must not block.
pub trait ClusterEvents: Send + Sync {
    /// Messages for sessions that are connected here. Those for persistent sessions at QoS 1 and 2 come
    /// through their queues, not here.
    fn relayed(&self, messages: &[Relayed<'_>]);

    /// As [`relayed`](Self::relayed), with messages for shared groups among them, which stay in this
    /// replica's inbox until `held` and all its clones are dropped: should this replica die before, they are
    /// another member's. Whoever does not keep it answers for them.
    fn relayed_held(&self, messages: &[Relayed<'_>], held: Held) {
        self.relayed(messages);
        drop(held);
    }

    /// A message was appended to the queue of a persistent session that is connected here.
    fn woken(&self, appended: Appended);

    /// Messages were appended to the queue of a persistent session that is connected here: it reaches
    /// up to `tail` at least. They are to be read from the queue.
    fn queue_grown(&self, session: SessionId, tail: u64);

    /// Something may have been missed: every connected persistent session is to look whether its queue
    /// has grown ([`Store::read_queue`]).
    fn queues_may_have_grown(&self);

    /// Redis had lost newer writes, and all replicas have written again what they knew: entries may have
    /// come back into queues *below* what was read of them. Every connected persistent session is to read
    /// its queue from the head, and leave out what it has in flight.
    fn queues_restored(&self) {
        self.queues_may_have_grown();
    }

    /// A persistent session is new, or its subscriptions have changed.
    fn session_changed(&self, entry: &SessionEntry);

    /// A persistent session is connected to `owner` now (0: to none).
    fn session_owned(&self, session: SessionId, owner: ReplicaId);

    /// A persistent session has ended.
    fn session_deleted(&self, session: SessionId);

    /// A retained message is new or replaced.
    fn retained_changed(&self, message: Arc<Message>);

    /// A topic has no retained message any more.
    fn retained_deleted(&self, topic: &str);

    /// Topics of retained messages that have expired, `limit` at the most: asked now and then of the replica that leads, which has them
    /// removed. [`Self::retained_deleted`] follows.
    fn expired_retained(&self, limit: usize) -> Vec<Arc<str>> {
        let _unused = limit;
        Vec::new()
    }

    /// Interests of another replica; an [empty](Route::is_empty) route is none any more.
    fn routes_changed(&self, replica: ReplicaId, changes: &[(Arc<str>, Route)]);

    /// A replica is gone, and its routes with it.
    fn replica_gone(&self, replica: ReplicaId);

    /// A client has connected elsewhere: its connection here, if it is of this claim or an older one,
    /// closes with reason 0x8E and publishes no will.
    fn let_go(&self, client_id: &str, epoch: Epoch);

    /// A write for this session was refused because its claim is another's: as [`let_go`](Self::let_go).
    fn fenced(&self, session: SessionId);

    /// A will is due.
    fn will_due(&self, will: TakenWill);

    /// A message for a shared subscription was not acknowledged by a member on a replica that is gone:
    /// to another member. Where it lies stays until `held` and all its clones are dropped, which is to be when it
    /// is durable elsewhere: should this replica die before, another one finds it there, or its publisher has no
    /// acknowledgement ([`Held::is_owed`]).
    fn redeliver(&self, share: &str, message: Arc<Message>, held: Held);

    /// This replica cannot keep its promises now (its lease is about to lapse): connections with a
    /// persistent session close; nothing is acknowledged until [`resumed`](Self::resumed).
    fn suspended(&self, why: &str);

    /// Promises can be kept again. `anew`: this replica was taken for dead and has another number now;
    /// its claims and routes are gone, so that all its connections close.
    fn resumed(&self, anew: bool);
}
