//! Lanes to the other replicas: what waits for a channel, and the frame that is under way.
//!
//! A lone entry leaves at once. While a frame is under way entries gather, so that the frames grow by
//! themselves with the load; only full ones may go out beside one that has not been answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::options::EngineOptions;
use crate::cluster::frame::{MessageView, Pack};
use crate::cluster::{Relayed, ReplicaId, Request};
use crate::codec::CodecError;
use crate::{Appended, SessionId};

/// The lane to all replicas.
pub(super) const ALL: ReplicaId = ReplicaId(0);
/// Frames of one lane that may be under way.
const UNDER_WAY_MAX: u32 = 4;
/// Sessions of one lane that may wait to be told that their queue has grown.
const GROWN_MAX: usize = 4096;

#[derive(Debug, Default)]
struct Lane {
    full: VecDeque<Pack>,
    open: Pack,
    bytes: usize,
    /// Number of the last frame.
    sequence: u64,
    under_way: u32,
    /// Number of the last frame that was answered, now and at the heartbeat before.
    answered: u64,
    answered_before: u64,
    /// Queues of which entries could not be sent.
    grown: BTreeMap<SessionId, u64>,
}

impl Lane {
    fn add(
        &mut self,
        frame_bytes: usize,
        write: impl FnOnce(&mut Pack) -> Result<(), CodecError>,
    ) -> bool {
        let before = self.open.len();
        let written = write(&mut self.open).is_ok();
        self.bytes += self.open.len() - before;
        if self.open.len() >= frame_bytes {
            let pack = std::mem::replace(&mut self.open, Pack::with_capacity(frame_bytes + 1024));
            self.full.push_back(pack);
        }
        written
    }

    /// The next frame, if one is to leave now.
    fn take(&mut self) -> Option<Pack> {
        if self.under_way >= UNDER_WAY_MAX {
            return None;
        }
        if self.full.is_empty() && self.under_way > 0 {
            return None;
        }
        for (session, tail) in std::mem::take(&mut self.grown) {
            self.open.grown(session, tail);
        }
        let pack = match self.full.pop_front() {
            Some(pack) => pack,
            None if self.open.is_empty() => return None,
            None => {
                let hint = self.open.len();
                std::mem::replace(&mut self.open, Pack::with_capacity(hint))
            }
        };
        self.bytes = self.bytes.saturating_sub(pack.len());
        self.sequence += 1;
        self.under_way += 1;
        Some(pack)
    }
}

/// A frame that is to be published.
pub(super) struct Outgoing {
    pub(super) to: ReplicaId,
    pub(super) sequence: u64,
    pub(super) messages: u32,
    pub(super) frame: Bytes,
}

/// All lanes that go out from here.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: BTreeMap<ReplicaId, Lane>,
    lane_bytes: usize,
    frame_bytes: usize,
}

impl Lanes {
    pub(super) fn new(options: &EngineOptions) -> Self {
        Self {
            lanes: BTreeMap::new(),
            lane_bytes: options.lane_bytes,
            frame_bytes: options.frame_bytes,
        }
    }

    /// Takes messages in; how many there was no room for.
    pub(super) fn relay(&mut self, to: ReplicaId, messages: &[Relayed<'_>]) -> u64 {
        let lane = self.lanes.entry(to).or_default();
        let mut dropped = 0;
        for relayed in messages {
            let fits = lane.bytes < self.lane_bytes
                && lane.add(self.frame_bytes, |pack| {
                    pack.message(relayed.share, &MessageView::of_parts(&relayed.message))
                });
            dropped += u64::from(!fits);
        }
        dropped
    }

    /// Wakes the owner of a session with a message of its queue; if there is no room it is told that
    /// the queue has grown.
    pub(super) fn queued(&mut self, to: ReplicaId, appended: &Appended) {
        let lane = self.lanes.entry(to).or_default();
        let fits = lane.bytes < self.lane_bytes
            && lane.add(self.frame_bytes, |pack| {
                pack.queued(
                    appended.session,
                    appended.seq,
                    &appended.delivery,
                    &MessageView::of(&appended.message),
                )
            });
        if !fits {
            self.grown(to, appended.session, appended.seq + 1);
        }
    }

    pub(super) fn grown(&mut self, to: ReplicaId, session: SessionId, tail: u64) {
        let lane = self.lanes.entry(to).or_default();
        if lane.grown.len() < GROWN_MAX {
            let known = lane.grown.entry(session).or_default();
            *known = tail.max(*known);
        } else {
            // A number is left out: the gap tells the other to look at all its queues.
            lane.sequence += 1;
        }
    }

    /// A control entry; they are few and always find room.
    pub(super) fn control(&mut self, to: ReplicaId, write: impl FnOnce(&mut Pack)) {
        let lane = self.lanes.entry(to).or_default();
        lane.add(self.frame_bytes, |pack| {
            write(pack);
            Ok(())
        });
    }

    /// Frames that are to leave now.
    pub(super) fn take(&mut self, origin: ReplicaId) -> Vec<Outgoing> {
        let mut out = Vec::new();
        for (to, lane) in &mut self.lanes {
            while let Some(pack) = lane.take() {
                out.push(Outgoing {
                    to: *to,
                    sequence: lane.sequence,
                    messages: pack.messages(),
                    frame: pack.seal(origin, *to, lane.sequence),
                });
            }
        }
        out
    }

    /// A frame was published, or lost.
    pub(super) fn answered(&mut self, to: ReplicaId, sequence: u64) {
        if let Some(lane) = self.lanes.get_mut(&to) {
            lane.under_way = lane.under_way.saturating_sub(1);
            lane.answered = lane.answered.max(sequence);
        }
    }

    /// Numbers of the frames that every receiver must have heard by now.
    pub(super) fn heartbeat(&mut self) -> Vec<(u64, u64)> {
        self.lanes
            .iter_mut()
            .map(|(to, lane)| {
                let sure = std::mem::replace(&mut lane.answered_before, lane.answered);
                (to.0, sure)
            })
            .filter(|(_, sure)| *sure > 0)
            .collect()
    }

    /// Forgets lanes to replicas that are gone.
    pub(super) fn retain(&mut self, known: impl Fn(ReplicaId) -> bool) {
        self.lanes
            .retain(|to, lane| *to == ALL || lane.under_way > 0 || known(*to));
    }

    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    /// The last words of a replica.
    pub(super) fn goodbye(&mut self, origin: ReplicaId) -> Request {
        let lane = self.lanes.entry(ALL).or_default();
        lane.sequence += 1;
        let mut pack = Pack::default();
        pack.leaving();
        Request::Publish {
            to: None,
            frame: pack.seal(origin, ALL, lane.sequence),
        }
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.lanes.values().map(|lane| lane.bytes).sum()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lanes.values().all(|lane| {
            lane.under_way == 0
                && lane.open.is_empty()
                && lane.full.is_empty()
                && lane.grown.is_empty()
        })
    }
}
