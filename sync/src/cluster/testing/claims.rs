//! Who has a client id: claims, their ends, wills, and what is due.

use std::sync::Arc;

use bytes::Bytes;

use super::bucket::{BucketState, ClaimAnswer, Owner, due_session, due_will};
use super::queue::SessionState;
use super::register::NONCE_MS;
use super::state::Announcement;
use crate::SessionId;
use crate::cluster::{DueItem, Epoch, ReleaseEnd, ReplicaId, Reply, Request, WillFate};

/// The fields of a [`Request::Claim`].
pub(super) struct Claiming<'a> {
    pub(super) client_id: &'a Arc<str>,
    pub(super) replica: ReplicaId,
    pub(super) clean_start: bool,
    pub(super) expiry_interval: u32,
    pub(super) fresh: SessionId,
    pub(super) record: &'a Bytes,
    pub(super) will: Option<&'a (u32, Bytes)>,
    pub(super) will_grace_ms: u64,
    pub(super) head: &'a [u8],
}

impl<'a> Claiming<'a> {
    pub(super) fn of(request: &'a Request) -> Option<(u64, Self)> {
        let Request::Claim {
            client_id,
            replica,
            nonce,
            clean_start,
            expiry_interval,
            fresh,
            record,
            will,
            will_grace_ms,
            head,
        } = request
        else {
            return None;
        };
        let claiming = Self {
            client_id,
            replica: *replica,
            clean_start: *clean_start,
            expiry_interval: *expiry_interval,
            fresh: *fresh,
            record,
            will: will.as_ref(),
            will_grace_ms: *will_grace_ms,
            head,
        };
        Some((*nonce, claiming))
    }
}

impl BucketState {
    pub(super) fn apply_claims(
        &mut self,
        now: u64,
        request: &Request,
        out: &mut Vec<Announcement>,
    ) -> Reply {
        match request {
            Request::Claim { .. } => self.apply_claim(now, request, out),
            Request::Release {
                client_id,
                epoch,
                end,
                will,
                head,
            } => self.release(now, (client_id, *epoch), (*end, *will), head, out),
            Request::Orphan {
                client_id,
                replica,
                head,
            } => self.orphan(now, client_id, *replica, head, out),
            Request::Owned { replica, limit, .. } => Reply::Clients(
                self.owned
                    .get(replica)
                    .into_iter()
                    .flatten()
                    .take(*limit as usize)
                    .cloned()
                    .collect(),
            ),
            Request::Due { limit, .. } => Reply::Due(self.due_now(now, *limit as usize)),
            Request::Expire { session, head } => self.expire(now, *session, head, out),
            Request::GetWill { epoch, .. } => {
                Reply::Will(self.wills.get(epoch).map(|(_, body)| body.clone()))
            }
            Request::PutWill {
                epoch, delay, body, ..
            } => {
                self.wills.insert(*epoch, (*delay, body.clone()));
                Reply::Done
            }
            Request::Wills { .. } => Reply::Wills(
                self.wills
                    .iter()
                    .map(|(epoch, (_, body))| (*epoch, body.clone()))
                    .collect(),
            ),
            Request::DeleteWill { epoch, .. } => {
                self.drop_will(*epoch);
                Reply::Done
            }
            _ => Reply::Done,
        }
    }

    fn apply_claim(&mut self, now: u64, request: &Request, out: &mut Vec<Announcement>) -> Reply {
        let Some((nonce, claiming)) = Claiming::of(request) else {
            return Reply::Done;
        };
        self.claims.retain(|_, answer| answer.until > now);
        if !self.claims.contains_key(&nonce) {
            let epoch = Epoch(self.epoch + 1);
            let answer = self.claim(now, &claiming, epoch, out);
            self.claims.insert(nonce, answer);
        }
        self.claims
            .get(&nonce)
            .map_or(Reply::Done, |answer| self.claimed(answer))
    }

    fn claimed(&self, answer: &ClaimAnswer) -> Reply {
        Reply::Claimed {
            epoch: answer.epoch,
            session: answer.session,
            present: answer.present,
            previous: answer.previous,
            fields: self.fields(answer.session),
            record: answer.record.clone(),
            old_will: answer.old_will.clone(),
        }
    }

