//! Arbitrary valid packets.

use dunlin_protocol::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, PacketType, Properties,
    PropertiesBuf, Property, PropertyContext, PropertyId, Publish, QoS, ReasonCode, Sender, SubAck,
    Subscribe, SubscribeFiltersBuf, SubscribeOptions, UnsubAck, Unsubscribe, UnsubscribeFiltersBuf,
    Version, Will,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// What a packet of any type can be made of. A packet borrows; this owns.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    pub(crate) packet_type: PacketType,
    pub(crate) version: Version,
    pub(crate) sender: Sender,
    fields: Fields,
    properties: PropertiesBuf,
    will_properties: PropertiesBuf,
    reason: ReasonCode,
    reason_codes: Vec<u8>,
    subscribe: SubscribeFiltersBuf,
    unsubscribe: UnsubscribeFiltersBuf,
}

#[derive(Debug, Clone)]
struct Fields {
    packet_id: PacketId,
    qos: QoS,
    flags: [bool; 3],
    keep_alive: u16,
    topic: String,
    client_id: String,
    username: Option<String>,
    password: Option<Vec<u8>>,
    payload: Vec<u8>,
}

impl Owned {
    pub(crate) fn packet(&self) -> Packet<'_> {
        let (properties, packet_id) = (self.properties.as_properties(), self.fields.packet_id);
        let ack = Ack {
            packet_id,
            reason: self.reason,
            properties,
        };
        let reason_codes = &self.reason_codes[..];
        match self.packet_type {
            PacketType::Connect => Packet::Connect(self.connect(properties)),
            PacketType::ConnAck => Packet::ConnAck(ConnAck {
                session_present: self.fields.flags[0]
                    && self.reason.0 == 0
                    && self.version != Version::V31,
                reason: self.reason,
                properties,
            }),
            PacketType::Publish => Packet::Publish(self.publish(properties)),
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            PacketType::PubComp => Packet::PubComp(ack),
            PacketType::Subscribe => Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                filters: self.subscribe.as_filters(),
            }),
            PacketType::SubAck => Packet::SubAck(SubAck {
                packet_id,
                properties,
                reason_codes,
            }),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties,
                filters: self.unsubscribe.as_filters(),
            }),
            PacketType::UnsubAck => Packet::UnsubAck(UnsubAck {
                packet_id,
                properties,
                reason_codes: if self.version.is_v5() {
                    reason_codes
                } else {
                    &[]
                },
            }),
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect {
                reason: self.reason,
                properties,
            }),
            PacketType::Auth => Packet::Auth(Auth {
                reason: self.reason,
                properties,
            }),
        }
    }

    fn connect<'a>(&'a self, properties: Properties<'a>) -> Connect<'a> {
        let fields = &self.fields;
        let username = fields.username.as_deref();
        let will = Will {
            qos: fields.qos,
            retain: fields.flags[1],
            topic: &fields.topic,
            payload: &fields.payload,
            properties: self.will_properties.as_properties(),
        };
        Connect {
            version: self.version,
            clean_start: fields.flags[0],
            keep_alive: fields.keep_alive,
            client_id: &fields.client_id,
            properties,
            will: fields.flags[2].then_some(will),
            username,
            password: fields
                .password
                .as_deref()
                .filter(|_| self.version.is_v5() || username.is_some()),
        }
    }

    fn publish<'a>(&'a self, properties: Properties<'a>) -> Publish<'a> {
        let fields = &self.fields;
        let has_id = fields.qos != QoS::AtMostOnce;
        let topic = if fields.flags[2] && properties.topic_alias().is_some() {
            ""
        } else {
            &fields.topic
        };
        Publish {
            dup: fields.flags[0] && has_id,
            qos: fields.qos,
            retain: fields.flags[1],
            topic,
            packet_id: has_id.then_some(fields.packet_id),
            properties,
            payload: &fields.payload,
        }
    }
}

/// Any valid packet of any version.
pub(crate) fn packet() -> impl Strategy<Value = Owned> {
    let versions = select(vec![Version::V31, Version::V311, Version::V5, Version::V5]);
    versions.prop_flat_map(|version| {
        select(kinds(version))
            .prop_flat_map(move |(packet_type, sender)| packet_of(packet_type, version, sender))
    })
}

