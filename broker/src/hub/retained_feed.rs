//! Retained messages for new subscriptions, as fast as their receiver takes them.
//!
//! A `#` may match a million of them. They wait in the session's backlog as references and are
//! handed over in portions; one that was replaced meanwhile is left out, because the subscription
//! has brought the newer message already.

use std::sync::Arc;

use dunlin_protocol::{QoS, topic};
use dunlin_sync::{Delivery, Message, Op};

use super::Hub;
use super::session::{Session, SessionState, Subscription};
use crate::core::frames::is_expired;
use crate::core::mount;
use crate::core::outbound::Tally;

/// Retained messages handed over under one lock.
const PORTION: usize = 64;

impl Hub {
    /// Puts the retained messages that a new subscription matches into the session's backlog.
    pub(crate) fn queue_retained(
        &self,
        session: &Arc<Session>,
        filter: &str,
        subscription: Subscription,
    ) {
        if matches!(topic::parse_shared(filter), Ok(Some(_))) {
            return;
        }
        let now_ms = self.clock.now_ms();
        let mut found: Vec<Arc<Message>> = Vec::new();
        let mut take = |message: &Arc<Message>| {
            if !is_expired(message, now_ms) {
                found.push(message.clone());
            }
        };
        self.retained.read().matching(filter, &mut take);
        if filter.starts_with('$') {
            self.own_retained.read().matching(filter, &mut take);
        }
        if found.is_empty() {
            return;
        }
        let mut state = session.lock();
        state.backlog.extend(found.into_iter().map(|message| {
            let delivery = Delivery {
                qos: message.qos().min(subscription.options.qos),
                // [MQTT-3.3.1-8]: set, because it is sent in answer to a new subscription.
                retain: true,
                subscription_ids: subscription.identifier.into_iter().collect(),
                share: None,
            };
            (message, delivery)
        }));
    }

    /// Hands over what of the backlog there is room for. Gives back operations that are to be
    /// written, and whether something is left that could go on at once.
    pub(crate) fn feed_retained(&self, session: &Arc<Session>, ops: &mut Vec<Op>) -> bool {
        let now_ms = self.clock.now_ms();
        let mut tally = Tally::default();
        let mut state = session.lock();
        let mut more = !state.backlog.is_empty();
        for _ in 0..PORTION {
            if !self.feed_one(session, &mut state, now_ms, ops, &mut tally) {
                more = false;
                break;
            }
        }
        if state.backlog.is_empty() && state.backlog.capacity() > 0 {
            state.backlog = std::collections::VecDeque::new();
            more = false;
        }
        drop(state);
        self.count(tally);
        more
    }

    fn feed_one(
        &self,
        session: &Session,
        state: &mut SessionState,
        now_ms: u64,
        ops: &mut Vec<Op>,
        tally: &mut Tally,
    ) -> bool {
        let Some((message, delivery)) = state.backlog.front() else {
            return false;
        };
        let Some(link) = &state.delivering.link else {
            return false;
        };
        let stored = session.store_id.filter(|_| delivery.qos > QoS::AtMostOnce);
        let room = match stored {
            Some(_) if self.cluster.is_some() => {
                // The queue is bounded where it is: one portion at a time is under way.
                state.delivering.outbound.queued().0 < self.queue_bounds.ready as u64
                    && self.store.durable() >= state.last_ticket
            }
            Some(_) => {
                state.delivering.outbound.queued().0 < self.queue_bounds.ready as u64
                    || state.delivering.outbound.is_clear()
            }
            None => {
                link.has_room(message.payload().len())
                    && (delivery.qos == QoS::AtMostOnce || state.delivering.outbound.is_clear())
            }
        };
        if !room {
            return false;
        }
        let Some((message, delivery)) = state.backlog.pop_front() else {
            return false;
        };
        let current = self.is_retained(&message);
        if !current || is_expired(&message, now_ms) {
            return true;
        }
        match stored {
            Some(store_id)
                if self.cluster.is_some()
                    || state
                        .delivering
                        .outbound
                        .admit(message.size(), &self.queue_bounds) =>
            {
                ops.push(Op::Enqueue {
                    session: store_id,
                    delivery,
                    message,
                    once: None,
                });
            }
            Some(_) => tally.dropped_queue += 1,
            None => {
                state.delivering.deliver_message(
                    &message,
                    delivery,
                    now_ms,
                    &self.queue_bounds,
                    tally,
                );
            }
        }
        true
    }

    fn is_retained(&self, message: &Arc<Message>) -> bool {
        let topic = message.topic();
        let of_broker = mount::own(topic).starts_with("$SYS");
        let retained = if of_broker {
            &self.own_retained
        } else {
            &self.retained
        };
        retained
            .read()
            .get(topic)
            .is_some_and(|now| Arc::ptr_eq(now, message))
    }

    /// What the connection leaves behind of its backlog goes into the stored queue.
    pub(crate) fn store_backlog(
        &self,
        session: &Session,
        state: &mut SessionState,
        ops: &mut Vec<Op>,
        tally: &mut Tally,
    ) {
        let backlog = std::mem::take(&mut state.backlog);
        let Some(store_id) = session.store_id else {
            return;
        };
        for (message, delivery) in backlog
            .into_iter()
            .filter(|(_, delivery)| delivery.qos > QoS::AtMostOnce)
        {
            if self.cluster.is_some()
                || state
                    .delivering
                    .outbound
                    .admit(message.size(), &self.queue_bounds)
            {
                ops.push(Op::Enqueue {
                    session: store_id,
                    delivery,
                    message,
                    once: None,
                });
            } else {
                tally.dropped_queue += 1;
            }
        }
    }
}
