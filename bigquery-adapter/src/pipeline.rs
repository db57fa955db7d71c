//! Between source and sink: what the source has read waits here until the sink has stored it.
//!
//! The sink runs on a thread of its own. While it stores one batch, the next one gathers; so a batch is as large as the
//! disk is slow, and nobody waits for a timer. The source hears up to which position everything is stored, and acknowledges
//! that far. It also counts what it has handed over and not heard back about, and stops reading at the bound, so
//! nothing here grows beyond what the source lets in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use tokio::sync::watch;

use crate::batch::Batch;
use crate::error::{Code, SinkError};
use crate::ops::metrics::Metrics;
use crate::sinks::Sink;

/// Batches that may wait between source and sink.
pub const QUEUE_BATCHES: usize = 256;
/// Time between two calls of [`Sink::tick`].
const TICK: Duration = Duration::from_millis(200);
const SHORTEST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How batches are cut.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Rows after which a batch is stored.
    pub rows: usize,
    /// Bytes after which a batch is stored.
    pub bytes: usize,
    /// How long a batch may gather beyond what is there when the sink becomes free. 0: not at all.
    pub age: Duration,
}

/// The source's end.
#[derive(Debug)]
pub struct Intake {
    batches: SyncSender<Batch>,
    committed: watch::Receiver<u64>,
}

/// The sink's thread has ended: the reason is what joining it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sink has stopped")]
pub struct SinkStopped;

impl Intake {
    /// Hands over a batch, which must not be empty. Never waits: the source keeps to [`QUEUE_BATCHES`].
    ///
    /// # Errors
    /// When the sink has stopped, or the source did not keep to the bound.
    pub fn give(&self, batch: Batch) -> Result<(), SinkStopped> {
        self.batches.try_send(batch).map_err(|_| SinkStopped)
    }

    /// Waits until more is stored. Cancel safe.
    ///
    /// # Errors
    /// When the sink has stopped.
    pub async fn changed(&mut self) -> Result<(), SinkStopped> {
        self.committed.changed().await.map_err(|_| SinkStopped)
    }

    /// Position up to which everything is stored.
    pub fn committed(&mut self) -> u64 {
        *self.committed.borrow_and_update()
    }
}

/// The sink's thread.
#[derive(Debug)]
pub struct Committer {
    thread: JoinHandle<Result<(), SinkError>>,
    give_up: Arc<AtomicBool>,
}

