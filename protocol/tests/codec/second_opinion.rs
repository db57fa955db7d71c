//! What mqttbytes read, as a packet of ours; properties in rising order of their identifiers.

use dunlin_protocol::{
    Ack, ConnAck, Connect, Disconnect, Packet, PacketId, Properties, PropertiesBuf, Property,
    Publish, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFiltersBuf,
    SubscribeOptions, UnsubAck, Unsubscribe, UnsubscribeFiltersBuf, Version, Will,
};
use mqttbytes::{v4, v5};

type UserProperties = [(String, String)];

/// Calls `look` with the packet.
pub(crate) fn with_v4(packet: &v4::Packet, look: impl FnOnce(Packet<'_>)) {
    match packet {
        v4::Packet::Connect(it) => look(Packet::Connect(Connect {
            version: Version::V311,
            clean_start: it.clean_session,
            keep_alive: it.keep_alive,
            client_id: &it.client_id,
            properties: Properties::EMPTY,
            will: it.last_will.as_ref().map(|will| Will {
                qos: qos(will.qos),
                retain: will.retain,
                topic: &will.topic,
                payload: &will.message,
                properties: Properties::EMPTY,
            }),
            username: it
                .login
                .as_ref()
                .map(|login| &login.username[..])
                .filter(|text| !text.is_empty()),
            password: it
                .login
                .as_ref()
                .map(|login| login.password.as_bytes())
                .filter(|data| !data.is_empty()),
        })),
        v4::Packet::ConnAck(it) => look(Packet::ConnAck(ConnAck {
            session_present: it.session_present,
            reason: ReasonCode(it.code as u8),
            properties: Properties::EMPTY,
        })),
        v4::Packet::Publish(it) => look(Packet::Publish(Publish {
            dup: it.dup,
            qos: qos(it.qos),
            retain: it.retain,
            topic: &it.topic,
            packet_id: PacketId::new(it.pkid),
            properties: Properties::EMPTY,
            payload: &it.payload,
        })),
        v4::Packet::PubAck(it) => look(Packet::PubAck(Ack::new(id(it.pkid), ReasonCode::SUCCESS))),
        v4::Packet::PubRec(it) => look(Packet::PubRec(Ack::new(id(it.pkid), ReasonCode::SUCCESS))),
        v4::Packet::PubRel(it) => look(Packet::PubRel(Ack::new(id(it.pkid), ReasonCode::SUCCESS))),
        v4::Packet::PubComp(it) => {
            look(Packet::PubComp(Ack::new(id(it.pkid), ReasonCode::SUCCESS)))
        }
        v4::Packet::Subscribe(it) => {
            let filters = it
                .filters
                .iter()
                .map(|filter| (&filter.path[..], SubscribeOptions::new(qos(filter.qos))));
            look_subscribe(it.pkid, &PropertiesBuf::new(), filters, look);
        }
        v4::Packet::SubAck(it) => {
            let codes: Vec<u8> = it
                .return_codes
                .iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(granted) => *granted as u8,
                    v4::SubscribeReasonCode::Failure => 0x80,
                })
                .collect();
            let (packet_id, properties) = (id(it.pkid), Properties::EMPTY);
            look(Packet::SubAck(SubAck {
                packet_id,
                properties,
                reason_codes: &codes,
            }));
        }
        v4::Packet::Unsubscribe(it) => {
            look_unsubscribe(it.pkid, &PropertiesBuf::new(), &it.topics, look)
        }
        v4::Packet::UnsubAck(it) => {
            let (packet_id, properties) = (id(it.pkid), Properties::EMPTY);
            look(Packet::UnsubAck(UnsubAck {
                packet_id,
                properties,
                reason_codes: &[],
            }));
        }
        v4::Packet::PingReq => look(Packet::PingReq),
        v4::Packet::PingResp => look(Packet::PingResp),
        v4::Packet::Disconnect => look(Packet::Disconnect(Disconnect::default())),
    }
}