    pub(super) fn claim(
        &mut self,
        now: u64,
        claiming: &Claiming<'_>,
        epoch: Epoch,
        out: &mut Vec<Announcement>,
    ) -> ClaimAnswer {
        self.epoch = self.epoch.max(epoch.0);
        let previous = self.owners.get(claiming.client_id).copied();
        let found = previous.map_or_else(Default::default, |owner| owner.epoch);
        if self
            .began
            .is_some_and(|began| found <= began && epoch > began)
        {
            self.firsts.insert(Arc::clone(claiming.client_id), found);
        }
        let old = previous
            .and_then(|owner| owner.session)
            .filter(|session| self.sessions.contains_key(session));
        let kept = old.filter(|session| !claiming.clean_start && !self.has_expired(now, *session));
        let old_will = previous
            .and_then(|owner| self.end_will(now, owner, kept.is_some(), claiming.will_grace_ms));
        if let Some(old) = old.filter(|old| Some(*old) != kept) {
            self.delete_session(old, claiming.head, out);
        }
        let record = kept
            .and_then(|session| self.sessions.get(&session))
            .map(|state| state.record.clone());
        let session = match kept {
            None if claiming.expiry_interval > 0 => Some(self.create(claiming)),
            kept => kept,
        };
        self.take(claiming, epoch, session, previous);
        if let Some(session) = session {
            if kept.is_none() {
                self.announce_record(session, claiming.head, out);
            }
            self.announce_owner(session, claiming.head, out);
        }
        ClaimAnswer {
            until: now + NONCE_MS,
            epoch,
            session,
            present: kept.is_some(),
            previous: previous
                .filter(|owner| owner.replica != ReplicaId::default())
                .map_or_else(Default::default, |owner| (owner.replica, owner.epoch)),
            record,
            old_will,
        }
    }

    fn create(&mut self, claiming: &Claiming<'_>) -> SessionId {
        let mut state = SessionState::new(Arc::clone(claiming.client_id), claiming.record.clone());
        state.queue = self.limbo.remove(&claiming.fresh).unwrap_or_default();
        self.sessions.insert(claiming.fresh, state);
        claiming.fresh
    }

    /// Writes down whose the client id is now.
    fn take(
        &mut self,
        claiming: &Claiming<'_>,
        epoch: Epoch,
        session: Option<SessionId>,
        previous: Option<Owner>,
    ) {
        if let Some(previous) = previous {
            self.disown(claiming.client_id, previous.replica);
        }
        self.own(claiming.client_id, claiming.replica);
        let owner = Owner {
            replica: claiming.replica,
            epoch,
            session,
        };
        self.owners.insert(Arc::clone(claiming.client_id), owner);
        if let Some(will) = claiming.will {
            self.wills.insert(epoch, will.clone());
        }
        let Some(session) = session else { return };
        self.due.remove(&due_session(session));
        if let Some(state) = self.sessions.get_mut(&session) {
            state.forget_old_mark();
            state.expiry_interval = claiming.expiry_interval;
            state.epoch = epoch;
            state.owner = claiming.replica;
        }
    }

    fn has_expired(&self, now: u64, session: SessionId) -> bool {
        self.due
            .get(&due_session(session))
            .is_some_and(|at| *at <= now)
    }

    /// What becomes of the will of an earlier claim: handed to the claimer, or deleted.
    fn end_will(
        &mut self,
        now: u64,
        owner: Owner,
        resumed: bool,
        grace_ms: u64,
    ) -> Option<(Epoch, Bytes)> {
        let (delay, body) = self.wills.get(&owner.epoch)?.clone();
        let connected = owner.replica != ReplicaId::default();
        let at = self.due.get(&due_will(owner.epoch)).copied();
        let overdue = at.is_some_and(|at| at <= now);
        if !connected && delay == 0 && at.is_some() && !overdue {
            // It is being published by whoever had the connection, or is due soon.
            return None;
        }
        if !resumed || overdue || (connected && delay == 0) {
            self.due.insert(due_will(owner.epoch), now + grace_ms);
            return Some((owner.epoch, body));
        }
        // [MQTT-3.1.3-9]: a new connection before the delay has passed.
        self.drop_will(owner.epoch);
        None
    }

    fn drop_will(&mut self, epoch: Epoch) {
        self.wills.remove(&epoch);
        self.due.remove(&due_will(epoch));
    }

    fn release(
        &mut self,
        now: u64,
        (client, epoch): (&Arc<str>, Epoch),
        (end, will): (ReleaseEnd, WillFate),
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) -> Reply {
        let Some(owner) = self.owners.get(client).copied() else {
            return Reply::Done;
        };
        if owner.epoch != epoch {
            // A will may have come back for a claim that was lost in a failover.
            self.settle_will(now, epoch, will);
            return Reply::Fenced;
        }
        if owner.replica == ReplicaId::default() {
            return Reply::Done;
        }
        self.let_go(now, client, owner, (end, will), head, out);
        Reply::Done
    }

