//! Being one of several: the lease, knowing each other, stopping in time, coming back.
//!
//! A replica may acknowledge only while it is sure that the others count on it. It renews its lease
//! each second; when it has not succeeded for `fence`, counted from before it asked, it stops. The others
//! wait for it (barriers) until its lease has lapsed, which is later.
//!
//! A replica that begins, or has been cut off, first hears announcements, then has whole tables, then
//! says hello until every live replica has answered: from then on they wait for it. At last it compares
//! its tables with Redis once more, and is ready. Whoever changed something without waiting for it did
//! so before it was welcome, and is seen by that comparison.
//!
//! One that others have taken for dead joins anew, under another number, with nothing.

mod hello;
mod leading;
mod lease;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub(super) use self::leading::leave;
use super::actor::Actor;
use super::failovers::Failovers;
use super::inbox::Position;
use super::lanes::ALL;
use super::options::EngineOptions;
use super::outcome::Outcome;

use crate::cluster::{ReplicaId, Request};

/// Time between two hellos.
const HELLO_EVERY: Duration = Duration::from_millis(200);
/// Time between two repairs.
const REPAIR_EVERY: Duration = Duration::from_millis(200);
/// A barrier that has waited for so long asks those that it waits for.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// Time until something that was refused is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A will that was handed out and has not been deleted is handed out again after so long.
const WILL_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A store, not a replica: [`Cluster::start`](crate::cluster::Cluster::start) was not called.
    Apart,
    /// On the way to be ready.
    Syncing,
    Ready,
    /// Waits for the lease, or to hear.
    Cut,
    /// Was taken for dead: waits for its new number.
    Joining,
}

/// Whether it is to be found out what has taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reconcile {
    No,
    Wanted,
    Running,
}

/// A lease that was not renewed.
struct Lapsed {
    /// Since when that is seen.
    since: Instant,
    /// How often this replica has renewed its own since, without a long pause.
    renewals: u32,
}

/// What is known of one's own place.
pub(super) struct Member {
    phase: Phase,
    /// Nothing is acknowledged, and the broker knows.
    suspended: bool,
    /// It has another number now, of which the broker is to be told.
    anew: bool,
    /// Since when nothing is heard.
    deaf_since: Option<Instant>,
    /// Why nothing can be written, if so.
    given_up: Option<&'static str>,
    reconcile: Reconcile,
    /// Until then everybody on the register is waited for after a failover, dead or not.
    failover_until: Instant,
    /// There was one lately, by which those whose lease has lapsed may be held up.
    changed: bool,
    heard_once: bool,
    renewing: bool,
    pub(super) renew_at: Instant,
    /// When the last renewal that succeeded was asked for, and when it was answered.
    renewed: Instant,
    answered: Instant,
    /// From then on nothing is acknowledged.
    pub(super) fence_at: Instant,
    /// Replicas are known to be alive since the phase began.
    live_known: bool,
    hello_round: u64,
    hello_at: Option<Instant>,
    checking: bool,
    checked: bool,
    pub(super) check_at: Instant,
    pub(super) heartbeat_at: Instant,
    pub(super) lead_at: Instant,
    leading: bool,
    sweeping: bool,
    /// Replicas whose lease has lapsed.
    lapsed: BTreeMap<ReplicaId, Lapsed>,
    /// When the last renewal that was answered was sent, and Redis' clock then.
    clock: Option<(Instant, u64)>,
    /// Redis' clock has jumped: until then leases that have lapsed say nothing.
    jumped_until: Instant,
    /// Those that this replica is clearing away after.
    reaping: BTreeSet<ReplicaId>,
    /// Up to where the inboxes of some of them are read and handed over.
    inherited: BTreeMap<ReplicaId, Position>,
    /// They are cleared away after when the renewal with this number has told everybody of it; whether
    /// they are known to be off the register.
    announced: Vec<(u64, ReplicaId, bool)>,
    /// Number of the last renewal.
    renewals: u64,
    info: Bytes,
    info_changed: bool,
    pub(super) failovers: Failovers,
    /// Requests that write back what was read before a failover.
    restoring: usize,
    /// Until then only those are reaped who have not renewed for many renewals: Redis was late.
    reap_after: Instant,
    pub(super) repair_at: Option<Instant>,
    repaired: Option<Instant>,
    pub(super) ask_at: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    fence: Duration,
}

