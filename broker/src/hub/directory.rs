//! Who wants what: the subscriptions of all sessions, and for a topic the list of its receivers.
//!
//! Matching takes a read lock, so its result is kept in a cache of the thread that asked, and is
//! good for as long as no subscription has changed (one counter). A publisher that stays with its
//! topics costs one hash and no lock. Topics with the same receivers share one list, so that publishes
//! to different topics in a row can make one run. After SUBACK the counter has risen, so no publish that is
//! accepted later misses the subscription.

mod cache;
mod routes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::hash::RandomState;
use dunlin_protocol::topic;
use dunlin_sync::SessionId;
use dunlin_sync::cluster::tap::Definition;
use dunlin_sync::cluster::{ReplicaId, Route};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::cache::Cache;
use self::routes::Found;
pub(crate) use self::routes::Routes;
use super::session::{Session, Subscription};
use super::share::{Member, MemberKey, ShareGroup};
use crate::core::topic_index::TopicIndex;

#[derive(Clone, Debug)]
struct Subscriber {
    session: Arc<Session>,
    subscription: Subscription,
}

/// A persistent session of the cluster, wherever its client is connected.
#[derive(Debug)]
pub(crate) struct StoredSession {
    pub(crate) id: SessionId,
    pub(crate) client_id: Arc<str>,
    /// The replica that its client is connected to, as far as that is known; 0: none.
    pub(crate) owner: AtomicU64,
}

#[derive(Clone, Debug)]
struct StoredSubscriber {
    session: Arc<StoredSession>,
    subscription: Subscription,
}

/// All subscriptions.
pub(crate) struct Directory {
    number: u64,
    generation: AtomicU64,
    plain: Index<u64, Subscriber>,
    /// Persistent sessions of the cluster.
    stored: Index<SessionId, StoredSubscriber>,
    /// What other replicas want.
    replicas: Index<ReplicaId, Route>,
    /// Taps, by number.
    taps: Index<u64, Arc<Definition>>,
    /// Shared groups under their filter without `$share/group/`, by the group's number.
    shared: Index<u64, Arc<ShareGroup>>,
    /// By `$share/group/filter`.
    groups: Mutex<HashMap<Arc<str>, Arc<ShareGroup>, RandomState>>,
    next_group: AtomicU64,
}

