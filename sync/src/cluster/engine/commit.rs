//! Telling submitters, in the order in which they submitted.
//!
//! Rounds are answered in any order and told in theirs. A batch that has to wait longer steps aside, so that the others are told
//! without it: for other replicas because of its barrier, for a tap, or for messages of it that found no inbox.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::error;

use super::actor::Actor;
use super::lanes::ALL;
use super::round::{Needs, Round, Staged, Target};
use super::shared::{Pending, Shared};
use crate::StoreError;
use crate::cluster::tap::TapPartition;
use crate::cluster::{BUCKETS, Bucket, Request};
use crate::pipeline::guarded;

/// Batches that are told between two looks at the lease.
const TOLD_AT_ONCE: usize = 64;

struct Waiting {
    staged: Staged,
    since: Instant,
}

/// Batches on their way.
#[derive(Default)]
pub(super) struct Commits {
    rounds: VecDeque<Round>,
    open: usize,
    waiting: Vec<Waiting>,
    /// Tickets of `waiting`.
    tickets: BTreeSet<u64>,
    /// The last ticket that was told, or stepped aside.
    last: u64,
}

/// Versions that everybody who counts has applied.
struct Applied {
    buckets: Vec<u64>,
    routes: u64,
}

impl Applied {
    fn covers(&self, needs: &Needs) -> bool {
        let buckets = &self.buckets;
        needs.routes <= self.routes
            && needs.tables.iter().all(|(bucket, version)| {
                buckets
                    .get(usize::from(bucket.0))
                    .is_none_or(|applied| version <= applied)
            })
    }
}

impl Commits {
    pub(super) fn push(&mut self, round: Round) {
        self.open += 1;
        self.rounds.push_back(round);
    }

    pub(super) fn has_round(&mut self, id: u64) -> bool {
        self.round(id).is_some()
    }

    /// A round that waits for its answer.
    pub(super) fn round(&mut self, id: u64) -> Option<&mut Round> {
        let first = self.rounds.front()?.id;
        let at = usize::try_from(id.checked_sub(first)?).ok()?;
        self.rounds.get_mut(at).filter(|round| round.id == id)
    }

    /// A round has its answer.
    pub(super) fn answered(&mut self, id: u64) {
        if let Some(round) = self.round(id) {
            round.answered = true;
            self.open = self.open.saturating_sub(1);
        }
    }

    pub(super) fn rounds_open(&self) -> usize {
        self.open
    }

