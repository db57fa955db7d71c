//! Retained messages and the records of sessions.

use std::sync::Arc;

use bytes::Bytes;

use super::bucket::{BucketState, Owner};
use super::queue::SessionState;
use super::state::Announcement;
use crate::SessionId;
use crate::cluster::{Epoch, OwnerEntry, ReplicaId, Reply, Request};

impl BucketState {
    pub(super) fn apply_tables(&mut self, request: &Request, out: &mut Vec<Announcement>) -> Reply {
        match request {
            Request::PutSession { session, head, .. } => {
                self.put_session(*session, request);
                self.announce_record(*session, head, out);
                Reply::Done
            }
            Request::PutRecord {
                session,
                epoch,
                record,
                head,
            } => self.put_record(*session, *epoch, record, head, out),
            Request::DeleteSession {
                session,
                epoch,
                head,
            } => self.end_session(*session, *epoch, head, out),
            Request::PutRetained { topic, body, head } => {
                self.note_written(topic);
                self.put_retained(topic, body, head, out);
                Reply::Version(self.version)
            }
            Request::DeleteRetained { topic, head } => {
                self.note_written(topic);
                self.delete_retained(topic, head, out);
                Reply::Version(self.version)
            }
            Request::LoadBucket { .. } => self.load(),
            _ => Reply::Done,
        }
    }

    /// After a failover: an older change of this topic is not to be written again over this one.
    pub(super) fn note_written(&mut self, topic: &Arc<str>) {
        if self.base > 0 {
            self.replayed.insert(Arc::clone(topic), u64::MAX);
        }
    }

    pub(super) fn put_retained(
        &mut self,
        topic: &Arc<str>,
        body: &Bytes,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) {
        self.retained.insert(Arc::clone(topic), body.clone());
        let mut change = vec![1];
        change.extend_from_slice(body);
        self.announce(head, &change, out);
    }

    pub(super) fn delete_retained(
        &mut self,
        topic: &Arc<str>,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) {
        if self.retained.remove(topic).is_some() {
            let mut change = vec![2];
            change.extend_from_slice(topic.as_bytes());
            self.announce(head, &change, out);
        }
    }

    pub(super) fn expire_retained(
        &mut self,
        now: u64,
        topic: &Arc<str>,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) -> Reply {
        let ends = self.retained.get(topic);
        let ends = ends.and_then(|body| crate::Message::expiry_of(body));
        let over = ends.is_some_and(|at| at <= now);
        if over {
            self.delete_retained(topic, head, out);
        }
        Reply::Flag(over)
    }

    fn put_session(&mut self, session: SessionId, request: &Request) {
        let Request::PutSession {
            client_id,
            expiry_interval,
            epoch,
            record,
            ..
        } = request
        else {
            return;
        };
        let state = self
            .sessions
            .entry(session)
            .or_insert_with(|| SessionState::new(Arc::clone(client_id), record.clone()));
        state.client_id = Arc::clone(client_id);
        state.expiry_interval = *expiry_interval;
        state.epoch = *epoch;
        state.record = record.clone();
        let owner = Owner {
            replica: state.owner,
            epoch: *epoch,
            session: Some(session),
        };
        self.owners.insert(Arc::clone(client_id), owner);
    }

    fn put_record(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        record: &Bytes,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) -> Reply {
        match self.sessions.get_mut(&session) {
            Some(state) if state.epoch == epoch => state.record = record.clone(),
            _ => return Reply::Fenced,
        }
        self.announce_record(session, head, out);
        Reply::Version(self.version)
    }

    fn end_session(
        &mut self,
        session: SessionId,
        epoch: Option<Epoch>,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) -> Reply {
        let Some(state) = self.sessions.get(&session) else {
            return Reply::Done;
        };
        if epoch.is_some_and(|epoch| epoch != state.epoch) {
            return Reply::Fenced;
        }
        if let Some(state) = self.delete_session(session, head, out) {
            self.forget_session(&state.client_id, session);
        }
        Reply::Done
    }

    /// The entry of its client stays if the client is connected.
    fn forget_session(&mut self, client: &Arc<str>, session: SessionId) {
        let Some(owner) = self.owners.get_mut(client) else {
            return;
        };
        if owner.session != Some(session) {
            return;
        }
        if owner.replica == ReplicaId::default() {
            self.owners.remove(client);
        } else {
            owner.session = None;
        }
    }

    fn load(&self) -> Reply {
        Reply::Bucket {
            version: self.version,
            retained: self
                .retained
                .iter()
                .map(|(topic, body)| (Arc::clone(topic), body.clone()))
                .collect(),
            sessions: self
                .sessions
                .iter()
                .map(|(session, state)| (*session, state.record.clone()))
                .collect(),
            owners: self
                .owners
                .iter()
                .filter(|(_, owner)| owner.session.is_some())
                .map(|(client, owner)| OwnerEntry {
                    client_id: Arc::clone(client),
                    replica: owner.replica,
                    epoch: owner.epoch,
                    session: owner.session,
                })
                .collect(),
        }
    }
}
