//! The threads that serve connections.
//!
//! Each worker is an OS thread with a runtime of its own that never steals work, so the state of a
//! connection stays on one core and its tasks never wait for a lock that a neighbour holds. A new
//! connection goes to the worker with the fewest tasks.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::ops::pulse::{Beats, beat};

/// Jobs that may wait for one worker.
const WAITING_JOBS: usize = 1_024;

type Job = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The worker threads. Dropping it stops them without waiting for their tasks.
#[derive(Debug)]
pub struct Workers {
    workers: Box<[Worker]>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Worker {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    load: Arc<Load>,
    beats: Beats,
}

/// The number of tasks of one worker.
type Load = AtomicUsize;

/// Counts one task while it lives.
struct LoadGuard(Arc<Load>);

impl LoadGuard {
    fn new(load: &Arc<Load>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The workers have stopped, or have too much to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// Jobs wait already up to the bound.
    #[error("1024 tasks wait for the least loaded worker already")]
    Busy,
    /// The broker is stopping.
    #[error("the workers have stopped")]
    Stopped,
}

impl Workers {
    /// Starts `count` workers (at least one). `late` is told now and then how late a timer of a worker fires.
    ///
    /// # Errors
    /// When the system refuses a thread or a runtime.
    pub fn start(
        count: usize,
        late: impl Fn(Duration) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let (jobs, queue) = mpsc::channel(WAITING_JOBS);
            let load = Arc::new(Load::default());
            let beats = Beats::default();
            let beating = beat(Arc::clone(&beats), late.clone());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(16)
                .build()?;
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    CURRENT.set(Some(index));
                    runtime.block_on(work(queue, beating));
                    runtime.shutdown_timeout(Duration::from_millis(100));
                })?;
            workers.push(Worker {
                jobs: Mutex::new(Some(jobs)),
                load,
                beats,
            });
            threads.push(thread);
        }
        Ok(Self {
            workers: workers.into(),
            threads: Mutex::new(threads),
        })
    }

    /// How many workers there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// The worker that the calling code runs on.
    #[must_use]
    pub fn current() -> Option<usize> {
        CURRENT.get()
    }

    /// What each worker's loop raises while it moves.
    pub fn beats(&self) -> impl Iterator<Item = Beats> {
        self.workers.iter().map(|worker| Arc::clone(&worker.beats))
    }

    /// Tasks that live on all workers.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.load.load(Ordering::Relaxed))
            .sum()
    }

    /// Gives a task to the worker that has the fewest. The future is made on the worker, so that what
    /// it registers (sockets, timers) belongs to the worker's runtime.
    ///
    /// # Errors
    /// [`SpawnError::Busy`] when too many jobs wait for that worker, [`SpawnError::Stopped`] at the end.
    pub fn spawn_on_least_loaded<F, Fut>(&self, make: F) -> Result<(), SpawnError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let least = self
            .workers
            .iter()
            .min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        least.ok_or(SpawnError::Stopped)?.try_spawn(make)
    }

    /// Gives a task to one worker, counted from 0; a larger number wraps around.
    ///
    /// # Errors
    /// As [`Workers::spawn_on_least_loaded`].
    pub fn spawn_on<F, Fut>(&self, worker: usize, make: F) -> Result<(), SpawnError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let index = worker
            .checked_rem(self.workers.len())
            .ok_or(SpawnError::Stopped)?;
        self.workers
            .get(index)
            .ok_or(SpawnError::Stopped)?
            .try_spawn(make)
    }

    /// Takes no more tasks, waits until those that live have ended or `limit` is over, and ends the
    /// threads. Returns the number of tasks that were cut off. Blocks the calling thread.
    pub fn stop(&self, limit: Duration) -> usize {
        let deadline = std::time::Instant::now() + limit;
        while self.tasks() > 0 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let left = self.tasks();
        self.close();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread had panicked");
            }
        }
        left
    }

    fn close(&self) {
        for worker in &self.workers {
            worker.jobs.lock().take();
        }
    }
}

impl Worker {
    fn try_spawn<F, Fut>(&self, make: F) -> Result<(), SpawnError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let guard = LoadGuard::new(&self.load);
        let job: Job = Box::new(move || {
            // An async block that awaits what it has captured would have two places for it.
            Box::pin(make().map(move |()| drop(guard)))
        });
        let jobs = self.jobs.lock().clone().ok_or(SpawnError::Stopped)?;
        jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SpawnError::Busy,
            mpsc::error::TrySendError::Closed(_) => SpawnError::Stopped,
        })
    }
}

/// Runs on a worker until the last sender is gone; tasks still alive then die with the runtime.
async fn work(mut queue: mpsc::Receiver<Job>, beating: impl Future<Output = ()>) {
    let jobs = async {
        while let Some(job) = queue.recv().await {
            tokio::spawn(job());
        }
    };
    tokio::select! {
        () = jobs => {}
        () = beating => {}
    }
}
