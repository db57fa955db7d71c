//! Reads a tap: leases partitions, reads ahead, acknowledges.

mod share;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::rows::{Batch, batches};
use super::{CHECKPOINT_MAX, DefinitionError, TapLevel, TapPartition, TapReply, TapRequest, known};
use crate::BoxFuture;
use crate::cluster::{Backplane, BackplaneError, Reply, Request};

/// How a [`Consumer`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// A lease lasts so long when it is not extended: how long a dead consumer's partitions wait.
    pub lease: Duration,
    /// How old a hole of a failover must be before it is passed.
    pub grace: Duration,
    /// Bytes that are asked for at once.
    pub batch_bytes: u64,
    /// Bytes of a partition that are read ahead of the acknowledgements, at most about one batch more.
    pub ahead_bytes: u64,
    /// Longest pause between two looks at a partition that holds nothing new.
    pub idle: Duration,
    /// How long a partition that another consumer should have is kept for what was given of it and is not acknowledged; then it
    /// is given back all the same, and that is given again to whoever has it next. [`Duration::MAX`]: as long as it takes, for who
    /// cannot tell what was stored.
    pub hand_over: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            batch_bytes: 1 << 20,
            ahead_bytes: 8 << 20,
            idle: Duration::from_millis(100),
            hand_over: Duration::from_secs(2),
        }
    }
}

/// Shortest pause between two looks at a partition that holds nothing new.
const IDLE_MIN: Duration = Duration::from_millis(2);
/// Between attempts to take what is another's.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// Between two questions who else is there, at most: whoever comes waits so long for its share.
const MEMBERS_EVERY: Duration = Duration::from_secs(1);

/// What happens to a consumer.
#[derive(Clone, Debug)]
pub enum Event {
    /// A partition is this consumer's now. What comes of it begins at `level.acknowledged`.
    Assigned {
        /// Which.
        partition: u16,
        /// The lease: rises with every change of hands.
        epoch: u64,
        /// What there is.
        level: TapLevel,
        /// What the last acknowledgement has stored.
        checkpoint: Bytes,
    },
    /// Messages, in order within their partition.
    Batch(Batch),
    /// An acknowledgement is stored, with its checkpoint.
    Acknowledged {
        /// Of which partition.
        partition: u16,
        /// The lease.
        epoch: u64,
        /// As it was given.
        upto: u64,
        /// What [`Consumer::acknowledge`] gave back.
        number: u64,
    },
    /// A partition is not this consumer's any more: what was given of it is given again, to whoever has it next.
    Lost {
        /// Which.
        partition: u16,
        /// The lease that ended.
        epoch: u64,
    },
}

/// A partition that a consumer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub partition: u16,
    /// What there was when it was last looked at.
    pub level: TapLevel,
    /// First position that was not read.
    pub read: u64,
}

/// A checkpoint that is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a checkpoint has {0} bytes, and there can be {CHECKPOINT_MAX}")]
pub struct CheckpointTooLong(pub usize);

#[derive(Debug)]
struct Lease {
    epoch: u64,
    level: TapLevel,
    read: u64,
    /// (One past the last position, bytes) of what was given and is not acknowledged.
    ahead: VecDeque<(u64, u64)>,
    ahead_bytes: u64,
    reading: bool,
    look_at: Instant,
    pause: Duration,
    renewing: bool,
    renew_at: Instant,
    until: Instant,
    /// Since when another one should have it: to be given back when everything given is acknowledged.
    surplus: Option<Instant>,
}

#[derive(Debug, Default)]
struct Partition {
    lease: Option<Lease>,
    asking: bool,
    try_at: Option<Instant>,
}

enum Outcome {
    Members(Answer),
    Leased {
        partition: u16,
        epoch: u64,
        sent: Instant,
        answer: Answer,
    },
    Read {
        partition: u16,
        epoch: u64,
        from: u64,
        answer: Answer,
    },
    Acknowledged {
        partition: u16,
        epoch: u64,
        upto: u64,
        number: u64,
        answer: Answer,
    },
    Done,
}

type Answer = Result<Reply, BackplaneError>;

