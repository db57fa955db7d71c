//! The modelled server with its faults.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::backplane::ModelBackplane;
use super::link::Link;
use super::rng::Rng;
use super::state::{Announcement, State, grows, writes};
use crate::cluster::{Bucket, Reply, Request};

/// Redis' clock when a model is made: Unix time in milliseconds.
const BEGINNING_MS: u64 = 1_700_000_000_000;

/// A Redis in memory. Clones are handles of the same server.
///
/// Faults are set at any time and take effect at once. A backplane is named by its number, which is
/// [`ModelBackplane::number`]; numbers that nobody has are ignored.
#[derive(Clone)]
pub struct ModelRedis {
    pub(super) inner: Arc<Mutex<Inner>>,
}

pub(super) struct Inner {
    pub(super) state: State,
    began: Instant,
    jump_ms: i64,
    pub(super) rng: Rng,
    pub(super) links: Vec<Link>,
    pub(super) latency: Duration,
    pub(super) jitter: Duration,
    pub(super) down_until: Option<Instant>,
    pub(super) stalled_until: Option<Instant>,
    pub(super) full: bool,
    pub(super) late_ghosts: bool,
    skip_epoch_checks: bool,
    pub(super) skip_record_replays: bool,
    /// Which server it is: changes with a failover.
    pub(super) generation: u64,
    /// The state before each of the newest writes.
    history: VecDeque<State>,
    history_max: usize,
    requests: u64,
}

/// How much a model holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Replicas on the register.
    pub replicas: usize,
    /// Replicas that have routes or an inbox.
    pub lanes: usize,
    /// Persistent sessions.
    pub sessions: usize,
    /// Entries in their queues.
    pub queued: usize,
    /// Client ids with an owner or a session.
    pub owners: usize,
    /// Client ids that a replica has.
    pub owned: usize,
    /// Wills.
    pub wills: usize,
    /// Sessions and wills that wait for their time.
    pub due: usize,
    /// Retained messages.
    pub retained: usize,
}

impl ModelRedis {
    /// An empty server. What is random in it and its backplanes comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            state: State::default(),
            began: Instant::now(),
            jump_ms: 0,
            rng: Rng::new(seed),
            links: Vec::new(),
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            down_until: None,
            stalled_until: None,
            full: false,
            late_ghosts: false,
            skip_epoch_checks: false,
            skip_record_replays: false,
            generation: 1,
            history: VecDeque::new(),
            history_max: 0,
            requests: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Another replica's way to the server. Must be called within a Tokio runtime.
    #[must_use]
    pub fn connect(&self) -> ModelBackplane {
        ModelBackplane::start(self)
    }

    /// How long each direction takes: `base` and up to `jitter` more. Order is kept.
    pub fn set_latency(&self, base: Duration, jitter: Duration) {
        let mut inner = self.inner.lock();
        inner.latency = base;
        inner.jitter = jitter;
    }

    /// Breaks the connection of a backplane, and lets it make none until [`heal`](Self::heal). A part of
    /// what is under way takes effect; the answers are lost.
    pub fn cut(&self, backplane: usize) {
        let mut inner = self.inner.lock();
        if let Some(link) = inner.links.get_mut(backplane) {
            link.cut = true;
        }
        inner.break_link(backplane, "the connection was cut");
    }

    /// Ends [`cut`](Self::cut) and [`black_hole`](Self::black_hole).
    pub fn heal(&self, backplane: usize) {
        let mut inner = self.inner.lock();
        if let Some(link) = inner.links.get_mut(backplane) {
            link.cut = false;
            link.hole_until = None;
            link.notify.notify_one();
        }
    }

    /// Lets nothing through for so long, without anybody being told: the connection stays until the
    /// backplane's own watchdog gives it up.
    pub fn black_hole(&self, backplane: usize, length: Duration) {
        let mut inner = self.inner.lock();
        if let Some(link) = inner.links.get_mut(backplane) {
            link.hole_until = Some(Instant::now() + length);
            link.notify.notify_one();
        }
    }

