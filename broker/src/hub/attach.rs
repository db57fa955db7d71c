//! A connection claims its client id.
//!
//! Claims of one client id come one after the other. An older connection is asked to let go and is
//! waited for: it detaches in its own task, so a session is never used by two connections. Then the
//! session is resumed or made anew, and what must survive a crash (a new stored session, its will)
//! is durable before the CONNACK.

use std::sync::Arc;
use std::time::Duration;

use dunlin_protocol::ReasonCode;
use dunlin_sync::{Message, Op, SessionRecord, WillRecord, wait_durable};

use super::Hub;
use super::detach::Ending;
use super::live::{About, Peer};
use super::session::{NEVER_EXPIRES, Session, SessionState, Will};
use super::wake::{CloseRequest, Wake};
use crate::core::link::{Link, LinkOptions};
use crate::registry::{key_of, topic_of};

/// How long an older connection of the same client id may take to let go. It needs microseconds;
/// the bound is for a worker that is starved.
const LET_GO: Duration = Duration::from_secs(10);

/// What a client asked for in CONNECT, checked and authorised.
#[derive(Debug)]
pub(crate) struct ConnectRequest {
    pub(crate) client_id: Arc<str>,
    pub(crate) clean_start: bool,
    /// Seconds the session outlives the connection, within our bound.
    pub(crate) expiry_interval: u32,
    pub(crate) link: LinkOptions,
    /// Unacknowledged QoS 1 and 2 messages that the client takes.
    pub(crate) quota: u16,
    pub(crate) will: Option<WillRequest>,
    pub(crate) peer: Peer,
}

/// A will from CONNECT.
#[derive(Debug)]
pub(crate) struct WillRequest {
    pub(crate) delay: u32,
    pub(crate) expiry: Option<u32>,
    pub(crate) message: Arc<Message>,
}

/// A session that belongs to the caller's connection until [`Hub::detach`].
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) session: Arc<Session>,
    pub(crate) wake: Arc<Wake>,
    /// The session was there before. [MQTT-3.2.2-3]
    pub(crate) present: bool,
}

/// Why a client id cannot be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttachError {
    /// The bound on persistent sessions is reached.
    #[error("the broker keeps as many persistent sessions as it may")]
    TooManySessions,
    /// The broker is stopping.
    #[error("the broker is stopping: connect to another one")]
    Draining,
    /// The store takes no writes, or an older connection did not let go in time.
    #[error("the session cannot be claimed now")]
    Unavailable,
}

impl AttachError {
    pub(crate) fn reason_code(self) -> ReasonCode {
        match self {
            Self::TooManySessions => ReasonCode::QUOTA_EXCEEDED,
            Self::Draining => ReasonCode::USE_ANOTHER_SERVER,
            Self::Unavailable => ReasonCode::SERVER_UNAVAILABLE,
        }
    }
}

