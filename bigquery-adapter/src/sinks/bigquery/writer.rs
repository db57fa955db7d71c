//! Writes the rows of one table and one partition: a stream, its connection, what is under way, and what each answer asks for.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::BoxFuture;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::append_rows_response::Response;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::{AppendRowsResponse, ProtoSchema};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::answer::{Pace, Trouble, Verdict, judge_append, judge_call};
use super::api::{Connection, WriteApi};
use super::window::{Rows, Window};

/// A table as the writer sees it.
#[derive(Debug, Clone)]
pub struct Target {
    /// `projects/P/datasets/D/tables/T`.
    pub path: String,
    /// Descriptor of its rows.
    pub schema: Arc<ProtoSchema>,
}

/// Which of a table's streams is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A stream of our own, with offsets: each row once.
    Committed,
    /// The table's default stream: at least once.
    Default,
}

/// What the writer needs its owner for, or tells it.
#[derive(Debug)]
pub enum Event {
    /// These rows are in the table.
    Done(Rows),
    /// A stream was made. Nothing is appended before [`Writer::recorded`].
    Created {
        /// Its name.
        stream: String,
    },
    /// The stream that was written to has ended with so many rows; what else it was given goes to a new one.
    Ended {
        /// Its name.
        stream: String,
        /// Rows in it.
        rows: u64,
        /// Those of them that had no answer yet.
        done: Rows,
    },
    /// BigQuery refuses these rows for what they contain. Nothing is sent before [`Writer::recorded`].
    Refused {
        /// The rows.
        rows: Rows,
        /// Why, for each of them.
        reasons: Vec<String>,
    },
    /// Nothing goes on, and only a person can help. Tried again all the same.
    Trouble(Trouble),
    /// The table is missing or has other columns: its owner looks at it, and calls [`Writer::prepared`].
    Schema,
    /// An attempt failed and is repeated after a pause, with what was said.
    Again(Status),
}

enum State {
    /// There is no stream.
    Idle,
    /// A stream is being made.
    Creating(BoxFuture<'static, Result<String, Status>>),
    /// The owner writes down what must be known before anything else is sent.
    Waiting,
    /// Requests are sent and answered.
    Open,
    /// Answers are awaited before something is sent again.
    Draining(After),
    /// A pause, and then as before.
    Pausing(Pin<Box<Sleep>>, Box<State>),
    /// The token is renewed.
    Renewing(BoxFuture<'static, ()>),
    /// The stream is ended.
    Finalizing(BoxFuture<'static, Result<u64, Status>>),
}

/// What follows when all answers have come.
enum After {
    TakeOut(Vec<(usize, String)>),
    Halve(String),
}

/// See the module.
pub struct Writer {
    api: WriteApi,
    target: Target,
    in_flight: usize,
    stream: Option<String>,
    connection: Option<Connection>,
    window: Window,
    state: State,
    backoff: ExponentialBackoff,
    quota: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("table", &self.target.path)
            .field("stream", &self.stream)
            .field("window", &self.window.len())
            .finish_non_exhaustive()
    }
}

const SHORTEST: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
pub(super) const LONGEST: Duration = Duration::from_secs(30);
/// A quota of a minute is not there again after milliseconds.
pub(super) const QUOTA: Duration = Duration::from_secs(5);

/// Pauses between attempts.
pub(super) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST)
        .with_max_delay(LONGEST)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

/// What the answer to an append means, and what was said.
pub(super) fn judge(answer: AppendRowsResponse) -> (Verdict, Status) {
    match answer.response {
        Some(Response::AppendResult(_)) if answer.row_errors.is_empty() => {
            (Verdict::Done, Status::ok(""))
        }
        Some(Response::Error(error)) => (
            judge_append(&error, &answer.row_errors),
            Status::new(tonic::Code::from(error.code), error.message),
        ),
        // An answer that is neither: nothing is known, so it is asked again.
        _ => (
            Verdict::Retry(Pace::Usual),
            Status::internal("an answer without a result"),
        ),
    }
}

impl Writer {
    /// A writer without a stream. At most `in_flight` requests wait for their answers.
    #[must_use]
    pub fn new(api: WriteApi, target: Target, in_flight: usize) -> Self {
        Self {
            api,
            target,
            in_flight: in_flight.max(1),
            stream: None,
            connection: None,
            window: Window::default(),
            state: State::Idle,
            backoff: backoff(),
            quota: false,
        }
    }

