//! What a message carries, the broker hands on as it was; what concerns one hop only, it keeps.

use crate::support::*;

// [MQTT-3.3.2-4] v5 [MQTT-3.3.2-15] v5 [MQTT-3.3.2-16] v5 [MQTT-3.3.2-17] v5 [MQTT-3.3.2-18] v5 [MQTT-3.3.2-20] v5
#[test]
fn properties_are_passed_on_unaltered_and_in_order() {
    let mut broker = Broker::start();
    let sent = [
        Property::PayloadFormatIndicator(1),
        Property::ContentType("text/plain; charset=utf-8"),
        Property::ResponseTopic("answers/here"),
        Property::CorrelationData(b"\x00\x01\xFF\xFE"),
        Property::UserProperty("z", "first"),
        Property::UserProperty("a", "second"),
        Property::UserProperty("z", "first"),
        Property::UserProperty("", ""),
        Property::UserProperty("ключ", "значение"),
    ];
    let block = properties(&sent);
    let persistent = connect(Version::V5, "offline").persistent();
    persistent
        .open(&broker, false)
        .subscribe("fwd/#", QoS::ExactlyOnce);
    let mut online = Client::new(&broker, Version::V5, "online");
    online.subscribe("fwd/#", QoS::ExactlyOnce);
    let mut publisher = Client::new(&broker, Version::V5, "fwd-pub");
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish_packet(Publish {
            topic: "fwd/x",
            payload: "übergeben".as_bytes(),
            qos,
            retain: true,
            properties: block.as_properties(),
            ..Publish::default()
        });
        let got = online.expect_message("fwd/x", "übergeben".as_bytes());
        assert_eq!(
            got.properties().iter().collect::<Vec<_>>(),
            sent,
            "online, {qos:?}"
        );
    }
    let mut late = Client::new(&broker, Version::V5, "late");
    late.subscribe("fwd/#", QoS::AtMostOnce);
    let got = late.expect_message("fwd/x", "übergeben".as_bytes());
    assert_eq!(
        got.properties().iter().collect::<Vec<_>>(),
        sent,
        "retained"
    );
    broker.kill9();
    broker.start_again();
    let mut offline = persistent.open(&broker, true);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let got = offline.expect_message("fwd/x", "übergeben".as_bytes());
        assert_eq!(
            got.properties().iter().collect::<Vec<_>>(),
            sent,
            "from the queue, {qos:?}"
        );
    }
}

#[test]
fn messages_cross_from_version_to_version() {
    let broker = Broker::start();
    let all = [Version::V31, Version::V311, Version::V5];
    let mut subscribers =
        all.map(|version| Client::new(&broker, version, &format!("sub-{version:?}")));
    for subscriber in &mut subscribers {
        subscriber.subscribe("cross", QoS::ExactlyOnce);
    }
    for version in all {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut publisher = Client::new(&broker, version, "cross-pub");
            let block = properties(&[Property::UserProperty("k", "v")]);
            let payload = format!("{version:?} {qos:?}");
            publisher.publish_packet(Publish {
                topic: "cross",
                payload: payload.as_bytes(),
                qos,
                properties: block.as_properties(),
                ..Publish::default()
            });
            for subscriber in &mut subscribers {
                let got = subscriber.expect_message("cross", payload.as_bytes());
                assert_eq!(got.publish().qos, qos);
                let both_know_them = version.is_v5() && subscriber.version().is_v5();
                assert_eq!(
                    got.properties().user_properties().count(),
                    usize::from(both_know_them)
                );
            }
        }
    }
}

