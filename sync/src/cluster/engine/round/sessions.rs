//! Changes of sessions, their records and wills.

use std::sync::Arc;

use bytes::Bytes;

use super::super::own::{Own, OwnSession};
use super::{Builder, Draft, Target, What, note};

use crate::cluster::frame::{Kind, head};
use crate::cluster::{
    Bucket, Epoch, ReleaseEnd, ReleaseRequest, ReplicaId, Request, SessionEntry, WillFate,
};
use crate::embedded::values;
use crate::{SessionId, SessionRecord, StoreError, WillRecord};

impl Builder<'_> {
    pub(super) fn record(
        &mut self,
        batch: u32,
        session: SessionId,
        change: impl FnOnce(&mut SessionEntry),
    ) {
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
    pub(super) fn boundary(&mut self, session: SessionId) {
        let Some(slots) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(at) = slots.record {
            self.fill_record(at);
        }
    }

    /// The record as it is now.
    pub(super) fn fill_record(&mut self, at: usize) {
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

    pub(super) fn put_session(&mut self, batch: u32, record: SessionRecord) {
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

    pub(super) fn delete_session(&mut self, batch: u32, session: SessionId) {
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

    pub(super) fn release_claim(&mut self, batch: u32, release: ReleaseRequest) {
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

    pub(super) fn put_will(&mut self, batch: u32, will: &WillRecord) {
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

    pub(super) fn delete_will(&mut self, batch: u32, client_id: &str, epoch: Epoch) {
        let bucket = Bucket::of(client_id);
        self.ready(
            Request::DeleteWill { bucket, epoch },
            Target::Batches(vec![batch]),
        );
    }
}

/// The end of a connection.
pub(in super::super) fn release_request(
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

pub(super) fn encode_will(
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
pub(super) fn unclaimed_will(client_id: &str) -> Epoch {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in client_id.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Epoch(hash | 1 << 63)
}
