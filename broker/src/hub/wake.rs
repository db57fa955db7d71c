//! How others reach a connection's task: something waits to be sent, a write is durable, close.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::live::About;

/// Why the server ends a connection from outside its own task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CloseRequest {
    /// Another connection has the client id now: 0x8E.
    TakenOver = 1,
    /// The broker drains: 0x8B.
    ServerShutdown = 2,
    /// The store cannot be written: what this client was promised cannot be kept.
    StoreFailed = 3,
    /// The client is connected to another replica now: 0x8E.
    ClaimedElsewhere = 4,
    /// This replica is cut off from the cluster: 0x89, another one may serve the client.
    Suspended = 5,
    /// The others have taken this replica for dead, and done what follows from that: 0x89.
    TakenForDead = 6,
    /// Memory is short, and much waits for this client: 0x97.
    MemoryShort = 7,
    /// It may no longer do what it did, or is no longer known: 0x87.
    NotAuthorized = 8,
    /// The time of its credential is over: 0xA0.
    Expired = 9,
    /// Somebody wants it gone: 0x98.
    Administrative = 10,
}

/// The mailbox of one connection; costs two atomics while nothing happens.
#[derive(Debug)]
pub(crate) struct Wake {
    scheduled: AtomicBool,
    waker: AtomicWaker,
    close: AtomicU8,
    /// Number of the newest submission of this connection that is durable.
    committed: AtomicU64,
    /// The outgoing bytes passed half their bound and the task has not come round since.
    congested: AtomicBool,
    gone: AtomicBool,
    left: Notify,
    pub(crate) about: About,
}

impl Wake {
    pub(crate) fn new(about: About) -> Self {
        Self {
            scheduled: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            close: AtomicU8::new(0),
            committed: AtomicU64::new(0),
            congested: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            left: Notify::new(),
            about,
        }
    }

    /// Runs the task soon; free of charge when that is arranged already.
    pub(crate) fn wake(&self) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Called by the task when it runs: from here on [`Self::wake`] counts again.
    pub(crate) fn begin(&self, waker: &Waker) {
        self.waker.register(waker);
        // Taken after registering: a wake in between is not lost, it wakes the new waker.
        self.scheduled.store(false, Ordering::Release);
    }

    /// Asks the task to close its connection; the first reason stays.
    pub(crate) fn close(&self, reason: CloseRequest) {
        let _first_stays =
            self.close
                .compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
        self.wake();
    }

    /// What was asked with [`Self::close`].
    pub(crate) fn close_request(&self) -> Option<CloseRequest> {
        match self.close.load(Ordering::Acquire) {
            0 => None,
            1 => Some(CloseRequest::TakenOver),
            2 => Some(CloseRequest::ServerShutdown),
            4 => Some(CloseRequest::ClaimedElsewhere),
            5 => Some(CloseRequest::Suspended),
            6 => Some(CloseRequest::TakenForDead),
            7 => Some(CloseRequest::MemoryShort),
            8 => Some(CloseRequest::NotAuthorized),
            9 => Some(CloseRequest::Expired),
            10 => Some(CloseRequest::Administrative),
            _ => Some(CloseRequest::StoreFailed),
        }
    }

    /// A submission of this connection is durable; numbers rise.
    pub(crate) fn commit(&self, number: u64) {
        self.committed.fetch_max(number, Ordering::AcqRel);
        self.wake();
    }

    /// Number of the newest durable submission.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Marks the connection congested; `true` if it was not.
    pub(crate) fn mark_congested(&self) -> bool {
        !self.congested.swap(true, Ordering::AcqRel)
    }

    /// `true` if it was congested.
    pub(crate) fn clear_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed) && self.congested.swap(false, Ordering::AcqRel)
    }

    /// The connection has let go of its session.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.left.notify_waiters();
    }

    /// Whether the connection has let go of its session.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Resolves when the connection has let go of its session. Cancel safe.
    pub(crate) async fn gone(&self) {
        let mut left = std::pin::pin!(self.left.notified());
        // Before looking, so that it is not missed in between.
        left.as_mut().enable();
        if !self.is_gone() {
            left.await;
        }
    }
}
