//! Partitions of taps.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::queue::SeenOnce;
use crate::cluster::frame::{Kind, head};
use crate::cluster::tap::{TapBound, TapLevel, TapPartition, TapReply, TapRequest};
use crate::cluster::{AppendFate, Appending, ReplicaId, Reply};

/// How far positions jump when another server takes over, at least.
const JUMP: u64 = 1 << 24;
/// The same for epochs.
const EPOCHS: u64 = 65_536;

/// Everything of all taps.
#[derive(Clone, Default)]
pub(super) struct Taps {
    partitions: BTreeMap<TapPartition, Partition>,
    members: BTreeMap<Arc<str>, BTreeMap<u64, u64>>,
    known: BTreeMap<Arc<str>, BTreeMap<ReplicaId, u64>>,
    failovers: u64,
    /// When the last one was.
    failed_over_at: u64,
}

#[derive(Clone)]
struct Partition {
    /// (Frame, bytes so far) by the position of the last message.
    log: BTreeMap<u64, (Bytes, u64)>,
    /// What was written again after a failover.
    back: BTreeMap<u64, Bytes>,
    tail: u64,
    acknowledged: u64,
    total: u64,
    removed: u64,
    /// Positions that nobody holds: from, to, since.
    holes: Vec<(u64, u64, u64)>,
    closed: Vec<(u64, u64)>,
    /// Last number applied and last attempt refused.
    origins: BTreeMap<ReplicaId, (u64, u32)>,
    seen: SeenOnce,
    owner: u64,
    epoch: u64,
    until: u64,
    checkpoint: Bytes,
    /// Epoch and number of the acknowledgement that stored it.
    stored_by: (u64, u64),
    dropped: u64,
}

impl Default for Partition {
    fn default() -> Self {
        Self {
            log: BTreeMap::new(),
            back: BTreeMap::new(),
            tail: 1,
            acknowledged: 1,
            total: 0,
            removed: 0,
            holes: Vec::new(),
            closed: Vec::new(),
            origins: BTreeMap::new(),
            seen: SeenOnce::default(),
            owner: 0,
            epoch: 0,
            until: 0,
            checkpoint: Bytes::new(),
            stored_by: (0, 0),
            dropped: 0,
        }
    }
}

impl Taps {
    pub(super) fn begin_anew(&mut self, now: u64) {
        self.failovers += 1;
        self.failed_over_at = now;
        for partition in self.partitions.values_mut() {
            partition.begin_anew(now, self.failovers);
        }
    }

    fn partition(&mut self, now: u64, of: &TapPartition) -> &mut Partition {
        // One that is new soon after a failover may have been there before.
        let lost = self.failovers > 0 && now < self.failed_over_at + 90_000;
        let failovers = self.failovers;
        self.partitions.entry(of.clone()).or_insert_with(|| {
            let mut partition = Partition::default();
            if lost {
                partition.begin_anew(now, failovers);
            }
            partition
        })
    }

    pub(super) fn apply(&mut self, now: u64, request: &TapRequest) -> Reply {
        match request {
            TapRequest::Append {
                to,
                origin,
                attempt,
                bound,
                entries,
            } => self
                .partition(now, to)
                .append(*origin, *attempt, *bound, entries),
            TapRequest::Lease {
                of,
                consumer,
                epoch,
                lease_ms,
                grace_ms,
            } => self
                .partition(now, of)
                .lease(now, *consumer, *epoch, *lease_ms, *grace_ms),
            TapRequest::Release { of, epoch } => {
                let partition = self.partition(now, of);
                if partition.epoch == *epoch {
                    partition.owner = 0;
                }
                Reply::Done
            }
            TapRequest::Read {
                of,
                epoch,
                from,
                max_bytes,
            } => match self.partitions.get(of) {
                Some(partition) if partition.is_held(*epoch) => partition.read(*from, *max_bytes),
                _ => Reply::Fenced,
            },
            TapRequest::Acknowledge {
                of,
                epoch,
                upto,
                number,
                checkpoint,
            } => {
                let partition = self.partition(now, of);
                if !partition.is_held(*epoch) {
                    return Reply::Fenced;
                }
                partition.acknowledge(*upto, (*epoch, *number), checkpoint);
                Reply::Done
            }
            TapRequest::Look { of } => match self.partitions.get(of) {
                Some(partition) => partition.look(now),
                None => Partition::default().look(now),
            },
            TapRequest::Member {
                tap,
                consumer,
                lease_ms,
            } => {
                let members = self.members.entry(Arc::clone(tap)).or_default();
                members.insert(*consumer, now + lease_ms);
                members.retain(|_, until| *until > now);
                Reply::Tap(TapReply::Members(members.keys().copied().collect()))
            }
            TapRequest::Known {
                tap,
                replica,
                revision,
            } => {
                let known = self.known.entry(Arc::clone(tap)).or_default();
                known.insert(*replica, *revision);
                Reply::Done
            }
            TapRequest::WhoKnows { tap } => {
                let known = self.known.get(tap).into_iter().flatten();
                let known = known.map(|(replica, revision)| (*replica, *revision));
                Reply::Tap(TapReply::KnownBy(known.collect()))
            }
        }
    }

