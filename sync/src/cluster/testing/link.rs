//! The way of one replica to the modelled Redis: what is under way in each direction, and what the
//! real backplane does when it breaks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::lanes::Position;
use super::rng::Rng;
use crate::cluster::tap::TapRequest;
use crate::cluster::{BackplaneError, BackplaneEvent, ReplicaId, Reply, Request};

/// Answered writes that are kept for a failover.
const RING_MAX: usize = 4096;
/// How long they are kept.
const RING_AGE: Duration = Duration::from_secs(30);
/// A connection that owes an answer for so long is given up.
pub(super) const WATCHDOG: Duration = Duration::from_secs(3);
/// Between the first two attempts to connect; doubles.
const BACKOFF: Duration = Duration::from_millis(50);
/// At most between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

pub(super) type Answer = Result<Reply, BackplaneError>;

/// One call of `execute`.
struct Call {
    answers: Vec<Option<Answer>>,
    left: usize,
    done: oneshot::Sender<Vec<Answer>>,
}

/// A request without an answer.
struct Pending {
    request: Request,
    call: u64,
    index: usize,
}

/// Who listens.
pub(super) struct Listener {
    pub(super) replica: ReplicaId,
    pub(super) events: mpsc::Sender<BackplaneEvent>,
    /// Last frame of the inbox that was put on the wire.
    pub(super) read: Position,
    /// Last frame of the inbox that was handed over.
    pub(super) delivered: Position,
}

/// See the module.
pub(super) struct Link {
    pub(super) notify: Arc<Notify>,
    rng: Rng,
    /// No more of it: closed, or its process was killed.
    pub(super) ended: bool,
    /// There is a connection.
    pub(super) up: bool,
    /// The fault: there cannot be one.
    pub(super) cut: bool,
    /// The fault: nothing gets through until then, and nobody is told.
    pub(super) hole_until: Option<Instant>,
    /// The fault: so many frames of a thousand that the channels lose.
    pub(super) frame_loss: u32,
    pub(super) retry_at: Option<Instant>,
    attempt: u32,
    /// Server that was connected to last.
    pub(super) generation: Option<u64>,
    next_number: u64,
    pending: BTreeMap<u64, Pending>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    /// First request that is not on the wire.
    unsent: u64,
    pub(super) wire_out: VecDeque<(Instant, Vec<u64>)>,
    pub(super) wire_in: VecDeque<(Instant, Vec<(u64, Reply)>)>,
    /// Requests that Redis refuses while it is full, and appends that wait for a failover to be made good.
    pub(super) parked: VecDeque<u64>,
    /// What an old connection goes on delivering; see `set_late_ghosts`.
    pub(super) ghosts: VecDeque<(Instant, Request)>,
    pub(super) ring: VecDeque<(Instant, Request, Reply)>,
    pub(super) listener: Option<Listener>,
    pub(super) events: VecDeque<(Instant, BackplaneEvent)>,
    /// When the wire was last used, in the direction of the events.
    pub(super) last_event: Option<Instant>,
    /// When the oldest unanswered request was sent, or the last answer came.
    pub(super) waiting_since: Option<Instant>,
    pub(super) reconnects: u64,
    pub(super) failovers: u64,
    /// So many of them were made good by all replicas.
    pub(super) made_good: u64,
    pub(super) last_error: Option<String>,
}

impl Link {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            notify: Arc::new(Notify::new()),
            rng: Rng::new(seed),
            ended: false,
            up: false,
            cut: false,
            hole_until: None,
            frame_loss: 0,
            retry_at: None,
            attempt: 0,
            generation: None,
            next_number: 0,
            pending: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            unsent: 0,
            wire_out: VecDeque::new(),
            wire_in: VecDeque::new(),
            parked: VecDeque::new(),
            ghosts: VecDeque::new(),
            ring: VecDeque::new(),
            listener: None,
            events: VecDeque::new(),
            last_event: None,
            waiting_since: None,
            reconnects: 0,
            failovers: 0,
            made_good: 0,
            last_error: None,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether a request waits until what a failover has lost is written again by all replicas.
    pub(super) fn keeps_back(&self, request: &Request) -> bool {
        let appends = matches!(
            request,
            Request::Append { .. }
                | Request::PutRecords { .. }
                | Request::Tap(TapRequest::Append { .. })
        );
        appends && self.listener.is_some() && self.failovers > self.made_good
    }

