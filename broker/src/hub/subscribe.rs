//! SUBSCRIBE and UNSUBSCRIBE of one filter.

use std::sync::Arc;

use dunlin_protocol::{ReasonCode, RetainHandling, topic};
use dunlin_sync::{Op, SubscriptionRecord};

use super::Hub;
use super::session::{Session, Subscription};

impl Hub {
    /// Adds or replaces a subscription that is authorised. Gives back the reason code for SUBACK;
    /// `ops` is to be durable before it is sent.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        session: &Arc<Session>,
        filter: &str,
        subscription: Subscription,
        ops: &mut Vec<Op>,
    ) -> ReasonCode {
        if filter.split('/').count() > usize::from(self.limits.max_topic_levels) {
            return ReasonCode::TOPIC_FILTER_INVALID;
        }
        let shared = matches!(topic::parse_shared(filter), Ok(Some(_)));
        let fresh = {
            let mut state = session.lock();
            let fresh = !state.subscriptions.contains_key(filter);
            if fresh
                && state.subscriptions.len() >= self.limits.max_subscriptions_per_client as usize
            {
                return ReasonCode::QUOTA_EXCEEDED;
            }
            state.subscriptions.insert(Box::from(filter), subscription);
            fresh
        };
        if shared && fresh && !self.group_has_place(filter) {
            session.lock().subscriptions.remove(filter);
            return ReasonCode::QUOTA_EXCEEDED;
        }
        self.directory.subscribe(session, filter, subscription);
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
        if retained && !shared {
            self.queue_retained(session, filter, subscription);
        }
        ReasonCode(subscription.options.qos as u8)
    }

    fn group_has_place(&self, share: &str) -> bool {
        self.directory
            .group(share)
            .is_none_or(|group| group.len() < self.limits.max_shared_group_members as usize)
    }

    /// Removes a subscription. Gives back the reason code for UNSUBACK; `ops` as with
    /// [`Self::subscribe`].
    pub(crate) fn unsubscribe(
        &self,
        session: &Arc<Session>,
        filter: &str,
        ops: &mut Vec<Op>,
    ) -> ReasonCode {
        if session.lock().subscriptions.remove(filter).is_none() {
            return ReasonCode::NO_SUBSCRIPTION_EXISTED;
        }
        self.directory.unsubscribe(session, filter);
        if let Some(store_id) = session.store_id {
            ops.push(Op::DeleteSubscription(store_id, Box::from(filter)));
        }
        ReasonCode::SUCCESS
    }
}