    /// Writes again what had been acknowledged before a failover.
    pub(super) fn replay(&mut self, now: u64, request: &TapRequest, reply: &Reply) {
        match (request, reply) {
            (
                TapRequest::Append {
                    to,
                    origin,
                    entries,
                    ..
                },
                Reply::Appended { seqs, .. },
            ) => self.partition(now, to).append_again(*origin, entries, seqs),
            (
                TapRequest::Acknowledge {
                    of,
                    epoch,
                    upto,
                    number,
                    checkpoint,
                },
                Reply::Done,
            ) => {
                let partition = self.partition(now, of);
                partition.acknowledge(*upto, (*epoch, *number), checkpoint);
            }
            _ => {}
        }
    }
}

impl Partition {
    fn is_held(&self, epoch: u64) -> bool {
        epoch != 0 && self.epoch == epoch
    }

    fn begin_anew(&mut self, now: u64, failovers: u64) {
        let jump = JUMP * failovers;
        self.holes.push((self.tail, self.tail + jump, now));
        self.tail += jump;
        self.epoch += EPOCHS;
        self.owner = 0;
    }

    /// Positions from the first that is not acknowledged on that nobody holds.
    fn skipped(&self) -> u64 {
        let holes = self.holes.iter().map(|(from, to, _)| (*from, *to));
        holes
            .chain(self.closed.iter().copied())
            .map(|(from, to)| to.saturating_sub(from.max(self.acknowledged)))
            .sum()
    }

    fn level(&self) -> TapLevel {
        TapLevel {
            acknowledged: self.acknowledged,
            tail: self.tail,
            messages: self.tail - self.acknowledged - self.skipped(),
            bytes: self.total - self.removed,
            dropped: self.dropped,
        }
    }

    fn append(
        &mut self,
        origin: ReplicaId,
        attempt: u32,
        bound: TapBound,
        entries: &[Appending],
    ) -> Reply {
        let (last, refused) = self.origins.get(&origin).copied().unwrap_or_default();
        let repeated = entries.last().is_none_or(|entry| entry.number <= last);
        let full = Reply::Appended {
            owner: ReplicaId(0),
            seqs: vec![AppendFate::Full; entries.len()],
        };
        if !repeated && attempt <= refused {
            return full;
        }
        let size = 12 + entries.iter().map(|entry| entry.body.len()).sum::<usize>() as u64;
        let fits = |partition: &Self| {
            let level = partition.level();
            level.messages + entries.len() as u64 <= bound.messages
                && level.bytes + size <= bound.bytes
        };
        if !repeated && !fits(self) && self.level().messages > 0 {
            if !bound.drop_oldest {
                self.origins.insert(origin, (last, attempt));
                return full;
            }
            while !fits(self)
                && let Some(oldest) = self.log.keys().next().copied()
            {
                let before = self.level().messages;
                self.advance(oldest + 1);
                self.dropped += before - self.level().messages;
            }
        }
        let mut bodies = Vec::new();
        let first = self.tail;
        let seqs = entries
            .iter()
            .map(|entry| {
                if entry.number <= last || self.seen.was_seen(entry.once) {
                    return AppendFate::Repeated;
                }
                self.seen.note(entry.once);
                bodies.push(&entry.body);
                AppendFate::At(first + bodies.len() as u64 - 1)
            })
            .collect();
        self.put(origin, &bodies);
        if let Some(entry) = entries.last().filter(|entry| entry.number > last) {
            self.origins.insert(origin, (entry.number, refused));
        }
        Reply::Appended {
            owner: ReplicaId(0),
            seqs,
        }
    }

    fn put(&mut self, origin: ReplicaId, bodies: &[&Bytes]) {
        if bodies.is_empty() {
            return;
        }
        let frame = frame_of(origin, bodies.iter().copied());
        self.tail += bodies.len() as u64;
        self.total += frame.len() as u64;
        self.log.insert(self.tail - 1, (frame, self.total));
    }

