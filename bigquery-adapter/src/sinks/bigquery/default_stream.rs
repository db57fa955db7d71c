//! Writes the rows of one table and one partition to the table's default stream: at least once.
//!
//! The default stream knows no offsets, so an answer is about its own request only, and what is sent again may be there twice. So a
//! request is sent again only when its answer was a refusal, or has been lost: after an answer that stops everything (a quota, a token, a missing column) nothing new is
//! sent, but the answers of what is under way are awaited. Answers of one connection come in the order of its requests.

use std::collections::VecDeque;
use std::pin::Pin;

use backon::ExponentialBackoff;
use futures_util::future::BoxFuture;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::AppendRowsResponse;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::answer::{Pace, Verdict, judge_call};
use super::api::{Connection, WriteApi};
use super::window::{Append, Rows};
use super::writer::{Event, LONGEST, QUOTA, Target, backoff, judge};

/// Requests, each on its own.
#[derive(Debug, Default)]
struct Requests {
    /// To be sent, by their positions.
    waiting: VecDeque<Rows>,
    /// Under way, in the order in which they were sent.
    sent: VecDeque<Rows>,
}

impl Requests {
    fn push(&mut self, rows: Rows) {
        self.waiting.push_back(rows);
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    fn oldest(&self) -> Option<u64> {
        let requests = self.sent.iter().chain(self.waiting.front());
        requests.filter_map(Rows::oldest).min()
    }

    /// The next one to send; it counts as sent.
    fn send(&mut self, in_flight: usize) -> Option<Append> {
        if self.sent.len() >= in_flight {
            return None;
        }
        let rows = self.waiting.pop_front()?;
        self.sent.push_back(rows.clone());
        Some(Append { offset: -1, rows })
    }

    /// To be sent again.
    fn again(&mut self, rows: Rows) {
        if !rows.is_empty() {
            let oldest = rows.oldest();
            let place = self.waiting.partition_point(|rows| rows.oldest() < oldest);
            self.waiting.insert(place, rows);
        }
    }

    /// The connection is gone: nobody knows what has become of what was under way.
    fn disconnected(&mut self) {
        while let Some(rows) = self.sent.pop_back() {
            self.again(rows);
        }
    }
}

/// What follows when nothing is under way any more.
enum After {
    Pause(Pace),
    Schema,
    Trouble,
}

enum State {
    Open,
    /// Nothing is sent.
    Stopping(After),
    /// The owner looks at the table.
    Waiting,
    Pausing(Pin<Box<Sleep>>),
    Renewing(BoxFuture<'static, ()>),
}

/// See the module.
pub struct DefaultWriter {
    api: WriteApi,
    target: Target,
    in_flight: usize,
    connection: Option<Connection>,
    requests: Requests,
    state: State,
    backoff: ExponentialBackoff,
}

impl std::fmt::Debug for DefaultWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DefaultWriter")
            .field("table", &self.target.path)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl DefaultWriter {
    /// A writer to the default stream of a table. At most `in_flight` requests wait for their answers.
    #[must_use]
    pub fn new(api: WriteApi, target: Target, in_flight: usize) -> Self {
        Self {
            api,
            target,
            in_flight: in_flight.max(1),
            connection: None,
            requests: Requests::default(),
            state: State::Open,
            backoff: backoff(),
        }
    }

    /// Gives a request's worth of rows.
    pub fn push(&mut self, rows: Rows) {
        self.requests.push(rows);
    }

    /// Position of the oldest row that is not known to be in the table.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.requests.oldest()
    }

    /// The table is there and has the columns.
    pub fn prepared(&mut self, target: Target) {
        self.target = target;
        // The service may know a new column some seconds later than the table has it.
        self.pause(Pace::Usual);
    }

    /// Waits for the next event; forever, when there is nothing to do. Cancel safe. Never [`Event::Created`] and [`Event::Ended`].
    pub async fn next(&mut self) -> Event {
        loop {
            match &mut self.state {
                State::Open => {
                    if let Some(event) = self.open().await {
                        return event;
                    }
                }
                State::Stopping(_) if !self.requests.sent.is_empty() => {
                    if let Some(event) = self.answer().await {
                        return event;
                    }
                }
                State::Stopping(_) => {
                    if let Some(event) = self.stopped() {
                        return event;
                    }
                }
                State::Waiting => return std::future::pending().await,
                State::Pausing(pause) => {
                    pause.as_mut().await;
                    self.state = State::Open;
                }
                State::Renewing(renewing) => {
                    renewing.await;
                    self.pause(Pace::Usual);
                }
            }
        }
    }

    async fn open(&mut self) -> Option<Event> {
        if self.requests.is_empty() && self.connection.is_none() {
            return std::future::pending().await;
        }
        let connection = self.connection.get_or_insert_with(|| {
            let stream = format!("{}/streams/_default", self.target.path);
            let schema = std::sync::Arc::clone(&self.target.schema);
            self.api.connect(&stream, schema, self.in_flight)
        });
        while let Some(append) = self.requests.send(self.in_flight) {
            if let Err(status) = connection.send(&append) {
                return self.disconnected(status);
            }
        }
        self.answer().await
    }

