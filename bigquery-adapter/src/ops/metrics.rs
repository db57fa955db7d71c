//! Every metric of the adapter: the names are in this file and nowhere else.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::batch::Batch;
use crate::sinks::parquet::Rolled;

/// Counters and gauges. All are cheap to raise from any thread; the hot path raises them once per read or commit.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Messages read from the source, duplicates included.
    pub received: Counter,
    /// Bytes read from the source.
    pub received_bytes: Counter,
    /// Messages that were provably sent again and not stored again.
    pub duplicates: Counter,
    /// Messages that were probably sent again; stored again under their old message id.
    pub redelivered: Counter,
    /// Acknowledgements handed to the socket.
    pub acknowledged: Counter,
    /// Rows made durable.
    pub rows: Counter,
    /// Bytes made durable.
    pub committed_bytes: Counter,
    /// Time of one commit, from the first write to the end of the sync.
    pub commit_duration: Histogram,
    /// Commits that failed and are tried again.
    pub commit_failures: Counter,
    /// Entries read and not yet durable.
    pub queued: Gauge,
    /// Bytes of them.
    pub queued_bytes: Gauge,
    /// Rows that have moved from the journal into part files.
    pub parquet_rows: Counter,
    /// Part files written.
    pub parquet_files: Counter,
    /// Time to bring one segment into part files.
    pub roll_duration: Histogram,
    /// Segments that could not be brought into part files and are tried again.
    pub roll_failures: Counter,
    /// Days compacted.
    pub compactions: Counter,
    /// Rows found in the journal at start.
    pub recovered_rows: Counter,
    /// 1 while connected to the source and subscribed.
    pub connected: Gauge,
    /// Connections made to the source.
    pub connections: Counter,
    /// Attempts to connect that failed.
    pub connect_failures: Counter,
    /// Times that the broker had lost the session.
    pub sessions_lost: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dunlin_adapter");
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.5, 14));
        let metrics = Self {
            registry: Registry::default(),
            received: Counter::default(),
            received_bytes: Counter::default(),
            duplicates: Counter::default(),
            redelivered: Counter::default(),
            acknowledged: Counter::default(),
            rows: Counter::default(),
            committed_bytes: Counter::default(),
            commit_duration: seconds(),
            commit_failures: Counter::default(),
            queued: Gauge::default(),
            queued_bytes: Gauge::default(),
            parquet_rows: Counter::default(),
            parquet_files: Counter::default(),
            roll_duration: seconds(),
            roll_failures: Counter::default(),
            compactions: Counter::default(),
            recovered_rows: Counter::default(),
            connected: Gauge::default(),
            connections: Counter::default(),
            connect_failures: Counter::default(),
            sessions_lost: Counter::default(),
        };
        metrics.register(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    fn register(&self, to: &mut Registry) {
        to.register(
            "received_messages",
            "Messages read from the source",
            self.received.clone(),
        );
        to.register_with_unit(
            "received",
            "Bytes read from the source",
            Unit::Bytes,
            self.received_bytes.clone(),
        );
        to.register(
            "duplicate_messages",
            "Messages sent again, and not stored again",
            self.duplicates.clone(),
        );
        to.register(
            "redelivered_messages",
            "Messages probably sent again, stored again under the same message id",
            self.redelivered.clone(),
        );
        to.register(
            "acknowledged_messages",
            "Messages acknowledged",
            self.acknowledged.clone(),
        );
        to.register("committed_rows", "Rows made durable", self.rows.clone());
        to.register_with_unit(
            "committed",
            "Bytes made durable",
            Unit::Bytes,
            self.committed_bytes.clone(),
        );
        to.register_with_unit(
            "commit_duration",
            "Time of a commit",
            Unit::Seconds,
            self.commit_duration.clone(),
        );
        to.register(
            "commit_failures",
            "Commits that failed, to be tried again",
            self.commit_failures.clone(),
        );
        to.register(
            "queued_entries",
            "Entries read and not yet durable",
            self.queued.clone(),
        );
        to.register_with_unit(
            "queued",
            "Bytes read and not yet durable",
            Unit::Bytes,
            self.queued_bytes.clone(),
        );
        to.register(
            "parquet_rows",
            "Rows written to Parquet files",
            self.parquet_rows.clone(),
        );
        to.register(
            "parquet_files",
            "Parquet files written",
            self.parquet_files.clone(),
        );
        to.register_with_unit(
            "roll_duration",
            "Time to store a journal segment as Parquet",
            Unit::Seconds,
            self.roll_duration.clone(),
        );
        to.register(
            "roll_failures",
            "Segments that could not be stored as Parquet, to be tried again",
            self.roll_failures.clone(),
        );
        to.register("compacted_days", "Days compacted", self.compactions.clone());
        to.register(
            "recovered_rows",
            "Rows found in the journal at start",
            self.recovered_rows.clone(),
        );
        to.register(
            "source_connected",
            "Whether the source is connected and subscribed",
            self.connected.clone(),
        );
        to.register(
            "source_connections",
            "Connections made to the source",
            self.connections.clone(),
        );
        to.register(
            "source_connect_failures",
            "Failed attempts to connect to the source",
            self.connect_failures.clone(),
        );
        to.register(
            "source_sessions_lost",
            "Times that the source had lost the session",
            self.sessions_lost.clone(),
        );
    }

    /// Counts a commit.
    pub(crate) fn committed(&self, batch: &Batch, took: Duration) {
        self.rows.inc_by(batch.rows() as u64);
        self.committed_bytes.inc_by(batch.as_bytes().len() as u64);
        self.commit_duration.observe(took.as_secs_f64());
    }

    /// Counts a segment that became Parquet.
    pub(crate) fn rolled(&self, rolled: &Rolled, took: Duration) {
        self.parquet_rows.inc_by(rolled.rows);
        self.parquet_files.inc_by(rolled.files);
        self.roll_duration.observe(took.as_secs_f64());
    }

    /// Everything in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &self.registry).unwrap_or_default();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_the_documented_ones() {
        let text = Metrics::default().render();
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let readme = include_str!("../../README.md");
        assert!(names.len() > 15);
        for name in names {
            assert!(
                readme.contains(&format!("`{name}")),
                "{name} is missing in README.md"
            );
        }
    }
}
