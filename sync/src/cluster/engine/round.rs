//! From batches to requests.
//!
//! A round is what has gathered while earlier ones were under way. Its changes are put together: all
//! messages for one queue in one append, all that a client has acknowledged in one settle, all relays
//! to one replica in one frame. What is put together moves towards the beginning of the round, and
//! keeps its order within a session, a topic and a filter:
//!
//! - Settles of sessions that existed before the round come first: they concern entries that were told
//!   before, and the QoS 2 packet ids of a publisher must be known before its publishes are appended:
//!   with such ids the rest of the round leaves when the first part is answered.
//! - Everything else follows in the order in which it was first mentioned; a change that ends or
//!   makes a session is a boundary that nothing of the session crosses.

mod again;
mod queues;
mod request;
mod sessions;
mod tables;
mod taps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};

pub(super) use self::again::{Again, unwanted};
use self::request::request;
pub(super) use self::sessions::release_request;
use self::sessions::{encode_will, unclaimed_will};
use super::inbox::Redelivery;
use super::options::EngineOptions;
use super::outcome::Answer;
use super::own::{Map, Own, OwnSession};
use super::shared::{Claiming, Pending};
use super::tables::Tables;
use super::taps::Tapping;

use crate::cluster::frame::{Kind, Pack, head};
use crate::cluster::request::Head;
use crate::cluster::tap::{Definition, TapRequest};
use crate::cluster::{Appending, Bucket, Epoch, ReplicaId, Reply, Request, Route, SessionEntry};
use crate::records::RecordBatch;
use crate::{Appended, Committed, Delivery, Message, Op, SessionId, StoreError};

/// Changes in one request, after which another one is begun.
const CHUNK: usize = 4096;
/// Messages in one append, and their bytes.
const APPEND_MAX: usize = 512;
const APPEND_BYTES: usize = 1 << 20;
/// Bytes of encoded entries in one allocation.
const BLOCK: usize = 16 << 10;

/// What a batch waits for besides its own requests.
#[derive(Default)]
pub(super) struct Needs {
    /// With a barrier: versions that everybody has applied.
    pub(super) tables: Vec<(Bucket, u64)>,
    pub(super) routes: u64,
    /// Messages of it that found no inbox of this replica's.
    pub(super) redeliveries: Vec<(ReplicaId, Weak<Redelivery>)>,
}

impl Needs {
    /// Whether messages that found no inbox are not durable elsewhere yet.
    pub(super) fn is_redelivering(&self) -> bool {
        let mut redeliveries = self.redeliveries.iter();
        redeliveries.any(|(_, redelivery)| redelivery.strong_count() > 0)
    }
}

/// A batch on its way.
pub(super) struct Staged {
    pub(super) ticket: u64,
    pub(super) weight: usize,
    pub(super) on_commit: Option<Box<dyn Committed>>,
    pub(super) appended: Vec<Appended>,
    pub(super) result: Result<(), StoreError>,
    pub(super) barrier: bool,
    pub(super) needs: Needs,
    /// Asked when the batch is told: it must not take effect without the rest.
    pub(super) after: Vec<Request>,
    /// With what it can be sent again, if it is to be kept when others are given up.
    pub(super) again: Option<Again>,
}

/// Whom the answer to a request concerns.
pub(super) enum Target {
    /// Batches that fail if it does.
    Batches(Vec<u32>),
    /// (Batch, position among its messages) of each entry.
    Append {
        session: SessionId,
        slots: Vec<(u32, u32)>,
    },
    /// A change of a table.
    Table {
        bucket: Bucket,
        batches: Vec<u32>,
    },
    /// Changes of records: where they are in their batch of the store.
    Records {
        bucket: Bucket,
        records: Arc<RecordBatch>,
        places: Vec<usize>,
        batches: Vec<u32>,
    },
    /// As a change of a table, fenced.
    Record {
        session: SessionId,
        epoch: Epoch,
        batches: Vec<u32>,
    },
    Settle {
        session: SessionId,
        epoch: Option<Epoch>,
        batches: Vec<u32>,
        /// Of these, those whose publishes must not be appended if it is fenced.
        publishing: Vec<u32>,
    },
    Routes {
        version: u64,
        batches: Vec<u32>,
    },
    Inbox {
        to: ReplicaId,
        shared: Vec<(Arc<str>, Arc<Message>)>,
        batches: Vec<u32>,
    },
    Tap(Box<Tapping>),
    Claim(Box<Claiming>),
    /// Kept, as it is owed even if everything is given up.
    Release {
        request: Box<Request>,
        batches: Vec<u32>,
    },
}

