//! Who wants what: the subscriptions of all sessions, and for a topic the list of its receivers.
//!
//! Matching takes a read lock, so its result is kept in a cache of the thread that asked, and is
//! good for as long as no subscription has changed (one counter). A publisher that stays with its
//! topics costs one hash and no lock. After SUBACK the counter has risen, so no publish that is
//! accepted later misses the subscription.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hash::RandomState;
use dunlin_protocol::{QoS, topic};
use dunlin_sync::SessionId;
use dunlin_sync::cluster::tap::Definition;
use dunlin_sync::cluster::{ReplicaId, Route};
use parking_lot::{Mutex, RwLock};

use super::session::{Session, Subscription};
use super::share::{Member, MemberKey, ShareGroup};
use crate::core::session::Wanted;
use crate::core::topic_index::TopicIndex;

/// Topics whose receivers a thread remembers.
const CACHED_TOPICS: usize = 4096;
/// Topics longer than this are not remembered, so that the cache's memory is bounded.
const CACHED_TOPIC_LEN: usize = 256;
/// Receivers that a thread remembers over all its topics: 64 bytes each.
const CACHED_TARGETS: usize = 1 << 18;

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

/// A persistent session of the cluster that gets a topic through its queue.
#[derive(Debug)]
pub(crate) struct StoredTarget {
    pub(crate) session: Arc<StoredSession>,
    wanted: Wanted,
    own: Option<Option<Wanted>>,
}

impl StoredTarget {
    /// How the session wants what the client `publisher` publishes; `None`: not at all.
    pub(crate) fn wanted_from(&self, publisher: Option<&str>) -> Option<&Wanted> {
        match &self.own {
            Some(own) if publisher == Some(&*self.session.client_id) => own.as_ref(),
            _ => Some(&self.wanted),
        }
    }
}

/// A session that gets a topic, with its matching subscriptions merged.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) session: Arc<Session>,
    /// For publishes of others.
    wanted: Wanted,
    /// For its own, where that differs: without the no-local ones. [MQTT-3.8.3-3]
    own: Option<Option<Wanted>>,
}

impl Target {
    /// How the session wants what `publisher` publishes; `None`: not at all.
    pub(crate) fn wanted_from(&self, publisher: u64) -> Option<&Wanted> {
        match &self.own {
            Some(own) if self.session.number == publisher => own.as_ref(),
            _ => Some(&self.wanted),
        }
    }
}

/// The receivers of a topic.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) targets: Vec<Target>,
    pub(crate) groups: Vec<Arc<ShareGroup>>,
    /// Of the cluster: persistent sessions, through their queues.
    pub(crate) stored: Vec<StoredTarget>,
    /// Of the cluster: other replicas, and what their connected sessions want.
    pub(crate) replicas: Vec<(ReplicaId, u8)>,
    /// Of the cluster.
    pub(crate) taps: Vec<Arc<Definition>>,
}

impl Routes {
    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
            && self.groups.is_empty()
            && self.stored.is_empty()
            && self.replicas.is_empty()
            && self.taps.is_empty()
    }

    fn weight(&self) -> usize {
        self.targets.len() + self.stored.len() + self.replicas.len() + self.taps.len()
    }
}

struct Cache {
    directory: u64,
    generation: u64,
    by_topic: HashMap<Box<str>, Rc<Routes>, RandomState>,
    targets: usize,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache { directory: u64::MAX, generation: 0, by_topic: HashMap::default(), targets: 0 });
}

