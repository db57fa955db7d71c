//! What comes from the other replicas and from Redis unasked.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{info, warn};

use super::actor::Actor;
use super::lanes::ALL;
use super::outcome::{Answer, Outcome};
use super::peers::Order;
use super::shared::Shared;
use super::tables::Heard;
use crate::cluster::frame::{self, Body, Change, Entries, Entry, FrameError, RouteChanges};
use crate::cluster::{
    Backplane, BackplaneError, BackplaneEvent, Bucket, ClusterEvents, Held, Relayed, ReplicaId,
    Reply, Request,
};
use crate::{Appended, MessageParts};

impl Actor {
    pub(super) fn hear(&mut self, event: BackplaneEvent) {
        let Some(events) = self.events() else { return };
        if self.member.is_joining() {
            // It is for the earlier number of this replica, and the lanes of the new one begin at nothing: what is in the
            // inbox stays for whoever clears away after it.
            return;
        }
        match event {
            BackplaneEvent::Frame(bytes) => self.frame(&bytes, &*events),
            BackplaneEvent::Inbox(at, bytes) => {
                let held = self.inbox.hold(&self.shared, self.replica, at, bytes.len());
                self.inbox_frame(&bytes, &*events, held);
            }
            BackplaneEvent::Listening => self.listening(),
            BackplaneEvent::Deaf => {
                info!("announcements of the cluster are not heard now");
                self.member.set_deaf(Some(Instant::now()));
            }
            BackplaneEvent::Failover => self.notice_failovers(),
        }
    }

    fn frame(&mut self, bytes: &Bytes, events: &dyn ClusterEvents) {
        let counters = &self.shared.counters;
        let frame = match frame::decode(bytes) {
            Ok(frame) => frame,
            // Anybody may use the channel for something else.
            Err(FrameError::Foreign) => return,
            Err(FrameError::Version(_) | FrameError::Kind(_)) => {
                return counters.frames_unknown.add(1);
            }
            Err(error @ FrameError::Damaged(_)) => {
                warn!(%error, "a frame cannot be read");
                return counters.damaged.add(1);
            }
        };
        counters.frames_in.add(1);
        let origin = frame.origin;
        match frame.body {
            Body::Table {
                bucket,
                version,
                change,
            } => self.table_frame(bytes, origin, (bucket, version), change, events),
            Body::Routes { version, changes } if origin != self.replica => {
                self.routes_frame(bytes, origin, version, changes, events);
            }
            Body::Lane {
                to,
                sequence,
                entries,
            } if origin != self.replica => {
                self.lane_frame(origin, to, sequence, entries, events);
            }
            Body::Routes { .. } | Body::Lane { .. } | Body::Tap { .. } => {}
        }
    }

    fn table_frame(
        &mut self,
        bytes: &Bytes,
        origin: ReplicaId,
        (bucket, version): (Bucket, u64),
        change: Change<'_>,
        events: &dyn ClusterEvents,
    ) {
        let heard = self
            .tables
            .announced(bytes, origin, (bucket, version), change, events);
        if let Heard::Applied(version) = heard
            && origin != self.replica
        {
            self.ack(origin, bucket, version);
        }
    }

    fn routes_frame(
        &mut self,
        bytes: &Bytes,
        origin: ReplicaId,
        version: u64,
        changes: RouteChanges<'_>,
        events: &dyn ClusterEvents,
    ) {
        let Some(peer) = self.peers.meet(origin, Instant::now()) else {
            return;
        };
        let applied = peer
            .routes
            .announced(origin, bytes, version, changes, events);
        if let Some(version) = applied {
            self.acks.entry(origin).or_default().routes = Some(version);
        }
    }

    fn lane_frame(
        &mut self,
        origin: ReplicaId,
        to: ReplicaId,
        sequence: u64,
        entries: Entries<'_>,
        events: &dyn ClusterEvents,
    ) {
        if to != ALL && to != self.replica {
            return;
        }
        let Some(peer) = self.peers.meet(origin, Instant::now()) else {
            return;
        };
        let lane = if to == ALL {
            &mut peer.all_lane
        } else {
            &mut peer.own_lane
        };
        match lane.frame(sequence) {
            Order::Next => {}
            Order::Gap(missing) => self.gap(origin, missing),
            Order::Old => return,
        }
        let messages = self.entries(origin, entries, events, None);
        self.shared.counters.messages_in.add(messages);
    }

