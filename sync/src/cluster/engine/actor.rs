//! The engine's one task: it owns all state, so that nothing is locked but what callers hand in, and
//! the broker is told one thing at a time.
//!
//! Each turn takes what has come (answers, frames, deadlines, jobs), works through it, and sends what
//! follows from it. Nothing in a turn waits.

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
use super::lanes::ALL;
use super::member::Member;
use super::options::{Draw, EngineOptions};
use super::outcome::{Answer, Outcome};
use super::own::Own;
use super::peers::Peers;
use super::round::Builder;
use super::shared::{Job, Numbers, Shared};
use super::tables::{Loaded, Tables};
use crate::cluster::{
    Backplane, BackplaneError, BackplaneEvent, Bucket, ClaimError, ClusterEvents, Epoch, ReplicaId,
    Reply, Request,
};
use crate::{BoxFuture, StoreError};

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
    /// Redis is a cluster: what is asked of several servers is done in any order.
    pub(super) several_masters: bool,
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
        let several_masters = backplane.status().masters.len() > 1;
        Self {
            shared,
            backplane,
            options,
            draw,
            replica,
            member,
            own: Own::default(),
            tables: Tables::new(),
            peers: Peers::default(),
            commits: Commits::default(),
            events: None,
            start_answer: None,
            acks: BTreeMap::new(),
            loads: 0,
            wills_out: BTreeMap::new(),
            inbox: Inbox::default(),
            owed: Vec::new(),
            after: Vec::new(),
            trimming: false,
            inbox_sequences: BTreeMap::new(),
            answers: FuturesUnordered::new(),
            heard: None,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            outcomes: VecDeque::new(),
            frames: VecDeque::new(),
            next_round: 0,
            several_masters,
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
        self.deadlines(Instant::now());
        self.jobs();
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
            Outcome::FirstPart(id, mut answers, rest) => {
                self.split_round = false;
                let replies = self.backplane.execute(rest);
                self.expect(async move {
                    answers.extend(replies.await);
                    Outcome::Round(id, answers)
                });
            }
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
            Outcome::Verified { mark, listed } => self.verified(mark, listed),
            Outcome::Reconciled(mark, found) => self.reconciled(mark, found),
            Outcome::Trimmed => self.trimming = false,
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

    // ----- jobs -----

    fn jobs(&mut self) {
        if let Some(why) = self.member.given_up() {
            self.settle_at = None;
            self.free_at = None;
            if !self.shared.inbox.lock().jobs.is_empty() {
                self.give_up_jobs(why);
            }
            return;
        }
        while self.may_work() && !self.may_wait() {
            let Some(jobs) = self.take_jobs() else { break };
            self.send_round(jobs);
        }
        self.free_memory();
        self.draw_numbers();
    }

    /// Whether a round may be sent.
    fn may_work(&mut self) -> bool {
        let may = !self.member.is_joining() && self.may_send_round();
        if !may {
            self.settle_at = None;
        }
        may
    }

    /// Whether all that has been handed in may wait a little for company.
    fn may_wait(&mut self) -> bool {
        let mut inbox = self.shared.inbox.lock();
        if inbox.jobs.is_empty() || inbox.is_urgent() {
            drop(inbox);
            self.settle_at = None;
            return false;
        }
        drop(inbox);
        let now = Instant::now();
        let at = *self
            .settle_at
            .get_or_insert(now + self.options.settle_delay);
        if now >= at {
            self.settle_at = None;
            return false;
        }
        true
    }

    /// While Redis is full, rounds that need memory wait, and what clients have acknowledged would wait
    /// behind them: it goes first.
    fn free_memory(&mut self) {
        let blocked = !self.member.is_joining()
            && !self.may_send_round()
            && !self.shared.inbox.lock().jobs.is_empty();
        if !blocked {
            self.free_at = None;
            return;
        }
        let now = Instant::now();
        if self.free_at.is_some_and(|at| now < at) {
            return;
        }
        self.free_at = Some(now + FREE_EVERY);
        if self.freeing || !self.backplane.status().full {
            return;
        }
        let freed = self.shared.inbox.lock().take_freeing(|session, seq| {
            let own = self.own.sessions.get(&session);
            own.is_some_and(|own| seq < own.tail)
        });
        if freed.is_empty() {
            return;
        }
        let (requests, targets) = self.builder(NO_ROUND).free(freed);
        self.freeing = true;
        let replies = self.backplane.execute(requests);
        self.expect(async move { Outcome::Freed(targets, replies.await) });
    }

    pub(super) fn next_round(&mut self) -> u64 {
        self.next_round += 1;
        self.next_round
    }

    /// The second part of a round that was given up is not sent.
    pub(super) fn forget_split(&mut self) {
        self.split_round = false;
    }

    fn builder(&mut self, id: u64) -> Builder<'_> {
        Builder::new(
            &mut self.own,
            &mut self.tables,
            &self.options,
            self.replica,
            id,
        )
    }

    /// A lone round leaves at once, a second one too; more only when much is waiting.
    fn may_send_round(&self) -> bool {
        let open = self.commits.rounds_open();
        // What a claim reads after a failover is whole only when all replicas have made it good.
        if self.split_round || self.member.failovers.is_open() || self.member.is_reconciling() {
            return false;
        }
        if open < 2 {
            return true;
        }
        open < self.options.rounds_max && self.shared.inbox.lock().jobs.len() >= BUSY_BATCHES
    }

    fn take_jobs(&mut self) -> Option<Vec<Job>> {
        let mut inbox = self.shared.inbox.lock();
        if inbox.jobs.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let count = inbox
            .jobs
            .iter()
            .take(self.options.round_batches)
            .take_while(|job| {
                let room = bytes < self.options.round_bytes;
                if let Job::Batch(pending) = job {
                    bytes += pending.weight;
                }
                room
            })
            .count();
        Some(inbox.take(count))
    }

    fn send_round(&mut self, jobs: Vec<Job>) {
        let id = self.next_round();
        let failure = self.shared.failure();
        let unavailable = self.unavailable();
        let mut started = None;
        let mut builder = Builder::new(
            &mut self.own,
            &mut self.tables,
            &self.options,
            self.replica,
            id,
        );
        for job in jobs {
            match job {
                Job::Batch(pending) => builder.batch(pending, failure.as_ref()),
                Job::Claim(claiming) => {
                    if let Some(why) = &unavailable {
                        let error = ClaimError::Unavailable((*why).to_owned());
                        claiming.answer.send(Err(error)).ok();
                        continue;
                    }
                    let wants = claiming.request.expiry_interval > 0;
                    let number = if wants {
                        self.shared.numbers.lock().take()
                    } else {
                        Some(0)
                    };
                    let bucket = Bucket::of(&claiming.request.client_id);
                    match number {
                        Some(n) => builder.claim(claiming, bucket.session(n), self.draw.next()),
                        None => {
                            let why = "Redis has not yet given numbers for sessions".to_owned();
                            claiming.answer.send(Err(ClaimError::Unavailable(why))).ok();
                        }
                    }
                }
                Job::Start(events, answer) => started = Some((events, answer)),
                Job::Adopt(sessions) => builder.adopt(sessions),
            }
        }
        // On one server order is enough.
        let apart = (self.several_masters && builder.remembering()).then(|| builder.first());
        let sequences = &mut self.inbox_sequences;
        let (mut requests, round) = builder.finish(|to| {
            let sequence = sequences.entry(to).or_default();
            *sequence += 1;
            *sequence
        });
        let counters = &self.shared.counters;
        counters.rounds.add(1);
        counters.round_batches.add(round.batches.len() as u64);
        counters.round_requests.add(requests.len() as u64);
        self.commits.push(round);
        if requests.is_empty() {
            self.round_answered(id, Vec::new());
        } else if let Some(first) = apart {
            self.split_round = true;
            let rest = requests.split_off(first.min(requests.len()));
            let replies = self.backplane.execute(requests);
            self.expect(async move { Outcome::FirstPart(id, replies.await, rest) });
        } else {
            let replies = self.backplane.execute(requests);
            self.expect(async move { Outcome::Round(id, replies.await) });
        }
        if let Some((events, answer)) = started {
            self.start(events, answer);
        }
    }

    /// Wills that are published are deleted.
    fn ask_after(&mut self) {
        if self.after.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.after);
        let wills = requests
            .iter()
            .filter_map(|request| match request {
                Request::DeleteWill { bucket, epoch } => Some((*bucket, *epoch)),
                _ => None,
            })
            .collect();
        let replies = self.backplane.execute(requests);
        self.expect(async move { Outcome::WillsDeleted(wills, replies.await) });
    }

    fn draw_numbers(&mut self) {
        let mut numbers = self.shared.numbers.lock();
        if numbers.left() >= Numbers::BLOCK / 2 || numbers.asked {
            return;
        }
        numbers.asked = true;
        drop(numbers);
        let count = Numbers::BLOCK;
        self.ask(Request::Numbers { count }, Outcome::Numbers);
    }

    fn numbers(&mut self, answer: Answer) {
        let mut numbers = self.shared.numbers.lock();
        numbers.asked = false;
        if let Ok(Reply::Numbers(first)) = answer {
            numbers.add(first, Numbers::BLOCK);
        }
        drop(numbers);
        self.shared.more_numbers.notify_all();
    }

    // ----- tables -----

    /// Asks for what is stale.
    fn load(&mut self) {
        if self.events.is_none() || self.member.is_deaf() {
            return;
        }
        while self.loads < self.options.load_parallel
            && let Some(bucket) = self.tables.next_load()
        {
            self.loads += 1;
            self.ask(Request::LoadBucket { bucket }, move |answer| {
                Outcome::Loaded(bucket, answer)
            });
        }
        let wanting: Vec<ReplicaId> = self
            .peers
            .iter_mut()
            .filter_map(|(id, peer)| peer.routes.wants_load().then_some(id))
            .collect();
        for replica in wanting {
            self.ask(Request::LoadRoutes { replica }, move |answer| {
                Outcome::RoutesLoaded(replica, answer)
            });
        }
    }

    fn loaded(&mut self, bucket: Bucket, answer: Answer) {
        self.loads = self.loads.saturating_sub(1);
        let Some(events) = self.events() else { return };
        match answer {
            Ok(Reply::Bucket {
                version,
                retained,
                sessions,
                owners,
            }) => {
                let loaded = Loaded {
                    bucket,
                    version,
                    retained,
                    sessions,
                    owners,
                };
                self.tables.loaded(loaded, &*events);
                let version = self.tables.version(bucket);
                self.commits.bucket_loaded(bucket, version);
                self.shared.counters.loads.add(1);
                if self.member.has_said_hello() {
                    self.ack(ALL, bucket, version);
                }
            }
            Err(BackplaneError::Closed) => {}
            Err(BackplaneError::Lost) => self.tables.not_loaded(bucket),
            other => {
                tracing::error!(bucket = bucket.0, answer = ?other.err(), "a bucket cannot be loaded");
                self.tables.not_loaded(bucket);
                self.member.try_later();
            }
        }
    }

    fn routes_loaded(&mut self, replica: ReplicaId, answer: Answer) {
        let Some(events) = self.events() else { return };
        let Some(peer) = self.peers.get_mut(replica) else {
            return;
        };
        if let Ok(Reply::Routes { version, routes }) = answer {
            peer.routes.loaded(replica, version, routes, &*events);
            let version = peer.routes.version();
            self.shared.counters.loads.add(1);
            self.acks.entry(replica).or_default().routes = Some(version);
        } else {
            peer.routes.stale();
        }
    }

    /// A replica announced this, and it is applied here.
    pub(super) fn ack(&mut self, to: ReplicaId, bucket: Bucket, version: u64) {
        let acks = self.acks.entry(to).or_default();
        let known = acks.buckets.entry(bucket.0).or_default();
        *known = version.max(*known);
    }

    fn send_acks(&mut self) {
        if self.acks.is_empty() {
            return;
        }
        let mut lanes = self.shared.lanes.lock();
        for (to, acks) in std::mem::take(&mut self.acks) {
            lanes.control(to, |pack| {
                if !acks.buckets.is_empty() {
                    let pairs: Vec<_> = acks
                        .buckets
                        .iter()
                        .map(|(bucket, version)| (u64::from(*bucket), *version))
                        .collect();
                    pack.applied(pairs.into_iter());
                }
                if let Some(version) = acks.routes {
                    pack.applied_routes(version);
                }
            });
        }
    }

    fn send_frames(&mut self) {
        if self.member.is_joining() {
            return;
        }
        let outgoing = self.shared.lanes.lock().take(self.replica);
        if outgoing.is_empty() {
            return;
        }
        let counters = &self.shared.counters;
        let mut frames = Vec::with_capacity(outgoing.len());
        let mut requests = Vec::with_capacity(outgoing.len());
        for out in outgoing {
            counters.frames_out.add(1);
            counters.messages_out.add(u64::from(out.messages));
            frames.push((out.to, out.sequence));
            requests.push(Request::Publish {
                to: (out.to != ALL).then_some(out.to),
                frame: out.frame,
            });
        }
        let replies = self.backplane.execute(requests);
        self.expect(async move { Outcome::Published(frames, replies.await) });
    }

    fn published(&mut self, frames: Vec<(ReplicaId, u64)>, answers: &[Answer]) {
        let mut lanes = self.shared.lanes.lock();
        for (to, sequence) in frames {
            lanes.answered(to, sequence);
        }
        let lost = answers.iter().filter(|answer| answer.is_err()).count();
        self.shared.counters.frames_lost.add(lost as u64);
    }

    fn trim(&mut self) {
        for (replica, at) in self.shared.take_let_go() {
            if replica == self.replica {
                self.inbox.let_go_of(at);
            }
        }
        let given_up = self.inbox.give_up(self.options.held_bytes);
        self.shared.counters.held_given_up.add(given_up);
        if self.trimming || self.member.is_joining() {
            return;
        }
        if let Some(from) = self.inbox.trim() {
            self.trimming = true;
            let replica = self.replica;
            self.ask(Request::TrimInbox { replica, from }, |_| Outcome::Trimmed);
        }
    }

    // ----- the end -----

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    fn end_if_closed(&mut self) {
        let asked = self.shared.inbox.lock().closing;
        let Some(patience) = asked else { return };
        let now = Instant::now();
        let until = now + patience;
        let until = *self.closing.get_or_insert(until);
        let idle = self.shared.inbox.lock().jobs.is_empty() && self.commits.is_empty();
        if now >= until || self.member.is_joining() {
            self.left = true;
        } else if idle && !self.leaving && self.shared.lanes.lock().is_idle() {
            self.leaving = true;
            self.leave();
        }
    }

    /// Gives the lease back, and whatever is still claimed.
    fn leave(&mut self) {
        let me = self.replica;
        let mut clients: Vec<Arc<str>> = self.own.claims.keys().cloned().collect();
        clients.sort_unstable();
        let goodbye = self.shared.lanes.lock().goodbye(me);
        let backplane = Arc::clone(&self.backplane);
        self.shared.set_ready(false);
        self.expect(async move {
            super::member::leave(backplane, me, clients, goodbye).await;
            Outcome::Left
        });
    }

    fn next_deadline(&self) -> Instant {
        let mut next = self.member.next_deadline(self.commits.barriers_open());
        if let Some(until) = self.closing {
            next = next.min(until);
        }
        for at in [self.free_at, self.settle_at].into_iter().flatten() {
            next = next.min(at);
        }
        next
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let late = self.shared.end();
        let error = self.shared.failure().unwrap_or(StoreError::Closed);
        self.commits.fail_all(&self.shared, &error);
        for job in late {
            match job {
                Job::Batch(pending) => {
                    if let Some(callback) = pending.batch.on_commit {
                        callback.failed(&error);
                    }
                    self.shared.unload(pending.weight);
                    self.shared.raise(pending.ticket);
                }
                Job::Claim(claiming) => {
                    let closed = ClaimError::Unavailable("this replica is leaving".to_owned());
                    claiming.answer.send(Err(closed)).ok();
                }
                Job::Start(..) | Job::Adopt(_) => {}
            }
        }
        self.shared.ended();
    }
}
