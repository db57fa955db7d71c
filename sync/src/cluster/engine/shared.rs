//! What the callers' threads and the engine's task have in common.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::figures::Counters;
use super::inbox::LetGo;
use super::lanes::Lanes;
use super::own::OwnSession;
use super::reads::Reads;
use crate::cluster::{ClaimError, ClaimRequest, Claimed, ClusterEvents, ReplicaId};
use crate::records::Listeners;
use crate::{Batch, Op, SessionId, StoreError, Ticket};

/// Something for the engine's task, in the order in which it was handed in.
pub(super) enum Job {
    Batch(Pending),
    Claim(Claiming),
    Start(
        Arc<dyn ClusterEvents>,
        oneshot::Sender<Result<(), ClaimError>>,
    ),
    /// Sessions that may be changed though they were not claimed.
    Adopt(Vec<(SessionId, OwnSession)>),
}

/// A batch that was handed in.
pub(super) struct Pending {
    pub(super) ticket: u64,
    pub(super) weight: usize,
    pub(super) batch: Batch,
    /// It was kept when others were given up.
    pub(super) kept: bool,
    /// It was sent before: number of the last append before its own.
    pub(super) numbered: Option<u64>,
}

/// A claim that was handed in.
pub(super) struct Claiming {
    pub(super) request: ClaimRequest,
    pub(super) answer: oneshot::Sender<Result<Claimed, ClaimError>>,
    /// From an earlier attempt, which came before a failover was over.
    pub(super) carried: Carried,
}

/// What only the first of several claims is told.
#[derive(Default)]
pub(super) struct Carried {
    pub(super) took_over: bool,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) jobs: VecDeque<Job>,
    last_ticket: u64,
    /// Set once: everything before it is to be committed within so long, and nothing more is taken.
    pub(super) closing: Option<Duration>,
    /// The task has ended: submitters answer themselves.
    closed: bool,
    /// Jobs from the front that nobody waits for.
    patient: usize,
    /// Jobs from the front whose freeing changes have been taken.
    freed: usize,
}

impl Inbox {
    /// Changes that free memory of Redis and may overtake everything, taken out of their batches: entries
    /// of which `known` says that they were told. Each job is looked through once.
    pub(super) fn take_freeing(&mut self, known: impl Fn(SessionId, u64) -> bool) -> Vec<Op> {
        const AT_ONCE: usize = 4096;
        let mut freeing = Vec::new();
        for job in self.jobs.iter_mut().skip(self.freed) {
            if freeing.len() >= AT_ONCE {
                break;
            }
            self.freed += 1;
            let Job::Batch(pending) = job else { continue };
            let frees = |op: &mut Op| match op {
                Op::Dequeue { session, seq } | Op::Release { session, seq } => {
                    known(*session, *seq)
                }
                _ => false,
            };
            freeing.extend(pending.batch.ops.extract_if(.., frees));
        }
        freeing
    }

    /// Whether somebody waits for any of these jobs; acknowledgements of receivers alone may wait, if they
    /// are not many.
    pub(super) fn is_urgent(&mut self) -> bool {
        const PATIENT_MAX: usize = 256;
        if self.closing.is_some() || self.jobs.len() > PATIENT_MAX {
            return true;
        }
        let urgent = self.jobs.iter().skip(self.patient).any(|job| match job {
            Job::Batch(pending) => {
                let ops = &pending.batch.ops;
                ops.is_empty() || !ops.iter().all(|op| matches!(op, Op::Dequeue { .. }))
            }
            Job::Claim(_) | Job::Start(..) | Job::Adopt(_) => true,
        });
        if !urgent {
            self.patient = self.jobs.len();
        }
        urgent
    }

    /// Puts batches before all others.
    pub(super) fn put_first(&mut self, batches: Vec<Pending>) {
        for pending in batches.into_iter().rev() {
            self.jobs.push_front(Job::Batch(pending));
        }
        self.freed = 0;
        self.patient = 0;
    }

    /// The first jobs.
    pub(super) fn take(&mut self, count: usize) -> Vec<Job> {
        self.freed = self.freed.saturating_sub(count);
        self.patient = self.patient.saturating_sub(count);
        self.jobs.drain(..count).collect()
    }
}

/// Numbers for sessions, drawn ahead.
#[derive(Default)]
pub(super) struct Numbers {
    /// Blocks, as first and one past the last.
    blocks: VecDeque<(u64, u64)>,
    pub(super) asked: bool,
}

