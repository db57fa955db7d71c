//! The bounds on a client's publishes per second, in messages and in bytes: two buckets that hold one second's worth each.
//!
//! At the bound the client is not read from until both have filled up: its sender slows down and nothing is lost. Where the
//! configuration says so, a client that can be told why is disconnected instead.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::limits::{Limits, OverRate};

#[derive(Debug)]
pub(super) struct Throttle {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    over: OverRate,
}

#[derive(Debug)]
struct Bucket {
    /// Per second.
    rate: f64,
    /// What may come now; negative after a read that brought more.
    tokens: f64,
    updated: Instant,
}

impl Bucket {
    /// `None` for 0: no bound.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate of at most 2^40 is exact"
    )]
    fn new(rate: u64, now: Instant) -> Option<Self> {
        (rate > 0).then_some(Self {
            rate: rate as f64,
            tokens: rate as f64,
            updated: now,
        })
    }

    fn take(&mut self, count: u64, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.updated = now;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of one read, far below 2^52"
        )]
        let taken = count as f64;
        self.tokens = (self.tokens + passed * self.rate).min(self.rate) - taken;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.rate))
    }
}

impl Throttle {
    /// The bounds of a client that connects now; `None`: there is none.
    pub(super) fn new(limits: &Limits, now: Instant) -> Option<Box<Self>> {
        let throttle = Self {
            messages: Bucket::new(limits.publish_rate.into(), now),
            bytes: Bucket::new(limits.publish_byte_rate, now),
            over: limits.over_rate,
        };
        (throttle.messages.is_some() || throttle.bytes.is_some()).then(|| Box::new(throttle))
    }

    /// Counts publishes; gives back for how long nothing is to be read.
    pub(super) fn take(&mut self, messages: u64, bytes: u64, now: Instant) -> Option<Duration> {
        let of_messages = self
            .messages
            .as_mut()
            .and_then(|bucket| bucket.take(messages, now));
        let of_bytes = self
            .bytes
            .as_mut()
            .and_then(|bucket| bucket.take(bytes, now));
        of_messages.max(of_bytes)
    }

    /// Whether a client that is over its bound is disconnected, if it can be told why.
    pub(super) fn disconnects(&self) -> bool {
        self.over == OverRate::Disconnect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(messages: u32, bytes: u64, now: Instant) -> Option<Box<Throttle>> {
        let limits = Limits {
            publish_rate: messages,
            publish_byte_rate: bytes,
            ..Limits::default()
        };
        Throttle::new(&limits, now)
    }

    #[test]
    fn a_second_of_messages_passes_and_the_next_waits_its_turn() {
        let start = Instant::now();
        let mut throttle = throttle(100, 0, start).unwrap();
        assert_eq!(throttle.take(100, 1 << 30, start), None);
        let half = Some(Duration::from_millis(500));
        assert_eq!(throttle.take(50, 0, start), half);
        assert_eq!(throttle.take(0, 0, start + Duration::from_secs(1)), None);
    }

    #[test]
    fn bytes_are_counted_beside_messages_and_the_longer_pause_holds() {
        let start = Instant::now();
        let mut throttle = throttle(10, 1_000, start).unwrap();
        assert_eq!(throttle.take(1, 1_000, start), None);
        let two = Some(Duration::from_secs(2));
        assert_eq!(throttle.take(1, 2_000, start), two);
        let later = start + Duration::from_secs(2);
        assert_eq!(
            throttle.take(15, 0, later),
            Some(Duration::from_millis(500))
        );
    }

    #[test]
    fn zero_is_no_bound() {
        assert!(throttle(0, 0, Instant::now()).is_none());
    }
}
