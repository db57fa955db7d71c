//! Shared subscriptions: each message goes to one member of the group.
//!
//! Members take turns. A member that is connected and can be sent to at once comes first, then one
//! that is connected, then a stored session without a connection, so that a slow or absent member
//! does not hold up what another could handle. If the session of a member ends (or a stored one
//! loses its connection), what it has not acknowledged goes to another member.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::session::{Session, Subscription};
use crate::core::session::Wanted;

/// A member of a group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) session: Arc<Session>,
    pub(crate) subscription: Subscription,
}

/// A shared subscription with its members.
#[derive(Debug)]
pub(crate) struct ShareGroup {
    number: u64,
    share: Arc<str>,
    members: Mutex<Vec<Member>>,
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

    /// Adds a member or changes its options.
    pub(crate) fn join(&self, member: Member) {
        let mut members = self.members.lock();
        match members
            .iter_mut()
            .find(|old| old.session.number == member.session.number)
        {
            Some(old) => *old = member,
            None => members.push(member),
        }
    }

    /// Removes a member; `true` if nobody is left.
    pub(crate) fn leave(&self, session: u64) -> bool {
        let mut members = self.members.lock();
        members.retain(|member| member.session.number != session);
        members.is_empty()
    }

    /// The member whose turn it is, and how it wants the message. `connected_only`: nobody but
    /// `without` being absent would be no gain.
    pub(crate) fn pick(
        &self,
        without: Option<u64>,
        connected_only: bool,
    ) -> Option<(Arc<Session>, Wanted)> {
        let members = self.members.lock();
        let count = members.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<(Fitness, &Member)> = None;
        for step in 0..count {
            let Some(member) = members.get((turn + step) % count) else {
                continue;
            };
            if Some(member.session.number) == without {
                continue;
            }
            let Some(fitness) = fitness(&member.session) else {
                continue;
            };
            if connected_only && fitness == Fitness::Absent {
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

    fn chosen(&self, member: &Member) -> (Arc<Session>, Wanted) {
        let options = member.subscription.options;
        let wanted = Wanted {
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            subscription_ids: member.subscription.identifier.into_iter().collect(),
            share: Some(self.share.clone()),
        };
        (member.session.clone(), wanted)
    }
}

/// `None`: the session can take nothing.
fn fitness(session: &Session) -> Option<Fitness> {
    let state = session.lock();
    if state.ended {
        return None;
    }
    match &state.delivering.link {
        Some(link) if link.has_room(1) && state.delivering.outbound.is_clear() => {
            Some(Fitness::Clear)
        }
        Some(_) => Some(Fitness::Connected),
        None => session.store_id.map(|_| Fitness::Absent),
    }
}
