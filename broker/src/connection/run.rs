//! The loop of a connection's task.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use dunlin_protocol::Version;
use dunlin_sync::Op;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, Sleep};

use super::acks::Acks;
use super::close::Closing;
use super::exchange::Enhanced;
use super::handshake::keep_alive_limit;
use super::held::Held;
use super::identity::Identity;
use super::throttle::Throttle;
use crate::abuse::Here;
use crate::core::out_buffer::OutBuffer;
use crate::core::outbound::Tally;
use crate::hub::publish::Waiting;
use crate::hub::session::{Session, Subscription};
use crate::hub::wake::Wake;
use crate::hub::{Attached, Hub};
use crate::net::{Accepted, Slot, Transport};

/// Reads and writes of one turn before other tasks get theirs.
const TURNS: usize = 4;
/// What the handshake found out.
pub(super) struct Established {
    pub(super) attached: Attached,
    pub(super) version: Version,
    pub(super) keep_alive_seconds: u16,
    pub(super) max_packet: u32,
    pub(super) problem_information: bool,
    pub(super) expiry_interval: u32,
    pub(super) enhanced: Option<Box<Enhanced>>,
}

/// New subscriptions, each with the number of the submission after which it gets retained messages.
type RetainedDue = Vec<(u64, Box<str>, Subscription)>;

/// A connected client.
pub(super) struct Connection {
    pub(super) hub: Arc<Hub>,
    pub(super) session: Arc<Session>,
    pub(super) wake: Arc<Wake>,
    pub(super) transport: Transport,
    /// The place within `max_connections`.
    _slot: Option<Slot>,
    /// The place within `connections_per_address`.
    _here: Option<Box<Here>>,
    /// Counts the clients of this listener and version.
    pub(super) here: Gauge,
    pub(super) version: Version,
    pub(super) max_packet: u32,
    /// Reason strings may be sent. [MQTT-3.1.2-29]
    pub(super) problem_information: bool,
    /// Session Expiry Interval of CONNECT.
    pub(super) expiry_interval: u32,
    pub(super) keep_alive_seconds: u16,
    /// It has authenticated by AUTH packets, and may again.
    pub(super) enhanced: Option<Box<Enhanced>>,
    /// It is of a tenant, or a device of the registry.
    pub(super) identity: Option<Box<Identity>>,
    /// Answers, before what others deliver.
    pub(super) local: OutBuffer,
    /// What is being written.
    pub(super) writing: OutBuffer,
    pub(super) acks: Acks,
    /// Number of the newest submission to the store that is waited for.
    pub(super) submitted: u64,
    /// Number of the newest submission before which nothing more is read.
    pub(super) barrier: u64,
    /// It has ever handed in publishes that had to wait for the store.
    pub(super) waiting: bool,
    /// New subscriptions that get retained messages when a submission is committed.
    pub(super) retained_due: Option<Box<RetainedDue>>,
    /// QoS 2 publishes of this connection.
    pub(super) inbound_count: u64,
    /// QoS 2 publishes of the client that are not released.
    pub(super) inbound_open: usize,
    /// Topics by alias; only what the client has used is allocated.
    pub(super) aliases: Vec<Option<Arc<str>>>,
    pub(super) throttle: Option<Box<Throttle>>,
    /// Publishes that are to be matched when this replica can keep its promises again.
    pub(super) held: Option<Box<Held>>,
    /// Traced publishes that are not durable yet.
    pub(super) traced: Option<Box<super::traces::Waiting>>,
    /// The last read brought publishes.
    pub(super) publishing: bool,
    /// A receiver of the client's publishes that is behind.
    pub(super) behind: Option<Arc<Session>>,
    /// The beginning of a packet that is not whole yet.
    pub(super) partial: Vec<u8>,
    /// By when the packet that has begun must be whole.
    pub(super) unfinished: Option<Pin<Box<Sleep>>>,
    /// Nothing is read until then.
    pub(super) pause: Option<Pin<Box<Sleep>>>,
    pub(super) keep_alive: Option<Pin<Box<Sleep>>>,
    pub(super) last_read: Instant,
    pub(super) yields: u8,
    pub(super) needs_flush: bool,
    /// It has waited before this read, as memory is short.
    pub(super) held_back: bool,
}

