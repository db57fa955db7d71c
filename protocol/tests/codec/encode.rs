//! What encoding does beyond turning decoding round.

use dunlin_protocol::{
    Auth, ConnAck, Connect, EncodeError, Packet, PacketId, PacketType, Properties, PropertiesBuf,
    Property, Publish, QoS, ReasonCode, SubAck, Subscribe, SubscribeFilters, SubscribeFiltersBuf,
    SubscribeOptions, UnsubAck, Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersBuf, Version,
    Will, encode_publish_into,
};

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not 0")
}

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = vec![0xAA];
    packet
        .encode(version, &mut out)
        .expect("a packet that can be written");
    assert_eq!(packet.encoded_len(version), Ok(out.len() - 1));
    assert_eq!(out.remove(0), 0xAA, "what was there before stays");
    out
}

/// The error, with proof that nothing was written.
fn refused(packet: &Packet<'_>, version: Version) -> EncodeError {
    let mut out = vec![0xAA];
    let error = packet
        .encode(version, &mut out)
        .expect_err("a packet that cannot be written");
    assert_eq!(out, [0xAA]);
    error
}

#[test]
fn the_packet_identifier_is_where_the_layout_says() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut out = vec![1, 2, 3];
        let layout = encode_publish_into(
            &mut out,
            version,
            false,
            QoS::AtLeastOnce,
            false,
            "a/b",
            Some(id(0x1234)),
            &[],
            b"x",
        )
        .expect("a publish that fits");
        assert_eq!((layout.start, layout.len), (3, out.len() - 3));
        let at = layout.packet_id_at.expect("qos 1 has one");
        assert_eq!(out[at..at + 2], [0x12, 0x34]);
        // Patched, it is what a fresh encoding would be.
        out[at..at + 2].copy_from_slice(&id(7).get().to_be_bytes());
        let fresh = Publish {
            qos: QoS::AtLeastOnce,
            topic: "a/b",
            packet_id: Some(id(7)),
            payload: b"x",
            ..Publish::default()
        };
        assert_eq!(out[3..], encoded(&Packet::Publish(fresh), version));
    }
    let mut out = Vec::new();
    let layout = encode_publish_into(
        &mut out,
        Version::V5,
        false,
        QoS::AtMostOnce,
        true,
        "a",
        None,
        &[0x01, 0x01],
        b"",
    )
    .expect("a publish that fits");
    assert_eq!((layout.packet_id_at, layout.len), (None, 8));
    assert_eq!(out, [0x31, 0x06, 0x00, 0x01, b'a', 0x02, 0x01, 0x01]);
}

#[test]
fn a_publish_without_its_payload_is_the_publish_up_to_its_payload() {
    let payload = [b'x'; 300];
    for version in [Version::V31, Version::V311, Version::V5] {
        let publish = Publish {
            qos: QoS::ExactlyOnce,
            topic: "a/b",
            packet_id: Some(id(5)),
            payload: &payload,
            ..Publish::default()
        };
        let (mut whole, mut head) = (vec![9], vec![9]);
        let layout = publish
            .encode(version, &mut whole)
            .expect("a publish that fits");
        let elsewhere = Publish {
            payload: &[],
            ..publish
        };
        let head_layout = elsewhere
            .encode_without_payload(version, payload.len(), &mut head)
            .expect("a publish that fits");
        assert_eq!(head_layout, layout);
        head.extend_from_slice(&payload);
        assert_eq!(head, whole);
    }
    let publish = Publish {
        topic: "a",
        ..Publish::default()
    };
    let mut out = Vec::new();
    for len in [268_435_453, usize::MAX] {
        let error = publish.encode_without_payload(Version::V311, len, &mut out);
        assert!(
            matches!(error, Err(EncodeError::PacketTooLong { .. })),
            "{error:?}"
        );
    }
    assert!(out.is_empty());
}

#[test]
fn a_publish_has_a_packet_identifier_when_its_qos_wants_one() {
    // [MQTT-2.2.1-2] v5, [MQTT-2.3.1-5] v311
    let unexpected = Publish {
        topic: "a",
        packet_id: Some(id(1)),
        ..Publish::default()
    };
    assert_eq!(
        refused(&Packet::Publish(unexpected), Version::V5),
        EncodeError::UnexpectedPacketId
    );
    assert_eq!(
        refused(&Packet::Publish(unexpected), Version::V311),
        EncodeError::UnexpectedPacketId
    );
    // [MQTT-2.2.1-4] v5, [MQTT-2.3.1-4] v311
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let missing = Publish {
            qos,
            topic: "a",
            ..Publish::default()
        };
        assert_eq!(
            refused(&Packet::Publish(missing), Version::V5),
            EncodeError::MissingPacketId
        );
        assert_eq!(
            refused(&Packet::Publish(missing), Version::V311),
            EncodeError::MissingPacketId
        );
    }
}

