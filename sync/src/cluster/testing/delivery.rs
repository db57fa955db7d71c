//! What happens on the wires as time passes.

use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::link::{Link, WATCHDOG};
use super::server::Inner;
use crate::cluster::{BackplaneEvent, Reply, Request};

/// Frames on their way to one listener that reads slowly; then Redis drops the connection.
const EVENTS_MAX: usize = 1 << 16;
/// When a full channel of events is tried again.
const AGAIN: Duration = Duration::from_millis(1);
/// Frames of an inbox that are read at once.
const INBOX_READ: usize = 256;

impl Link {
    /// Puts an event on the wire, behind those before it.
    pub(super) fn push_event(&mut self, at: Instant, event: BackplaneEvent) {
        let at = self.last_event.map_or(at, |last| last.max(at));
        self.last_event = Some(at);
        self.events.push_back((at, event));
        self.notify.notify_one();
    }
}

impl Inner {
    /// Does all that is due for one link; when it is to be looked at again.
    pub(super) fn step(&mut self, index: usize) -> Option<Instant> {
        let now = Instant::now();
        self.end_pauses(now);
        self.reconnect(index, now);
        self.send(index, now);
        self.arrive(index, now);
        self.read_inbox(index, now);
        self.take_answers(index, now);
        self.watch(index, now);
        let blocked = self.deliver(index, now);
        self.next_step(index, now, blocked)
    }

    fn end_pauses(&mut self, now: Instant) {
        for pause in [&mut self.down_until, &mut self.stalled_until] {
            if pause.is_some_and(|until| until <= now) {
                *pause = None;
            }
        }
    }

    fn reconnect(&mut self, index: usize, now: Instant) {
        let (down, generation) = (self.down_until.is_some(), self.generation);
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        if link.ended || link.up || link.retry_at.is_some_and(|at| at > now) {
            return;
        }
        if down || link.cut || link.in_hole(now) {
            link.retry_later(now);
            return;
        }
        let another = link.generation.is_some_and(|known| known != generation);
        link.connected();
        link.generation = Some(generation);
        if another {
            link.failovers += 1;
            let ring: Vec<_> = link.ring.iter().cloned().collect();
            for (_, request, reply) in ring {
                if self.skip_record_replays && matches!(request, Request::PutRecords { .. }) {
                    continue;
                }
                self.replay(&request, &reply);
            }
        }
        let (latency, jitter) = (self.latency, self.jitter);
        if let Some(link) = self.links.get_mut(index)
            && link.listener.is_some()
        {
            let at = now + link.delay(latency, jitter);
            if another {
                link.push_event(at, BackplaneEvent::Failover);
            }
            link.push_event(at, BackplaneEvent::Listening);
        }
    }

    fn send(&mut self, index: usize, now: Instant) {
        let (latency, jitter) = (self.latency, self.jitter);
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        if !link.up || !link.has_unsent() {
            return;
        }
        let at = now + link.delay(latency, jitter);
        let at = link.wire_out.back().map_or(at, |(last, _)| at.max(*last));
        let numbers = link.unsent();
        link.wire_out.push_back((at, numbers));
        link.waiting_since.get_or_insert(now);
    }

    /// Requests that have reached the server.
    fn arrive(&mut self, index: usize, now: Instant) {
        if self.stalled_until.is_some() {
            return;
        }
        self.haunt(index, now);
        loop {
            let Some(link) = self.links.get_mut(index) else {
                return;
            };
            if !link.up || link.in_hole(now) {
                return;
            }
            let numbers = match link.wire_out.front() {
                Some((at, _)) if *at <= now => match link.wire_out.pop_front() {
                    Some((_, numbers)) => numbers,
                    None => return,
                },
                _ => break,
            };
            self.serve(index, now, numbers);
        }
        let parked = match self.links.get_mut(index) {
            Some(link) if !self.full => link.parked.drain(..).collect(),
            _ => Vec::new(),
        };
        if !parked.is_empty() {
            self.serve(index, now, parked);
        }
    }