/// Reads a tap together with others: each partition is one consumer's at a time.
pub struct Consumer {
    backplane: Arc<dyn Backplane>,
    tap: Arc<str>,
    consumer: u64,
    options: ConsumerOptions,
    partitions: BTreeMap<u16, Partition>,
    members: Vec<u64>,
    member_at: Instant,
    asking_members: bool,
    pending: FuturesUnordered<BoxFuture<Outcome>>,
    events: VecDeque<Event>,
    acknowledgements: u64,
    closed: bool,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("tap", &self.tap)
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// A consumer of the tap of this name, which must be [defined](super::define). `consumer` is drawn at random, and
    /// not 0. Nothing is leased before [`next`](Self::next) is called.
    ///
    /// Dropping the future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// There is no such tap, or it cannot be read.
    pub async fn join(
        backplane: Arc<dyn Backplane>,
        tap: &str,
        consumer: u64,
        options: ConsumerOptions,
    ) -> Result<Self, DefinitionError> {
        let definition = known(&*backplane, tap).await?;
        let Some(definition) = definition else {
            return Err(DefinitionError::Invalid {
                name: tap.to_owned(),
                reason: "there is no such tap: define it first".to_owned(),
            });
        };
        let partitions =
            (0..definition.partitions).map(|partition| (partition, Partition::default()));
        Ok(Self {
            backplane,
            tap: definition.name,
            consumer: consumer.max(1),
            options,
            partitions: partitions.collect(),
            members: Vec::new(),
            member_at: Instant::now(),
            asking_members: false,
            pending: FuturesUnordered::new(),
            events: VecDeque::new(),
            acknowledgements: 0,
            closed: false,
        })
    }

