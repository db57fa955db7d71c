//! A connection claims its client id in the whole cluster, and lets go of it.
//!
//! A session's object lives here only while its client is connected here: what must outlive the
//! connection is in Redis, where the next replica finds it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dunlin_protocol::{PacketId, SubscribeOptions};
use dunlin_sync::cluster::{
    ClaimRequest, Claimed, Cluster, DELIVERED, Epoch, ReleaseRequest, SENT_MARK,
};
use dunlin_sync::{Op, WillRecord};

use crate::core::outbound::{Outbound, Tally};
use crate::hub::attach::{AttachError, Attached, ConnectRequest, link_to, tenant_has_place};
use crate::hub::live::About;
use crate::hub::moving::is_word;
use crate::hub::session::{Session, Subscription, Will};
use crate::hub::wake::{CloseRequest, Wake};
use crate::hub::{Departure, Hub};

/// A will that is published where its connection ended is left to whoever sweeps after so long.
const WILL_GRACE_MS: u64 = 10_000;

/// Subscriptions with their filters.
type Held = Vec<(Box<str>, Subscription)>;

/// A claim under way; see [`Known::claiming`](super::Known).
struct Claiming<'a> {
    hub: &'a Hub,
    client_id: Arc<str>,
}

impl<'a> Claiming<'a> {
    /// One at a time for a client: the caller holds its shard's claim.
    fn begin(hub: &'a Hub, client_id: &Arc<str>) -> Self {
        let mut claiming = hub.known.claiming.lock();
        claiming.insert(client_id.clone(), Epoch::default());
        Self {
            hub,
            client_id: client_id.clone(),
        }
    }

    /// Whether another replica has claimed the client since. To be asked when the session can be found: from then
    /// on it is told directly.
    fn was_let_go(&self, epoch: Epoch) -> bool {
        let claiming = self.hub.known.claiming.lock();
        claiming
            .get(&self.client_id)
            .is_some_and(|let_go| *let_go >= epoch)
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.hub.known.claiming.lock().remove(&self.client_id);
    }
}

impl Hub {
    /// The part of [`Hub::attach`] that follows when an older connection here has let go.
    pub(in crate::hub) async fn attach_claimed(
        self: &Arc<Self>,
        cluster: &Arc<dyn Cluster>,
        request: ConnectRequest,
    ) -> Result<Attached, AttachError> {
        if request.expiry_interval > 0
            && !self.knows_stored(&request.client_id)
            && (self.stored_len() >= self.live.load().max_sessions || !tenant_has_place(&request))
        {
            return Err(AttachError::TooManySessions);
        }
        let claiming = Claiming::begin(self, &request.client_id);
        let claimed = cluster.claim(ClaimRequest {
            client_id: request.client_id.clone(),
            clean_start: request.clean_start,
            expiry_interval: request.expiry_interval,
            will: request.will.as_ref().map(|will| WillRecord {
                client_id: request.client_id.clone(),
                session: None,
                epoch: 0,
                delay: will.delay,
                due_at: None,
                expiry_interval: will.expiry,
                message: will.message.clone(),
            }),
        });
        let claimed = claimed.await.map_err(|error| {
            tracing::debug!(client = %request.client_id, %error, "a client id could not be claimed");
            AttachError::Unavailable
        })?;
        if claimed.took_over {
            self.metrics.takeover();
        }
        if let Some(will) = &claimed.old_will {
            self.publish_taken_will(&will.record);
        }
        let (present, epoch) = (claimed.present, claimed.epoch);
        let marked = claimed
            .session
            .filter(|_| claimed.inbound.iter().any(|(id, _)| *id == SENT_MARK));
        let mut claimed = claimed;
        let moves = claimed
            .subscriptions
            .extract_if(.., |record| is_word(&record.filter));
        let moves: Vec<_> = moves.map(|record| record.filter).collect();
        let session = self.session_of(&request, &claimed);
        let about = About::new(&session, request.peer.clone(), request.link.version);
        let wake = Arc::new(Wake::new(about));
        let (subscriptions, lost) = self.begin(&session, &wake, request, claimed);
        self.insert_session(&session);
        self.enter(&session, &wake);
        if claiming.was_let_go(epoch) {
            wake.close(CloseRequest::ClaimedElsewhere);
        }
        drop(claiming);

        let mut ops = Vec::new();
        if let Some(session) = marked {
            // It is true only until something is sent.
            ops.push(Op::DeleteInboundQos2 {
                session,
                packet_id: SENT_MARK,
            });
        }
        if let Some(session) = session.store_id {
            ops.extend(
                lost.into_iter()
                    .map(|filter| Op::DeleteSubscription(session, filter)),
            );
        }
        for (filter, subscription) in subscriptions {
            self.subscribe_here(&session, &filter, None, subscription, &mut ops);
        }
        // What comes at QoS 0 between CONNACK and the first read finds its way.
        let told = ops.is_empty() || self.submit_and_wait(ops, true).await;
        let moved = match session.store_id.filter(|_| told && !moves.is_empty()) {
            Some(id) => self.finish_moves(id, moves).await,
            None => told,
        };
        if !moved {
            let departure = Departure {
                will: false,
                expiry_interval: None,
                claimed_elsewhere: false,
            };
            self.detach(&session, &wake, departure);
            return Err(AttachError::Unavailable);
        }
        Ok(Attached {
            session,
            wake,
            present,
        })
    }