impl Hub {
    /// Claims the client id. Not cancel safe: a dropped claim may leave the session without a
    /// connection, as after a lost one.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        request: ConnectRequest,
    ) -> Result<Attached, AttachError> {
        let shard = self.shard(&request.client_id);
        let _claim = shard.claim.lock().await;
        self.send_away_older(&request.client_id).await?;
        if self.is_draining() {
            return Err(AttachError::Draining);
        }

        if let Some(cluster) = &self.cluster {
            return self.attach_claimed(cluster, request).await;
        }

        let mut ops = Vec::new();
        let resumed = match self.session(&request.client_id) {
            Some(session) if request.clean_start => {
                self.end_session(&session, Ending::Discarded);
                None
            }
            other => other,
        };
        let present = resumed.is_some();
        let session = match resumed {
            Some(session) => session,
            None => self.new_session(&request)?,
        };
        if present {
            // Before anything can reach the client.
            self.take_away(&session, &request.peer.principal);
        }
        let before = session.lock().last_ticket;
        if present && !wait_durable(&*self.store, before).await {
            return Err(AttachError::Unavailable);
        }

        let about = About::new(&session, request.peer.clone(), request.link.version);
        let wake = Arc::new(Wake::new(about));
        let must_wait = !present && session.store_id.is_some() || request.will.is_some();
        {
            let mut state = session.lock();
            self.claim(&session, &mut state, request, &wake, &mut ops);
        }
        self.enter(&session, &wake);
        if !ops.is_empty() {
            let ticket = self.submit(ops);
            session.lock().last_ticket = ticket;
            if must_wait && !wait_durable(&*self.store, ticket).await {
                self.abandon(&session, &wake);
                return Err(AttachError::Unavailable);
            }
        }
        Ok(Attached {
            session,
            wake,
            present,
        })
    }

    async fn send_away_older(&self, client_id: &str) -> Result<(), AttachError> {
        let Some(older) = self
            .session(client_id)
            .and_then(|session| session.lock().wake.clone())
        else {
            return Ok(());
        };
        self.metrics.takeover();
        older.close(CloseRequest::TakenOver);
        tokio::time::timeout(LET_GO, older.gone())
            .await
            .map_err(|_| AttachError::Unavailable)
    }

    fn new_session(
        self: &Arc<Self>,
        request: &ConnectRequest,
    ) -> Result<Arc<Session>, AttachError> {
        if request.expiry_interval > 0
            && (self.stored_len() >= self.live.load().max_sessions || !tenant_has_place(request))
        {
            return Err(AttachError::TooManySessions);
        }
        let number = self
            .next_session
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store_id = (request.expiry_interval > 0).then(|| self.store.next_session_id());
        let session = Arc::new(Session::new(number, request.client_id.clone(), store_id));
        self.insert_session(&session);
        Ok(session)
    }

    fn claim(
        &self,
        session: &Arc<Session>,
        state: &mut SessionState,
        request: ConnectRequest,
        wake: &Arc<Wake>,
        ops: &mut Vec<Op>,
    ) {
        self.timers.disarm(state.expiry_timer.take());
        self.timers.disarm(state.will_timer.take());
        let had_will = state.will.take().is_some();
        state.epoch += 1;
        state.expiry_interval = request.expiry_interval;
        state.wake = Some(wake.clone());
        state.blocked = false;
        let mut link = link_to(&request);
        let held = state.subscriptions.iter();
        let held = held.map(|(filter, subscription)| (&**filter, subscription));
        if let Some(gate) = self.gate_for(session, wake, held) {
            let for_all = gate.is_needed_for_all();
            link.set_gate(gate, for_all);
        }
        state.delivering.link = Some(link);
        state.delivering.outbound.attach(request.quota);
        if session.store_id.is_some() {
            ops.extend(session_record(session, state, None));
        }
        match request.will {
            Some(will) => {
                ops.push(Op::PutWill(WillRecord {
                    client_id: session.client_id.clone(),
                    session: session.store_id,
                    epoch: state.epoch,
                    delay: will.delay,
                    due_at: None,
                    expiry_interval: will.expiry,
                    message: will.message.clone(),
                }));
                state.will = Some(Box::new(Will {
                    delay: will.delay,
                    expiry: will.expiry,
                    message: will.message,
                }));
            }
            // [MQTT-3.1.3-9]: the client is back before its will was due.
            None if had_will => ops.push(Op::DeleteWill {
                client_id: session.client_id.clone(),
            }),
            None => {}
        }
    }

    /// The store failed between the claim and the CONNACK.
    fn abandon(&self, session: &Arc<Session>, wake: &Arc<Wake>) {
        let mut state = session.lock();
        state.wake = None;
        state.delivering.link = None;
        state.delivering.outbound.detach();
        drop(state);
        self.leave(session);
        wake.set_gone();
    }
}

/// What goes to a client, as it has asked for it and as it is.
pub(super) fn link_to(request: &ConnectRequest) -> Link {
    let peer = &request.peer;
    let mount = peer.tenant.as_ref().map(|place| place.mount.clone());
    let mut link = Link::new(request.link, mount);
    if let Some(device) = key_of(&peer.principal) {
        link.set_config_topic(&topic_of(&device, "config"));
    }
    link
}

/// Whether the client's tenant may have one more stored session.
pub(super) fn tenant_has_place(request: &ConnectRequest) -> bool {
    let tenant = request.peer.tenant.as_ref();
    tenant.is_none_or(|place| place.may_store_session())
}

/// The session as it is to be stored; `None` if it is not stored.
pub(crate) fn session_record(
    session: &Session,
    state: &SessionState,
    disconnected_at: Option<u64>,
) -> Option<Op> {
    Some(Op::PutSession(SessionRecord {
        id: session.store_id?,
        client_id: session.client_id.clone(),
        expiry_interval: state.expiry_interval,
        disconnected_at,
        epoch: state.epoch,
    }))
}

/// When a session that lost its connection at `from_ms` expires; `None`: never.
pub(crate) fn expires_at(from_ms: u64, expiry_interval: u32) -> Option<u64> {
    (expiry_interval != NEVER_EXPIRES).then(|| from_ms + u64::from(expiry_interval) * 1000)
}
