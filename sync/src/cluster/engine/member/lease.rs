//! The lease: renewing it, losing it, joining anew; who else has one.

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::super::actor::Actor;
use super::super::inbox::Inbox;
use super::super::keeper::{self};
use super::super::outcome::{Answer, Outcome};
use super::{Lapsed, Phase, Reconcile};

use crate::cluster::{BackplaneError, ReplicaId, Reply, Request};

impl Actor {
    pub(super) fn renew(&mut self, now: Instant) {
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

    pub(in super::super) fn renewed(&mut self, sent: Instant, answer: Answer) {
        self.member.renewing = false;
        match answer {
            Ok(Reply::Renewed {
                alive: true,
                changed,
                live,
                lapsed,
                now_ms,
                ..
            }) => {
                self.member.changed = changed;
                let now = Instant::now();
                self.look_at_clock(sent, now, now_ms);
                let waited = now.saturating_duration_since(self.member.answered);
                self.member.answered = now;
                if waited > self.options.lease / 3 {
                    // Whatever kept this replica from renewing may have kept others.
                    self.member.reap_after = now + self.options.lease;
                }
                if waited > self.options.fence {
                    // They may come back later than this one.
                    self.member.lapsed.clear();
                }
                self.member.renewed = sent;
                self.member.fence_at = sent + self.options.fence;
                self.member.live_known = true;
                self.shared.set_fence(self.member.fence_at);
                if now < self.member.fence_at && self.member.given_up.take().is_some() {
                    self.member.reconcile = Reconcile::Wanted;
                }
                self.count_peers(sent, &live, &lapsed);
                self.member.lapsed.retain(|id, _| lapsed.contains(id));
                for id in lapsed {
                    let first = Lapsed {
                        since: now,
                        renewals: 0,
                    };
                    let known = self.member.lapsed.entry(id);
                    known
                        .and_modify(|lapsed| lapsed.renewals += 1)
                        .or_insert(first);
                }
                self.reap_announced();
            }
            Ok(Reply::Renewed {
                alive: false, lost, ..
            }) => {
                if lost {
                    error!(
                        "Redis has lost everything: what was acknowledged lately is written again"
                    );
                    self.backplane.lost_everything();
                    self.shared.numbers.lock().clear();
                }
                self.rejoin();
            }
            Err(BackplaneError::Closed) => {}
            other => {
                warn!(answer = ?other.err(), "the lease could not be renewed");
            }
        }
    }

    /// A jump of Redis' clock ends leases of replicas that are alive: each renews its own within a second.
    fn look_at_clock(&mut self, sent: Instant, now: Instant, now_ms: u64) {
        let before = self.member.clock.replace((sent, now_ms));
        let Some((sent_before, ms_before)) = before else {
            return;
        };
        let most = now.saturating_duration_since(sent_before) + self.options.renew_every;
        let passed = now_ms.saturating_sub(ms_before);
        if u128::from(passed) > most.as_millis() {
            warn!(ms = passed, "the clock of Redis has jumped");
            self.member.jumped_until = now + 2 * self.options.renew_every;
        }
    }

    /// Who is alive, as Redis said at some time after `sent`.
    pub(super) fn count_peers(&mut self, sent: Instant, live: &[ReplicaId], lapsed: &[ReplicaId]) {
        let now = Instant::now();
        for id in live.iter().filter(|id| **id != self.replica) {
            if let Some(peer) = self.peers.meet(*id, now) {
                peer.live = true;
            }
        }
        if self.member.failovers.is_open() || self.member.changed {
            for id in lapsed.iter().filter(|id| **id != self.replica) {
                let _met = self.peers.meet(*id, now).is_some();
            }
        }
        let mut gone = Vec::new();
        for (id, peer) in self.peers.iter_mut() {
            peer.registered = live.contains(&id) || lapsed.contains(&id);
            let jumped = now < self.member.jumped_until && lapsed.contains(&id);
            if live.contains(&id) || peer.since >= sent || jumped {
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
    pub(in super::super) fn gone(&mut self, id: ReplicaId) {
        self.peers.remove(id);
        self.inbox_sequences.remove(&id);
        self.acks.remove(&id);
        info!(replica = id.0, "a replica is gone");
        if let Some(events) = self.events() {
            events.replica_gone(id);
        }
    }

    /// This replica was taken for dead: nothing it had is its own any more.
    pub(super) fn rejoin(&mut self) {
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
        self.give_up(
            "this replica was taken for dead before it was acknowledged",
            false,
        );
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
            peer.own_lane = super::super::peers::Heard::default();
            peer.inbox = super::super::peers::Heard::default();
            peer.routes.stale();
        }
        if apart {
            self.member.anew = false;
        }
        self.join();
    }

    pub(super) fn join(&mut self) {
        let sent = Instant::now();
        let request = Request::Join {
            nonce: self.draw.next(),
            info: self.member.info.clone(),
            lease_ms: self.options.lease_ms(),
        };
        self.ask(request, move |answer| Outcome::Joined { sent, answer });
    }

    pub(in super::super) fn joined(&mut self, sent: Instant, answer: Answer) {
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
        self.member.lapsed.clear();
        self.shared.set_fence(self.member.fence_at);
        self.member.wait_for_all(sent + self.options.lease);
        if self.events.is_some() {
            self.member.deaf_since = Some(Instant::now());
            self.member.heard_once = false;
            self.listen();
            self.begin_sync();
        } else {
            self.member.phase = Phase::Apart;
        }
    }
}
