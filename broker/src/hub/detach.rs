//! A connection lets go of its session; a session ends; a will is published.

use std::sync::Arc;

use dunlin_protocol::QoS;
use dunlin_sync::cluster::Held;
use dunlin_sync::{Message, Op, QueueEntry, WillRecord};

use super::Hub;
use super::attach::{expires_at, session_record};
use super::publish::{NOBODY, Outcome};
use super::session::{Session, SessionState, Will};
use super::share::{MemberKey, Pick, Picked, ShareGroup};
use super::timers::Timer;
use super::wake::Wake;
use crate::core::frames::{Frames, Incoming, Origin, is_expired};
use crate::core::outbound::{Shared, Tally};

/// How a connection ended, as far as its session is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    /// The will is to be published: the client did not say goodbye with reason 0x00.
    pub(crate) will: bool,
    /// A new Session Expiry Interval from DISCONNECT.
    pub(crate) expiry_interval: Option<u32>,
    /// Another replica has the client id now, and with it everything that was stored.
    pub(crate) claimed_elsewhere: bool,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its expiry interval has passed, or it was not to outlive its connection.
    Expired,
    /// Its client asked for a clean start.
    Discarded,
}

/// Entries read from a stored queue at a time when its shared messages move to other members.
pub(super) const MOVE_PORTION: usize = 256;

