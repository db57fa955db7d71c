//! What the one replica that leads does for all.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use super::super::actor::Actor;
use super::super::inbox::{Inheritance, Position};
use super::super::keeper::{self, Reaped, Swept};
use super::super::outcome::{Answer, Outcome};
use super::{Phase, WILL_PATIENCE};

use crate::cluster::frame::{Kind, head};
use crate::cluster::{Backplane, Held, ReplicaId, Reply, Request};

/// Retained messages that are removed at once because they have expired.
const RETAINED_LIMIT: usize = 1024;

impl Actor {
    pub(in super::super) fn led(&mut self, answer: Answer) {
        self.member.leading = answer == Ok(Reply::Flag(true)) && self.member.phase == Phase::Ready;
        if !self.member.leading || self.is_closing() {
            return;
        }
        self.sweep();
        let now = Instant::now();
        // One that lives renews its lease within a second, even if Redis' clock has jumped over its end.
        let patience = 2 * self.options.renew_every;
        // A Redis that stalls again and again keeps nobody from renewing more often than this replica.
        let late = now < self.member.reap_after;
        let enough = self.options.renewals_of_a_lease();
        let lapsed = self.member.lapsed.iter();
        let dead: Vec<ReplicaId> = lapsed
            .filter(|(_, lapsed)| now >= lapsed.since + patience)
            .filter(|(_, lapsed)| !late || lapsed.renewals >= enough)
            .map(|(id, _)| *id)
            .collect();
        for dead in dead {
            if dead != self.replica && self.member.reaping.insert(dead) {
                let inherited = keeper::inherited(Arc::clone(&self.backplane), dead);
                self.expect(async move { Outcome::Inherits(dead, inherited.await) });
            }
        }
    }

    /// A dead replica may have been clearing away after others: that is inherited with it. Before
    /// anything is done everybody is told, so that this replica may die over it.
    pub(in super::super) fn inherits(&mut self, dead: ReplicaId, inherited: Vec<ReplicaId>) {
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

    pub(super) fn reap_announced(&mut self) {
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
            let after = self.member.inherited.get(&dead).copied();
            let backplane = Arc::clone(&self.backplane);
            let after = after.unwrap_or_default();
            let reaped = keeper::reap(backplane, self.replica, dead, known_dead, after);
            self.expect(async move { Outcome::Reaped(reaped.await) });
        }
    }

    pub(super) fn sweep(&mut self) {
        if !std::mem::replace(&mut self.member.sweeping, true) {
            let expired = self
                .events()
                .map(|events| events.expired_retained(RETAINED_LIMIT));
            let swept = keeper::sweep(
                Arc::clone(&self.backplane),
                self.replica,
                expired.unwrap_or_default(),
            );
            self.expect(async move { Outcome::Swept(swept.await) });
        }
    }

    pub(in super::super) fn swept(&mut self, swept: Swept) {
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

    pub(in super::super) fn reaped(&mut self, reaped: Reaped) {
        if reaped.again && !self.is_closing() {
            let next = self.member.renewals + 1;
            self.member.announced.push((next, reaped.replica, false));
            return;
        }
        let replica = reaped.replica;
        if !reaped.done {
            return self.forget_reaping(replica);
        }
        if !self.member.inherited.contains_key(&replica) {
            self.shared.counters.reaped.add(1);
            info!(
                replica = replica.0,
                redelivered = reaped.redeliver.len(),
                "a dead replica was cleared away"
            );
        }
        let events = self.events().filter(|_| !reaped.redeliver.is_empty());
        let Some(events) = events else {
            return self.drop_replica(replica, reaped.read_to);
        };
        self.member.inherited.insert(replica, reaped.read_to);
        let held = Held::new(Arc::new(Inheritance {
            shared: Arc::clone(&self.shared),
            heir: self.replica,
            of: replica,
        }));
        for (share, message) in reaped.redeliver {
            events.redeliver(&share, message, held.clone());
        }
    }

    /// What was found in a dead replica's inbox is safe elsewhere, or this replica itself was taken for dead
    /// (`heir` is false): then whoever clears away after it finds it there.
    pub(in super::super) fn inheritance_done(&mut self, of: ReplicaId, heir: bool) {
        if !heir {
            self.forget_reaping(of);
        } else if self.is_closing() {
            let read_to = self.member.inherited.get(&of).copied();
            self.drop_replica(of, read_to.unwrap_or_default());
        } else {
            // Something may have come in meanwhile from a replica that did not know.
            let next = self.member.renewals + 1;
            self.member.announced.push((next, of, true));
            self.member.renew_now();
        }
    }

    fn drop_replica(&mut self, replica: ReplicaId, read_to: Position) {
        let request = Request::DropReplica {
            replica,
            from: Some((read_to.0, read_to.1.saturating_add(1))),
        };
        self.ask(request, move |answer| Outcome::Dropped(replica, answer));
    }

    /// Everything of a dead replica is gone, unless something has come into its inbox after it was read.
    pub(in super::super) fn dropped(&mut self, replica: ReplicaId, answer: &Answer) {
        if *answer == Ok(Reply::Flag(true)) || self.is_closing() {
            self.forget_reaping(replica);
        } else if self.member.reaping.contains(&replica) {
            let next = self.member.renewals + 1;
            self.member.announced.push((next, replica, true));
        }
        self.member.renew_now();
    }

    fn forget_reaping(&mut self, replica: ReplicaId) {
        self.member.inherited.remove(&replica);
        self.member.reaping.remove(&replica);
        let reaping = self.member.reaping.len() as u64;
        self.shared.counters.reaping.set(reaping);
        self.member.info_changed = true;
    }
}

/// Gives the lease back, and clients that are still claimed; then says so. With something in the inbox that nobody
/// has read, from the position `unread` on, the lease is left to end: whoever clears away after this replica finds it.
pub(in super::super) async fn leave(
    backplane: Arc<dyn Backplane>,
    me: ReplicaId,
    clients: Vec<Arc<str>>,
    unread: Position,
    goodbye: Request,
) {
    let drop_own = Request::DropReplica {
        replica: me,
        from: Some(unread),
    };
    let empty = keeper::one(&*backplane, drop_own).await != Ok(Reply::Flag(false));
    let mut last = Vec::new();
    if empty {
        last.push(Request::Reap {
            replica: me,
            force: true,
        });
    }
    last.extend(clients.into_iter().map(|client_id| Request::Orphan {
        client_id,
        replica: me,
        head: head(Kind::Table, me),
    }));
    if empty {
        last.push(goodbye);
    }
    drop(backplane.execute(last).await);
}