/// All subscriptions.
pub(crate) struct Directory {
    number: u64,
    generation: AtomicU64,
    plain: RwLock<TopicIndex<u64, Subscriber>>,
    /// Persistent sessions of the cluster.
    stored: RwLock<TopicIndex<SessionId, StoredSubscriber>>,
    /// What other replicas want.
    replicas: RwLock<TopicIndex<ReplicaId, Route>>,
    /// Taps, by number.
    taps: RwLock<TopicIndex<u64, Arc<Definition>>>,
    /// Shared groups under their filter without `$share/group/`, by the group's number.
    shared: RwLock<TopicIndex<u64, Arc<ShareGroup>>>,
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
            plain: RwLock::new(TopicIndex::new()),
            stored: RwLock::new(TopicIndex::new()),
            replicas: RwLock::new(TopicIndex::new()),
            taps: RwLock::new(TopicIndex::new()),
            shared: RwLock::new(TopicIndex::new()),
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
        self.plain.read().len()
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
        CACHE.with_borrow_mut(|cache| {
            let generation = self.generation.load(Ordering::Acquire);
            if cache.directory != self.number || cache.generation != generation {
                cache.directory = self.number;
                cache.generation = generation;
                cache.by_topic.clear();
                cache.targets = 0;
            }
            if let Some(routes) = cache.by_topic.get(topic) {
                return routes.clone();
            }
            let routes = Rc::new(self.find(topic));
            if topic.len() <= CACHED_TOPIC_LEN && routes.weight() <= CACHED_TARGETS {
                if cache.by_topic.len() >= CACHED_TOPICS
                    || cache.targets + routes.weight() > CACHED_TARGETS
                {
                    cache.by_topic.clear();
                    cache.targets = 0;
                }
                cache.targets += routes.weight();
                cache.by_topic.insert(Box::from(topic), routes.clone());
            }
            routes
        })
    }

    fn find(&self, topic: &str) -> Routes {
        let mut found: Vec<Subscriber> = Vec::new();
        {
            let index = self.plain.read();
            if !index.is_empty() {
                index.matches(topic, |_, subscriber| found.push(subscriber.clone()));
            }
        }
        let mut stored: Vec<StoredSubscriber> = Vec::new();
        {
            let index = self.stored.read();
            if !index.is_empty() {
                index.matches(topic, |_, subscriber| stored.push(subscriber.clone()));
            }
        }
        let mut replicas: Vec<(ReplicaId, u8)> = Vec::new();
        {
            let index = self.replicas.read();
            if !index.is_empty() {
                index.matches(topic, |replica, route| {
                    match replicas.iter_mut().find(|(known, _)| known == replica) {
                        Some((_, flags)) => *flags |= route.flags,
                        None => replicas.push((*replica, route.flags)),
                    }
                });
            }
        }
        let mut taps: Vec<Arc<Definition>> = Vec::new();
        {
            let index = self.taps.read();
            if !index.is_empty() {
                index.matches(topic, |_, tap| {
                    if !taps.iter().any(|known| Arc::ptr_eq(known, tap)) {
                        taps.push(tap.clone());
                    }
                });
            }
        }
        taps.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut groups = Vec::new();
        {
            let index = self.shared.read();
            if !index.is_empty() {
                index.matches(topic, |_, group| groups.push(group.clone()));
            }
        }
        replicas.sort_unstable();
        Routes {
            targets: targets(found),
            groups,
            stored: stored_targets(stored),
            replicas,
            taps,
        }
    }
}

/// One target for each session, in the order of their numbers.
fn targets(mut found: Vec<Subscriber>) -> Vec<Target> {
    found.sort_by_key(|subscriber| subscriber.session.number);
    let mut targets: Vec<Target> = Vec::with_capacity(found.len());
    for same in found.chunk_by(|a, b| a.session.number == b.session.number) {
        let Some(first) = same.first() else { continue };
        let subscriptions = same.iter().map(|subscriber| &subscriber.subscription);
        let Some((wanted, own)) = merged_both(subscriptions) else {
            continue;
        };
        targets.push(Target {
            session: first.session.clone(),
            wanted,
            own,
        });
    }
    targets
}

fn stored_targets(mut found: Vec<StoredSubscriber>) -> Vec<StoredTarget> {
    found.sort_by_key(|subscriber| subscriber.session.id);
    let mut targets: Vec<StoredTarget> = Vec::with_capacity(found.len());
    for same in found.chunk_by(|a, b| a.session.id == b.session.id) {
        let Some(first) = same.first() else { continue };
        let subscriptions = same.iter().map(|subscriber| &subscriber.subscription);
        let Some((wanted, own)) = merged_both(subscriptions) else {
            continue;
        };
        // What is granted QoS 0 goes to the connection only.
        if wanted.qos > QoS::AtMostOnce {
            targets.push(StoredTarget {
                session: first.session.clone(),
                wanted,
                own,
            });
        }
    }
    targets
}

/// For publishes of others, and for the session's own where that differs.
fn merged_both<'s>(
    subscriptions: impl Iterator<Item = &'s Subscription> + Clone,
) -> Option<(Wanted, Option<Option<Wanted>>)> {
    let wanted = merged(subscriptions.clone())?;
    let no_local = subscriptions
        .clone()
        .any(|subscription| subscription.options.no_local);
    let own = no_local
        .then(|| merged(subscriptions.filter(|subscription| !subscription.options.no_local)));
    Some((wanted, own))
}

fn merged<'s>(subscriptions: impl Iterator<Item = &'s Subscription>) -> Option<Wanted> {
    let mut wanted: Option<Wanted> = None;
    let mut ids = Vec::new();
    for subscription in subscriptions {
        let so_far = wanted.get_or_insert(Wanted {
            qos: QoS::AtMostOnce,
            retain_as_published: false,
            subscription_ids: Box::default(),
            share: None,
        });
        so_far.qos = so_far.qos.max(subscription.options.qos);
        so_far.retain_as_published |= subscription.options.retain_as_published;
        ids.extend(subscription.identifier);
    }
    if let Some(wanted) = &mut wanted {
        wanted.subscription_ids = ids.into_boxed_slice();
    }
    wanted
}
