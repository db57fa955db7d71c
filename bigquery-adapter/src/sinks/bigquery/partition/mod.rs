//! One partition of the tap: its messages become rows, the rows go to their tables, and the partition is acknowledged up to where
//! everything is stored.
//!
//! It does no input from the tap itself: it is given batches, and says what to acknowledge with which checkpoint. The order of
//! steps by which a crash at any moment neither loses nor repeats a row:
//!
//! 1. a write stream is made, and written into the checkpoint; only then is something appended to it;
//! 2. rows are appended at their offsets; what is below the lowest position without an answer is acknowledged, and the same step
//!    in Redis stores the offsets at that position;
//! 3. whoever takes the partition up finalizes the streams of the checkpoint. That ends what its predecessor may still have under way, and
//!    tells how many rows each stream has. The rows behind the checkpoint are made again, by the rules that are in
//!    the checkpoint, and as many of each table as are there already are left out.
//!
//! With the default stream there is no step 1, and nothing is known in step 3: what is not acknowledged is written again.
//!
//! Rows that BigQuery refuses are written down in the checkpoint, after their dead letters and before anything that follows them.

mod acknowledging;
mod making;
mod table;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use backon::BackoffBuilder;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::answer::{Verdict, judge_call};
use super::api::WriteApi;
use super::checkpoint::{Checkpoint, MAX_BYTES};
use super::dead::{DeadLetters, Filed, Letter};
use super::tables::Catalog;
use super::writer;
use crate::error::Code;
use crate::health::{Health, Part};
use crate::ops::metrics::Metrics;
use crate::row::Row;
use crate::rules::Rules;
use table::TableState;

/// Messages of a partition, in order.
pub trait Messages: Send {
    /// Their positions, without gaps.
    fn positions(&self) -> Range<u64>;
    /// Positions before them that no message has; empty: none.
    fn gap(&self) -> Range<u64>;
    /// Bytes that they take.
    fn bytes(&self) -> usize;
    /// Gives each message with its position and its id.
    fn each(&self, take: &mut dyn FnMut(u64, &str, &Row<'_>));
}

/// Settings of the sink.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which stream takes the rows.
    pub stream: writer::Kind,
    /// Rows of a request at the most.
    pub rows: usize,
    /// Bytes of a request at the most.
    pub bytes: usize,
    /// How long rows wait for others before they are sent.
    pub age: Duration,
    /// Requests of one table that wait for their answers.
    pub in_flight: usize,
    /// Bytes of a partition that are read and not acknowledged.
    pub ahead_bytes: usize,
}

/// Bytes that a checkpoint needs for a write stream besides names, with room.
const STREAM_BYTES: usize = 160;

/// Rules go into every checkpoint, beside the write streams of each table: both must find room.
///
/// # Errors
/// They do not.
pub fn check_size(rules: &Rules) -> Result<(), String> {
    let tables = rules.tables().iter();
    let streams: usize = tables
        .map(|table| 2 * (STREAM_BYTES + 2 * table.name.len()))
        .sum();
    let (have, most) = (rules.text().len() + streams, MAX_BYTES * 3 / 4);
    if have <= most {
        return Ok(());
    }
    Err(format!(
        "the rules are too large: {} bytes of text and {} tables take {have} bytes of a checkpoint, and {most} are possible. \
         Shorten comments, or divide the rules between two taps with an adapter each",
        rules.text().len(),
        rules.tables().len()
    ))
}

/// What all partitions share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Appends.
    pub api: WriteApi,
    /// Tables.
    pub tables: Arc<dyn Catalog>,
    /// Dead letters.
    pub dead: DeadLetters,
    /// Settings.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is wrong.
    pub health: Arc<Health>,
}

/// What a partition asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Acknowledge {
    /// Everything below is stored.
    pub upto: u64,
    /// To be stored in the same step.
    pub checkpoint: Vec<u8>,
}

/// Why a partition cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum TakeUpError {
    /// The checkpoint.
    #[error(
        "the checkpoint cannot be read: {0}; it was written by a newer adapter, or something else has written to the tap's keys"
    )]
    Checkpoint(#[from] crate::error::EncodingError),
    /// The rules in it.
    #[error("the rules in the checkpoint cannot be read by this version: {0}")]
    Rules(String),
}

