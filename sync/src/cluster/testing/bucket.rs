//! The keys of one bucket, and which request goes to which part of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::queue::{Queue, SessionState};
use super::records::RecordTables;
use super::register::JUMP;
use super::state::Announcement;
use crate::SessionId;
use crate::cluster::{Bucket, Epoch, ReplicaId, Reply, Request, SessionFields};

/// Bit of the flags of a record: it has shared subscriptions, so that its owner is announced.
const HAS_SHARED: u8 = 1;

/// Who has a client id.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) replica: ReplicaId,
    pub(super) epoch: Epoch,
    pub(super) session: Option<SessionId>,
}

/// The first answer to a claim, for its repetitions.
#[derive(Clone)]
pub(super) struct ClaimAnswer {
    pub(super) until: u64,
    pub(super) epoch: Epoch,
    pub(super) session: Option<SessionId>,
    pub(super) present: bool,
    pub(super) previous: (ReplicaId, Epoch),
    pub(super) record: Option<Bytes>,
    pub(super) old_will: Option<(Epoch, Bytes)>,
}

/// A member of the index of what is due. Ordered as Redis orders `s:<n>` and `w:<n>`: as text.
pub(super) type DueKey = String;

/// Keys of the tag `{bNN}`.
#[derive(Clone)]
pub(super) struct BucketState {
    bucket: Bucket,
    pub(super) version: u64,
    pub(super) epoch: u64,
    pub(super) retained: BTreeMap<Arc<str>, Bytes>,
    pub(super) sessions: BTreeMap<SessionId, SessionState>,
    pub(super) owners: BTreeMap<Arc<str>, Owner>,
    pub(super) owned: BTreeMap<ReplicaId, BTreeSet<Arc<str>>>,
    pub(super) wills: BTreeMap<Epoch, (u32, Bytes)>,
    pub(super) due: BTreeMap<DueKey, u64>,
    pub(super) claims: BTreeMap<u64, ClaimAnswer>,
    /// Version when the last failover was noticed.
    pub(super) base: u64,
    /// Epoch at the same time, if there was one.
    pub(super) began: Option<Epoch>,
    /// Clients that were claimed since: the newest claim that their first one found, 0 for none.
    pub(super) firsts: BTreeMap<Arc<str>, Epoch>,
    /// Version that a topic's newest replayed change had; `u64::MAX`: written since the failover.
    pub(super) replayed: BTreeMap<Arc<str>, u64>,
    /// Queues of sessions whose making was lost in a failover and has not been written again yet.
    pub(super) limbo: BTreeMap<SessionId, Queue>,
    pub(super) book: RecordTables,
}

impl BucketState {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            version: 0,
            epoch: 0,
            retained: BTreeMap::new(),
            sessions: BTreeMap::new(),
            owners: BTreeMap::new(),
            owned: BTreeMap::new(),
            wills: BTreeMap::new(),
            due: BTreeMap::new(),
            claims: BTreeMap::new(),
            base: 0,
            began: None,
            firsts: BTreeMap::new(),
            replayed: BTreeMap::new(),
            limbo: BTreeMap::new(),
            book: RecordTables::default(),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn begin_anew(&mut self) {
        self.base = self.version;
        self.began = Some(Epoch(self.epoch));
        self.firsts.clear();
        self.version += JUMP;
        self.epoch += JUMP;
        self.replayed.clear();
        self.limbo.clear();
        for session in self.sessions.values_mut() {
            session.begin_anew();
        }
    }

    pub(super) fn apply(
        &mut self,
        now: u64,
        request: &Request,
        out: &mut Vec<Announcement>,
    ) -> Reply {
        match request {
            Request::Claim { .. }
            | Request::Release { .. }
            | Request::Orphan { .. }
            | Request::Owned { .. }
            | Request::Due { .. }
            | Request::Expire { .. }
            | Request::GetWill { .. }
            | Request::PutWill { .. }
            | Request::Wills { .. }
            | Request::DeleteWill { .. } => self.apply_claims(now, request, out),
            Request::PutSession { .. }
            | Request::PutRecord { .. }
            | Request::DeleteSession { .. }
            | Request::PutRetained { .. }
            | Request::DeleteRetained { .. }
            | Request::LoadBucket { .. } => self.apply_tables(request, out),
            Request::ExpireRetained { topic, head } => self.expire_retained(now, topic, head, out),
            Request::PutRecords { .. }
            | Request::GetRecords { .. }
            | Request::RecordKeys { .. }
            | Request::ExpireRecord { .. } => self.apply_records(now, request, out),
            _ => self.apply_queues(request),
        }
    }

    /// Raises the version and announces a change.
    pub(super) fn announce(&mut self, head: &[u8], change: &[u8], out: &mut Vec<Announcement>) {
        self.version += 1;
        let mut frame = head.to_vec();
        frame.extend_from_slice(&self.bucket.0.to_le_bytes());
        frame.extend_from_slice(&self.version.to_le_bytes());
        frame.extend_from_slice(change);
        out.push((None, frame.into()));
    }

    pub(super) fn announce_record(
        &mut self,
        session: SessionId,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        let mut change = vec![3];
        change.extend_from_slice(&session.0.to_le_bytes());
        change.extend_from_slice(&state.record);
        self.announce(head, &change, out);
    }

    /// Announces the owner of a session that has shared subscriptions.
    pub(super) fn announce_owner(
        &mut self,
        session: SessionId,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        if state
            .record
            .get(1)
            .is_none_or(|flags| flags & HAS_SHARED == 0)
        {
            return;
        }
        let mut change = vec![5];
        change.extend_from_slice(&session.0.to_le_bytes());
        change.extend_from_slice(&state.owner.0.to_le_bytes());
        self.announce(head, &change, out);
    }

    /// Deletes a session with everything but its owner's entry.
    pub(super) fn delete_session(
        &mut self,
        session: SessionId,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) -> Option<SessionState> {
        let state = self.sessions.remove(&session)?;
        self.due.remove(&due_session(session));
        let mut change = vec![4];
        change.extend_from_slice(&session.0.to_le_bytes());
        self.announce(head, &change, out);
        Some(state)
    }

    pub(super) fn fields(&self, session: Option<SessionId>) -> SessionFields {
        session
            .and_then(|session| self.sessions.get(&session))
            .map(SessionState::fields)
            .unwrap_or_default()
    }

    pub(super) fn own(&mut self, client: &Arc<str>, replica: ReplicaId) {
        self.owned
            .entry(replica)
            .or_default()
            .insert(Arc::clone(client));
    }

    pub(super) fn disown(&mut self, client: &str, replica: ReplicaId) {
        if let Some(clients) = self.owned.get_mut(&replica) {
            clients.remove(client);
            if clients.is_empty() {
                self.owned.remove(&replica);
            }
        }
    }
}

pub(super) fn due_session(session: SessionId) -> DueKey {
    format!("s:{}", session.0)
}

pub(super) fn due_will(epoch: Epoch) -> DueKey {
    format!("w:{}", epoch.0)
}