impl Committer {
    /// Waits until everything given has been stored and the sink is closed; that begins when the intake is dropped.
    ///
    /// # Errors
    /// The reason why the sink could not go on, or could not make everything visible.
    pub fn join(self) -> Result<(), SinkError> {
        self.thread.join().unwrap_or_else(|_| {
            Err(SinkError::Fatal {
                code: Code::SINK_STOPPED,
                text: "the thread of the sink has panicked".to_owned(),
            })
        })
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// From now on a failure to store is final.
    pub fn give_up(&self) {
        self.give_up.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

/// Starts the sink's thread.
///
/// # Errors
/// When the system gives no thread.
pub fn start(
    sink: Box<dyn Sink>,
    settings: Settings,
    metrics: Arc<Metrics>,
) -> std::io::Result<(Intake, Committer)> {
    let (batches, inbox) = sync_channel(QUEUE_BATCHES);
    let (announce, committed) = watch::channel(0);
    let give_up = Arc::new(AtomicBool::new(false));
    let task = Task {
        sink,
        settings,
        metrics,
        inbox,
        announce,
        give_up: Arc::clone(&give_up),
    };
    let thread = thread::Builder::new()
        .name("sink".to_owned())
        .spawn(move || task.run())?;
    Ok((Intake { batches, committed }, Committer { thread, give_up }))
}

struct Task {
    sink: Box<dyn Sink>,
    settings: Settings,
    metrics: Arc<Metrics>,
    inbox: Receiver<Batch>,
    announce: watch::Sender<u64>,
    give_up: Arc<AtomicBool>,
}

impl Task {
    fn run(mut self) -> Result<(), SinkError> {
        loop {
            match self.inbox.recv_timeout(TICK) {
                Ok(mut batch) => {
                    self.gather(&mut batch);
                    self.store(&batch)?;
                    self.announce.send_replace(batch.last_position());
                }
                Err(RecvTimeoutError::Timeout) => self.tick()?,
                Err(RecvTimeoutError::Disconnected) => return self.sink.close(),
            }
        }
    }

    /// Adds what has come meanwhile, up to the limits.
    fn gather(&self, batch: &mut Batch) {
        let deadline = Instant::now() + self.settings.age;
        while batch.rows() < self.settings.rows && batch.as_bytes().len() < self.settings.bytes {
            let wait = deadline.saturating_duration_since(Instant::now());
            let next = if wait.is_zero() {
                self.inbox.try_recv().ok()
            } else {
                self.inbox.recv_timeout(wait).ok()
            };
            match next {
                Some(next) => batch.append(&next),
                None => return,
            }
        }
    }

    fn store(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let mut delays = backon::ExponentialBuilder::default()
            .with_min_delay(SHORTEST_DELAY)
            .with_max_delay(LONGEST_DELAY)
            .without_max_times()
            .build();
        loop {
            let error = match self.sink.commit(batch) {
                Err(error @ SinkError::Retry { .. }) => error,
                done => return done,
            };
            self.metrics.commit_failures.inc();
            if self.give_up.load(Ordering::Acquire) {
                return Err(error);
            }
            tracing::error!(
                code = error.code().as_str(),
                rows = batch.rows(),
                "{error}; nothing is acknowledged meanwhile, trying again"
            );
            thread::park_timeout(delays.next().unwrap_or(LONGEST_DELAY));
        }
    }

    fn tick(&mut self) -> Result<(), SinkError> {
        match self.sink.tick() {
            Err(error @ SinkError::Retry { .. }) => {
                tracing::error!(code = error.code().as_str(), "{error}; trying again");
                Ok(())
            }
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    /// Says what it is asked to store, and answers as it is told.
    struct Scripted {
        seen: Arc<Mutex<Vec<u64>>>,
        answers: Receiver<Result<(), SinkError>>,
        closed: SyncSender<()>,
    }

    impl Sink for Scripted {
        fn commit(&mut self, batch: &Batch) -> Result<(), SinkError> {
            self.seen.lock().unwrap().push(batch.last_position());
            self.answers.recv().unwrap_or(Ok(()))
        }
        fn tick(&mut self) -> Result<(), SinkError> {
            Ok(())
        }
        fn close(self: Box<Self>) -> Result<(), SinkError> {
            self.closed.send(()).unwrap();
            Ok(())
        }
    }

    struct Rig {
        seen: Arc<Mutex<Vec<u64>>>,
        answers: SyncSender<Result<(), SinkError>>,
        closed: Receiver<()>,
        intake: Intake,
        committer: Committer,
    }

    fn rig() -> Rig {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answers, script) = mpsc::sync_channel(16);
        let (closing, closed) = mpsc::sync_channel(1);
        let sink = Box::new(Scripted {
            seen: Arc::clone(&seen),
            answers: script,
            closed: closing,
        });
        let settings = Settings {
            rows: 1000,
            bytes: 1 << 20,
            age: Duration::ZERO,
        };
        let (intake, committer) = start(sink, settings, Arc::new(Metrics::default())).unwrap();
        Rig {
            seen,
            answers,
            closed,
            intake,
            committer,
        }
    }

    fn entry(position: u64) -> Batch {
        let mut batch = Batch::default();
        batch.push_released(position, 1);
        batch
    }

    async fn committed(intake: &mut Intake, position: u64) {
        while intake.committed() < position {
            intake.changed().await.unwrap();
        }
    }

    fn retry() -> Result<(), SinkError> {
        Err(SinkError::Retry {
            code: Code::JOURNAL_WRITE,
            text: "no room".to_owned(),
        })
    }

    #[tokio::test]
    async fn what_comes_while_the_sink_is_busy_is_stored_together() {
        let mut rig = rig();
        rig.intake.give(entry(1)).unwrap();
        while rig.seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        for position in 2..=5 {
            rig.intake.give(entry(position)).unwrap();
        }
        rig.answers.send(Ok(())).unwrap();
        rig.answers.send(Ok(())).unwrap();
        committed(&mut rig.intake, 5).await;
        assert_eq!(*rig.seen.lock().unwrap(), [1, 5]);
    }

    #[tokio::test]
    async fn a_batch_that_was_not_stored_is_given_again_and_not_announced_before() {
        let mut rig = rig();
        rig.answers.send(retry()).unwrap();
        rig.answers.send(retry()).unwrap();
        rig.intake.give(entry(7)).unwrap();
        while rig.seen.lock().unwrap().len() < 3 {
            assert_eq!(rig.intake.committed(), 0);
            tokio::task::yield_now().await;
        }
        rig.answers.send(Ok(())).unwrap();
        committed(&mut rig.intake, 7).await;
        assert_eq!(*rig.seen.lock().unwrap(), [7, 7, 7]);
    }

    #[tokio::test]
    async fn dropping_the_intake_stores_the_rest_and_closes_the_sink() {
        let rig = rig();
        for position in 1..=3 {
            rig.intake.give(entry(position)).unwrap();
        }
        drop(rig.intake);
        drop(rig.answers);
        rig.committer.join().unwrap();
        rig.closed.recv().unwrap();
        assert_eq!(rig.seen.lock().unwrap().last(), Some(&3));
    }

    #[tokio::test]
    async fn a_fatal_error_stops_the_intake_and_is_told_to_who_joins() {
        let mut rig = rig();
        let fatal = SinkError::Fatal {
            code: Code::JOURNAL_SYNC,
            text: "gone".to_owned(),
        };
        rig.answers.send(Err(fatal)).unwrap();
        rig.intake.give(entry(1)).unwrap();
        assert_eq!(rig.intake.changed().await, Err(SinkStopped));
        assert_eq!(rig.committer.join().unwrap_err().code(), Code::JOURNAL_SYNC);
    }

    #[tokio::test]
    async fn giving_up_ends_the_retries() {
        let rig = rig();
        rig.committer.give_up();
        rig.answers.send(retry()).unwrap();
        rig.intake.give(entry(1)).unwrap();
        assert_eq!(
            rig.committer.join().unwrap_err().code(),
            Code::JOURNAL_WRITE
        );
    }
}