impl Member {
    pub(super) fn new(joined: Instant, options: &EngineOptions) -> Self {
        Self {
            phase: Phase::Apart,
            suspended: false,
            anew: false,
            deaf_since: Some(joined),
            given_up: None,
            reconcile: Reconcile::No,
            failover_until: joined + options.lease,
            changed: false,
            heard_once: false,
            renewing: false,
            renew_at: joined + options.renew_every,
            renewed: joined,
            fence_at: joined + options.fence,
            live_known: false,
            hello_round: 0,
            hello_at: None,
            checking: false,
            checked: false,
            check_at: joined + options.check_every,
            heartbeat_at: joined + options.renew_every,
            lead_at: joined,
            leading: false,
            sweeping: false,
            lapsed: BTreeMap::new(),
            clock: None,
            jumped_until: joined,
            reaping: BTreeSet::new(),
            inherited: BTreeMap::new(),
            announced: Vec::new(),
            renewals: 0,
            info: options.info.clone(),
            info_changed: false,
            failovers: Failovers::default(),
            restoring: 0,
            answered: joined,
            // Others may be only as late as Redis was.
            reap_after: joined + options.lease,
            repair_at: None,
            repaired: None,
            ask_at: None,
            retry_at: None,
            fence: options.fence,
        }
    }

    pub(super) fn is_joining(&self) -> bool {
        self.phase == Phase::Joining
    }

    /// What was read before a failover is being written back.
    pub(super) fn is_restoring(&self) -> bool {
        self.restoring > 0
    }

    pub(super) fn restore(&mut self) {
        self.restoring += 1;
    }

    pub(super) fn set_restored(&mut self) {
        self.restoring = self.restoring.saturating_sub(1);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspended || self.phase == Phase::Joining
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf_since.is_some()
    }

    /// Why whatever is handed in fails.
    pub(super) fn given_up(&self) -> Option<&'static str> {
        self.given_up
    }

    /// Nothing may be changed before it is known what has taken effect.
    pub(super) fn is_reconciling(&self) -> bool {
        self.reconcile != Reconcile::No
    }

    /// Whether it was waited for.
    pub(super) fn set_reconciled(&mut self, done: bool) -> bool {
        let waited = self.reconcile == Reconcile::Running;
        if waited {
            self.reconcile = if done {
                Reconcile::No
            } else {
                Reconcile::Wanted
            };
        }
        waited
    }

    /// After a failover everybody on the register is waited for until then.
    pub(super) fn wait_for_all(&mut self, until: Instant) {
        self.failover_until = until;
    }

    /// Whether it begins again by itself when its lease runs.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.phase, Phase::Cut | Phase::Joining)
    }

    pub(super) fn has_said_hello(&self) -> bool {
        self.phase == Phase::Ready || self.hello_at.is_some()
    }

    pub(super) fn hello_round(&self) -> u64 {
        self.hello_round
    }

    pub(super) fn renew_now(&mut self) {
        self.renew_at = self.renewed;
    }

    pub(super) fn set_checked(&mut self) {
        if self.checking {
            self.checking = false;
            self.checked = true;
        }
    }

    pub(super) fn check_again(&mut self) {
        self.checking = false;
    }

    /// Something that was refused is tried again, but not at once.
    pub(super) fn try_later(&mut self) {
        self.retry_at.get_or_insert(Instant::now() + RETRY);
    }

    /// The channels are heard, or not; whether it is for the first time.
    pub(super) fn set_deaf(&mut self, since: Option<Instant>) -> bool {
        self.deaf_since = match (self.deaf_since, since) {
            (Some(before), Some(_)) => Some(before),
            (_, since) => since,
        };
        since.is_none() && !std::mem::replace(&mut self.heard_once, true)
    }

    pub(super) fn repair_soon(&mut self, now: Instant) {
        let earliest = self.repaired.map_or(now, |last| last + REPAIR_EVERY);
        self.repair_at.get_or_insert(earliest.max(now));
    }

    /// Nothing has been heard for as long as a lease may be unrenewed: others are not to wait longer.
    fn deaf_too_long(&self, now: Instant) -> bool {
        self.phase != Phase::Apart
            && self
                .deaf_since
                .is_some_and(|since| now >= since + self.fence)
    }

    fn may_renew(&self, now: Instant) -> bool {
        !self.renewing && self.phase != Phase::Joining && !self.deaf_too_long(now)
    }

    pub(super) fn next_deadline(&self, barriers: bool) -> Instant {
        let mut next = self.heartbeat_at;
        let mut soon = |at: Option<Instant>| {
            if let Some(at) = at {
                next = next.min(at);
            }
        };
        let may_renew = self.may_renew(Instant::now());
        soon(may_renew.then_some(self.renew_at));
        soon(self.given_up.is_none().then_some(self.fence_at));
        soon(self.repair_at);
        soon(self.retry_at);
        soon(barriers.then_some(self.ask_at).flatten());
        if self.phase == Phase::Syncing {
            soon(self.hello_at.map(|at| at + HELLO_EVERY));
        }
        if self.phase == Phase::Ready {
            soon(Some(self.lead_at));
            soon(Some(self.check_at));
        }
        next
    }
}