impl Directory {
    pub(crate) fn new() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            generation: AtomicU64::new(0),
            plain: Index::new(),
            stored: Index::new(),
            replicas: Index::new(),
            taps: Index::new(),
            shared: Index::new(),
            groups: Mutex::new(HashMap::default()),
            next_group: AtomicU64::new(0),
        }
    }

    /// Adds or replaces a subscription. `filter` has passed the grammar.
    pub(crate) fn subscribe(
        &self,
        session: &Arc<Session>,
        filter: &str,
        subscription: Subscription,
    ) {
        match topic::parse_shared(filter) {
            Ok(Some(shared)) => self.in_group(filter, shared.filter, |group| {
                group.join(Member::Here(session.clone(), subscription));
            }),
            _ => {
                let subscriber = Subscriber {
                    session: session.clone(),
                    subscription,
                };
                self.plain
                    .write()
                    .insert(filter, session.number, subscriber);
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes a subscription, if it is there.
    pub(crate) fn unsubscribe(&self, session: &Session, filter: &str) {
        match topic::parse_shared(filter) {
            Ok(Some(shared)) => self.in_group(filter, shared.filter, |group| {
                group.leave(&MemberKey::Here(session.number));
            }),
            _ => {
                self.plain.write().remove(filter, session.number);
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Changes a group, which is made if it is not there and removed if nobody is left.
    fn in_group(&self, share: &str, filter: &str, change: impl FnOnce(&ShareGroup)) {
        let mut groups = self.groups.lock();
        let known = groups.get(share).cloned();
        let group = known.clone().unwrap_or_else(|| {
            let number = self.next_group.fetch_add(1, Ordering::Relaxed);
            Arc::new(ShareGroup::new(number, Arc::from(share)))
        });
        change(&group);
        match (known.is_some(), group.is_empty()) {
            (false, false) => {
                groups.insert(group.share().clone(), group.clone());
                self.shared.write().insert(filter, group.number(), group);
            }
            (true, true) => {
                groups.remove(share);
                self.shared.write().remove(filter, group.number());
            }
            _ => {}
        }
    }

    /// Adds or replaces a subscription of a persistent session of the cluster.
    pub(crate) fn subscribe_stored(
        &self,
        session: &Arc<StoredSession>,
        filter: &str,
        subscription: Subscription,
    ) {
        match topic::parse_shared(filter) {
            Ok(Some(shared)) => self.in_group(filter, shared.filter, |group| {
                group.join(Member::Stored(session.clone(), subscription));
            }),
            _ => {
                let subscriber = StoredSubscriber {
                    session: session.clone(),
                    subscription,
                };
                self.stored.write().insert(filter, session.id, subscriber);
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Removes a subscription of a persistent session of the cluster.
    pub(crate) fn unsubscribe_stored(&self, session: SessionId, filter: &str) {
        match topic::parse_shared(filter) {
            Ok(Some(shared)) => self.in_group(filter, shared.filter, |group| {
                group.leave(&MemberKey::Stored(session));
            }),
            _ => {
                self.stored.write().remove(filter, session);
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Sets what another replica wants of a filter; an empty route: nothing.
    pub(crate) fn set_route(&self, replica: ReplicaId, filter: &str, route: Route) {
        match topic::parse_shared(filter) {
            Ok(Some(shared)) => self.in_group(filter, shared.filter, |group| {
                if route.members == 0 {
                    group.leave(&MemberKey::Replica(replica));
                } else {
                    group.join(Member::Replica(replica, route));
                }
            }),
            _ if route.is_empty() => {
                self.replicas.write().remove(filter, replica);
            }
            _ => {
                self.replicas.write().insert(filter, replica, route);
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Replaces a tap's definition by another one.
    pub(crate) fn set_tap(
        &self,
        number: u64,
        before: Option<&Definition>,
        after: Option<&Arc<Definition>>,
    ) {
        {
            let mut taps = self.taps.write();
            for filter in before.iter().flat_map(|tap| &tap.filters) {
                taps.remove(filter, number);
            }
            if let Some(tap) = after {
                for filter in &tap.filters {
                    taps.insert(filter, number, tap.clone());
                }
            }
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The group of `$share/group/filter`, while it has members.
    pub(crate) fn group(&self, share: &str) -> Option<Arc<ShareGroup>> {
        self.groups.lock().get(share).cloned()
    }

    /// Number of subscriptions, shared ones counted by group member.
    pub(crate) fn len(&self) -> usize {
        self.plain.read().map_or(0, |index| index.len())
            + self
                .groups
                .lock()
                .values()
                .map(|group| group.len())
                .sum::<usize>()
    }

    /// Number of shared groups.
    pub(crate) fn groups_len(&self) -> usize {
        self.groups.lock().len()
    }

    /// Who gets `topic`; from this thread's cache if nothing has changed since it was found.
    pub(crate) fn routes(&self, topic: &str) -> Rc<Routes> {
        let generation = self.generation.load(Ordering::Acquire);
        Cache::with(self.number, generation, |cache| {
            cache
                .get(topic)
                .unwrap_or_else(|| self.find(topic, |found| cache.keep(topic, found)))
        })
    }

    /// Hands what matches `topic` to `take`, under locks for reading.
    fn find<R>(&self, topic: &str, take: impl FnOnce(Found<'_>) -> R) -> R {
        let (plain, stored) = (self.plain.read(), self.stored.read());
        let (replicas, taps, shared) = (self.replicas.read(), self.taps.read(), self.shared.read());
        let mut found = Found::default();
        if let Some(index) = &plain {
            index.matches(topic, |_, subscriber| found.plain.push(subscriber));
        }
        if let Some(index) = &stored {
            index.matches(topic, |_, subscriber| found.stored.push(subscriber));
        }
        if let Some(index) = &replicas {
            let known = &mut found.replicas;
            index.matches(topic, |replica, route| {
                match known.iter_mut().find(|(same, _)| same == replica) {
                    Some((_, flags)) => *flags |= route.flags,
                    None => known.push((*replica, route.flags)),
                }
            });
        }
        if let Some(index) = &taps {
            let known = &mut found.taps;
            index.matches(topic, |_, tap| {
                if !known.iter().any(|same| Arc::ptr_eq(same, tap)) {
                    known.push(tap);
                }
            });
        }
        if let Some(index) = &shared {
            index.matches(topic, |_, group| found.groups.push(group));
        }
        take(found)
    }
}

/// An index that costs whoever looks something up nothing before something is put into it.
struct Index<K, V> {
    used: AtomicBool,
    index: RwLock<TopicIndex<K, V>>,
}

impl<K: Copy + Eq + Hash, V> Index<K, V> {
    fn new() -> Self {
        Self {
            used: AtomicBool::new(false),
            index: RwLock::new(TopicIndex::new()),
        }
    }

    /// `None`: it is empty. Whoever has seen the generation that follows a change sees the change.
    fn read(&self) -> Option<RwLockReadGuard<'_, TopicIndex<K, V>>> {
        self.used.load(Ordering::Acquire).then(|| self.index.read())
    }

    fn write(&self) -> RwLockWriteGuard<'_, TopicIndex<K, V>> {
        self.used.store(true, Ordering::Release);
        self.index.write()
    }
}