    fn session_of(&self, request: &ConnectRequest, claimed: &Claimed) -> Arc<Session> {
        let number = self.next_session.fetch_add(1, Ordering::Relaxed);
        let outbound = match claimed.session {
            None => Outbound::new(None),
            Some(id) => {
                let mut outbound = Outbound::claimed(
                    id,
                    claimed.queue_head,
                    claimed.queue_tail,
                    claimed.queue_len,
                    claimed.queue_bytes,
                );
                // Since the claim others may have appended and found nobody here to be woken.
                outbound.may_have_grown();
                outbound
            }
        };
        Arc::new(Session::with_outbound(
            number,
            request.client_id.clone(),
            claimed.session,
            outbound,
        ))
    }

    fn begin(
        &self,
        session: &Arc<Session>,
        wake: &Arc<Wake>,
        request: ConnectRequest,
        claimed: Claimed,
    ) -> (Held, Vec<Box<str>>) {
        let mut state = session.lock();
        state.epoch = claimed.epoch.0;
        state.expiry_interval = request.expiry_interval;
        state.wake = Some(wake.clone());
        let mut link = link_to(&request);
        state.delivering.outbound.attach(request.quota);
        for (id, count) in claimed.inbound {
            if id == SENT_MARK {
                state.delivering.outbound.set_sent_to(count);
            }
            match PacketId::new(id) {
                Some(id) if count == DELIVERED => state.inbound.recall_delivered(id),
                Some(id) => state.inbound.recall(id, count),
                None => {}
            }
        }
        state.will = request.will.map(|will| {
            Box::new(Will {
                delay: will.delay,
                expiry: will.expiry,
                message: will.message,
            })
        });
        let mut subscriptions: Vec<_> = claimed
            .subscriptions
            .into_iter()
            .filter_map(|record| {
                let options = SubscribeOptions::from_byte(record.options).ok()?;
                let subscription = Subscription {
                    options,
                    identifier: record.identifier,
                };
                Some((record.filter, subscription))
            })
            .collect();
        // What is no longer allowed is gone before anything can reach the client.
        let lost = subscriptions.extract_if(.., |(filter, subscription)| {
            !self.may_keep(session, &request.peer.principal, filter, *subscription)
        });
        let lost = lost.map(|(filter, _)| filter).collect();
        let held = subscriptions.iter();
        let held = held.map(|(filter, subscription)| (&**filter, subscription));
        if let Some(gate) = self.gate_for(session, wake, held) {
            let for_all = gate.is_needed_for_all();
            link.set_gate(gate, for_all);
        }
        state.delivering.link = Some(link);
        state.subscriptions.extend(subscriptions.iter().cloned());
        (subscriptions, lost)
    }

