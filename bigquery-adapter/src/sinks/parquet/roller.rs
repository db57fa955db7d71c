//! The thread that turns sealed segments into part files and compacts past days.
//!
//! It is apart from the commits so that no acknowledgement waits for it. At most [`QUEUE`] sealed segments wait; then
//! the commits wait too, which slows the source down: rows that cannot become visible do not pile up without a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use backon::BackoffBuilder;

use super::day::Day;
use super::warehouse::Warehouse;
use crate::error::{Code, SinkError};
use crate::health::{Health, Part};
use crate::ops::metrics::Metrics;

/// Sealed segments that may wait.
const QUEUE: usize = 4;
/// A day is left alone for this long after it has ended: nobody's clock is exact, and queries that began at midnight
/// shall finish.
const COMPACTION_GRACE: Duration = Duration::from_secs(600);
/// Time between two looks for something to compact.
const COMPACTION_EVERY: Duration = Duration::from_secs(600);
/// Time between two attempts to store a segment, at most.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Job {
    Store(u64),
    Close,
}

/// What both threads see.
#[derive(Debug, Default)]
struct Shared {
    /// Segments handed over and not yet stored.
    waiting: AtomicUsize,
    closing: AtomicBool,
}

/// Handle of the thread.
#[derive(Debug)]
pub(super) struct Roller {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), SinkError>>>,
}

impl Drop for Roller {
    /// The thread must not outlive the warehouse's lock.
    fn drop(&mut self) {
        drop(self.stop());
    }
}

impl Roller {
    pub(super) fn start(
        warehouse: Warehouse,
        compact: bool,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE + 1);
        let shared = Arc::new(Shared::default());
        let task = Task {
            warehouse,
            compact,
            health,
            metrics,
            shared: Arc::clone(&shared),
            next_compaction: Instant::now(),
        };
        let thread = thread::Builder::new()
            .name("roller".to_owned())
            .spawn(move || task.run(&inbox))?;
        Ok(Self {
            jobs,
            shared,
            thread: Some(thread),
        })
    }

    /// Whether a segment can be handed over without waiting.
    pub(super) fn has_room(&self) -> bool {
        self.shared.waiting.load(Ordering::Acquire) < QUEUE
    }

    /// Hands over a sealed segment.
    pub(super) fn hand_over(&self, number: u64) -> Result<(), SinkError> {
        self.shared.waiting.fetch_add(1, Ordering::AcqRel);
        self.jobs.send(Job::Store(number)).map_err(|_| stopped())
    }

    /// Finishes what has been handed over and stops. A segment that cannot be stored now stays in the journal.
    pub(super) fn close(mut self) -> Result<(), SinkError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), SinkError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.closing.store(true, Ordering::Release);
        thread.thread().unpark();
        // When the thread is gone, so is the other end; why it went is what joining tells.
        drop(self.jobs.send(Job::Close));
        thread.join().unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> SinkError {
    SinkError::Fatal {
        code: Code::SINK_STOPPED,
        text: "the thread that writes Parquet files has stopped".to_owned(),
    }
}

struct Task {
    warehouse: Warehouse,
    compact: bool,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    next_compaction: Instant,
}

impl Task {
    fn run(mut self, inbox: &Receiver<Job>) -> Result<(), SinkError> {
        loop {
            let wait = self
                .next_compaction
                .saturating_duration_since(Instant::now());
            match inbox.recv_timeout(wait) {
                Ok(Job::Store(number)) => {
                    self.store(number)?;
                    self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
                }
                Ok(Job::Close) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => self.compact(),
            }
        }
    }

    /// Stores a segment, however long that takes; gives up only when the sink is being closed.
    fn store(&mut self, number: u64) -> Result<(), SinkError> {
        let mut delays = backoff();
        loop {
            let begun = Instant::now();
            let error = match self.warehouse.store(number) {
                Ok(rolled) => {
                    self.health.set(Part::Parquet, None);
                    self.metrics.rolled(&rolled, begun.elapsed());
                    tracing::debug!(
                        segment = number,
                        rows = rolled.rows,
                        files = rolled.files,
                        "segment stored as parquet"
                    );
                    return Ok(());
                }
                Err(error) => error,
            };
            let (code, text) = (
                Code::ROLL,
                format!("segment {number} stays in the journal: {error}"),
            );
            self.health.set(Part::Parquet, Some(text.clone()));
            self.metrics.roll_failures.inc();
            if self.shared.closing.load(Ordering::Acquire) {
                return Err(SinkError::Retry { code, text });
            }
            tracing::error!(code = code.as_str(), "{text}; trying again");
            thread::park_timeout(delays.next().unwrap_or(LONGEST_DELAY));
        }
    }

    fn compact(&mut self) {
        self.next_compaction = Instant::now() + COMPACTION_EVERY;
        if !self.compact || self.shared.closing.load(Ordering::Acquire) {
            return;
        }
        let today = Day::of_time(SystemTime::now() - COMPACTION_GRACE);
        match self.warehouse.compact_one(today) {
            Ok(None) => {}
            Ok(Some((day, done))) => {
                self.metrics.compactions.inc();
                tracing::info!(%day, merged = done.merged, into = done.into, "day compacted");
                // There may be more; what has been sealed meanwhile goes first.
                self.next_compaction = Instant::now();
            }
            Err(error) => {
                tracing::warn!(
                    code = Code::COMPACTION.as_str(),
                    "{error}; queries are not affected, trying again later"
                );
            }
        }
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .build()
}