    async fn answer(&mut self) -> Option<Event> {
        let answer = match &mut self.connection {
            Some(connection) => connection.next().await,
            None => Err(Status::unavailable("the connection is closed")),
        };
        match answer {
            Ok(answer) => self.answered(answer),
            Err(status) => self.disconnected(status),
        }
    }

    fn answered(&mut self, answer: AppendRowsResponse) -> Option<Event> {
        let mut rows = self.requests.sent.pop_front()?;
        let (verdict, status) = judge(answer);
        match verdict {
            Verdict::Done => {
                self.backoff = backoff();
                Some(Event::Done(rows))
            }
            Verdict::RowsRefused(mut refused) => {
                refused.retain(|(index, _)| *index < rows.len());
                if refused.is_empty() {
                    self.requests.again(rows);
                    return self.stop(Verdict::Retry(Pace::Usual), status);
                }
                let indices: Vec<usize> = refused.iter().map(|(index, _)| *index).collect();
                let taken = rows.take_out(&indices);
                self.requests.again(rows);
                let reasons = refused.into_iter().rev().map(|(_, reason)| reason);
                let reasons = reasons.collect();
                Some(Event::Refused {
                    rows: taken,
                    reasons,
                })
            }
            Verdict::RequestRefused if rows.len() > 1 => {
                let first = rows.take(0..rows.len() / 2);
                self.requests.again(rows);
                self.requests.again(first);
                None
            }
            Verdict::RequestRefused => Some(Event::Refused {
                rows,
                reasons: vec![status.message().to_owned()],
            }),
            verdict => {
                self.requests.again(rows);
                self.stop(verdict, status)
            }
        }
    }

    fn disconnected(&mut self, status: Status) -> Option<Event> {
        self.connection = None;
        self.requests.disconnected();
        self.stop(judge_call(&status), status)
    }

    /// Nothing new is sent. Of several reasons the first one counts.
    fn stop(&mut self, verdict: Verdict, status: Status) -> Option<Event> {
        let (after, event) = match verdict {
            // The table's own stream cannot end: if it is not there, the table is not.
            Verdict::Schema | Verdict::NewStream => (After::Schema, Event::Again(status)),
            Verdict::Operator(trouble) => (After::Trouble, Event::Trouble(trouble)),
            Verdict::Retry(pace) => (After::Pause(pace), Event::Again(status)),
            _ => (After::Pause(Pace::Usual), Event::Again(status)),
        };
        if !matches!(self.state, State::Stopping(_)) {
            self.state = State::Stopping(after);
        }
        Some(event)
    }

    fn stopped(&mut self) -> Option<Event> {
        let State::Stopping(after) = std::mem::replace(&mut self.state, State::Open) else {
            return None;
        };
        // A new connection tells the schema anew, and brings the token anew.
        self.connection = None;
        match after {
            After::Pause(Pace::NewToken) => {
                let api = self.api.clone();
                self.state = State::Renewing(Box::pin(async move { api.renew_token().await }));
            }
            After::Pause(pace) => self.pause(pace),
            After::Trouble => self.state = State::Pausing(Box::pin(sleep(LONGEST))),
            After::Schema => {
                self.state = State::Waiting;
                return Some(Event::Schema);
            }
        }
        None
    }

    fn pause(&mut self, pace: Pace) {
        let delay = self.backoff.next().unwrap_or(LONGEST);
        let delay = match pace {
            Pace::Quota => delay.max(QUOTA),
            Pace::Usual | Pace::NewToken => delay,
        };
        self.state = State::Pausing(Box::pin(sleep(delay)));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn rows(positions: std::ops::Range<u64>) -> Rows {
        let mut rows = Rows::default();
        for position in positions {
            rows.push(position, Bytes::from_static(b"row"));
        }
        rows
    }

    #[test]
    fn the_oldest_row_is_found_wherever_it_waits() {
        let mut requests = Requests::default();
        assert_eq!(requests.oldest(), None);
        requests.push(rows(1..4));
        requests.push(rows(4..6));
        requests.push(rows(6..9));
        assert_eq!(requests.send(2).unwrap().rows, rows(1..4));
        assert_eq!(requests.send(2).unwrap().offset, -1);
        assert!(requests.send(2).is_none(), "two are under way");
        // The first one is refused, the second one done.
        let refused = requests.sent.pop_front().unwrap();
        requests.again(refused);
        requests.sent.pop_front().unwrap();
        assert_eq!(requests.oldest(), Some(1));
        assert_eq!(requests.send(2).unwrap().rows, rows(1..4));
        assert_eq!(requests.send(2).unwrap().rows, rows(6..9));
        requests.disconnected();
        assert_eq!(requests.waiting, [rows(1..4), rows(6..9)]);
        requests.again(Rows::default());
        assert_eq!(requests.waiting.len(), 2, "nothing is not sent");
    }
}
