//! The other replicas: what they want, what they have applied, and which of their frames were heard.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::time::Instant;

use crate::cluster::frame::{self, Body, RouteChanges};
use crate::cluster::{BUCKETS, ClusterEvents, ReplicaId, Route};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Announcements of routes that may wait while they are loaded.
const AHEAD_MAX: usize = 4096;
/// Replicas that may be known: far more than anybody runs, so that foreign frames cost no memory.
const PEERS_MAX: usize = 4096;

/// The numbers of a lane that comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Number of the last frame; `None`: the first one is not known to be the first.
    last: Option<u64>,
}

/// What the number of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Next,
    /// So many are missing before it.
    Gap(u64),
    /// It has been heard.
    Old,
}

impl Heard {
    /// A lane that is heard from its beginning.
    fn from_start() -> Self {
        Self { last: Some(0) }
    }

    pub(super) fn frame(&mut self, sequence: u64) -> Order {
        match self.last {
            Some(last) if sequence <= last => Order::Old,
            Some(last) => {
                self.last = Some(sequence);
                match sequence - last - 1 {
                    0 => Order::Next,
                    missing => Order::Gap(missing),
                }
            }
            None => {
                self.last = Some(sequence);
                Order::Next
            }
        }
    }

    /// Everything up to this number was sent; how many frames have not come.
    pub(super) fn sent(&mut self, sequence: u64) -> u64 {
        let last = self.last.get_or_insert(sequence);
        let missing = sequence.saturating_sub(*last);
        *last = sequence.max(*last);
        missing
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stale,
    Loading { again: bool },
    Whole,
}

/// What a replica's sessions want.
#[derive(Debug)]
pub(super) struct Routes {
    state: State,
    version: u64,
    routes: Map<Arc<str>, Route>,
    ahead: BTreeMap<u64, Bytes>,
}

/// Another replica.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its lease runs, or it has introduced itself since that was last looked at.
    pub(super) live: bool,
    /// It is on the register, whether its lease runs or has lapsed.
    pub(super) registered: bool,
    /// It has said hello or welcome: it has whole tables and hears announcements, and is waited for.
    pub(super) introduced: bool,
    /// It knows of this replica.
    pub(super) welcomed_us: bool,
    /// It has made so many failovers of Redis good.
    pub(super) failovers: u64,
    /// When it was first heard of.
    pub(super) since: Instant,
    /// What it has applied.
    pub(super) acked: Vec<u64>,
    pub(super) acked_routes: u64,
    pub(super) routes: Routes,
    /// Its frames on this replica's channel, on `sync`, and in this replica's inbox.
    pub(super) own_lane: Heard,
    pub(super) all_lane: Heard,
    pub(super) inbox: Heard,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            live: false,
            registered: false,
            introduced: false,
            welcomed_us: false,
            failovers: 0,
            since: now,
            acked: vec![0; usize::from(BUCKETS)],
            acked_routes: 0,
            routes: Routes::new(),
            own_lane: Heard::from_start(),
            all_lane: Heard::default(),
            inbox: Heard::default(),
        }
    }

    /// Changes of tables are acknowledged only when it has applied them.
    pub(super) fn is_waited_for(&self) -> bool {
        self.live && self.introduced
    }

    /// It has applied a bucket up to this version.
    pub(super) fn has_applied(&mut self, bucket: u64, version: u64) {
        if let Some(acked) = usize::try_from(bucket)
            .ok()
            .and_then(|bucket| self.acked.get_mut(bucket))
        {
            *acked = version.max(*acked);
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<ReplicaId, Peer>,
}

impl Peers {
    pub(super) fn get_mut(&mut self, id: ReplicaId) -> Option<&mut Peer> {
        self.peers.get_mut(&id)
    }

    /// The peer with this number, which may be new; `None` beyond the bound.
    pub(super) fn meet(&mut self, id: ReplicaId, now: Instant) -> Option<&mut Peer> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&id) {
            return None;
        }
        Some(self.peers.entry(id).or_insert_with(|| Peer::new(now)))
    }

    pub(super) fn remove(&mut self, id: ReplicaId) -> Option<Peer> {
        self.peers.remove(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ReplicaId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ReplicaId, &mut Peer)> {
        self.peers.iter_mut().map(|(id, peer)| (*id, peer))
    }

    pub(super) fn contains(&self, id: ReplicaId) -> bool {
        self.peers.contains_key(&id)
    }

    pub(super) fn live(&self) -> usize {
        self.peers.values().filter(|peer| peer.live).count()
    }
}