    pub(super) fn delay(&mut self, base: Duration, jitter: Duration) -> Duration {
        let jitter = u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX);
        base + Duration::from_micros(self.rng.below(jitter.saturating_add(1)))
    }

    pub(super) fn loses_frame(&mut self) -> bool {
        self.rng.per_mille(self.frame_loss)
    }

    pub(super) fn in_hole(&self, now: Instant) -> bool {
        self.hole_until.is_some_and(|until| until > now)
    }

    /// Takes a call in.
    pub(super) fn take(&mut self, requests: Vec<Request>, done: oneshot::Sender<Vec<Answer>>) {
        if self.ended || requests.is_empty() {
            let closed = requests.iter().map(|_| Err(BackplaneError::Closed));
            done.send(closed.collect()).ok();
            return;
        }
        let id = self.next_call;
        self.next_call += 1;
        let call = Call {
            answers: vec![None; requests.len()],
            left: requests.len(),
            done,
        };
        self.calls.insert(id, call);
        for (index, request) in requests.into_iter().enumerate() {
            let pending = Pending {
                request,
                call: id,
                index,
            };
            self.pending.insert(self.next_number, pending);
            self.next_number += 1;
        }
    }

    /// Everything that is not on the wire yet.
    pub(super) fn unsent(&mut self) -> Vec<u64> {
        let from = std::mem::replace(&mut self.unsent, self.next_number);
        self.pending
            .range(from..)
            .map(|(number, _)| *number)
            .collect()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.pending.range(self.unsent..).next().is_some()
    }

    pub(super) fn request(&self, number: u64) -> Option<&Request> {
        self.pending.get(&number).map(|pending| &pending.request)
    }

    /// Hands an answer to its call.
    pub(super) fn answer(&mut self, now: Instant, number: u64, answer: Answer) {
        let Some(pending) = self.pending.remove(&number) else {
            return;
        };
        if let Ok(reply) = &answer
            && super::state::writes(&pending.request)
        {
            self.ring.push_back((now, pending.request, reply.clone()));
        }
        while self.ring.len() > RING_MAX
            || self
                .ring
                .front()
                .is_some_and(|(at, _, _)| *at + RING_AGE < now)
        {
            self.ring.pop_front();
        }
        self.finish(pending.call, pending.index, answer);
    }

    fn finish(&mut self, id: u64, index: usize, answer: Answer) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        if let Some(place) = call.answers.get_mut(index)
            && place.is_none()
        {
            *place = Some(answer);
            call.left -= 1;
        }
        if call.left == 0
            && let Some(call) = self.calls.remove(&id)
        {
            let answers = call
                .answers
                .into_iter()
                .map(|answer| answer.unwrap_or(Err(BackplaneError::Closed)));
            call.done.send(answers.collect()).ok();
        }
    }

    /// How many of the requests under way still take effect when the connection breaks now.
    pub(super) fn last_words(&mut self) -> Vec<u64> {
        let mut words: Vec<u64> = self
            .wire_out
            .drain(..)
            .flat_map(|(_, numbers)| numbers)
            .collect();
        let kept = self.rng.below(words.len() as u64 + 1);
        let lost = words.split_off(usize::try_from(kept).unwrap_or(usize::MAX).min(words.len()));
        self.lost_words(&lost);
        words
    }

    fn lost_words(&mut self, lost: &[u64]) {
        // Kept for `set_late_ghosts`, which decides whether they are used.
        let requests: Vec<_> = lost
            .iter()
            .filter_map(|number| self.request(*number).cloned())
            .collect();
        self.ghosts.clear();
        for request in requests {
            let late = Duration::from_micros(self.rng.below(1_000_000));
            self.ghosts.push_back((Instant::now() + late, request));
        }
    }

    /// The connection is over: everything unanswered is sent again on the next one, but frames.
    pub(super) fn broken(&mut self, now: Instant, why: &str) {
        self.up = false;
        self.wire_out.clear();
        self.wire_in.clear();
        self.parked.clear();
        self.waiting_since = None;
        self.last_error = Some(why.to_owned());
        let lost: Vec<u64> = self
            .pending
            .range(..self.unsent)
            .filter(|(_, pending)| matches!(pending.request, Request::Publish { .. }))
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            self.answer(now, number, Err(BackplaneError::Lost));
        }
        self.unsent = 0;
        self.events
            .retain(|(_, event)| matches!(event, BackplaneEvent::Failover));
        if let Some(listener) = &mut self.listener {
            listener.read = listener.delivered;
            self.events.push_back((now, BackplaneEvent::Deaf));
        }
        self.attempt = 0;
        self.retry_later(now);
    }

    pub(super) fn retry_later(&mut self, now: Instant) {
        let wait = BACKOFF
            .saturating_mul(1 << self.attempt.min(10))
            .min(BACKOFF_MAX);
        self.attempt += 1;
        self.retry_at = Some(now + self.delay(wait / 2, wait / 2));
    }

    pub(super) fn connected(&mut self) {
        self.up = true;
        self.attempt = 0;
        self.retry_at = None;
        self.unsent = 0;
        self.reconnects += u64::from(self.generation.is_some());
    }

    /// Gives up every request that has no answer; none takes effect later.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.ghosts.clear();
        let numbers: Vec<u64> = self.pending.keys().copied().collect();
        for number in numbers {
            self.answer(now, number, Err(BackplaneError::Lost));
        }
    }

    /// The backplane was closed: nobody gets an answer any more.
    pub(super) fn close(&mut self) {
        self.ended = true;
        self.up = false;
        self.listener = None;
        self.events.clear();
        let numbers: Vec<u64> = self.pending.keys().copied().collect();
        for number in numbers {
            if let Some(pending) = self.pending.remove(&number) {
                self.finish(pending.call, pending.index, Err(BackplaneError::Closed));
            }
        }
    }
}