    /// Gives a request's worth of rows.
    pub fn push(&mut self, rows: Rows) {
        self.window.push(rows);
    }

    /// Requests that wait or are under way.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.window.len()
    }

    /// Bytes of what waits or is under way.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.window.bytes()
    }

    /// Position of the oldest row that is not known to be in the table.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.window.oldest()
    }

    /// What [`Event::Created`] or [`Event::Refused`] told is written down.
    pub fn recorded(&mut self) {
        if matches!(self.state, State::Waiting) {
            self.state = State::Open;
        }
    }

    /// The table is there and has the columns. `target`: with what is to be written from now on.
    pub fn prepared(&mut self, target: Target) {
        self.target = target;
        self.connection = None;
        self.window.disconnected();
        self.state = match self.stream {
            Some(_) => State::Open,
            None => State::Idle,
        };
        // The service may know a new column some seconds later than the table has it.
        self.pause();
    }

    /// Waits for the next event; forever, when there is nothing to do. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            match &mut self.state {
                State::Idle => {
                    if self.window.is_empty() {
                        return std::future::pending().await;
                    }
                    let (api, path) = (self.api.clone(), self.target.path.clone());
                    self.state =
                        State::Creating(Box::pin(async move { api.create_stream(&path).await }));
                }
                State::Creating(creating) => {
                    let created = creating.await;
                    match created {
                        Ok(stream) => {
                            self.backoff = backoff();
                            self.stream = Some(stream.clone());
                            self.state = State::Waiting;
                            return Event::Created { stream };
                        }
                        Err(status) => {
                            self.state = State::Idle;
                            if let Some(event) = self.failed(judge_call(&status), status) {
                                return event;
                            }
                        }
                    }
                }
                State::Waiting => return std::future::pending().await,
                State::Open => {
                    if let Some(event) = self.open().await {
                        return event;
                    }
                }
                State::Draining(_) => {
                    if let Some(event) = self.drain().await {
                        return event;
                    }
                }
                State::Pausing(pause, _) => {
                    pause.as_mut().await;
                    if let State::Pausing(_, then) = std::mem::replace(&mut self.state, State::Open)
                    {
                        self.state = *then;
                    }
                }
                State::Renewing(renewing) => {
                    renewing.await;
                    self.state = match self.stream {
                        Some(_) => State::Open,
                        None => State::Idle,
                    };
                    self.pause();
                }
                State::Finalizing(finalizing) => {
                    let finalized = finalizing.await;
                    if let Some(event) = self.finalized(finalized) {
                        return event;
                    }
                }
            }
        }
    }

    async fn open(&mut self) -> Option<Event> {
        let Some(stream) = self.stream.clone() else {
            self.state = State::Idle;
            return None;
        };
        if self.window.is_empty() && self.connection.is_none() {
            return std::future::pending().await;
        }
        let connection = self.connection.get_or_insert_with(|| {
            self.api
                .connect(&stream, Arc::clone(&self.target.schema), self.in_flight)
        });
        while let Some(append) = self.window.send(self.in_flight) {
            if let Err(status) = connection.send(append) {
                return self.disconnected(status);
            }
        }
        match connection.next().await {
            Ok(answer) => self.answered(answer),
            Err(status) => self.disconnected(status),
        }
    }

    fn answered(&mut self, answer: AppendRowsResponse) -> Option<Event> {
        if !self.window.answered() {
            return None;
        }
        let (verdict, status) = judge(answer);
        match verdict {
            Verdict::Done => {
                self.backoff = backoff();
                self.window.done().map(Event::Done)
            }
            // All before the oldest was confirmed: the stream is not what it was.
            Verdict::Gap => self.failed(Verdict::NewStream, status),
            Verdict::RowsRefused(rows) => {
                self.window.again();
                self.state = State::Draining(After::TakeOut(rows));
                None
            }
            Verdict::RequestRefused => {
                self.window.again();
                self.state = State::Draining(After::Halve(status.message().to_owned()));
                None
            }
            verdict => {
                self.window.again();
                self.drop_connection();
                self.failed(verdict, status)
            }
        }
    }

    async fn drain(&mut self) -> Option<Event> {
        if !self.window.is_drained() {
            let answer = match &mut self.connection {
                Some(connection) => connection.next().await,
                None => Err(Status::unavailable("the connection is closed")),
            };
            match answer {
                Ok(_) => {
                    self.window.answered();
                    return None;
                }
                Err(status) => {
                    // Requests with the old offsets may still arrive: only a new stream is safe when offsets change.
                    return self.failed(Verdict::NewStream, status);
                }
            }
        }
        let State::Draining(after) = std::mem::replace(&mut self.state, State::Open) else {
            return None;
        };
        match after {
            After::TakeOut(refused) => self.take_out(refused),
            After::Halve(_) if self.window.halve() => None,
            After::Halve(reason) => self.take_out(vec![(0, reason)]),
        }
    }

    fn take_out(&mut self, mut refused: Vec<(usize, String)>) -> Option<Event> {
        if !self.window.may_renumber() {
            // A new stream first, where the rows are refused again.
            let status =
                Status::aborted("requests of a connection that has ended may still arrive");
            return self.failed(Verdict::NewStream, status);
        }
        refused.retain(|(index, _)| *index < self.window.oldest_len());
        let indices: Vec<usize> = refused.iter().map(|(index, _)| *index).collect();
        let rows = self.window.take_out(&indices);
        // Taken from the end, so that indices stay right.
        let mut reasons: Vec<String> = refused.into_iter().map(|(_, reason)| reason).collect();
        reasons.reverse();
        self.state = State::Waiting;
        Some(Event::Refused { rows, reasons })
    }

    fn disconnected(&mut self, status: Status) -> Option<Event> {
        self.drop_connection();
        self.failed(judge_call(&status), status)
    }

    fn drop_connection(&mut self) {
        self.connection = None;
        self.window.disconnected();
    }

    /// What follows a failed attempt.
    fn failed(&mut self, verdict: Verdict, status: Status) -> Option<Event> {
        match verdict {
            Verdict::NewStream => match self.stream.clone() {
                Some(stream) => {
                    self.drop_connection();
                    let api = self.api.clone();
                    self.state =
                        State::Finalizing(Box::pin(async move { api.finalize(&stream).await }));
                    Some(Event::Again(status))
                }
                None => {
                    self.pause();
                    Some(Event::Again(status))
                }
            },
            Verdict::Schema => {
                self.state = State::Waiting;
                Some(Event::Schema)
            }
            Verdict::Operator(trouble) => {
                self.pause_for(LONGEST);
                Some(Event::Trouble(trouble))
            }
            Verdict::Retry(Pace::NewToken) => {
                let api = self.api.clone();
                self.state = State::Renewing(Box::pin(async move { api.renew_token().await }));
                Some(Event::Again(status))
            }
            Verdict::Retry(Pace::Quota) => {
                self.quota = true;
                self.pause();
                Some(Event::Again(status))
            }
            _ => {
                self.pause();
                Some(Event::Again(status))
            }
        }
    }

    fn finalized(&mut self, finalized: Result<u64, Status>) -> Option<Event> {
        let stream = self.stream.clone().unwrap_or_default();
        let rows = match finalized {
            Ok(rows) => rows,
            Err(status) => match judge_call(&status) {
                // The stream is gone with its table, and so are the rows that were in it: what has had no answer counts as not written.
                Verdict::NewStream | Verdict::Schema => {
                    u64::try_from(self.window.oldest_offset()).unwrap_or(0)
                }
                _ => {
                    let api = self.api.clone();
                    self.state =
                        State::Finalizing(Box::pin(async move { api.finalize(&stream).await }));
                    self.pause();
                    return Some(Event::Again(status));
                }
            },
        };
        let done = self.window.restart(i64::try_from(rows).unwrap_or(i64::MAX));
        self.stream = None;
        self.state = State::Idle;
        Some(Event::Ended { stream, rows, done })
    }

    fn pause(&mut self) {
        let mut delay = self.backoff.next().unwrap_or(LONGEST);
        if std::mem::take(&mut self.quota) {
            delay = delay.max(QUOTA);
        }
        self.pause_for(delay);
    }

    fn pause_for(&mut self, delay: Duration) {
        let then = std::mem::replace(&mut self.state, State::Open);
        self.state = State::Pausing(Box::pin(sleep(delay)), Box::new(then));
    }
}