    fn append_again(&mut self, origin: ReplicaId, entries: &[Appending], seqs: &[AppendFate]) {
        let (last, refused) = self.origins.get(&origin).copied().unwrap_or_default();
        let Some(newest) = entries.last().filter(|entry| entry.number > last) else {
            return;
        };
        let mut late = Vec::new();
        for (entry, fate) in entries.iter().zip(seqs) {
            let AppendFate::At(position) = *fate else {
                continue;
            };
            if entry.number <= last || self.seen.was_seen(entry.once) {
                continue;
            }
            self.seen.note(entry.once);
            let closed = self
                .closed
                .iter()
                .any(|(from, to)| (*from..*to).contains(&position));
            if closed || position >= self.tail {
                late.push(&entry.body);
            } else if position >= self.acknowledged && self.take(position) {
                let frame = frame_of(origin, std::iter::once(&entry.body));
                self.back.insert(position, frame);
            }
        }
        self.put(origin, &late);
        self.origins.insert(origin, (newest.number, refused));
    }

    /// Takes a position out of the open holes.
    fn take(&mut self, position: u64) -> bool {
        let found = self
            .holes
            .iter()
            .position(|(from, to, _)| (*from..*to).contains(&position));
        let Some(at) = found else { return false };
        let (from, to, since) = self.holes.remove(at);
        if position + 1 < to {
            self.holes.insert(at, (position + 1, to, since));
        }
        if from < position {
            self.holes.insert(at, (from, position, since));
        }
        true
    }

    fn acknowledge(&mut self, upto: u64, by: (u64, u64), checkpoint: &Bytes) {
        if upto < self.acknowledged || upto == self.acknowledged && by <= self.stored_by {
            return;
        }
        if upto > self.acknowledged {
            self.advance(upto);
        }
        self.stored_by = by;
        self.checkpoint = checkpoint.clone();
    }

    fn advance(&mut self, upto: u64) {
        for hole in &mut self.holes {
            hole.0 = hole.0.max(upto);
        }
        self.holes.retain(|(from, to, _)| from < to);
        let left = self.log.split_off(&upto);
        if let Some((_, (_, bytes))) = self.log.last_key_value() {
            self.removed = *bytes;
        }
        self.log = left;
        self.back = self.back.split_off(&upto);
        self.acknowledged = upto;
        self.tail = self.tail.max(upto);
    }

    fn lease(&mut self, now: u64, consumer: u64, epoch: u64, lease: u64, grace: u64) -> Reply {
        let closed = &mut self.closed;
        self.holes.retain(|(from, to, since)| {
            let open = since + grace > now && *since <= now;
            if !open {
                closed.push((*from, *to));
            }
            open
        });
        closed.sort_unstable();
        if epoch != 0 {
            if self.owner != consumer || self.epoch != epoch {
                return Reply::Fenced;
            }
        } else if self.owner != consumer {
            if self.owner != 0 && self.until > now {
                return Reply::Fenced;
            }
            self.epoch += 1;
        }
        self.owner = consumer;
        self.until = now + lease;
        Reply::Tap(TapReply::Leased {
            epoch: self.epoch,
            level: self.level(),
            checkpoint: self.checkpoint.clone(),
        })
    }

    fn look(&self, now: u64) -> Reply {
        let left = self.until.saturating_sub(now);
        let log = self.log.range(self.acknowledged..);
        let log = log.map(|(last, (frame, _))| (*last, frame.clone()));
        let back = self.back.range(self.acknowledged..);
        let back = back.map(|(last, frame)| (*last, frame.clone()));
        Reply::Tap(TapReply::Seen {
            consumer: if left > 0 { self.owner } else { 0 },
            epoch: self.epoch,
            left_ms: left,
            level: self.level(),
            first: log.chain(back).min_by_key(|(last, _)| *last),
        })
    }

    fn read(&self, from: u64, max_bytes: u64) -> Reply {
        let limit = self
            .holes
            .iter()
            .filter(|(_, to, _)| *to > from)
            .map(|(start, _, _)| *start)
            .fold(self.tail, u64::min)
            .max(from);
        let log = self.log.range(from..limit);
        let mut found: Vec<(u64, Bytes)> = log
            .map(|(last, (frame, _))| (*last, frame.clone()))
            .chain(
                self.back
                    .range(from..limit)
                    .map(|(last, frame)| (*last, frame.clone())),
            )
            .collect();
        found.sort_unstable_by_key(|(last, _)| *last);
        let mut bytes = 0;
        let mut frames = Vec::new();
        for (last, frame) in found {
            bytes += frame.len() as u64;
            frames.push((last, frame));
            if bytes >= max_bytes {
                break;
            }
        }
        Reply::Tap(TapReply::Read {
            level: self.level(),
            frames,
        })
    }
}

fn frame_of<'b>(origin: ReplicaId, bodies: impl Iterator<Item = &'b Bytes>) -> Bytes {
    let mut frame = BytesMut::from(&head(Kind::Tap, origin)[..]);
    for body in bodies {
        frame.extend_from_slice(body);
    }
    frame.freeze()
}