    pub(super) fn barriers_open(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether an append of a round to this partition has no answer.
    pub(super) fn is_tapping(&self, to: &TapPartition) -> bool {
        let targets = self.rounds.iter().flat_map(|round| &round.targets);
        targets
            .into_iter()
            .any(|target| matches!(target, Target::Tap(tapping) if tapping.to == *to))
    }

    fn is_first_answered(&self) -> bool {
        self.rounds.front().is_some_and(|round| round.answered)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rounds.is_empty() && self.waiting.is_empty()
    }

    /// Ends of connections that have no answer.
    pub(super) fn take_releases(&mut self) -> Vec<Request> {
        let targets = self.rounds.iter_mut().flat_map(|round| &mut round.targets);
        targets
            .filter_map(|target| match target {
                Target::Release { request, .. } => Some((**request).clone()),
                _ => None,
            })
            .collect()
    }

    /// A bucket was loaded: after a failover its version may be lower than one that was waited for.
    pub(super) fn bucket_loaded(&mut self, bucket: Bucket, version: u64) {
        let staged = self
            .rounds
            .iter_mut()
            .flat_map(|round| &mut round.batches)
            .chain(self.waiting.iter_mut().map(|waiting| &mut waiting.staged));
        for batch in staged.filter(|batch| batch.barrier) {
            for need in &mut batch.needs.tables {
                if need.0 == bucket {
                    need.1 = need.1.min(version);
                }
            }
        }
    }

    /// Fails a batch that was set aside.
    pub(super) fn fail_aside(&mut self, shared: &Shared, pending: Pending, error: &StoreError) {
        self.tickets.remove(&pending.ticket);
        self.last = self.last.max(pending.ticket);
        tell(shared, Staged::failed(pending, error));
        self.raise(shared);
    }

    /// These are told later than others that were submitted after them.
    pub(super) fn set_aside(&mut self, batches: &[Pending]) {
        self.tickets
            .extend(batches.iter().map(|pending| pending.ticket));
    }

    /// Nothing that is under way is known to be safe: everybody is told so, but those that are to be kept.
    /// With `keep` these are given back, in order.
    pub(super) fn fail_all(
        &mut self,
        shared: &Shared,
        error: &StoreError,
        keep: bool,
    ) -> Vec<Pending> {
        let rounds = std::mem::take(&mut self.rounds);
        let waiting = std::mem::take(&mut self.waiting);
        self.open = 0;
        let mut batches: Vec<Staged> = waiting.into_iter().map(|waiting| waiting.staged).collect();
        for round in rounds {
            batches.extend(round.batches);
        }
        batches.sort_unstable_by_key(|staged| staged.ticket);
        let mut kept = Vec::new();
        for mut staged in batches {
            self.tickets.remove(&staged.ticket);
            if keep && let Some(pending) = staged.keep() {
                kept.push(pending);
                continue;
            }
            if staged.result.is_ok() {
                staged.result = Err(error.clone());
            }
            self.last = self.last.max(staged.ticket);
            tell(shared, staged);
        }
        self.set_aside(&kept);
        self.raise(shared);
        kept
    }

    fn raise(&self, shared: &Shared) {
        let durable = match self.tickets.first() {
            Some(first) => self.last.min(first.saturating_sub(1)),
            None => self.last,
        };
        shared.raise(durable);
    }
}

/// Tells one submitter; a panic in its callback stops the store.
fn tell(shared: &Shared, staged: Staged) {
    let Staged {
        weight,
        on_commit,
        appended,
        result,
        ..
    } = staged;
    if let Some(callback) = on_commit {
        let told = guarded(|| {
            match &result {
                Ok(()) => callback.committed(appended),
                Err(error) => callback.failed(error),
            }
            Ok(())
        });
        if let Err(error) = told {
            error!(code = error.code(), %error, "a commit callback panicked");
            shared.fail(&error);
        }
    }
    shared.unload(weight);
}

impl Actor {
    /// Tells everybody who may be told.
    pub(super) fn tell(&mut self) {
        let any = self.commits.barriers_open() || self.commits.is_first_answered();
        if any && self.may_tell() {
            self.tell_waiting();
            while self.tell_round() {}
            self.commits.raise(&self.shared);
        }
        let counters = &self.shared.counters;
        let rounds = self.commits.rounds.iter().filter(|round| round.answered);
        counters
            .commits_held
            .set(rounds.map(|round| round.batches.len() as u64).sum());
        counters.rounds_open.set(self.commits.open as u64);
        counters
            .barriers_open
            .set(self.commits.waiting.len() as u64);
    }

    /// Tells the first round, if it is answered; whether there may be another one.
    fn tell_round(&mut self) -> bool {
        let Some(mut round) = self.commits.rounds.pop_front_if(|round| round.answered) else {
            return false;
        };
        let barrier = round.batches.iter().any(|batch| batch.barrier);
        let applied = barrier.then(|| self.applied_by_all());
        let mut batches = std::mem::take(&mut round.batches).into_iter();
        while batches.len() > 0 {
            // A process that was stopped and goes on must not acknowledge what it had at hand.
            if !self.may_tell() {
                round.batches = batches.collect();
                self.commits.rounds.push_front(round);
                return false;
            }
            for staged in batches.by_ref().take(TOLD_AT_ONCE) {
                self.tell_or_wait(staged, applied.as_ref());
            }
        }
        true
    }

    fn tell_or_wait(&mut self, staged: Staged, applied: Option<&Applied>) {
        self.commits.last = self.commits.last.max(staged.ticket);
        self.commits.tickets.remove(&staged.ticket);
        let waits = staged.result.is_ok()
            && (self.own.taps.owes(staged.ticket)
                || staged.needs.is_redelivering()
                || staged.barrier && applied.is_some_and(|applied| !applied.covers(&staged.needs)));
        if !waits {
            return self.tell_one(staged);
        }
        self.shared.counters.barriers.add(1);
        self.commits.tickets.insert(staged.ticket);
        self.commits.waiting.push(Waiting {
            staged,
            since: Instant::now(),
        });
    }

