//! How many may come in at once, over all listeners: new connections per second, and handshakes under way.
//!
//! Whoever comes when there is no room waits in the kernel's queue: that costs nothing, and those who were let in get
//! all of the broker there is. The alternative, to take everybody and be slow for all, ends in clients that give up
//! and come again. A handshake here is everything between the accepted socket and the CONNACK.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ops::Metrics;

/// The bounds of `connect_rate`, `connect_burst` and `max_handshakes`. Shared by all listeners.
#[derive(Debug)]
pub struct Gate {
    pace: Mutex<Pace>,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A handshake's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.handshakes.dec();
    }
}

impl Gate {
    /// `rate` connections per second, 0 for any number, with bursts of `burst`, 0 for a tenth of the rate;
    /// `handshakes` at once.
    #[must_use]
    pub fn new(rate: u32, burst: u32, handshakes: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            pace: Mutex::new(Pace::new(rate, burst)),
            places: Arc::new(Semaphore::new(handshakes.min(Semaphore::MAX_PERMITS))),
            metrics,
        })
    }

    /// Other bounds from now on.
    pub fn set_rate(&self, rate: u32, burst: u32) {
        *self.pace.lock() = Pace::new(rate, burst);
    }

    /// Resolves when one more may come in; first come, first served. Cancel safe: then none has come in.
    pub async fn enter(&self) -> Place {
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.metrics.accepts_delayed.inc();
                // The semaphore is never closed.
                Arc::clone(&self.places).acquire_owned().await.ok()
            }
        };
        self.metrics.handshakes.inc();
        let place = Place {
            _permit: permit,
            metrics: Arc::clone(&self.metrics),
        };
        let mut delayed = false;
        loop {
            let pause = self.pace.lock().take(Instant::now());
            let Some(pause) = pause else { return place };
            if !std::mem::replace(&mut delayed, true) {
                self.metrics.accepts_delayed.inc();
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Lets a fixed number through per second, with bursts.
#[derive(Debug)]
struct Pace {
    gap: Option<Duration>,
    /// How much earlier one may come than if they came evenly.
    slack: Duration,
    /// When the next one would be due if they came evenly.
    due: Option<Instant>,
}

impl Pace {
    fn new(per_second: u32, burst: u32) -> Self {
        let gap = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        let slack = match (gap, burst) {
            (Some(gap), 1..) => gap * (burst - 1),
            _ => Duration::from_millis(100),
        };
        Self {
            gap,
            slack,
            due: None,
        }
    }

    /// Takes one; or says how long to wait before asking again, with none taken.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let gap = self.gap?;
        let due = self.due.unwrap_or(now);
        let early = due.saturating_duration_since(now);
        if early > self.slack {
            return Some(early - self.slack);
        }
        self.due = Some(due.max(now) + gap);
        None
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// How many get through from now on, asking every millisecond for `span` milliseconds.
    fn through(pace: &mut Pace, start: Instant, span: u64) -> u32 {
        let mut ask = |at| pace.take(start + Duration::from_millis(at)).is_none();
        u32::try_from((0..span).filter(|at| ask(*at)).count()).unwrap()
    }

    impl Pace {
        fn burst(&mut self, now: Instant) -> u32 {
            u32::try_from(std::iter::from_fn(|| self.take(now).is_none().then_some(())).count())
                .unwrap()
        }
    }

    #[test]
    fn a_rate_holds_with_a_burst_of_a_tenth_of_it() {
        let mut pace = Pace::new(100, 0);
        let start = Instant::now();
        assert_eq!(pace.burst(start), 11);
        // What was early is made up for by the end of the second.
        let later = start + Duration::from_millis(1);
        let total = 11 + through(&mut pace, later, 1_000);
        assert!((105..=112).contains(&total), "{total} in the first second");
        let after_silence = start + Duration::from_secs(100);
        assert_eq!(pace.burst(after_silence), 11, "silence is not saved up");
    }

    #[test]
    fn a_burst_may_be_larger_or_one_at_a_time() {
        for burst in [1, 50, 1_000] {
            let mut pace = Pace::new(100, burst);
            assert_eq!(pace.burst(Instant::now()), burst);
        }
    }

    #[test]
    fn a_refusal_says_when_to_ask_again() {
        let mut pace = Pace::new(10, 0);
        let start = Instant::now();
        pace.burst(start);
        let wait = pace.take(start).unwrap();
        assert_eq!(pace.take(start + wait), None);
    }

    #[test]
    fn without_a_rate_everything_gets_through() {
        let mut pace = Pace::new(0, 0);
        assert_eq!(through(&mut pace, Instant::now(), 1_000), 1_000);
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let metrics = Arc::new(Metrics::default());
        let gate = Gate::new(0, 0, 2, Arc::clone(&metrics));
        let first = gate.enter().await;
        let _second = gate.enter().await;
        assert_eq!(metrics.handshakes.get(), 2);
        let third = gate.enter();
        let mut third = std::pin::pin!(third);
        assert!((&mut third).now_or_never().is_none());
        assert_eq!(metrics.accepts_delayed.get(), 1);
        drop(first);
        let _third = third.await;
        assert_eq!(metrics.handshakes.get(), 2);
    }
}
