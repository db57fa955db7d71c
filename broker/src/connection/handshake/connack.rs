//! The answer to a CONNECT that is granted.

use dunlin_protocol::{
    ConnAck, Connect, Packet, PropertiesBuf, Property, QoS, ReasonCode, Version,
};

use crate::core::mount;
use crate::hub::Hub;

/// [MQTT-3.1.2-21]: an MQTT 5 client is told of a shorter keep alive and must use it; an older one
/// cannot be told and keeps its own.
pub(super) fn server_keep_alive(hub: &Hub, connect: &Connect<'_>) -> Option<u16> {
    let max = hub.live.load().max_keep_alive;
    let too_long = connect.keep_alive == 0 || connect.keep_alive > max;
    (max > 0 && connect.version.is_v5() && too_long).then_some(max)
}

pub(super) fn connack(
    hub: &Hub,
    connect: &Connect<'_>,
    attached: &crate::hub::Attached,
    assigned: bool,
    expiry_interval: u32,
    server_keep_alive: Option<u16>,
    authenticated: Option<(&str, &[u8])>,
) -> Vec<u8> {
    let mut properties = PropertiesBuf::default();
    let mut push = |property: Property<'_>| {
        if let Err(error) = properties.push(property) {
            tracing::error!(%error, "a CONNACK property could not be encoded");
        }
    };
    let (limits, features) = (&hub.limits, &hub.features);
    if connect.version.is_v5() {
        if expiry_interval != connect.properties.session_expiry_interval().unwrap_or(0) {
            push(Property::SessionExpiryInterval(expiry_interval));
        }
        push(Property::ReceiveMaximum(limits.receive_maximum));
        match features.maximum_qos {
            0 => push(Property::MaximumQoS(QoS::AtMostOnce)),
            1 => push(Property::MaximumQoS(QoS::AtLeastOnce)),
            _ => {}
        }
        if !features.retain_available {
            push(Property::RetainAvailable(false));
        }
        push(Property::MaximumPacketSize(limits.max_packet_size));
        if assigned {
            push(Property::AssignedClientIdentifier(mount::own(
                &attached.session.client_id,
            )));
        }
        push(Property::TopicAliasMaximum(limits.topic_alias_maximum));
        for (available, property) in [
            (
                hub.offers_wildcards(),
                Property::WildcardSubscriptionAvailable(false),
            ),
            (
                features.subscription_identifiers,
                Property::SubscriptionIdentifierAvailable(false),
            ),
            (
                features.shared_subscriptions,
                Property::SharedSubscriptionAvailable(false),
            ),
        ] {
            if !available {
                push(property);
            }
        }
        if let Some(seconds) = server_keep_alive {
            push(Property::ServerKeepAlive(seconds));
        }
        if features.response_information
            && connect.properties.request_response_information() == Some(true)
        {
            let base = format!("responses/{}", mount::own(&attached.session.client_id));
            push(Property::ResponseInformation(&base));
        }
    }
    if let Some((method, proof)) = authenticated {
        push(Property::AuthenticationMethod(method));
        if !proof.is_empty() {
            push(Property::AuthenticationData(proof));
        }
    }
    // [MQTT-3.1.3 of 3.1]: MQTT 3.1 has no session present flag.
    let session_present = attached.present && connect.version != Version::V31;
    let packet = ConnAck {
        session_present,
        reason: ReasonCode::SUCCESS,
        properties: properties.as_properties(),
    };
    let mut out = Vec::new();
    if let Err(error) = Packet::ConnAck(packet).encode(connect.version, &mut out) {
        tracing::error!(%error, "a CONNACK could not be encoded");
    }
    out
}
