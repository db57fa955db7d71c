//! SUBSCRIBE and UNSUBSCRIBE of one filter.

use std::sync::Arc;

use dunlin_protocol::{ReasonCode, RetainHandling, topic};
use dunlin_sync::{Op, SubscriptionRecord};

use super::Hub;
use super::cluster::routes::Interest;
use super::session::{Session, SessionState, Subscription};
use crate::core::mount;

/// Whether a filter has wildcards, also behind a mount point or in a shared subscription: neither can have any itself.
pub(crate) fn is_wild(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

impl Hub {
    /// Whether clients may use wildcards.
    pub(crate) fn offers_wildcards(&self) -> bool {
        self.features.wildcard_subscriptions
            && self.live.load().max_wildcard_subscriptions_per_client > 0
    }

    /// Adds or replaces a subscription that is authorised. Gives back the reason code for SUBACK, and
    /// whether retained messages are to be sent ([`Self::queue_retained`]); `ops` is to be durable, and
    /// known to every replica, before either.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        session: &Arc<Session>,
        filter: &str,
        subscription: Subscription,
        ops: &mut Vec<Op>,
    ) -> (ReasonCode, bool) {
        let levels = mount::own_filter(filter).split('/').count();
        if levels > usize::from(self.limits.max_topic_levels) {
            return (ReasonCode::TOPIC_FILTER_INVALID, false);
        }
        let shared = matches!(topic::parse_shared(filter), Ok(Some(_)));
        let before = {
            let mut state = session.lock();
            if !state.subscriptions.contains_key(filter) && !self.has_room(&state, filter) {
                return (ReasonCode::QUOTA_EXCEEDED, false);
            }
            state.subscriptions.insert(Box::from(filter), subscription)
        };
        let fresh = before.is_none();
        if shared && fresh && !self.group_has_place(filter) {
            session.lock().subscriptions.remove(filter);
            return (ReasonCode::QUOTA_EXCEEDED, false);
        }
        self.subscribe_here(session, filter, before, subscription, ops);
        if let Some(store_id) = session.store_id {
            let record = SubscriptionRecord {
                filter: Box::from(filter),
                options: subscription.options.to_byte(),
                identifier: subscription.identifier,
            };
            ops.push(Op::PutSubscription(store_id, record));
        }
        // [MQTT-3.3.1-9] to [MQTT-3.3.1-11]
        let retained = match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => fresh,
            RetainHandling::DoNotSend => false,
        };
        let reason = ReasonCode(subscription.options.qos as u8);
        (reason, retained && !shared)
    }

    /// Registers a subscription of a connected session, and tells the other replicas that there is
    /// interest in the filter here, if that is new.
    pub(super) fn subscribe_here(
        &self,
        session: &Arc<Session>,
        filter: &str,
        before: Option<Subscription>,
        subscription: Subscription,
        ops: &mut Vec<Op>,
    ) {
        let shared = filter.starts_with("$share/");
        let in_cluster = self.cluster.is_some();
        // A persistent session of a cluster is a member by its record, wherever it is.
        if !(in_cluster && shared && session.store_id.is_some()) {
            self.directory.subscribe(session, filter, subscription);
        }
        if in_cluster {
            let interest = |subscription: Subscription| Interest {
                qos: subscription.options.qos,
                stored: session.store_id.is_some(),
                shared,
            };
            let now = interest(subscription);
            if before.map(interest) != Some(now) {
                ops.extend(self.known.routes.add(filter, now));
                if let Some(before) = before {
                    ops.extend(self.known.routes.remove(filter, interest(before)));
                }
            }
        }
    }

    /// The opposite of [`Self::subscribe_here`].
    pub(super) fn unsubscribe_here(
        &self,
        session: &Arc<Session>,
        filter: &str,
        subscription: Subscription,
        ops: &mut Vec<Op>,
    ) {
        self.directory.unsubscribe(session, filter);
        if self.cluster.is_some() {
            let interest = Interest {
                qos: subscription.options.qos,
                stored: session.store_id.is_some(),
                shared: filter.starts_with("$share/"),
            };
            ops.extend(self.known.routes.remove(filter, interest));
        }
    }

    /// Whether a session may have one subscription more.
    fn has_room(&self, state: &SessionState, filter: &str) -> bool {
        let limits = self.live.load();
        let all = &state.subscriptions;
        let wild_max = limits.max_wildcard_subscriptions_per_client as usize;
        // They are counted only where there may be too many.
        let wild = || all.keys().filter(|filter| is_wild(filter)).take(wild_max);
        all.len() < limits.max_subscriptions_per_client as usize
            && (all.len() < wild_max || !is_wild(filter) || wild().count() < wild_max)
    }

    fn group_has_place(&self, share: &str) -> bool {
        self.directory
            .group(share)
            .is_none_or(|group| group.len() < self.live.load().max_shared_group_members as usize)
    }

    /// Removes a subscription. Gives back the reason code for UNSUBACK; `ops` as with
    /// [`Self::subscribe`].
    pub(crate) fn unsubscribe(
        &self,
        session: &Arc<Session>,
        filter: &str,
        ops: &mut Vec<Op>,
    ) -> ReasonCode {
        let Some(subscription) = session.lock().subscriptions.remove(filter) else {
            return ReasonCode::NO_SUBSCRIPTION_EXISTED;
        };
        self.unsubscribe_here(session, filter, subscription, ops);
        if let Some(store_id) = session.store_id {
            ops.push(Op::DeleteSubscription(store_id, Box::from(filter)));
        }
        ReasonCode::SUCCESS
    }
}
