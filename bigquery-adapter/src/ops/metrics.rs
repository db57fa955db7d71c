//! Every metric of the adapter: the names are in this file and nowhere else.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use dunlin_telemetry::process::Process;
use dunlin_telemetry::trace;

use crate::batch::Batch;
use crate::health::{Health, Part};
use crate::sinks::parquet::Rolled;

/// One label and its value.
type Label = [(&'static str, String); 1];

/// Counters and gauges. All are cheap to raise from any thread; the hot path raises them once per read or commit.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Whether everything works, as `/health/ready` says.
    ready: Gauge,
    /// Whether a part does not.
    problems: Family<[(&'static str, &'static str); 1], Gauge>,
    /// When something was stored last.
    stored: Gauge<f64, AtomicU64>,
    rules_reloads: Family<Label, Counter>,
    trace: trace::Counters,
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
    /// Partitions that the tap is to have.
    pub tap_partitions_configured: Gauge,
    /// Partitions of the tap that this adapter has.
    pub tap_partitions: Gauge,
    /// Messages in them that are not stored.
    pub tap_lag_messages: Gauge,
    /// Bytes of those.
    pub tap_lag_bytes: Gauge,
    /// Age of the oldest of those.
    pub tap_lag_seconds: Gauge<f64, AtomicU64>,
    /// Messages that were dropped at the tap's bound.
    pub tap_dropped: Gauge,
    bigquery_rows: Family<Label, Counter>,
    bigquery_appends: Family<Label, Counter>,
    bigquery_retries: Family<Label, Counter>,
    bigquery_streams: Counter,
    bigquery_schema_changes: Counter,
    dead_letters: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut root = Registry::default();
        root.register_collector(Box::new(Process::default()));
        let registry = root.sub_registry_with_prefix("dunlin_adapter");
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.5, 14));
        let metrics = Self {
            registry: Registry::default(),
            ready: Gauge::default(),
            problems: Family::default(),
            stored: Gauge::default(),
            rules_reloads: Family::default(),
            trace: trace::Counters::default(),
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
            tap_partitions_configured: Gauge::default(),
            tap_partitions: Gauge::default(),
            tap_lag_messages: Gauge::default(),
            tap_lag_bytes: Gauge::default(),
            tap_lag_seconds: Gauge::default(),
            tap_dropped: Gauge::default(),
            bigquery_rows: Family::default(),
            bigquery_appends: Family::default(),
            bigquery_retries: Family::default(),
            bigquery_streams: Counter::default(),
            bigquery_schema_changes: Counter::default(),
            dead_letters: Family::default(),
        };
        metrics.register_state(registry);
        metrics.register_tap(registry);
        metrics.register(registry);
        Self {
            registry: root,
            ..metrics
        }
    }
}

impl Metrics {
    fn register_state(&self, to: &mut Registry) {
        let version = env!("CARGO_PKG_VERSION");
        to.register(
            "build",
            "What is running",
            Info::new([("version", version)]),
        );
        to.register(
            "ready",
            "Whether everything works, as /health/ready says",
            self.ready.clone(),
        );
        to.register(
            "problem",
            "Whether a part does not work, or is stopping",
            self.problems.clone(),
        );
        for part in Part::ALL {
            drop(self.problem(part));
        }
        to.register_with_unit(
            "stored_timestamp",
            "When something was stored last, in Unix time; 0: not since the start",
            Unit::Seconds,
            self.stored.clone(),
        );
        to.register(
            "rules_reloads",
            "Times that the rules were read again",
            self.rules_reloads.clone(),
        );
        to.register(
            "trace_spans_sent",
            "Spans of traces that the collector has taken",
            self.trace.sent.clone(),
        );
        to.register(
            "trace_spans_dropped",
            "Spans of traces that were dropped: too many waited, or the collector did not take them",
            self.trace.dropped.clone(),
        );
        // A counter that is there before its first count: its first increase can be seen.
        for place in ["table", "file"] {
            self.letters_stored(place, 0);
        }
        for result in ["ok", "refused"] {
            drop(
                self.rules_reloads
                    .get_or_create(&[("result", result.to_owned())]),
            );
        }
    }

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

