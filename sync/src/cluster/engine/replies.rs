//! What Redis has answered to a round, and what follows from it.

use std::sync::Arc;

use bytes::Bytes;
use tracing::{error, warn};

use super::actor::Actor;
use super::inbox::Redelivery;
use super::keeper::decode_will;
use super::lanes::Lanes;
use super::outcome::{Answer, Outcome};
use super::own::OwnSession;
use super::round::{Staged, Target};
use super::shared::Claiming;
use crate::cluster::frame::{Kind, head};
use crate::cluster::{
    AppendFate, BackplaneError, ClaimError, Claimed, Epoch, Held, ReleaseEnd, ReplicaId, Reply,
    Request, SessionEntry, SessionFields, TakenWill, WillFate,
};
use crate::records::{PutOutcome, RecordBatch, RecordChange};
use crate::{Appended, Message, SessionId, StoreError};

/// The parts of [`Reply::Claimed`].
struct Granted {
    epoch: Epoch,
    session: Option<SessionId>,
    present: bool,
    previous: (ReplicaId, Epoch),
    fields: SessionFields,
    record: Option<Bytes>,
    old_will: Option<(Epoch, Bytes)>,
}

impl Granted {
    fn old_will(&self) -> Option<TakenWill> {
        let (epoch, body) = self.old_will.as_ref()?;
        let mut will = decode_will(*epoch, body)?;
        will.record.session = self.session;
        Some(will)
    }
}

impl Actor {
    pub(super) fn round_answered(&mut self, id: u64, answers: Vec<Answer>) {
        // A round of an earlier life of this replica has been told already.
        let Some(round) = self.commits.round(id) else {
            return;
        };
        let targets = std::mem::take(&mut round.targets);
        let mut batches = std::mem::take(&mut round.batches);
        for (target, answer) in targets.into_iter().zip(answers) {
            self.answered(&mut batches, target, answer);
        }
        if let Some(round) = self.commits.round(id) {
            round.batches = batches;
        }
        self.commits.answered(id);
    }

