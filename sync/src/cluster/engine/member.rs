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

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use super::actor::Actor;
use super::failovers::Failovers;
use super::inbox::Inbox;
use super::keeper::{self, Reaped, Swept};
use super::lanes::ALL;
use super::options::EngineOptions;
use super::outcome::{Answer, Outcome};
use crate::cluster::frame::{Kind, head};
use crate::cluster::{
    Backplane, BackplaneError, ClaimError, ClusterEvents, ReplicaId, Reply, Request,
};

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
    lapsed: Vec<ReplicaId>,
    /// Those that this replica is clearing away after.
    reaping: BTreeSet<ReplicaId>,
    /// They are cleared away after when the renewal with this number has told everybody of it; whether
    /// they are known to be off the register.
    announced: Vec<(u64, ReplicaId, bool)>,
    /// Number of the last renewal.
    renewals: u64,
    info: Bytes,
    info_changed: bool,
    pub(super) failovers: Failovers,
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
            failover_until: joined,
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
            lapsed: Vec::new(),
            reaping: BTreeSet::new(),
            announced: Vec::new(),
            renewals: 0,
            info: options.info.clone(),
            info_changed: false,
            failovers: Failovers::default(),
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
    /// Why a claim cannot be made now.
    pub(super) fn unavailable(&self) -> Option<&'static str> {
        match self.member.phase {
            Phase::Joining => Some("this replica was taken for dead and joins anew"),
            _ if self.member.suspended => Some("this replica cannot renew its lease"),
            _ => None,
        }
    }

    pub(super) fn start(
        &mut self,
        events: Arc<dyn ClusterEvents>,
        answer: oneshot::Sender<Result<(), ClaimError>>,
    ) {
        if self.events.is_some() {
            let twice = "it was started before".to_owned();
            answer.send(Err(ClaimError::Unavailable(twice))).ok();
            return;
        }
        self.events = Some(events);
        self.start_answer = Some(answer);
        self.member.deaf_since = Some(Instant::now());
        self.listen();
        self.begin_sync();
    }

    /// Everything is looked at again before this replica is ready.
    pub(super) fn begin_sync(&mut self) {
        self.shared.set_ready(false);
        let member = &mut self.member;
        member.phase = Phase::Syncing;
        member.live_known = false;
        member.hello_round = self.draw.next();
        member.hello_at = None;
        member.checking = false;
        member.checked = false;
        member.renew_now();
        for (_, peer) in self.peers.iter_mut() {
            peer.welcomed_us = false;
        }
    }

    /// Takes the next step towards being ready.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.member.reconcile == Reconcile::Wanted && self.member.given_up.is_none() {
            self.member.reconcile = Reconcile::Running;
            self.reconcile();
        }
        match self.member.phase {
            Phase::Cut => {
                if now < self.member.fence_at && !self.member.is_deaf() {
                    self.begin_sync();
                    self.member.repair_soon(now);
                }
            }
            Phase::Syncing => self.advance_sync(now),
            Phase::Apart | Phase::Ready | Phase::Joining => {}
        }
    }

    fn advance_sync(&mut self, now: Instant) {
        let due = self
            .member
            .hello_at
            .is_none_or(|at| now >= at + HELLO_EVERY);
        // Whether or not anybody is greeted: a deadline that stayed in the past would keep the task awake.
        if due && self.member.hello_at.is_some() {
            self.member.hello_at = Some(now);
        }
        let routes_whole = self
            .peers
            .iter()
            .all(|(_, peer)| !peer.live || peer.routes.is_whole());
        if self.member.is_deaf()
            || !self.member.live_known
            || self.member.is_reconciling()
            || !self.tables.is_whole()
            || !routes_whole
        {
            return;
        }
        // After a failover those that have lapsed may only be as late as Redis was.
        let all = self.member.failovers.is_open() && now < self.member.failover_until;
        let strangers = self
            .peers
            .iter()
            .any(|(_, peer)| (peer.live || all && peer.registered) && !peer.welcomed_us);
        if strangers || self.member.hello_at.is_none() {
            // Whatever was compared before they knew of this replica is not enough.
            self.member.checked = false;
            if due {
                self.member.hello_at = Some(now);
                self.say_hello();
            }
            if strangers {
                return;
            }
        }
        if !self.member.checked {
            if !self.member.checking {
                self.member.checking = true;
                self.check_versions();
            }
            return;
        }
        self.ready();
    }

    fn say_hello(&self) {
        let round = self.member.hello_round;
        let versions = self.tables.versions();
        let failovers = self.member.failovers.number();
        let mut lanes = self.shared.lanes.lock();
        lanes.control(ALL, |pack| pack.hello(round, &versions, failovers));
        for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.live) {
            let version = peer.routes.version();
            lanes.control(id, |pack| pack.applied_routes(version));
        }
    }

    fn ready(&mut self) {
        self.member.phase = Phase::Ready;
        self.member.check_at = Instant::now() + self.options.check_every;
        self.shared.set_ready(true);
        if self.member.failovers.settle()
            && let Some(events) = self.events()
        {
            events.queues_restored();
        }
        if let Some(answer) = self.start_answer.take() {
            info!(
                replica = self.replica.0,
                peers = self.peers.live(),
                "this replica is ready"
            );
            answer.send(Ok(())).ok();
        }
        if self.member.suspended {
            self.member.suspended = false;
            let anew = std::mem::take(&mut self.member.anew);
            info!(
                replica = self.replica.0,
                anew, "this replica can keep its promises again"
            );
            if let Some(events) = self.events() {
                events.resumed(anew);
            }
        }
    }

    /// Stops acknowledging.
    pub(super) fn cut(&mut self, why: &str) {
        if self.member.phase == Phase::Apart || self.member.phase == Phase::Joining {
            return;
        }
        self.shared.set_ready(false);
        self.member.phase = Phase::Cut;
        self.member.leading = false;
        if !self.member.suspended {
            self.member.suspended = true;
            self.shared.counters.suspended.add(1);
            warn!(why, "this replica stops acknowledging");
            if let Some(events) = self.events() {
                events.suspended(why);
            }
        }
    }

    /// Does what is due.
    pub(super) fn deadlines(&mut self, now: Instant) {
        if now >= self.member.renew_at && self.member.may_renew(now) {
            self.renew(now);
        }
        if self.member.given_up.is_none() && now >= self.member.fence_at {
            self.cut("its lease could not be renewed in time");
            self.member.given_up = Some("the lease of this replica could not be renewed in time");
            self.give_up("it was not acknowledged before the lease of this replica ended");
        } else if !self.member.suspended && self.member.deaf_too_long(now) {
            self.cut("announcements of the other replicas are not heard");
        }
        if now >= self.member.heartbeat_at {
            self.member.heartbeat_at = now + self.options.renew_every;
            self.own.forget_left(now);
            self.several_masters = self.backplane.status().masters.len() > 1;
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

    // ----- the lease -----

    fn renew(&mut self, now: Instant) {
        self.member.renewing = true;
        self.member.renewals += 1;
        self.member.renew_at = now + self.options.renew_every;
        if let Some(info) = self.shared.take_info() {
            self.member.info = info;
            self.member.info_changed = true;
        }
        let changed = std::mem::take(&mut self.member.info_changed);
        let info =
            changed.then(|| keeper::info(&self.member.info, self.member.reaping.iter().copied()));
        let request = Request::Renew {
            replica: self.replica,
            lease_ms: self.options.lease_ms(),
            info,
        };
        self.ask(request, move |answer| Outcome::Renewed {
            sent: now,
            answer,
        });
    }

    pub(super) fn renewed(&mut self, sent: Instant, answer: Answer) {
        self.member.renewing = false;
        match answer {
            Ok(Reply::Renewed {
                alive: true,
                live,
                lapsed,
                ..
            }) => {
                let now = Instant::now();
                let waited = now.saturating_duration_since(self.member.answered);
                self.member.answered = now;
                if waited > self.options.lease / 3 {
                    // Whatever kept this replica from renewing may have kept others.
                    self.member.reap_after = now + self.options.lease;
                }
                self.member.renewed = sent;
                self.member.fence_at = sent + self.options.fence;
                self.member.live_known = true;
                self.shared.set_fence(self.member.fence_at);
                if now < self.member.fence_at && self.member.given_up.take().is_some() {
                    self.member.reconcile = Reconcile::Wanted;
                }
                self.count_peers(sent, &live, &lapsed);
                self.member.lapsed = lapsed;
                self.reap_announced();
            }
            Ok(Reply::Renewed { alive: false, .. }) => self.rejoin(),
            Err(BackplaneError::Closed) => {}
            other => {
                warn!(answer = ?other.err(), "the lease could not be renewed");
            }
        }
    }

    /// Who is alive, as Redis said at some time after `sent`.
    fn count_peers(&mut self, sent: Instant, live: &[ReplicaId], lapsed: &[ReplicaId]) {
        let now = Instant::now();
        for id in live.iter().filter(|id| **id != self.replica) {
            if let Some(peer) = self.peers.meet(*id, now) {
                peer.live = true;
            }
        }
        if self.member.failovers.is_open() {
            for id in lapsed.iter().filter(|id| **id != self.replica) {
                let _met = self.peers.meet(*id, now).is_some();
            }
        }
        let mut gone = Vec::new();
        for (id, peer) in self.peers.iter_mut() {
            peer.registered = live.contains(&id) || lapsed.contains(&id);
            if live.contains(&id) || peer.since >= sent {
                continue;
            }
            peer.live = false;
            peer.introduced = false;
            if !lapsed.contains(&id) {
                gone.push(id);
            }
        }
        for id in gone {
            self.gone(id);
        }
        let peers = &self.peers;
        self.shared.lanes.lock().retain(|id| peers.contains(id));
    }

    /// Another replica is off the register.
    pub(super) fn gone(&mut self, id: ReplicaId) {
        self.peers.remove(id);
        self.inbox_sequences.remove(&id);
        self.acks.remove(&id);
        info!(replica = id.0, "a replica is gone");
        if let Some(events) = self.events() {
            events.replica_gone(id);
        }
    }

    /// This replica was taken for dead: nothing it had is its own any more.
    fn rejoin(&mut self) {
        warn!(
            replica = self.replica.0,
            "this replica was taken for dead, and joins anew"
        );
        if self.member.phase != Phase::Apart {
            self.cut("the others have taken it for dead");
            self.member.anew = true;
        }
        self.shared.set_ready(false);
        self.shared.counters.rejoined.add(1);
        let apart = self.member.phase == Phase::Apart;
        self.member.phase = Phase::Joining;
        self.member.given_up = Some("this replica was taken for dead, and joins anew");
        self.member.reconcile = Reconcile::No;
        self.give_up("this replica was taken for dead before it was acknowledged");
        // Whoever clears away after it ends its connections.
        self.owed.clear();
        self.own.clear();
        self.acks.clear();
        self.inbox_sequences.clear();
        self.wills_out.clear();
        self.inbox = Inbox::default();
        self.member.failovers.forget();
        self.shared.lanes.lock().clear();
        for (_, peer) in self.peers.iter_mut() {
            peer.introduced = false;
            peer.welcomed_us = false;
            peer.acked.fill(0);
            peer.acked_routes = 0;
            peer.own_lane = super::peers::Heard::default();
            peer.inbox = super::peers::Heard::default();
            peer.routes.stale();
        }
        if apart {
            self.member.anew = false;
        }
        self.join();
    }

    fn join(&mut self) {
        let sent = Instant::now();
        let request = Request::Join {
            nonce: self.draw.next(),
            info: self.member.info.clone(),
            lease_ms: self.options.lease_ms(),
        };
        self.ask(request, move |answer| Outcome::Joined { sent, answer });
    }

    pub(super) fn joined(&mut self, sent: Instant, answer: Answer) {
        let Ok(Reply::Joined { replica }) = answer else {
            warn!(answer = ?answer.err(), "this replica cannot join");
            self.member.try_later();
            return;
        };
        self.member.given_up = None;
        info!(
            replica = replica.0,
            was = self.replica.0,
            "this replica has joined anew"
        );
        // Routes and messages of the earlier number are known as another's, and were dropped.
        self.replica = replica;
        self.shared.set_replica(replica);
        self.member.info_changed = true;
        self.member.renewed = sent;
        self.member.answered = Instant::now();
        self.member.fence_at = sent + self.options.fence;
        self.member.reap_after = sent + self.options.lease;
        self.shared.set_fence(self.member.fence_at);
        if self.events.is_some() {
            self.member.deaf_since = Some(Instant::now());
            self.member.heard_once = false;
            self.listen();
            self.begin_sync();
        } else {
            self.member.phase = Phase::Apart;
        }
    }

    // ----- work for all -----

    pub(super) fn led(&mut self, answer: Answer) {
        self.member.leading = answer == Ok(Reply::Flag(true)) && self.member.phase == Phase::Ready;
        if !self.member.leading || self.is_closing() {
            return;
        }
        self.sweep();
        let now = Instant::now();
        if now < self.member.reap_after {
            return;
        }
        for dead in std::mem::take(&mut self.member.lapsed) {
            if dead != self.replica && self.member.reaping.insert(dead) {
                let inherited = keeper::inherited(Arc::clone(&self.backplane), dead);
                self.expect(async move { Outcome::Inherits(dead, inherited.await) });
            }
        }
    }

    /// A dead replica may have been clearing away after others: that is inherited with it. Before
    /// anything is done everybody is told, so that this replica may die over it.
    pub(super) fn inherits(&mut self, dead: ReplicaId, inherited: Vec<ReplicaId>) {
        self.shared
            .counters
            .reaping
            .set(self.member.reaping.len() as u64);
        let next = self.member.renewals + 1;
        self.member.announced.push((next, dead, false));
        for replica in inherited {
            if replica != self.replica && self.member.reaping.insert(replica) {
                self.member.announced.push((next, replica, true));
            }
        }
        self.member.info_changed = true;
        self.member.renew_now();
    }

    fn reap_announced(&mut self) {
        let told = self.member.renewals;
        let ready: Vec<_> = self
            .member
            .announced
            .extract_if(.., |(number, ..)| *number <= told)
            .collect();
        if !self.member.announced.is_empty() {
            self.member.renew_now();
        }
        for (_, dead, known_dead) in ready {
            let reaped = keeper::reap(Arc::clone(&self.backplane), self.replica, dead, known_dead);
            self.expect(async move { Outcome::Reaped(reaped.await) });
        }
    }

    fn sweep(&mut self) {
        if !std::mem::replace(&mut self.member.sweeping, true) {
            let swept = keeper::sweep(Arc::clone(&self.backplane), self.replica);
            self.expect(async move { Outcome::Swept(swept.await) });
        }
    }

    pub(super) fn swept(&mut self, swept: Swept) {
        self.member.sweeping = false;
        self.shared.counters.sessions_expired.add(swept.expired);
        if !self.member.leading || self.member.phase != Phase::Ready {
            return;
        }
        let now = Instant::now();
        self.wills_out
            .retain(|_, handed_out| now < *handed_out + WILL_PATIENCE);
        let Some(events) = self.events() else { return };
        for (bucket, epoch, will) in swept.wills {
            if let std::collections::btree_map::Entry::Vacant(place) =
                self.wills_out.entry((bucket, epoch))
            {
                place.insert(now);
                self.shared.counters.wills_due.add(1);
                events.will_due(will);
            }
        }
        if swept.more {
            self.sweep();
        }
    }

    pub(super) fn reaped(&mut self, reaped: Reaped) {
        if reaped.again && !self.is_closing() {
            let next = self.member.renewals + 1;
            self.member.announced.push((next, reaped.replica, false));
            return;
        }
        self.member.reaping.remove(&reaped.replica);
        self.shared
            .counters
            .reaping
            .set(self.member.reaping.len() as u64);
        self.member.info_changed = true;
        if !reaped.done {
            return;
        }
        self.shared.counters.reaped.add(1);
        info!(
            replica = reaped.replica.0,
            redelivered = reaped.redeliver.len(),
            "a dead replica was cleared away"
        );
        if let Some(events) = self.events() {
            for (share, message) in reaped.redeliver {
                events.redeliver(&share, message);
            }
        }
        let replica = reaped.replica;
        self.ask(Request::DropReplica { replica }, |_| Outcome::Ignored);
        self.member.renew_now();
    }
}

/// Gives the lease back, and clients that are still claimed; then says so.
pub(super) async fn leave(
    backplane: Arc<dyn Backplane>,
    me: ReplicaId,
    clients: Vec<Arc<str>>,
    goodbye: Request,
) {
    let mut last = vec![Request::Reap {
        replica: me,
        force: true,
    }];
    last.extend(clients.into_iter().map(|client_id| Request::Orphan {
        client_id,
        replica: me,
        head: head(Kind::Table, me),
    }));
    last.push(Request::DropReplica { replica: me });
    last.push(goodbye);
    drop(backplane.execute(last).await);
}