impl Target {
    /// Batches that it is part of.
    pub(super) fn batches(&self) -> Vec<u32> {
        match self {
            Self::Append { slots, .. } => slots.iter().map(|(batch, _)| *batch).collect(),
            Self::Tap(tapping) => tapping.slots.iter().map(|(batch, _)| *batch).collect(),
            Self::Batches(batches)
            | Self::Table { batches, .. }
            | Self::Records { batches, .. }
            | Self::Record { batches, .. }
            | Self::Settle { batches, .. }
            | Self::Routes { batches, .. }
            | Self::Inbox { batches, .. }
            | Self::Release { batches, .. } => batches.clone(),
            Self::Claim(_) => Vec::new(),
        }
    }
}

/// What Redis is asked in one go.
pub(super) struct Round {
    pub(super) id: u64,
    pub(super) batches: Vec<Staged>,
    /// One for each request; empty once they are answered.
    pub(super) targets: Vec<Target>,
    pub(super) answered: bool,
}

impl Round {
    /// Takes the appends of batches whose publisher was fenced out of the second part of the requests.
    pub(super) fn leave_out_fenced(
        &mut self,
        first: &[Answer],
        rest: Vec<Request>,
    ) -> Vec<Request> {
        let mut fenced = BTreeSet::new();
        for (target, answer) in self.targets.iter().zip(first) {
            if let Target::Settle { publishing, .. } = target
                && *answer != Ok(Reply::Done)
            {
                fenced.extend(publishing.iter().copied());
            }
        }
        if fenced.is_empty() {
            return rest;
        }
        for batch in &fenced {
            if let Some(staged) = self.batches.get_mut(*batch as usize)
                && staged.result.is_ok()
            {
                staged.result = Err(StoreError::Cluster {
                    reason: "the session of the publisher was claimed elsewhere".to_owned(),
                });
            }
        }
        let targets = self.targets.split_off(first.len().min(self.targets.len()));
        let mut left = Vec::with_capacity(rest.len());
        for (mut target, mut request) in targets.into_iter().zip(rest) {
            if let (Target::Append { slots, .. }, Request::Append { entries, .. }) =
                (&mut target, &mut request)
            {
                let mut keep = slots.iter().map(|(batch, _)| !fenced.contains(batch));
                entries.retain(|_| keep.next().unwrap_or(true));
                slots.retain(|(batch, _)| !fenced.contains(batch));
                if entries.is_empty() {
                    continue;
                }
            }
            if let Target::Tap(tapping) = &mut target {
                if !tapping.leave_out(&fenced) {
                    continue;
                }
                if let Request::Tap(TapRequest::Append { entries, .. }) = &mut request {
                    *entries = Arc::clone(&tapping.entries);
                }
            }
            self.targets.push(target);
            left.push(request);
        }
        left
    }
}

#[derive(Default)]
struct Settle {
    dequeue: Vec<u64>,
    release: Vec<u64>,
    inbound: BTreeMap<u16, Option<u64>>,
}

impl Settle {
    fn len(&self) -> usize {
        self.dequeue.len() + self.release.len() + self.inbound.len()
    }
}

enum What {
    Append {
        entries: Vec<Appending>,
        bytes: usize,
    },
    Settle(Settle),
    /// Filled in when the session's last change of the round is known.
    Record,
    Routes(Vec<(Arc<str>, Route)>, Map<Arc<str>, usize>),
    Inbox {
        pack: Pack,
    },
    /// Is in the target.
    Tap,
    Ready(Box<Request>),
}

struct Draft {
    what: What,
    target: Target,
}

/// Where the changes of a session are.
#[derive(Clone, Copy, Default)]
struct Slots {
    append: Option<usize>,
    /// In the first part.
    settle: Option<usize>,
    /// In the second part.
    late: Option<usize>,
    record: Option<usize>,
}

