//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use dunlin_protocol::{
    Packet, Properties, PropertiesBuf, Property, QoS, ReasonCode, SubAck, Subscribe, UnsubAck,
    Unsubscribe,
};

use super::{Batch, violation};
use crate::auth::{Action, Decision};
use crate::connection::close::Closing;
use crate::connection::run::Connection;
use crate::hub::session::Subscription;
use crate::hub::subscribe::is_wild;

/// A subscription that may be made.
struct Allowed<'f> {
    inside: Inside<'f>,
    /// What it gets at the most.
    qos: QoS,
    /// All that it matches may be read.
    whole: bool,
}

/// A filter as it is inside.
enum Inside<'f> {
    Same(&'f str),
    Mounted(Arc<str>),
}

impl std::ops::Deref for Inside<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Same(filter) => filter,
            Self::Mounted(filter) => filter,
        }
    }
}

impl Connection {
    pub(super) fn subscribe(
        &mut self,
        subscribe: &Subscribe<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Closing> {
        let identifier = subscribe.properties.subscription_identifiers().next();
        if identifier.is_some() && !self.hub.features.subscription_identifiers {
            return Err(violation(
                ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
                "subscription identifiers are switched off",
            ));
        }
        if self.hub.known.is_suspended() {
            return self.refuse_all(subscribe);
        }
        let changes = self.hub.changes();
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for (filter, options) in subscribe.filters.iter() {
            let mut options = options;
            options.qos = options
                .qos
                .min(QoS::try_from(self.hub.features.maximum_qos).unwrap_or(QoS::ExactlyOnce));
            let many = codes.len() >= self.hub.limits.max_filters_per_subscribe as usize;
            let allowed = match many || self.is_too_wild(filter) {
                true => Err(ReasonCode::QUOTA_EXCEEDED),
                false => self.may_subscribe(filter, options.qos),
            };
            let reason = match allowed {
                Err(reason) => reason,
                Ok(Allowed { inside, qos, whole }) => {
                    options.qos = qos;
                    let filter = &*inside;
                    let before = batch.outcome.ops.len();
                    let subscription = Subscription {
                        options,
                        identifier,
                    };
                    let (reason, retained) = self.hub.clone().subscribe(
                        &self.session,
                        filter,
                        subscription,
                        &mut batch.outcome.ops,
                    );
                    if batch.outcome.ops.len() > before {
                        batch.durable = true;
                        batch.outcome.barrier = true;
                    }
                    if !whole {
                        self.hub.filter_all(&self.session);
                    } else if !self.hub.auth.allows_all()
                        && let Some(link) = &mut self.session.lock().delivering.link
                    {
                        link.granted(filter);
                    }
                    if retained {
                        batch.retained.push((Box::from(filter), subscription));
                    }
                    reason
                }
            };
            codes.push(match self.version.is_v5() {
                false if reason.is_error() => 0x80,
                _ => reason.0,
            });
        }
        if changes != self.hub.changes() {
            // Whoever has changed it may have looked before these were there.
            self.hub.recheck(&self.wake);
        }
        let suback = SubAck {
            packet_id: subscribe.packet_id,
            properties: Properties::EMPTY,
            reason_codes: &codes,
        };
        self.answer(&Packet::SubAck(suback), batch)
    }

    /// Each wildcard of a filter can double what has to be looked at for a topic.
    fn is_too_wild(&self, filter: &str) -> bool {
        let wildcards = filter.bytes().filter(|byte| matches!(byte, b'+' | b'#'));
        wildcards.count() > usize::from(self.hub.limits.max_wildcards_per_filter)
    }

    /// The other replicas cannot be told of a subscription now: the client hears so at once, before what it
    /// waits for besides.
    fn refuse_all(&mut self, subscribe: &Subscribe<'_>) -> Result<(), Closing> {
        let code = match self.version.is_v5() {
            true => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR.0,
            false => 0x80,
        };
        let codes = vec![code; subscribe.filters.iter().count()];
        let mut properties = PropertiesBuf::default();
        let why = Property::ReasonString("the cluster cannot be reached now");
        if self.version.is_v5() && self.problem_information && properties.push(why).is_err() {
            properties.clear();
        }
        let suback = |properties| {
            Packet::SubAck(SubAck {
                packet_id: subscribe.packet_id,
                properties,
                reason_codes: &codes,
            })
        };
        let mut bytes = self.encode(&suback(properties.as_properties()))?;
        if bytes.len() > self.max_packet as usize {
            // [MQTT-3.9.2-1]
            bytes = self.encode(&suback(Properties::EMPTY))?;
        }
        self.local.extend(&bytes);
        Ok(())
    }

    /// How a subscription may be made.
    fn may_subscribe<'f>(&self, filter: &'f str, qos: QoS) -> Result<Allowed<'f>, ReasonCode> {
        let features = &self.hub.features;
        let shared = filter.starts_with("$share/");
        if shared && !features.shared_subscriptions {
            return Err(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        if is_wild(filter) && !self.hub.offers_wildcards() {
            return Err(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        let (qos, whole) = match self.may(Action::Subscribe { qos }, filter) {
            Decision::Granted(qos) => (qos, true),
            Decision::Filtered(qos) => (qos, false),
            Decision::Denied => {
                return Err(match features.reveal_refusals {
                    true => ReasonCode::NOT_AUTHORIZED,
                    false => ReasonCode::UNSPECIFIED_ERROR,
                });
            }
        };
        let inside = self.inside(filter)?;
        Ok(Allowed { inside, qos, whole })
    }

    /// The filter as it is inside.
    fn inside<'f>(&self, filter: &'f str) -> Result<Inside<'f>, ReasonCode> {
        match self.wake.about.tenant() {
            None => Ok(Inside::Same(filter)),
            Some(tenant) => {
                let inside = tenant.mount.filter(filter);
                let inside = inside.map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
                Ok(Inside::Mounted(inside))
            }
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Closing> {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in unsubscribe.filters.iter() {
            let before = batch.outcome.ops.len();
            let reason = match self.inside(filter) {
                Ok(inside) => {
                    let ops = &mut batch.outcome.ops;
                    self.hub.unsubscribe(&self.session, &inside, ops)
                }
                Err(_) => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            };
            batch.durable |= batch.outcome.ops.len() > before;
            codes.push(reason.0);
        }
        let reason_codes = if self.version.is_v5() {
            &codes[..]
        } else {
            &[]
        };
        let unsuback = UnsubAck {
            packet_id: unsubscribe.packet_id,
            properties: Properties::EMPTY,
            reason_codes,
        };
        self.answer(&Packet::UnsubAck(unsuback), batch)
    }
}
