//! Group commit: many submitters, one writer thread, one commit per round.
//!
//! A round is whatever has been submitted while the previous commit was under way, so the group
//! grows by itself with the load and a lone submitter is served at once. The thread owns the
//! [`Backend`]; submitters touch only a short queue under a lock.
//!
//! When a commit fails or anything panics, the thread lives on to fail every later batch: a
//! submitter is always answered, on the same thread and in the same order.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;
use tracing::error;

use crate::{Appended, Batch, Committed, Op, StoreError, Ticket};

/// Bytes after which a round takes no further batch, so that a commit stays short.
const ROUND_BYTES: usize = 8 << 20;
/// Batches after which a round takes no further one.
const ROUND_BATCHES: usize = 16_384;

/// What a store does on the writer thread.
pub(crate) trait Backend: Send + 'static {
    /// Adds the changes of one batch to the round.
    fn stage(&mut self, ops: Vec<Op>) -> Result<Vec<Appended>, StoreError>;

    /// Makes the round durable and visible to readers.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// A piece of background work, done when nothing waits to be committed and now and then else.
    fn background(&mut self) -> Result<Next, StoreError>;

    /// Last words before the thread ends.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// When background work is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Only after another commit.
    AfterCommit,
    /// At once: there is more to do.
    Now,
    /// After this time, commits or not.
    After(Duration),
}

impl Next {
    /// Whichever comes first.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Now, _) | (_, Self::Now) => Self::Now,
            (Self::AfterCommit, next) | (next, Self::AfterCommit) => next,
            (Self::After(one), Self::After(other)) => Self::After(one.min(other)),
        }
    }
}

struct Pending {
    ticket: u64,
    weight: usize,
    batch: Batch,
}

#[derive(Default)]
struct Inbox {
    batches: VecDeque<Pending>,
    last_ticket: u64,
    closing: bool,
    /// The thread has ended: submitters answer themselves.
    closed: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    durable: AtomicU64,
    pending: AtomicUsize,
    watch: watch::Sender<u64>,
    failure: Mutex<Option<StoreError>>,
}

/// The submitters' side; the writer thread ends with it.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Pipeline {
    /// Starts the writer thread.
    pub(crate) fn start(name: &str, backend: impl Backend) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            watch: watch::Sender::new(0),
            failure: Mutex::new(None),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            backend,
            next: Next::Now,
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn submit(&self, batch: Batch) -> Ticket {
        self.shared.submit(batch)
    }

    /// For those who submit and may outlive the store.
    pub(crate) fn submitter(&self) -> Submitter {
        Submitter(Arc::clone(&self.shared))
    }

    pub(crate) fn durable(&self) -> Ticket {
        Ticket(self.shared.durable.load(Ordering::Acquire))
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.shared.watch.subscribe()
    }

    pub(crate) fn health(&self) -> Result<(), StoreError> {
        match &*self.shared.failure.lock() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Commits what was submitted, ends the thread and reports what had stopped it, if anything.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        self.shared.inbox.lock().closing = true;
        self.shared.wake.notify_one();
        // A callback may hold the last handle of the store: the thread cannot wait for itself, and
        // ends by itself.
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
            && let Err(panic) = thread.join()
        {
            self.shared.fail(&panicked(&*panic));
        }
        match self.health() {
            Err(StoreError::Closed) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            error!(code = error.code(), %error, "store closed after a failure");
        }
    }
}

/// Hands in batches; keeps nothing open.
#[derive(Clone)]
pub(crate) struct Submitter(Arc<Shared>);

impl Submitter {
    pub(crate) fn submit(&self, batch: Batch) -> Ticket {
        self.0.submit(batch)
    }
}

impl Shared {
    fn submit(&self, batch: Batch) -> Ticket {
        let weight = batch.weight();
        self.pending.fetch_add(weight, Ordering::Relaxed);
        let mut inbox = self.inbox.lock();
        inbox.last_ticket += 1;
        let ticket = inbox.last_ticket;
        let pending = Pending {
            ticket,
            weight,
            batch,
        };
        if inbox.closed {
            drop(inbox);
            self.answer_closed(pending);
        } else {
            inbox.batches.push_back(pending);
            drop(inbox);
            self.wake.notify_one();
        }
        Ticket(ticket)
    }

    /// Remembers the first failure.
    fn fail(&self, error: &StoreError) {
        self.failure.lock().get_or_insert_with(|| error.clone());
    }

    fn failure(&self) -> Option<StoreError> {
        self.failure.lock().clone()
    }

    fn done(&self, ticket: u64, weight: usize) {
        self.pending.fetch_sub(weight, Ordering::Relaxed);
        self.durable.fetch_max(ticket, Ordering::AcqRel);
        self.watch
            .send_replace(self.durable.load(Ordering::Acquire));
    }

    /// The thread is gone: the submitter itself tells its callback.
    fn answer_closed(&self, pending: Pending) {
        let error = self.failure().unwrap_or(StoreError::Closed);
        tell_failed(pending.batch.on_commit, &error);
        self.done(pending.ticket, pending.weight);
    }
}

enum Wake {
    Round(Vec<Pending>),
    Background,
    Close,
}

struct Writer<B> {
    shared: Arc<Shared>,
    backend: B,
    next: Next,
}

