//! Partitions of taps that are at their bound: what was refused waits here, in order, and is tried again.
//!
//! Appends go out in rounds. One that is refused for want of room is refused whole, and so is everything that this
//! replica has sent behind it (they carry the same attempt). From then on the partition has a queue of its own, until it is empty again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::actor::Actor;
use super::outcome::{Answer, Outcome};
use super::round::Staged;
use crate::cluster::tap::{TapBound, TapPartition, TapRequest};
use crate::cluster::{AppendFate, Appending, Reply, Request};

/// Messages that are tried again at once, and their bytes.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;
/// Pauses between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A message that waits for room.
struct Waiting {
    /// Its number when it came: the order.
    order: u64,
    appending: Appending,
    /// The batch that is not told before; `None`: nobody waits for it.
    ticket: Option<u64>,
}

struct Lane {
    bound: TapBound,
    queue: VecDeque<Waiting>,
    /// The attempt that is under way, and the messages in it, ascending.
    trying: Option<(u32, Vec<u64>)>,
    at: Instant,
    pause: Duration,
    /// Something with a higher number was taken meanwhile (a failover has lost that it was to be refused): what waits needs higher ones.
    overtaken: bool,
}

/// Partitions that are at their bound.
#[derive(Default)]
pub(super) struct TapLanes {
    lanes: BTreeMap<TapPartition, Lane>,
    /// Of partitions that were at their bound once.
    attempts: BTreeMap<TapPartition, u32>,
    /// Messages of a batch that wait here, by its ticket.
    owed: BTreeMap<u64, u32>,
    /// Messages of QoS 0 for which there was no room.
    pub(super) dropped: u64,
}

impl std::fmt::Debug for TapLanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapLanes")
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

impl TapLanes {
    /// What appends to the partition are to carry.
    pub(super) fn attempt(&self, to: &TapPartition) -> u32 {
        if self.attempts.is_empty() {
            return 1;
        }
        self.attempts.get(to).copied().unwrap_or(1)
    }

    /// Whether any partition is at its bound.
    pub(super) fn any(&self) -> bool {
        !self.lanes.is_empty()
    }

    pub(super) fn is_stalled(&self, to: &TapPartition) -> bool {
        self.lanes.contains_key(to)
    }

    /// Whether a batch must not be told yet.
    pub(super) fn owes(&self, ticket: u64) -> bool {
        !self.owed.is_empty() && self.owed.contains_key(&ticket)
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.queue.len()).sum()
    }

    /// A message waits, behind those with lower numbers.
    pub(super) fn wait(
        &mut self,
        (to, bound): (&TapPartition, TapBound),
        appending: Appending,
        ticket: Option<u64>,
    ) {
        if let Some(ticket) = ticket {
            *self.owed.entry(ticket).or_default() += 1;
        }
        let lane = self.lanes.entry(to.clone()).or_insert_with(|| Lane {
            bound,
            queue: VecDeque::new(),
            trying: None,
            at: Instant::now() + PAUSE_MIN,
            pause: PAUSE_MIN,
            overtaken: false,
        });
        lane.bound = bound;
        let order = appending.number;
        let at = lane.queue.partition_point(|known| known.order < order);
        let waiting = Waiting {
            order,
            appending,
            ticket,
        };
        lane.queue.insert(at, waiting);
    }

    /// An attempt was refused.
    fn refused(&mut self, to: &TapPartition, attempt: u32) {
        let known = self.attempts.entry(to.clone()).or_insert(1);
        *known = (*known).max(attempt.saturating_add(1));
    }

    /// When something is to be tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let lanes = self.lanes.values();
        lanes
            .filter(|lane| lane.trying.is_none() && !lane.queue.is_empty())
            .map(|lane| lane.at)
            .min()
    }

    /// Something was taken: whatever waits must not be taken for a repetition.
    fn taken(&mut self, to: &TapPartition, last: u64) {
        if let Some(lane) = self.lanes.get_mut(to)
            && lane
                .queue
                .front()
                .is_some_and(|waiting| waiting.order < last)
        {
            lane.overtaken = true;
        }
    }

    /// Attempts that are due.
    fn due(&mut self, now: Instant, appends: &mut u64) -> Vec<(TapPartition, u32, Vec<Appending>)> {
        let mut due = Vec::new();
        for (to, lane) in &mut self.lanes {
            if lane.trying.is_some() || now < lane.at || lane.queue.is_empty() {
                continue;
            }
            let attempt = self.attempts.get(to).copied().unwrap_or(1);
            let mut bytes = 0;
            let mut orders = Vec::new();
            let mut entries = Vec::new();
            for waiting in lane.queue.iter().take(CHUNK) {
                if bytes >= CHUNK_BYTES {
                    break;
                }
                bytes += waiting.appending.body.len();
                orders.push(waiting.order);
                let mut appending = waiting.appending.clone();
                if lane.overtaken {
                    *appends += 1;
                    appending.number = *appends;
                }
                entries.push(appending);
            }
            lane.trying = Some((attempt, orders));
            due.push((to.clone(), attempt, entries));
        }
        due
    }

    /// An attempt is answered; `Ok(false)`: it was refused again. Whatever its batches wait for is done when it was not.
    fn tried(&mut self, now: Instant, to: &TapPartition, attempt: u32, room: bool) {
        let Some(lane) = self.lanes.get_mut(to) else {
            return;
        };
        let Some((_, orders)) = lane.trying.take_if(|(trying, _)| *trying == attempt) else {
            return;
        };
        if !room {
            lane.at = now + lane.pause;
            lane.pause = (lane.pause * 2).min(PAUSE_MAX);
            return self.refused(to, attempt);
        }
        lane.at = now;
        lane.pause = PAUSE_MIN;
        let owed = &mut self.owed;
        lane.queue.retain(|waiting| {
            let done = orders.binary_search(&waiting.order).is_ok();
            if done && let Some(ticket) = waiting.ticket {
                pay(owed, ticket);
            }
            !done
        });
    }

    /// Nothing may be tried now.
    fn later(&mut self, now: Instant) {
        for lane in self.lanes.values_mut() {
            lane.at = lane.at.max(now + PAUSE_MIN);
        }
    }

    /// Lanes in which nothing waits any more, nor is under way.
    fn close_empty(&mut self, is_under_way: impl Fn(&TapPartition) -> bool) {
        self.lanes
            .retain(|to, lane| !lane.queue.is_empty() || lane.trying.is_some() || is_under_way(to));
    }

    /// A batch has failed: nothing of it is to be tried any more.
    pub(super) fn forget(&mut self, ticket: u64) {
        if self.owed.remove(&ticket).is_some() {
            for lane in self.lanes.values_mut() {
                lane.queue.retain(|waiting| waiting.ticket != Some(ticket));
            }
        }
    }

    /// Everything under way has failed. Attempts go on.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.owed.clear();
    }
}

