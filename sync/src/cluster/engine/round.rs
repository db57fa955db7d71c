//! From batches to requests.
//!
//! A round is what has gathered while earlier ones were under way. Its changes are put together: all
//! messages for one queue in one append, all that a client has acknowledged in one settle, all relays
//! to one replica in one frame. What is put together moves towards the beginning of the round, and
//! keeps its order within a session, a topic and a filter:
//!
//! - Settles of sessions that existed before the round come first: they concern entries that were told
//!   before, and the QoS 2 packet ids of a publisher must be known before its publishes are appended.
//! - Everything else follows in the order in which it was first mentioned; a change that ends or
//!   makes a session is a boundary that nothing of the session crosses.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::options::EngineOptions;
use super::own::{Map, Own, OwnSession};
use super::shared::{Claiming, Pending};
use super::tables::Tables;
use crate::cluster::frame::{Kind, MessageView, Pack, head};
use crate::cluster::request::Head;
use crate::cluster::{
    Appending, Bucket, Epoch, ReleaseEnd, ReleaseRequest, ReplicaId, Request, Route, SessionEntry,
    WillFate,
};
use crate::embedded::values;
use crate::{
    Appended, Committed, Delivery, Message, Op, SessionId, SessionRecord, StoreError, WillRecord,
};

/// Changes in one request, after which another one is begun.
const CHUNK: usize = 4096;
/// Messages in one append, and their bytes.
const APPEND_MAX: usize = 512;
const APPEND_BYTES: usize = 1 << 20;
/// Bytes of encoded entries in one allocation.
const BLOCK: usize = 16 << 10;