/// See the module.
pub struct Partition<M> {
    shared: Shared,
    rules: Arc<Rules>,
    /// Rules that follow when everything under way is acknowledged.
    next_rules: Option<Arc<Rules>>,
    tables: Vec<TableState>,
    /// Given and made into rows, not acknowledged.
    made: VecDeque<M>,
    made_bytes: usize,
    /// Given, and not yet made into rows: behind a gap or a change of rules.
    waiting: VecDeque<M>,
    waiting_bytes: usize,
    /// One past the last position that was made into rows.
    made_upto: u64,
    /// What was asked to be acknowledged.
    asked: u64,
    /// For each acknowledgement that is asked for and not confirmed: the tables that wait for it.
    unconfirmed: VecDeque<Vec<usize>>,
    /// Tables that wait for the next acknowledgement to be asked, with positions that BigQuery has refused.
    to_record: VecDeque<(usize, Vec<u64>)>,
    /// An acknowledgement found no room for its checkpoint.
    owed: bool,
    refused: BTreeSet<(String, u64)>,
    letters: Letters,
}

/// Dead letters of a partition: what gathers, and what is being stored.
#[derive(Default)]
struct Letters {
    gathering: Vec<(u64, Letter)>,
    /// Tables whose writer waits for the letters that gather.
    releases: Vec<(usize, Vec<u64>)>,
    storing: Option<Storing>,
}

struct Storing {
    oldest: u64,
    letters: usize,
    releases: Vec<(usize, Vec<u64>)>,
    done: BoxFuture<'static, Filed>,
}

impl<M> std::fmt::Debug for Partition<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("made_upto", &self.made_upto)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl<M: Messages> Partition<M> {
    /// Takes up a partition at its checkpoint, which was stored with everything below `acknowledged`. Waits, with growing pauses, until BigQuery
    /// has said how far the streams are.
    ///
    /// # Errors
    /// When the checkpoint is not understood: nothing can be said about what is stored then.
    pub async fn take_up(
        shared: Shared,
        rules: Arc<Rules>,
        acknowledged: u64,
        checkpoint: &[u8],
    ) -> Result<Self, TakeUpError> {
        let checkpoint = Checkpoint::decode(checkpoint)?;
        let mut ends = Vec::with_capacity(checkpoint.streams.len());
        for at in &checkpoint.streams {
            ends.push(finalize(&shared.api, &at.stream, at.offset).await);
        }
        let unfinished = checkpoint
            .streams
            .iter()
            .zip(&ends)
            .any(|(at, end)| *end > at.offset);
        // Rows that are there already must be made by the rules that made them.
        let old = if unfinished && checkpoint.rules != rules.text() {
            let old = Rules::parse(&checkpoint.rules);
            Some(Arc::new(old.map_err(|problems| {
                TakeUpError::Rules(problems.join("; "))
            })?))
        } else {
            None
        };
        let (rules, next_rules) = match old {
            Some(old) => (old, Some(rules)),
            None => (rules, None),
        };
        let mut tables = table::states(&rules);
        for (at, end) in checkpoint.streams.iter().zip(ends) {
            if let Some(state) = tables.iter_mut().find(|state| state.name == at.table) {
                state.progress.take_up(at, end);
            }
        }
        Ok(Self {
            shared,
            rules,
            next_rules,
            tables,
            made: VecDeque::new(),
            made_bytes: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            made_upto: acknowledged,
            asked: acknowledged,
            unconfirmed: VecDeque::new(),
            to_record: VecDeque::new(),
            owed: false,
            refused: checkpoint.refused.into_iter().collect(),
            letters: Letters::default(),
        })
    }

