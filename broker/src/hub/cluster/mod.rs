//! This broker as a replica of a cluster: what it learns from the others.

mod claim;
pub(crate) mod routes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::hash::RandomState;
use dunlin_protocol::SubscribeOptions;
use dunlin_sync::cluster::{
    Bucket, ClusterEvents, Epoch, Held, Relayed, ReplicaId, Route, SessionEntry, TakenWill,
};
use dunlin_sync::{Appended, Message, Op, SessionId, WillRecord};
use parking_lot::Mutex;

use self::routes::OwnRoutes;
use super::Hub;
use super::directory::StoredSession;
use super::moving::is_word;
use super::publish::{NOBODY, Outcome};
use super::session::Subscription;
use super::share::{MemberKey, Pick};
use super::wake::CloseRequest;
use crate::core::frames::{
    Forwarded, Frames, Incoming, Origin, Topic, is_expired, remaining_expiry,
};
use crate::core::outbound::Tally;
use crate::core::session::Wanted;

/// Batches that are kept for the next life of this replica.
const OWED_MAX: usize = 4096;

/// What this replica knows of the cluster beside its directory.
#[derive(Default)]
pub(crate) struct Known {
    /// What its own sessions want.
    pub(crate) routes: OwnRoutes,
    tables: Mutex<Tables>,
    /// Clients whose claim is under way here, and the newest claim of theirs that was let go of meanwhile:
    /// word of a newer claim may come before the answer to the older one.
    claiming: Mutex<HashMap<Arc<str>, Epoch, RandomState>>,
    /// Promises cannot be kept now.
    suspended: AtomicBool,
    /// What this replica had to write when it was taken for dead or Redis refused it; [`OWED_MAX`] at the most.
    owed: Mutex<Vec<(Vec<Op>, Vec<Held>)>>,
}

impl Known {
    /// Keeps what has failed, because this replica was taken for dead or Redis refused it, to be written when that is over.
    /// Who waits for it meanwhile waits on.
    pub(super) fn owe(&self, ops: Vec<Op>, held: Vec<Held>) {
        let mut owed = self.owed.lock();
        // What somebody waits for is bounded by what publishers may have under way, and must not seem to be safe.
        if owed.len() < OWED_MAX || !held.is_empty() {
            owed.push((ops, held));
        } else {
            tracing::error!(
                messages = ops.len(),
                "shared messages are lost: too many are to be passed on while this replica cannot write"
            );
        }
    }

    pub(super) fn take_owed(&self) -> Vec<(Vec<Op>, Vec<Held>)> {
        std::mem::take(&mut *self.owed.lock())
    }

    /// Whether this replica is cut off for so long that it has stopped to acknowledge.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }
}

#[derive(Default)]
struct Tables {
    sessions: HashMap<SessionId, Entry, RandomState>,
    by_client: HashMap<Arc<str>, SessionId, RandomState>,
    /// Filters of other replicas, to be removed with them.
    routes: BTreeMap<ReplicaId, HashMap<Arc<str>, Route, RandomState>>,
}

struct Entry {
    session: Arc<StoredSession>,
    subscriptions: Box<[(Box<str>, Subscription)]>,
}

impl Hub {
    /// Persistent sessions of the cluster.
    pub(super) fn cluster_sessions_len(&self) -> usize {
        self.known.tables.lock().sessions.len()
    }

    pub(super) fn knows_stored(&self, client_id: &str) -> bool {
        self.known.tables.lock().by_client.contains_key(client_id)
    }

    fn entry(&self, id: SessionId) -> Option<Arc<StoredSession>> {
        let tables = self.known.tables.lock();
        tables.sessions.get(&id).map(|entry| entry.session.clone())
    }

    /// How a persistent session wants the messages of a shared subscription; `None`: it is no member.
    pub(super) fn wanted_by_stored(&self, id: SessionId, share: &str) -> Option<Wanted> {
        let group = self.directory.group(share)?;
        let tables = self.known.tables.lock();
        let mut subscriptions = tables.sessions.get(&id)?.subscriptions.iter();
        let (_, subscription) = subscriptions.find(|(filter, _)| **filter == *share)?;
        Some(group.wanted(*subscription))
    }