    /// So many of a thousand frames on the channels do not reach this backplane.
    pub fn lose_frames(&self, backplane: usize, per_mille: u32) {
        if let Some(link) = self.inner.lock().links.get_mut(backplane) {
            link.frame_loss = per_mille;
        }
    }

    /// Kills the process of a backplane: a part of what is under way takes effect, nobody gets an answer
    /// or an event any more. Its futures never resolve; the caller drops what waits for them.
    pub fn crash(&self, backplane: usize) {
        let mut inner = self.inner.lock();
        inner.break_link(backplane, "its process was killed");
        if let Some(link) = inner.links.get_mut(backplane) {
            link.ended = true;
            link.events.clear();
        }
    }

    /// Stops the server and starts it again with all its data after `down`.
    pub fn restart(&self, down: Duration) {
        self.inner.lock().stop(down, "Redis was restarted");
    }

    /// Another server takes over after `down`, which lacks the newest `lost` writes (as far as
    /// [`keep_history`](Self::keep_history) has kept what was before them).
    pub fn fail_over(&self, down: Duration, lost: usize) {
        let mut inner = self.inner.lock();
        inner.stop(down, "Redis failed over");
        inner.lose(lost);
        inner.generation += 1;
        let now = inner.now_ms();
        inner.state.begin_anew(now);
    }

    /// Keeps the states before the newest `writes` writes, for [`fail_over`](Self::fail_over).
    pub fn keep_history(&self, writes: usize) {
        let mut inner = self.inner.lock();
        inner.history_max = writes;
        inner.history.clear();
    }

    /// While full, requests that need memory wait; others overtake them.
    pub fn set_full(&self, full: bool) {
        let mut inner = self.inner.lock();
        inner.full = full;
        inner.wake_all();
    }

    /// The server does nothing for so long.
    pub fn stall(&self, length: Duration) {
        let mut inner = self.inner.lock();
        inner.stalled_until = Some(Instant::now() + length);
        inner.wake_all();
    }

    /// Moves Redis' clock.
    pub fn jump_clock(&self, ms: i64) {
        self.inner.lock().jump_ms += ms;
    }

    /// Requests of a broken connection that had not arrived take effect up to a second later, when they
    /// may have been sent again and more with them. Off at first: the real backplane resets its connections.
    pub fn set_late_ghosts(&self, on: bool) {
        self.inner.lock().late_ghosts = on;
    }

    /// A planted defect, for a simulation to find: releases and settlements are done whoever has the
    /// claim now.
    pub fn skip_epoch_checks(&self, on: bool) {
        self.inner.lock().skip_epoch_checks = on;
    }

    /// A planted defect, for a simulation to find: changes of records that a failover has lost are not made good.
    pub fn skip_record_replays(&self, on: bool) {
        self.inner.lock().skip_record_replays = on;
    }

    /// Executes a request at once, past all faults, as an operator's own client would.
    pub fn execute(&self, request: &Request) -> Reply {
        self.inner.lock().execute(request)
    }

    /// Redis' clock, Unix time in milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.inner.lock().now_ms()
    }

    /// Requests executed so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.inner.lock().requests
    }

    /// How much it holds.
    #[must_use]
    pub fn census(&self) -> Census {
        let inner = self.inner.lock();
        let mut census = Census {
            replicas: inner.state.register.len(),
            lanes: inner.state.lanes.len(),
            ..Census::default()
        };
        for bucket in &inner.state.buckets {
            census.sessions += bucket.sessions.len();
            census.queued += bucket
                .sessions
                .values()
                .map(|session| session.queue.len())
                .sum::<usize>();
            census.owners += bucket.owners.len();
            census.owned += bucket
                .owned
                .values()
                .map(|owned| owned.len())
                .sum::<usize>();
            census.wills += bucket.wills.len();
            census.due += bucket.due.len();
            census.retained += bucket.retained.len();
        }
        census
    }
}