#[test]
fn an_answer_finds_its_way_back_by_response_topic_and_correlation_data() {
    let broker = Broker::start();
    let mut responder = Client::new(&broker, Version::V5, "responder");
    responder.subscribe("service/add", QoS::AtLeastOnce);
    let mut requester = Client::new(&broker, Version::V5, "requester");
    requester.subscribe("answers/requester", QoS::AtLeastOnce);
    let request = [
        Property::ResponseTopic("answers/requester"),
        Property::CorrelationData(b"#1"),
    ];
    requester.publish_with("service/add", b"1+1", QoS::AtLeastOnce, &request);
    let asked = responder.expect_message("service/add", b"1+1");
    let to = asked
        .properties()
        .response_topic()
        .expect("a response topic");
    let about = asked
        .properties()
        .correlation_data()
        .expect("correlation data");
    responder.publish_with(
        to,
        b"2",
        QoS::AtLeastOnce,
        &[Property::CorrelationData(about)],
    );
    let answer = requester.expect_message("answers/requester", b"2");
    assert_eq!(answer.properties().correlation_data(), Some(&b"#1"[..]));
}

#[test]
fn payloads_of_any_bytes_and_sizes_come_through() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::new(&broker, version, "bytes");
        client.subscribe("bytes", QoS::ExactlyOnce);
        let all_bytes: Vec<u8> = (0..=255).collect();
        for len in [0, 1, 126, 127, 128, 16_383, 16_384, 65_536, 1_000_000] {
            let payload: Vec<u8> = all_bytes.iter().copied().cycle().take(len).collect();
            for qos in [QoS::AtMostOnce, QoS::ExactlyOnce] {
                client.publish("bytes", &payload, qos);
                client.expect_message("bytes", &payload);
            }
        }
    }
}

