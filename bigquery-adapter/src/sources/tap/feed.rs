//! The tap as a feed of the BigQuery sink.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dunlin_sync::cluster::tap::{Consumer, Event};
use tokio::time::{Interval, interval};

use super::lag::Lag;
use super::traces::Traces;
use super::{LOOK_EVERY, Tap, TapMessages};
use crate::health::Health;
use crate::ops::metrics::Metrics;
use crate::sinks::bigquery::partition::Acknowledge;
use crate::sinks::bigquery::run::{Fed, Feed};

/// See the module.
pub struct TapFeed {
    tap: Arc<Tap>,
    consumer: Consumer,
    lag: Lag,
    traces: Traces,
    ticks: Interval,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for TapFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapFeed")
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}

impl TapFeed {
    /// Reads by this consumer.
    #[must_use]
    pub fn new(
        tap: Arc<Tap>,
        consumer: Consumer,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            traces: tap.traces(),
            tap,
            consumer,
            lag: Lag::default(),
            ticks: interval(LOOK_EVERY),
            health,
            metrics,
        }
    }

    fn fed(&mut self, event: Event) -> Fed<TapMessages> {
        match event {
            Event::Assigned {
                partition,
                epoch,
                level,
                checkpoint,
            } => {
                tracing::info!(
                    partition,
                    epoch,
                    waiting = level.messages,
                    "partition taken"
                );
                self.lag.assigned(partition);
                Fed::Assigned {
                    partition,
                    epoch,
                    acknowledged: level.acknowledged,
                    checkpoint: checkpoint.to_vec(),
                }
            }
            Event::Batch(batch) => {
                self.lag.read(&batch);
                self.traces.read(&batch);
                let messages = batch.positions.end - batch.positions.start;
                self.metrics.received.inc_by(messages);
                self.metrics.received_bytes.inc_by(batch.bytes() as u64);
                Fed::Messages {
                    partition: batch.partition,
                    epoch: batch.epoch,
                    messages: TapMessages(batch),
                }
            }
            Event::Acknowledged {
                partition,
                upto,
                number,
                ..
            } => {
                self.lag.acknowledged(partition, upto);
                self.traces.acknowledged(partition, upto);
                Fed::Acknowledged { partition, number }
            }
            Event::Lost { partition, epoch } => {
                tracing::info!(partition, epoch, "partition given up");
                self.lag.lost(partition);
                self.traces.lost(partition);
                Fed::Lost { partition, epoch }
            }
        }
    }
}

#[async_trait]
impl Feed for TapFeed {
    type Messages = TapMessages;

    async fn next(&mut self) -> Option<Fed<TapMessages>> {
        loop {
            tokio::select! {
                event = self.consumer.next() => return Some(self.fed(event.ok()?)),
                _ = self.ticks.tick() => {
                    self.tap.look(&self.consumer, &self.lag, &self.metrics, &self.health);
                }
            }
        }
    }

    fn acknowledge(&mut self, partition: u16, epoch: u64, acknowledge: Acknowledge) -> u64 {
        let Acknowledge { upto, checkpoint } = acknowledge;
        self.traces.stored(partition, upto);
        let checkpoint = Bytes::from(checkpoint);
        let asked = self
            .consumer
            .acknowledge(partition, epoch, upto, checkpoint);
        asked.unwrap_or_else(|error| {
            // The partition keeps to the bound; were it not so, the tap would hold the rest.
            tracing::error!(partition, "{error}");
            0
        })
    }

    async fn leave(self) {
        self.consumer.leave().await;
        self.tap.close().await;
    }
}