/// Makes a round.
pub(super) struct Builder<'a> {
    own: &'a mut Own,
    tables: &'a mut Tables,
    options: &'a EngineOptions,
    replica: ReplicaId,
    id: u64,
    batches: Vec<Staged>,
    first: Vec<Draft>,
    then: Vec<Draft>,
    sessions: Map<SessionId, Slots>,
    topics: Map<Arc<str>, usize>,
    inboxes: BTreeMap<ReplicaId, usize>,
    /// Appends to partitions of taps: the last one of each.
    taps: Vec<(Arc<Definition>, u16, usize)>,
    routes: Option<usize>,
    last_entry: Option<(Arc<Message>, Delivery, Bytes)>,
    scratch: Vec<u8>,
    /// Number of the last append, in a batch that was sent before: what has taken effect of it is known by
    /// its numbers.
    numbered: Option<u64>,
    /// Encoded entries lie behind each other: one allocation for many.
    block: BytesMut,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        own: &'a mut Own,
        tables: &'a mut Tables,
        options: &'a EngineOptions,
        replica: ReplicaId,
        id: u64,
    ) -> Self {
        Self {
            own,
            tables,
            options,
            replica,
            id,
            batches: Vec::new(),
            first: Vec::new(),
            then: Vec::new(),
            sessions: Map::default(),
            topics: Map::default(),
            inboxes: BTreeMap::new(),
            taps: Vec::new(),
            routes: None,
            last_entry: None,
            scratch: Vec::new(),
            numbered: None,
            block: BytesMut::new(),
        }
    }

    fn head(&self) -> Head {
        head(Kind::Table, self.replica)
    }

    /// Adds a batch. One that holds a change that no store could keep is refused as a whole.
    /// So is every batch after a `failure` of the store.
    pub(super) fn batch(&mut self, pending: Pending, failure: Option<&StoreError>) {
        let index = self.batches.len() as u32;
        let wanted = pending.is_wanted().then_some(()).ok_or_else(unwanted);
        let ops = pending.batch.ops;
        let checked = ops.iter().try_for_each(Op::check);
        let checked = checked.and_then(|()| self.check_publishers(&ops));
        let checked = wanted.and(checked);
        let result = checked.and_then(|()| failure.map_or(Ok(()), |error| Err(error.clone())));
        let refused = result.is_err();
        self.batches.push(Staged {
            ticket: pending.ticket,
            weight: pending.weight,
            on_commit: pending.batch.on_commit,
            appended: Vec::new(),
            result,
            barrier: pending.batch.barrier,
            needs: Needs::default(),
            after: Vec::new(),
            again: (pending.batch.keep && !refused).then(|| Again {
                ops: ops.clone(),
                numbered: pending.numbered.unwrap_or(self.own.appends),
            }),
        });
        if !refused {
            self.numbered = pending.numbered;
            for op in ops {
                self.op(index, op);
            }
            self.numbered = None;
        }
    }

    /// QoS 2 publishes of a session that is another's by now must not take effect: its packet id would be
    /// remembered nowhere.
    fn check_publishers(&self, ops: &[Op]) -> Result<(), StoreError> {
        let another = |session: &SessionId| {
            !self.own.sessions.contains_key(session)
                && ops.iter().any(|op| match op {
                    Op::Enqueue { once, .. } => {
                        once.is_some_and(|(publisher, _)| publisher == session.0)
                    }
                    _ => false,
                })
                && !ops
                    .iter()
                    .any(|op| matches!(op, Op::PutSession(record) if record.id == *session))
        };
        let fenced = ops.iter().any(|op| match op {
            Op::PutInboundQos2 { session, .. } => another(session),
            _ => false,
        });
        if fenced {
            return Err(StoreError::Cluster {
                reason: "the session of the publisher is claimed elsewhere".to_owned(),
            });
        }
        Ok(())
    }

    /// Adds a claim; `fresh` is a number for the session, if one is to be made.
    pub(super) fn claim(&mut self, claiming: Claiming, fresh: SessionId, nonce: u64) {
        let request = &claiming.request;
        let entry = SessionEntry::new(fresh, Arc::clone(&request.client_id));
        let (Ok(record), Ok(will)) = (
            entry.encode(None),
            encode_will(request.will.as_ref(), request.expiry_interval),
        ) else {
            return;
        };
        let request = Request::Claim {
            client_id: Arc::clone(&request.client_id),
            replica: self.replica,
            nonce,
            clean_start: request.clean_start,
            expiry_interval: request.expiry_interval,
            fresh,
            record: Bytes::from(record),
            will,
            will_grace_ms: self.options.will_grace.as_millis() as u64,
            head: self.head(),
        };
        self.ready(request, Target::Claim(Box::new(claiming)));
    }

    /// Changes without a batch: entries of queues that are done with.
    pub(super) fn free(mut self, ops: Vec<Op>) -> (Vec<Request>, Vec<Target>) {
        for op in ops {
            self.op(0, op);
        }
        let (requests, round) = self.finish(|_| 0);
        (requests, round.targets)
    }

    /// Sessions that were found in Redis and that nobody has.
    pub(super) fn adopt(&mut self, sessions: Vec<(SessionId, OwnSession)>) {
        for (id, session) in sessions {
            self.own.sessions.entry(id).or_insert(session);
        }
    }

    fn op(&mut self, batch: u32, op: Op) {
        match op {
            Op::Enqueue {
                session,
                delivery,
                message,
                once,
            } => self.enqueue(batch, session, delivery, message, once),
            Op::Dequeue { session, seq } => self.settle(batch, session, Some(seq), |settle| {
                settle.dequeue.push(seq);
            }),
            Op::Release { session, seq } => self.settle(batch, session, Some(seq), |settle| {
                settle.release.push(seq);
            }),
            Op::PutInboundQos2 {
                session,
                packet_id,
                count,
            } => self.remember(batch, session, packet_id, count),
            Op::DeleteInboundQos2 { session, packet_id } => {
                self.settle(batch, session, None, |settle| {
                    settle.inbound.insert(packet_id, None);
                });
            }
            Op::Relay { to, share, message } => self.relay(batch, to, share, message),
            Op::PutRetained(message) => self.put_retained(batch, message),
            Op::DeleteRetained(topic) => {
                let topic: Arc<str> = Arc::from(topic);
                let head = self.head();
                let request = Request::DeleteRetained {
                    topic: Arc::clone(&topic),
                    head,
                };
                self.retained(batch, topic, request);
            }
            Op::PutRoute {
                filter,
                route,
                stamp,
            } => self.route(batch, filter, route, stamp),
            Op::PutSubscription(session, record) => {
                self.record(batch, session, |entry| entry.subscribe(record));
            }
            Op::DeleteSubscription(session, filter) => {
                self.record(batch, session, |entry| {
                    entry.unsubscribe(&filter);
                });
            }
            Op::PutSession(record) => self.put_session(batch, record),
            Op::DeleteSession(session) => self.delete_session(batch, session),
            Op::ReleaseClaim(release) => self.release_claim(batch, release),
            Op::PutWill(will) => self.put_will(batch, &will),
            Op::DeleteWill { client_id } => {
                let epoch = unclaimed_will(&client_id);
                self.delete_will(batch, &client_id, epoch);
            }
            Op::Tap {
                tap,
                partition,
                message,
                once,
            } => self.tap(batch, &tap, partition, &message, once),
            Op::Records(records) => self.records(batch, &records),
            Op::TapKnown { tap, revision } => {
                let request = TapRequest::Known {
                    tap,
                    replica: self.replica,
                    revision,
                };
                self.ready(Request::Tap(request), Target::Batches(vec![batch]));
            }
            Op::DeleteWillOf { client_id, epoch } => {
                let bucket = Bucket::of(&client_id);
                if let Some(staged) = self.batches.get_mut(batch as usize) {
                    staged.after.push(Request::DeleteWill { bucket, epoch });
                }
            }
        }
    }

    fn ready(&mut self, request: Request, target: Target) {
        self.then.push(Draft {
            what: What::Ready(Box::new(request)),
            target,
        });
    }

    /// Requests that remember QoS 2 packet ids; they are the first ones.
    pub(super) fn remembering(&self) -> bool {
        self.first.iter().any(|draft| match &draft.what {
            What::Settle(settle) => settle.inbound.values().any(Option::is_some),
            _ => false,
        })
    }

    /// How many requests come before all others.
    pub(super) fn first(&self) -> usize {
        self.first.len()
    }

    /// The requests, and the round that waits for their answers. `sequence` gives the next number of
    /// the lane into a replica's inbox.
    pub(super) fn finish(
        mut self,
        mut sequence: impl FnMut(ReplicaId) -> u64,
    ) -> (Vec<Request>, Round) {
        for at in 0..self.then.len() {
            self.fill_record(at);
        }
        let mut requests = Vec::with_capacity(self.first.len() + self.then.len());
        let mut targets = Vec::with_capacity(requests.capacity());
        for Draft { what, target } in self.first.into_iter().chain(self.then) {
            let Some(request) = request(what, &target, self.replica, self.options, &mut sequence)
            else {
                continue;
            };
            requests.push(request);
            targets.push(target);
        }
        let round = Round {
            id: self.id,
            batches: self.batches,
            targets,
            answered: false,
        };
        (requests, round)
    }
}

/// Remembers a batch once.
fn note(batches: &mut Vec<u32>, batch: u32) {
    if batches.last() != Some(&batch) {
        batches.push(batch);
    }
}
