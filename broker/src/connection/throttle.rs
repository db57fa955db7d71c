//! The bound on a client's publishes per second: a bucket that holds one second's worth.
//!
//! At the bound the client is not read from until the bucket has filled up: its sender slows down
//! and nothing is lost.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Throttle {
    /// Messages per second.
    rate: f64,
    /// Messages that may come now; negative after a read that brought more.
    tokens: f64,
    updated: Instant,
}

impl Throttle {
    /// `rate` messages per second; `None` for 0: no bound.
    pub(super) fn new(rate: u32, now: Instant) -> Option<Self> {
        (rate > 0).then(|| Self {
            rate: f64::from(rate),
            tokens: f64::from(rate),
            updated: now,
        })
    }

    /// Counts messages; gives back for how long nothing is to be read.
    pub(super) fn take(&mut self, messages: u64, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.updated = now;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of one read, far below 2^52"
        )]
        let taken = messages as f64;
        self.tokens = (self.tokens + passed * self.rate).min(self.rate) - taken;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_messages_passes_and_the_next_waits_its_turn() {
        let start = Instant::now();
        let mut throttle = Throttle::new(100, start).unwrap();
        assert_eq!(throttle.take(100, start), None);
        assert_eq!(throttle.take(50, start), Some(Duration::from_millis(500)));
        assert_eq!(throttle.take(0, start + Duration::from_secs(1)), None);
    }

    #[test]
    fn zero_is_no_bound() {
        assert!(Throttle::new(0, Instant::now()).is_none());
    }
}
