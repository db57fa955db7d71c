//! What a replica had acknowledged lately, written again after a failover that may have lost it.
//!
//! A replay is a request together with its first answer: it restores what that answer promised, and
//! changes nothing that was not lost.

use super::bucket::BucketState;
use super::claims::Claiming;
use super::queue::Queue;
use super::register::NONCE_MS;
use super::state::{Announcement, State, bucket_of};
use crate::SessionId;
use crate::cluster::{AppendFate, Appending, Epoch, ReplicaId, Reply, Request};

impl State {
    /// Writes a request again that had been answered with `reply`.
    pub(super) fn replay(
        &mut self,
        now: u64,
        request: &Request,
        reply: &Reply,
        out: &mut Vec<Announcement>,
    ) {
        match (request, reply) {
            (
                Request::Join {
                    nonce,
                    info,
                    lease_ms,
                },
                Reply::Joined { replica },
            ) => self.join_again(now, *replica, (*nonce, info, *lease_ms)),
            (Request::Numbers { count }, Reply::Numbers(first)) => {
                std::sync::Arc::make_mut(&mut self.register)
                    .draw_up_to(first.saturating_add(*count).saturating_sub(1));
            }
            (Request::Tap(request), reply) => {
                std::sync::Arc::make_mut(&mut self.taps).replay(now, request, reply);
            }
            _ => match bucket_of(request).and_then(|bucket| self.bucket_mut(bucket)) {
                Some(bucket) => bucket.replay(now, request, reply, out),
                None => {
                    self.apply(now, request, out);
                }
            },
        }
    }

    fn join_again(
        &mut self,
        now: u64,
        replica: ReplicaId,
        (nonce, info, lease_ms): (u64, &bytes::Bytes, u64),
    ) {
        if !self.register.has(replica) {
            std::sync::Arc::make_mut(&mut self.register).enter(now, replica, nonce, info, lease_ms);
        }
        std::sync::Arc::make_mut(&mut self.lanes).open(replica);
    }
}

impl BucketState {
    fn replay(&mut self, now: u64, request: &Request, reply: &Reply, out: &mut Vec<Announcement>) {
        match (request, reply) {
            (Request::Claim { .. }, Reply::Claimed { epoch, session, .. }) => {
                self.claim_again(now, request, (*epoch, *session), out);
            }
            (
                Request::Append {
                    session,
                    origin,
                    entries,
                    ..
                },
                Reply::Appended { seqs, .. },
            ) => self.append_again(*session, *origin, entries, seqs),
            (
                Request::PutRetained { .. }
                | Request::DeleteRetained { .. }
                | Request::PutRecord { .. },
                Reply::Version(version),
            ) => self.change_again(request, *version, out),
            (Request::PutRecords { puts, head, .. }, Reply::RecordsPut { version, outcomes }) => {
                self.put_records_again(puts, head, (*version, outcomes), out);
            }
            (Request::Settle { .. }, Reply::Done) => self.settle_again(request),
            (_, Reply::Fenced) => {}
            _ => {
                self.apply(now, request, out);
            }
        }
    }

    fn claim_again(
        &mut self,
        now: u64,
        request: &Request,
        (epoch, session): (Epoch, Option<SessionId>),
        out: &mut Vec<Announcement>,
    ) {
        self.epoch = self.epoch.max(epoch.0);
        let Some((nonce, mut claiming)) = Claiming::of(request) else {
            return;
        };
        // It may have been another's before, who makes it again later.
        claiming.fresh = session.unwrap_or(claiming.fresh);
        let newer = self
            .owners
            .get(claiming.client_id)
            .is_some_and(|owner| owner.epoch >= epoch);
        if newer {
            self.restore_will(now, &claiming, epoch);
        }
        if newer || self.claims.contains_key(&nonce) {
            return;
        }
        let mut answer = self.claim(now, &claiming, epoch, out);
        answer.until = now + NONCE_MS;
        if !answer.present
            && let Some(session) = answer.session
        {
            self.expect_lost_appends(session);
        }
        self.claims.insert(nonce, answer);
    }

    /// The session was made again: what had been in its queue comes back too.
    fn expect_lost_appends(&mut self, session: SessionId) {
        if let Some(state) = self.sessions.get_mut(&session)
            && state.queue.is_new()
        {
            state.queue.begin_anew();
        }
    }

    fn append_again(
        &mut self,
        session: SessionId,
        origin: ReplicaId,
        entries: &[Appending],
        seqs: &[AppendFate],
    ) {
        let queue = match self.sessions.get_mut(&session) {
            Some(state) => &mut state.queue,
            None => self.limbo.entry(session).or_insert_with(|| {
                let mut queue = Queue::default();
                queue.begin_anew();
                queue
            }),
        };
        for (entry, fate) in entries.iter().zip(seqs) {
            if let AppendFate::At(seq) = fate {
                queue.append_again(origin, entry, *seq);
            }
        }
    }

    /// A change of a table that had made `version`.
    fn change_again(&mut self, request: &Request, version: u64, out: &mut Vec<Announcement>) {
        if version <= self.base {
            return;
        }
        match request {
            Request::PutRetained { topic, body, head } => {
                if self.replays_topic(topic, version) {
                    self.put_retained(topic, body, head, out);
                }
            }
            Request::DeleteRetained { topic, head } => {
                if self.replays_topic(topic, version) {
                    self.delete_retained(topic, head, out);
                }
            }
            _ => {
                self.apply_tables(request, out);
            }
        }
    }

    pub(super) fn replays_topic(&mut self, topic: &std::sync::Arc<str>, version: u64) -> bool {
        if self
            .replayed
            .get(topic)
            .is_some_and(|last| *last >= version)
        {
            return false;
        }
        self.replayed.insert(std::sync::Arc::clone(topic), version);
        true
    }
}
