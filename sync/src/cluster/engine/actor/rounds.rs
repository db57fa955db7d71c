//! Rounds: what has been handed in goes out.

use tokio::time::Instant;

use super::super::outcome::{Answer, Outcome};
use super::super::round::Builder;
use super::super::shared::{Job, Numbers};
use super::{Actor, BUSY_BATCHES, FREE_EVERY, NO_ROUND};

use crate::cluster::{Bucket, ClaimError, Reply, Request};

impl Actor {
    pub(super) fn jobs(&mut self) {
        if let Some(why) = self.member.given_up() {
            self.settle_at = None;
            self.free_at = None;
            if !self.shared.inbox.lock().jobs.is_empty() {
                self.give_up_jobs(why, !self.member.is_joining());
            }
            return;
        }
        self.unpark();
        while self.may_work() && !self.may_wait() {
            let Some(jobs) = self.take_jobs() else { break };
            self.send_round(jobs);
        }
        self.free_memory();
        self.draw_numbers();
    }

    /// Whether a round may be sent.
    pub(super) fn may_work(&mut self) -> bool {
        let may = !self.member.is_joining() && self.may_send_round();
        if !may {
            self.settle_at = None;
        }
        may
    }

    /// Whether all that has been handed in may wait a little for company.
    pub(super) fn may_wait(&mut self) -> bool {
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
    pub(super) fn free_memory(&mut self) {
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

    pub(in super::super) fn next_round(&mut self) -> u64 {
        self.next_round += 1;
        self.next_round
    }

    /// The second part of a round that was given up is not sent.
    pub(in super::super) fn forget_split(&mut self) {
        self.split_round = false;
    }

    pub(super) fn builder(&mut self, id: u64) -> Builder<'_> {
        Builder::new(
            &mut self.own,
            &mut self.tables,
            &self.options,
            self.replica,
            id,
        )
    }

    /// A lone round leaves at once, a second one too; more only when much is waiting.
    pub(super) fn may_send_round(&self) -> bool {
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

    pub(super) fn take_jobs(&mut self) -> Option<Vec<Job>> {
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

    pub(super) fn send_round(&mut self, jobs: Vec<Job>) {
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
        // What a publisher's packet ids are kept with must not follow if they were not kept.
        let apart = builder.remembering().then(|| builder.first());
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

    /// The packet ids of publishers are kept, or not, as their sessions are another's by now: then their
    /// publishes must not be appended, as whoever has the session would take the repetitions for new.
    pub(super) fn first_part(&mut self, id: u64, mut answers: Vec<Answer>, rest: Vec<Request>) {
        self.split_round = false;
        let Some(round) = self.commits.round(id) else {
            return;
        };
        let rest = round.leave_out_fenced(&answers, rest);
        for staged in round.batches.iter().filter(|staged| staged.result.is_err()) {
            self.own.taps.forget(staged.ticket);
        }
        let replies = self.backplane.execute(rest);
        self.expect(async move {
            answers.extend(replies.await);
            Outcome::Round(id, answers)
        });
    }

    /// Wills that are published are deleted.
    pub(super) fn ask_after(&mut self) {
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

    pub(super) fn draw_numbers(&mut self) {
        let mut numbers = self.shared.numbers.lock();
        if numbers.left() >= Numbers::BLOCK / 2 || numbers.asked {
            return;
        }
        numbers.asked = true;
        drop(numbers);
        let count = Numbers::BLOCK;
        self.ask(Request::Numbers { count }, Outcome::Numbers);
    }

    pub(super) fn numbers(&mut self, answer: Answer) {
        let mut numbers = self.shared.numbers.lock();
        numbers.asked = false;
        if let Ok(Reply::Numbers(first)) = answer {
            numbers.add(first, Numbers::BLOCK);
        }
        drop(numbers);
        self.shared.more_numbers.notify_all();
    }
}