    pub(super) fn answered(&mut self, batches: &mut [Staged], target: Target, answer: Answer) {
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return self.refused(batches, target, &error),
        };
        match (target, reply) {
            (Target::Append { session, slots }, Reply::Appended { owner, seqs }) => {
                self.appended(batches, session, &slots, owner, &seqs);
            }
            (
                Target::Table {
                    bucket,
                    batches: concerned,
                },
                Reply::Version(version),
            ) => {
                for batch in each(batches, &concerned) {
                    batch.needs.tables.push((bucket, version));
                }
            }
            (
                Target::Records {
                    bucket,
                    records,
                    places,
                    batches: concerned,
                },
                Reply::RecordsPut { version, outcomes },
            ) => {
                self.tell_alone(&records, &places, &outcomes);
                for (place, outcome) in places.into_iter().zip(outcomes) {
                    records.set(place, outcome);
                }
                if version > 0 {
                    for batch in each(batches, &concerned) {
                        batch.needs.tables.push((bucket, version));
                    }
                }
            }
            (
                Target::Record {
                    session,
                    batches: concerned,
                    ..
                },
                Reply::Version(version),
            ) => {
                let bucket = crate::cluster::Bucket::of_session(session);
                for batch in each(batches, &concerned) {
                    batch.needs.tables.push((bucket, version));
                }
            }
            (
                Target::Routes {
                    version,
                    batches: concerned,
                },
                Reply::Version(_),
            ) => {
                for batch in each(batches, &concerned) {
                    batch.needs.routes = version.max(batch.needs.routes);
                }
            }
            (Target::Routes { .. }, Reply::Fenced) => {
                self.cut("its routes are gone: it was taken for dead");
                self.member.renew_now();
            }
            (Target::Record { session, epoch, .. }, Reply::Fenced) => {
                self.fenced(session, Some(epoch));
            }
            (Target::Settle { session, epoch, .. }, Reply::Fenced) => self.fenced(session, epoch),
            (
                Target::Inbox {
                    to,
                    shared,
                    batches: concerned,
                },
                Reply::Flag(false),
            ) => {
                self.inbox_sequences.remove(&to);
                self.redeliver(batches, &concerned, to, shared);
            }
            (Target::Tap(tapping), Reply::Appended { seqs, .. }) => {
                self.tapped(batches, &tapping, &seqs);
            }
            (Target::Claim(claiming), reply) => self.claim_answered(*claiming, reply),
            (
                Target::Batches(_)
                | Target::Release { .. }
                | Target::Settle { .. }
                | Target::Inbox { .. },
                _,
            ) => {}
            (target, reply) => {
                let error = BackplaneError::Nonsense {
                    request: "a change",
                    answer: format!("{reply:.60?}"),
                };
                self.refused(batches, target, &error);
            }
        }
    }

    /// A store that is alone hears no announcements.
    fn tell_alone(&self, records: &RecordBatch, places: &[usize], outcomes: &[PutOutcome]) {
        if self.events.is_some() {
            return;
        }
        for (place, outcome) in places.iter().zip(outcomes) {
            if let Some(put) = records.puts().get(*place)
                && let Some(revision) = outcome.revision().filter(|revision| *revision > 0)
            {
                self.shared.listeners.tell(RecordChange::Changed {
                    key: put.key.clone(),
                    revision,
                    hint: put.hint,
                });
            }
        }
    }

    /// Gives messages whose member was on a replica that is gone to other members. Their batches wait until that is durable.
    fn redeliver(
        &self,
        batches: &mut [Staged],
        concerned: &[u32],
        gone: ReplicaId,
        shared: Vec<(Arc<str>, Arc<Message>)>,
    ) {
        let Some(events) = self.events() else { return };
        let redelivery = Arc::new(Redelivery {
            shared: Arc::clone(&self.shared),
            replica: self.replica,
        });
        for batch in each(batches, concerned) {
            let redelivery = Arc::downgrade(&redelivery);
            batch.needs.redeliveries.push((gone, redelivery));
        }
        let held = Held::new(redelivery);
        for (share, message) in shared {
            events.redeliver(&share, message, held.clone());
        }
    }

    /// A change that Redis refuses for what it is: its batches fail, the others go on.
    fn refused(&self, batches: &mut [Staged], target: Target, error: &BackplaneError) {
        let error = match error {
            BackplaneError::Closed => StoreError::Closed,
            BackplaneError::Lost => StoreError::Cluster {
                reason: "it was given up".to_owned(),
            },
            other => {
                error!(error = %other, "a change was refused");
                StoreError::Cluster {
                    reason: other.to_string(),
                }
            }
        };
        let concerned = target.batches();
        for batch in each(batches, &concerned) {
            if batch.result.is_ok() {
                batch.result = Err(error.clone());
            }
        }
        if let Target::Claim(claiming) = target {
            self.shared.counters.claims_failed.add(1);
            let unavailable = ClaimError::Unavailable(error.to_string());
            claiming.answer.send(Err(unavailable)).ok();
        }
    }

    fn appended(
        &mut self,
        batches: &mut [Staged],
        session: SessionId,
        slots: &[(u32, u32)],
        owner: ReplicaId,
        fates: &[AppendFate],
    ) {
        let counters = &self.shared.counters;
        counters.appends.add(fates.len() as u64);
        let own = self.own.sessions.get_mut(&session);
        let here = owner == self.replica
            || owner == ReplicaId(0)
                && (self.events.is_none() || own.as_ref().is_some_and(|own| own.is_here()));
        let mut repeated = false;
        let mut tail = 0;
        // Taken only if another replica is to be woken.
        let mut lanes = None;
        for ((batch, place), fate) in slots.iter().zip(fates) {
            let Some(appended) = batches
                .get_mut(*batch as usize)
                .and_then(|batch| batch.appended.get_mut(*place as usize))
            else {
                continue;
            };
            appended.seq = match *fate {
                AppendFate::At(seq) => {
                    tail = seq + 1;
                    if here {
                        seq
                    } else {
                        if owner != ReplicaId(0) {
                            let lanes: &mut parking_lot::MutexGuard<'_, Lanes> =
                                lanes.get_or_insert_with(|| self.shared.lanes.lock());
                            appended.seq = seq;
                            lanes.queued(owner, appended);
                        }
                        Appended::ELSEWHERE
                    }
                }
                AppendFate::Repeated => {
                    counters.append_repeated.add(1);
                    repeated = true;
                    Appended::ELSEWHERE
                }
                AppendFate::Full => {
                    counters.queue_full.add(1);
                    Appended::DROPPED
                }
                AppendFate::Gone => Appended::DROPPED,
            };
        }
        drop(lanes);
        if let Some(own) = own {
            own.tail = own.tail.max(tail);
        }
        if repeated {
            self.ask(Request::GetSession { session }, move |answer| {
                Outcome::Grown(session, answer)
            });
        }
    }

    /// Where a queue ends now, after an append of which it is not known where it went.
    pub(super) fn grown(&mut self, session: SessionId, answer: Answer) {
        let Ok(Reply::Session(Some(fields))) = answer else {
            return;
        };
        if let Some(own) = self.own.sessions.get_mut(&session) {
            own.tail = own.tail.max(fields.tail);
        }
        if fields.owner == self.replica {
            if let Some(events) = self.events() {
                events.queue_grown(session, fields.tail);
            }
        } else if fields.owner != ReplicaId(0) {
            let mut lanes = self.shared.lanes.lock();
            lanes.grown(fields.owner, session, fields.tail);
        }
    }

    /// A write was refused because the session is another's, unless it has been claimed here since.
    fn fenced(&mut self, session: SessionId, epoch: Option<Epoch>) {
        self.shared.counters.fenced.add(1);
        let Some(own) = self.own.sessions.get(&session) else {
            return;
        };
        if own.fence() != epoch {
            return;
        }
        let here = own.is_here();
        let client_id = Arc::clone(&own.entry.client_id);
        let held = own.epoch;
        self.own.sessions.remove(&session);
        self.own.release(&client_id, held);
        if here && let Some(events) = self.events() {
            events.fenced(session);
        }
    }

    fn claim_answered(&mut self, claiming: Claiming, reply: Reply) {
        let Reply::Claimed {
            epoch,
            session,
            present,
            previous,
            fields,
            record,
            old_will,
        } = reply
        else {
            self.shared.counters.claims_failed.add(1);
            let unavailable = ClaimError::Unavailable(format!("Redis answered {reply:.60?}"));
            claiming.answer.send(Err(unavailable)).ok();
            return;
        };
        let granted = Granted {
            epoch,
            session,
            present,
            previous,
            fields,
            record,
            old_will,
        };
        self.granted(claiming, granted);
    }

    fn granted(&mut self, claiming: Claiming, granted: Granted) {
        self.shared.counters.claims.add(1);
        self.send_away(&claiming.request.client_id, granted.previous);
        if self.is_failing_over() {
            return self.claim_again(claiming, granted);
        }
        let Claiming {
            request,
            answer,
            carried,
        } = claiming;
        let client_id = Arc::clone(&request.client_id);
        let epoch = granted.epoch;
        let session = granted.session;
        self.own.claimed(&client_id, epoch, session);
        let entry = session.map(|id| entry_of(id, &client_id, granted.record.as_ref()));
        if let Some(entry) = &entry {
            let own = OwnSession {
                entry: Arc::clone(entry),
                epoch,
                unclaimed: false,
                left_at: None,
                tail: granted.fields.tail,
                released: None,
                made_in: 0,
            };
            self.own.sessions.insert(entry.id, own);
        }
        let old_will = granted.old_will();
        let claimed = Claimed {
            epoch,
            session,
            present: granted.present,
            subscriptions: entry.map_or_else(Vec::new, |entry| entry.subscriptions.clone()),
            queue_head: granted.fields.head,
            queue_tail: granted.fields.tail,
            queue_len: granted.fields.len,
            queue_bytes: granted.fields.bytes,
            inbound: granted.fields.inbound,
            old_will,
            took_over: carried.took_over || granted.previous.0 != ReplicaId(0),
        };
        let told = if self.shared.lease_runs() {
            answer.send(Ok(claimed)).is_ok()
        } else {
            let why = "this replica has lost its lease".to_owned();
            answer.send(Err(ClaimError::Unavailable(why))).ok();
            false
        };
        if !told {
            // Nobody waits for it any more: the session goes on without a connection.
            self.own.release(&client_id, epoch);
            let end = match request.expiry_interval {
                0 => ReleaseEnd::Ends,
                expiry_interval => ReleaseEnd::Waits { expiry_interval },
            };
            let release = Request::Release {
                client_id,
                epoch,
                end,
                will: WillFate::Dropped,
                head: head(Kind::Table, self.replica),
            };
            self.ask(release, |_| Outcome::Ignored);
        }
    }

    /// A claim that was answered before all replicas have written again what a failover has lost: what it
    /// says of the session may be too little. It is made again when they have.
    fn claim_again(&mut self, mut claiming: Claiming, granted: Granted) {
        claiming.carried.took_over |= granted.previous.0 != ReplicaId(0);
        // An old will stays stored and falls due, unless whoever had published it writes that again.
        let release = Request::Release {
            client_id: Arc::clone(&claiming.request.client_id),
            epoch: granted.epoch,
            // Whatever it asked for: the next claim finds the session.
            end: ReleaseEnd::Waits {
                expiry_interval: claiming.request.expiry_interval.max(60),
            },
            will: WillFate::Dropped,
            head: head(Kind::Table, self.replica),
        };
        self.ask(release, |_| Outcome::Ignored);
        self.shared.claim_again(claiming);
    }

    /// Whoever had the client id before lets go of it.
    fn send_away(&mut self, client_id: &Arc<str>, (replica, epoch): (ReplicaId, Epoch)) {
        if replica == self.replica {
            if let Some(events) = self.events() {
                events.let_go(client_id, epoch);
            }
        } else if replica != ReplicaId(0) {
            self.shared.lanes.lock().control(replica, |pack| {
                if let Err(error) = pack.let_go(client_id, epoch) {
                    warn!(%error, "a replica cannot be told to let go of a client");
                }
            });
        }
    }

    /// Whether anything may be acknowledged at this moment.
    pub(super) fn may_tell(&self) -> bool {
        if self.member.is_suspended() {
            return false;
        }
        // What follows from a lease that has ended is done when its deadline is looked at.
        self.shared.lease_runs()
    }
}

/// The session as its record says, or a new one.
fn entry_of(id: SessionId, client_id: &Arc<str>, record: Option<&Bytes>) -> Arc<SessionEntry> {
    let decoded = record.map(|record| SessionEntry::decode(id, record));
    Arc::new(match decoded {
        Some(Ok((entry, _))) => entry,
        Some(Err(error)) => {
            error!(session = id.0, %error, "the record of a session cannot be read");
            SessionEntry::new(id, Arc::clone(client_id))
        }
        None => SessionEntry::new(id, Arc::clone(client_id)),
    })
}

/// The batches with these numbers.
fn each<'a>(batches: &'a mut [Staged], numbers: &'a [u32]) -> impl Iterator<Item = &'a mut Staged> {
    // Numbers ascend, each is there once.
    batches
        .iter_mut()
        .enumerate()
        .filter_map(|(at, batch)| numbers.binary_search(&(at as u32)).is_ok().then_some(batch))
}