/// What a batch with a barrier waits for.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) tables: Vec<(Bucket, u64)>,
    pub(super) routes: u64,
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
            Self::Batches(batches)
            | Self::Table { batches, .. }
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
    routes: Option<usize>,
    last_entry: Option<(Arc<Message>, Delivery, Bytes)>,
    scratch: Vec<u8>,
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
            routes: None,
            last_entry: None,
            scratch: Vec::new(),
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
        let ops = pending.batch.ops;
        let checked = ops.iter().try_for_each(Op::check);
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
        });
        if !refused {
            for op in ops {
                self.op(index, op);
            }
        }
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
            } => self.settle(batch, session, None, |settle| {
                settle.inbound.insert(packet_id, Some(count));
            }),
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

    fn enqueue(
        &mut self,
        batch: u32,
        session: SessionId,
        delivery: Delivery,
        message: Arc<Message>,
        once: Option<(u64, u64)>,
    ) {
        let body = self.encode(&delivery, &message);
        let Some(staged) = self.batches.get_mut(batch as usize) else {
            return;
        };
        let place = (batch, staged.appended.len() as u32);
        staged.appended.push(Appended {
            session,
            seq: Appended::DROPPED,
            delivery,
            message,
        });
        let Some(body) = body else { return };
        self.own.appends += 1;
        let appending = Appending {
            number: self.own.appends,
            once,
            body,
        };
        let slots = self.sessions.entry(session).or_default();
        if let Some(draft) = slots.append.and_then(|at| self.then.get_mut(at))
            && let What::Append { entries, bytes } = &mut draft.what
            && let Target::Append { slots, .. } = &mut draft.target
            && entries.len() < APPEND_MAX
            && *bytes < APPEND_BYTES
        {
            *bytes += appending.body.len();
            entries.push(appending);
            slots.push(place);
            return;
        }
        slots.append = Some(self.then.len());
        self.then.push(Draft {
            what: What::Append {
                bytes: appending.body.len(),
                entries: vec![appending],
            },
            target: Target::Append {
                session,
                slots: vec![place],
            },
        });
    }

    /// The stored form; a message that goes to many queues in the same way is encoded once.
    fn encode(&mut self, delivery: &Delivery, message: &Arc<Message>) -> Option<Bytes> {
        if let Some((last, how, body)) = &self.last_entry
            && Arc::ptr_eq(last, message)
            && how == delivery
        {
            return Some(body.clone());
        }
        values::put_inline(&mut self.scratch, delivery, message).ok()?;
        if self.block.capacity() < self.scratch.len() {
            self.block.reserve(self.scratch.len().max(BLOCK));
        }
        self.block.extend_from_slice(&self.scratch);
        let body = self.block.split().freeze();
        self.last_entry = Some((Arc::clone(message), delivery.clone(), body.clone()));
        Some(body)
    }

    /// A change of what a client has done with its queue; `seq`: the entry it is about.
    fn settle(
        &mut self,
        batch: u32,
        session: SessionId,
        seq: Option<u64>,
        change: impl FnOnce(&mut Settle),
    ) {
        let Some(own) = self.own.sessions.get(&session) else {
            return;
        };
        let early = own.made_in != self.id && seq.is_none_or(|seq| seq < own.tail);
        let epoch = own.fence();
        let slots = self.sessions.entry(session).or_default();
        let (at, part) = if early {
            (slots.settle, &mut self.first)
        } else {
            // Not before an append of the same round.
            (
                slots.late.filter(|late| Some(*late) > slots.append),
                &mut self.then,
            )
        };
        if let Some(draft) = at.and_then(|at| part.get_mut(at))
            && let What::Settle(settle) = &mut draft.what
            && let Target::Settle { batches, .. } = &mut draft.target
            && settle.len() < CHUNK
        {
            change(settle);
            note(batches, batch);
            return;
        }
        let mut settle = Settle::default();
        change(&mut settle);
        let place = Some(part.len());
        part.push(Draft {
            what: What::Settle(settle),
            target: Target::Settle {
                session,
                epoch,
                batches: vec![batch],
            },
        });
        if early {
            slots.settle = place;
        } else {
            slots.late = place;
        }
    }

    fn relay(&mut self, batch: u32, to: ReplicaId, share: Option<Arc<str>>, message: Arc<Message>) {
        let known = self.inboxes.get(&to).copied();
        let at = known.unwrap_or_else(|| {
            self.then.push(Draft {
                what: What::Inbox {
                    pack: Pack::default(),
                },
                target: Target::Inbox {
                    to,
                    shared: Vec::new(),
                    batches: Vec::new(),
                },
            });
            self.inboxes.insert(to, self.then.len() - 1);
            self.then.len() - 1
        });
        if let Some(draft) = self.then.get_mut(at)
            && let What::Inbox { pack } = &mut draft.what
            && let Target::Inbox {
                shared, batches, ..
            } = &mut draft.target
        {
            if pack
                .message(share.as_deref(), &MessageView::of(&message))
                .is_ok()
            {
                note(batches, batch);
                if let Some(share) = share {
                    shared.push((share, message));
                }
            }
            if pack.len() >= self.options.round_bytes {
                self.inboxes.remove(&to);
            }
        }
    }

    fn put_retained(&mut self, batch: u32, message: Arc<Message>) {
        let mut body = Vec::with_capacity(message.size());
        if message.encode_into(&mut body).is_err() {
            return;
        }
        let topic: Arc<str> = Arc::from(message.topic());
        let body = Bytes::from(body.into_boxed_slice());
        self.tables.own_retained(&topic, &body, &message);
        let request = Request::PutRetained {
            topic: Arc::clone(&topic),
            body,
            head: self.head(),
        };
        self.retained(batch, topic, request);
    }

    /// The last change of a topic is the one that counts.
    fn retained(&mut self, batch: u32, topic: Arc<str>, request: Request) {
        if let Some(draft) = self
            .topics
            .get(&topic)
            .and_then(|at| self.then.get_mut(*at))
            && let Target::Table { batches, .. } = &mut draft.target
        {
            draft.what = What::Ready(Box::new(request));
            note(batches, batch);
            return;
        }
        let bucket = Bucket::of(&topic);
        self.topics.insert(topic, self.then.len());
        let batches = vec![batch];
        self.ready(request, Target::Table { bucket, batches });
    }

    fn route(&mut self, batch: u32, filter: Arc<str>, route: Route, stamp: u64) {
        let new = self.own.is_new(&filter, stamp, route);
        let at = match self.routes {
            Some(at) => at,
            // What counts has been sent: it is to be waited for.
            None if !new => {
                let version = self.own.routes_version;
                if let Some(staged) = self.batches.get_mut(batch as usize) {
                    staged.needs.routes = version;
                }
                return;
            }
            None => {
                self.own.routes_version += 1;
                self.then.push(Draft {
                    what: What::Routes(Vec::new(), Map::default()),
                    target: Target::Routes {
                        version: self.own.routes_version,
                        batches: Vec::new(),
                    },
                });
                self.then.len() - 1
            }
        };
        self.routes = Some(at);
        if let Some(draft) = self.then.get_mut(at)
            && let What::Routes(changes, places) = &mut draft.what
            && let Target::Routes { batches, .. } = &mut draft.target
        {
            note(batches, batch);
            if new {
                match places.get(&filter).and_then(|at| changes.get_mut(*at)) {
                    Some(change) => change.1 = route,
                    None => {
                        places.insert(Arc::clone(&filter), changes.len());
                        changes.push((filter, route));
                    }
                }
            }
            if changes.len() >= CHUNK {
                self.routes = None;
            }
        }
    }

    fn record(&mut self, batch: u32, session: SessionId, change: impl FnOnce(&mut SessionEntry)) {
        let Some(own) = self.own.sessions.get_mut(&session) else {
            return;
        };
        change(Arc::make_mut(&mut own.entry));
        let slots = self.sessions.entry(session).or_default();
        if let Some(draft) = slots.record.and_then(|at| self.then.get_mut(at))
            && let Target::Record { batches, .. } = &mut draft.target
        {
            note(batches, batch);
            return;
        }
        slots.record = Some(self.then.len());
        self.then.push(Draft {
            what: What::Record,
            target: Target::Record {
                session,
                epoch: own.epoch,
                batches: vec![batch],
            },
        });
    }

    /// A boundary: what the round has said of the session so far stays before what comes now.
    fn boundary(&mut self, session: SessionId) {
        let Some(slots) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(at) = slots.record {
            self.fill_record(at);
        }
    }

    /// The record as it is now.
    fn fill_record(&mut self, at: usize) {
        let head = self.head();
        let Some(draft) = self.then.get_mut(at) else {
            return;
        };
        let (What::Record, Target::Record { session, epoch, .. }) = (&draft.what, &draft.target)
        else {
            return;
        };
        let encoded = self
            .own
            .sessions
            .get(session)
            .and_then(|own| own.entry.encode(own.left_at).ok());
        if let Some(record) = encoded {
            draft.what = What::Ready(Box::new(Request::PutRecord {
                session: *session,
                epoch: *epoch,
                record: Bytes::from(record),
                head,
            }));
        }
    }

    fn put_session(&mut self, batch: u32, record: SessionRecord) {
        self.boundary(record.id);
        let known = self.own.sessions.remove(&record.id);
        let (mut entry, tail) = known.map_or_else(
            || {
                (
                    SessionEntry::new(record.id, Arc::clone(&record.client_id)),
                    0,
                )
            },
            |known| (Arc::unwrap_or_clone(known.entry), known.tail),
        );
        entry.client_id = Arc::clone(&record.client_id);
        let Ok(encoded) = entry.encode(record.disconnected_at) else {
            return;
        };
        let own = OwnSession {
            entry: Arc::new(entry),
            epoch: Epoch(record.epoch),
            unclaimed: true,
            left_at: record.disconnected_at,
            tail,
            released: None,
            made_in: self.id,
        };
        self.own.sessions.insert(record.id, own);
        let request = Request::PutSession {
            session: record.id,
            client_id: record.client_id,
            expiry_interval: record.expiry_interval,
            epoch: Epoch(record.epoch),
            record: Bytes::from(encoded),
            head: self.head(),
        };
        self.ready(request, Target::Batches(vec![batch]));
    }

    fn delete_session(&mut self, batch: u32, session: SessionId) {
        self.boundary(session);
        let Some(own) = self.own.sessions.remove(&session) else {
            return;
        };
        let request = Request::DeleteSession {
            session,
            epoch: own.fence(),
            head: self.head(),
        };
        self.ready(request, Target::Batches(vec![batch]));
    }

    fn release_claim(&mut self, batch: u32, release: ReleaseRequest) {
        if let Some(session) = release.session {
            self.boundary(session);
        }
        let request = release_request(self.own, self.replica, release);
        let target = Target::Release {
            request: Box::new(request.clone()),
            batches: vec![batch],
        };
        self.ready(request, target);
    }

    fn put_will(&mut self, batch: u32, will: &WillRecord) {
        let mut body = Vec::new();
        if values::put_will(&mut body, will).is_err() {
            return;
        }
        let request = Request::PutWill {
            bucket: Bucket::of(&will.client_id),
            epoch: unclaimed_will(&will.client_id),
            delay: will.delay,
            body: Bytes::from(body),
        };
        self.ready(request, Target::Batches(vec![batch]));
    }

    fn delete_will(&mut self, batch: u32, client_id: &str, epoch: Epoch) {
        let bucket = Bucket::of(client_id);
        self.ready(
            Request::DeleteWill { bucket, epoch },
            Target::Batches(vec![batch]),
        );
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

/// The end of a connection.
pub(super) fn release_request(
    own: &mut Own,
    replica: ReplicaId,
    release: ReleaseRequest,
) -> Request {
    own.disconnect(&release.client_id, release.epoch, release.session);
    Request::Release {
        client_id: release.client_id,
        epoch: release.epoch,
        end: release
            .expiry_interval
            .map_or(ReleaseEnd::Ends, |seconds| ReleaseEnd::Waits {
                expiry_interval: seconds,
            }),
        will: release
            .will_due_in
            .map_or(WillFate::Dropped, WillFate::DueIn),
        head: head(Kind::Table, replica),
    }
}

fn request(
    what: What,
    target: &Target,
    replica: ReplicaId,
    options: &EngineOptions,
    sequence: &mut impl FnMut(ReplicaId) -> u64,
) -> Option<Request> {
    Some(match (what, target) {
        (What::Ready(request), _) => *request,
        (What::Append { entries, .. }, Target::Append { session, .. }) => Request::Append {
            session: *session,
            origin: replica,
            max_messages: options.queue_max_messages,
            max_bytes: options.queue_max_bytes,
            entries,
        },
        (What::Settle(settle), Target::Settle { session, epoch, .. }) => {
            settle_request(settle, *session, *epoch)
        }
        (What::Routes(changes, _), Target::Routes { version, .. }) => Request::PutRoutes {
            replica,
            version: *version,
            changes,
            head: head(Kind::Routes, replica),
        },
        (What::Inbox { pack }, Target::Inbox { to, .. }) => Request::Inbox {
            to: *to,
            frame: pack.seal(replica, *to, sequence(*to)),
        },
        // A record whose session was gone before it could be written.
        _ => return None,
    })
}

fn settle_request(settle: Settle, session: SessionId, epoch: Option<Epoch>) -> Request {
    let Settle {
        mut dequeue,
        mut release,
        inbound,
    } = settle;
    dequeue.sort_unstable();
    dequeue.dedup();
    release.sort_unstable();
    release.dedup();
    // What is gone is not to come back without its message.
    release.retain(|seq| dequeue.binary_search(seq).is_err());
    Request::Settle {
        session,
        epoch,
        dequeue,
        release,
        inbound_put: inbound
            .iter()
            .filter_map(|(packet_id, count)| Some((*packet_id, (*count)?)))
            .collect(),
        inbound_delete: inbound
            .iter()
            .filter(|(_, count)| count.is_none())
            .map(|(packet_id, _)| *packet_id)
            .collect(),
    }
}

/// Remembers a batch once.
fn note(batches: &mut Vec<u32>, batch: u32) {
    if batches.last() != Some(&batch) {
        batches.push(batch);
    }
}

fn encode_will(
    will: Option<&WillRecord>,
    expiry_interval: u32,
) -> Result<Option<(u32, Bytes)>, StoreError> {
    let Some(will) = will else { return Ok(None) };
    let mut body = Vec::new();
    values::put_will(&mut body, will).map_err(|error| StoreError::InvalidOp {
        reason: error.to_string(),
    })?;
    // A session that ends with its connection takes its will with it. [MQTT-3.1.2-8]
    let delay = will.delay.min(expiry_interval);
    Ok(Some((delay, Bytes::from(body))))
}

/// Wills that are put without a claim have a number made of the client's name: no claim is as high.
fn unclaimed_will(client_id: &str) -> Epoch {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in client_id.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Epoch(hash | 1 << 63)
}
