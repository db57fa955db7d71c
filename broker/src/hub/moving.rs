//! Messages of QoS 2 that an absent member of a shared group was never sent go to another member, in a cluster.
//!
//! Two queues on two servers do not change in one step, and who moves a message may die or be cut off at any
//! time. So that it is neither lost nor with two members, the replica that has the session's claim does it before
//! it lets go of the client:
//!
//! 1. The session's record gets a word that says which messages go to which session. Whoever claims the session
//!    from then on finds it, and does what follows before its client is told of the connection.
//! 2. The messages are put into the other queue, under an identity of their own: a second time changes nothing.
//! 3. They are taken from the queue that they were in.
//! 4. The word is taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_protocol::QoS;
use dunlin_sync::{
    Appended, Committed, Delivery, Op, QueueEntry, QueueState, SessionId, StoreError,
    SubscriptionRecord,
};

use super::Hub;
use super::detach::{Departure, MOVE_PORTION};
use super::publish::Outcome;
use super::session::Session;
use super::share::{MemberKey, Picked};
use super::wake::Wake;
use crate::core::outbound::Tally;
use crate::core::session::Wanted;

/// What a word begins with: no client can subscribe to such a filter.
const WORD: &str = "#move/";
/// Messages that one word speaks of.
const AT_ONCE: usize = 64;

/// Whether this is a word of a move, and no filter.
pub(super) fn is_word(filter: &str) -> bool {
    filter.starts_with(WORD)
}

fn word(to: SessionId, seqs: impl Iterator<Item = u64>) -> Box<str> {
    let seqs: Vec<String> = seqs.map(|seq| seq.to_string()).collect();
    format!("{WORD}{}/{}", to.0, seqs.join(",")).into_boxed_str()
}

fn parse_word(word: &str) -> Option<(SessionId, Vec<u64>)> {
    let (to, seqs) = word.strip_prefix(WORD)?.split_once('/')?;
    let seqs = seqs.split(',').map(str::parse).collect::<Result<_, _>>();
    Some((SessionId(to.parse().ok()?), seqs.ok()?))
}

