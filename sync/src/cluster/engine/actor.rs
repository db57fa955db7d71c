//! The engine's one task: it owns all state, so that nothing is locked but what callers hand in, and
//! the broker is told one thing at a time.
//!
//! Each turn takes what has come (answers, frames, deadlines, jobs), works through it, and sends what
//! follows from it. Nothing in a turn waits.

mod ending;
mod loads;
mod rounds;
mod sending;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};

use super::commit::Commits;
use super::inbox::Inbox;
use super::member::Member;
use super::options::{Draw, EngineOptions};
use super::outcome::{Answer, Outcome};
use super::own::Own;
use super::peers::Peers;
use super::shared::{Pending, Shared};
use super::tables::Tables;

use crate::BoxFuture;
use crate::cluster::{
    Backplane, BackplaneError, BackplaneEvent, Bucket, ClaimError, ClusterEvents, Epoch, ReplicaId,
    Request,
};

/// Frames and answers that are taken in one turn.
const TURN: usize = 256;
/// Bytes and batches from which on rounds go out beside two others.
const BUSY_BATCHES: usize = 64;
/// Not a round of batches.
const NO_ROUND: u64 = u64::MAX;
/// Time between two looks whether Redis is full.
const FREE_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Actor {
    pub(super) shared: Arc<Shared>,
    pub(super) backplane: Arc<dyn Backplane>,
    pub(super) options: EngineOptions,
    pub(super) draw: Draw,
    pub(super) replica: ReplicaId,
    pub(super) member: Member,
    pub(super) own: Own,
    pub(super) tables: Tables,
    pub(super) peers: Peers,
    pub(super) commits: Commits,
    pub(super) events: Option<Arc<dyn ClusterEvents>>,
    pub(super) start_answer: Option<oneshot::Sender<Result<(), ClaimError>>>,
    /// What is owed to others: versions that have been applied here, and of their routes.
    pub(super) acks: BTreeMap<ReplicaId, Acks>,
    pub(super) loads: usize,
    pub(super) wills_out: BTreeMap<(Bucket, Epoch), Instant>,
    pub(super) inbox: Inbox,
    /// Ends of connections that are to be written when this replica can write again.
    pub(super) owed: Vec<Request>,
    /// Batches that are kept until this replica can write again.
    pub(super) parked: Vec<Pending>,
    /// What was kept back until its batch was told.
    pub(super) after: Vec<Request>,
    pub(super) trimming: bool,
    pub(super) inbox_sequences: BTreeMap<ReplicaId, u64>,
    answers: FuturesUnordered<BoxFuture<Outcome>>,
    heard: Option<mpsc::Receiver<BackplaneEvent>>,
    sleep: Pin<Box<Sleep>>,
    outcomes: VecDeque<Outcome>,
    frames: VecDeque<BackplaneEvent>,
    next_round: u64,
    /// A round waits for its first part; nothing may overtake the rest.
    split_round: bool,
    freeing: bool,
    /// When it may be looked again whether Redis is full.
    free_at: Option<Instant>,
    /// When acknowledgements of receivers have waited long enough.
    settle_at: Option<Instant>,
    closing: Option<Instant>,
    leaving: bool,
    left: bool,
}

/// What has been applied of a replica's announcements since it was told.
#[derive(Debug, Default)]
pub(super) struct Acks {
    pub(super) buckets: BTreeMap<u16, u64>,
    pub(super) routes: Option<u64>,
}

impl Actor {
    pub(super) fn new(
        shared: Arc<Shared>,
        backplane: Arc<dyn Backplane>,
        options: EngineOptions,
        draw: Draw,
        joined: (ReplicaId, Instant),
    ) -> Self {
        let (replica, sent) = joined;
        let member = Member::new(sent, &options);
        shared.set_replica(replica);
        shared.set_fence(member.fence_at);
        let tables = Tables::new(Arc::clone(&shared.listeners));
        Self {
            shared,
            backplane,
            options,
            draw,
            replica,
            member,
            own: Own::default(),
            tables,
            peers: Peers::default(),
            commits: Commits::default(),
            events: None,
            start_answer: None,
            acks: BTreeMap::new(),
            loads: 0,
            wills_out: BTreeMap::new(),
            inbox: Inbox::default(),
            owed: Vec::new(),
            parked: Vec::new(),
            after: Vec::new(),
            trimming: false,
            inbox_sequences: BTreeMap::new(),
            answers: FuturesUnordered::new(),
            heard: None,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            outcomes: VecDeque::new(),
            frames: VecDeque::new(),
            next_round: 0,
            split_round: false,
            freeing: false,
            free_at: None,
            settle_at: None,
            closing: None,
            leaving: false,
            left: false,
        }
    }