impl Numbers {
    /// Numbers in a block.
    pub(super) const BLOCK: u64 = 8192;

    pub(super) fn left(&self) -> u64 {
        self.blocks.iter().map(|(first, end)| end - first).sum()
    }

    /// They may be given to others.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }

    pub(super) fn add(&mut self, first: u64, count: u64) {
        self.blocks.push_back((first, first.saturating_add(count)));
    }

    pub(super) fn take(&mut self) -> Option<u64> {
        while let Some((first, end)) = self.blocks.front_mut() {
            if first < end {
                *first += 1;
                return Some(*first - 1);
            }
            self.blocks.pop_front();
        }
        None
    }
}

pub(super) struct Shared {
    pub(super) inbox: Mutex<Inbox>,
    scheduled: AtomicBool,
    waker: AtomicWaker,
    durable: AtomicU64,
    pending: AtomicUsize,
    watch: watch::Sender<u64>,
    failure: Mutex<Option<StoreError>>,
    replica: AtomicU64,
    /// All times are microseconds since then.
    base: Instant,
    /// Until then the lease runs, as far as this replica may rely on it.
    fence_at: AtomicU64,
    /// The tables are whole and every live replica knows of this one.
    ready: AtomicBool,
    pub(super) reads: Mutex<Reads>,
    pub(super) numbers: Mutex<Numbers>,
    pub(super) more_numbers: Condvar,
    pub(super) lanes: Mutex<Lanes>,
    pub(super) counters: Counters,
    /// Those who want to know of changes of records.
    pub(super) listeners: Arc<Listeners>,
    /// What `cluster status` shows, when it has changed.
    info: Mutex<Option<Bytes>>,
    /// What nobody holds any more, and who held it.
    let_go: Mutex<Vec<(ReplicaId, LetGo)>>,
    /// So many failovers of Redis are made good by all replicas.
    made_good: watch::Sender<u64>,
    ended: watch::Sender<bool>,
    end: Mutex<bool>,
    end_reached: Condvar,
}

impl Shared {
    pub(super) fn new(lanes: Lanes) -> Self {
        Self {
            inbox: Mutex::default(),
            scheduled: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            durable: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            watch: watch::Sender::new(0),
            failure: Mutex::new(None),
            replica: AtomicU64::new(0),
            base: Instant::now(),
            fence_at: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            reads: Mutex::default(),
            numbers: Mutex::default(),
            more_numbers: Condvar::new(),
            lanes: Mutex::new(lanes),
            counters: Counters::default(),
            listeners: Arc::default(),
            info: Mutex::new(None),
            let_go: Mutex::default(),
            // A store that is alone waits for nobody.
            made_good: watch::Sender::new(u64::MAX),
            ended: watch::Sender::new(false),
            end: Mutex::new(false),
            end_reached: Condvar::new(),
        }
    }

    /// Runs the task soon; two atomics if that is arranged already.
    pub(super) fn wake(&self) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// For the task: whether it was to run; arranges to be woken from here on.
    pub(super) fn begin(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.scheduled.swap(false, Ordering::AcqRel)
    }

    pub(super) fn submit(&self, batch: Batch) -> Ticket {
        let weight = batch.weight();
        self.pending.fetch_add(weight, Ordering::Relaxed);
        let mut inbox = self.inbox.lock();
        inbox.last_ticket += 1;
        let pending = Pending {
            ticket: inbox.last_ticket,
            weight,
            batch,
            kept: false,
            numbered: None,
        };
        let ticket = Ticket(pending.ticket);
        if inbox.closed || inbox.closing.is_some() {
            drop(inbox);
            let error = self.failure().unwrap_or(StoreError::Closed);
            if let Some(callback) = pending.batch.on_commit {
                callback.failed(&error);
            }
            self.raise(ticket.0);
            self.unload(weight);
            return ticket;
        }
        inbox.jobs.push_back(Job::Batch(pending));
        drop(inbox);
        self.wake();
        ticket
    }