    fn inbox_frame(&mut self, bytes: &Bytes, events: &dyn ClusterEvents, held: Held) {
        self.shared.counters.inbox_frames_in.add(1);
        let Ok(frame) = frame::decode(bytes) else {
            return self.shared.counters.frames_unknown.add(1);
        };
        let Body::Lane {
            sequence, entries, ..
        } = frame.body
        else {
            return;
        };
        // A replica puts there itself what is for a member of a shared group that would be lost with it.
        let lane = if frame.origin == self.replica {
            Some(self.inbox.own_lane())
        } else {
            let peer = self.peers.meet(frame.origin, Instant::now());
            peer.map(|peer| &mut peer.inbox)
        };
        if lane.is_some_and(|lane| lane.frame(sequence) == Order::Old) {
            return self.shared.counters.inbox_repeated.add(1);
        }
        let messages = self.entries(frame.origin, entries, events, Some(&held));
        self.shared.counters.inbox_messages_in.add(messages);
    }

    /// The entries of a frame, in order; messages that follow each other are handed over together.
    /// Gives back how many messages there were.
    fn entries(
        &mut self,
        origin: ReplicaId,
        entries: Entries<'_>,
        events: &dyn ClusterEvents,
        held: Option<&Held>,
    ) -> u64 {
        let mut relayed: Vec<Relayed<'_>> = Vec::with_capacity(entries.guess());
        let mut publisher: Option<Arc<str>> = None;
        let mut count = 0;
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    warn!(origin = origin.0, %error, "an entry of a frame cannot be read");
                    self.shared.counters.damaged.add(1);
                    break;
                }
            };
            if let Entry::Message { share, message } = entry {
                count += 1;
                // One publisher's messages follow each other: its name is kept once.
                if publisher.as_deref() != message.publisher {
                    publisher = message.publisher.map(Arc::from);
                }
                let message: MessageParts<'_> = message.parts(publisher.clone());
                relayed.push(Relayed { message, share });
                continue;
            }
            hand_over(&relayed, events, held);
            relayed.clear();
            count += u64::from(matches!(entry, Entry::Queued { .. }));
            self.entry(origin, entry, events);
        }
        hand_over(&relayed, events, held);
        count
    }

    fn entry(&mut self, origin: ReplicaId, entry: Entry<'_>, events: &dyn ClusterEvents) {
        match entry {
            Entry::Message { .. } | Entry::Tapped { .. } => {}
            Entry::Queued {
                session,
                seq,
                delivery,
                message,
            } => {
                // Without the claim it is another's by now.
                if let Some(own) = self.own.sessions.get_mut(&session)
                    && own.is_here()
                {
                    own.tail = own.tail.max(seq.saturating_add(1));
                    events.woken(Appended {
                        session,
                        seq,
                        delivery,
                        message: message.to_message(),
                    });
                }
            }
            Entry::Grown { session, tail } => {
                if let Some(own) = self.own.sessions.get_mut(&session)
                    && own.is_here()
                {
                    own.tail = own.tail.max(tail);
                    events.queue_grown(session, tail);
                }
            }
            Entry::Hello {
                round,
                versions,
                failovers,
            } => self.hello(origin, round, versions, failovers, events),
            Entry::Welcome { round, failovers } => {
                let expected = self.member.hello_round();
                if let Some(peer) = self.peers.get_mut(origin)
                    && round == expected
                {
                    peer.live = true;
                    peer.introduced = true;
                    peer.welcomed_us = true;
                    peer.failovers = failovers;
                    self.member.failovers.hear(failovers);
                }
            }
            Entry::LetGo { client_id, epoch } => {
                self.own.release(client_id, epoch);
                events.let_go(client_id, epoch);
            }
            Entry::Applied(pairs) => {
                if let Some(peer) = self.peers.get_mut(origin) {
                    for (bucket, version) in pairs.iter() {
                        peer.has_applied(bucket, version);
                    }
                }
            }
            Entry::AppliedRoutes(version) => {
                if let Some(peer) = self.peers.get_mut(origin) {
                    peer.acked_routes = version.max(peer.acked_routes);
                }
            }
            Entry::Ask(pairs) => {
                for (bucket, version) in pairs.iter() {
                    self.asked(origin, bucket, version);
                }
            }
            Entry::AskRoutes(version) => {
                if let Some(peer) = self.peers.get_mut(origin) {
                    if peer.routes.is_whole() && peer.routes.version() >= version {
                        let version = peer.routes.version();
                        self.acks.entry(origin).or_default().routes = Some(version);
                    } else {
                        peer.routes.stale();
                    }
                }
            }
            Entry::Heartbeat(lanes) => {
                for (to, sequence) in lanes.iter() {
                    let Some(peer) = self.peers.get_mut(origin) else {
                        return;
                    };
                    let missing = match ReplicaId(to) {
                        ALL => peer.all_lane.sent(sequence),
                        to if to == self.replica => peer.own_lane.sent(sequence),
                        _ => 0,
                    };
                    if missing > 0 {
                        self.gap(origin, missing);
                    }
                }
            }
            Entry::Leaving => {
                // It is off the register by now.
                if self.peers.contains(origin) {
                    self.gone(origin);
                }
            }
            Entry::Unknown(_) => self.shared.counters.frames_unknown.add(1),
        }
    }

    /// Another replica waits for this one to apply a change.
    fn asked(&mut self, origin: ReplicaId, bucket: u64, version: u64) {
        let Ok(bucket) = u16::try_from(bucket).map(Bucket) else {
            return;
        };
        let applied = self.tables.version(bucket);
        if applied >= version {
            self.ack(origin, bucket, applied);
        } else {
            // The announcement was lost, or is on its way: loading it once too often does no harm.
            self.tables.stale(bucket);
            self.shared.counters.reloads.add(1);
        }
    }

    /// A replica has loaded its tables and waits to be known.
    fn hello(
        &mut self,
        origin: ReplicaId,
        round: u64,
        versions: Vec<u64>,
        failovers: u64,
        events: &dyn ClusterEvents,
    ) {
        let now = Instant::now();
        // It has seen a failover that this replica has not yet made good: it is to wait.
        let covers = self
            .member
            .failovers
            .covers(failovers, now, self.options.lease);
        if !covers || self.member.is_restoring() {
            return;
        }
        let Some(peer) = self.peers.meet(origin, now) else {
            return;
        };
        peer.live = true;
        peer.introduced = true;
        peer.since = now;
        peer.acked = versions;
        let before = std::mem::replace(&mut peer.failovers, failovers);
        if peer.routes.is_whole() {
            let version = peer.routes.version();
            self.acks.entry(origin).or_default().routes = Some(version);
        }
        let number = self.member.failovers.number();
        let open = self.member.failovers.is_open();
        if open && failovers < number {
            // It has nothing to write again, and what it would read is not whole before all others have.
            return;
        }
        if !open && before < number && failovers == number && self.member.is_ready() {
            // It was not waited for, and has written something again since.
            events.queues_restored();
        }
        self.shared
            .lanes
            .lock()
            .control(origin, |pack| pack.welcome(round, number));
    }

    /// Frames of another replica are missing.
    fn gap(&mut self, origin: ReplicaId, missing: u64) {
        self.shared.counters.gaps.add(1);
        self.shared.counters.frames_missing.add(missing);
        if let Some(peer) = self.peers.get_mut(origin) {
            peer.routes.stale();
        }
        self.member.repair_soon(Instant::now());
    }

    /// The channels are heard from here on.
    fn listening(&mut self) {
        let first = self.member.set_deaf(None);
        for (_, peer) in self.peers.iter_mut() {
            peer.own_lane = super::peers::Heard::default();
            peer.all_lane = super::peers::Heard::default();
        }
        if !first {
            for (_, peer) in self.peers.iter_mut() {
                peer.routes.stale();
            }
            self.member.repair_soon(Instant::now());
        }
    }

    /// Looks whether Redis has failed over. Not only when it is said: a replica that begins to listen
    /// under another number is not told of what was before that.
    pub(super) fn notice_failovers(&mut self) {
        if self.events.is_some() && self.member.failovers.is_new(self.backplane.failovers()) {
            self.failed_over();
        }
    }

    /// Redis is another one now, or has lost newer writes.
    fn failed_over(&mut self) {
        warn!("Redis has failed over: the tables are loaded anew");
        self.tables.forget_versions();
        for (_, peer) in self.peers.iter_mut() {
            peer.routes.forget_version();
            peer.acked.fill(0);
            peer.acked_routes = 0;
        }
        self.member.failovers.handled(self.backplane.failovers());
        self.member
            .wait_for_all(Instant::now() + self.options.lease);
        self.member.restore();
        let restored = restore(Arc::clone(&self.backplane), Arc::clone(&self.shared));
        self.expect(async move {
            restored.await;
            Outcome::Restored
        });
        if !self.member.is_cut() {
            self.begin_sync();
        }
        self.member.repair_soon(Instant::now());
    }

    /// Whether Redis has failed over and not all replicas have made that good.
    pub(super) fn is_failing_over(&self) -> bool {
        self.events.is_some()
            && (self.member.failovers.is_open()
                || self.member.failovers.is_new(self.backplane.failovers()))
    }

    /// Looks for what may have been missed: changes of tables, appended messages, lost claims.
    pub(super) fn repair(&mut self) {
        if let Some(events) = self.events() {
            events.queues_may_have_grown();
        }
        self.check_versions();
        let mark = self.own.marks;
        if self.own.claims.is_empty() {
            return;
        }
        let asked = super::keeper::owned(Arc::clone(&self.backplane), self.replica);
        self.expect(async move {
            Outcome::Verified {
                mark,
                listed: asked.await,
            }
        });
    }

    /// Compares the tables' versions with those in Redis.
    pub(super) fn check_versions(&mut self) {
        let before = self.tables.versions();
        self.ask(Request::Versions, move |answer| {
            Outcome::Versions(before, answer)
        });
    }

    pub(super) fn compared(&mut self, before: &[u64], answer: Answer) {
        match answer {
            Ok(Reply::Versions(versions)) => {
                let stale = self.tables.compare(&versions, before);
                self.shared.counters.reloads.add(stale);
                self.member.set_checked();
            }
            other => {
                warn!(answer = ?other.err(), "versions of the tables cannot be compared");
                self.member.check_again();
            }
        }
    }

    /// Connections whose claim is another's by now, though nobody has said so.
    pub(super) fn verified(&mut self, mark: u64, listed: Option<BTreeSet<Arc<str>>>) {
        let (Some(listed), Some(events)) = (listed, self.events()) else {
            return;
        };
        let mut lost: Vec<_> = self
            .own
            .claims
            .iter()
            .filter(|(client, claim)| claim.mark <= mark && !listed.contains(*client))
            .map(|(client, claim)| (Arc::clone(client), claim.epoch))
            .collect();
        lost.sort_unstable();
        for (client, epoch) in lost {
            self.own.release(&client, epoch);
            events.let_go(&client, epoch);
        }
    }
}

/// Writes back what was read lately, whatever is given up meanwhile; then what was answered before the
/// failover and taken note of after it.
async fn restore(backplane: Arc<dyn Backplane>, shared: Arc<Shared>) {
    for _ in 0..2 {
        let mut requests = shared.reads.lock().take();
        while !requests.is_empty() {
            let answers = backplane.execute(requests.clone()).await;
            let mut answers = answers.iter();
            requests.retain(|_| matches!(answers.next(), Some(Err(BackplaneError::Lost))));
        }
    }
}

fn hand_over(relayed: &[Relayed<'_>], events: &dyn ClusterEvents, held: Option<&Held>) {
    if relayed.is_empty() {
        return;
    }
    match held {
        Some(held) if relayed.iter().any(|message| message.share.is_some()) => {
            events.relayed_held(relayed, held.clone());
        }
        _ => events.relayed(relayed),
    }
}