    pub(super) async fn run(mut self) {
        while !self.left {
            poll_fn(|cx| self.poll_turn(cx)).await;
            self.turn();
        }
    }

    /// Takes what has come; ready when there is something to do.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ready = self.shared.begin(cx.waker());
        while self.outcomes.len() < TURN
            && let Poll::Ready(Some(outcome)) = self.answers.poll_next_unpin(cx)
        {
            self.outcomes.push_back(outcome);
        }
        while self.frames.len() < TURN
            && let Some(heard) = &mut self.heard
            && let Poll::Ready(event) = heard.poll_recv(cx)
        {
            match event {
                Some(event) => self.frames.push_back(event),
                None => self.heard = None,
            }
        }
        ready |= !self.outcomes.is_empty() || !self.frames.is_empty();
        let deadline = self.next_deadline();
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        ready |= self.sleep.as_mut().poll(cx).is_ready();
        if ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn turn(&mut self) {
        while let Some(outcome) = self.outcomes.pop_front() {
            self.outcome(outcome);
        }
        while let Some(event) = self.frames.pop_front() {
            self.hear(event);
        }
        self.notice_failovers();
        self.deadlines(Instant::now());
        self.jobs();
        self.try_taps();
        self.load();
        self.advance(Instant::now());
        self.tell();
        self.ask_after();
        self.send_acks();
        self.send_frames();
        self.trim();
        self.end_if_closed();
    }

    /// Remembers a future; it has been started already.
    pub(super) fn expect(&mut self, future: impl Future<Output = Outcome> + Send + 'static) {
        self.answers.push(Box::pin(future));
    }

    /// Asks Redis one thing.
    pub(super) fn ask(
        &mut self,
        request: Request,
        outcome: impl FnOnce(Answer) -> Outcome + Send + 'static,
    ) {
        let replies = self.backplane.execute(vec![request]);
        self.expect(async move {
            let answer = replies.await.into_iter().next();
            outcome(answer.unwrap_or(Err(BackplaneError::Closed)))
        });
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Round(id, answers) => self.round_answered(id, answers),
            Outcome::FirstPart(id, ..) if !self.commits.has_round(id) => {}
            Outcome::FirstPart(id, answers, rest) => self.first_part(id, answers, rest),
            Outcome::Freed(targets, answers) => {
                self.freeing = false;
                for (target, answer) in targets.into_iter().zip(answers) {
                    self.answered(&mut [], target, answer);
                }
            }
            Outcome::Published(frames, answers) => self.published(frames, &answers),
            Outcome::Joined { sent, answer } => self.joined(sent, answer),
            Outcome::Renewed { sent, answer } => self.renewed(sent, answer),
            Outcome::Led(answer) => self.led(answer),
            Outcome::Loaded(bucket, answer) => self.loaded(bucket, answer),
            Outcome::RoutesLoaded(replica, answer) => self.routes_loaded(replica, answer),
            Outcome::Versions(before, answer) => self.compared(&before, answer),
            Outcome::Numbers(answer) => self.numbers(answer),
            Outcome::Grown(session, answer) => self.grown(session, answer),
            Outcome::Swept(swept) => self.swept(swept),
            Outcome::Inherits(dead, inherited) => self.inherits(dead, inherited),
            Outcome::WillsDeleted(wills, answers) => {
                for (will, answer) in wills.into_iter().zip(answers) {
                    if answer.is_ok() {
                        self.wills_out.remove(&will);
                    }
                }
            }
            Outcome::Reaped(reaped) => self.reaped(reaped),
            Outcome::Dropped(replica, answer) => self.dropped(replica, &answer),
            Outcome::Verified { mark, listed } => self.verified(mark, listed),
            Outcome::Reconciled(mark, found) => self.reconciled(mark, found),
            Outcome::Trimmed => self.trimming = false,
            Outcome::Restored => self.member.set_restored(),
            Outcome::Tapped(to, attempt, answer) => self.tap_tried(&to, attempt, answer),
            Outcome::Left => self.left = true,
            Outcome::Ignored => {}
        }
    }

    pub(super) fn listen(&mut self) {
        self.heard = Some(self.backplane.listen(self.replica));
        self.frames.clear();
    }

    /// Whoever is told; nobody before the start.
    pub(super) fn events(&self) -> Option<Arc<dyn ClusterEvents>> {
        self.events.clone()
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.member.next_deadline(self.commits.barriers_open());
        if let Some(until) = self.closing {
            next = next.min(until);
        }
        let taps = self.own.taps.next_try();
        for at in [self.free_at, self.settle_at, taps].into_iter().flatten() {
            next = next.min(at);
        }
        next
    }
}