#[test]
fn reason_codes_become_return_codes_before_mqtt_5() {
    let connack = |reason| {
        Packet::ConnAck(ConnAck {
            session_present: false,
            reason,
            properties: Properties::EMPTY,
        })
    };
    let expected = [
        (ReasonCode::SUCCESS, 0),
        (ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, 2),
        (ReasonCode::SERVER_UNAVAILABLE, 3),
        (ReasonCode::SERVER_BUSY, 3),
        (ReasonCode::UNSPECIFIED_ERROR, 3),
        (ReasonCode::QUOTA_EXCEEDED, 3),
        (ReasonCode::CONNECTION_RATE_EXCEEDED, 3),
        (ReasonCode::BAD_USER_NAME_OR_PASSWORD, 4),
        (ReasonCode::NOT_AUTHORIZED, 5),
        (ReasonCode::BANNED, 5),
        (ReasonCode::TOPIC_NAME_INVALID, 5),
        // A return code stays what it is.
        (ReasonCode(1), 1),
        (ReasonCode(5), 5),
    ];
    for (reason, code) in expected {
        assert_eq!(
            encoded(&connack(reason), Version::V311),
            [0x20, 2, 0, code],
            "{reason:?}"
        );
    }
    let suback = SubAck {
        packet_id: id(1),
        properties: Properties::EMPTY,
        reason_codes: &[0, 1, 2, 0x80, 0x87, 0xA2],
    };
    // [MQTT-3.9.3-2] v311
    assert_eq!(
        encoded(&Packet::SubAck(suback), Version::V311),
        [0x90, 8, 0, 1, 0, 1, 2, 0x80, 0x80, 0x80]
    );
    let unsuback = UnsubAck {
        packet_id: id(1),
        properties: Properties::EMPTY,
        reason_codes: &[0, 0x11],
    };
    assert_eq!(
        encoded(&Packet::UnsubAck(unsuback), Version::V311),
        [0xB0, 2, 0, 1]
    );
    assert_eq!(
        encoded(&Packet::UnsubAck(unsuback), Version::V5),
        [0xB0, 5, 0, 1, 0, 0, 0x11]
    );
}

#[test]
fn session_present_is_said_only_where_the_protocol_has_it() {
    let connack = |reason| {
        Packet::ConnAck(ConnAck {
            session_present: true,
            reason,
            properties: Properties::EMPTY,
        })
    };
    assert_eq!(
        encoded(&connack(ReasonCode::SUCCESS), Version::V5),
        [0x20, 3, 1, 0, 0]
    );
    assert_eq!(
        encoded(&connack(ReasonCode::SUCCESS), Version::V311),
        [0x20, 2, 1, 0]
    );
    // MQTT 3.1 does not have it.
    assert_eq!(
        encoded(&connack(ReasonCode::SUCCESS), Version::V31),
        [0x20, 2, 0, 0]
    );
    // [MQTT-3.2.2-6] v5, [MQTT-3.2.2-4] v311
    assert_eq!(
        encoded(&connack(ReasonCode::SERVER_BUSY), Version::V5),
        [0x20, 3, 0, 0x89, 0]
    );
    assert_eq!(
        encoded(&connack(ReasonCode::SERVER_BUSY), Version::V311),
        [0x20, 2, 0, 3]
    );
}

#[test]
fn properties_and_options_are_left_out_before_mqtt_5() {
    let mut properties = PropertiesBuf::new();
    properties
        .push(Property::UserProperty("k", "v"))
        .expect("fits");
    let properties = properties.as_properties();
    let mut filters = SubscribeFiltersBuf::new();
    let options = SubscribeOptions {
        no_local: true,
        retain_as_published: true,
        ..SubscribeOptions::new(QoS::AtLeastOnce)
    };
    filters.push("a", options).expect("fits");
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: id(1),
        properties,
        filters: filters.as_filters(),
    });
    assert_eq!(
        encoded(&subscribe, Version::V311),
        [0x82, 6, 0, 1, 0, 1, b'a', 1]
    );
    let publish = Packet::Publish(Publish {
        topic: "a",
        properties,
        payload: b"x",
        ..Publish::default()
    });
    assert_eq!(
        encoded(&publish, Version::V311),
        [0x30, 4, 0, 1, b'a', b'x']
    );
    assert_eq!(encoded(&publish, Version::V5).len(), 14);
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "w",
        payload: b"",
        properties,
    };
    let connect = Connect {
        will: Some(will),
        properties,
        ..Connect::new(Version::V311, "c")
    };
    let with_none = Connect {
        will: Some(Will {
            properties: Properties::EMPTY,
            ..will
        }),
        properties: Properties::EMPTY,
        ..connect
    };
    assert_eq!(
        encoded(&Packet::Connect(connect), Version::V311),
        encoded(&Packet::Connect(with_none), Version::V311)
    );
    assert_eq!(
        refused(&Packet::Auth(Auth::default()), Version::V311),
        EncodeError::NotInVersion {
            packet: PacketType::Auth,
            version: Version::V311,
        }
    );
}