    /// Hands in anything else; `false` if the task has ended.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.closed || inbox.closing.is_some() {
            return false;
        }
        inbox.jobs.push_back(job);
        drop(inbox);
        self.wake();
        true
    }

    /// Hands in a claim again, before everything else.
    pub(super) fn claim_again(&self, claiming: Claiming) {
        let mut inbox = self.inbox.lock();
        inbox.jobs.push_front(Job::Claim(claiming));
        inbox.freed = inbox.freed.saturating_add(1).min(inbox.jobs.len());
        inbox.patient = 0;
    }

    /// Takes nothing more; what is there is committed within `patience`.
    pub(super) fn close(&self, patience: Duration) {
        let mut inbox = self.inbox.lock();
        let patience = inbox.closing.map_or(patience, |set| set.min(patience));
        inbox.closing = Some(patience);
        drop(inbox);
        self.wake();
    }

    pub(super) fn set_info(&self, info: Bytes) {
        *self.info.lock() = Some(info);
    }

    /// What has been set since the last call.
    pub(super) fn take_info(&self) -> Option<Bytes> {
        self.info.lock().take()
    }

    /// `what` is not held by `replica` any more. At most as many as are held.
    pub(super) fn let_go_of(&self, replica: ReplicaId, what: LetGo) {
        self.let_go.lock().push((replica, what));
        self.wake();
    }

    pub(super) fn take_let_go(&self) -> Vec<(ReplicaId, LetGo)> {
        std::mem::take(&mut *self.let_go.lock())
    }

    /// Called once by the task when it ends; gives back what has come in since it last looked.
    pub(super) fn end(&self) -> VecDeque<Job> {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        let late = std::mem::take(&mut inbox.jobs);
        drop(inbox);
        self.ready.store(false, Ordering::Release);
        late
    }

    /// After [`Self::end`], when everything is told.
    pub(super) fn ended(&self) {
        self.fail(&StoreError::Closed);
        *self.end.lock() = true;
        self.end_reached.notify_all();
        self.more_numbers.notify_all();
        self.made_good.send_replace(u64::MAX);
        self.ended.send_replace(true);
    }

    pub(super) fn set_made_good(&self, failovers: u64) {
        self.made_good
            .send_if_modified(|known| std::mem::replace(known, failovers) != failovers);
    }

    /// Resolves when all replicas have written again what so many failovers have lost, or the task has ended.
    pub(super) async fn until_made_good(&self, failovers: u64) {
        let mut made_good = self.made_good.subscribe();
        // An error means that the sender is gone, which `self` owns.
        let waited = made_good.wait_for(|known| *known >= failovers).await;
        let _unreachable_error = waited.is_err();
    }

    /// Blocks until the task has ended, but not for longer than this.
    pub(super) fn wait_end(&self, limit: Duration) -> bool {
        let mut ended = self.end.lock();
        if !*ended {
            self.end_reached
                .wait_while_for(&mut ended, |ended| !*ended, limit);
        }
        *ended
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Resolves when the task has ended.
    pub(super) async fn until_end(&self) {
        let mut ended = self.ended.subscribe();
        // An error means that the sender is gone, which `self` owns.
        let _unreachable_error = ended.wait_for(|ended| *ended).await.is_err();
    }

    /// Everything up to this ticket is durable, or has failed.
    pub(super) fn raise(&self, ticket: u64) {
        self.durable.fetch_max(ticket, Ordering::AcqRel);
        self.watch
            .send_replace(self.durable.load(Ordering::Acquire));
    }

    /// Batches of this weight are done with.
    pub(super) fn unload(&self, weight: usize) {
        self.pending.fetch_sub(weight, Ordering::Relaxed);
    }

    pub(super) fn durable(&self) -> Ticket {
        Ticket(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.watch.subscribe()
    }

    /// Remembers the first failure.
    pub(super) fn fail(&self, error: &StoreError) {
        self.failure.lock().get_or_insert_with(|| error.clone());
    }

    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.lock().clone()
    }

    pub(super) fn replica(&self) -> ReplicaId {
        ReplicaId(self.replica.load(Ordering::Acquire))
    }

    pub(super) fn set_replica(&self, replica: ReplicaId) {
        self.replica.store(replica.0, Ordering::Release);
    }

    pub(super) fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.base).as_micros() as u64
    }

    /// The lease may be relied on until then.
    pub(super) fn set_fence(&self, at: Instant) {
        self.fence_at.store(self.micros(at), Ordering::Release);
    }

    /// Whether the lease runs at this moment.
    pub(super) fn lease_runs(&self) -> bool {
        self.micros(Instant::now()) < self.fence_at.load(Ordering::Acquire)
    }

    /// Microseconds since the last renewal was asked for.
    pub(super) fn lease_age_us(&self, fence: Duration) -> u64 {
        let renewed = self
            .fence_at
            .load(Ordering::Acquire)
            .saturating_sub(fence.as_micros() as u64);
        self.micros(Instant::now()).saturating_sub(renewed)
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub(super) fn may_acknowledge(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.lease_runs()
    }
}