    /// Publishes a will that is this replica's to publish. It is forgotten in the same batch as what it
    /// leads to, and everything it leads to carries its epoch: whoever repeats it, receivers get it once.
    pub(super) fn publish_taken_will(self: &Arc<Self>, will: &WillRecord) {
        self.metrics.will_published();
        let origin = Origin {
            received_at: self.clock.now_us(),
            publisher: Some(will.client_id.clone()),
        };
        let bucket = Bucket::of(&will.client_id);
        let run = [Incoming {
            // Each will is a publisher of its own: an older one may be published after a newer one.
            once: Some((u64::MAX - (u64::from(bucket.0) << 32 | will.epoch), 1)),
            ..Incoming::from_message(&will.message, will.expiry_interval)
        }];
        let mut outcome = Outcome::default();
        let routes = self.directory.routes(will.message.topic());
        self.publish_run(NOBODY, &run, &origin, &routes, &mut outcome);
        self.count(outcome.tally);
        outcome.ops.push(Op::DeleteWillOf {
            client_id: will.client_id.clone(),
            epoch: Epoch(will.epoch),
        });
        self.submit(outcome.ops);
    }

    fn relayed_run(&self, run: &[Incoming<'_>], origin: &Origin) {
        let Some(first) = run.first() else { return };
        let routes = self.directory.routes(first.topic.as_str());
        let mut outcome = Outcome::default();
        self.deliver_here(NOBODY, &Frames::new(run, origin), &routes, &mut outcome);
        self.count(outcome.tally);
    }

    /// Delivers what other replicas have sent for sessions that are connected here. `held` keeps what is for
    /// members of shared groups in this replica's inbox until it is acknowledged, or safe elsewhere.
    fn relayed(self: &Arc<Self>, messages: &[Relayed<'_>], held: Option<Held>) {
        let now_ms = self.clock.now_ms();
        let mut run: Vec<Incoming<'_>> = Vec::new();
        let mut origin = Origin {
            received_at: 0,
            publisher: None,
        };
        let mut outcome = Outcome::default();
        for Relayed { message, share } in messages {
            if message.expires_at.is_some_and(|at| at <= now_ms) {
                continue;
            }
            let expiry = message
                .expires_at
                .map(|at| at.saturating_sub(now_ms).div_ceil(1000))
                .map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
            let publish = Incoming {
                topic: Topic::Borrowed(message.topic),
                qos: message.qos,
                retain: message.retain,
                properties: Forwarded::Borrowed(message.properties),
                expiry,
                payload: message.payload,
                once: None,
                held: held.clone().filter(|_| share.is_some()),
                received: None,
            };
            let same = run
                .first()
                .is_some_and(|first| first.topic.as_str() == message.topic)
                && origin.publisher == message.publisher
                && share.is_none();
            if !same {
                self.relayed_run(&run, &origin);
                run.clear();
                origin = Origin {
                    // Counted from now, as the expiry is.
                    received_at: self.clock.now_us(),
                    publisher: message.publisher.clone(),
                };
            }
            match share {
                Some(share) => self.relayed_shared(share, &publish, &origin, &mut outcome),
                None => run.push(publish),
            }
        }
        self.relayed_run(&run, &origin);
        self.count(outcome.tally);
        self.submit_owed(outcome.ops, held.into_iter().collect());
    }

    /// Gives a message that came for one member of a group here to it.
    fn relayed_shared(
        &self,
        share: &str,
        publish: &Incoming<'_>,
        origin: &Origin,
        outcome: &mut Outcome,
    ) {
        let Some(group) = self.directory.group(share) else {
            return;
        };
        let picked = group.pick(&Pick {
            without: None,
            connected_only: true,
            here_only: true,
            qos: publish.qos,
            stored_here: &|id| self.stored_session(id),
        });
        match picked {
            Some(picked) => self.give(&picked, group.share(), publish, origin, outcome),
            // The members here have left meanwhile.
            None => {
                let me = self.cluster.as_ref().map(|cluster| cluster.replica());
                let me = me.map(MemberKey::Replica);
                self.publish_shared(&group, me, publish, origin, outcome);
            }
        }
    }

    fn close_stored(&self, request: CloseRequest) {
        let sessions: Vec<_> = self.stored.read().values().cloned().collect();
        for session in sessions {
            if let Some(wake) = &session.lock().wake {
                wake.close(request);
            }
        }
    }
}

/// The hub as the cluster's engine sees it; does not keep it alive.
pub(crate) struct Events(pub(crate) std::sync::Weak<Hub>);

impl Events {
    fn with(&self, act: impl FnOnce(&Arc<Hub>)) {
        if let Some(hub) = self.0.upgrade() {
            act(&hub);
        }
    }
}

impl ClusterEvents for Events {
    fn relayed(&self, messages: &[Relayed<'_>]) {
        self.with(|hub| hub.relayed(messages, None));
    }

    fn relayed_held(&self, messages: &[Relayed<'_>], held: Held) {
        self.with(|hub| hub.relayed(messages, Some(held)));
    }

    fn woken(&self, appended: Appended) {
        self.with(|hub| {
            let mut tally = Tally::default();
            hub.appended(appended, &mut tally);
            hub.count(tally);
        });
    }

    fn queue_grown(&self, session: SessionId, tail: u64) {
        self.with(|hub| {
            if let Some(session) = hub.stored_session(session) {
                let mut state = session.lock();
                state.delivering.outbound.grown(tail);
                if let Some(wake) = &state.wake {
                    wake.wake();
                }
            }
        });
    }

    fn queues_may_have_grown(&self) {
        self.with(|hub| {
            let sessions: Vec<_> = hub.stored.read().values().cloned().collect();
            for session in sessions {
                let mut state = session.lock();
                state.delivering.outbound.may_have_grown();
                if let Some(wake) = &state.wake {
                    wake.wake();
                }
            }
        });
    }

    fn queues_restored(&self) {
        self.with(|hub| {
            let sessions: Vec<_> = hub.stored.read().values().cloned().collect();
            for session in sessions {
                let mut state = session.lock();
                state.delivering.outbound.may_be_restored();
                if let Some(wake) = &state.wake {
                    wake.wake();
                }
            }
        });
    }

    fn session_changed(&self, entry: &SessionEntry) {
        self.with(|hub| {
            let mut tables = hub.known.tables.lock();
            let known = tables.sessions.get(&entry.id);
            let session = known.map_or_else(
                || {
                    Arc::new(StoredSession {
                        id: entry.id,
                        client_id: entry.client_id.clone(),
                        owner: AtomicU64::new(0),
                    })
                },
                |known| known.session.clone(),
            );
            session.owner.store(entry.owner.0, Ordering::Relaxed);
            let subscriptions: Box<[(Box<str>, Subscription)]> = entry
                .subscriptions
                .iter()
                .filter(|record| !is_word(&record.filter))
                .filter_map(|record| {
                    let options = SubscribeOptions::from_byte(record.options).ok()?;
                    let subscription = Subscription {
                        options,
                        identifier: record.identifier,
                    };
                    Some((record.filter.clone(), subscription))
                })
                .collect();
            let before = known.map_or(&[][..], |known| &known.subscriptions);
            for (filter, _) in before {
                if !subscriptions.iter().any(|(now, _)| now == filter) {
                    hub.directory.unsubscribe_stored(entry.id, filter);
                }
            }
            for (filter, subscription) in &subscriptions {
                if !before.contains(&(filter.clone(), *subscription)) {
                    hub.directory
                        .subscribe_stored(&session, filter, *subscription);
                }
            }
            let fresh = tables.by_client.insert(entry.client_id.clone(), entry.id);
            if fresh.is_none() {
                hub.tenants.session_stored(&entry.client_id, true);
            }
            tables.sessions.insert(
                entry.id,
                Entry {
                    session,
                    subscriptions,
                },
            );
        });
    }

    fn session_owned(&self, session: SessionId, owner: ReplicaId) {
        self.with(|hub| {
            if let Some(session) = hub.entry(session) {
                session.owner.store(owner.0, Ordering::Relaxed);
            }
        });
    }

    fn session_deleted(&self, session: SessionId) {
        self.with(|hub| {
            let mut tables = hub.known.tables.lock();
            let Some(entry) = tables.sessions.remove(&session) else {
                return;
            };
            if tables.by_client.get(&entry.session.client_id) == Some(&session) {
                tables.by_client.remove(&entry.session.client_id);
                hub.tenants.session_stored(&entry.session.client_id, false);
            }
            for (filter, _) in &entry.subscriptions {
                hub.directory.unsubscribe_stored(session, filter);
            }
        });
    }

    fn retained_changed(&self, message: Arc<Message>) {
        self.with(|hub| {
            if !hub.tap_changed(&message) {
                hub.retained.write().set(message);
            }
        });
    }

    fn retained_deleted(&self, topic: &str) {
        self.with(|hub| {
            if !hub.tap_deleted(topic) {
                hub.retained.write().remove(topic);
            }
        });
    }

    fn expired_retained(&self, limit: usize) -> Vec<Arc<str>> {
        let mut expired = Vec::new();
        self.with(|hub| {
            let now_ms = hub.clock.now_ms();
            let retained = hub.retained.read();
            expired.extend(retained.expired(now_ms).take(limit).map(Arc::from));
        });
        expired
    }

    fn routes_changed(&self, replica: ReplicaId, changes: &[(Arc<str>, Route)]) {
        self.with(|hub| {
            let mut tables = hub.known.tables.lock();
            let known = tables.routes.entry(replica).or_default();
            for (filter, route) in changes {
                if route.is_empty() {
                    known.remove(filter);
                } else {
                    known.insert(filter.clone(), *route);
                }
                hub.directory.set_route(replica, filter, *route);
            }
        });
    }

    fn replica_gone(&self, replica: ReplicaId) {
        self.with(|hub| {
            let routes = hub.known.tables.lock().routes.remove(&replica);
            for filter in routes.unwrap_or_default().keys() {
                hub.directory.set_route(replica, filter, Route::default());
            }
        });
    }

    fn let_go(&self, client_id: &str, epoch: Epoch) {
        self.with(|hub| {
            if let Some(known) = hub.known.claiming.lock().get_mut(client_id) {
                *known = epoch.max(*known);
            }
            if let Some(session) = hub.session(client_id) {
                let state = session.lock();
                if state.epoch <= epoch.0
                    && let Some(wake) = &state.wake
                {
                    wake.close(CloseRequest::ClaimedElsewhere);
                }
            }
        });
    }

    fn fenced(&self, session: SessionId) {
        self.with(|hub| {
            if let Some(session) = hub.stored_session(session)
                && let Some(wake) = &session.lock().wake
            {
                wake.close(CloseRequest::ClaimedElsewhere);
            }
        });
    }

    fn will_due(&self, will: TakenWill) {
        self.with(|hub| hub.publish_taken_will(&will.record));
    }

    fn redeliver(&self, share: &str, message: Arc<Message>, held: Held) {
        self.with(|hub| {
            let now_ms = hub.clock.now_ms();
            if is_expired(&message, now_ms) {
                return;
            }
            let Some(group) = hub.directory.group(share) else {
                return;
            };
            let origin = Origin {
                received_at: message.received_at(),
                publisher: message.publisher().map(Arc::from),
            };
            let publish = Incoming::from_message(&message, remaining_expiry(&message, now_ms));
            let mut outcome = Outcome::default();
            hub.publish_shared(&group, None, &publish, &origin, &mut outcome);
            hub.count(outcome.tally);
            hub.submit_owed(outcome.ops, vec![held]);
        });
    }

    fn suspended(&self, why: &str) {
        self.with(|hub| {
            tracing::warn!(why, "promises cannot be kept now: clients with persistent sessions are disconnected, nothing is acknowledged");
            hub.known.suspended.store(true, Ordering::Release);
            hub.health.set_cluster_suspended(Some(why));
            hub.close_stored(CloseRequest::Suspended);
        });
    }

    fn resumed(&self, anew: bool) {
        self.with(|hub| {
            tracing::warn!(anew, "promises can be kept again");
            if anew {
                // Before anything looks as usual to them.
                let connections: Vec<_> = hub.connections.lock().values().cloned().collect();
                for wake in connections {
                    wake.close(CloseRequest::TakenForDead);
                }
            }
            hub.known.suspended.store(false, Ordering::Release);
            hub.health.set_cluster_suspended(None);
            if anew {
                hub.submit(hub.known.routes.all());
                hub.submit(hub.taps.known());
            } else {
                // They may hold publishes.
                let connections: Vec<_> = hub.connections.lock().values().cloned().collect();
                for wake in connections {
                    wake.wake();
                }
            }
            hub.write_owed();
        });
    }
}
