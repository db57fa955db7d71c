//! The broker takes leave of its clients.
//!
//! Evenly over the time there is, and not at once: whoever is sent away connects to another replica within a moment, and
//! that one can take so many a second. In the order of a hash map, that is in none: sorted by how much they do, the
//! busiest would all come last, when the time is short; sorted by age, whole fleets would come together. A quarter of the
//! time is kept back for the last ones to let go and for the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Hub;
use super::wake::{CloseRequest, Wake};

/// How often some are sent away.
const STEP: Duration = Duration::from_millis(20);

/// How much time there is, and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainPlan {
    /// From the first that is told to the last that has let go.
    pub time: Duration,
    /// Clients that are sent away per second at least, however much time there is.
    pub rate: u32,
}

impl DrainPlan {
    /// The time in which the clients are told.
    fn telling(&self) -> Duration {
        self.time - self.time / 4
    }
}

/// Says how many are to be sent away, step by step.
#[derive(Debug)]
struct Pace {
    rate: f64,
    end: Instant,
    updated: Instant,
    /// What may be sent away beyond whole ones.
    part: f64,
}

impl Pace {
    fn new(plan: &DrainPlan, now: Instant) -> Self {
        Self {
            rate: f64::from(plan.rate),
            end: now + plan.telling(),
            updated: now,
            part: 0.0,
        }
    }

    /// How many of the `left` are due now. A runtime that was held up for long does not make up for it at once: what is left
    /// is spread over the time that is left.
    fn due(&mut self, left: usize, now: Instant) -> usize {
        let time = self.end.saturating_duration_since(now) + STEP;
        let passed = (now - self.updated).min(5 * STEP);
        self.updated = now;
        if time <= 2 * STEP {
            return left;
        }
        #[expect(clippy::cast_precision_loss, reason = "connections, far below 2^52")]
        let needed = left as f64 / time.as_secs_f64();
        self.part += needed.max(self.rate) * passed.as_secs_f64();
        let due = self.part.floor();
        self.part -= due;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let due = due as usize;
        due.min(left)
    }
}

impl Hub {
    /// Whether the broker is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Ends all connections, at the pace of the plan: MQTT 5 clients are told with DISCONNECT. Resolves when all have let
    /// go of their sessions and the store holds everything, or the time is over; `true` if all went well.
    /// Cancel safe: called again it goes on.
    pub async fn drain(self: &Arc<Self>, plan: DrainPlan) -> bool {
        self.draining.store(true, Ordering::Release);
        let start = Instant::now();
        let told = tokio::time::timeout_at(start + plan.time, self.send_away(plan, start)).await;
        if tokio::time::timeout_at(start + plan.time, self.note_last())
            .await
            .is_err()
        {
            tracing::warn!("what devices have said last is not noted: the time to stop is over");
        }
        let last = self.submit(Vec::new());
        let durable = dunlin_sync::wait_durable(&*self.store, last);
        let durable = tokio::time::timeout_at(start + plan.time, durable).await;
        told.is_ok() && durable.is_ok_and(|durable| durable)
    }

    /// Tells everybody to go, and waits until they have gone.
    async fn send_away(&self, plan: DrainPlan, start: Instant) {
        let mut pace = Pace::new(&plan, start);
        let mut waiting = VecDeque::from(self.not_told());
        let clients = waiting.len();
        if clients > 0 {
            tracing::info!(
                clients,
                over_ms = u64::try_from(plan.telling().as_millis()).unwrap_or(u64::MAX),
                per_second_at_least = plan.rate,
                "sending the clients away"
            );
        }
        let mut told: Vec<Arc<Wake>> = Vec::with_capacity(clients);
        let mut steps = tokio::time::interval(STEP);
        while !waiting.is_empty() {
            steps.tick().await;
            let due = pace.due(waiting.len(), Instant::now());
            for wake in waiting.drain(..due) {
                wake.close(CloseRequest::ServerShutdown);
                told.push(wake);
            }
            if waiting.is_empty() {
                // Some were about to be let in when it began.
                waiting.extend(self.not_told());
            }
        }
        for wake in told {
            wake.gone().await;
        }
    }

    fn not_told(&self) -> Vec<Arc<Wake>> {
        let connections = self.connections.lock();
        let untold = connections
            .values()
            .filter(|wake| wake.close_request().is_none());
        untold.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are sent away in each second.
    fn by_second(clients: usize, plan: DrainPlan) -> Vec<usize> {
        let start = Instant::now();
        let mut pace = Pace::new(&plan, start);
        let mut left = clients;
        let mut seconds = Vec::new();
        let mut at = Duration::ZERO;
        while left > 0 {
            let due = pace.due(left, start + at);
            left -= due;
            let second = usize::try_from(at.as_secs()).unwrap();
            seconds.resize(seconds.len().max(second + 1), 0);
            seconds[second] += due;
            at += STEP;
        }
        seconds
    }

    #[test]
    fn many_are_spread_evenly_over_three_quarters_of_the_time() {
        let plan = DrainPlan {
            time: Duration::from_secs(40),
            rate: 100,
        };
        let seconds = by_second(30_000, plan);
        assert!((30..=31).contains(&seconds.len()), "{seconds:?}");
        let most = seconds.iter().max().unwrap();
        assert!((1_000..=1_020).contains(most), "{seconds:?}");
    }

    #[test]
    fn few_are_not_kept_waiting() {
        let plan = DrainPlan {
            time: Duration::from_secs(40),
            rate: 100,
        };
        assert_eq!(by_second(50, plan).len(), 1);
        assert_eq!(by_second(250, plan).len(), 3);
    }

    #[test]
    fn without_time_all_go_at_once() {
        let plan = DrainPlan {
            time: Duration::ZERO,
            rate: 1,
        };
        assert_eq!(by_second(10_000, plan), [10_000]);
    }

    #[test]
    fn time_in_which_nothing_ran_is_not_made_up_for_at_once() {
        let plan = DrainPlan {
            time: Duration::from_secs(40),
            rate: 1,
        };
        let start = Instant::now();
        let mut pace = Pace::new(&plan, start);
        assert_eq!(pace.due(3_000, start), 0);
        let due = pace.due(3_000, start + Duration::from_secs(15));
        // A tenth of a second's worth of those that are left to be told in fifteen.
        assert!((1..=21).contains(&due), "{due} at once");
    }
}
