//! What a replica does with its [`Backplane`]: a [`Store`] that several processes share, and the
//! [`Cluster`] around it.
//!
//! - Callers hand in batches, claims and messages; one task owns everything else (`actor`).
//! - `round`: batches become rounds of requests, each executed in one go. `replies`: their answers.
//! - `commit`: submitters are told in order, when the lease runs, and for a barrier when every live
//!   replica has applied what changed.
//! - `tables` and `peers`: full copies of what all replicas share, kept in step by announcements.
//! - `taps`: what waits for room in a tap. `lanes`: messages to other replicas. `hear`: what comes from them.
//! - `member`: lease, hello, self-fencing, joining anew. `keeper`: sweeps and reaping.
//!
//! Time is Tokio's, chance comes from a seed, and no order depends on a hash map: many engines over the
//! model of Redis run in one thread in virtual time, and the same seed gives the same run.

mod actor;
mod commit;
mod failovers;
mod figures;
mod giving_up;
mod hear;
mod inbox;
mod keeper;
mod lanes;
mod member;
mod options;
mod outcome;
mod own;
mod peers;
mod read;
mod reads;
mod records;
mod replies;
mod round;
mod shared;
mod tables;
mod taps;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

pub use self::figures::Figures;
pub use self::options::EngineOptions;

use self::actor::Actor;
use self::lanes::Lanes;
use self::options::Draw;
use self::shared::{Claiming, Job, Numbers, Shared};
use crate::cluster::{
    Backplane, BackplaneError, BackplaneStatus, ClaimError, ClaimRequest, Claimed, Cluster,
    ClusterEvents, Relayed, ReplicaId, Reply, Request,
};
use crate::records::Records;
use crate::{Batch, BoxFuture, QueueEntry, Recovered, SessionId, Store, StoreError, Ticket};

/// Longest wait of [`Store::next_session_id`] for Redis.
const NUMBERS_PATIENCE: Duration = Duration::from_secs(10);

/// Why a replica cannot join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica cannot join the cluster: {0}")]
pub struct OpenError(String);

/// A [`Store`] in Redis that several replicas share.
///
/// Dropping it closes it; outside of a runtime that waits as [`Store::close`] does.
pub struct ClusterStore {
    shared: Arc<Shared>,
    backplane: Arc<dyn Backplane>,
    options: EngineOptions,
    handle: Handle,
    task: tokio::task::AbortHandle,
    recovered: AtomicBool,
}

impl std::fmt::Debug for ClusterStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterStore")
            .field("replica", &self.shared.replica())
            .finish_non_exhaustive()
    }
}

impl ClusterStore {
    /// Joins: takes a lease and begins to renew it. Waits for Redis as long as it takes.
    ///
    /// Dropping the future may leave a lease that nobody renews: it is reaped. `handle` is the runtime
    /// that the engine's task runs in; the future itself must run in it, too.
    ///
    /// # Errors
    ///
    /// Redis refuses it.
    pub async fn open(
        backplane: Arc<dyn Backplane>,
        options: EngineOptions,
        handle: Handle,
    ) -> Result<Self, OpenError> {
        let mut draw = Draw::new(options.seed);
        let sent = Instant::now();
        let answers = backplane
            .execute(vec![
                Request::Join {
                    nonce: draw.next(),
                    info: options.info.clone(),
                    lease_ms: options.lease_ms(),
                },
                Request::Numbers {
                    count: Numbers::BLOCK,
                },
            ])
            .await;
        let (replica, first) = match answers.as_slice() {
            [Ok(Reply::Joined { replica }), Ok(Reply::Numbers(first))] => (*replica, *first),
            other => {
                let failed = other.iter().find_map(|answer| answer.as_ref().err());
                let reason = failed.map_or_else(|| format!("{other:?}"), BackplaneError::to_string);
                return Err(OpenError(reason));
            }
        };
        let shared = Arc::new(Shared::new(Lanes::new(&options)));
        shared.numbers.lock().add(first, Numbers::BLOCK);
        let actor = Actor::new(
            Arc::clone(&shared),
            Arc::clone(&backplane),
            options.clone(),
            draw,
            (replica, sent),
        );
        let task = handle.spawn(actor.run()).abort_handle();
        Ok(Self {
            shared,
            backplane,
            options,
            handle,
            task,
            recovered: AtomicBool::new(false),
        })
    }

    /// What has been counted so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut figures = self.shared.counters.read();
        figures.pending_bytes = self.shared.pending() as u64;
        figures.lease_age_us = self.shared.lease_age_us(self.options.fence);
        figures
    }

    /// Replaces what `cluster status` shows of this replica, with the next renewal of the lease: lines of
    /// `key=value`, at most 3 KiB (what is longer is cut off there).
    pub fn set_info(&self, info: Bytes) {
        let mut info = info;
        info.truncate(options::INFO_MAX);
        self.shared.set_info(info);
    }

    /// How the connection to Redis is.
    #[must_use]
    pub fn status(&self) -> BackplaneStatus {
        self.backplane.status()
    }

    /// Ends at once and gives nothing back, as the death of the process would: for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn kill(&self) {
        self.task.abort();
    }

    fn may_block() -> bool {
        Handle::try_current().is_err()
    }
}

impl Store for ClusterStore {
    fn submit(&self, batch: Batch) -> Ticket {
        self.shared.submit(batch)
    }

    fn durable(&self) -> Ticket {
        self.shared.durable()
    }

    fn pending_bytes(&self) -> usize {
        self.shared.pending()
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.watch()
    }