fn pay(owed: &mut BTreeMap<u64, u32>, ticket: u64) {
    if let Some(left) = owed.get_mut(&ticket) {
        *left -= 1;
        if *left == 0 {
            owed.remove(&ticket);
        }
    }
}

/// An append to a tap that is under way.
pub(super) struct Tapping {
    pub(super) to: TapPartition,
    pub(super) bound: TapBound,
    pub(super) attempt: u32,
    pub(super) entries: Arc<Vec<Appending>>,
    pub(super) bytes: usize,
    /// Batch of each entry, and whether it waits for it.
    pub(super) slots: Vec<(u32, bool)>,
}

impl Tapping {
    pub(super) fn request(&self, origin: crate::cluster::ReplicaId) -> Request {
        Request::Tap(TapRequest::Append {
            to: self.to.clone(),
            origin,
            attempt: self.attempt,
            bound: self.bound,
            entries: Arc::clone(&self.entries),
        })
    }

    /// Leaves out the entries of these batches; `false`: nothing is left.
    pub(super) fn leave_out(&mut self, batches: &std::collections::BTreeSet<u32>) -> bool {
        let mut keep = self.slots.iter().map(|(batch, _)| !batches.contains(batch));
        Arc::make_mut(&mut self.entries).retain(|_| keep.next().unwrap_or(true));
        self.slots.retain(|(batch, _)| !batches.contains(batch));
        !self.entries.is_empty()
    }
}

impl Actor {
    /// An append of a round was answered.
    pub(super) fn tapped(&mut self, batches: &[Staged], tapping: &Tapping, fates: &[AppendFate]) {
        let counters = &self.shared.counters;
        if fates.first() != Some(&AppendFate::Full) {
            counters.tap_appends.add(fates.len() as u64);
            let last = tapping.entries.last().map_or(0, |entry| entry.number);
            return self.own.taps.taken(&tapping.to, last);
        }
        self.own.taps.refused(&tapping.to, tapping.attempt);
        for (entry, (batch, waits)) in tapping.entries.iter().zip(&tapping.slots) {
            if !waits {
                counters.tap_dropped.add(1);
                continue;
            }
            let ticket = batches.get(*batch as usize).map(|staged| staged.ticket);
            let lane = (&tapping.to, tapping.bound);
            self.own.taps.wait(lane, entry.clone(), ticket);
        }
    }

    /// Tries again what is due.
    pub(super) fn try_taps(&mut self) {
        let dropped = std::mem::take(&mut self.own.taps.dropped);
        self.shared.counters.tap_dropped.add(dropped);
        let waiting = self.own.taps.waiting();
        self.shared.counters.tap_waiting.set(waiting as u64);
        if !self.own.taps.any() {
            return;
        }
        let commits = &self.commits;
        self.own.taps.close_empty(|to| commits.is_tapping(to));
        if self.member.is_joining() || self.is_failing_over() {
            return self.own.taps.later(Instant::now());
        }
        let own = &mut self.own;
        let due = own.taps.due(Instant::now(), &mut own.appends);
        for (to, attempt, entries) in due {
            let Some(bound) = self.own.taps.lanes.get(&to).map(|lane| lane.bound) else {
                continue;
            };
            let request = TapRequest::Append {
                to: to.clone(),
                origin: self.replica,
                attempt,
                bound,
                entries: Arc::new(entries),
            };
            self.ask(Request::Tap(request), move |answer| {
                Outcome::Tapped(to, attempt, answer)
            });
        }
    }

    /// An attempt was answered.
    pub(super) fn tap_tried(&mut self, to: &TapPartition, attempt: u32, answer: Answer) {
        let room = match answer {
            Ok(Reply::Appended { seqs, .. }) => {
                let room = seqs.first() != Some(&AppendFate::Full);
                if room {
                    self.shared.counters.tap_appends.add(seqs.len() as u64);
                }
                room
            }
            other => {
                tracing::error!(tap = %to.tap, partition = to.partition, answer = ?other, "an append to a tap failed");
                false
            }
        };
        self.own.taps.tried(Instant::now(), to, attempt, room);
    }
}
