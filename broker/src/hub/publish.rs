//! From a read's worth of publishes to everybody who wants them.
//!
//! Sessions that are not stored, and QoS 0, get a run at once: encoded once per form, copied into
//! the bytes that wait for each connection. For stored sessions the message goes into their queue
//! first; the store's writer thread hands it on when it is durable ([`Commit`]), in the order of the
//! queue, and only then is the publisher told. Retained messages are set before the subscriptions
//! are matched, and subscribers are registered before they read the retained messages: a publish
//! beside a subscribe is seen by at least one of the two.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dunlin_protocol::QoS;
use dunlin_sync::cluster::{Held, Relayed, ReplicaId, Route};
use dunlin_sync::{Appended, Batch, Committed, MessageParts, Op, SessionId, StoreError};

use super::Hub;
use super::directory::Routes;
use super::session::{Pace, Session, SessionState};
use super::share::{MemberKey, Pick, Picked, ShareGroup};
use super::wake::Wake;
use crate::core::frames::{Frames, Incoming, Origin, keep};
use crate::core::outbound::Tally;
use crate::core::session::Wanted;

/// What the publishes of one read came to.
#[derive(Default)]
pub(crate) struct Outcome {
    /// To be durable before the publisher is acknowledged.
    pub(crate) ops: Vec<Op>,
    pub(crate) tally: Tally,
    /// A receiver that is behind: no more is to be read from the publisher for now.
    pub(crate) behind: Option<Arc<Session>>,
    /// The publisher is told only when every replica has applied what `ops` change in tables.
    pub(crate) barrier: bool,
    /// The publisher is told when a retained message of QoS 1 or 2 finds no place, and has not been: such a message is kept, even if
    /// somebody else has taken the last place since.
    pub(crate) has_place: bool,
}

/// No session has this number: the publisher is the broker itself, or gone.
pub(crate) const NOBODY: u64 = u64::MAX;

