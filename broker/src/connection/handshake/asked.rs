//! What a CONNECT asks for, and what of it cannot be granted.

use std::sync::Arc;

use dunlin_protocol::{Connect, PropertiesBuf, Property, ReasonCode, Version, topic};
use dunlin_sync::Message;
use dunlin_sync::publisher::publisher_text;

use super::refusal::Refusal;
use crate::auth::{Action, Principal, Who};
use crate::core::frames::{Forwarded, Incoming, Origin, Topic, keep};
use crate::core::link::LinkOptions;
use crate::core::mount;
use crate::hub::live::Peer;
use crate::hub::{ConnectRequest, Hub, WillRequest};
use crate::tenant::Place;

/// Longest client id that the broker makes up: "auto-" and 20 characters.
const RANDOM_ID_LEN: usize = 20;

/// What is refused whoever the client is.
pub(super) fn check(hub: &Hub, connect: &Connect<'_>) -> Result<(), Refusal> {
    let version = connect.version;
    if version == Version::V31 && !hub.features.allow_mqtt31 {
        return Err(Refusal::new(
            version,
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            "MQTT 3.1 is switched off: features.allow_mqtt31",
        ));
    }
    if let Some(will) = &connect.will {
        if will.retain && !hub.features.retain_available {
            return Err(Refusal::new(
                version,
                ReasonCode::RETAIN_NOT_SUPPORTED,
                "retained messages are switched off",
            ));
        }
        if will.qos as u8 > hub.features.maximum_qos {
            return Err(Refusal::new(
                version,
                ReasonCode::QOS_NOT_SUPPORTED,
                "the will's QoS is above the maximum",
            ));
        }
    }
    Ok(())
}

pub(super) fn client_id(hub: &Hub, connect: &Connect<'_>) -> Result<(Arc<str>, bool), Refusal> {
    if !connect.client_id.is_empty() {
        return Ok((Arc::from(connect.client_id), false));
    }
    if !hub.features.allow_empty_client_id {
        return Err(Refusal::new(
            connect.version,
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            "a client id is required",
        ));
    }
    let random = crate::random::alphanumeric(RANDOM_ID_LEN)
        .map_err(|error| Refusal::new(connect.version, ReasonCode::UNSPECIFIED_ERROR, error))?;
    Ok((Arc::from(format!("auto-{random}")), true))
}

pub(super) fn will(
    hub: &Hub,
    connect: &Connect<'_>,
    client_id: &Arc<str>,
    principal: &Principal,
    tenant: Option<&Place>,
) -> Result<Option<WillRequest>, Refusal> {
    let Some(will) = &connect.will else {
        return Ok(None);
    };
    let levels = will.topic.split('/').count();
    if levels > usize::from(hub.limits.max_topic_levels) || topic::check_name(will.topic).is_err() {
        return Err(Refusal::new(
            connect.version,
            ReasonCode::TOPIC_NAME_INVALID,
            format!("the will topic has {levels} levels"),
        ));
    }
    let action = Action::Publish {
        qos: will.qos,
        retain: will.retain,
    };
    let who = Who {
        principal,
        client_id: mount::own(client_id),
    };
    if will.topic.starts_with("$SYS") || !hub.auth.decide(who, action, will.topic).is_allowed() {
        return Err(Refusal::new(
            connect.version,
            ReasonCode::NOT_AUTHORIZED,
            format!("not allowed to publish the will to {:?}", will.topic),
        ));
    }
    let inside = match tenant {
        Some(tenant) => tenant.mount.topic(will.topic).map_err(|_| {
            Refusal::new(
                connect.version,
                ReasonCode::TOPIC_NAME_INVALID,
                "the will topic is too long for a tenant's client",
            )
        })?,
        None => Arc::from(will.topic),
    };
    let mut properties = PropertiesBuf::default();
    for property in will.properties.iter() {
        if !matches!(
            property,
            Property::WillDelayInterval(_) | Property::MessageExpiryInterval(_)
        ) && properties.push(property).is_err()
        {
            return Err(Refusal::new(
                connect.version,
                ReasonCode::MALFORMED_PACKET,
                "a will property is too long",
            ));
        }
    }
    let publish = Incoming {
        topic: Topic::Borrowed(&inside),
        qos: will.qos,
        retain: will.retain,
        properties: Forwarded::Borrowed(properties.as_bytes()),
        // Counted from publication, see `WillRequest::expiry`.
        expiry: None,
        once: None,
        held: None,
        received: None,
        payload: will.payload,
    };
    let origin = Origin {
        received_at: hub.clock.now_us(),
        publisher: Some(publisher_text(client_id, principal.device.as_deref())),
    };
    let message: Message = keep(&publish, &origin);
    Ok(Some(WillRequest {
        delay: will.properties.will_delay_interval().unwrap_or(0),
        expiry: will.properties.message_expiry_interval(),
        message: Arc::new(message),
    }))
}

pub(super) fn request(
    hub: &Hub,
    connect: &Connect<'_>,
    client_id: Arc<str>,
    will: Option<WillRequest>,
    peer: Peer,
) -> ConnectRequest {
    let limits = &hub.limits;
    let asked = match connect.version {
        Version::V5 => connect.properties.session_expiry_interval().unwrap_or(0),
        // [MQTT-3.1.2-5] of 3.1.1: the session lasts; here as long as any may.
        _ if !connect.clean_start => u32::MAX,
        _ => 0,
    };
    let receive_maximum = connect.properties.receive_maximum().unwrap_or(u16::MAX);
    let aliases = connect.properties.topic_alias_maximum().unwrap_or(0);
    ConnectRequest {
        client_id,
        clean_start: connect.clean_start,
        expiry_interval: asked.min(hub.live.load().max_session_expiry),
        link: LinkOptions {
            version: connect.version,
            max_packet: max_packet(connect),
            outbox_bytes: limits.outbox_bytes as usize,
            aliases: aliases.min(limits.outbound_topic_aliases),
        },
        quota: receive_maximum.min(limits.max_inflight),
        will,
        peer,
    }
}

pub(super) fn max_packet(connect: &Connect<'_>) -> u32 {
    connect.properties.maximum_packet_size().unwrap_or(u32::MAX)
}