    fn settle_will(&mut self, now: u64, epoch: Epoch, will: WillFate) {
        match will {
            WillFate::Dropped => self.drop_will(epoch),
            WillFate::DueIn(ms) => {
                if self.wills.contains_key(&epoch) {
                    self.due.insert(due_will(epoch), now + ms);
                }
            }
        }
    }

    /// A will whose claim was lost in a failover, and that nobody has decided about since.
    pub(super) fn restore_will(&mut self, now: u64, claiming: &Claiming<'_>, epoch: Epoch) {
        let unseen = self
            .firsts
            .get(claiming.client_id)
            .is_some_and(|found| *found < epoch);
        if let Some(will) = claiming.will
            && unseen
            && !self.wills.contains_key(&epoch)
        {
            self.wills.insert(epoch, will.clone());
            self.due
                .insert(due_will(epoch), now + claiming.will_grace_ms);
        }
    }

    fn let_go(
        &mut self,
        now: u64,
        client: &Arc<str>,
        owner: Owner,
        (end, will): (ReleaseEnd, WillFate),
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) {
        self.disown(client, owner.replica);
        self.settle_will(now, owner.epoch, will);
        let session = owner
            .session
            .filter(|session| self.sessions.contains_key(session));
        match (session, end) {
            (Some(session), ReleaseEnd::Waits { expiry_interval }) => {
                self.wait(now, session, expiry_interval);
                let owner = Owner {
                    replica: ReplicaId::default(),
                    ..owner
                };
                self.owners.insert(Arc::clone(client), owner);
                self.announce_owner(session, head, out);
            }
            (session, _) => {
                self.owners.remove(client);
                if let Some(session) = session {
                    self.delete_session(session, head, out);
                }
            }
        }
    }

    fn wait(&mut self, now: u64, session: SessionId, expiry_interval: u32) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.expiry_interval = expiry_interval;
            state.owner = ReplicaId::default();
            state.mark_sent();
        }
        if expiry_interval != u32::MAX {
            let at = now + u64::from(expiry_interval) * 1000;
            self.due.insert(due_session(session), at);
        }
    }

    fn orphan(
        &mut self,
        now: u64,
        client: &Arc<str>,
        replica: ReplicaId,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) -> Reply {
        let Some(owner) = self.owners.get(client).copied() else {
            self.disown(client, replica);
            return Reply::Done;
        };
        if owner.replica != replica {
            self.disown(client, replica);
            return Reply::Done;
        }
        let expiry_interval = self.fields(owner.session).expiry_interval;
        let end = match expiry_interval {
            0 => ReleaseEnd::Ends,
            expiry_interval => ReleaseEnd::Waits { expiry_interval },
        };
        let will = match self.wills.get(&owner.epoch) {
            Some((delay, _)) => WillFate::DueIn(u64::from((*delay).min(expiry_interval)) * 1000),
            None => WillFate::Dropped,
        };
        self.let_go(now, client, owner, (end, will), head, out);
        Reply::Done
    }

    /// By time, then as text.
    fn due_now(&self, now: u64, limit: usize) -> Vec<DueItem> {
        let mut due: Vec<_> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, at)| (*at, key))
            .collect();
        due.sort();
        let due = due
            .into_iter()
            .take(limit)
            .filter_map(|(_, key)| match key.split_once(':')? {
                ("s", id) => Some(DueItem::Session(SessionId(id.parse().ok()?))),
                (_, epoch) => Some(DueItem::Will(Epoch(epoch.parse().ok()?))),
            });
        let mut over: Vec<_> = self
            .book
            .records
            .iter()
            .filter_map(|(key, record)| {
                Some((record.expires_at_ms.filter(|end| *end <= now)?, key))
            })
            .map(|(end, key)| (end, format!("{}:{}", key.table.code(), key.key), key))
            .collect();
        over.sort();
        let over = over
            .into_iter()
            .take(limit)
            .map(|(.., key)| DueItem::Record {
                code: key.table.code(),
                key: Arc::clone(&key.key),
            });
        due.chain(over).collect()
    }

    fn expire(
        &mut self,
        now: u64,
        session: SessionId,
        head: &[u8],
        out: &mut Vec<Announcement>,
    ) -> Reply {
        let Some(state) = self.sessions.get(&session) else {
            self.due.remove(&due_session(session));
            return Reply::Flag(false);
        };
        if state.owner != ReplicaId::default() || !self.has_expired(now, session) {
            return Reply::Flag(false);
        }
        let client = Arc::clone(&state.client_id);
        self.delete_session(session, head, out);
        let is_its = self
            .owners
            .get(&client)
            .is_some_and(|owner| owner.session == Some(session));
        if is_its {
            self.owners.remove(&client);
        }
        Reply::Flag(true)
    }
}