impl Hub {
    /// Delivers a run of publishes that have the same receivers, in the whole cluster. `publisher` is
    /// the number of the publishing session. Gives back whether anybody wanted it.
    pub(crate) fn publish_run(
        &self,
        publisher: u64,
        run: &[Incoming<'_>],
        origin: &Origin,
        routes: &Routes,
        outcome: &mut Outcome,
    ) -> bool {
        for publish in run.iter().filter(|publish| publish.retain) {
            self.set_retained(publish, origin, outcome);
        }
        if routes.is_empty() {
            return false;
        }
        let frames = Frames::new(run, origin);
        let mut wanted_by_any = self.deliver_here(publisher, &frames, routes, outcome);
        for target in &routes.stored {
            if let Some(wanted) = target.wanted_from(origin.publisher.as_deref()) {
                wanted_by_any = true;
                enqueue_stored(target.session.id, wanted, &frames, outcome);
            }
        }
        if !routes.taps.is_empty() {
            wanted_by_any = true;
            self.tap_run(&frames, &routes.taps, outcome);
        }
        for (replica, flags) in &routes.replicas {
            wanted_by_any = true;
            self.relay_run(*replica, *flags, &frames, outcome);
        }
        for group in &routes.groups {
            for publish in run {
                wanted_by_any |= self.publish_shared(group, None, publish, origin, outcome);
            }
        }
        wanted_by_any
    }

    /// Delivers a run to the sessions of this broker, but not through shared subscriptions.
    pub(super) fn deliver_here(
        &self,
        publisher: u64,
        frames: &Frames<'_, '_>,
        routes: &Routes,
        outcome: &mut Outcome,
    ) -> bool {
        let mut wanted_by_any = false;
        for target in &routes.targets {
            if let Some(wanted) = target.wanted_from(publisher) {
                wanted_by_any = true;
                self.deliver(&target.session, wanted, frames, outcome);
            }
        }
        wanted_by_any
    }

    /// Gives a publish to one member of a group; `false` if it has none that could take it.
    pub(super) fn publish_shared(
        &self,
        group: &ShareGroup,
        without: Option<MemberKey>,
        publish: &Incoming<'_>,
        origin: &Origin,
        outcome: &mut Outcome,
    ) -> bool {
        let picked = group.pick(&Pick {
            without,
            connected_only: false,
            here_only: false,
            qos: publish.qos,
            stored_here: &|id| self.stored_session(id),
        });
        let Some(picked) = picked else { return false };
        self.give(&picked, group.share(), publish, origin, outcome);
        true
    }

    /// Gives a publish to the member that was picked.
    pub(super) fn give(
        &self,
        picked: &Picked,
        share: &Arc<str>,
        publish: &Incoming<'_>,
        origin: &Origin,
        outcome: &mut Outcome,
    ) {
        let frames = Frames::new(std::slice::from_ref(publish), origin);
        match picked {
            Picked::Here {
                session,
                wanted,
                survived,
            } => match &self.cluster {
                // Nothing would be left of it if this replica died before the member has acknowledged.
                Some(cluster)
                    if *survived
                        && publish.held.is_none()
                        && publish.qos.min(wanted.qos) > QoS::AtMostOnce =>
                {
                    self.relay_shared(cluster.replica(), share, publish, &frames, outcome);
                }
                _ => self.deliver(session, wanted, &frames, outcome),
            },
            Picked::Stored(session, wanted) => {
                if publish.qos.min(wanted.qos) > QoS::AtMostOnce {
                    enqueue_stored(session.id, wanted, &frames, outcome);
                } else if let Some(here) = self.stored_session(session.id) {
                    self.deliver(&here, wanted, &frames, outcome);
                } else {
                    let owner = ReplicaId(session.owner.load(Ordering::Relaxed));
                    self.relay_shared(owner, share, publish, &frames, outcome);
                }
            }
            Picked::Replica(replica) => {
                self.relay_shared(*replica, share, publish, &frames, outcome);
            }
        }
    }

    /// Sends a run to another replica, by the lane that its interest asks for.
    fn relay_run(&self, to: ReplicaId, flags: u8, frames: &Frames<'_, '_>, outcome: &mut Outcome) {
        let Some(cluster) = &self.cluster else { return };
        let mut parts: Vec<Relayed<'_>> = Vec::new();
        for (index, publish) in frames.run().iter().enumerate() {
            if publish.qos > QoS::AtMostOnce && flags & Route::ACKNOWLEDGED != 0 {
                outcome.ops.push(Op::Relay {
                    to,
                    share: None,
                    message: frames.message(index),
                });
            } else if publish.qos == QoS::AtMostOnce || flags & Route::AT_MOST_ONCE != 0 {
                parts.push(Relayed {
                    message: parts_of(publish, frames.origin()),
                    share: None,
                });
            }
        }
        if !parts.is_empty() {
            cluster.relay(to, &parts);
        }
    }

    fn relay_shared(
        &self,
        to: ReplicaId,
        share: &Arc<str>,
        publish: &Incoming<'_>,
        frames: &Frames<'_, '_>,
        outcome: &mut Outcome,
    ) {
        if publish.qos > QoS::AtMostOnce {
            outcome.ops.push(Op::Relay {
                to,
                share: Some(share.clone()),
                message: frames.message(0),
            });
        } else if let Some(cluster) = &self.cluster {
            let message = parts_of(publish, frames.origin());
            cluster.relay(
                to,
                &[Relayed {
                    message,
                    share: Some(share),
                }],
            );
        }
    }

    pub(super) fn deliver(
        &self,
        session: &Arc<Session>,
        wanted: &Wanted,
        frames: &Frames<'_, '_>,
        outcome: &mut Outcome,
    ) {
        let bounds = &self.queue_bounds;
        let mut state = session.lock();
        if state.ended {
            return;
        }
        // In a cluster every persistent session gets these through its queue, wherever it is.
        if let Some(store_id) = session.store_id
            && wanted.qos > QoS::AtMostOnce
            && self.cluster.is_none()
        {
            for (index, publish) in frames.run().iter().enumerate() {
                if publish.qos == QoS::AtMostOnce {
                    continue;
                }
                let message = frames.message(index);
                if !state.delivering.outbound.admit(message.size(), bounds) {
                    outcome.tally.dropped_queue += 1;
                    continue;
                }
                let delivery = wanted.delivery(publish.qos, publish.retain);
                outcome.ops.push(Op::Enqueue {
                    session: store_id,
                    delivery,
                    message,
                    once: None,
                });
            }
        }
        state
            .delivering
            .deliver_run(frames, wanted, bounds, &mut outcome.tally);
        self.after_delivery(&state);
        if wanted.qos > QoS::AtMostOnce && self.is_behind(session, &mut state, frames.now_ms()) {
            outcome.behind = Some(session.clone());
        }
    }

    /// Whether publishers to `session` are to be held back; see [`Pace`].
    pub(crate) fn is_behind(
        &self,
        session: &Session,
        state: &mut SessionState,
        now_ms: u64,
    ) -> bool {
        match state.pace(now_ms) {
            Pace::Keeping => false,
            Pace::Behind => true,
            Pace::BecameSlow => {
                self.metrics.slow_receiver();
                tracing::warn!(client = %session.client_id, queued = state.delivering.outbound.queued().0, "client takes its messages too slowly: at its queue's bound they are dropped");
                false
            }
        }
    }

    fn after_delivery(&self, state: &SessionState) {
        let (Some(link), Some(wake)) = (&state.delivering.link, &state.wake) else {
            return;
        };
        if link.out.is_empty() {
            return;
        }
        wake.wake();
        if !state.blocked && link.out.len() > self.congestion_bytes && wake.mark_congested() {
            self.congested
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn set_retained(&self, publish: &Incoming<'_>, origin: &Origin, outcome: &mut Outcome) {
        let topic = publish.topic.as_str();
        if publish.payload.is_empty() {
            // In a cluster the tree follows the table, as it changes; what is under way may be there soon.
            let there = match self.cluster {
                Some(_) => true,
                None => self.retained.write().remove(topic).is_some(),
            };
            if there {
                outcome.barrier |= publish.qos > QoS::AtMostOnce;
                outcome.ops.push(Op::DeleteRetained(Box::from(topic)));
            }
            return;
        }
        let message = Arc::new(keep(publish, origin));
        let mut retained = self.retained.write();
        let promised = outcome.has_place && publish.qos > QoS::AtMostOnce;
        if !promised && let Err(full) = self.has_place(&retained, topic, message.size(), (0, 0)) {
            self.refuse_retained(&full);
            return;
        }
        if self.cluster.is_none() {
            retained.set(message.clone());
        }
        drop(retained);
        outcome.barrier |= publish.qos > QoS::AtMostOnce;
        outcome.ops.push(Op::PutRetained(message));
    }

    /// Writes operations that nobody waits for; enqueued messages are handed on when durable.
    pub(crate) fn submit(self: &Arc<Self>, ops: Vec<Op>) -> dunlin_sync::Ticket {
        self.submit_for(ops, None, Waiting::default())
    }

    /// Writes operations; `notify` is told when they are durable, under the number given.
    pub(crate) fn submit_for(
        self: &Arc<Self>,
        ops: Vec<Op>,
        notify: Option<(Arc<Wake>, u64)>,
        waiting: Waiting,
    ) -> dunlin_sync::Ticket {
        let enqueues = ops.iter().any(|op| matches!(op, Op::Enqueue { .. }));
        if !enqueues && notify.is_none() {
            return self.store.submit(Batch::new(ops));
        }
        let commit = Commit {
            hub: self.clone(),
            notify,
            held: Vec::new(),
            again: None,
            then: None,
        };
        let mut batch = Batch::with_callback(ops, Box::new(commit));
        batch.barrier = waiting.barrier;
        batch.keep = waiting.keep;
        self.store.submit(batch)
    }

    /// Writes operations for messages that this replica has to pass on, whatever happens to it meanwhile: they
    /// were acknowledged to their publishers. Those that are `held` others would find in its inbox if it died.
    pub(super) fn submit_owed(self: &Arc<Self>, ops: Vec<Op>, held: Vec<Held>) {
        if ops.is_empty() {
            return;
        }
        let commit = Commit {
            hub: self.clone(),
            notify: None,
            again: (held.iter().all(Held::is_owed) && self.cluster.is_some()).then(|| ops.clone()),
            held,
            then: None,
        };
        let mut batch = Batch::with_callback(ops, Box::new(commit));
        batch.keep = true;
        self.store.submit(batch);
    }

    /// Tries again what could not be written, unless this replica is cut off still.
    pub(super) fn write_owed(self: &Arc<Self>) {
        if self.known.is_suspended() {
            return;
        }
        for (ops, held) in self.known.take_owed() {
            self.submit_owed(ops, held);
        }
    }

    /// Writes operations that nobody waits for, and when they are durable one that must not be without them.
    pub(super) fn submit_then(self: &Arc<Self>, ops: Vec<Op>, then: Op) -> dunlin_sync::Ticket {
        let commit = Commit {
            hub: self.clone(),
            notify: None,
            held: Vec::new(),
            again: None,
            then: Some(then),
        };
        self.store
            .submit(Batch::with_callback(ops, Box::new(commit)))
    }

    /// Writes operations and waits as [`Self::submit_for`] says; `false`: the store refused them.
    pub(crate) async fn submit_and_wait(self: &Arc<Self>, ops: Vec<Op>, barrier: bool) -> bool {
        let (done, told) = tokio::sync::oneshot::channel();
        let mut batch = Batch::with_callback(ops, Box::new(Told(done)));
        batch.barrier = barrier;
        let _ticket = self.store.submit(batch);
        told.await.unwrap_or(false)
    }

    /// A message was appended to the queue of a stored session whose client is connected here.
    pub(crate) fn appended(&self, appended: Appended, tally: &mut Tally) {
        let Some(session) = self.stored_session(appended.session) else {
            return;
        };
        let mut state = session.lock();
        state
            .delivering
            .appended(appended, self.clock.now_ms(), &self.queue_bounds, tally);
        state.wake_if_needed();
    }
}

/// Tells a task that waits for a batch of its own; nothing in it is delivered here.
struct Told(tokio::sync::oneshot::Sender<bool>);

impl Committed for Told {
    fn committed(self: Box<Self>, _appended: Vec<Appended>) {
        // An error means that nobody waits any more.
        let _nobody_waits = self.0.send(true).is_err();
    }

    fn failed(self: Box<Self>, _error: &StoreError) {
        let _nobody_waits = self.0.send(false).is_err();
    }
}

/// Puts a run into the queue of a persistent session of the cluster. The bound of the queue is
/// looked at where the queue is.
fn enqueue_stored(
    session: SessionId,
    wanted: &Wanted,
    frames: &Frames<'_, '_>,
    outcome: &mut Outcome,
) {
    for (index, publish) in frames.run().iter().enumerate() {
        let delivery = wanted.delivery(publish.qos, publish.retain);
        if delivery.qos == QoS::AtMostOnce {
            continue;
        }
        outcome.ops.push(Op::Enqueue {
            session,
            delivery,
            message: frames.message(index),
            once: publish.once,
        });
    }
}

fn parts_of<'p>(publish: &'p Incoming<'_>, origin: &Origin) -> MessageParts<'p> {
    MessageParts {
        topic: publish.topic.as_str(),
        properties: publish.properties.as_bytes(),
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        expires_at: publish.expires_at(origin),
        received_at: origin.received_at,
        publisher: origin.publisher.clone(),
        id: 0,
    }
}

/// How a connection waits for what it has handed in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Waiting {
    /// Until every replica has applied what it changes in tables.
    pub(crate) barrier: bool,
    /// However long this replica is cut off: see [`Batch::keep`].
    pub(crate) keep: bool,
}

/// Runs on the store's writer thread when a batch is durable.
struct Commit {
    hub: Arc<Hub>,
    notify: Option<(Arc<Wake>, u64)>,
    /// Let go of when the batch is durable.
    held: Vec<Held>,
    /// Written later, if this fails: when this replica is taken for dead before, by its next life.
    again: Option<Vec<Op>>,
    /// Written when the batch is durable.
    then: Option<Op>,
}

impl Committed for Commit {
    fn committed(self: Box<Self>, appended: Vec<Appended>) {
        if !appended.is_empty() {
            let mut tally = Tally::default();
            for appended in appended
                .into_iter()
                .filter(|appended| !appended.is_dropped())
            {
                self.hub.appended(appended, &mut tally);
            }
            self.hub.count(tally);
        }
        if let Some(then) = self.then {
            self.hub.submit(vec![then]);
        }
        if let Some((wake, number)) = self.notify {
            wake.commit(number);
        }
    }

    fn failed(self: Box<Self>, error: &StoreError) {
        match self.again {
            // Nothing is given up, and it may fail again every second.
            Some(ops) => {
                tracing::debug!(%error, "shared messages could not be passed on, and will be");
                self.hub.known.owe(ops, self.held);
            }
            None => self.hub.commit_failed(error),
        }
        if let Some((wake, _)) = self.notify {
            wake.close(self.hub.failed_request());
        }
    }

    fn is_wanted(&self) -> bool {
        let Some((wake, _)) = &self.notify else {
            return true;
        };
        wake.close_request().is_none() && !wake.is_gone()
    }
}
