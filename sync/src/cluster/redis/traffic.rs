//! What goes over one connection, and what becomes of it: a state machine without input and output.
//!
//! Commands go out in the order in which they came in, as many as there are, and answers come in the
//! same order. Two things disturb that.
//!
//! **Redis says no for the time being.** What was refused is sent again, and so must be everything
//! behind it that depends on it. Commands that are already on their way cannot be called back, and by
//! the time they arrive Redis may say yes again:
//! - Appends to one queue, and changes of one replica's routes, name the number that must have been
//!   applied before, if it is still on its way: such an append is refused by the script.
//! - Of changes that replace each other (a retained message, a record) the refused one is over when a
//!   later one has been done: it gets that one's answer.
//!
//! What was refused waits until everything on its way is answered, and goes out again in order. While
//! Redis is full only what needs memory waits, and one such command at a time tries.
//!
//! **The connection is lost.** Everything without an answer goes out again on the next one, in order.
//! A frame for a channel does not.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::decode::decode;
use super::encode::{Chain, Class, Command, Shape, control};
use super::job::{Job, Whose, memo};
use super::judge::{Verdict, judge};
use super::resp::{Value, Writer};
use super::ring::Ring;
use super::scripts;
use crate::cluster::{BackplaneError, Reply};

/// Shortest and longest pause before what was refused goes out again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Bytes that are written at most before answers are read.
const OUT_MAX: usize = 1 << 20;
/// Characters of an answer that are shown.
const SHOWN_MAX: usize = 200;

/// What may not go out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    Nothing,
    /// What needs memory.
    Growing,
    Everything,
}

/// What the connection has to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// This server is not to be written to (any more).
    Elsewhere(String),
    /// A slot is another server's.
    Moved,
    /// An operator must act.
    Forbidden(String),
    /// Redis refuses for the time being.
    Refuses(String),
    /// A `PING` was answered.
    Pong,
    /// Redis says how much memory is in use, and how much may be (0: no bound).
    Memory { used: u64, limit: u64 },
    /// Fewer replicas than demanded have the writes.
    Unreplicated(i64),
}

/// Everything of one connection's traffic.
pub(super) struct Traffic {
    /// Not sent yet.
    todo: VecDeque<Job>,
    /// Sent, without an answer.
    sent: VecDeque<Job>,
    /// Of these, those that need memory.
    growing: usize,
    /// Refused for the time being.
    again: Vec<Job>,
    /// Held back behind what was refused.
    held: VecDeque<Job>,
    /// Keys of what was refused or is held back, where order matters.
    held_keys: HashMap<u64, usize>,
    hold: Hold,
    /// Appends wait for a failover to be made good; those that do.
    gate: bool,
    gated: Vec<Job>,
    /// When what was refused goes out again; `None` while commands are on their way that may depend on it.
    until: Option<Instant>,
    pause: Duration,
    /// Answers of commands that replaced something after a refusal: key, order, answer.
    replaced: HashMap<u64, (u64, Reply)>,
    /// Last number on its way, by chain.
    chains: HashMap<Chain, u64>,
    /// Answered, but not known to be on enough replicas.
    unreplicated: Vec<(Job, Reply)>,
    /// Writes were sent since the last `WAIT`.
    wait_due: bool,
    wait: Option<(u32, u32)>,
    server: [u8; 8],
    /// Until when a failover may be under repair.
    repair_until: Option<Instant>,
    full: bool,
    scripts_missing: bool,
    pub(super) ring: Ring,
    pub(super) events: Vec<Event>,
    /// Of joins, whose second step is another slot's: who waits, and the first step's answer.
    pub(super) onward: Vec<(Whose, Reply)>,
}

impl Traffic {
    pub(super) fn new(ring: Ring, wait: Option<(u32, u32)>) -> Self {
        Self {
            todo: VecDeque::new(),
            sent: VecDeque::new(),
            growing: 0,
            again: Vec::new(),
            held: VecDeque::new(),
            held_keys: HashMap::new(),
            hold: Hold::Nothing,
            gate: false,
            gated: Vec::new(),
            until: None,
            pause: PAUSE_MIN,
            replaced: HashMap::new(),
            chains: HashMap::new(),
            unreplicated: Vec::new(),
            wait_due: false,
            wait,
            server: [0; 8],
            repair_until: None,
            full: false,
            scripts_missing: false,
            ring,
            events: Vec::new(),
            onward: Vec::new(),
        }
    }

