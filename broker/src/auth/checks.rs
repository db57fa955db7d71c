//! Password checks take long on purpose; here they stand in line.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Counts one that waits.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        let ahead = count.fetch_add(1, Ordering::Relaxed);
        Self { count, ahead }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much the threads of checks give way to the others.
const NICENESS: i32 = 10;

thread_local! {
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Lowers the priority of this thread, for good: it is one of a worker's pool, in which there is nothing but checks. A flood of
/// wrong passwords then takes the time that is left over, and those who are connected hardly notice.
fn give_way() {
    if !GIVES_WAY.replace(true)
        && let Err(error) = rustix::process::nice(NICENESS)
    {
        tracing::debug!(%error, "the threads of password checks keep their priority");
    }
}

/// Runs slow checks, a bounded number at once, on threads that have no other work.
#[derive(Debug)]
pub struct Checks {
    turns: Semaphore,
    /// Of these, how many may be for clients that were not here before: one is kept for those who were, so that a flood of
    /// wrong passwords does not keep them out.
    strangers: Semaphore,
    max: usize,
    /// Checks that wait for their turn: those of strangers, and of those who were here before.
    waiting: [AtomicUsize; 2],
    /// What one takes, in microseconds: seven parts of what was known, one of the newest.
    takes_us: AtomicU64,
    patience: Duration,
}

/// The permission to check, and that of a stranger beside it.
type Turn<'a> = (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>);

/// Why a check gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// So many wait that it would have come too late.
    Busy,
    /// The check itself has failed.
    Failed,
}

impl Checks {
    /// `max` checks run at once; each waits for its turn at most `patience`.
    #[must_use]
    pub fn new(max: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            turns: Semaphore::new(max.max(1)),
            strangers: Semaphore::new(max.saturating_sub(1).max(1)),
            max: max.max(1),
            waiting: Default::default(),
            takes_us: AtomicU64::new(0),
            patience,
        })
    }

    /// Runs a check. Cancel safe: one that has begun goes on by itself.
    ///
    /// # Errors
    /// When there was no turn for it in time, or it has panicked.
    pub async fn run(
        &self,
        known: bool,
        check: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, NoAnswer> {
        let _turn = self.turn(known).await.ok_or(NoAnswer::Busy)?;
        let began = Instant::now();
        let answer = tokio::task::spawn_blocking(|| {
            give_way();
            check()
        })
        .await;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let known = self.takes_us.load(Ordering::Relaxed);
        let newer = if known == 0 {
            took
        } else {
            known / 8 * 7 + took / 8
        };
        self.takes_us.store(newer, Ordering::Relaxed);
        answer.map_err(|error| {
            tracing::error!(%error, "a password check failed to run");
            NoAnswer::Failed
        })
    }

    /// The permission to check; `None` when it would come too late. Who would wait for longer than half the patience is
    /// refused at once, and knows it: in a storm the others are checked in time, instead of all just too late.
    async fn turn(&self, known: bool) -> Option<Turn<'_>> {
        let [strangers, others] = &self.waiting;
        let waiting = Waiting::new(match known {
            true => others,
            false => strangers,
        });
        let turn = async {
            let stranger = match known {
                true => None,
                false => Some(self.strangers.acquire().await.ok()?),
            };
            Some((self.turns.acquire().await.ok()?, stranger))
        };
        let mut turn = std::pin::pin!(tokio::time::timeout(self.patience, turn));
        if let Some(at_once) = turn.as_mut().now_or_never() {
            return at_once.ok()?;
        }
        let ahead = u64::try_from(waiting.ahead / self.max).unwrap_or(u64::MAX);
        let wait = ahead.saturating_mul(self.takes_us.load(Ordering::Relaxed));
        if Duration::from_micros(wait) > self.patience / 2 {
            return None;
        }
        turn.await.ok()?
    }
}