    /// Waits for what happens next. Cancel safe: nothing is lost when the future is dropped, and leases are extended only
    /// while somebody waits here.
    ///
    /// # Errors
    ///
    /// The backplane is closed.
    pub async fn next(&mut self) -> Result<Event, BackplaneError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.closed {
                return Err(BackplaneError::Closed);
            }
            let now = Instant::now();
            self.turn(now);
            if !self.events.is_empty() {
                continue;
            }
            let deadline = self.deadline(now);
            tokio::select! {
                Some(outcome) = self.pending.next() => self.outcome(outcome),
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Everything below `upto` is done with. `checkpoint` is stored in the same step, for whoever has the partition next; at the
    /// position of the last acknowledgement (or of [`Event::Assigned`]) it replaces the last one, and nothing else happens. Sent
    /// at once, in the order of the calls; [`Event::Acknowledged`] tells by the number that is given back that it is
    /// stored, [`Event::Lost`] that it is not, or that this is not known.
    ///
    /// # Errors
    ///
    /// The checkpoint has more than [`CHECKPOINT_MAX`] bytes: nothing is sent.
    pub fn acknowledge(
        &mut self,
        partition: u16,
        epoch: u64,
        upto: u64,
        checkpoint: Bytes,
    ) -> Result<u64, CheckpointTooLong> {
        if checkpoint.len() > CHECKPOINT_MAX {
            return Err(CheckpointTooLong(checkpoint.len()));
        }
        self.acknowledgements += 1;
        let number = self.acknowledgements;
        let request = TapRequest::Acknowledge {
            of: self.at(partition),
            epoch,
            upto,
            number,
            checkpoint,
        };
        self.ask(request, move |answer| Outcome::Acknowledged {
            partition,
            epoch,
            upto,
            number,
            answer,
        });
        Ok(number)
    }

    /// What this consumer has.
    pub fn held(&self) -> impl Iterator<Item = Held> {
        self.partitions.iter().filter_map(|(partition, state)| {
            let lease = state.lease.as_ref()?;
            Some(Held {
                partition: *partition,
                level: lease.level,
                read: lease.read,
            })
        })
    }

    /// Bytes that were given and are not acknowledged.
    #[must_use]
    pub fn ahead_bytes(&self) -> u64 {
        let leases = self
            .partitions
            .values()
            .filter_map(|state| state.lease.as_ref());
        leases.map(|lease| lease.ahead_bytes).sum()
    }

    /// Gives everything back, so that others need not wait for the leases to end. What was acknowledged is acknowledged.
    pub async fn leave(mut self) {
        let mut requests: Vec<Request> = self
            .partitions
            .iter()
            .filter_map(|(partition, state)| Some((partition, state.lease.as_ref()?)))
            .map(|(partition, lease)| {
                Request::Tap(TapRequest::Release {
                    of: self.at(*partition),
                    epoch: lease.epoch,
                })
            })
            .collect();
        requests.push(Request::Tap(TapRequest::Member {
            tap: Arc::clone(&self.tap),
            consumer: self.consumer,
            lease_ms: 0,
        }));
        let replies = self.backplane.execute(requests);
        while self.pending.next().await.is_some() {}
        drop(replies.await);
    }

    fn at(&self, partition: u16) -> TapPartition {
        TapPartition {
            tap: Arc::clone(&self.tap),
            partition,
        }
    }

    fn ask(
        &mut self,
        request: TapRequest,
        outcome: impl FnOnce(Answer) -> Outcome + Send + 'static,
    ) {
        let replies = self.backplane.execute(vec![Request::Tap(request)]);
        self.pending.push(Box::pin(async move {
            let answer = replies.await.into_iter().next();
            outcome(answer.unwrap_or(Err(BackplaneError::Closed)))
        }));
    }

    /// Asks for what is due.
    fn turn(&mut self, now: Instant) {
        if now >= self.member_at && !self.asking_members {
            self.asking_members = true;
            let request = TapRequest::Member {
                tap: Arc::clone(&self.tap),
                consumer: self.consumer,
                lease_ms: millis(self.options.lease),
            };
            self.ask(request, Outcome::Members);
        }
        if self.members.is_empty() {
            return;
        }
        self.share(now);
        let partitions: Vec<u16> = self.partitions.keys().copied().collect();
        for partition in partitions {
            self.look_at(partition, now);
        }
    }

    fn lease(&mut self, partition: u16, epoch: u64, now: Instant) {
        let request = TapRequest::Lease {
            of: self.at(partition),
            consumer: self.consumer,
            epoch,
            lease_ms: millis(self.options.lease),
            grace_ms: millis(self.options.grace),
        };
        self.ask(request, move |answer| Outcome::Leased {
            partition,
            epoch,
            sent: now,
            answer,
        });
    }

    fn look_at(&mut self, partition: u16, now: Instant) {
        let of = self.at(partition);
        let options = &self.options;
        let Some(lease) = self
            .partitions
            .get_mut(&partition)
            .and_then(|state| state.lease.as_mut())
        else {
            return;
        };
        let epoch = lease.epoch;
        if now >= lease.until {
            return self.lost(partition, epoch);
        }
        if lease.is_due_back(now, options.hand_over) {
            self.lost(partition, epoch);
            return self.ask(TapRequest::Release { of, epoch }, |_| Outcome::Done);
        }
        let renew = now >= lease.renew_at && !lease.renewing;
        lease.renewing |= renew;
        let from = lease.read;
        let read = !lease.reading
            && lease.surplus.is_none()
            && now >= lease.look_at
            && lease.ahead_bytes < options.ahead_bytes;
        lease.reading |= read;
        let max_bytes = options.batch_bytes;
        if renew {
            self.lease(partition, epoch, now);
        }
        if read {
            let request = TapRequest::Read {
                of,
                epoch,
                from,
                max_bytes,
            };
            self.ask(request, move |answer| Outcome::Read {
                partition,
                epoch,
                from,
                answer,
            });
        }
    }

    fn deadline(&self, now: Instant) -> Instant {
        let mut next = now + self.options.lease / 3;
        if !self.asking_members {
            next = next.min(self.member_at);
        }
        for state in self.partitions.values() {
            match &state.lease {
                Some(lease) => {
                    next = next.min(lease.until.max(now + IDLE_MIN));
                    if !lease.renewing {
                        next = next.min(lease.renew_at);
                    }
                    let back = lease
                        .surplus
                        .and_then(|since| since.checked_add(self.options.hand_over));
                    next = next.min(back.unwrap_or(next).max(now + IDLE_MIN));
                    let reads = !lease.reading && lease.surplus.is_none();
                    if reads && lease.ahead_bytes < self.options.ahead_bytes {
                        next = next.min(lease.look_at.max(now + IDLE_MIN));
                    }
                }
                None if !state.asking => {
                    // It may have its fair share, and not try.
                    next = next.min(state.try_at.unwrap_or(next).max(now + TRY_EVERY));
                }
                None => {}
            }
        }
        next
    }

    fn lost(&mut self, partition: u16, epoch: u64) {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        if state
            .lease
            .as_ref()
            .is_none_or(|lease| lease.epoch != epoch)
        {
            return;
        }
        state.lease = None;
        state.try_at = Some(Instant::now() + TRY_EVERY);
        // What was not handed over yet is not its any more.
        self.events.retain(|event| match event {
            Event::Batch(batch) => (batch.partition, batch.epoch) != (partition, epoch),
            _ => true,
        });
        self.events.push_back(Event::Lost { partition, epoch });
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Members(answer) => self.told_members(answer),
            Outcome::Leased {
                partition,
                epoch,
                sent,
                answer,
            } => self.leased(partition, epoch, sent, answer),
            Outcome::Read {
                partition,
                epoch,
                from,
                answer,
            } => self.read(partition, epoch, from, answer),
            Outcome::Acknowledged {
                partition,
                epoch,
                upto,
                number,
                answer,
            } => self.acknowledged(partition, epoch, (upto, number), answer),
            Outcome::Done => {}
        }
    }