impl Routes {
    fn new() -> Self {
        Self {
            state: State::Stale,
            version: 0,
            routes: Map::default(),
            ahead: BTreeMap::new(),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn stale(&mut self) {
        self.state = match self.state {
            State::Loading { .. } => State::Loading { again: true },
            State::Stale | State::Whole => State::Stale,
        };
    }

    pub(super) fn forget_version(&mut self) {
        self.version = 0;
        self.ahead.clear();
        self.stale();
    }

    /// Whether they are to be loaded; they count as being loaded from here on.
    pub(super) fn wants_load(&mut self) -> bool {
        let wants = self.state == State::Stale;
        if wants {
            self.state = State::Loading { again: false };
        }
        wants
    }

    /// They could not be loaded.
    pub(super) fn not_loaded(&mut self) {
        self.state = State::Stale;
    }

    /// An announcement. Gives back the version that is applied now, if it covers the announcement.
    pub(super) fn announced(
        &mut self,
        replica: ReplicaId,
        bytes: &Bytes,
        version: u64,
        changes: RouteChanges<'_>,
        events: &dyn ClusterEvents,
    ) -> Option<u64> {
        match self.state {
            State::Whole if version <= self.version => Some(self.version),
            State::Whole if version == self.version + 1 => {
                self.version = version;
                self.apply(replica, changes, events);
                Some(version)
            }
            state => {
                self.ahead.insert(version, bytes.clone());
                if self.ahead.len() > AHEAD_MAX {
                    self.ahead.clear();
                    self.stale();
                } else if state == State::Whole {
                    self.state = State::Stale;
                }
                None
            }
        }
    }

    fn apply(&mut self, replica: ReplicaId, changes: RouteChanges<'_>, events: &dyn ClusterEvents) {
        let told: Vec<(Arc<str>, Route)> = changes
            .map_while(Result::ok)
            .map(|(filter, route)| {
                let known = self.routes.get_key_value(filter);
                let filter =
                    known.map_or_else(|| Arc::from(filter), |(known, _)| Arc::clone(known));
                (filter, route)
            })
            .collect();
        for (filter, route) in &told {
            if route.is_empty() {
                self.routes.remove(filter);
            } else {
                self.routes.insert(Arc::clone(filter), *route);
            }
        }
        if !told.is_empty() {
            events.routes_changed(replica, &told);
        }
    }

    /// All of them as Redis has them: what differs is told, then what was announced meanwhile.
    pub(super) fn loaded(
        &mut self,
        replica: ReplicaId,
        version: u64,
        routes: Vec<(Arc<str>, Route)>,
        events: &dyn ClusterEvents,
    ) {
        let again = self.state == State::Loading { again: true };
        self.state = if again { State::Stale } else { State::Whole };
        self.version = version;
        let mut old = std::mem::take(&mut self.routes);
        let mut told = Vec::new();
        for (filter, route) in routes {
            if old.remove(&filter) != Some(route) {
                told.push((Arc::clone(&filter), route));
            }
            self.routes.insert(filter, route);
        }
        told.extend(old.into_keys().map(|filter| (filter, Route::default())));
        told.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        if !told.is_empty() {
            events.routes_changed(replica, &told);
        }
        self.catch_up(replica, events);
    }

    fn catch_up(&mut self, replica: ReplicaId, events: &dyn ClusterEvents) {
        loop {
            while let Some(first) = self.ahead.first_entry()
                && *first.key() <= self.version
            {
                first.remove();
            }
            let Some(bytes) = self.ahead.remove(&(self.version + 1)) else {
                if !self.ahead.is_empty() {
                    self.stale();
                }
                return;
            };
            self.version += 1;
            if let Ok(frame) = frame::decode(&bytes)
                && let Body::Routes { changes, .. } = frame.body
            {
                self.apply(replica, changes, events);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_whose_loading_was_given_up_are_loaded_again() {
        let mut routes = Routes::new();
        assert!(routes.wants_load());
        assert!(!routes.wants_load(), "that is under way");
        routes.stale();
        routes.not_loaded();
        assert!(routes.wants_load());
    }
}