    /// What was kept back until now is asked next.
    fn tell_one(&mut self, mut staged: Staged) {
        if staged.result.is_ok() {
            self.after.append(&mut staged.after);
        }
        tell(&self.shared, staged);
    }

    /// Those that waited for others, and need not any more.
    fn tell_waiting(&mut self) {
        if self.commits.waiting.is_empty() {
            return;
        }
        let applied = self.applied_by_all();
        let now = Instant::now();
        let shared = Arc::clone(&self.shared);
        let waiting = std::mem::take(&mut self.commits.waiting);
        for entry in waiting {
            let owed =
                self.own.taps.owes(entry.staged.ticket) || entry.staged.needs.is_redelivering();
            if !owed && (!entry.staged.barrier || applied.covers(&entry.staged.needs)) {
                let waited = now.saturating_duration_since(entry.since);
                shared
                    .counters
                    .barrier_wait_us
                    .add(waited.as_micros() as u64);
                self.commits.tickets.remove(&entry.staged.ticket);
                self.tell_one(entry.staged);
            } else {
                self.commits.waiting.push(entry);
            }
        }
    }

    /// Versions that this replica and all live ones have applied.
    fn applied_by_all(&self) -> Applied {
        if self.events.is_none() {
            return Applied {
                buckets: vec![u64::MAX; usize::from(BUCKETS)],
                routes: u64::MAX,
            };
        }
        let mut buckets = self.tables.versions();
        let mut routes = u64::MAX;
        for (_, peer) in self.peers.iter().filter(|(_, peer)| peer.is_waited_for()) {
            routes = routes.min(peer.acked_routes);
            for (applied, acked) in buckets.iter_mut().zip(&peer.acked) {
                *applied = (*acked).min(*applied);
            }
        }
        Applied { buckets, routes }
    }

    /// Asks those that others wait for; what this replica itself lacks it loads.
    pub(super) fn ask_lagging(&mut self) {
        let mut buckets = vec![0_u64; usize::from(BUCKETS)];
        let mut routes = 0;
        for waiting in &self.commits.waiting {
            routes = waiting.staged.needs.routes.max(routes);
            for (bucket, version) in &waiting.staged.needs.tables {
                if let Some(wanted) = buckets.get_mut(usize::from(bucket.0)) {
                    *wanted = (*version).max(*wanted);
                }
            }
        }
        let wanted: Vec<(u64, u64)> = (0..)
            .zip(buckets)
            .filter(|(_, version)| *version > 0)
            .collect();
        for (bucket, version) in &wanted {
            let bucket = Bucket(*bucket as u16);
            if self.tables.version(bucket) < *version {
                self.tables.stale(bucket);
            }
        }
        let mut lanes = self.shared.lanes.lock();
        for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.is_waited_for()) {
            let lacks: Vec<(u64, u64)> = wanted
                .iter()
                .filter(|(bucket, version)| {
                    let acked = usize::try_from(*bucket)
                        .ok()
                        .and_then(|at| peer.acked.get(at));
                    acked.is_none_or(|acked| acked < version)
                })
                .copied()
                .collect();
            let lacks_routes = peer.acked_routes < routes;
            if lacks.is_empty() && !lacks_routes {
                continue;
            }
            debug_assert_ne!(id, ALL);
            self.shared.counters.barrier_asks.add(1);
            lanes.control(id, |pack| {
                if !lacks.is_empty() {
                    pack.ask(lacks.iter().copied());
                }
                if lacks_routes {
                    pack.ask_routes(routes);
                }
            });
        }
    }

    /// Fails everything that is under way, as this replica was taken for dead.
    /// With `keep`, what is to be kept is given back.
    pub(super) fn fail_everything(&mut self, error: &StoreError, keep: bool) -> Vec<Pending> {
        let shared = Arc::clone(&self.shared);
        let kept = self.commits.fail_all(&shared, error, keep);
        self.own.taps.clear();
        kept
    }
}
