//! The receivers of a topic, and how they come from the subscriptions that match it.

use std::sync::Arc;

use dunlin_protocol::QoS;
use dunlin_sync::cluster::ReplicaId;
use dunlin_sync::cluster::tap::Definition;
use dunlin_sync::publisher::client_of;

use super::{StoredSession, StoredSubscriber, Subscriber};
use crate::core::session::Wanted;
use crate::hub::session::{Session, Subscription};
use crate::hub::share::ShareGroup;

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
            Some(own) if publisher.map(client_of) == Some(&*self.session.client_id) => own.as_ref(),
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

    pub(super) fn weight(&self) -> usize {
        self.targets.len()
            + self.groups.len()
            + self.stored.len()
            + self.replicas.len()
            + self.taps.len()
    }
}

/// What matches a topic, while nothing of it can change.
#[derive(Default)]
pub(super) struct Found<'a> {
    pub(super) plain: Vec<&'a Subscriber>,
    pub(super) stored: Vec<&'a StoredSubscriber>,
    pub(super) replicas: Vec<(ReplicaId, u8)>,
    pub(super) taps: Vec<&'a Arc<Definition>>,
    pub(super) groups: Vec<&'a Arc<ShareGroup>>,
}

impl Found<'_> {
    /// Puts what was found into an order that does not depend on the topic.
    pub(super) fn sort(&mut self) {
        self.plain
            .sort_by_key(|subscriber| subscriber.session.number);
        self.stored.sort_by_key(|subscriber| subscriber.session.id);
        self.replicas.sort_unstable();
        self.taps
            .sort_unstable_by(|one, other| one.name.cmp(&other.name));
    }

    /// Appends what tells these receivers, and how they want a topic, from all others that are there now.
    pub(super) fn sign(&self, signature: &mut Vec<u64>) {
        signature.push(self.plain.len() as u64);
        for subscriber in &self.plain {
            signature.extend([subscriber.session.number, sign(&subscriber.subscription)]);
        }
        signature.push(self.stored.len() as u64);
        for subscriber in &self.stored {
            signature.extend([subscriber.session.id.0, sign(&subscriber.subscription)]);
        }
        signature.push(self.replicas.len() as u64);
        for (replica, flags) in &self.replicas {
            signature.extend([replica.0, u64::from(*flags)]);
        }
        // Whoever keeps the signature keeps the definitions: their addresses are not used again meanwhile.
        signature.push(self.taps.len() as u64);
        signature.extend(self.taps.iter().map(|tap| Arc::as_ptr(tap).addr() as u64));
        signature.extend(self.groups.iter().map(|group| group.number()));
    }

    pub(super) fn into_routes(self) -> Routes {
        Routes {
            targets: targets(&self.plain),
            groups: self.groups.into_iter().cloned().collect(),
            stored: stored_targets(&self.stored),
            replicas: self.replicas,
            taps: self.taps.into_iter().cloned().collect(),
        }
    }
}

/// All of a subscription that a delivery depends on.
fn sign(subscription: &Subscription) -> u64 {
    let options = &subscription.options;
    let identifier = subscription.identifier.map_or(0, |id| u64::from(id) + 1);
    identifier << 8
        | u64::from(options.retain_as_published) << 3
        | u64::from(options.no_local) << 2
        | options.qos as u64
}

/// One target for each session, in the order of their numbers.
fn targets(found: &[&Subscriber]) -> Vec<Target> {
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

fn stored_targets(found: &[&StoredSubscriber]) -> Vec<StoredTarget> {
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
