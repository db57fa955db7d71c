//! The register of replicas: numbers, leases, the lease of the one that sweeps.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::cluster::{RegistryEntry, ReplicaId, Reply, Request};

/// How far numbers jump when another server takes over.
pub(super) const JUMP: u64 = 1 << 16;
/// The same for session numbers, which are drawn in blocks.
const JUMP_SESSIONS: u64 = 1 << 20;
/// How long it is told that another server has taken over, in milliseconds.
const CHANGED_MS: u64 = 30_000;
/// How long a nonce is remembered, in milliseconds.
pub(super) const NONCE_MS: u64 = 600_000;

/// Keys of the tag `{r}`.
#[derive(Clone, Default)]
pub(super) struct Register {
    counter: u64,
    sessions: u64,
    /// Nonce: number given, and when it is forgotten.
    nonces: BTreeMap<u64, (ReplicaId, u64)>,
    replicas: BTreeMap<ReplicaId, Entry>,
    leader: Option<(ReplicaId, u64)>,
    /// Until then a failover may not have been made good by all.
    changed: Option<u64>,
}

#[derive(Clone)]
struct Entry {
    info: Bytes,
    /// Unix time in milliseconds.
    lease_until: u64,
}

impl Register {
    pub(super) fn len(&self) -> usize {
        self.replicas.len()
    }

    pub(super) fn begin_anew(&mut self, now: u64) {
        self.changed = Some(now + CHANGED_MS);
        self.counter += JUMP;
        self.sessions += JUMP_SESSIONS;
    }

    pub(super) fn apply(&mut self, now: u64, request: &Request) -> Reply {
        match request {
            Request::Join {
                nonce,
                info,
                lease_ms,
            } => self.join(now, *nonce, info, *lease_ms),
            Request::Renew {
                replica,
                lease_ms,
                info,
            } => self.renew(now, *replica, *lease_ms, info.as_ref()),
            Request::Reap { replica, force } => self.reap(now, *replica, *force),
            Request::Lead { replica, lease_ms } => self.lead(now, *replica, *lease_ms),
            Request::Registry => self.registry(now),
            Request::Numbers { count } => {
                let first = self.sessions + 1;
                self.sessions += count;
                Reply::Numbers(first)
            }
            _ => Reply::Done,
        }
    }

    fn join(&mut self, now: u64, nonce: u64, info: &Bytes, lease_ms: u64) -> Reply {
        self.nonces.retain(|_, (_, until)| *until > now);
        let replica = match self.nonces.get(&nonce) {
            Some((replica, _)) => *replica,
            None => {
                self.counter += 1;
                ReplicaId(self.counter)
            }
        };
        self.enter(now, replica, nonce, info, lease_ms);
        Reply::Joined { replica }
    }

    /// Puts a replica with a number on the register.
    pub(super) fn enter(
        &mut self,
        now: u64,
        replica: ReplicaId,
        nonce: u64,
        info: &Bytes,
        lease_ms: u64,
    ) {
        self.counter = self.counter.max(replica.0);
        self.nonces.insert(nonce, (replica, now + NONCE_MS));
        let entry = Entry {
            info: info.clone(),
            lease_until: now + lease_ms,
        };
        self.replicas.insert(replica, entry);
    }

    pub(super) fn draw_up_to(&mut self, last: u64) {
        self.sessions = self.sessions.max(last);
    }

    pub(super) fn has(&self, replica: ReplicaId) -> bool {
        self.replicas.contains_key(&replica)
    }

    fn renew(
        &mut self,
        now: u64,
        replica: ReplicaId,
        lease_ms: u64,
        info: Option<&Bytes>,
    ) -> Reply {
        let alive = match self.replicas.get_mut(&replica) {
            Some(entry) => {
                entry.lease_until = now + lease_ms;
                if let Some(info) = info {
                    entry.info = info.clone();
                }
                true
            }
            None => false,
        };
        let (live, lapsed): (Vec<_>, Vec<_>) = self
            .replicas
            .iter()
            .map(|(id, entry)| (*id, entry.lease_until > now))
            .partition(|(_, runs)| *runs);
        let ids = |list: Vec<(ReplicaId, bool)>| list.into_iter().map(|(id, _)| id).collect();
        Reply::Renewed {
            alive,
            lost: false,
            changed: self.changed.is_some_and(|until| until > now),
            live: ids(live),
            lapsed: ids(lapsed),
            now_ms: now,
        }
    }

    fn reap(&mut self, now: u64, replica: ReplicaId, force: bool) -> Reply {
        let runs = self
            .replicas
            .get(&replica)
            .is_some_and(|entry| entry.lease_until > now);
        if runs && !force {
            return Reply::Flag(false);
        }
        self.replicas.remove(&replica);
        Reply::Flag(true)
    }

    fn lead(&mut self, now: u64, replica: ReplicaId, lease_ms: u64) -> Reply {
        let others = self
            .leader
            .is_some_and(|(leader, until)| leader != replica && until > now);
        if !others {
            self.leader = Some((replica, now + lease_ms));
        }
        Reply::Flag(!others)
    }

    fn registry(&self, now: u64) -> Reply {
        Reply::Registry(
            self.replicas
                .iter()
                .map(|(id, entry)| RegistryEntry {
                    replica: *id,
                    info: entry.info.clone(),
                    lease_ms: entry.lease_until.saturating_sub(now),
                })
                .collect(),
        )
    }
}
