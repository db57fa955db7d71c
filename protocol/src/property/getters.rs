//! Reading one property by name. Each getter scans the block; a property that may repeat has an iterator.

use super::{Properties, Property, PropertyId};
use crate::version::QoS;

/// One line for each property that is there at most once.
macro_rules! getters {
    ($($(#[$doc:meta])* $getter:ident $variant:ident -> $type:ty;)+) => {
        impl<'a> Properties<'a> {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $getter(&self) -> Option<$type> {
                    match self.find(PropertyId::$variant)? {
                        Property::$variant(value) => Some(value),
                        _ => None,
                    }
                }
            )+
        }
    };
}

getters! {
    /// 0: bytes, 1: UTF-8 text.
    payload_format_indicator PayloadFormatIndicator -> u8;
    /// Seconds.
    message_expiry_interval MessageExpiryInterval -> u32;
    /// What the payload is.
    content_type ContentType -> &'a str;
    /// Topic name for the answer.
    response_topic ResponseTopic -> &'a str;
    /// What tells the requester which request an answer belongs to.
    correlation_data CorrelationData -> &'a [u8];
    /// Seconds; `u32::MAX`: never.
    session_expiry_interval SessionExpiryInterval -> u32;
    /// The client identifier that the server chose.
    assigned_client_identifier AssignedClientIdentifier -> &'a str;
    /// Seconds.
    server_keep_alive ServerKeepAlive -> u16;
    /// Name of the authentication method.
    authentication_method AuthenticationMethod -> &'a str;
    /// Data of the authentication method.
    authentication_data AuthenticationData -> &'a [u8];
    /// Absent means `true`.
    request_problem_information RequestProblemInformation -> bool;
    /// Seconds; absent means 0.
    will_delay_interval WillDelayInterval -> u32;
    /// Absent means `false`.
    request_response_information RequestResponseInformation -> bool;
    /// Base of a response topic.
    response_information ResponseInformation -> &'a str;
    /// Another server to use.
    server_reference ServerReference -> &'a str;
    /// Text for a human.
    reason_string ReasonString -> &'a str;
    /// At least 1; absent means 65,535.
    receive_maximum ReceiveMaximum -> u16;
    /// Absent means 0: no topic aliases.
    topic_alias_maximum TopicAliasMaximum -> u16;
    /// At least 1.
    topic_alias TopicAlias -> u16;
    /// QoS 0 or 1; absent means QoS 2.
    maximum_qos MaximumQoS -> QoS;
    /// Absent means `true`.
    retain_available RetainAvailable -> bool;
    /// Bytes, fixed header included, at least 1; absent means no limit.
    maximum_packet_size MaximumPacketSize -> u32;
    /// Absent means `true`.
    wildcard_subscription_available WildcardSubscriptionAvailable -> bool;
    /// Absent means `true`.
    subscription_identifier_available SubscriptionIdentifierAvailable -> bool;
    /// Absent means `true`.
    shared_subscription_available SharedSubscriptionAvailable -> bool;
}

impl<'a> Properties<'a> {
    /// Subscription identifiers, in order. A SUBSCRIBE has at most one.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.raw_iter()
            .filter(|raw| raw.id == PropertyId::SubscriptionIdentifier)
            .filter_map(|raw| match raw.value()? {
                Property::SubscriptionIdentifier(id) => Some(id),
                _ => None,
            })
    }

    /// User properties (name, value), in order; names may repeat.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.raw_iter()
            .filter(|raw| raw.id == PropertyId::UserProperty)
            .filter_map(|raw| match raw.value()? {
                Property::UserProperty(name, value) => Some((name, value)),
                _ => None,
            })
    }

    fn find(&self, id: PropertyId) -> Option<Property<'a>> {
        self.raw_iter().find(|raw| raw.id == id)?.value()
    }
}