// [MQTT-3.1.2-29] v5
#[test]
fn without_problem_information_no_packet_carries_a_reason_string() {
    let broker = Broker::start();
    let mut client = connect(Version::V5, "terse")
        .with(Property::RequestProblemInformation(false))
        .open(&broker, false);
    client.send(Packet::PubRel(Ack::new(id(9), ReasonCode::SUCCESS)));
    let answer = client.receive();
    assert_eq!(answer.reason(), ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    assert!(answer.properties().is_empty(), "{answer:?}");
    // SUBSCRIBE to "a/#/b", which is no filter, and to "$share/g/": refused, without words.
    client.send_bytes(b"\x82\x0D\x00\x01\x00\x00\x07$share/\x00");
    let answer = client.receive();
    if !matches!(answer.packet(), Packet::Disconnect(_)) {
        assert!(answer.properties().is_empty(), "{answer:?}");
    }
}

// [MQTT-3.2.2-19] v5 [MQTT-3.2.2-20] v5 [MQTT-3.4.2-2] v5 [MQTT-3.4.2-3] v5 [MQTT-3.5.2-2] v5 [MQTT-3.5.2-3] v5
// [MQTT-3.7.2-2] v5 [MQTT-3.7.2-3] v5 [MQTT-3.9.2-1] v5 [MQTT-3.9.2-2] v5 [MQTT-3.11.2-1] v5 [MQTT-3.11.2-2] v5
// [MQTT-3.14.2-3] v5 [MQTT-3.14.2-4] v5 [MQTT-3.6.2-2] v5 [MQTT-3.6.2-3] v5
#[test]
fn what_explains_is_left_out_where_the_clients_maximum_leaves_no_room() {
    let broker = Broker::setup()
        .config(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\n\n[store]\nkind = \"memory\"\n\n[auth]\nanonymous = true\n\n\
             [[auth.rules]]\neffect = \"allow\"\ntopics = [\"allowed/#\"]\n",
        )
        .start();
    let narrow = || connect(Version::V5, "narrow").with(Property::MaximumPacketSize(20));
    let fits = |received: Received| {
        assert!(received.bytes().len() <= 20, "{received:?}");
        received
    };
    let mut client = Client::open(broker.address(), Version::V5);
    client.send_bytes(&narrow().bytes());
    assert_eq!(fits(client.receive()).connack().reason, ReasonCode::SUCCESS);
    // PUBACK, PUBREC, PUBCOMP, SUBACK and UNSUBACK with an error each, then a DISCONNECT.
    for (qos, packet_id) in [(QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
        let packet_id = Some(id(packet_id));
        client.send(Packet::Publish(Publish {
            topic: "a/b/c",
            qos,
            packet_id,
            ..Publish::default()
        }));
        assert!(fits(client.receive()).reason().is_error());
    }
    client.send(Packet::PubRel(Ack::new(id(3), ReasonCode::SUCCESS)));
    assert!(fits(client.receive()).reason().is_error());
    // A PUBREC for nothing is answered with a PUBREL that says so.
    client.send(Packet::PubRec(Ack::new(id(4), ReasonCode::SUCCESS)));
    assert!(fits(client.receive()).reason().is_error());
    client.send_bytes(b"\x82\x0B\x00\x01\x00\x00\x05a/b/c\x01");
    let suback = fits(client.receive());
    assert!(
        matches!(suback.packet(), Packet::SubAck(suback) if suback.reason_codes[0] >= 0x80),
        "{suback:?}"
    );
    client.send_bytes(b"\xA2\x08\x00\x02\x00\x00\x03a/b");
    assert!(
        matches!(fits(client.receive()).packet(), Packet::UnsubAck(unsuback) if unsuback.reason_codes == [0x11])
    );
    client.send_bytes(b"\x36\x05\x00\x01a\x00\x01");
    let disconnect = fits(client.receive());
    assert!(
        matches!(disconnect.packet(), Packet::Disconnect(_)),
        "{disconnect:?}"
    );
    client.expect_closed();
}

/// Publishes that the broker reads together: with the topic spelt out or as an alias, of another topic each time or of the
/// same, at another QoS and retain flag.
// [MQTT-3.3.2-12] v5 [MQTT-4.6.0-5] v5
#[test]
fn publishes_in_a_row_go_to_those_who_want_their_topic_in_their_order() {
    const TOPICS: [&str; 3] = ["row/a", "row/b", "row/c"];
    let broker = Broker::start();
    let mut readers: Vec<(&[&str], Client)> = [
        ("row/a", &TOPICS[..1], Version::V311),
        ("row/b", &TOPICS[1..2], Version::V5),
        ("row/+", &TOPICS[..], Version::V5),
        ("row/#", &TOPICS[..], Version::V311),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, (filter, topics, version))| {
        let mut client = Client::new(&broker, version, &format!("reader-{number}"));
        client.subscribe(filter, QoS::AtMostOnce);
        (topics, client)
    })
    .collect();
    let mut publisher = Client::new(&broker, Version::V5, "row-pub");

    let mut bytes = Vec::new();
    let mut sent = Vec::new();
    let mut state = 7_u32;
    let mut named = [false; 3];
    for number in 0..300_u16 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let draw = state >> 16;
        let at = (draw % 3) as usize;
        let alias = [Property::TopicAlias(at as u16 + 1)];
        // Half of them: the topic alone; a quarter each: with its alias, or the alias alone.
        let (topic, block) = match draw / 3 % 4 {
            0 | 1 => (TOPICS[at], properties(&[])),
            2 if named[at] => ("", properties(&alias)),
            _ => {
                named[at] = true;
                (TOPICS[at], properties(&alias))
            }
        };
        let qos = match draw / 12 % 2 {
            0 => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        };
        let payload = number.to_string();
        Packet::Publish(Publish {
            topic,
            payload: payload.as_bytes(),
            qos,
            retain: (draw / 24).is_multiple_of(4),
            packet_id: (qos != QoS::AtMostOnce).then(|| id(number + 1)),
            properties: block.as_properties(),
            ..Publish::default()
        })
        .encode(Version::V5, &mut bytes)
        .unwrap();
        sent.push((TOPICS[at], payload));
    }
    publisher.send_bytes(&bytes);
    for (topics, reader) in &mut readers {
        for (topic, payload) in sent.iter().filter(|(topic, _)| topics.contains(topic)) {
            let got = reader.expect_message(topic, payload.as_bytes());
            let publish = got.publish();
            assert_eq!((publish.qos, publish.retain), (QoS::AtMostOnce, false));
            assert!(publish.properties.is_empty(), "{publish:?}");
        }
        reader.expect_silence();
    }
}