    /// Blocks for up to 10 seconds when numbers are taken faster than Redis gives them; sessions of a
    /// claim get theirs without it. Gives back 0, which no session has, if there is still none.
    fn next_session_id(&self) -> SessionId {
        let mut numbers = self.shared.numbers.lock();
        loop {
            if let Some(n) = numbers.take() {
                let half = numbers.left() < Numbers::BLOCK / 2;
                drop(numbers);
                if half {
                    self.shared.wake();
                }
                return read::spread(n);
            }
            self.shared.wake();
            let timed_out = self
                .shared
                .more_numbers
                .wait_for(&mut numbers, NUMBERS_PATIENCE)
                .timed_out();
            if timed_out || self.shared.failure().is_some() {
                return SessionId(0);
            }
        }
    }

    fn read_queue(
        &self,
        session: SessionId,
        from_seq: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> BoxFuture<Result<Vec<QueueEntry>, StoreError>> {
        let backplane = Arc::clone(&self.backplane);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            loop {
                // What a failover has lost comes back in the middle of a queue: whoever reads waits for it.
                let failovers = backplane.failovers();
                shared.until_made_good(failovers).await;
                let of = Arc::clone(&backplane);
                let read =
                    read::queue(of, &shared.reads, session, from_seq, max_entries, max_bytes).await;
                if backplane.failovers() == failovers || shared.has_ended() {
                    return read;
                }
            }
        })
    }

    /// Reads everything there is in Redis, and takes the sessions that nobody has for its own: for a
    /// store that is alone. A replica uses [`Cluster::start`] and [`Cluster::claim`] instead. Blocks,
    /// and must not be called within a runtime.
    fn recover(&self) -> Result<Recovered, StoreError> {
        if self.recovered.swap(true, Ordering::AcqRel) {
            return Err(StoreError::AlreadyRecovered);
        }
        if !Self::may_block() {
            return Err(StoreError::ReadFailed {
                reason: "reading everything blocks, and this is a runtime's thread".to_owned(),
            });
        }
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let backplane = Arc::clone(&self.backplane);
        self.handle.spawn(async move {
            sender.send(read::everything(&*backplane).await).ok();
        });
        let found = receiver.recv().map_err(|_| StoreError::Closed)??;
        if !self.shared.push(Job::Adopt(found.sessions)) {
            return Err(StoreError::Closed);
        }
        Ok(found.recovered)
    }

    fn records(&self) -> Arc<dyn Records> {
        Arc::new(records::Handle {
            shared: Arc::clone(&self.shared),
            backplane: Arc::clone(&self.backplane),
        })
    }

    fn health(&self) -> Result<(), StoreError> {
        self.shared.failure().map_or(Ok(()), Err)
    }

    /// Waits for at most [`EngineOptions::close_patience`], then fails what is left. Within a runtime it
    /// does not wait: use [`Cluster::leave`] there.
    fn close(&self) -> Result<(), StoreError> {
        self.shared.close(self.options.close_patience);
        if Self::may_block() {
            self.shared
                .wait_end(self.options.close_patience + Duration::from_secs(2));
        }
        match self.health() {
            Err(StoreError::Closed) => Ok(()),
            other => other,
        }
    }
}

impl Cluster for ClusterStore {
    fn replica(&self) -> ReplicaId {
        self.shared.replica()
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<Result<Claimed, ClaimError>> {
        let (answer, answered) = oneshot::channel();
        let claiming = Claiming {
            request,
            answer,
            carried: shared::Carried::default(),
        };
        let pushed = self.shared.push(Job::Claim(claiming));
        let limit = self.options.claim_timeout;
        Box::pin(async move {
            if !pushed {
                return Err(ClaimError::Unavailable(
                    "this replica is leaving".to_owned(),
                ));
            }
            match tokio::time::timeout(limit, answered).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(ClaimError::Unavailable(
                    "the claim was dropped, as this replica ends or joins anew".to_owned(),
                )),
                Err(_) => Err(ClaimError::Unavailable(format!(
                    "Redis has not answered within {} ms",
                    limit.as_millis()
                ))),
            }
        })
    }

    fn relay(&self, to: ReplicaId, messages: &[Relayed<'_>]) {
        let dropped = self.shared.lanes.lock().relay(to, messages);
        if dropped > 0 {
            self.shared.counters.lane_dropped.add(dropped);
        }
        self.shared.wake();
    }

    fn may_acknowledge(&self) -> bool {
        self.shared.may_acknowledge()
    }

    fn lease_runs(&self) -> bool {
        self.shared.lease_runs()
    }

    fn start(&self, events: Arc<dyn ClusterEvents>) -> BoxFuture<Result<(), ClaimError>> {
        let (answer, answered) = oneshot::channel();
        let pushed = self.shared.push(Job::Start(events, answer));
        Box::pin(async move {
            let ended = || ClaimError::Unavailable("this replica is leaving".to_owned());
            if !pushed {
                return Err(ended());
            }
            answered.await.unwrap_or_else(|_| Err(ended()))
        })
    }

    fn leave(&self, patience: Duration) -> BoxFuture<()> {
        self.shared.close(patience);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.until_end().await })
    }
}

impl Drop for ClusterStore {
    fn drop(&mut self) {
        self.shared.close(self.options.close_patience);
        // A task that was aborted has told everybody already.
        if Self::may_block() && !self.task.is_finished() {
            self.shared
                .wait_end(self.options.close_patience + Duration::from_secs(2));
        }
    }
}
