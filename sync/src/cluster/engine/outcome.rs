//! What the engine's task waits for.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::giving_up::Reconciled;
use super::keeper::{Reaped, Swept};
use super::round::Target;
use crate::SessionId;
use crate::cluster::tap::TapPartition;
use crate::cluster::{BackplaneError, Bucket, Epoch, ReplicaId, Reply, Request};

/// The answer to one request.
pub(super) type Answer = Result<Reply, BackplaneError>;

/// Something that has been answered.
pub(super) enum Outcome {
    /// A round of changes.
    Round(u64, Vec<Answer>),
    /// The part of a round that had to be done before the rest of it, which follows now.
    FirstPart(u64, Vec<Answer>, Vec<Request>),
    /// Changes that went before their batches, as they free memory.
    Freed(Vec<Target>, Vec<Answer>),
    /// Frames: lane, number, messages.
    Published(Vec<(ReplicaId, u64)>, Vec<Answer>),
    Joined {
        sent: Instant,
        answer: Answer,
    },
    Renewed {
        sent: Instant,
        answer: Answer,
    },
    Led(Answer),
    Loaded(Bucket, Answer),
    RoutesLoaded(ReplicaId, Answer),
    /// Versions in Redis, and those that were applied when the question was asked.
    Versions(Vec<u64>, Answer),
    Numbers(Answer),
    /// The fields of a session whose queue has grown in a way that is not known here.
    Grown(SessionId, Answer),
    Swept(Swept),
    /// Wills that were published.
    WillsDeleted(Vec<(Bucket, Epoch)>, Vec<Answer>),
    /// A dead replica, and those that it was clearing away after.
    Inherits(ReplicaId, Vec<ReplicaId>),
    Reaped(Reaped),
    /// What a dead replica had is deleted, if its inbox had been read to its end.
    Dropped(ReplicaId, Answer),
    /// Client ids that Redis says are claimed from here; only claims up to the mark were asked for.
    Verified {
        mark: u64,
        listed: Option<BTreeSet<Arc<str>>>,
    },
    /// What a replica that had given everything up has found of its own in Redis.
    Reconciled(u64, Option<Reconciled>),
    Trimmed,
    /// What was read before a failover is written back.
    Restored,
    /// An attempt to append to a tap that was at its bound.
    Tapped(TapPartition, u32, Answer),
    /// The lease is given back.
    Left,
    /// Nobody waits for it.
    Ignored,
}