/// What the loop has to wait for.
pub(super) enum Turn {
    Close(Closing),
    /// The stored queue is to be read on: from, and up to where it reaches.
    Refill(u64, u64),
    /// The stored queue is to be looked through from there for what a failover had lost.
    Restore(u64),
}

impl Connection {
    /// `rest` is what came behind CONNECT.
    pub(super) fn new(
        hub: Arc<Hub>,
        accepted: Accepted,
        established: Established,
        connack: Vec<u8>,
        rest: Vec<u8>,
    ) -> Self {
        let Accepted {
            transport,
            peer,
            admission,
            listener,
            ..
        } = accepted;
        let Established {
            attached,
            version,
            keep_alive_seconds,
            max_packet,
            problem_information,
            expiry_interval,
            enhanced,
        } = established;
        let now = Instant::now();
        let mut local = OutBuffer::default();
        local.extend(&connack);
        let inbound_open = attached.session.lock().inbound.len();
        let here = hub.metrics.connection_opened(&listener.name, version);
        tracing::debug!(client = %attached.session.client_id, %peer, ?version, present = attached.present, "client connected");
        Self {
            identity: Identity::of(&attached),
            throttle: Throttle::new(&hub.live.load(), now),
            hub,
            session: attached.session,
            wake: attached.wake,
            transport,
            _slot: admission.slot,
            _here: admission.here,
            here,
            version,
            max_packet,
            problem_information,
            expiry_interval,
            enhanced,
            keep_alive_seconds,
            local,
            writing: OutBuffer::default(),
            acks: Acks::default(),
            submitted: 0,
            barrier: 0,
            waiting: false,
            retained_due: None,
            inbound_count: 0,
            inbound_open,
            aliases: Vec::new(),
            held: None,
            traced: None,
            publishing: false,
            behind: None,
            partial: rest,
            unfinished: None,
            pause: None,
            keep_alive: keep_alive_limit(keep_alive_seconds)
                .map(|limit| Box::pin(tokio::time::sleep(limit))),
            last_read: now,
            yields: 0,
            needs_flush: false,
            held_back: false,
        }
    }