/// Who publishes a message that is moved, as the queue that it comes to sees it: neither a session nor a will.
fn identity(session: SessionId, seq: u64) -> u64 {
    let mut mixed = session.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in [seq, session.0] {
        mixed = (mixed ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^= mixed >> 31;
    }
    1 << 62 | mixed >> 2
}

/// A message on its way, and how the other member wants it.
struct Moving {
    entry: QueueEntry,
    delivery: Delivery,
}

impl Hub {
    /// Whether messages may have to be moved before the client is let go of.
    pub(super) fn has_to_move(
        &self,
        session: &Session,
        wake: &Wake,
        departure: &Departure,
    ) -> bool {
        if session.store_id.is_none()
            || departure.claimed_elsewhere
            || wake.close_request().is_some()
            || self.known.is_suspended()
        {
            return false;
        }
        let state = session.lock();
        let (from, tail) = state.delivering.outbound.unsent_range();
        from < tail
            && state.subscriptions.iter().any(|(filter, subscription)| {
                filter.starts_with("$share/") && subscription.options.qos == QoS::ExactlyOnce
            })
    }

    /// Moves what the client was never sent. Stops when the client is back, here or elsewhere.
    pub(super) async fn move_unsent(self: &Arc<Self>, session: &Arc<Session>, wake: &Wake) {
        let Some(id) = session.store_id else { return };
        let (mut from, tail) = session.lock().delivering.outbound.unsent_range();
        while from < tail {
            let most = self.limits.max_packet_size as usize;
            let Ok(entries) = self.store.read_queue(id, from, MOVE_PORTION, most).await else {
                return;
            };
            let Some(last) = entries.last() else { return };
            from = last.seq + 1;
            let mut queues: BTreeMap<SessionId, Vec<Moving>> = BTreeMap::new();
            for entry in entries {
                if wake.close_request().is_some() {
                    return;
                }
                if entry.delivery.qos != QoS::ExactlyOnce {
                    continue;
                }
                match self.to_whom(session, id, &entry) {
                    Some(Picked::Stored(to, wanted)) if wanted.qos > QoS::AtMostOnce => {
                        let queue = queues.entry(to.id).or_default();
                        queue.extend(moving(entry, &wanted));
                    }
                    Some(picked) if !self.hand_on(id, &picked, &entry).await => return,
                    _ => {}
                }
            }
            for (to, all) in queues {
                for some in all.chunks(AT_ONCE) {
                    if !self.announce_and_move(id, wake, to, some).await {
                        return;
                    }
                }
            }
        }
    }

    fn to_whom(&self, session: &Session, id: SessionId, entry: &QueueEntry) -> Option<Picked> {
        if !session.lock().delivering.outbound.may_move(entry) {
            return None;
        }
        let group = self.directory.group(entry.delivery.share.as_ref()?)?;
        let message = entry.message.as_ref()?;
        self.pick_other(&group, MemberKey::Stored(id), true, message)
    }

    /// To a member that has no queue: it cannot be told whether it had the message before, so that at worst, if this
    /// replica dies meanwhile, both get it.
    async fn hand_on(self: &Arc<Self>, from: SessionId, to: &Picked, entry: &QueueEntry) -> bool {
        let (Some(message), Some(share)) = (&entry.message, &entry.delivery.share) else {
            return true;
        };
        let mut outcome = Outcome::default();
        self.pass_on(to, share, message, None, &mut outcome);
        self.count(outcome.tally);
        let done = Op::Dequeue {
            session: from,
            seq: entry.seq,
        };
        (outcome.ops.is_empty() || self.submit_and_wait(outcome.ops, false).await)
            && self.submit_and_wait(vec![done], false).await
    }

    async fn announce_and_move(
        self: &Arc<Self>,
        from: SessionId,
        wake: &Wake,
        to: SessionId,
        moving: &[Moving],
    ) -> bool {
        if wake.close_request().is_some() {
            return false;
        }
        let word = word(to, moving.iter().map(|moving| moving.entry.seq));
        let record = SubscriptionRecord {
            filter: word.clone(),
            options: 0,
            identifier: None,
        };
        let record = vec![Op::PutSubscription(from, record)];
        // The client may have been claimed elsewhere before the word was there. If it was after, who has claimed it
        // has found the word.
        self.submit_and_wait(record, false).await
            && wake.close_request().is_none()
            && self.announced_move(from, word, to, moving).await
    }

    /// What follows the word.
    async fn announced_move(
        self: &Arc<Self>,
        from: SessionId,
        word: Box<str>,
        to: SessionId,
        moving: &[Moving],
    ) -> bool {
        let mut ops = Vec::new();
        let mut seqs = Vec::new();
        for Moving { entry, delivery } in moving {
            let Some(message) = &entry.message else {
                continue;
            };
            seqs.push(entry.seq);
            ops.push(Op::Enqueue {
                session: to,
                delivery: delivery.clone(),
                message: message.clone(),
                once: Some((identity(from, entry.seq), 1)),
            });
        }
        let Some(appended) = self.submit_and_hear(ops).await else {
            return false;
        };
        // What the other queue has no room for stays.
        let taken = seqs.iter().zip(appended).filter(|(_, taken)| *taken);
        let done: Vec<Op> = taken
            .map(|(seq, _)| Op::Dequeue {
                session: from,
                seq: *seq,
            })
            .collect();
        if !done.is_empty() && !self.submit_and_wait(done, false).await {
            return false;
        }
        self.submit(vec![Op::DeleteSubscription(from, word)]);
        true
    }

    /// The session was claimed: finishes what its last owner was about to move. `false`: it cannot be done now.
    pub(super) async fn finish_moves(
        self: &Arc<Self>,
        id: SessionId,
        words: Vec<Box<str>>,
    ) -> bool {
        for word in words {
            let Some((to, seqs)) = parse_word(&word) else {
                self.submit(vec![Op::DeleteSubscription(id, word)]);
                continue;
            };
            let mut all = Vec::new();
            for seq in seqs {
                let most = self.limits.max_packet_size as usize;
                let Ok(entries) = self.store.read_queue(id, seq, 1, most).await else {
                    return false;
                };
                let there = entries
                    .into_iter()
                    .find(|entry| entry.seq == seq && entry.state == QueueState::Queued);
                let Some(entry) = there else { continue };
                let share = entry.delivery.share.as_deref();
                let wanted = share.and_then(|share| self.wanted_by_stored(to, share));
                // If the other member has gone, the message stays.
                all.extend(wanted.and_then(|wanted| moving(entry, &wanted)));
            }
            if !self.announced_move(id, word, to, &all).await {
                return false;
            }
        }
        true
    }

    /// Appends to queues, and hears of each whether it is there now.
    async fn submit_and_hear(self: &Arc<Self>, ops: Vec<Op>) -> Option<Vec<bool>> {
        if ops.is_empty() {
            return Some(Vec::new());
        }
        let (done, told) = tokio::sync::oneshot::channel();
        let heard = Heard {
            hub: self.clone(),
            done,
        };
        let _ticket = self
            .store
            .submit(dunlin_sync::Batch::with_callback(ops, Box::new(heard)));
        told.await.ok()
    }
}

fn moving(entry: QueueEntry, wanted: &Wanted) -> Option<Moving> {
    let message = entry.message.as_ref()?;
    let delivery = wanted.delivery(message.qos(), message.retain());
    Some(Moving { entry, delivery })
}

/// Tells a task what became of appends; those to sessions that are connected here are delivered.
struct Heard {
    hub: Arc<Hub>,
    done: tokio::sync::oneshot::Sender<Vec<bool>>,
}

impl Committed for Heard {
    fn committed(self: Box<Self>, appended: Vec<Appended>) {
        let there = |appended: &Appended| appended.seq != Appended::DROPPED;
        let fates = appended.iter().map(there).collect();
        let mut tally = Tally::default();
        for appended in appended {
            if !appended.is_dropped() {
                self.hub.appended(appended, &mut tally);
            }
        }
        self.hub.count(tally);
        let _nobody_waits = self.done.send(fates).is_err();
    }

    fn failed(self: Box<Self>, _error: &StoreError) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written_and_is_no_filter() {
        let text = word(SessionId(7), [3, 4, 9].into_iter());
        assert_eq!(&*text, "#move/7/3,4,9");
        assert!(is_word(&text) && !is_word("move/7/3"));
        assert_eq!(parse_word(&text), Some((SessionId(7), vec![3, 4, 9])));
        assert!(dunlin_protocol::topic::check_filter(&text).is_err());
        for damaged in ["#move/", "#move/7", "#move/7/", "#move/x/1", "#move/7/1,,2"] {
            assert_eq!(parse_word(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn identities_of_moved_messages_are_no_sessions_and_no_wills() {
        let some = (0..1000).flat_map(|session| (0..50).map(move |seq| (session, seq)));
        let all: std::collections::BTreeSet<u64> = some
            .map(|(session, seq)| identity(SessionId(session), seq))
            .collect();
        assert_eq!(all.len(), 50_000);
        assert!(all.iter().all(|identity| identity >> 62 == 1));
    }
}
