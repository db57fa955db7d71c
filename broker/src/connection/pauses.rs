//! When a connection reads nothing, and when it has been silent for too long.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use dunlin_protocol::ReasonCode;
use tokio::time::Instant;

use super::close::Closing;
use super::handshake::keep_alive_limit;
use super::run::Connection;

/// Bytes of a packet from which on it must be whole in time.
const UNFINISHED: usize = 4_096;
/// Turns that a publisher gives away while receivers have not run; then it reads on regardless.
const YIELDS_MAX: u8 = 64;
/// How long nothing is read when the store is behind.
const STORE_PAUSE: Duration = Duration::from_millis(2);
/// The same while the cluster cannot be reached.
const SUSPENDED_PAUSE: Duration = Duration::from_millis(50);
/// The same before each read of a publisher while memory is short.
const MEMORY_PAUSE: Duration = Duration::from_secs(1);
/// How long nothing is read before it is looked whether a receiver has caught up.
const RECEIVER_PAUSE: Duration = Duration::from_millis(1);
/// Acknowledgements that may wait for the store before nothing more is read.
const ACKS_MAX: usize = 65_535;

impl Connection {
    pub(super) fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.pause = None;
            // The silence was ours.
            self.last_read = Instant::now();
        }
        // A client that does not take its answers, or whose writes are not durable yet, waits: it
        // is woken by the socket or by the commit.
        if self.barrier > self.wake.committed() {
            return false;
        }
        let unwritten = self.writing.len() + self.local.len();
        if unwritten > self.hub.limits.outbox_bytes as usize || self.acks.len() > ACKS_MAX {
            return false;
        }
        // Whoever has only sent what needs nothing of the store is not held up by those who wait for it.
        if self.waiting && self.hub.pending_bytes() > self.hub.limits.store_pending_bytes {
            self.pause_reading(match self.hub.known.is_suspended() {
                true => SUSPENDED_PAUSE,
                false => STORE_PAUSE,
            });
            cx.waker().wake_by_ref();
            return false;
        }
        if self.publishing
            && self.hub.is_short_of_memory()
            && !std::mem::replace(&mut self.held_back, true)
        {
            self.pause_reading(MEMORY_PAUSE);
            cx.waker().wake_by_ref();
            return false;
        }
        if let Some(receiver) = &self.behind {
            if self
                .hub
                .is_behind(receiver, &mut receiver.lock(), self.hub.clock.now_ms())
            {
                self.pause_reading(RECEIVER_PAUSE);
                cx.waker().wake_by_ref();
                return false;
            }
            self.behind = None;
        }
        if self.hub.congested.load(Ordering::Relaxed) > 0
            && self.publishing
            && self.yields < YIELDS_MAX
        {
            self.yields += 1;
            cx.waker().wake_by_ref();
            return false;
        }
        self.yields = 0;
        true
    }

    /// Nothing is read for `pause`.
    pub(super) fn pause_reading(&mut self, pause: Duration) {
        self.pause = Some(Box::pin(tokio::time::sleep(pause)));
    }

    /// Whether nothing is read for now.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// A packet that comes byte by byte keeps what is there of it in memory: it has its time. Pings in between are not possible, so
    /// the keep alive does not end it.
    pub(super) fn poll_unfinished(&mut self, cx: &mut Context<'_>) -> Poll<Closing> {
        let limit = self.hub.limits.packet_timeout_ms;
        if self.partial.len() < UNFINISHED || limit == 0 {
            self.unfinished = None;
            return Poll::Pending;
        }
        if self.pause.is_some() || self.barrier > self.wake.committed() {
            // The delay is ours.
            self.unfinished = None;
            return Poll::Pending;
        }
        let limit = Duration::from_millis(limit.into());
        let timer = self
            .unfinished
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| {
            Closing::Violation(
                ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
                format!("a packet was not whole within {limit:?}"),
            )
        })
    }

    pub(super) fn poll_keep_alive(&mut self, cx: &mut Context<'_>) -> Poll<Closing> {
        let Some(limit) = keep_alive_limit(self.keep_alive_seconds) else {
            return Poll::Pending;
        };
        let Some(timer) = &mut self.keep_alive else {
            return Poll::Pending;
        };
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The timer is not moved by every packet: it looks, when it fires, how long it is since.
            let ours = self.pause.is_some() || self.barrier > self.wake.committed();
            if self.last_read.elapsed() >= limit && !ours {
                return Poll::Ready(Closing::KeepAlive);
            }
            let due = (self.last_read + limit).max(Instant::now() + Duration::from_millis(10));
            timer.as_mut().reset(due);
        }
    }
}
