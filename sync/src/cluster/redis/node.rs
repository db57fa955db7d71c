//! One master as the callers see it: where jobs for it wait, and how it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::encode::Class;
use super::job::Job;
use super::ring::Kept;
use super::url::Address;
use crate::cluster::BackplaneError;

/// What a connection gives back when jobs are dealt out anew.
#[derive(Default)]
pub(super) struct Handback {
    pub(super) jobs: Vec<Job>,
    pub(super) kept: Vec<Kept>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Asked to give everything back, and then to wait.
    drain: Option<oneshot::Sender<Handback>>,
    draining: bool,
    /// Kept writes that were given back and stay.
    kept: Vec<Kept>,
    /// Kept writes of slots that were another server's.
    adopted: Vec<Kept>,
    retired: bool,
}

/// One master.
pub(super) struct Node {
    /// `None`: Sentinels say it.
    pub(super) address: Option<Address>,
    state: Mutex<State>,
    pub(super) wake: Notify,
    /// Jobs up to this one in the order of arrival are given up.
    pub(super) abandoned: watch::Sender<u64>,
    pub(super) connected: AtomicBool,
    pub(super) full: AtomicBool,
    /// Jobs without an answer that the connection has taken.
    pub(super) taken: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) ping_us: AtomicU64,
    /// Bytes in use, and bytes that may be (0: no bound).
    pub(super) memory: [AtomicU64; 2],
    /// Where it was last connected to.
    pub(super) at: Mutex<Option<String>>,
    /// Asked to connect anew: its address has changed.
    pub(super) moved: AtomicBool,
}

/// What a connection has to do.
#[derive(Default)]
pub(super) struct Work {
    pub(super) jobs: VecDeque<Job>,
    pub(super) kept: Vec<Kept>,
    pub(super) draining: bool,
    pub(super) adopts: bool,
    pub(super) retired: bool,
}

impl Node {
    pub(super) fn new(address: Option<Address>) -> Self {
        Self {
            address,
            state: Mutex::default(),
            wake: Notify::new(),
            abandoned: watch::Sender::new(0),
            connected: AtomicBool::new(false),
            full: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            ping_us: AtomicU64::new(0),
            memory: Default::default(),
            at: Mutex::new(None),
            moved: AtomicBool::new(false),
        }
    }

    /// Bytes in use, and bytes that may be (0: no bound).
    pub(super) fn memory(&self) -> (u64, u64) {
        let [used, limit] = &self.memory;
        (used.load(Ordering::Relaxed), limit.load(Ordering::Relaxed))
    }

    /// Hands jobs in, in order. A frame for a channel is lost if there is no connection.
    pub(super) fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let connected = self.connected.load(Ordering::Acquire);
        let mut lost = Vec::new();
        let mut state = self.state.lock();
        for job in jobs {
            match job.command.class == Class::Publish && !connected {
                true => lost.push(job),
                false => state.jobs.push_back(job),
            }
        }
        drop(state);
        for job in lost {
            job.finish(Err(BackplaneError::Lost));
        }
        self.wake.notify_one();
    }

    pub(super) fn take_work(&self) -> Work {
        let mut state = self.state.lock();
        Work {
            jobs: match state.draining {
                true => VecDeque::new(),
                false => std::mem::take(&mut state.jobs),
            },
            kept: std::mem::take(&mut state.kept),
            draining: state.draining,
            adopts: !state.adopted.is_empty(),
            retired: state.retired,
        }
    }

    pub(super) fn take_adopted(&self) -> Vec<Kept> {
        std::mem::take(&mut self.state.lock().adopted)
    }

    /// Jobs without an answer.
    pub(super) fn pending(&self) -> u64 {
        self.state.lock().jobs.len() as u64 + self.taken.load(Ordering::Relaxed)
    }

    /// Asks the connection to give back everything when nothing of it is on its way.
    pub(super) fn drain(&self) -> oneshot::Receiver<Handback> {
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock();
        state.drain = Some(tell);
        state.draining = true;
        drop(state);
        self.wake.notify_one();
        told
    }

    /// The connection's answer to [`drain`](Self::drain); nothing the second time.
    pub(super) fn give_back(&self, take: impl FnOnce() -> Handback) {
        let mut state = self.state.lock();
        let Some(tell) = state.drain.take() else {
            return;
        };
        let mut back = take();
        back.jobs.extend(state.jobs.drain(..));
        if let Err(back) = tell.send(back) {
            // Nobody waits any more: it stays here.
            state.jobs.extend(back.jobs);
            state.kept.extend(back.kept);
            state.draining = false;
        }
    }

    /// Goes on, with these jobs, its kept writes, and those that are to be written again first.
    pub(super) fn resume(&self, jobs: Vec<Job>, kept: Vec<Kept>, adopted: Vec<Kept>) {
        let mut state = self.state.lock();
        state.draining = false;
        state.jobs.extend(jobs);
        state.kept.extend(kept);
        state.adopted.extend(adopted);
        drop(state);
        self.wake.notify_one();
    }

    /// It has no slots any more: its connection ends.
    pub(super) fn retire(&self) {
        self.state.lock().retired = true;
        self.wake.notify_one();
    }

    /// Gives up the jobs up to this one in the order of arrival.
    pub(super) fn abandon(&self, last: u64) {
        let mut state = self.state.lock();
        let (old, newer) = std::mem::take(&mut state.jobs)
            .into_iter()
            .partition(|job| job.order <= last);
        state.jobs = newer;
        drop(state);
        let old: VecDeque<Job> = old;
        for job in old {
            job.finish(Err(BackplaneError::Lost));
        }
        self.abandoned.send_replace(last);
        self.wake.notify_one();
    }

    /// Everything that waits here.
    pub(super) fn take_all(&self) -> Vec<Job> {
        self.state.lock().jobs.drain(..).collect()
    }
}
