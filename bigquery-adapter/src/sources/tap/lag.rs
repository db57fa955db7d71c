//! How far the adapter is behind: of each partition that it has, messages and bytes in the tap, and the age of the oldest message that
//! is not stored.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use dunlin_sync::cluster::tap::{Batch, Held};

use crate::ops::metrics::Metrics;
use crate::sinks::parquet::micros;

#[derive(Debug, Default)]
struct Partition {
    /// (One past the last position, when the first was received in µs) of what was read and not acknowledged.
    unstored: VecDeque<(u64, u64)>,
    /// When the newest that was read was received.
    newest: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lag {
    partitions: BTreeMap<u16, Partition>,
}

impl Lag {
    pub(super) fn assigned(&mut self, partition: u16) {
        self.partitions.insert(partition, Partition::default());
    }

    pub(super) fn lost(&mut self, partition: u16) {
        self.partitions.remove(&partition);
    }

    pub(super) fn read(&mut self, batch: &Batch) {
        let first = batch.rows().next().map_or(0, |row| row.received_at);
        let state = self.partitions.entry(batch.partition).or_default();
        state.unstored.push_back((batch.positions.end, first));
        state.newest = first;
    }

    pub(super) fn acknowledged(&mut self, partition: u16, upto: u64) {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        while state.unstored.front().is_some_and(|(end, _)| *end <= upto) {
            state.unstored.pop_front();
        }
    }

    /// Sets the gauges.
    pub(super) fn tell(&self, held: impl Iterator<Item = Held>, metrics: &Metrics) {
        let now = u64::try_from(micros(SystemTime::now())).unwrap_or(0);
        let (mut partitions, mut messages, mut bytes, mut oldest, mut dropped) =
            (0_i64, 0, 0, now, 0);
        for held in held {
            partitions += 1;
            messages += held.level.tail.saturating_sub(held.level.acknowledged);
            bytes += held.level.bytes;
            dropped += held.level.dropped;
            if let Some(state) = self.partitions.get(&held.partition) {
                match state.unstored.front() {
                    Some((_, received)) => oldest = oldest.min(*received),
                    None if held.level.tail > held.read && state.newest > 0 => {
                        oldest = oldest.min(state.newest);
                    }
                    None => {}
                }
            }
        }
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.tap_partitions.set(partitions);
        metrics.tap_lag_messages.set(whole(messages));
        metrics.tap_lag_bytes.set(whole(bytes));
        metrics.tap_dropped.set(whole(dropped));
        let micros = now.saturating_sub(oldest);
        metrics.tap_lag_seconds.set(micros as f64 / 1e6);
    }
}
