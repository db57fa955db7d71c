//! What belongs to this replica: claims, the sessions that it may change, its routes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use super::taps::TapLanes;
use crate::SessionId;
use crate::cluster::{Epoch, ReplicaId, Route, SessionEntry};

pub(super) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Filters that are no route any more and whose stamps are still known: changes do not overtake each
/// other by more.
const BURIED_MAX: usize = 16_384;
/// A session that was left may be changed for so long.
const LINGER: Duration = Duration::from_secs(60);

/// A session that changes may be made to.
#[derive(Debug)]
pub(super) struct OwnSession {
    pub(super) entry: Arc<SessionEntry>,
    pub(super) epoch: Epoch,
    /// Put without a claim: nobody else can have it, and nothing fences it.
    pub(super) unclaimed: bool,
    pub(super) left_at: Option<u64>,
    /// One past the last entry of its queue that was told here.
    pub(super) tail: u64,
    /// Since when nobody has it: its last changes may still follow.
    pub(super) released: Option<Instant>,
    /// The round that made it, whose early changes it cannot be part of.
    pub(super) made_in: u64,
}

impl OwnSession {
    /// Whether its client is connected here, or it is not for clients.
    pub(super) fn is_here(&self) -> bool {
        self.released.is_none()
    }

    /// The epoch that changes of its queue carry.
    pub(super) fn fence(&self) -> Option<Epoch> {
        (!self.unclaimed).then_some(self.epoch)
    }
}

/// A client id that is claimed for a connection here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnClaim {
    pub(super) epoch: Epoch,
    pub(super) session: Option<SessionId>,
    /// Rises with each claim: which ones are older than a question.
    pub(super) mark: u64,
}

#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) sessions: Map<SessionId, OwnSession>,
    pub(super) claims: Map<Arc<str>, OwnClaim>,
    pub(super) marks: u64,
    /// Number of the last append.
    pub(super) appends: u64,
    /// Version of the routes after the last change that was sent.
    pub(super) routes_version: u64,
    /// Taps that are at their bound.
    pub(super) taps: TapLanes,
    /// Puts of records that were named.
    puts: u32,
    stamps: Map<Arc<str>, Stamp>,
    buried: VecDeque<(Arc<str>, u64)>,
    /// Sessions that were left, and when.
    left: VecDeque<(SessionId, Instant)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    stamp: u64,
    route: Route,
}

impl Own {
    /// A name for a put of records that no other has had lately.
    pub(super) fn name_put(&mut self, replica: ReplicaId) -> u64 {
        self.puts = self.puts.wrapping_add(1);
        (replica.0 << 32) | u64::from(self.puts)
    }

    /// A claim that was answered.
    pub(super) fn claimed(
        &mut self,
        client_id: &Arc<str>,
        epoch: Epoch,
        session: Option<SessionId>,
    ) {
        self.marks += 1;
        let claim = OwnClaim {
            epoch,
            session,
            mark: self.marks,
        };
        if let Some(old) = self.claims.insert(Arc::clone(client_id), claim)
            && let Some(session) = old.session
            && Some(session) != claim.session
        {
            self.sessions.remove(&session);
        }
    }

    /// A claim is over, if it is this one or an older one; whether it was.
    pub(super) fn release(&mut self, client_id: &str, epoch: Epoch) -> bool {
        let Some(claim) = self.claims.get(client_id) else {
            return false;
        };
        if claim.epoch > epoch {
            return false;
        }
        let session = claim.session;
        self.claims.remove(client_id);
        if let Some(session) = session {
            self.sessions.remove(&session);
        }
        true
    }

    /// The connection of a claim is over. Its session may still be changed for a while: what its client
    /// leaves unacknowledged may be another's to get.
    pub(super) fn disconnect(&mut self, client_id: &str, epoch: Epoch, session: Option<SessionId>) {
        if self
            .claims
            .get(client_id)
            .is_some_and(|claim| claim.epoch <= epoch)
        {
            self.claims.remove(client_id);
        }
        if let Some(session) = session
            && let Some(own) = self.sessions.get_mut(&session)
            && own.epoch == epoch
        {
            let now = Instant::now();
            own.released = Some(now);
            self.left.push_back((session, now));
        }
    }

    /// Forgets sessions that were left long ago.
    pub(super) fn forget_left(&mut self, now: Instant) {
        while let Some((session, at)) = self.left.front().copied()
            && now >= at + LINGER
        {
            self.left.pop_front();
            if self
                .sessions
                .get(&session)
                .is_some_and(|own| own.released == Some(at))
            {
                self.sessions.remove(&session);
            }
        }
    }

    /// What the sessions here want, by filter.
    pub(super) fn routes(&self) -> BTreeMap<Arc<str>, Route> {
        self.stamps
            .iter()
            .filter(|(_, known)| !known.route.is_empty())
            .map(|(filter, known)| (Arc::clone(filter), known.route))
            .collect()
    }

    /// Whether a change of a route is to be written: it is the newest of its filter, and is one.
    pub(super) fn is_new(&mut self, filter: &Arc<str>, stamp: u64, route: Route) -> bool {
        let known = self.stamps.get(filter).copied().unwrap_or_default();
        if known.stamp > stamp {
            return false;
        }
        let same = known.route == route || known.route.is_empty() && route.is_empty();
        self.stamps
            .insert(Arc::clone(filter), Stamp { stamp, route });
        if route.is_empty() {
            self.buried.push_back((Arc::clone(filter), stamp));
            self.dig();
        }
        !same
    }

    fn dig(&mut self) {
        if self.buried.len() > BURIED_MAX
            && let Some((filter, stamp)) = self.buried.pop_front()
            && let Some(known) = self.stamps.get(&filter)
            && known.route.is_empty()
            && known.stamp == stamp
        {
            self.stamps.remove(&filter);
        }
    }

    /// Everything was taken away; numbers of appends go on.
    pub(super) fn clear(&mut self) {
        let (appends, marks) = (self.appends, self.marks);
        *self = Self {
            appends,
            marks,
            ..Self::default()
        };
    }
}
