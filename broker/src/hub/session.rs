//! One client's session as the broker shares it between connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::hash::RandomState;
use dunlin_protocol::SubscribeOptions;
use dunlin_sync::{Delivery, Message, SessionId, Ticket};
use parking_lot::{Mutex, MutexGuard};

use super::timers::TimerKey;
use super::wake::Wake;
use crate::core::inbound::InboundQos2;
use crate::core::outbound::Outbound;
use crate::core::session::Delivering;

/// `Session Expiry Interval` that never ends.
pub(crate) const NEVER_EXPIRES: u32 = u32::MAX;

/// QoS 1 and 2 messages that may wait for a connected client before its publishers are held back.
const HOLD_FROM: u64 = 1024;
/// Milliseconds for which a client that is behind may hold its publishers back. One that catches up
/// within it loses nothing however fast they are; one that does not is slow, and must not slow others.
const PATIENCE_MS: u64 = 250;

/// [`SessionState::behind_since`] of a client that keeps up.
const KEEPS_UP: u64 = u64::MAX;
/// The same of one that has been told to be slow: long ago.
const SLOW: u64 = 0;

/// How far a connected client is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It keeps up, or nobody waits for it.
    Keeping,
    /// Whoever publishes to it should wait.
    Behind,
    /// It has just used up the patience.
    BecameSlow,
}

/// A session. Its state is behind a lock that is held for a few copies at a time, never across an
/// await and never together with the lock of another session.
pub(crate) struct Session {
    /// Unique in this run of the process.
    pub(crate) number: u64,
    pub(crate) client_id: Arc<str>,
    /// Set for as long as the session lives: sessions that outlive their connection are stored.
    pub(crate) store_id: Option<SessionId>,
    state: Mutex<SessionState>,
}

/// A subscription of a session, by its filter as the client sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) options: SubscribeOptions,
    pub(crate) identifier: Option<u32>,
}

/// A will that waits for its connection to end, or for its delay.
#[derive(Debug)]
pub(crate) struct Will {
    /// Seconds between the end of the connection and publication.
    pub(crate) delay: u32,
    /// Message expiry in seconds, counted from publication.
    pub(crate) expiry: Option<u32>,
    pub(crate) message: Arc<Message>,
}

pub(crate) struct SessionState {
    pub(crate) delivering: Delivering,
    pub(crate) inbound: InboundQos2,
    /// The connection, while there is one.
    pub(crate) wake: Option<Arc<Wake>>,
    /// The connection cannot write now: its socket is full.
    pub(crate) blocked: bool,
    /// Since when more waits for the connected client than [`HOLD_FROM`]; Unix milliseconds, [`KEEPS_UP`] or [`SLOW`].
    behind_since: u64,
    pub(crate) subscriptions: HashMap<Box<str>, Subscription, RandomState>,
    /// Retained messages of new subscriptions that there was no room for yet.
    pub(crate) backlog: VecDeque<(Arc<Message>, Delivery)>,
    /// Seconds the session outlives its connection.
    pub(crate) expiry_interval: u32,
    /// Raised by every connection.
    pub(crate) epoch: u64,
    /// The newest write that concerns the session.
    pub(crate) last_ticket: Ticket,
    pub(crate) will: Option<Box<Will>>,
    pub(crate) will_timer: Option<TimerKey>,
    pub(crate) expiry_timer: Option<TimerKey>,
    /// It is no longer the session of its client id; nothing may be added to it.
    pub(crate) ended: bool,
}

impl Session {
    pub(crate) fn new(number: u64, client_id: Arc<str>, store_id: Option<SessionId>) -> Self {
        Self::with_outbound(number, client_id, store_id, Outbound::new(store_id))
    }

    pub(crate) fn with_outbound(
        number: u64,
        client_id: Arc<str>,
        store_id: Option<SessionId>,
        outbound: Outbound,
    ) -> Self {
        Self {
            number,
            client_id,
            store_id,
            state: Mutex::new(SessionState {
                delivering: Delivering::new(outbound),
                inbound: InboundQos2::default(),
                wake: None,
                blocked: false,
                behind_since: KEEPS_UP,
                subscriptions: HashMap::default(),
                backlog: VecDeque::new(),
                expiry_interval: 0,
                epoch: 0,
                last_ticket: Ticket(0),
                will: None,
                will_timer: None,
                expiry_timer: None,
                ended: false,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("client_id", &self.client_id)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl SessionState {
    /// Lets the connection know if there is something to send or to write to the store.
    pub(crate) fn wake_if_needed(&self) {
        let waiting = self
            .delivering
            .link
            .as_ref()
            .is_some_and(|link| !link.out.is_empty());
        // A replica may have died between its append and its word of it: the next one's word shows the gap.
        let behind = self.delivering.outbound.is_behind();
        if (waiting || behind || !self.delivering.ops.is_empty())
            && let Some(wake) = &self.wake
        {
            wake.wake();
        }
    }

    /// Whether publishers are to be held back for this client.
    pub(crate) fn pace(&mut self, now_ms: u64) -> Pace {
        let (queued, _) = self.delivering.outbound.queued();
        if self.wake.is_none() || queued <= HOLD_FROM / 2 {
            self.behind_since = KEEPS_UP;
            return Pace::Keeping;
        }
        match self.behind_since {
            KEEPS_UP if queued <= HOLD_FROM => Pace::Keeping,
            KEEPS_UP => {
                self.behind_since = now_ms;
                Pace::Behind
            }
            // Told once.
            SLOW => Pace::Keeping,
            since if now_ms.saturating_sub(since) < PATIENCE_MS => Pace::Behind,
            _ => {
                self.behind_since = SLOW;
                Pace::BecameSlow
            }
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.wake.is_some()
    }
}
