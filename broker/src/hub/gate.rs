//! The last look at what goes to a client, where the rules may allow less than what is on its way.
//!
//! That is so in two cases. A resumed session has messages in its queue that were put there under older rules, for
//! subscriptions that may be gone by now. And an access file of mosquitto allows subscriptions that are wider than what may
//! be read. Everybody else has no gate, and pays nothing.

use std::sync::Arc;

use dunlin_protocol::{QoS, topic};

use super::session::Subscription;
use super::wake::Wake;
use crate::auth::{Action, Auth, Decision, Who};
use crate::core::link::Gate;
use crate::core::mount;

/// Judges topics by the rules as they are.
#[derive(Debug)]
pub(super) struct RulesGate {
    auth: Arc<Auth>,
    /// The connection, which knows who the client is by now.
    wake: Arc<Wake>,
    /// As its client gave it.
    client_id: Box<str>,
    /// Filters that the client has and may have as a whole, as they are inside.
    granted: Vec<Box<str>>,
    /// A subscription is wider than what the client may read.
    wider: bool,
    /// The topic that was asked for last, under which rules and principal, and the answer.
    last: Option<(Box<str>, u64, usize, bool)>,
}

impl RulesGate {
    pub(super) fn new<'s>(
        auth: &Arc<Auth>,
        wake: &Arc<Wake>,
        client_id: &str,
        subscriptions: impl Iterator<Item = (&'s str, &'s Subscription)>,
    ) -> Self {
        let mut gate = Self {
            auth: auth.clone(),
            wake: wake.clone(),
            client_id: mount::own(client_id).into(),
            granted: Vec::new(),
            wider: false,
            last: None,
        };
        for (filter, subscription) in subscriptions {
            let qos = subscription.options.qos;
            match gate.decide(qos, &mount::own_filter(filter)) {
                Decision::Granted(_) => gate.granted(filter),
                Decision::Filtered(_) => gate.wider = true,
                Decision::Denied => {}
            }
        }
        gate
    }

    /// Whether it is to be asked for every message.
    pub(super) fn is_needed_for_all(&self) -> bool {
        self.wider
    }

    fn decide(&self, qos: QoS, own: &str) -> Decision {
        let who = Who {
            principal: &self.wake.about.principal(),
            client_id: &self.client_id,
        };
        self.auth.decide(who, Action::Subscribe { qos }, own)
    }
}

impl Gate for RulesGate {
    fn lets(&mut self, topic: &str) -> bool {
        let generation = self.auth.generation();
        let principal = Arc::as_ptr(&self.wake.about.principal()).addr();
        if let Some((last, then, whose, answer)) = &self.last
            && **last == *topic
            && *then == generation
            && *whose == principal
        {
            return *answer;
        }
        let answer = self.decide(QoS::AtMostOnce, mount::own(topic)).is_allowed()
            || self
                .granted
                .iter()
                .any(|filter| topic::matches(filter, topic));
        self.last = Some((topic.into(), generation, principal, answer));
        answer
    }

    fn granted(&mut self, filter: &str) {
        self.granted.push(match topic::parse_shared(filter) {
            Ok(Some(shared)) => shared.filter.into(),
            _ => filter.into(),
        });
        self.last = None;
    }
}