    /// Whether it wants more messages now.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.made_bytes + self.waiting_bytes < self.shared.settings.ahead_bytes
    }

    /// Gives the next messages.
    pub fn give(&mut self, messages: M) {
        self.waiting_bytes += messages.bytes();
        self.waiting.push_back(messages);
        self.make();
    }

    /// Changes the rules: messages that have not been made into rows are made by the new ones.
    pub fn change_rules(&mut self, rules: Arc<Rules>) {
        self.next_rules = Some(rules);
        self.make();
    }

    /// Whether everything that was given is stored and acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.made.is_empty() && self.waiting.is_empty() && self.unconfirmed.is_empty()
    }

    /// Waits until something is to be acknowledged; forever when there is nothing to do. Cancel safe.
    pub async fn next(&mut self) -> Acknowledge {
        loop {
            let due = self.flush();
            self.store_letters();
            if let Some(acknowledge) = self.acknowledge() {
                return acknowledge;
            }
            let (tables, storing) = (&mut self.tables, &mut self.letters.storing);
            let turn = std::future::poll_fn(|context| {
                if let Some(storing) = storing
                    && let Poll::Ready(filed) = storing.done.as_mut().poll(context)
                {
                    return Poll::Ready(Turn::Stored(filed));
                }
                for (number, state) in tables.iter_mut().enumerate() {
                    if let Poll::Ready(event) = state.poll(context) {
                        return Poll::Ready(Turn::Table(number, event));
                    }
                }
                Poll::Pending
            });
            let turn = tokio::select! {
                turn = turn => turn,
                () = pause_until(due) => Turn::Due,
            };
            match turn {
                Turn::Due => {}
                Turn::Stored(filed) => self.stored(filed),
                Turn::Table(number, event) => self.event(number, event),
            }
        }
    }

    /// The oldest acknowledgement that [`next`](Self::next) asked for is stored.
    pub fn confirmed(&mut self) {
        for number in self.unconfirmed.pop_front().unwrap_or_default() {
            if let Some(writer) = self
                .tables
                .get_mut(number)
                .and_then(|state| state.writer.as_mut())
            {
                writer.recorded();
            }
        }
        self.make();
    }

    fn event(&mut self, number: usize, event: table::Event) {
        let Some(state) = self.tables.get_mut(number) else {
            return;
        };
        match event {
            table::Event::Prepared(target) => state.prepared(&self.shared, &self.rules, target),
            table::Event::Writer(event) => match event {
                writer::Event::Done(rows) => {
                    self.shared.metrics.appended(&state.name, rows.len());
                    self.shared.health.set(Part::BigQuery, None);
                }
                writer::Event::Created { stream } => {
                    self.shared.metrics.stream_made();
                    state.progress.begin(&stream);
                    self.to_record.push_back((number, Vec::new()));
                }
                writer::Event::Ended { stream, rows, done } => {
                    self.shared.metrics.appended(&state.name, done.len());
                    state.progress.end(&stream, rows);
                }
                writer::Event::Refused { rows, reasons } => self.refuse(number, &rows, reasons),
                writer::Event::Schema => {
                    self.shared.metrics.table_checked();
                    state.prepare(&self.shared, &self.rules);
                }
                writer::Event::Trouble(trouble) => {
                    self.shared.metrics.repeated(trouble.name());
                    let words = format!("table {}: {trouble}", state.name);
                    tracing::error!(
                        code = Code::BIGQUERY_REFUSES.as_str(),
                        "nothing can be written: {words}"
                    );
                    self.shared.health.set(Part::BigQuery, Some(words));
                }
                writer::Event::Again(status) => {
                    self.shared
                        .metrics
                        .repeated(&format!("{:?}", status.code()));
                    tracing::warn!(
                        code = Code::BIGQUERY_AGAIN.as_str(),
                        table = state.name,
                        answer = ?status.code(),
                        "an attempt is repeated: {}",
                        status.message()
                    );
                }
            },
        }
    }
}

enum Turn {
    Due,
    Stored(Filed),
    Table(usize, table::Event),
}

/// Waits until then; for ever, when nothing is due. Cancel safe.
pub(super) async fn pause_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Ends a stream, and says how many rows it has: `offset` when it is gone, since then what was beyond is gone with it.
async fn finalize(api: &WriteApi, stream: &str, offset: u64) -> u64 {
    let mut pauses = backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        match api.finalize(stream).await {
            Ok(rows) => return rows,
            Err(status) => match judge_call(&status) {
                Verdict::NewStream | Verdict::Schema => {
                    tracing::error!(
                        code = Code::STREAM_GONE.as_str(),
                        stream,
                        "the stream is gone, with its table or by age: rows that were written and not acknowledged may be written again: {}",
                        status.message()
                    );
                    return offset;
                }
                _ => tracing::warn!(
                    code = Code::BIGQUERY_AGAIN.as_str(),
                    stream,
                    "it is not known yet how far the stream is: {}",
                    status.message()
                ),
            },
        }
        tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(10))).await;
    }
}