impl Inner {
    pub(super) fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        BEGINNING_MS
            .saturating_add(elapsed)
            .saturating_add_signed(self.jump_ms)
    }

    pub(super) fn execute(&mut self, request: &Request) -> Reply {
        let now = self.now_ms();
        self.requests += 1;
        if self.history_max > 0 && writes(request) {
            if self.history.len() >= self.history_max {
                self.history.pop_front();
            }
            self.history.push_back(self.state.clone());
        }
        let mut frames = Vec::new();
        let unchecked = self
            .skip_epoch_checks
            .then(|| self.without_epoch(request))
            .flatten();
        let request = unchecked.as_ref().unwrap_or(request);
        let reply = self.state.apply(now, request, &mut frames);
        self.publish(frames);
        if let Request::Inbox { to, .. } = request {
            self.wake_listener(*to);
        }
        reply
    }

    /// The request as if it came from whoever has the claim now.
    fn without_epoch(&self, request: &Request) -> Option<Request> {
        let mut request = request.clone();
        match &mut request {
            Request::Settle { epoch, .. } => *epoch = None,
            Request::Release {
                client_id, epoch, ..
            } => {
                let bucket = self
                    .state
                    .buckets
                    .get(usize::from(Bucket::of(client_id).0))?;
                *epoch = bucket.owners.get(client_id)?.epoch;
            }
            Request::DeleteSession { epoch, .. } => *epoch = None,
            Request::PutRecord { session, epoch, .. } => {
                *epoch = self
                    .state
                    .buckets
                    .get(usize::from(Bucket::of_session(*session).0))?
                    .sessions
                    .get(session)?
                    .epoch;
            }
            _ => return None,
        }
        Some(request)
    }

    /// Writes again what a backplane had acknowledged before a failover.
    pub(super) fn replay(&mut self, request: &Request, reply: &Reply) {
        let now = self.now_ms();
        let mut frames = Vec::new();
        self.state.replay(now, request, reply, &mut frames);
        self.publish(frames);
        if let Request::Inbox { to, .. } = request {
            self.wake_listener(*to);
        }
    }

    pub(super) fn publish(&mut self, frames: Vec<Announcement>) {
        let now = Instant::now();
        for (to, frame) in frames {
            let (latency, jitter) = (self.latency, self.jitter);
            for link in &mut self.links {
                let hears = link
                    .listener
                    .as_ref()
                    .is_some_and(|listener| to.is_none_or(|to| to == listener.replica));
                if link.up && hears && !link.loses_frame() {
                    let at = now + link.delay(latency, jitter);
                    link.push_event(
                        at,
                        crate::cluster::BackplaneEvent::Frame(Bytes::clone(&frame)),
                    );
                }
            }
        }
    }

    fn wake_listener(&self, replica: crate::cluster::ReplicaId) {
        for link in &self.links {
            let listens = link
                .listener
                .as_ref()
                .is_some_and(|listener| listener.replica == replica);
            if listens {
                link.notify.notify_one();
            }
        }
    }

    pub(super) fn wake_all(&self) {
        for link in &self.links {
            link.notify.notify_one();
        }
    }

    /// Whether Redis would refuse it now.
    pub(super) fn refuses(&self, request: &Request) -> bool {
        self.full && grows(request)
    }

    fn stop(&mut self, down: Duration, why: &str) {
        self.down_until = Some(Instant::now() + down);
        self.stalled_until = None;
        for index in 0..self.links.len() {
            self.break_link(index, why);
        }
    }

    fn lose(&mut self, writes: usize) {
        let kept = self.history.len().saturating_sub(writes);
        if let Some(state) = self.history.get(kept) {
            self.state = state.clone();
        }
        self.history.clear();
    }
}