#[test]
fn a_connect_is_written_in_its_own_version() {
    let connect = Packet::Connect(Connect::new(Version::V5, "c"));
    assert_eq!(
        encoded(&connect, Version::V31),
        encoded(&connect, Version::V5)
    );
    // [MQTT-3.1.2-22] v311
    let password = Connect {
        password: Some(b"p"),
        ..Connect::new(Version::V311, "c")
    };
    assert_eq!(
        refused(&Packet::Connect(password), Version::V311),
        EncodeError::PasswordWithoutUsername
    );
    let password = Connect {
        version: Version::V5,
        ..password
    };
    assert_eq!(encoded(&Packet::Connect(password), Version::V5)[9], 0x42);
}

#[test]
fn fields_that_are_too_long_are_refused() {
    let long = "x".repeat(65_536);
    let connect = Connect::new(Version::V5, "c");
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "w",
        payload: b"",
        properties: Properties::EMPTY,
    };
    let packets = [
        (
            "topic name",
            Packet::Publish(Publish {
                topic: &long,
                ..Publish::default()
            }),
        ),
        (
            "client identifier",
            Packet::Connect(Connect {
                client_id: &long,
                ..connect
            }),
        ),
        (
            "user name",
            Packet::Connect(Connect {
                username: Some(&long),
                ..connect
            }),
        ),
        (
            "password",
            Packet::Connect(Connect {
                password: Some(long.as_bytes()),
                ..connect
            }),
        ),
        (
            "will topic",
            Packet::Connect(Connect {
                will: Some(Will {
                    topic: &long,
                    ..will
                }),
                ..connect
            }),
        ),
        (
            "will payload",
            Packet::Connect(Connect {
                will: Some(Will {
                    payload: long.as_bytes(),
                    ..will
                }),
                ..connect
            }),
        ),
    ];
    for (field, packet) in packets {
        assert_eq!(
            refused(&packet, Version::V5),
            EncodeError::FieldTooLong { field, len: 65_536 }
        );
    }
    let field = "topic filter";
    let error = EncodeError::FieldTooLong { field, len: 65_536 };
    assert_eq!(
        SubscribeFiltersBuf::new()
            .push(&long, SubscribeOptions::default())
            .map(drop),
        Err(error)
    );
    assert_eq!(
        UnsubscribeFiltersBuf::new().push(&long).map(drop),
        Err(error)
    );
}

#[test]
fn a_packet_above_the_longest_remaining_length_is_refused() {
    let payload = vec![0; 268_435_455 - 3];
    let publish = |payload| {
        Packet::Publish(Publish {
            topic: "a",
            payload,
            ..Publish::default()
        })
    };
    assert_eq!(
        publish(&payload).encoded_len(Version::V311),
        Ok(268_435_460)
    );
    // One more byte, of properties.
    assert_eq!(
        refused(&publish(&payload), Version::V5),
        EncodeError::PacketTooLong { len: 268_435_456 }
    );
    assert_eq!(
        publish(&payload).encoded_len(Version::V5),
        Err(EncodeError::PacketTooLong { len: 268_435_456 })
    );
}

#[test]
fn packets_that_need_a_payload_are_not_written_without() {
    let (packet_id, properties) = (id(1), Properties::EMPTY);
    let packets = [
        // [MQTT-3.8.3-2] v5, [MQTT-3.8.3-3] v311
        Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            filters: SubscribeFilters::default(),
        }),
        // [MQTT-3.10.3-2] v5, [MQTT-3.10.3-2] v311
        Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties,
            filters: UnsubscribeFilters::default(),
        }),
        Packet::SubAck(SubAck {
            packet_id,
            properties,
            reason_codes: &[],
        }),
        Packet::UnsubAck(UnsubAck {
            packet_id,
            properties,
            reason_codes: &[],
        }),
    ];
    for packet in packets {
        let error = EncodeError::EmptyPayload {
            packet: packet.packet_type(),
        };
        assert_eq!(refused(&packet, Version::V5), error);
    }
}