    fn register_tap(&self, to: &mut Registry) {
        to.register(
            "tap_partitions_configured",
            "Partitions that the tap is to have, over all adapters",
            self.tap_partitions_configured.clone(),
        );
        to.register(
            "tap_partitions",
            "Partitions of the tap that this adapter has",
            self.tap_partitions.clone(),
        );
        to.register(
            "tap_lag_messages",
            "Messages in these partitions that are not stored",
            self.tap_lag_messages.clone(),
        );
        to.register_with_unit(
            "tap_lag",
            "Bytes in these partitions that are not stored",
            Unit::Bytes,
            self.tap_lag_bytes.clone(),
        );
        to.register_with_unit(
            "tap_lag",
            "Age of the oldest message in these partitions that is not stored",
            Unit::Seconds,
            self.tap_lag_seconds.clone(),
        );
        to.register(
            "tap_dropped_messages",
            "Messages that these partitions have dropped at their bound",
            self.tap_dropped.clone(),
        );
        to.register(
            "bigquery_rows",
            "Rows that BigQuery has confirmed",
            self.bigquery_rows.clone(),
        );
        to.register(
            "bigquery_appends",
            "Requests that BigQuery has confirmed",
            self.bigquery_appends.clone(),
        );
        to.register(
            "bigquery_retries",
            "Attempts that failed and were repeated",
            self.bigquery_retries.clone(),
        );
        to.register(
            "bigquery_streams",
            "Write streams made",
            self.bigquery_streams.clone(),
        );
        to.register(
            "bigquery_table_checks",
            "Times that a table was looked at anew because rows did not fit it",
            self.bigquery_schema_changes.clone(),
        );
        to.register(
            "dead_letters",
            "Messages that fit no table",
            self.dead_letters.clone(),
        );
    }

    /// Counts a request that BigQuery has confirmed.
    pub(crate) fn appended(&self, table: &str, rows: usize) {
        let label = [("table", table.to_owned())];
        self.bigquery_rows.get_or_create(&label).inc_by(rows as u64);
        self.bigquery_appends.get_or_create(&label).inc();
        self.stored_now();
    }

    /// What counts spans.
    pub(crate) fn trace_counters(&self) -> trace::Counters {
        self.trace.clone()
    }

    fn stored_now(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.stored.set(now.unwrap_or_default().as_secs_f64());
    }

    /// Counts a reading of the rules.
    pub(crate) fn rules_read(&self, ok: bool) {
        let result = if ok { "ok" } else { "refused" };
        self.rules_reloads
            .get_or_create(&[("result", result.to_owned())])
            .inc();
    }

    /// Sets what `/health/ready` says: at each scrape.
    pub(crate) fn set_health(&self, health: &Health) {
        let problems = health.problems();
        self.ready.set(i64::from(problems.is_empty()));
        for part in Part::ALL {
            let there = problems.iter().any(|(problem, _)| *problem == part);
            self.problem(part).set(i64::from(there));
        }
    }

    fn problem(&self, part: Part) -> Gauge {
        self.problems.get_or_create_owned(&[("part", part.name())])
    }

    /// Counts an attempt that is repeated.
    pub(crate) fn repeated(&self, cause: &str) {
        self.bigquery_retries
            .get_or_create(&[("cause", cause.to_owned())])
            .inc();
    }

    /// Counts a write stream.
    pub(crate) fn stream_made(&self) {
        self.bigquery_streams.inc();
    }

    /// Counts a look at a table that rows did not fit.
    pub(crate) fn table_checked(&self) {
        self.bigquery_schema_changes.inc();
    }

    /// Counts dead letters that are stored.
    pub(crate) fn letters_stored(&self, place: &'static str, letters: usize) {
        self.dead_letters
            .get_or_create(&[("place", place.to_owned())])
            .inc_by(letters as u64);
    }

    /// Counts a commit.
    pub(crate) fn committed(&self, batch: &Batch, took: Duration) {
        self.rows.inc_by(batch.rows() as u64);
        self.committed_bytes.inc_by(batch.as_bytes().len() as u64);
        self.commit_duration.observe(took.as_secs_f64());
        self.stored_now();
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
    use dunlin_telemetry::catalogue;

    use super::*;

    /// `UPDATE_GOLDEN=1` writes the table anew.
    #[test]
    fn every_metric_is_documented_with_its_type_and_labels() {
        let metrics = Metrics::default();
        metrics.appended(catalogue::OPEN, 1);
        metrics.repeated(catalogue::OPEN);
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let shown = metrics
            .render()
            .replace(env!("CARGO_PKG_VERSION"), catalogue::OPEN);
        if let Err(different) = catalogue::hold(document, "adapter", &shown) {
            panic!("{different}");
        }
    }

    #[test]
    fn what_is_wrong_is_shown_by_part() {
        let (metrics, health) = (Metrics::default(), Health::default());
        health.set(Part::BigQuery, Some("no permission".to_owned()));
        metrics.set_health(&health);
        let text = metrics.render();
        for line in [
            "dunlin_adapter_ready 0",
            "dunlin_adapter_problem{part=\"bigquery\"} 1",
            "dunlin_adapter_problem{part=\"source\"} 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        health.set(Part::BigQuery, None);
        metrics.set_health(&health);
        assert!(metrics.render().contains("dunlin_adapter_ready 1\n"));
    }
}
