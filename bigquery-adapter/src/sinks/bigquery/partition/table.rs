//! One table of a partition.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::ProtoSchema;
use tokio::time::Instant;

use super::super::default_stream::DefaultWriter;
use super::super::encode;
use super::super::progress::Progress;
use super::super::window::Rows;
use super::super::writer::{self, Kind, Target, Writer};
use super::{Settings, Shared};
use crate::rules::Rules;

/// Between attempts to make or look at a table that is not as it must be.
const PAUSE: Duration = Duration::from_secs(5);
/// Between attempts to reach BigQuery: growing, in this range.
const UNREACHABLE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The writer has something to say.
    Writer(writer::Event),
    /// The table is there and has its columns.
    Prepared(Target),
}

/// By [`Settings::stream`].
pub(super) enum AnyWriter {
    Committed(Writer),
    Default(DefaultWriter),
}

impl AnyWriter {
    fn new(shared: &Shared, target: Target) -> Self {
        let (api, in_flight) = (shared.api.clone(), shared.settings.in_flight);
        match shared.settings.stream {
            Kind::Committed => Self::Committed(Writer::new(api, target, in_flight)),
            Kind::Default => Self::Default(DefaultWriter::new(api, target, in_flight)),
        }
    }

    fn oldest(&self) -> Option<u64> {
        match self {
            Self::Committed(writer) => writer.oldest(),
            Self::Default(writer) => writer.oldest(),
        }
    }

    fn push(&mut self, rows: Rows) {
        match self {
            Self::Committed(writer) => writer.push(rows),
            Self::Default(writer) => writer.push(rows),
        }
    }

    fn prepared(&mut self, target: Target) {
        match self {
            Self::Committed(writer) => writer.prepared(target),
            Self::Default(writer) => writer.prepared(target),
        }
    }

    /// What the checkpoint must have is in it.
    pub(super) fn recorded(&mut self) {
        match self {
            Self::Committed(writer) => writer.recorded(),
            Self::Default(_) => {}
        }
    }

    async fn next(&mut self) -> writer::Event {
        match self {
            Self::Committed(writer) => writer.next().await,
            Self::Default(writer) => writer.next().await,
        }
    }
}

pub(super) struct TableState {
    pub(super) name: String,
    /// Its number in the rules.
    number: usize,
    pub(super) progress: Progress,
    /// Rows that gather for a request.
    pub(super) building: Rows,
    pub(super) since: Option<Instant>,
    pub(super) writer: Option<AnyWriter>,
    /// Requests' worth of rows that wait for the writer.
    sealed: VecDeque<Rows>,
    preparing: Option<BoxFuture<'static, Target>>,
}

pub(super) fn states(rules: &Rules) -> Vec<TableState> {
    let tables = rules.tables().iter().enumerate();
    tables
        .map(|(number, table)| TableState {
            name: table.name.clone(),
            number,
            progress: Progress::default(),
            building: Rows::default(),
            since: None,
            writer: None,
            sealed: VecDeque::new(),
            preparing: None,
        })
        .collect()
}

impl TableState {
    /// Position of the oldest row that is not known to be stored.
    pub(super) fn oldest(&self) -> Option<u64> {
        let sent = self.writer.as_ref().and_then(AnyWriter::oldest);
        let waiting = self.sealed.front().unwrap_or(&self.building);
        sent.or_else(|| waiting.positions().first().copied())
    }

    /// Adds a row; ends the request when it is large enough.
    pub(super) fn add(&mut self, position: u64, row: Bytes, settings: &Settings) {
        let full = self.building.bytes() + row.len() > settings.bytes;
        if !self.building.is_empty() && (full || self.building.len() >= settings.rows) {
            self.sealed.push_back(std::mem::take(&mut self.building));
            self.since = None;
        }
        self.building.push(position, row);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Whether whole requests wait for the writer.
    pub(super) fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Ends the request that gathers, and hands what waits to the writer.
    pub(super) fn flush(&mut self, shared: &Shared, rules: &Rules) {
        self.since = None;
        if !self.building.is_empty() {
            self.sealed.push_back(std::mem::take(&mut self.building));
        }
        self.hand_over(shared, rules);
    }

    /// Hands the requests that wait to the writer, which is made when there is none.
    pub(super) fn hand_over(&mut self, shared: &Shared, rules: &Rules) {
        match &mut self.writer {
            Some(writer) => {
                for rows in self.sealed.drain(..) {
                    writer.push(rows);
                }
            }
            None if self.preparing.is_none() && !self.sealed.is_empty() => {
                self.prepare(shared, rules);
            }
            None => {}
        }
    }

    /// Looks at the table, and makes or extends it; again and again, until it is as the rules want it.
    pub(super) fn prepare(&mut self, shared: &Shared, rules: &Rules) {
        let Some(table) = rules.tables().get(self.number).cloned() else {
            return;
        };
        let tables = Arc::clone(&shared.tables);
        self.preparing = Some(Box::pin(async move {
            let mut pauses = ExponentialBuilder::default()
                .with_min_delay(UNREACHABLE.0)
                .with_max_delay(UNREACHABLE.1)
                .without_max_times()
                .with_jitter()
                .build();
            while let Err(error) = tables.prepare(&table).await {
                let (code, table) = (error.code().as_str(), &table.name);
                let pause = if error.may_pass() {
                    tracing::warn!(code, table, "the table waits: {error}; trying again");
                    pauses.next().unwrap_or(UNREACHABLE.1)
                } else {
                    tracing::error!(code, table, "the table cannot be written to: {error}");
                    PAUSE
                };
                tokio::time::sleep(pause).await;
            }
            Target {
                path: tables.path(&table.name),
                schema: Arc::new(ProtoSchema {
                    proto_descriptor: Some(encode::descriptor(&table)),
                }),
            }
        }));
    }

    pub(super) fn prepared(&mut self, shared: &Shared, rules: &Rules, target: Target) {
        self.preparing = None;
        match &mut self.writer {
            Some(writer) => writer.prepared(target),
            None => self.writer = Some(AnyWriter::new(shared, target)),
        }
        self.flush(shared, rules);
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Some(preparing) = &mut self.preparing
            && let Poll::Ready(prepared) = preparing.as_mut().poll(context)
        {
            return Poll::Ready(Event::Prepared(prepared));
        }
        if let Some(writer) = &mut self.writer
            && let Poll::Ready(event) = pin!(writer.next()).poll(context)
        {
            return Poll::Ready(Event::Writer(event));
        }
        Poll::Pending
    }
}