impl Actor {
    /// Does what is due.
    pub(super) fn deadlines(&mut self, now: Instant) {
        if now >= self.member.renew_at && self.member.may_renew(now) {
            self.renew(now);
        }
        if self.member.given_up.is_none() && now >= self.member.fence_at {
            self.cut("its lease could not be renewed in time");
            self.member.given_up = Some("the lease of this replica could not be renewed in time");
            self.give_up(
                "it was not acknowledged before the lease of this replica ended",
                true,
            );
        } else if !self.member.suspended && self.member.deaf_too_long(now) {
            self.cut("announcements of the other replicas are not heard");
        }
        if now >= self.member.heartbeat_at {
            self.member.heartbeat_at = now + self.options.renew_every;
            self.own.forget_left(now);
            self.thin_out_parked();
            self.heartbeat();
        }
        if self.member.repair_at.is_some_and(|at| now >= at) {
            self.member.repair_at = None;
            self.member.repaired = Some(now);
            if !self.member.is_deaf() && self.events.is_some() {
                self.repair();
            }
        }
        if self.member.retry_at.is_some_and(|at| now >= at) {
            self.member.retry_at = None;
            if self.member.phase == Phase::Joining {
                self.join();
            }
        }
        self.barrier_deadline(now);
        if self.member.phase == Phase::Ready {
            if now >= self.member.check_at {
                self.member.check_at = now + self.options.check_every;
                self.check_versions();
            }
            if now >= self.member.lead_at {
                self.member.lead_at = now + self.options.sweep_every;
                let request = Request::Lead {
                    replica: self.replica,
                    lease_ms: self.options.lease_ms(),
                };
                self.ask(request, Outcome::Led);
            }
        }
    }

    fn barrier_deadline(&mut self, now: Instant) {
        if !self.commits.barriers_open() {
            self.member.ask_at = None;
            return;
        }
        let at = *self.member.ask_at.get_or_insert(now + ASK_EVERY);
        if now >= at {
            self.member.ask_at = Some(now + ASK_EVERY);
            self.ask_lagging();
        }
    }

    fn heartbeat(&self) {
        let mut lanes = self.shared.lanes.lock();
        let waiting = lanes.waiting_bytes() as u64;
        self.shared.counters.lane_waiting_bytes.set(waiting);
        self.shared.counters.peers.set(self.peers.live() as u64);
        if self.events.is_none() || self.peers.live() == 0 {
            return;
        }
        let sure = lanes.heartbeat();
        lanes.control(ALL, |pack| pack.heartbeat(sure.into_iter()));
    }
}
