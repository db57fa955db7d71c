//! Shared subscriptions: each message goes to one member of the group, in the whole cluster.
//!
//! Members take turns: sessions here one turn each, another replica as many as it has members. A
//! member that is connected and can be sent to at once comes first, then one that is connected, then
//! a stored session without a connection, so that a slow or absent member does not hold up what
//! another could handle. If the session of a member ends (or a stored one loses its connection), what
//! it has not acknowledged goes to another member.
//!
//! In a cluster a member whose session ends with its connection gets a message by way of its replica's
//! inbox in Redis, also from a publisher beside it, and the message stays there until the member has
//! acknowledged it: if the replica dies, whoever clears away after it gives the message to another
//! member. While no other member could be left it is not worth the detour.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin_protocol::QoS;
use dunlin_sync::SessionId;
use dunlin_sync::cluster::{ReplicaId, Route};
use parking_lot::Mutex;

use super::directory::StoredSession;
use super::session::{Session, Subscription};
use crate::core::session::Wanted;

/// A member of a group.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    /// A session of this broker.
    Here(Arc<Session>, Subscription),
    /// A persistent session of the cluster, connected here, elsewhere or not at all.
    Stored(Arc<StoredSession>, Subscription),
    /// Sessions that are connected to another replica and end with their connection.
    Replica(ReplicaId, Route),
}

/// Which member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberKey {
    /// By its number in this process.
    Here(u64),
    Stored(SessionId),
    Replica(ReplicaId),
}

impl Member {
    fn key(&self) -> MemberKey {
        match self {
            Self::Here(session, _) => MemberKey::Here(session.number),
            Self::Stored(session, _) => MemberKey::Stored(session.id),
            Self::Replica(replica, _) => MemberKey::Replica(*replica),
        }
    }

    /// Lives on if this replica dies.
    fn survives(&self) -> bool {
        !matches!(self, Self::Here(..))
    }

    fn weight(&self) -> usize {
        match self {
            Self::Replica(_, route) => usize::from(route.members).max(1),
            _ => 1,
        }
    }
}

/// Who gets a message.
#[derive(Clone, Debug)]
pub(crate) enum Picked {
    Here {
        session: Arc<Session>,
        wanted: Wanted,
        /// There are members that live on if this replica dies.
        survived: bool,
    },
    /// Through its queue, or at QoS 0 where it is connected.
    Stored(Arc<StoredSession>, Wanted),
    /// One of that replica's members.
    Replica(ReplicaId),
}

/// Among whom is picked.
pub(crate) struct Pick<'a> {
    /// Not this one.
    pub(crate) without: Option<MemberKey>,
    /// Nobody but members whose client is there.
    pub(crate) connected_only: bool,
    /// Nobody but sessions of this broker that are connected.
    pub(crate) here_only: bool,
    /// QoS of the message.
    pub(crate) qos: QoS,
    /// The session here that belongs to a persistent session of the cluster.
    pub(crate) stored_here: &'a dyn Fn(SessionId) -> Option<Arc<Session>>,
}

/// A shared subscription with its members.
#[derive(Debug)]
pub(crate) struct ShareGroup {
    number: u64,
    share: Arc<str>,
    members: Mutex<Vec<Member>>,
    /// Members that live on if this replica dies.
    surviving: AtomicUsize,
    turn: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    Absent,
    Connected,
    Clear,
}