impl Hub {
    /// The connection is over: its session waits for the client's return, or ends.
    pub(crate) fn detach(
        self: &Arc<Self>,
        session: &Arc<Session>,
        wake: &Arc<Wake>,
        departure: Departure,
    ) {
        let now_ms = self.clock.now_ms();
        let mut ops = Vec::new();
        let mut tally = Tally::default();
        let mut state = session.lock();
        if !state
            .wake
            .as_ref()
            .is_some_and(|mine| Arc::ptr_eq(mine, wake))
        {
            drop(state);
            wake.set_gone();
            return;
        }
        if wake.clear_congested() {
            self.congested
                .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
        if self.cluster.is_some() {
            drop(state);
            return self.detach_claimed(session, wake, departure);
        }
        self.store_backlog(session, &mut state, &mut ops, &mut tally);
        state.delivering.link = None;
        state.delivering.outbound.detach();
        ops.append(&mut state.delivering.ops);
        if let Some(expiry_interval) = departure.expiry_interval {
            state.expiry_interval = expiry_interval;
        }
        if !departure.will && state.will.take().is_some() {
            ops.push(Op::DeleteWill {
                client_id: session.client_id.clone(),
            });
        }
        let ends = state.expiry_interval == 0;
        let mut will_now = None;
        if !ends {
            self.put_away(session, &mut state, now_ms, &mut ops, &mut will_now);
        }
        let shares = !ends
            && state
                .subscriptions
                .keys()
                .any(|filter| filter.starts_with("$share/"));
        drop(state);
        self.count(tally);
        if !ops.is_empty() {
            let ticket = self.submit(ops);
            session.lock().last_ticket = ticket;
        }
        if let Some(will) = will_now {
            self.publish_will(session, &will);
        }
        if ends {
            self.end_session(session, Ending::Expired);
        }
        self.connection_ended(session, wake);
        if shares {
            self.spawn_move_shared(session);
        }
    }

    /// The last step of a connection's end. Until here the session counts as connected: a new connection of its
    /// client waits, and finds the session put away or gone, never halfway.
    pub(super) fn connection_ended(&self, session: &Session, wake: &Wake) {
        self.leave(session);
        session.lock().wake = None;
        wake.set_gone();
    }

    /// The session outlives its connection: its end and its will are arranged.
    fn put_away(
        &self,
        session: &Arc<Session>,
        state: &mut SessionState,
        now_ms: u64,
        ops: &mut Vec<Op>,
        will_now: &mut Option<Box<Will>>,
    ) {
        ops.extend(session_record(session, state, Some(now_ms)));
        let end = expires_at(now_ms, state.expiry_interval);
        state.expiry_timer =
            end.map(|end| self.timers.arm(end, Timer::SessionExpiry(session.clone())));
        let Some(delay) = state.will.as_ref().map(|will| will.delay) else {
            return;
        };
        if delay == 0 {
            *will_now = state.will.take();
            return;
        }
        // [MQTT-3.1.2-8]: at the end of the delay or of the session, whichever is first.
        let due = now_ms + u64::from(delay.min(state.expiry_interval)) * 1000;
        if let Some(will) = &state.will {
            ops.push(Op::PutWill(WillRecord {
                client_id: session.client_id.clone(),
                session: session.store_id,
                epoch: state.epoch,
                delay,
                due_at: Some(due),
                expiry_interval: will.expiry,
                message: will.message.clone(),
            }));
        }
        state.will_timer = Some(self.timers.arm(due, Timer::Will(session.clone())));
    }

    /// Ends a session that has no connection: its will is published if it still waits, what it has
    /// not acknowledged of shared subscriptions goes to other members, the rest is forgotten.
    pub(crate) fn end_session(self: &Arc<Self>, session: &Arc<Session>, _why: Ending) {
        let (subscriptions, will, shared) = {
            let mut state = session.lock();
            if state.ended {
                return;
            }
            state.ended = true;
            self.timers.disarm(state.expiry_timer.take());
            self.timers.disarm(state.will_timer.take());
            let shared = state.delivering.outbound.take_shared();
            (
                std::mem::take(&mut state.subscriptions),
                state.will.take(),
                shared,
            )
        };
        for filter in subscriptions.keys() {
            self.directory.unsubscribe(session, filter);
        }
        self.remove_session(session);
        if let Some(will) = will {
            self.publish_will(session, &will);
        }
        if !shared.is_empty() {
            self.redistribute(session, shared);
        }
        let Some(store_id) = session.store_id else {
            return;
        };
        if subscriptions
            .keys()
            .any(|filter| filter.starts_with("$share/"))
        {
            let hub = self.clone();
            let session = session.clone();
            self.spawn(async move {
                hub.move_shared(&session).await;
                hub.submit(vec![Op::DeleteSession(store_id)]);
            });
        } else {
            self.submit(vec![Op::DeleteSession(store_id)]);
        }
    }

    /// Publishes a will; it is deleted in the same atomic write as what it leads to, so that it is
    /// published once whatever happens.
    pub(crate) fn publish_will(self: &Arc<Self>, session: &Arc<Session>, will: &Will) {
        self.metrics.will_published();
        let origin = Origin {
            received_at: self.clock.now_us(),
            // With its device, if it has one.
            publisher: will
                .message
                .publisher()
                .map(Arc::from)
                .or_else(|| Some(session.client_id.clone())),
        };
        let run = [Incoming::from_message(&will.message, will.expiry)];
        let mut outcome = Outcome::default();
        let routes = self.directory.routes(will.message.topic());
        self.publish_run(session.number, &run, &origin, &routes, &mut outcome);
        self.count(outcome.tally);
        outcome.ops.push(Op::DeleteWill {
            client_id: session.client_id.clone(),
        });
        self.submit(outcome.ops);
    }

    /// Gives messages of shared subscriptions that a session did not acknowledge to other members.
    pub(super) fn redistribute(self: &Arc<Self>, from: &Arc<Session>, messages: Vec<Shared>) {
        let now_ms = self.clock.now_ms();
        let mut outcome = Outcome::default();
        let mut kept = Vec::new();
        for Shared {
            message,
            delivery,
            held,
        } in messages
        {
            let Some(share) = &delivery.share else {
                continue;
            };
            let Some(group) = self.directory.group(share) else {
                continue;
            };
            if !is_expired(&message, now_ms) {
                let from = MemberKey::Here(from.number);
                let picked = self.pick_other(&group, from, false, &message);
                if let Some(picked) = picked {
                    self.pass_on(&picked, group.share(), &message, held.clone(), &mut outcome);
                    kept.extend(held);
                }
            }
        }
        self.count(outcome.tally);
        self.submit_owed(outcome.ops, kept);
    }

    pub(super) fn pick_other(
        &self,
        group: &ShareGroup,
        without: MemberKey,
        connected_only: bool,
        message: &Message,
    ) -> Option<Picked> {
        group.pick(&Pick {
            without: Some(without),
            connected_only,
            here_only: false,
            qos: message.qos(),
            stored_here: &|id| self.stored_session(id),
        })
    }

    pub(super) fn pass_on(
        &self,
        to: &Picked,
        share: &Arc<str>,
        message: &Arc<Message>,
        held: Option<Held>,
        outcome: &mut Outcome,
    ) {
        let expiry = crate::core::frames::remaining_expiry(message, self.clock.now_ms());
        let origin = Origin {
            received_at: message.received_at(),
            publisher: message.publisher().map(Arc::from),
        };
        let publish = Incoming {
            held,
            ..Incoming::from_message(message, expiry)
        };
        self.give(to, share, &publish, &origin, outcome);
    }

    pub(super) fn spawn_move_shared(self: &Arc<Self>, session: &Arc<Session>) {
        let (hub, session) = (self.clone(), session.clone());
        self.spawn(async move { hub.move_shared(&session).await });
    }

    /// Moves what a stored session has not acknowledged of shared subscriptions to connected
    /// members. Stops when the client is back.
    ///
    /// The store of one broker does each in one atomic write. In a cluster two queues may lie on two
    /// servers: what is of QoS 1 is taken from the one when it is in the other, so that at worst both
    /// members get it. What is of QoS 2 was moved before ([`Hub::move_unsent`]).
    async fn move_shared(self: &Arc<Self>, session: &Arc<Session>) {
        let Some(store_id) = session.store_id else {
            return;
        };
        let (last_ticket, (mut from, tail)) = {
            let state = session.lock();
            (state.last_ticket, state.delivering.outbound.stored_range())
        };
        if !dunlin_sync::wait_durable(&*self.store, last_ticket).await {
            return;
        }
        while from < tail {
            // While this is held the client cannot come back and read its queue: an entry is moved or
            // read by the client, never both.
            let _claim = self.shard(&session.client_id).claim.lock().await;
            if session.lock().is_connected() || self.is_back(session) {
                return;
            }
            let entries = match self
                .store
                .read_queue(
                    store_id,
                    from,
                    MOVE_PORTION,
                    self.limits.max_packet_size as usize,
                )
                .await
            {
                Ok(entries) => entries,
                Err(error) => return self.commit_failed(&error),
            };
            let Some(last) = entries.last() else { return };
            from = last.seq + 1;
            for entry in entries {
                self.move_entry(session, &entry);
            }
        }
    }

    /// Whether another object stands for the session now: its client has come back, in a cluster.
    fn is_back(&self, session: &Arc<Session>) -> bool {
        self.session(&session.client_id)
            .is_some_and(|now| !Arc::ptr_eq(&now, session))
    }

    fn move_entry(self: &Arc<Self>, session: &Arc<Session>, entry: &QueueEntry) {
        let (Some(store_id), Some(message), Some(share)) =
            (session.store_id, &entry.message, &entry.delivery.share)
        else {
            return;
        };
        let exactly_once = entry.delivery.qos == QoS::ExactlyOnce;
        if self.cluster.is_some() && exactly_once
            || !session.lock().delivering.outbound.may_move(entry)
        {
            return;
        }
        let Some(group) = self.directory.group(share) else {
            return;
        };
        let from = match self.cluster {
            Some(_) => MemberKey::Stored(store_id),
            None => MemberKey::Here(session.number),
        };
        let Some(picked) = self.pick_other(&group, from, true, message) else {
            return;
        };
        let done = Op::Dequeue {
            session: store_id,
            seq: entry.seq,
        };
        let mut outcome = Outcome::default();
        self.pass_on(&picked, group.share(), message, None, &mut outcome);
        self.count(outcome.tally);
        let moves = !outcome.ops.is_empty();
        let ticket = if self.cluster.is_some() && moves {
            self.submit_then(outcome.ops, done)
        } else {
            outcome.ops.insert(0, done);
            self.submit(outcome.ops)
        };
        let mut state = session.lock();
        state.delivering.outbound.moved(message.size() as u64);
        state.last_ticket = ticket;
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Publishes a message of the broker's own, such as `$SYS`; retained ones are not stored.
    pub(crate) fn publish_own(self: &Arc<Self>, topic: &str, payload: &[u8]) {
        let origin = Origin {
            received_at: self.clock.now_us(),
            publisher: None,
        };
        let publish = Incoming {
            topic: crate::core::frames::Topic::Borrowed(topic),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: crate::core::frames::Forwarded::Borrowed(&[]),
            expiry: None,
            payload,
            once: None,
            held: None,
            received: None,
        };
        let mut kept = Incoming {
            retain: true,
            ..publish
        };
        let message = Arc::new(crate::core::frames::keep(&kept, &origin));
        self.own_retained.write().set(message);
        kept.retain = false;
        let routes = self.directory.routes(topic);
        let mut outcome = Outcome::default();
        // Of this broker alone, also in a cluster.
        let frames = [kept];
        self.deliver_here(
            NOBODY,
            &Frames::new(&frames, &origin),
            &routes,
            &mut outcome,
        );
        self.count(outcome.tally);
        if !outcome.ops.is_empty() {
            self.submit(outcome.ops);
        }
    }
}
