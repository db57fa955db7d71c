//! What is asked of Redis for a tap: each an atomic step within the slot of one partition, or of the tap itself.
//!
//! What is common to all requests is said in [`super::super::request`].

use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::{Appending, ReplicaId};

/// Most bytes of a checkpoint.
pub const CHECKPOINT_MAX: usize = 65_536;

/// A partition of a tap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapPartition {
    /// Name of the tap: see [`Definition`](super::Definition).
    pub tap: Arc<str>,
    /// Which, from 0.
    pub partition: u16,
}

/// How much a partition holds, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapBound {
    /// Messages.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// The oldest go; else the append is refused.
    pub drop_oldest: bool,
}

/// An atomic step of a tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapRequest {
    /// Appends messages, all or none. → [`Reply::Appended`](crate::cluster::Reply::Appended) with the positions, and no owner
    Append {
        /// Where.
        to: TapPartition,
        /// Who appends.
        origin: ReplicaId,
        /// Rises when a refused append is tried again: what was sent behind it, under the same attempt, is refused too.
        /// From 1.
        attempt: u32,
        /// The bound.
        bound: TapBound,
        /// What, in order: each body is an entry of a frame of kind 5.
        entries: Arc<Vec<Appending>>,
    },
    /// Takes or extends the lease of a partition. → [`TapReply::Leased`], or [`Reply::Fenced`](crate::cluster::Reply::Fenced)
    /// if it is another's, or (with `epoch`) is not held under this epoch any more.
    Lease {
        /// Of what.
        of: TapPartition,
        /// Who: drawn at random, never 0.
        consumer: u64,
        /// The lease to extend; 0: to take it, if it is free.
        epoch: u64,
        /// How long, in milliseconds of Redis' clock.
        lease_ms: u64,
        /// A hole of this age, in milliseconds, is closed.
        grace_ms: u64,
    },
    /// Gives a lease back. → [`Reply::Done`](crate::cluster::Reply::Done)
    Release {
        /// Of what.
        of: TapPartition,
        /// Under which it is held.
        epoch: u64,
    },
    /// Frames from a position on. → [`TapReply::Read`] or [`Reply::Fenced`](crate::cluster::Reply::Fenced)
    Read {
        /// Of what.
        of: TapPartition,
        /// The lease.
        epoch: u64,
        /// First position.
        from: u64,
        /// Frames up to so many bytes, but one at least if there is one.
        max_bytes: u64,
    },
    /// Everything below a position is done with. → [`Reply::Done`](crate::cluster::Reply::Done) or
    /// [`Reply::Fenced`](crate::cluster::Reply::Fenced)
    Acknowledge {
        /// Of what.
        of: TapPartition,
        /// The lease.
        epoch: u64,
        /// First position that is not done with. At the one that is stored already, only the checkpoint changes.
        upto: u64,
        /// Rises with each acknowledgement under this lease, from 1: of two at the same position the later one counts.
        number: u64,
        /// The consumer's own bytes, at most [`CHECKPOINT_MAX`].
        checkpoint: Bytes,
    },
    /// Who has a partition, and what is in it. Changes nothing. → [`TapReply::Seen`]
    Look {
        /// Of what.
        of: TapPartition,
    },
    /// Extends a consumer's membership, and says who else is there. → [`TapReply::Members`]
    Member {
        /// Of which tap.
        tap: Arc<str>,
        /// Who.
        consumer: u64,
        /// How long, in milliseconds of Redis' clock; 0: it leaves.
        lease_ms: u64,
    },
    /// A replica has applied a definition. → [`Reply::Done`](crate::cluster::Reply::Done)
    Known {
        /// Of which tap.
        tap: Arc<str>,
        /// Who.
        replica: ReplicaId,
        /// The definition's revision.
        revision: u64,
    },
    /// Who has applied which definition lately. → [`TapReply::KnownBy`]
    WhoKnows {
        /// Of which tap.
        tap: Arc<str>,
    },
}

impl TapRequest {
    /// The partition that it concerns; `None`: the tap.
    #[must_use]
    pub fn partition(&self) -> Option<&TapPartition> {
        match self {
            Self::Append { to: of, .. }
            | Self::Lease { of, .. }
            | Self::Release { of, .. }
            | Self::Read { of, .. }
            | Self::Acknowledge { of, .. }
            | Self::Look { of } => Some(of),
            Self::Member { .. } | Self::Known { .. } | Self::WhoKnows { .. } => None,
        }
    }

    /// The tap that it concerns.
    #[must_use]
    pub fn tap(&self) -> &Arc<str> {
        match self {
            Self::Member { tap, .. } | Self::Known { tap, .. } | Self::WhoKnows { tap } => tap,
            Self::Append { to: of, .. }
            | Self::Lease { of, .. }
            | Self::Release { of, .. }
            | Self::Read { of, .. }
            | Self::Acknowledge { of, .. }
            | Self::Look { of } => &of.tap,
        }
    }
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapLevel {
    /// First position that is not acknowledged.
    pub acknowledged: u64,
    /// Position that the next message gets.
    pub tail: u64,
    /// Messages that wait.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Messages that were dropped at the bound, so far.
    pub dropped: u64,
}

/// What became of a [`TapRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapReply {
    /// See [`TapRequest::Lease`].
    Leased {
        /// The lease's number.
        epoch: u64,
        /// What there is.
        level: TapLevel,
        /// As it was stored last.
        checkpoint: Bytes,
    },
    /// See [`TapRequest::Read`].
    Read {
        /// What there is.
        level: TapLevel,
        /// (Position of its last message, frame), ascending. The first one may begin below the position asked for.
        frames: Vec<(u64, Bytes)>,
    },
    /// See [`TapRequest::Look`].
    Seen {
        /// Who has the lease; 0: nobody.
        consumer: u64,
        /// The lease's number, also of one that has ended.
        epoch: u64,
        /// How long it still lasts, in milliseconds.
        left_ms: u64,
        /// What there is.
        level: TapLevel,
        /// (Position of its last message, frame): the first one that has something that is not acknowledged.
        first: Option<(u64, Bytes)>,
    },
    /// See [`TapRequest::Member`]: ascending.
    Members(Vec<u64>),
    /// See [`TapRequest::WhoKnows`]: (replica, revision), ascending.
    KnownBy(Vec<(ReplicaId, u64)>),
}