    /// Runs until the connection ends.
    pub(super) async fn run(&mut self) -> Closing {
        if let Err(closing) = self.take_in_rest() {
            return closing;
        }
        loop {
            match poll_fn(|cx| self.poll_turn(cx)).await {
                Turn::Close(closing) => return closing,
                Turn::Refill(from, tail) => {
                    if let Err(closing) = Box::pin(self.refill(from, tail)).await {
                        return closing;
                    }
                }
                Turn::Restore(from) => {
                    if let Err(closing) = Box::pin(self.restore(from)).await {
                        return closing;
                    }
                }
            }
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.wake.begin(cx.waker());
        if let Some(request) = self.wake.close_request() {
            return Poll::Ready(Turn::Close(Closing::Asked(request)));
        }
        if let Err(closing) = self.poll_enhanced(cx) {
            self.collect_answers();
            return Poll::Ready(Turn::Close(closing));
        }
        if let Err(closing) = self.release_held() {
            self.collect_answers();
            return Poll::Ready(Turn::Close(closing));
        }
        for _ in 0..TURNS {
            loop {
                let behind = !self.writing.is_empty();
                if let Some(turn) = self.collect() {
                    return Poll::Ready(turn);
                }
                if let Err(error) = self.poll_write(cx) {
                    return Poll::Ready(Turn::Close(Closing::Lost(error.to_string())));
                }
                // What was delivered behind bytes that have only now left is still to be collected.
                if !behind || !self.writing.is_empty() {
                    break;
                }
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(closing)) => {
                    self.collect_answers();
                    return Poll::Ready(Turn::Close(closing));
                }
                Poll::Pending => {
                    self.expect_release(cx);
                    if let Poll::Ready(closing) = self.poll_unfinished(cx) {
                        return Poll::Ready(Turn::Close(closing));
                    }
                    return self.poll_keep_alive(cx).map(Turn::Close);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Brings together what is to be written: answers that are free to go, and what others have
    /// delivered to the session. Gives back what the stored queue is to be read for.
    pub(super) fn collect(&mut self) -> Option<Turn> {
        self.collect_answers();
        if !self.writing.is_empty() {
            return None;
        }
        let mut ops = Vec::new();
        let mut tally = Tally::default();
        let mut feed = false;
        let refill = {
            let mut state = self.session.lock();
            let state = &mut *state;
            self.writing.append(&mut self.local);
            if let Some(link) = &mut state.delivering.link {
                self.writing.append(&mut link.out);
            }
            state.blocked = false;
            if !state.delivering.outbound.is_idle() {
                state.delivering.pump(self.hub.clock.now_ms(), &mut tally);
                if let Some(link) = &mut state.delivering.link {
                    self.writing.append(&mut link.out);
                }
            }
            ops.append(&mut state.delivering.ops);
            feed |= !state.backlog.is_empty() && self.acks.is_empty();
            let outbound = &state.delivering.outbound;
            let restore = outbound.restored_from().map(Turn::Restore);
            restore.or_else(|| {
                outbound
                    .wants_refill(&self.hub.queue_bounds)
                    .map(|(from, tail)| Turn::Refill(from, tail))
            })
        };
        if self.wake.clear_congested() {
            self.hub.congested.fetch_sub(1, Ordering::Relaxed);
        }
        self.hub.count(tally);
        if feed {
            let more = self.hub.feed_retained(&self.session, &mut ops);
            if more
                || self
                    .session
                    .lock()
                    .delivering
                    .link
                    .as_ref()
                    .is_some_and(|link| !link.out.is_empty())
            {
                self.wake.wake();
            }
        }
        self.submit(ops, false, false);
        refill
    }

    pub(super) fn collect_answers(&mut self) {
        if self.traced.is_some() {
            self.trace_committed(self.wake.committed());
        }
        if self.acks.is_empty() {
            return;
        }
        let committed = self.wake.committed();
        if let Some(all) = &mut self.retained_due {
            // From here on no publish misses the subscription, so none is missed between the retained
            // messages and what is published later.
            let due = all
                .iter()
                .take_while(|(number, ..)| *number <= committed)
                .count();
            for (_, filter, subscription) in all.drain(..due) {
                self.hub
                    .queue_retained(&self.session, &filter, subscription);
            }
            if all.is_empty() {
                self.retained_due = None;
            }
        }
        let tail = self.local.tail();
        let before = tail.len();
        let released = self.acks.release(committed, self.version, tail);
        let written = tail.len() - before;
        self.local.appended(written);
        self.hub.metrics.acknowledged(released);
    }

    /// Hands operations to the store. With `wait`, later answers wait until they are durable.
    /// With `barrier`, nothing more is read until every replica knows what they change.
    pub(super) fn submit(&mut self, ops: Vec<Op>, wait: bool, barrier: bool) {
        // A replica that must not acknowledge now waits with nothing but the acknowledgement.
        if ops.is_empty() && (!wait || self.hub.cluster.is_none()) {
            return;
        }
        let notify = wait.then(|| {
            self.submitted += 1;
            (self.wake.clone(), self.submitted)
        });
        if barrier && wait && self.hub.cluster.is_some() {
            self.barrier = self.submitted;
        }
        #[cfg(feature = "testing")]
        if self.hub.planted_early_acknowledgement {
            self.wake.commit(self.submitted);
        }
        let waiting = Waiting {
            barrier,
            // A session that outlives its connection is another replica's when this one is cut off for long.
            keep: self.session.store_id.is_none(),
        };
        let ticket = self.hub.submit_for(ops, notify, waiting);
        let mut state = self.session.lock();
        state.last_ticket = state.last_ticket.max(ticket);
    }

    /// Whether what needs nothing of the store may be acknowledged.
    pub(super) fn may_acknowledge(&self) -> bool {
        match &self.hub.cluster {
            Some(cluster) => cluster.may_acknowledge(),
            None => true,
        }
    }
}