impl ShareGroup {
    pub(crate) fn new(number: u64, share: Arc<str>) -> Self {
        Self {
            number,
            share,
            members: Mutex::new(Vec::new()),
            surviving: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// `$share/group/filter`.
    pub(crate) fn share(&self) -> &Arc<str> {
        &self.share
    }

    pub(crate) fn len(&self) -> usize {
        self.members.lock().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.lock().is_empty()
    }

    /// Adds a member or changes its options.
    pub(crate) fn join(&self, member: Member) {
        let mut members = self.members.lock();
        let key = member.key();
        match members.iter_mut().find(|old| old.key() == key) {
            Some(old) => *old = member,
            None => members.push(member),
        }
        self.count(&members);
    }

    fn count(&self, members: &[Member]) {
        let surviving = members.iter().filter(|member| member.survives()).count();
        self.surviving.store(surviving, Ordering::Relaxed);
    }

    /// Removes a member.
    pub(crate) fn leave(&self, key: &MemberKey) {
        let mut members = self.members.lock();
        members.retain(|member| member.key() != *key);
        self.count(&members);
    }

    /// The member whose turn it is, and how it wants the message.
    pub(crate) fn pick(&self, pick: &Pick<'_>) -> Option<Picked> {
        let members = self.members.lock();
        let count = members.len();
        let weights: usize = members.iter().map(Member::weight).sum();
        let first = self.first(&members, weights)?;
        let mut best: Option<(Fitness, &Member)> = None;
        for step in 0..count {
            let Some(member) = members.get((first + step) % count) else {
                continue;
            };
            if Some(member.key()) == pick.without {
                continue;
            }
            let Some(fitness) = fitness(member, pick) else {
                continue;
            };
            if pick.connected_only && fitness == Fitness::Absent {
                continue;
            }
            if fitness == Fitness::Clear {
                return Some(self.chosen(member));
            }
            if best.is_none_or(|(other, _)| fitness > other) {
                best = Some((fitness, member));
            }
        }
        best.map(|(_, member)| self.chosen(member))
    }

    /// Index of the member whose turn it is.
    fn first(&self, members: &[Member], weights: usize) -> Option<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut place = turn.checked_rem(weights)?;
        members.iter().position(|member| {
            let weight = member.weight();
            let here = place < weight;
            place = place.saturating_sub(weight);
            here
        })
    }

    fn chosen(&self, member: &Member) -> Picked {
        match member {
            Member::Here(session, subscription) => Picked::Here {
                session: session.clone(),
                wanted: self.wanted(*subscription),
                survived: self.surviving.load(Ordering::Relaxed) > 0,
            },
            Member::Stored(session, subscription) => {
                Picked::Stored(session.clone(), self.wanted(*subscription))
            }
            Member::Replica(replica, _) => Picked::Replica(*replica),
        }
    }

    /// How a member with this subscription wants its messages.
    pub(super) fn wanted(&self, subscription: Subscription) -> Wanted {
        Wanted {
            qos: subscription.options.qos,
            retain_as_published: subscription.options.retain_as_published,
            subscription_ids: subscription.identifier.into_iter().collect(),
            share: Some(self.share.clone()),
        }
    }
}

/// `None`: the member can take nothing.
fn fitness(member: &Member, pick: &Pick<'_>) -> Option<Fitness> {
    match member {
        Member::Here(session, _) => fitness_here(session, pick.here_only),
        Member::Replica(_, route) if !pick.here_only => {
            Some(match route.flags & Route::BUSY == 0 {
                true => Fitness::Clear,
                false => Fitness::Connected,
            })
        }
        Member::Replica(..) => None,
        Member::Stored(session, subscription) => {
            let at_most_once = pick.qos.min(subscription.options.qos) == QoS::AtMostOnce;
            match (pick.stored_here)(session.id) {
                Some(here) => fitness_here(&here, true).or(match at_most_once {
                    true => None,
                    false => Some(Fitness::Absent),
                }),
                None if pick.here_only => None,
                None if session.owner.load(Ordering::Relaxed) != 0 => Some(Fitness::Clear),
                None if at_most_once => None,
                None => Some(Fitness::Absent),
            }
        }
    }
}

fn fitness_here(session: &Session, connected_only: bool) -> Option<Fitness> {
    let state = session.lock();
    if state.ended {
        return None;
    }
    match &state.delivering.link {
        Some(link) if link.has_room(1) && state.delivering.outbound.is_clear() => {
            Some(Fitness::Clear)
        }
        Some(_) => Some(Fitness::Connected),
        None if connected_only => None,
        None => session.store_id.map(|_| Fitness::Absent),
    }
}
