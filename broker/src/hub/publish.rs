//! From a read's worth of publishes to everybody who wants them.
//!
//! Sessions that are not stored, and QoS 0, get a run at once: encoded once per form, copied into
//! the bytes that wait for each connection. For stored sessions the message goes into their queue
//! first; the store's writer thread hands it on when it is durable ([`Commit`]), in the order of the
//! queue, and only then is the publisher told. Retained messages are set before the subscriptions
//! are matched, and subscribers are registered before they read the retained messages: a publish
//! beside a subscribe is seen by at least one of the two.

use std::sync::Arc;

use dunlin_protocol::QoS;
use dunlin_sync::{Appended, Batch, Committed, Op, StoreError};

use super::Hub;
use super::directory::Routes;
use super::session::{Pace, Session, SessionState};
use super::wake::{CloseRequest, Wake};
use crate::core::frames::{Frames, Incoming, Origin, keep};
use crate::core::outbound::Tally;
use crate::core::retained::Retained;
use crate::core::session::Wanted;

/// What the publishes of one read came to.
#[derive(Default)]
pub(crate) struct Outcome {
    /// To be durable before the publisher is acknowledged.
    pub(crate) ops: Vec<Op>,
    pub(crate) tally: Tally,
    /// A receiver that is behind: no more is to be read from the publisher for now.
    pub(crate) behind: Option<Arc<Session>>,
}

/// No session has this number: the publisher is the broker itself, or gone.
pub(crate) const NOBODY: u64 = u64::MAX;

impl Hub {
    /// Delivers a run of publishes that have the same receivers. `publisher` is the number of the
    /// publishing session. Gives back whether anybody wanted it.
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
        let mut wanted_by_any = false;
        for target in &routes.targets {
            if let Some(wanted) = target.wanted_from(publisher) {
                wanted_by_any = true;
                self.deliver(&target.session, wanted, &frames, outcome);
            }
        }
        for group in &routes.groups {
            for publish in run {
                let Some((session, wanted)) = group.pick(None, false) else {
                    continue;
                };
                wanted_by_any = true;
                let frames = Frames::new(std::slice::from_ref(publish), origin);
                self.deliver(&session, &wanted, &frames, outcome);
            }
        }
        wanted_by_any
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
        if let Some(store_id) = session.store_id
            && wanted.qos > QoS::AtMostOnce
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

    /// Whether a retained message of `size` bytes may be kept for `topic`.
    pub(crate) fn may_retain(&self, topic: &str, size: usize) -> bool {
        self.has_place(&self.retained.read(), topic, size)
    }

    fn has_place(&self, retained: &Retained, topic: &str, size: usize) -> bool {
        let fits = retained.bytes() + size as u64 <= self.limits.max_retained_bytes;
        fits && (retained.len() < self.limits.max_retained || retained.get(topic).is_some())
    }

    fn set_retained(&self, publish: &Incoming<'_>, origin: &Origin, outcome: &mut Outcome) {
        let topic = publish.topic.as_str();
        if publish.payload.is_empty() {
            if self.retained.write().remove(topic).is_some() {
                outcome.ops.push(Op::DeleteRetained(Box::from(topic)));
            }
            return;
        }
        let message = Arc::new(keep(publish, origin));
        let mut retained = self.retained.write();
        if !self.has_place(&retained, topic, message.size()) {
            self.metrics.retained_refused(1);
            return;
        }
        retained.set(message.clone());
        drop(retained);
        outcome.ops.push(Op::PutRetained(message));
    }

    /// Writes operations that nobody waits for; enqueued messages are handed on when durable.
    pub(crate) fn submit(self: &Arc<Self>, ops: Vec<Op>) -> dunlin_sync::Ticket {
        self.submit_for(ops, None)
    }

    /// Writes operations; `notify` is told when they are durable, under the number given.
    pub(crate) fn submit_for(
        self: &Arc<Self>,
        ops: Vec<Op>,
        notify: Option<(Arc<Wake>, u64)>,
    ) -> dunlin_sync::Ticket {
        let enqueues = ops.iter().any(|op| matches!(op, Op::Enqueue { .. }));
        if !enqueues && notify.is_none() {
            return self.store.submit(Batch::new(ops));
        }
        let commit = Commit {
            hub: self.clone(),
            notify,
        };
        self.store
            .submit(Batch::with_callback(ops, Box::new(commit)))
    }
}

/// Runs on the store's writer thread when a batch is durable.
struct Commit {
    hub: Arc<Hub>,
    notify: Option<(Arc<Wake>, u64)>,
}

impl Committed for Commit {
    fn committed(self: Box<Self>, appended: Vec<Appended>) {
        if !appended.is_empty() {
            let now_ms = self.hub.clock.now_ms();
            let mut tally = Tally::default();
            for appended in appended {
                if appended.is_dropped() {
                    continue;
                }
                let Some(session) = self.hub.stored_session(appended.session) else {
                    continue;
                };
                let mut state = session.lock();
                state
                    .delivering
                    .appended(appended, now_ms, &self.hub.queue_bounds, &mut tally);
                state.wake_if_needed();
            }
            self.hub.count(tally);
        }
        if let Some((wake, number)) = self.notify {
            wake.commit(number);
        }
    }

    fn failed(self: Box<Self>, error: &StoreError) {
        self.hub.store_failed(error);
        if let Some((wake, _)) = self.notify {
            wake.close(CloseRequest::StoreFailed);
        }
    }
}