/// A batch that is staged, or refused.
struct Staged {
    on_commit: Option<Box<dyn Committed>>,
    outcome: Result<Vec<Appended>, StoreError>,
}

impl<B: Backend> Writer<B> {
    fn run(mut self) {
        loop {
            match self.wait() {
                Wake::Round(round) => self.round(round),
                Wake::Background => self.background(),
                Wake::Close => break,
            }
        }
        self.finish();
    }

    /// Waits for batches, a background deadline or the end.
    fn wait(&self) -> Wake {
        let mut inbox = self.shared.inbox.lock();
        loop {
            if !inbox.batches.is_empty() {
                return Wake::Round(take_round(&mut inbox.batches));
            }
            if inbox.closing {
                return Wake::Close;
            }
            match self.next {
                Next::Now => return Wake::Background,
                Next::AfterCommit => self.shared.wake.wait(&mut inbox),
                Next::After(time) => {
                    if self.shared.wake.wait_for(&mut inbox, time).timed_out()
                        && inbox.batches.is_empty()
                    {
                        return Wake::Background;
                    }
                }
            }
        }
    }

    fn round(&mut self, round: Vec<Pending>) {
        let weight = round.iter().map(|pending| pending.weight).sum();
        let ticket = round.last().map_or(0, |pending| pending.ticket);
        let mut staged = Vec::with_capacity(round.len());
        let result = match self.shared.failure() {
            Some(error) => {
                refuse_all(round, &mut staged);
                Err(error)
            }
            None => self.commit(round, &mut staged),
        };
        if let Err(error) = &result {
            self.shared.fail(error);
        }
        for batch in staged {
            self.tell(batch, &result);
        }
        self.shared.done(ticket, weight);
        if result.is_ok() {
            // Background work keeps its turn under constant load.
            self.background();
        }
    }

    /// Stages and commits; every batch ends up in `staged`, whatever happens.
    fn commit(&mut self, round: Vec<Pending>, staged: &mut Vec<Staged>) -> Result<(), StoreError> {
        let mut result = Ok(());
        for pending in round {
            let Batch { ops, on_commit, .. } = pending.batch;
            let outcome = if result.is_ok() {
                let backend = &mut self.backend;
                check(&ops).map(|()| guarded(|| backend.stage(ops)))
            } else {
                Ok(Ok(Vec::new()))
            };
            let outcome = match outcome {
                Err(invalid) => Err(invalid),
                Ok(Ok(appended)) => Ok(appended),
                Ok(Err(error)) => {
                    result = Err(error);
                    Ok(Vec::new())
                }
            };
            staged.push(Staged { on_commit, outcome });
        }
        result.and_then(|()| guarded(|| self.backend.commit()))
    }

    fn tell(&self, staged: Staged, result: &Result<(), StoreError>) {
        let told = guarded(|| {
            match (staged.outcome, result) {
                (Err(invalid), _) => tell_failed(staged.on_commit, &invalid),
                (Ok(_), Err(error)) => tell_failed(staged.on_commit, error),
                (Ok(appended), Ok(())) => {
                    if let Some(callback) = staged.on_commit {
                        callback.committed(appended);
                    }
                }
            }
            Ok(())
        });
        if let Err(error) = told {
            error!(code = error.code(), %error, "a commit callback panicked");
            self.shared.fail(&error);
        }
    }

    fn background(&mut self) {
        if self.shared.failure().is_some() {
            self.next = Next::AfterCommit;
            return;
        }
        match guarded(|| self.backend.background()) {
            Ok(next) => self.next = next,
            Err(error) => {
                error!(code = error.code(), %error, "background work of the store failed");
                self.shared.fail(&error);
                self.next = Next::AfterCommit;
            }
        }
    }

    fn finish(mut self) {
        if self.shared.failure().is_none()
            && let Err(error) = guarded(|| self.backend.close())
        {
            self.shared.fail(&error);
        }
        self.shared.fail(&StoreError::Closed);
        // A batch may have come in since the last look; nothing is left unanswered.
        let mut inbox = self.shared.inbox.lock();
        inbox.closed = true;
        let late = std::mem::take(&mut inbox.batches);
        drop(inbox);
        for pending in late {
            self.shared.answer_closed(pending);
        }
    }
}

fn take_round(batches: &mut VecDeque<Pending>) -> Vec<Pending> {
    let mut bytes = 0;
    let count = batches
        .iter()
        .take(ROUND_BATCHES)
        .take_while(|pending| {
            let room = bytes < ROUND_BYTES;
            bytes += pending.weight;
            room
        })
        .count();
    batches.drain(..count).collect()
}

fn check(ops: &[Op]) -> Result<(), StoreError> {
    ops.iter().try_for_each(Op::check)
}

fn refuse_all(round: Vec<Pending>, staged: &mut Vec<Staged>) {
    staged.extend(round.into_iter().map(|pending| Staged {
        on_commit: pending.batch.on_commit,
        outcome: Ok(Vec::new()),
    }));
}

fn tell_failed(on_commit: Option<Box<dyn Committed>>, error: &StoreError) {
    if let Some(callback) = on_commit {
        callback.failed(error);
    }
}

/// Runs `work` and turns a panic into an error. What `work` has half changed is never used again:
/// every panic ends in a failure that stops the store.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => Err(panicked(&*panic)),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> StoreError {
    let reason = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned());
    StoreError::Panicked { reason }
}