    fn serve(&mut self, index: usize, now: Instant, numbers: Vec<u64>) {
        let mut answers = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(reply) = self.serve_one(index, number) else {
                continue;
            };
            answers.push((number, reply));
        }
        let (latency, jitter) = (self.latency, self.jitter);
        if let Some(link) = self.links.get_mut(index)
            && !answers.is_empty()
        {
            let at = now + link.delay(latency, jitter);
            let at = link.wire_in.back().map_or(at, |(last, _)| at.max(*last));
            link.wire_in.push_back((at, answers));
        }
    }

    /// `None`: it waits, as Redis is full or has failed over.
    fn serve_one(&mut self, index: usize, number: u64) -> Option<Reply> {
        let link = self.links.get(index)?;
        let request = link.request(number)?.clone();
        let behind = self.full && !link.parked.is_empty();
        let refused = super::state::grows(&request) && (self.refuses(&request) || behind);
        if refused || link.keeps_back(&request) {
            self.links.get_mut(index)?.parked.push_back(number);
            return None;
        }
        Some(self.execute(&request))
    }

    /// What a dead connection still delivers.
    fn haunt(&mut self, index: usize, now: Instant) {
        loop {
            let request = match self.links.get_mut(index) {
                Some(link) if link.ghosts.front().is_some_and(|(at, _)| *at <= now) => {
                    link.ghosts.pop_front()
                }
                _ => None,
            };
            let Some((_, request)) = request else { return };
            if self.late_ghosts {
                self.execute(&request);
            }
        }
    }

    /// Breaks a connection: a part of what is under way takes effect.
    pub(super) fn break_link(&mut self, index: usize, why: &str) {
        let now = Instant::now();
        let words = match self.links.get_mut(index) {
            Some(link) if link.up => link.last_words(),
            _ => return,
        };
        for number in words {
            self.serve_one(index, number);
        }
        if let Some(link) = self.links.get_mut(index) {
            link.broken(now, why);
            link.notify.notify_one();
        }
    }

    fn read_inbox(&mut self, index: usize, now: Instant) {
        let (latency, jitter) = (self.latency, self.jitter);
        let stalled = self.stalled_until.is_some();
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        if !link.up || stalled || link.in_hole(now) {
            return;
        }
        let Some(listener) = &mut link.listener else {
            return;
        };
        let frames = self
            .state
            .lanes
            .read(listener.replica, listener.read, INBOX_READ);
        if let Some((position, _)) = frames.last() {
            listener.read = *position;
        }
        if frames.len() == INBOX_READ {
            link.notify.notify_one();
        }
        for (position, frame) in frames {
            let at = now + link.delay(latency, jitter);
            link.push_event(at, BackplaneEvent::Inbox(position, frame));
        }
    }

    fn take_answers(&mut self, index: usize, now: Instant) {
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        if !link.up || link.in_hole(now) {
            return;
        }
        while link.wire_in.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, answers)) = link.wire_in.pop_front() else {
                return;
            };
            for (number, reply) in answers {
                link.answer(now, number, Ok(reply));
            }
            link.waiting_since = Some(now);
        }
        // A request that waits for memory has an answer: the refusal.
        if link.pending() == link.parked.len() {
            link.waiting_since = None;
        }
    }

    fn watch(&mut self, index: usize, now: Instant) {
        let late = self.links.get(index).is_some_and(|link| {
            link.up
                && link
                    .waiting_since
                    .is_some_and(|since| since + WATCHDOG <= now)
        });
        if late {
            self.break_link(index, "Redis does not answer");
        }
    }

    /// Whether the channel of events is full.
    fn deliver(&mut self, index: usize, now: Instant) -> bool {
        let Some(link) = self.links.get_mut(index) else {
            return false;
        };
        if link.events.len() > EVENTS_MAX {
            self.break_link(index, "the output buffer is over its limit");
            return false;
        }
        while let Some((at, event)) = link.events.front() {
            let own = matches!(event, BackplaneEvent::Deaf);
            let hole = link.hole_until.is_some_and(|until| until > now);
            if *at > now || (hole && !own) {
                return false;
            }
            let Some(listener) = &mut link.listener else {
                link.events.clear();
                return false;
            };
            let position = match event {
                BackplaneEvent::Inbox(position, _) => Some(*position),
                _ => None,
            };
            match listener.events.try_send(event.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return true,
                Err(TrySendError::Closed(_)) => {
                    link.listener = None;
                    link.events.clear();
                    return false;
                }
            }
            if let Some(position) = position {
                listener.delivered = position;
            }
            link.events.pop_front();
        }
        false
    }

    fn next_step(&self, index: usize, now: Instant, blocked: bool) -> Option<Instant> {
        let link = self.links.get(index)?;
        if link.ended {
            return None;
        }
        let pause = link.hole_until.filter(|until| *until > now);
        let through = |at: Instant| pause.map_or(at, |until| until.max(at));
        let served = |at: Instant| self.stalled_until.map_or(at, |until| until.max(at));
        let mut next: Vec<Instant> = Vec::with_capacity(8);
        if link.up {
            next.extend(link.wire_out.front().map(|(at, _)| served(through(*at))));
            next.extend(link.wire_in.front().map(|(at, _)| through(*at)));
            next.extend(link.waiting_since.map(|since| since + WATCHDOG));
            next.extend(pause);
            next.extend(self.stalled_until);
        } else {
            next.extend(link.retry_at);
        }
        next.extend(link.ghosts.front().map(|(at, _)| served(*at)));
        if blocked {
            next.push(now + AGAIN);
        } else {
            next.extend(link.events.front().map(|(at, _)| through(*at)));
        }
        next.into_iter().min()
    }
}