    /// The part of [`Hub::detach`] that follows when the connection is known to be the session's.
    pub(in crate::hub) fn detach_claimed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        wake: &Arc<Wake>,
        departure: Departure,
    ) {
        if !self.has_to_move(session, wake, &departure) {
            return self.let_go(session, wake, departure);
        }
        session.lock().delivering.link = None;
        let (hub, session, wake) = (self.clone(), session.clone(), wake.clone());
        self.spawn(async move {
            hub.move_unsent(&session, &wake).await;
            let departure = match wake.close_request() {
                // Whoever has claimed the client id has the will too.
                Some(CloseRequest::ClaimedElsewhere) => Departure {
                    will: false,
                    expiry_interval: None,
                    claimed_elsewhere: true,
                },
                _ => departure,
            };
            hub.let_go(&session, &wake, departure);
        });
    }

    fn let_go(self: &Arc<Self>, session: &Arc<Session>, wake: &Arc<Wake>, departure: Departure) {
        let mut ops = Vec::new();
        let mut tally = Tally::default();
        let (subscriptions, will_now, shared, epoch, marks) = {
            let mut state = session.lock();
            if !departure.claimed_elsewhere {
                self.store_backlog(session, &mut state, &mut ops, &mut tally);
            }
            state.delivering.link = None;
            state.ended = true;
            ops.append(&mut state.delivering.ops);
            let mut marks = Vec::new();
            if let Some(session) = session.store_id {
                marks.push(Op::PutInboundQos2 {
                    session,
                    packet_id: SENT_MARK,
                    count: state.delivering.outbound.sent_mark(),
                });
                let mut delivered: Vec<u16> = state.inbound.taken().map(PacketId::get).collect();
                delivered.sort_unstable();
                marks.extend(delivered.into_iter().map(|packet_id| Op::PutInboundQos2 {
                    session,
                    packet_id,
                    count: DELIVERED,
                }));
            }
            let expiry_interval = departure.expiry_interval.unwrap_or(state.expiry_interval);
            let will = state.will.take().filter(|_| departure.will);
            let delay = will.as_ref().map(|will| will.delay.min(expiry_interval));
            // Whoever is cut off leaves it to those who look for what is due: the others may have published it already.
            let sent_away = matches!(
                wake.close_request(),
                Some(CloseRequest::Suspended | CloseRequest::TakenForDead)
            );
            let leave_will = sent_away || self.is_cut_off();
            let epoch = Epoch(state.epoch);
            ops.push(Op::ReleaseClaim(ReleaseRequest {
                client_id: session.client_id.clone(),
                epoch,
                session: session.store_id,
                expiry_interval: (expiry_interval > 0).then_some(expiry_interval),
                will_due_in: delay.map(|delay| match delay {
                    0 => WILL_GRACE_MS,
                    seconds => u64::from(seconds) * 1000,
                }),
            }));
            (
                std::mem::take(&mut state.subscriptions),
                will.filter(|_| delay == Some(0) && !leave_will),
                state.delivering.outbound.take_shared(),
                epoch,
                marks,
            )
        };
        self.count(tally);
        let mut shares = false;
        for (filter, subscription) in &subscriptions {
            shares |= filter.starts_with("$share/");
            self.unsubscribe_here(session, filter, *subscription, &mut ops);
        }
        self.remove_session(session);
        // Alone: they may be refused as the session is another's by now, the rest must not be.
        if !departure.claimed_elsewhere && !marks.is_empty() {
            self.submit(marks);
        }
        self.submit(ops);
        if let Some(will) = will_now {
            self.publish_taken_will(&WillRecord {
                client_id: session.client_id.clone(),
                session: session.store_id,
                epoch: epoch.0,
                delay: 0,
                due_at: None,
                expiry_interval: will.expiry,
                message: will.message.clone(),
            });
        }
        if !shared.is_empty() {
            self.redistribute(session, shared);
        }
        self.connection_ended(session, wake);
        if shares && session.store_id.is_some() && !departure.claimed_elsewhere {
            self.spawn_move_shared(session);
        }
    }
}
