//! Whether the loops of the threads move.
//!
//! Each loop raises a counter some times a second, and one observer looks once a second whether it has. The observer counts
//! its own looks, not the time: a process that was stopped, or a machine that slept, is not taken for a stalled loop.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use parking_lot::Mutex;

/// A loop shows within this time that it moves, and the observer looks as often.
pub const BEAT: Duration = Duration::from_secs(1);

/// What one loop raises.
pub type Beats = Arc<AtomicU64>;

/// The loops that are watched.
#[derive(Debug, Default)]
pub struct Pulses(Mutex<Vec<Watched>>);

#[derive(Debug)]
struct Watched {
    name: String,
    beats: Beats,
    /// What the last look found.
    seen: u64,
    /// Looks since it was raised.
    missed: u32,
}

impl Pulses {
    /// Watches a loop from now on.
    pub fn watch(&self, name: impl Into<String>, beats: Beats) {
        let seen = beats.load(Ordering::Relaxed);
        self.0.lock().push(Watched {
            name: name.into(),
            beats,
            seen,
            missed: 0,
        });
    }

    /// Looks at every loop; to be called every [`BEAT`].
    pub fn look(&self) {
        for watched in &mut *self.0.lock() {
            let beats = watched.beats.load(Ordering::Relaxed);
            watched.missed = match beats == watched.seen {
                true => watched.missed.saturating_add(1),
                false => 0,
            };
            watched.seen = beats;
        }
    }

    /// The loops that have not moved for `looks` looks or more, in words.
    #[must_use]
    pub fn stalled(&self, looks: u32) -> Vec<String> {
        let watched = self.0.lock();
        let stalled = watched.iter().filter(|watched| watched.missed >= looks);
        let words =
            |watched: &Watched| format!("{} has not moved for {} s", watched.name, watched.missed);
        stalled.map(words).collect()
    }
}

/// Raises the counter some times every [`BEAT`], and tells how late it was each time; never ends.
pub(crate) async fn beat(beats: Beats, late: impl Fn(Duration)) {
    loop {
        let due = tokio::time::Instant::now() + BEAT / 4;
        tokio::time::sleep_until(due).await;
        late(due.elapsed());
        beats.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_move_is_named_until_it_does() {
        let pulses = Pulses::default();
        let (first, second) = (Beats::default(), Beats::default());
        pulses.watch("worker-0", first.clone());
        pulses.watch("worker-1", second.clone());
        for _ in 0..3 {
            second.fetch_add(1, Ordering::Relaxed);
            pulses.look();
        }
        assert_eq!(pulses.stalled(3), ["worker-0 has not moved for 3 s"]);
        assert!(pulses.stalled(4).is_empty());
        first.fetch_add(1, Ordering::Relaxed);
        pulses.look();
        assert!(pulses.stalled(2).is_empty());
    }
}
