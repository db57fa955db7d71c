//! The tap into a sink of batches, such as the warehouse of Parquet files.
//!
//! Each batch carries, besides its rows, the position up to which its partition is stored by then. The sink stores both in one step, so whatever
//! happens to the adapter, it goes on behind the last row that is stored; the acknowledgement to the tap only frees Redis.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dunlin_sync::cluster::tap::{Batch as TapBatch, Consumer, Event};
use tokio::sync::watch;
use tokio::time::interval;

use super::lag::Lag;
use super::traces::Traces;
use super::{LOOK_EVERY, Tap, TapError, rows};
use crate::batch::{Batch, StoredUpto};
use crate::health::Health;
use crate::ledger::Ledger;
use crate::ops::metrics::Metrics;
use crate::pipeline::{Intake, QUEUE_BATCHES, SinkStopped};
use crate::row::UserPropertiesBuf;

/// Why it ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The sink.
    #[error(transparent)]
    Sink(#[from] SinkStopped),
    /// The tap.
    #[error(transparent)]
    Tap(#[from] TapError),
}

/// A batch with the sink, and what is acknowledged when it is stored.
#[derive(Debug)]
struct Given {
    position: u64,
    partition: u16,
    epoch: u64,
    upto: u64,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Storing {
    tap: Arc<Tap>,
    consumer: Consumer,
    intake: Intake,
    /// First position of each partition that has not been given to the sink.
    next: BTreeMap<u16, u64>,
    position: u64,
    given: VecDeque<Given>,
    given_bytes: usize,
    /// What found no room with the sink: as much as the consumer reads ahead.
    waiting: VecDeque<TapBatch>,
    buffer_bytes: usize,
    pairs: UserPropertiesBuf,
    lag: Lag,
    traces: Traces,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Storing {
    /// Goes on where the ledger ends. `buffer_bytes`: bound of what is with the sink.
    #[must_use]
    pub fn new(
        tap: Arc<Tap>,
        consumer: Consumer,
        ledger: &Ledger,
        intake: Intake,
        buffer_bytes: usize,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let traces = tap.traces();
        Self {
            next: ledger.stored_of(tap.name()).collect(),
            tap,
            consumer,
            intake,
            position: 0,
            given: VecDeque::new(),
            given_bytes: 0,
            waiting: VecDeque::new(),
            buffer_bytes,
            pairs: UserPropertiesBuf::default(),
            lag: Lag::default(),
            traces,
            health,
            metrics,
        }
    }

    /// Runs until `shutdown` becomes true and what the sink has been given is stored and acknowledged.
    ///
    /// # Errors
    /// When the sink or the connection has ended.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<(), StoreError> {
        let mut ticks = interval(LOOK_EVERY);
        let mut stopping = false;
        while !(stopping && self.given.is_empty()) {
            tokio::select! {
                event = self.consumer.next() => {
                    self.heed(event.map_err(TapError::from)?, stopping);
                    self.give()?;
                }
                changed = self.intake.changed() => {
                    changed?;
                    self.acknowledge();
                    self.give()?;
                }
                _ = ticks.tick() => {
                    self.tap.look(&self.consumer, &self.lag, &self.metrics, &self.health);
                }
                _ = shutdown.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.waiting.clear();
                }
            }
        }
        self.consumer.leave().await;
        self.tap.close().await;
        Ok(())
    }

    fn heed(&mut self, event: Event, stopping: bool) {
        match event {
            Event::Assigned {
                partition, level, ..
            } => {
                self.lag.assigned(partition);
                let stored = self.next.get(&partition).copied().unwrap_or(0);
                tracing::info!(partition, waiting = level.messages, "partition taken");
                if stored > level.tail {
                    tracing::warn!(
                        partition,
                        stored,
                        tail = level.tail,
                        "the tap has been made anew since it was stored last: beginning at its beginning"
                    );
                    self.next.remove(&partition);
                }
            }
            Event::Batch(_) if stopping => {}
            Event::Batch(batch) => {
                self.lag.read(&batch);
                self.traces.read(&batch);
                self.waiting.push_back(batch);
            }
            Event::Acknowledged {
                partition, upto, ..
            } => {
                self.lag.acknowledged(partition, upto);
                self.traces.acknowledged(partition, upto);
            }
            Event::Lost { partition, epoch } => {
                tracing::info!(partition, "partition given up");
                self.lag.lost(partition);
                self.traces.lost(partition);
                self.waiting
                    .retain(|batch| (batch.partition, batch.epoch) != (partition, epoch));
            }
        }
    }

    /// Gives the sink what waits, as far as there is room.
    fn give(&mut self) -> Result<(), SinkStopped> {
        while self.given_bytes < self.buffer_bytes && self.given.len() < QUEUE_BATCHES {
            let Some(tapped) = self.waiting.pop_front() else {
                return Ok(());
            };
            let batch = self.batch(&tapped);
            let given = Given {
                position: self.position,
                partition: tapped.partition,
                epoch: tapped.epoch,
                upto: tapped.positions.end,
                bytes: batch.as_bytes().len(),
            };
            self.given_bytes += given.bytes;
            self.given.push_back(given);
            self.intake.give(batch)?;
        }
        Ok(())
    }

    fn batch(&mut self, tapped: &TapBatch) -> Batch {
        let next = self.next.entry(tapped.partition).or_default();
        let from = *next;
        *next = from.max(tapped.positions.end);
        self.position += 1;
        let (mut batch, mut again) = (Batch::default(), 0);
        for message in tapped.rows() {
            if message.position < from {
                again += 1;
            } else {
                batch.push_row(self.position, &rows::row(&message, &mut self.pairs));
            }
        }
        let stored = StoredUpto {
            tap: self.tap.name(),
            partition: tapped.partition,
            position: *next,
        };
        batch.push_stored(self.position, stored);
        self.metrics.received.inc_by(batch.rows() as u64 + again);
        self.metrics.received_bytes.inc_by(tapped.bytes() as u64);
        self.metrics.duplicates.inc_by(again);
        batch
    }

    /// Acknowledges what is stored.
    fn acknowledge(&mut self) {
        let committed = self.intake.committed();
        let mut stored: BTreeMap<(u16, u64), u64> = BTreeMap::new();
        while let Some(given) = self.given.front()
            && given.position <= committed
        {
            self.given_bytes -= given.bytes;
            stored.insert((given.partition, given.epoch), given.upto);
            self.given.pop_front();
        }
        for ((partition, epoch), upto) in stored {
            self.traces.stored(partition, upto);
            // Nothing is kept there: the positions are with the rows.
            let kept = self
                .consumer
                .acknowledge(partition, epoch, upto, Bytes::new());
            if kept.is_ok() {
                self.metrics.acknowledged.inc();
            }
        }
        let bytes = i64::try_from(self.given_bytes).unwrap_or(i64::MAX);
        self.metrics.queued_bytes.set(bytes);
    }
}