    /// A connection is there. `repair_until`: another server than before was met.
    pub(super) fn handle_connected(&mut self, server: [u8; 8], repair_until: Option<Instant>) {
        self.server = server;
        if repair_until.is_some() {
            self.repair_until = repair_until;
        }
    }

    /// New jobs, in order.
    pub(super) fn handle_jobs(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.todo.extend(jobs);
    }

    /// Whether appends wait: until all replicas have written again what a failover has lost, so that what is
    /// new comes behind it.
    pub(super) fn set_gate(&mut self, shut: bool) {
        self.gate = shut;
        if !shut && !self.gated.is_empty() {
            self.unhold();
        }
    }

    /// Nothing is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.sent.is_empty()
    }

    /// Jobs without an answer.
    pub(super) fn pending(&self) -> usize {
        self.todo.len() + self.sent.len() + self.again.len() + self.held.len() + self.gated.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// When [`poll_output`](Self::poll_output) is to be called though nothing has happened.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// Writes what can go out. Bounded: to be called again when that is written.
    pub(super) fn poll_output(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
            if self.hold == Hold::Everything {
                self.hold = Hold::Nothing;
            }
            self.reload_scripts(out);
            self.unhold();
        }
        let mode = match self.repair_until {
            Some(until) if now < until => b'1',
            _ => b'0',
        };
        let control = control(self.server, mode);
        while out.len() < OUT_MAX
            && let Some(job) = self.todo.pop_front()
        {
            let appends = matches!(
                job.command.shape,
                Shape::Appended(_) | Shape::TapAppended(_) | Shape::RecordsPut(_)
            );
            if self.gate && appends {
                self.gated.push(job);
                continue;
            }
            match self.may_go(&job.command) {
                true => self.send(job, control, out),
                false => self.keep_back(job),
            }
        }
        if self.wait_due {
            self.wait_due = false;
            self.ask_for_replicas(out);
        }
    }

    fn may_go(&self, command: &Command) -> bool {
        match (self.hold, command.class) {
            (Hold::Nothing, _) => true,
            (Hold::Everything, _) => false,
            (Hold::Growing, Class::Free | Class::Publish) => true,
            (Hold::Growing, Class::FreeInOrder) => !self.held_keys.contains_key(&command.key),
            // One at a time finds out whether there is memory again.
            (Hold::Growing, Class::Grows) => {
                self.until.is_none()
                    && self.again.is_empty()
                    && self.growing == 0
                    && self.held.is_empty()
            }
        }
    }

    fn keep_back(&mut self, job: Job) {
        self.note_key(&job);
        self.held.push_back(job);
    }

    fn note_key(&mut self, job: &Job) {
        if job.command.key != 0 {
            *self.held_keys.entry(job.command.key).or_default() += 1;
        }
    }

    fn send(&mut self, job: Job, control: [u8; 9], out: &mut Vec<u8>) {
        let mut after = 0;
        if let Some((chain, last)) = job.command.chain {
            after = self.chains.insert(chain, last).unwrap_or(0);
        }
        job.command.write(out, control, after);
        if job.command.class == Class::Grows {
            self.growing += 1;
        }
        self.wait_due |= self.wait.is_some() && job.command.kept;
        self.sent.push_back(job);
    }

    /// The watchdog's question.
    pub(super) fn ping(&mut self, out: &mut Vec<u8>) {
        self.internal("PING", &[b"PING"], Whose::Ping, out);
    }

    /// Asks how much memory is in use.
    pub(super) fn ask_for_memory(&mut self, out: &mut Vec<u8>) {
        self.internal("INFO", &[b"INFO", b"memory"], Whose::Memory, out);
    }

    fn ask_for_replicas(&mut self, out: &mut Vec<u8>) {
        if let Some((replicas, ms)) = self.wait {
            let (replicas, ms) = (replicas.to_string(), ms.to_string());
            let args: [&[u8]; 3] = [b"WAIT", replicas.as_bytes(), ms.as_bytes()];
            self.internal("WAIT", &args, Whose::Wait, out);
        }
    }

    fn reload_scripts(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.scripts_missing) {
            return;
        }
        for text in scripts::texts() {
            let args: [&[u8]; 3] = [b"SCRIPT", b"LOAD", text.as_bytes()];
            self.internal("SCRIPT LOAD", &args, Whose::Nobody, out);
        }
    }

    fn internal(&mut self, kind: &'static str, args: &[&[u8]], whose: Whose, out: &mut Vec<u8>) {
        let mut writer = Writer::default();
        writer.command(args);
        let command = Command::internal(kind, writer);
        out.extend_from_slice(&command.bytes);
        self.sent.push_back(Job::new(command, whose));
    }

    /// The next answer. `false`: nothing was asked.
    pub(super) fn handle_answer(&mut self, now: Instant, answer: Value) -> bool {
        let Some(front) = self.sent.front_mut() else {
            return false;
        };
        front.got += 1;
        if let Value::Error(error) = &answer {
            front.error.get_or_insert_with(|| error.clone());
        }
        if front.got < front.command.answers {
            return true;
        }
        let Some(mut job) = self.sent.pop_front() else {
            return false;
        };
        if job.command.class == Class::Grows {
            self.growing -= 1;
        }
        if let Some((chain, last)) = job.command.chain
            && self.chains.get(&chain) == Some(&last)
        {
            self.chains.remove(&chain);
        }
        let answer = job.error.take().map_or(answer, Value::Error);
        self.conclude(now, job, answer);
        self.settle(now);
        true
    }

    fn conclude(&mut self, now: Instant, job: Job, answer: Value) {
        match job.whose {
            Whose::Call { .. } => {}
            Whose::Ping => return self.events.push(Event::Pong),
            Whose::Memory => return self.events.extend(memory(&answer)),
            Whose::Wait => return self.replicated(now, &answer),
            Whose::Nobody => return,
        }
        let said = match &answer {
            Value::Error(error) => shown(error),
            _ => String::new(),
        };
        match judge(&answer) {
            Verdict::Answer => self.answered(now, job, answer),
            Verdict::Refused => {
                let request = job.command.kind;
                job.finish(Err(BackplaneError::Refused {
                    request,
                    reason: said,
                }));
            }
            Verdict::Full => {
                self.full = true;
                self.refuse(job, Hold::Growing, said);
            }
            Verdict::NoScript => {
                self.scripts_missing = true;
                self.refuse(job, Hold::Everything, said);
            }
            Verdict::Later | Verdict::Moving => self.refuse(job, Hold::Everything, said),
            Verdict::Moved { .. } => {
                self.events.push(Event::Moved);
                self.refuse(job, Hold::Everything, said);
            }
            Verdict::Elsewhere => {
                self.events.push(Event::Elsewhere(said.clone()));
                self.refuse(job, Hold::Everything, said);
            }
            Verdict::Forbidden => {
                self.events.push(Event::Forbidden(said.clone()));
                self.pause = PAUSE_MAX;
                self.refuse(job, Hold::Everything, said);
            }
        }
    }

    fn refuse(&mut self, job: Job, hold: Hold, said: String) {
        if self.again.is_empty() && !said.is_empty() {
            self.events.push(Event::Refuses(said));
        }
        if job.command.class == Class::Publish {
            return job.finish(Err(BackplaneError::Lost));
        }
        self.hold = self.hold.max(hold);
        self.until = None;
        self.note_key(&job);
        self.again.push(job);
    }

    fn answered(&mut self, now: Instant, job: Job, answer: Value) {
        let early = matches!(
            (&answer, job.command.shape),
            (Value::Int(-1), Shape::Appended(_) | Shape::TapAppended(_))
                | (Value::Int(-2), Shape::VersionOrFenced)
        );
        if early {
            // What comes before it was refused.
            return self.refuse(job, Hold::Growing, String::new());
        }
        let (what, size) = answer.outline();
        let Some(reply) = decode(job.command.shape, answer) else {
            let request = job.command.kind;
            return job.finish(Err(BackplaneError::Nonsense {
                request,
                answer: format!("{what} of {size}"),
            }));
        };
        if job.command.class == Class::Grows && self.again.is_empty() {
            self.relax();
        }
        if job.command.replaces && !self.again.is_empty() {
            self.replaced
                .insert(job.command.key, (job.order, reply.clone()));
        }
        if job.command.shape == Shape::Joined {
            let memo = memo(Shape::Joined, &reply).unwrap_or_default();
            self.ring.push(now, job.command, memo);
            return self.onward.push((job.whose, reply));
        }
        if self.wait.is_some() && job.command.kept {
            return self.unreplicated.push((job, reply));
        }
        self.done(now, job, reply);
    }

    /// Memory is there again.
    fn relax(&mut self) {
        self.full = false;
        self.pause = PAUSE_MIN;
        if self.hold == Hold::Growing {
            self.hold = Hold::Nothing;
            self.until = None;
            self.unhold();
        }
    }

    fn done(&mut self, now: Instant, mut job: Job, reply: Reply) {
        let memo = match job.command.kept {
            true => memo(job.command.shape, &reply),
            false => None,
        };
        let outcome = job.first.take().unwrap_or(reply);
        let command = job.answer(Ok(outcome));
        if let Some(memo) = memo {
            self.ring.push(now, command, memo);
        }
    }

    fn replicated(&mut self, now: Instant, answer: &Value) {
        let Some((replicas, _)) = self.wait else {
            return;
        };
        match answer {
            Value::Int(count) if *count < i64::from(replicas) => {
                self.wait_due = true;
                self.events.push(Event::Unreplicated(*count));
            }
            _ => {
                for (job, reply) in std::mem::take(&mut self.unreplicated) {
                    self.done(now, job, reply);
                }
            }
        }
    }

    /// When nothing is on its way any more that could depend on what was refused, a pause begins.
    fn settle(&mut self, now: Instant) {
        if self.again.is_empty() || self.until.is_some() {
            return;
        }
        let waits_for = match self.hold {
            Hold::Growing => self.growing,
            _ => self.sent.len(),
        };
        if waits_for > 0 {
            return;
        }
        let mut again = std::mem::take(&mut self.again);
        again.sort_by_key(|job| job.order);
        let mut left = Vec::with_capacity(again.len());
        for job in again {
            match self.replaced.get(&job.command.key) {
                Some((order, reply)) if job.command.replaces && *order > job.order => {
                    job.finish(Ok(reply.clone()));
                }
                _ => left.push(job),
            }
        }
        self.replaced.clear();
        self.hold_back_first(left);
        self.until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn hold_back_first(&mut self, jobs: Vec<Job>) {
        for mut job in jobs.into_iter().rev() {
            job.reset();
            self.held.push_front(job);
        }
    }

    /// What was held back is to go out again, in order, before what came after it.
    fn unhold(&mut self) {
        self.held_keys.clear();
        let held = self.held.drain(..).chain(self.gated.drain(..));
        let mut all: Vec<Job> = held.chain(self.todo.drain(..)).collect();
        all.sort_by_key(|job| job.order);
        self.todo = all.into();
    }

    /// The connection is lost, or is to be given up: everything without an answer is to be sent again.
    pub(super) fn handle_lost(&mut self) {
        let mut all: Vec<Job> = Vec::new();
        let unreplicated = std::mem::take(&mut self.unreplicated);
        all.extend(unreplicated.into_iter().map(|(job, _)| job));
        all.append(&mut self.again);
        all.extend(self.sent.drain(..));
        all.extend(self.held.drain(..));
        all.append(&mut self.gated);
        all.extend(self.todo.drain(..));
        all.sort_by_key(|job| job.order);
        for mut job in all {
            job.reset();
            match (&job.whose, job.command.class) {
                (Whose::Call { .. }, Class::Publish) => job.finish(Err(BackplaneError::Lost)),
                (Whose::Call { .. }, _) => self.todo.push_back(job),
                _ => {}
            }
        }
        self.held_keys.clear();
        self.chains.clear();
        self.replaced.clear();
        self.growing = 0;
        self.hold = Hold::Nothing;
        self.until = None;
        self.wait_due = false;
    }

    /// Gives up what has no answer, up to this one in the order of arrival. `true`: something is on its
    /// way, so that the connection must not be used any more.
    pub(super) fn abandon(&mut self, last: u64) -> bool {
        let was_sent = !self.sent.is_empty();
        self.handle_lost();
        for job in std::mem::take(&mut self.todo) {
            match job.order <= last {
                true => job.finish(Err(BackplaneError::Lost)),
                false => self.todo.push_back(job),
            }
        }
        was_sent
    }

    /// Takes out everything that is not on its way.
    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        self.handle_lost();
        self.todo.drain(..).collect()
    }

    /// Ends everything without an answer.
    pub(super) fn close(&mut self) {
        for job in self.take_jobs() {
            job.finish(Err(BackplaneError::Closed));
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// What an answer to `INFO memory` says. `None`: the account may not ask, or the server does not tell.
fn memory(answer: &Value) -> Option<Event> {
    let Value::Bulk(info) = answer else {
        return None;
    };
    let info = String::from_utf8_lossy(info);
    let field = |name: &str| {
        let mut lines = info.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().parse().ok()
    };
    Some(Event::Memory {
        used: field("used_memory")?,
        limit: field("maxmemory").unwrap_or(0),
    })
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