    fn failed(&mut self, what: &str, answer: &Answer) {
        match answer {
            Err(BackplaneError::Closed) => self.closed = true,
            Err(BackplaneError::Lost) => {}
            other => tracing::error!(tap = %self.tap, answer = ?other, "{what} failed"),
        }
    }

    fn told_members(&mut self, answer: Answer) {
        self.asking_members = false;
        let now = Instant::now();
        if let Ok(Reply::Tap(TapReply::Members(members))) = answer {
            self.members = members;
            self.member_at = now + (self.options.lease / 4).min(MEMBERS_EVERY);
        } else {
            self.failed("the question who else reads the tap", &answer);
            self.member_at = now + TRY_EVERY;
        }
    }

    fn leased(&mut self, partition: u16, asked: u64, sent: Instant, answer: Answer) {
        let options = &self.options;
        let until = sent + options.lease;
        let renew_at = sent + options.lease / 4;
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        if asked == 0 {
            state.asking = false;
        }
        match answer {
            Ok(Reply::Tap(TapReply::Leased {
                epoch,
                level,
                checkpoint,
            })) => match &mut state.lease {
                Some(lease) if lease.epoch == epoch => {
                    lease.renewing = false;
                    lease.until = until;
                    lease.renew_at = renew_at;
                    lease.level = level;
                }
                // A lease that was given up here meanwhile ends by itself.
                _ if asked != 0 => {}
                _ => {
                    let now = Instant::now();
                    state.lease = Some(Lease {
                        epoch,
                        level,
                        read: level.acknowledged,
                        ahead: VecDeque::new(),
                        ahead_bytes: 0,
                        reading: false,
                        look_at: now,
                        pause: IDLE_MIN,
                        renewing: false,
                        renew_at,
                        until,
                        surplus: None,
                    });
                    self.events.push_back(Event::Assigned {
                        partition,
                        epoch,
                        level,
                        checkpoint,
                    });
                }
            },
            Ok(Reply::Fenced) if asked != 0 => self.lost(partition, asked),
            answer => {
                let now = Instant::now();
                state.try_at = Some(now + TRY_EVERY);
                if let Some(lease) = &mut state.lease {
                    lease.renewing = false;
                    lease.renew_at = now + TRY_EVERY;
                }
                if answer != Ok(Reply::Fenced) {
                    self.failed("the lease of a partition", &answer);
                }
            }
        }
    }

    fn read(&mut self, partition: u16, epoch: u64, from: u64, answer: Answer) {
        let idle = self.options.idle;
        let Some(lease) = self
            .partitions
            .get_mut(&partition)
            .and_then(|state| state.lease.as_mut())
            // A lease that was lost and taken again may have the same epoch, and reads from elsewhere.
            .filter(|lease| lease.epoch == epoch && lease.reading && lease.read == from)
        else {
            return;
        };
        lease.reading = false;
        let now = Instant::now();
        match answer {
            Ok(Reply::Tap(TapReply::Read { level, frames })) => {
                lease.level = level;
                let read = batches((partition, epoch), from, frames);
                if read.is_empty() {
                    lease.look_at = now + lease.pause;
                    lease.pause = (lease.pause * 2).min(idle);
                } else {
                    lease.pause = IDLE_MIN;
                    lease.look_at = now;
                }
                for batch in read {
                    let bytes = batch.bytes() as u64;
                    lease.read = batch.positions.end;
                    lease.ahead.push_back((batch.positions.end, bytes));
                    lease.ahead_bytes += bytes;
                    self.events.push_back(Event::Batch(batch));
                }
            }
            // Another server holds it: the next renewal says what that means.
            Ok(Reply::Fenced) => {
                lease.look_at = now + idle;
                lease.renew_at = now;
            }
            answer => {
                lease.look_at = now + TRY_EVERY;
                self.failed("reading a partition", &answer);
            }
        }
    }

    fn acknowledged(
        &mut self,
        partition: u16,
        epoch: u64,
        (upto, number): (u64, u64),
        answer: Answer,
    ) {
        if answer == Ok(Reply::Fenced) {
            return self.lost(partition, epoch);
        }
        if answer.is_err() {
            self.failed("acknowledging", &answer);
            return self.lost(partition, epoch);
        }
        let Some(lease) = self
            .partitions
            .get_mut(&partition)
            .and_then(|state| state.lease.as_mut())
            .filter(|lease| lease.epoch == epoch)
        else {
            return;
        };
        while let Some((end, bytes)) = lease.ahead.front().copied()
            && end <= upto
        {
            lease.ahead.pop_front();
            lease.ahead_bytes -= bytes;
        }
        lease.level.acknowledged = upto.max(lease.level.acknowledged);
        self.events.push_back(Event::Acknowledged {
            partition,
            epoch,
            upto,
            number,
        });
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