/// Any valid packet of one type, in one version, from one sender that may send it.
pub(crate) fn packet_of(
    packet_type: PacketType,
    version: Version,
    sender: Sender,
) -> impl Strategy<Value = Owned> {
    let (context, will) = (context(packet_type), PropertyContext::Will);
    let v5 = version.is_v5();
    let reasons = reasons(packet_type, version, sender);
    (
        fields(),
        properties(context, sender, v5),
        properties(will, sender, v5),
        select(reasons.clone()),
        vec(select(reasons), 1..4),
        vec((filter(), options(v5)), 1..4),
    )
        .prop_map(
            move |(fields, mut properties, will_properties, reason, reason_codes, filters)| {
                let (mut subscribe, mut unsubscribe) =
                    (SubscribeFiltersBuf::new(), UnsubscribeFiltersBuf::new());
                for (filter, options) in filters {
                    subscribe.push(&filter, options).expect("a short filter");
                    unsubscribe.push(&filter).expect("a short filter");
                }
                if packet_type == PacketType::Auth
                    && properties.as_properties().authentication_method().is_none()
                {
                    properties
                        .push(Property::AuthenticationMethod("method"))
                        .expect("a short text");
                }
                let reason_codes = reason_codes.into_iter().map(|reason| reason.0).collect();
                Owned {
                    packet_type,
                    version,
                    sender,
                    fields,
                    properties,
                    will_properties,
                    reason,
                    reason_codes,
                    subscribe,
                    unsubscribe,
                }
            },
        )
}

fn fields() -> impl Strategy<Value = Fields> {
    (
        1..=u16::MAX,
        select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
        any::<[bool; 3]>(),
        any::<u16>(),
        topic(),
        "[^\0]{1,12}",
        prop::option::of("[^\0]{0,12}"),
        prop::option::of(vec(any::<u8>(), 0..12)),
        vec(any::<u8>(), 0..200),
    )
        .prop_map(
            |(id, qos, flags, keep_alive, topic, client_id, username, password, payload)| Fields {
                packet_id: PacketId::new(id).expect("not 0"),
                qos,
                flags,
                keep_alive,
                topic,
                client_id,
                username,
                password,
                payload,
            },
        )
}

/// A valid topic name.
pub(crate) fn topic() -> impl Strategy<Value = String> {
    prop_oneof!["[^\0+#]{1,20}", "[$a-c/]{1,20}"]
}

/// A valid topic filter; none of a shared subscription.
pub(crate) fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof!["[^\0+#/]{0,4}", "[a-c]{0,2}", Just("+".to_owned())];
    (vec(level, 1..5), any::<bool>())
        .prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("empty", |filter| {
            !filter.is_empty() && !filter.starts_with("$share/")
        })
}

fn options(v5: bool) -> impl Strategy<Value = SubscribeOptions> {
    let limit: u8 = if v5 { 0x30 } else { 0x03 };
    (0..limit).prop_filter_map("qos 3", |byte| SubscribeOptions::from_byte(byte).ok())
}

/// A valid block of properties, in any order.
fn properties(
    context: PropertyContext,
    sender: Sender,
    v5: bool,
) -> impl Strategy<Value = PropertiesBuf> {
    let allowed: Vec<PropertyId> = PropertyId::ALL
        .iter()
        .copied()
        .filter(|id| v5 && id.belongs_in(context) && id.may_be_sent_by(sender, context))
        .collect();
    let most = if allowed.is_empty() { 0 } else { 8 };
    let values = (
        1..=u32::from(u16::MAX),
        "[^\0]{0,9}",
        topic(),
        vec(any::<u8>(), 0..9),
    );
    vec((any::<prop::sample::Index>(), values), 0..=most).prop_map(move |picks| {
        let mut buf = PropertiesBuf::new();
        for (pick, (number, text, topic, data)) in picks {
            let id = allowed[pick.index(allowed.len())];
            let there = buf.as_properties().raw_iter().any(|raw| raw.id == id);
            if !there || id.may_repeat_in(context) {
                buf.push(property(id, number, &text, &topic, &data))
                    .expect("short values");
            }
        }
        let block = buf.as_properties();
        if block.authentication_data().is_some() && block.authentication_method().is_none() {
            buf.push(Property::AuthenticationMethod("method"))
                .expect("a short text");
        }
        buf
    })
}

