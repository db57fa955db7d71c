//! The own inbox: how far it has been read, and what is kept in it.
//!
//! A frame is forgotten when it has been handed over, and every shared message in it is acknowledged
//! or given to somebody else ([`Held`]). Frames are forgotten from the beginning, so that one that is held
//! keeps all after it, up to a bound.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::peers::Heard;
use super::shared::Shared;
use crate::cluster::events::HeldFrame;
use crate::cluster::{Held, ReplicaId};

/// Position in the inbox.
pub(super) type Position = (u64, u64);

/// A frame that somebody holds.
struct Frame {
    shared: Arc<Shared>,
    replica: ReplicaId,
    at: Position,
}

impl HeldFrame for Frame {}

impl Drop for Frame {
    fn drop(&mut self) {
        let frame = LetGo::Frame(self.at);
        self.shared.let_go_of(self.replica, frame);
    }
}

/// What is held no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LetGo {
    Frame(Position),
    /// What was found in the inbox of this replica, which is gone.
    Inheritance(ReplicaId),
    /// What found no inbox.
    Redelivery,
}

/// The inbox of a replica that is gone, as far as it was read.
pub(super) struct Inheritance {
    pub(super) shared: Arc<Shared>,
    /// This replica.
    pub(super) heir: ReplicaId,
    pub(super) of: ReplicaId,
}

impl HeldFrame for Inheritance {}

impl Drop for Inheritance {
    fn drop(&mut self) {
        let inheritance = LetGo::Inheritance(self.of);
        self.shared.let_go_of(self.heir, inheritance);
    }
}

/// Messages for an inbox that is no more, until they are durable elsewhere.
pub(super) struct Redelivery {
    pub(super) shared: Arc<Shared>,
    pub(super) replica: ReplicaId,
}

impl HeldFrame for Redelivery {
    fn is_owed(&self) -> bool {
        true
    }
}

impl Drop for Redelivery {
    fn drop(&mut self) {
        // Who waits for it looks whether it is there.
        self.shared.let_go_of(self.replica, LetGo::Redelivery);
    }
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Frames that are held, and their size.
    held: BTreeMap<Position, usize>,
    bytes: usize,
    /// One past the last frame that was read.
    read: Position,
    /// Up to where it was trimmed.
    trimmed: Position,
    /// What this replica itself has put there.
    own: Heard,
}

impl Inbox {
    /// A frame that is being handed over.
    pub(super) fn hold(
        &mut self,
        shared: &Arc<Shared>,
        replica: ReplicaId,
        at: Position,
        bytes: usize,
    ) -> Held {
        self.held.insert(at, bytes);
        self.bytes += bytes;
        self.read = (at.0, at.1.saturating_add(1)).max(self.read);
        Held::new(Arc::new(Frame {
            shared: Arc::clone(shared),
            replica,
            at,
        }))
    }

    /// What this replica itself has put there, as far as it was read.
    pub(super) fn own_lane(&mut self) -> &mut Heard {
        &mut self.own
    }

    pub(super) fn let_go_of(&mut self, at: Position) {
        if let Some(bytes) = self.held.remove(&at) {
            self.bytes -= bytes;
        }
    }

    /// Lets go of the oldest until they weigh no more than `max`; how many.
    pub(super) fn give_up(&mut self, max: usize) -> u64 {
        let mut given_up = 0;
        while self.bytes > max
            && let Some((_, bytes)) = self.held.pop_first()
        {
            self.bytes -= bytes;
            given_up += 1;
        }
        given_up
    }

    /// First position to keep: what is before it is done with.
    pub(super) fn keep(&self) -> Position {
        let first = self.held.first_key_value();
        first.map_or(self.read, |(at, _)| *at)
    }

    /// The same, if it has changed since the last call.
    pub(super) fn trim(&mut self) -> Option<Position> {
        let keep = self.keep();
        if keep <= self.trimmed {
            return None;
        }
        self.trimmed = keep;
        Some(keep)
    }
}
