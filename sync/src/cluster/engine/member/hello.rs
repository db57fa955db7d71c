//! On the way to be ready, and back.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::actor::Actor;
use super::super::lanes::ALL;
use super::{HELLO_EVERY, Phase, Reconcile};

use crate::cluster::{ClaimError, ClusterEvents};

impl Actor {
    /// Why a claim cannot be made now.
    pub(in super::super) fn unavailable(&self) -> Option<&'static str> {
        match self.member.phase {
            Phase::Joining => Some("this replica was taken for dead and joins anew"),
            _ if self.member.suspended => Some("this replica cannot renew its lease"),
            _ => None,
        }
    }

    pub(in super::super) fn start(
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
        self.member.failovers.begin(self.backplane.failovers());
        self.shared.set_made_good(self.member.failovers.seen());
        self.member.deaf_since = Some(Instant::now());
        self.listen();
        self.begin_sync();
    }

    /// Everything is looked at again before this replica is ready.
    pub(in super::super) fn begin_sync(&mut self) {
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
    pub(in super::super) fn advance(&mut self, now: Instant) {
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

    pub(super) fn advance_sync(&mut self, now: Instant) {
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
            || self.member.is_restoring()
            || !self.tables.is_whole()
            || !routes_whole
        {
            return;
        }
        // After a failover those that have lapsed may only be as late as Redis was.
        let all = (self.member.failovers.is_open() || self.member.changed)
            && now < self.member.failover_until;
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

    pub(super) fn say_hello(&self) {
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

    pub(super) fn ready(&mut self) {
        self.member.phase = Phase::Ready;
        self.member.check_at = Instant::now() + self.options.check_every;
        self.shared.set_ready(true);
        if self.member.failovers.settle()
            && let Some(events) = self.events()
        {
            events.queues_restored();
        }
        let seen = self.member.failovers.seen();
        self.shared.set_made_good(seen);
        self.backplane.made_good(seen);
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
    pub(in super::super) fn cut(&mut self, why: &str) {
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
}