fn property<'a>(
    id: PropertyId,
    number: u32,
    text: &'a str,
    topic: &'a str,
    data: &'a [u8],
) -> Property<'a> {
    let flag = number % 2 == 1;
    let short = number as u16;
    match id {
        PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(u8::from(flag)),
        PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(number),
        PropertyId::ContentType => Property::ContentType(text),
        PropertyId::ResponseTopic => Property::ResponseTopic(topic),
        PropertyId::CorrelationData => Property::CorrelationData(data),
        PropertyId::SubscriptionIdentifier => Property::SubscriptionIdentifier(number * 4096),
        PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(number),
        PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(text),
        PropertyId::ServerKeepAlive => Property::ServerKeepAlive(short),
        PropertyId::AuthenticationMethod => Property::AuthenticationMethod(text),
        PropertyId::AuthenticationData => Property::AuthenticationData(data),
        PropertyId::RequestProblemInformation => Property::RequestProblemInformation(flag),
        PropertyId::WillDelayInterval => Property::WillDelayInterval(number),
        PropertyId::RequestResponseInformation => Property::RequestResponseInformation(flag),
        PropertyId::ResponseInformation => Property::ResponseInformation(text),
        PropertyId::ServerReference => Property::ServerReference(text),
        PropertyId::ReasonString => Property::ReasonString(text),
        PropertyId::ReceiveMaximum => Property::ReceiveMaximum(short),
        PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(short),
        PropertyId::TopicAlias => Property::TopicAlias(short),
        PropertyId::MaximumQoS => Property::MaximumQoS(if flag {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        }),
        PropertyId::RetainAvailable => Property::RetainAvailable(flag),
        PropertyId::UserProperty => Property::UserProperty(text, topic),
        PropertyId::MaximumPacketSize => Property::MaximumPacketSize(number),
        PropertyId::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag),
        PropertyId::SubscriptionIdentifierAvailable => {
            Property::SubscriptionIdentifierAvailable(flag)
        }
        PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag),
    }
}

/// Which packets there are, and who may send them.
pub(crate) fn kinds(version: Version) -> Vec<(PacketType, Sender)> {
    use PacketType as P;
    use Sender::{Client, Server};
    let mut kinds = vec![
        (P::Connect, Client),
        (P::ConnAck, Server),
        (P::Subscribe, Client),
        (P::SubAck, Server),
        (P::Unsubscribe, Client),
        (P::UnsubAck, Server),
        (P::PingReq, Client),
        (P::PingResp, Server),
        (P::Disconnect, Client),
    ];
    for both in [P::Publish, P::PubAck, P::PubRec, P::PubRel, P::PubComp] {
        kinds.extend([(both, Client), (both, Server)]);
    }
    if version.is_v5() {
        kinds.extend([
            (P::Disconnect, Server),
            (P::Auth, Client),
            (P::Auth, Server),
        ]);
    }
    kinds
}

fn reasons(packet_type: PacketType, version: Version, sender: Sender) -> Vec<ReasonCode> {
    match (packet_type, version.is_v5()) {
        (PacketType::ConnAck, false) => (0..=5).map(ReasonCode).collect(),
        (PacketType::SubAck, false) => [0, 1, 2, 0x80].map(ReasonCode).to_vec(),
        (_, false) => vec![ReasonCode::SUCCESS],
        (_, true) => {
            let allowed: Vec<_> = (0..=255)
                .map(ReasonCode)
                .filter(|reason| reason.is_allowed_in(packet_type, sender))
                .collect();
            // For packets without a reason code any will do.
            if allowed.is_empty() {
                vec![ReasonCode::SUCCESS]
            } else {
                allowed
            }
        }
    }
}

fn context(packet_type: PacketType) -> PropertyContext {
    match packet_type {
        PacketType::Connect => PropertyContext::Connect,
        PacketType::ConnAck => PropertyContext::ConnAck,
        PacketType::Publish => PropertyContext::Publish,
        PacketType::PubAck => PropertyContext::PubAck,
        PacketType::PubRec => PropertyContext::PubRec,
        PacketType::PubRel => PropertyContext::PubRel,
        PacketType::PubComp => PropertyContext::PubComp,
        PacketType::Subscribe => PropertyContext::Subscribe,
        PacketType::SubAck => PropertyContext::SubAck,
        PacketType::Unsubscribe | PacketType::PingReq => PropertyContext::Unsubscribe,
        PacketType::UnsubAck | PacketType::PingResp => PropertyContext::UnsubAck,
        PacketType::Disconnect => PropertyContext::Disconnect,
        PacketType::Auth => PropertyContext::Auth,
    }
}