/// Calls `look` with the packet.
pub(crate) fn with_v5(packet: &v5::Packet, look: impl FnOnce(Packet<'_>)) {
    let mut buf = PropertiesBuf::new();
    match packet {
        v5::Packet::Connect(it) => look_connect(it, look),
        v5::Packet::ConnAck(it) => {
            if let Some(all) = &it.properties {
                connack_properties(&mut buf, all);
            }
            let (reason, properties) = (ReasonCode(it.code as u8), buf.as_properties());
            look(Packet::ConnAck(ConnAck {
                session_present: it.session_present,
                reason,
                properties,
            }));
        }
        v5::Packet::Publish(it) => {
            if let Some(all) = &it.properties {
                publish_properties(&mut buf, all);
            }
            look(Packet::Publish(Publish {
                dup: it.dup,
                qos: qos(it.qos),
                retain: it.retain,
                topic: &it.topic,
                packet_id: PacketId::new(it.pkid),
                properties: buf.as_properties(),
                payload: &it.payload,
            }));
        }
        v5::Packet::PubAck(it) => {
            let it_properties = it
                .properties
                .as_ref()
                .map(|all| (&all.reason_string, &all.user_properties[..]));
            look(Packet::PubAck(ack(
                it.pkid,
                it.reason as u8,
                it_properties,
                &mut buf,
            )));
        }
        v5::Packet::PubRec(it) => {
            let it_properties = it
                .properties
                .as_ref()
                .map(|all| (&all.reason_string, &all.user_properties[..]));
            look(Packet::PubRec(ack(
                it.pkid,
                it.reason as u8,
                it_properties,
                &mut buf,
            )));
        }
        v5::Packet::PubRel(it) => {
            let it_properties = it
                .properties
                .as_ref()
                .map(|all| (&all.reason_string, &all.user_properties[..]));
            look(Packet::PubRel(ack(
                it.pkid,
                it.reason as u8,
                it_properties,
                &mut buf,
            )));
        }
        v5::Packet::PubComp(it) => {
            let it_properties = it
                .properties
                .as_ref()
                .map(|all| (&all.reason_string, &all.user_properties[..]));
            look(Packet::PubComp(ack(
                it.pkid,
                it.reason as u8,
                it_properties,
                &mut buf,
            )));
        }
        v5::Packet::Subscribe(it) => {
            if let Some(all) = &it.properties {
                put(
                    &mut buf,
                    all.id.map(|id| Property::SubscriptionIdentifier(id as u32)),
                );
                put_user(&mut buf, &all.user_properties);
            }
            let filters = it
                .filters
                .iter()
                .map(|filter| (&filter.path[..], options(filter)));
            look_subscribe(it.pkid, &buf, filters, look);
        }
        v5::Packet::SubAck(it) => {
            let codes: Vec<u8> = it.return_codes.iter().map(|code| *code as u8).collect();
            if let Some(all) = &it.properties {
                put(
                    &mut buf,
                    all.reason_string.as_deref().map(Property::ReasonString),
                );
                put_user(&mut buf, &all.user_properties);
            }
            let (packet_id, properties) = (id(it.pkid), buf.as_properties());
            look(Packet::SubAck(SubAck {
                packet_id,
                properties,
                reason_codes: &codes,
            }));
        }
        v5::Packet::Unsubscribe(it) => {
            if let Some(all) = &it.properties {
                put_user(&mut buf, &all.user_properties);
            }
            look_unsubscribe(it.pkid, &buf, &it.filters, look);
        }
        v5::Packet::UnsubAck(it) => {
            let codes: Vec<u8> = it.reasons.iter().map(|code| *code as u8).collect();
            if let Some(all) = &it.properties {
                put(
                    &mut buf,
                    all.reason_string.as_deref().map(Property::ReasonString),
                );
                put_user(&mut buf, &all.user_properties);
            }
            let (packet_id, properties) = (id(it.pkid), buf.as_properties());
            look(Packet::UnsubAck(UnsubAck {
                packet_id,
                properties,
                reason_codes: &codes,
            }));
        }
        v5::Packet::PingReq => look(Packet::PingReq),
        v5::Packet::PingResp => look(Packet::PingResp),
        v5::Packet::Disconnect(it) => {
            if let Some(all) = &it.properties {
                put(
                    &mut buf,
                    all.session_expiry_interval
                        .map(Property::SessionExpiryInterval),
                );
                put(
                    &mut buf,
                    all.server_reference
                        .as_deref()
                        .map(Property::ServerReference),
                );
                put(
                    &mut buf,
                    all.reason_string.as_deref().map(Property::ReasonString),
                );
                put_user(&mut buf, &all.user_properties);
            }
            let (reason, properties) = (ReasonCode(it.reason_code as u8), buf.as_properties());
            look(Packet::Disconnect(Disconnect { reason, properties }));
        }
    }
}

fn look_connect(connect: &v5::Connect, look: impl FnOnce(Packet<'_>)) {
    let (mut buf, mut will_buf) = (PropertiesBuf::new(), PropertiesBuf::new());
    if let Some(all) = &connect.properties {
        put(
            &mut buf,
            all.session_expiry_interval
                .map(Property::SessionExpiryInterval),
        );
        put(
            &mut buf,
            all.authentication_method
                .as_deref()
                .map(Property::AuthenticationMethod),
        );
        put(
            &mut buf,
            all.authentication_data
                .as_deref()
                .map(Property::AuthenticationData),
        );
        put(
            &mut buf,
            all.request_problem_info
                .map(|flag| Property::RequestProblemInformation(flag == 1)),
        );
        put(
            &mut buf,
            all.request_response_info
                .map(|flag| Property::RequestResponseInformation(flag == 1)),
        );
        put(&mut buf, all.receive_maximum.map(Property::ReceiveMaximum));
        put(
            &mut buf,
            all.topic_alias_max.map(Property::TopicAliasMaximum),
        );
        put_user(&mut buf, &all.user_properties);
        put(
            &mut buf,
            all.max_packet_size.map(Property::MaximumPacketSize),
        );
    }
    if let Some(all) = connect
        .last_will
        .as_ref()
        .and_then(|will| will.properties.as_ref())
    {
        put(
            &mut will_buf,
            all.payload_format_indicator
                .map(Property::PayloadFormatIndicator),
        );
        put(
            &mut will_buf,
            all.message_expiry_interval
                .map(Property::MessageExpiryInterval),
        );
        put(
            &mut will_buf,
            all.content_type.as_deref().map(Property::ContentType),
        );
        put(
            &mut will_buf,
            all.response_topic.as_deref().map(Property::ResponseTopic),
        );
        put(
            &mut will_buf,
            all.correlation_data
                .as_deref()
                .map(Property::CorrelationData),
        );
        put(
            &mut will_buf,
            all.delay_interval.map(Property::WillDelayInterval),
        );
        put_user(&mut will_buf, &all.user_properties);
    }
    let login = connect.login.as_ref();
    look(Packet::Connect(Connect {
        version: Version::V5,
        clean_start: connect.clean_session,
        keep_alive: connect.keep_alive,
        client_id: &connect.client_id,
        properties: buf.as_properties(),
        will: connect.last_will.as_ref().map(|will| Will {
            qos: qos(will.qos),
            retain: will.retain,
            topic: &will.topic,
            payload: &will.message,
            properties: will_buf.as_properties(),
        }),
        username: login
            .map(|login| &login.username[..])
            .filter(|text| !text.is_empty()),
        password: login
            .map(|login| login.password.as_bytes())
            .filter(|data| !data.is_empty()),
    }));
}

fn look_subscribe<'a>(
    packet_id: u16,
    buf: &PropertiesBuf,
    filters: impl Iterator<Item = (&'a str, SubscribeOptions)>,
    look: impl FnOnce(Packet<'_>),
) {
    let mut all = SubscribeFiltersBuf::new();
    for (filter, options) in filters {
        all.push(filter, options).expect("a filter that was read");
    }
    let (packet_id, properties) = (id(packet_id), buf.as_properties());
    look(Packet::Subscribe(Subscribe {
        packet_id,
        properties,
        filters: all.as_filters(),
    }));
}

fn look_unsubscribe(
    packet_id: u16,
    buf: &PropertiesBuf,
    filters: &[String],
    look: impl FnOnce(Packet<'_>),
) {
    let mut all = UnsubscribeFiltersBuf::new();
    for filter in filters {
        all.push(filter).expect("a filter that was read");
    }
    let (packet_id, properties) = (id(packet_id), buf.as_properties());
    look(Packet::Unsubscribe(Unsubscribe {
        packet_id,
        properties,
        filters: all.as_filters(),
    }));
}

fn ack<'a>(
    packet_id: u16,
    reason: u8,
    properties: Option<(&Option<String>, &UserProperties)>,
    buf: &'a mut PropertiesBuf,
) -> Ack<'a> {
    if let Some((reason_string, user_properties)) = properties {
        put(buf, reason_string.as_deref().map(Property::ReasonString));
        put_user(buf, user_properties);
    }
    Ack {
        packet_id: id(packet_id),
        reason: ReasonCode(reason),
        properties: buf.as_properties(),
    }
}

fn publish_properties(buf: &mut PropertiesBuf, all: &v5::PublishProperties) {
    put(
        buf,
        all.payload_format_indicator
            .map(Property::PayloadFormatIndicator),
    );
    put(
        buf,
        all.message_expiry_interval
            .map(Property::MessageExpiryInterval),
    );
    put(buf, all.content_type.as_deref().map(Property::ContentType));
    put(
        buf,
        all.response_topic.as_deref().map(Property::ResponseTopic),
    );
    put(
        buf,
        all.correlation_data
            .as_deref()
            .map(Property::CorrelationData),
    );
    for &id in &all.subscription_identifiers {
        put(buf, Some(Property::SubscriptionIdentifier(id as u32)));
    }
    put(buf, all.topic_alias.map(Property::TopicAlias));
    put_user(buf, &all.user_properties);
}

fn connack_properties(buf: &mut PropertiesBuf, all: &v5::ConnAckProperties) {
    let flag = |flag: Option<u8>| flag.map(|flag| flag == 1);
    put(
        buf,
        all.session_expiry_interval
            .map(Property::SessionExpiryInterval),
    );
    put(
        buf,
        all.assigned_client_identifier
            .as_deref()
            .map(Property::AssignedClientIdentifier),
    );
    put(buf, all.server_keep_alive.map(Property::ServerKeepAlive));
    put(
        buf,
        all.authentication_method
            .as_deref()
            .map(Property::AuthenticationMethod),
    );
    put(
        buf,
        all.authentication_data
            .as_deref()
            .map(Property::AuthenticationData),
    );
    put(
        buf,
        all.response_information
            .as_deref()
            .map(Property::ResponseInformation),
    );
    put(
        buf,
        all.server_reference
            .as_deref()
            .map(Property::ServerReference),
    );
    put(
        buf,
        all.reason_string.as_deref().map(Property::ReasonString),
    );
    put(buf, all.receive_max.map(Property::ReceiveMaximum));
    put(buf, all.topic_alias_max.map(Property::TopicAliasMaximum));
    put(
        buf,
        all.max_qos
            .map(|qos| Property::MaximumQoS(QoS::try_from(qos).expect("a qos that was read"))),
    );
    put(
        buf,
        flag(all.retain_available).map(Property::RetainAvailable),
    );
    put_user(buf, &all.user_properties);
    put(buf, all.max_packet_size.map(Property::MaximumPacketSize));
    put(
        buf,
        flag(all.wildcard_subscription_available).map(Property::WildcardSubscriptionAvailable),
    );
    put(
        buf,
        flag(all.subscription_identifiers_available).map(Property::SubscriptionIdentifierAvailable),
    );
    put(
        buf,
        flag(all.shared_subscription_available).map(Property::SharedSubscriptionAvailable),
    );
}

fn put(buf: &mut PropertiesBuf, property: Option<Property<'_>>) {
    if let Some(property) = property {
        buf.push(property).expect("a property that was read");
    }
}

fn put_user(buf: &mut PropertiesBuf, properties: &UserProperties) {
    for (name, value) in properties {
        put(buf, Some(Property::UserProperty(name, value)));
    }
}

fn options(filter: &v5::SubscribeFilter) -> SubscribeOptions {
    SubscribeOptions {
        qos: qos(filter.qos),
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retain_handling: match filter.retain_forward_rule {
            v5::RetainForwardRule::OnEverySubscribe => RetainHandling::Send,
            v5::RetainForwardRule::OnNewSubscribe => RetainHandling::SendIfNew,
            v5::RetainForwardRule::Never => RetainHandling::DoNotSend,
        },
    }
}

fn qos(qos: mqttbytes::QoS) -> QoS {
    QoS::try_from(qos as u8).expect("a qos that was read")
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("packet identifier 0 is never let through by our decoder")
}
