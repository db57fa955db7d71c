//! Bounds that both sides agree on, and the broker's own: what happens at each.

use crate::support::*;

// [MQTT-3.1.2-24] v5 [MQTT-3.1.2-25] v5
#[test]
fn a_packet_above_the_clients_maximum_is_dropped_as_if_sent() {
    let broker = Broker::start();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        // Messages of QoS 0 do not wait for a session to be resumed.
        for resumed in [false, true].into_iter().take(1 + qos as usize) {
            let connecting = connect(Version::V5, "small")
                .persistent()
                .with(Property::MaximumPacketSize(60));
            let mut online = connecting.open(&broker, false);
            online.subscribe("size", qos);
            let mut online = Some(online);
            let mut large = Client::new(&broker, Version::V5, "large");
            large.subscribe("size", qos);
            if resumed && let Some(small) = online.take() {
                small.disconnect();
            }
            let mut publisher = Client::new(&broker, Version::V5, "size-pub");
            publisher.publish("size", &[b'x'; 100], qos);
            publisher.publish("size", b"fits", qos);
            let mut small = online.unwrap_or_else(|| connecting.open(&broker, true));
            large.expect_message("size", &[b'x'; 100]);
            large.expect_message("size", b"fits");
            small.expect_message("size", b"fits");
            small.expect_silence();
            drop(small);
            connect(Version::V5, "small").open(&broker, false);
        }
    }
}

// [MQTT-3.1.2-24] v5
#[test]
fn a_packet_of_exactly_the_clients_maximum_is_sent() {
    let broker = Broker::start();
    // Fixed header 2, topic 2 + 4, property length 1, payload.
    let exact = vec![b'x'; 60 - 2 - 6 - 1];
    let mut small = connect(Version::V5, "exact")
        .with(Property::MaximumPacketSize(60))
        .open(&broker, false);
    small.subscribe("size", QoS::AtMostOnce);
    let mut publisher = Client::new(&broker, Version::V5, "exact-pub");
    publisher.publish("size", &[exact.as_slice(), b"y"].concat(), QoS::AtMostOnce);
    publisher.publish("size", &exact, QoS::AtMostOnce);
    assert_eq!(small.expect_message("size", &exact).bytes().len(), 60);
}

#[test]
fn a_packet_above_the_brokers_maximum_is_refused() {
    let broker = Broker::setup().set("limits.max_packet_size=2000").start();
    let (mut client, answer) = connect(Version::V5, "big").accepted(&broker);
    assert_eq!(answer.properties().maximum_packet_size(), Some(2_000));
    client.subscribe("big", QoS::AtMostOnce);
    // Header 3, topic 5, properties 1.
    let exact = vec![b'x'; 2_000 - 3 - 5 - 1];
    client.publish("big", &exact, QoS::AtMostOnce);
    client.expect_message("big", &exact);
    client.publish("big", &[exact.as_slice(), b"y"].concat(), QoS::AtMostOnce);
    client.expect_end(ReasonCode::PACKET_TOO_LARGE);
    let mut old = Client::new(&broker, Version::V311, "big-old");
    // The declared length is enough: the rest is not waited for.
    old.send_bytes(b"\x30\xFF\xFF\xFF\x7F");
    old.expect_closed();
}

#[test]
fn more_than_the_receive_maximum_is_refused() {
    let broker = Broker::setup().set("limits.receive_maximum=3").start();
    let (mut client, answer) = connect(Version::V5, "eager").accepted(&broker);
    assert_eq!(answer.properties().receive_maximum(), Some(3));
    let publish = |client: &mut Client, n: u16| {
        client.send(Packet::Publish(Publish {
            topic: "quota",
            qos: QoS::ExactlyOnce,
            packet_id: Some(id(n)),
            ..Publish::default()
        }));
    };
    for n in 1..=3 {
        publish(&mut client, n);
        assert!(matches!(client.receive().packet(), Packet::PubRec(_)));
    }
    // A repetition of one of them takes no place.
    publish(&mut client, 2);
    assert!(matches!(client.receive().packet(), Packet::PubRec(_)));
    client.send(Packet::PubRel(Ack::new(id(1), ReasonCode::SUCCESS)));
    client.expect(Packet::PubComp(Ack::new(id(1), ReasonCode::SUCCESS)));
    publish(&mut client, 4);
    assert!(matches!(client.receive().packet(), Packet::PubRec(_)));
    publish(&mut client, 5);
    client.expect_end(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

// --- topic aliases

fn alias<'a>(topic: &'a str, payload: &'a [u8], block: &'a PropertiesBuf) -> Packet<'a> {
    Packet::Publish(Publish {
        topic,
        payload,
        properties: block.as_properties(),
        ..Publish::default()
    })
}

// [MQTT-3.3.2-12] v5
#[test]
fn a_topic_alias_of_a_client_stands_for_its_topic_and_can_be_changed() {
    let broker = Broker::setup().set("limits.topic_alias_maximum=5").start();
    let mut subscriber = Client::new(&broker, Version::V5, "alias-sub");
    subscriber.subscribe("alias/#", QoS::AtMostOnce);
    let (mut client, answer) = connect(Version::V5, "alias-pub").accepted(&broker);
    assert_eq!(answer.properties().topic_alias_maximum(), Some(5));
    for number in [1, 5] {
        let block = properties(&[Property::TopicAlias(number)]);
        let topic = format!("alias/{number}");
        client.send(alias(&topic, b"named", &block));
        client.send(alias("", b"short", &block));
        client.send(alias("alias/changed", b"named", &block));
        client.send(alias("", b"short", &block));
        for wanted in [topic.as_str(), "alias/changed"] {
            for payload in [&b"named"[..], b"short"] {
                let received = subscriber.expect_message(wanted, payload);
                assert_eq!(
                    received.properties().topic_alias(),
                    None,
                    "an alias is not passed on"
                );
            }
        }
    }
}

#[test]
fn a_topic_alias_that_is_not_allowed_is_refused() {
    let broker = Broker::setup().set("limits.topic_alias_maximum=5").start();
    for number in [0, 6, 65_535] {
        let mut client = Client::new(&broker, Version::V5, "alias-bad");
        client.send_bytes(&[
            0x30,
            8,
            0,
            1,
            b'a',
            3,
            0x23,
            (number >> 8) as u8,
            number as u8,
            b'x',
        ]);
        client.expect_end(ReasonCode::TOPIC_ALIAS_INVALID);
    }
    let without = Broker::setup().set("limits.topic_alias_maximum=0").start();
    let (mut client, answer) = connect(Version::V5, "alias-none").accepted(&without);
    assert_eq!(answer.properties().topic_alias_maximum().unwrap_or(0), 0);
    client.send(alias("a", b"", &properties(&[Property::TopicAlias(1)])));
    client.expect_end(ReasonCode::TOPIC_ALIAS_INVALID);
}

// [MQTT-3.3.2-7] v5
#[test]
fn a_topic_alias_is_forgotten_with_its_connection() {
    let broker = Broker::start();
    let block = properties(&[Property::TopicAlias(1)]);
    let persistent = connect(Version::V5, "alias-again").persistent();
    let mut client = persistent.open(&broker, false);
    client.send(alias("alias/known", b"", &block));
    client.expect_silence();
    client.drop_connection();
    let mut client = persistent.open(&broker, true);
    client.send(alias("", b"", &block));
    client.expect_end(ReasonCode::PROTOCOL_ERROR);
}

// [MQTT-3.1.2-26] v5 [MQTT-3.1.2-27] v5 [MQTT-3.3.2-8] v5 [MQTT-3.3.2-11] v5
#[test]
fn aliases_towards_a_client_stay_within_its_maximum() {
    let broker = Broker::start();
    let mut publisher = Client::new(&broker, Version::V5, "alias-pub");
    let mut none = Client::new(&broker, Version::V5, "alias-none");
    let mut two = connect(Version::V5, "alias-two")
        .with(Property::TopicAliasMaximum(2))
        .open(&broker, false);
    none.subscribe("alias/#", QoS::AtMostOnce);
    two.subscribe("alias/#", QoS::AtMostOnce);
    let topics = [
        "alias/a", "alias/b", "alias/c", "alias/a", "alias/b", "alias/c", "alias/a",
    ];
    let mut known = std::collections::HashMap::new();
    let mut shortened = 0;
    for topic in topics {
        publisher.publish(topic, b"x", QoS::AtMostOnce);
        assert_eq!(
            none.expect_message(topic, b"x").properties().topic_alias(),
            None
        );
        let received = two.receive();
        let publish = received.publish();
        let alias = publish.properties.topic_alias();
        assert!(
            alias.is_none_or(|number| (1..=2).contains(&number)),
            "{publish:?}"
        );
        match (publish.topic, alias) {
            ("", Some(number)) => {
                shortened += 1;
                assert_eq!(known.get(&number), Some(&topic), "{publish:?}");
            }
            (name, Some(number)) => {
                assert_eq!(name, topic);
                known.insert(number, topic);
            }
            (name, None) => assert_eq!(name, topic),
        }
    }
    assert!(
        shortened > 0,
        "the broker made no use of the aliases that it was allowed"
    );
}

// [MQTT-3.3.2-7] v5
#[test]
fn aliases_towards_a_client_begin_anew_with_each_connection() {
    let broker = Broker::start();
    let connecting = connect(Version::V5, "alias-anew")
        .persistent()
        .with(Property::TopicAliasMaximum(10));
    let mut publisher = Client::new(&broker, Version::V5, "alias-pub");
    for session_present in [false, true] {
        let mut client = connecting.open(&broker, session_present);
        client.subscribe("alias/anew", QoS::AtLeastOnce);
        publisher.publish("alias/anew", b"x", QoS::AtLeastOnce);
        client.expect_message("alias/anew", b"x");
        client.drop_connection();
    }
}

// --- the broker's own bounds

#[test]
fn subscriptions_per_client_are_bounded() {
    let broker = Broker::setup()
        .set("limits.max_subscriptions_per_client=2")
        .start();
    for (version, refusal) in [(Version::V311, 0x80), (Version::V5, 0x97)] {
        let mut client = Client::new(&broker, version, "greedy");
        let options = SubscribeOptions::new(QoS::AtLeastOnce);
        let codes = client.subscribe_all(
            &[
                ("a", options),
                ("b", options),
                ("c", options),
                ("a", options),
            ],
            &[],
        );
        assert_eq!(codes, [1, 1, refusal, 1]);
        client.unsubscribe(&["a"]);
        client.subscribe("c", QoS::AtLeastOnce);
    }
}

#[test]
fn subscriptions_with_wildcards_are_bounded_beside_all_subscriptions() {
    let broker = Broker::setup()
        .set("limits.max_wildcard_subscriptions_per_client=2")
        .start();
    let options = SubscribeOptions::new(QoS::AtLeastOnce);
    for (version, refusal) in [(Version::V311, 0x80), (Version::V5, 0x97)] {
        let id = format!("{version:?}");
        let mut client = connect(version, &id).persistent().open(&broker, false);
        let filters = [
            "plain",
            "a/+",
            "$share/g/b/#",
            "c/#",
            "$share/g/+",
            "plain/too",
            "a/+",
        ];
        let codes = client.subscribe_all(&filters.map(|filter| (filter, options)), &[]);
        assert_eq!(codes, [1, 1, 1, refusal, refusal, 1, 1]);
        client.drop_connection();
        // A resumed session has what it had.
        let mut client = connect(version, &id).resume().open(&broker, true);
        let codes = client.subscribe_all(&[("c/#", options), ("d", options)], &[]);
        assert_eq!(codes, [refusal, 1]);
        client.unsubscribe(&["$share/g/b/#"]);
        let codes = client.subscribe_all(&[("c/#", options), ("e/#", options)], &[]);
        assert_eq!(codes, [1, refusal]);
        client.drop_connection();
        let discarded = connect(version, &id).open(&broker, false);
        discarded.disconnect();
    }
}

#[test]
fn with_no_wildcard_subscriptions_at_all_clients_are_told_so() {
    let broker = Broker::setup()
        .set("limits.max_wildcard_subscriptions_per_client=0")
        .start();
    let options = SubscribeOptions::new(QoS::AtLeastOnce);
    let filters = ["a/+", "plain", "$share/g/#"].map(|filter| (filter, options));
    let (mut client, answer) = connect(Version::V5, "new").accepted(&broker);
    let available = answer.properties().wildcard_subscription_available();
    assert_eq!(available, Some(false));
    assert_eq!(client.subscribe_all(&filters, &[]), [0xA2, 1, 0xA2]);
    let mut client = Client::new(&broker, Version::V311, "old");
    assert_eq!(client.subscribe_all(&filters, &[]), [0x80, 1, 0x80]);
}

#[test]
fn topic_levels_are_bounded() {
    let broker = Broker::setup().set("limits.max_topic_levels=3").start();
    let mut client = Client::new(&broker, Version::V5, "deep");
    let options = SubscribeOptions::new(QoS::AtLeastOnce);
    assert_eq!(
        client.subscribe_all(&[("a/b/c", options), ("a/b/c/d", options)], &[]),
        [1, 0x8F]
    );
    client.publish("a/b/c", b"", QoS::AtLeastOnce);
    client.expect_message("a/b/c", b"");
    client.send(Packet::Publish(Publish {
        topic: "a/b/c/d",
        qos: QoS::AtLeastOnce,
        packet_id: Some(id(9)),
        ..Publish::default()
    }));
    client.expect_end(ReasonCode::TOPIC_NAME_INVALID);
}

#[test]
fn connections_are_bounded() {
    let broker = Broker::setup().set("limits.max_connections=2").start();
    let first = client_in_a_free_place(&broker, "one");
    let _second = client_in_a_free_place(&broker, "two");
    for version in [Version::V5, Version::V311] {
        connect(version, "third").refused(&broker, version_reason(version));
    }
    first.disconnect();
    client_in_a_free_place(&broker, "three");
}

/// What a client that finds no place is told.
fn version_reason(version: Version) -> ReasonCode {
    match version.is_v5() {
        true => ReasonCode::SERVER_BUSY,
        false => ReasonCode(3),
    }
}

/// A place is free a moment after the connection that had it has ended; at first, after the one that looked whether
/// the broker listens.
fn client_in_a_free_place(broker: &Broker, client_id: &str) -> Client {
    let mut connected = None;
    wait_until("a place is free", || {
        let mut client = Client::open(broker.address(), Version::V5);
        let answered = client.try_send_bytes(&connect(Version::V5, client_id).bytes())
            && client
                .next()
                .is_some_and(|answer| answer.connack().reason == ReasonCode::SUCCESS);
        connected = answered.then_some(client);
        answered
    });
    connected.expect("a connected client")
}

/// Publishes "0" to "5".
fn publish_six(broker: &Broker) {
    let mut publisher = Client::new(broker, Version::V5, "full-pub");
    for n in 0..6 {
        publisher.publish("full", n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
}

#[test]
fn a_full_queue_of_a_clean_session_drops_the_newest_or_the_oldest() {
    for (policy, kept) in [
        ("drop-newest", ["1", "2", "3"]),
        ("drop-oldest", ["3", "4", "5"]),
    ] {
        let broker = Broker::setup()
            .set("limits.max_queued_messages=3")
            .set(&format!("limits.queue_full={policy}"))
            .start();
        let mut client = connect(Version::V5, "full")
            .with(Property::ReceiveMaximum(1))
            .open(&broker, false);
        client.subscribe("full", QoS::AtLeastOnce);
        publish_six(&broker);
        client.expect_message("full", b"0");
        for payload in kept {
            client.expect_message("full", payload.as_bytes());
        }
        client.expect_silence();
    }
}

#[test]
fn a_full_queue_of_a_persistent_session_keeps_what_it_has() {
    for policy in ["drop-newest", "drop-oldest"] {
        let broker = Broker::setup()
            .set("limits.max_queued_messages=3")
            .set(&format!("limits.queue_full={policy}"))
            .start();
        let persistent = connect(Version::V5, "full").persistent();
        persistent
            .open(&broker, false)
            .subscribe("full", QoS::AtLeastOnce);
        publish_six(&broker);
        let mut client = persistent.open(&broker, true);
        for payload in ["0", "1", "2"] {
            client.expect_message("full", payload.as_bytes());
        }
        client.expect_silence();
        // There is room again.
        Client::new(&broker, Version::V5, "pub").publish("full", b"next", QoS::AtLeastOnce);
        client.expect_message("full", b"next");
    }
}

#[test]
fn retained_messages_are_bounded() {
    let broker = Broker::setup()
        .set("limits.max_retained=2")
        .allow_log("retained")
        .start();
    let mut client = Client::new(&broker, Version::V5, "keeper");
    for topic in ["r/1", "r/2", "r/1"] {
        client.publish_retained(topic, b"x", QoS::AtLeastOnce);
    }
    client.send(Packet::Publish(Publish {
        topic: "r/3",
        payload: b"x",
        retain: true,
        qos: QoS::AtLeastOnce,
        packet_id: Some(id(100)),
        ..Publish::default()
    }));
    assert_eq!(client.receive().reason(), ReasonCode::QUOTA_EXCEEDED);
    client.publish_retained("r/2", b"", QoS::AtLeastOnce);
    client.publish_retained("r/3", b"x", QoS::AtLeastOnce);
}

#[test]
fn persistent_sessions_are_bounded() {
    let broker = Broker::setup()
        .set("limits.max_sessions=1")
        .allow_log("session")
        .start();
    let mut first = connect(Version::V5, "first")
        .persistent()
        .open(&broker, false);
    connect(Version::V5, "second")
        .persistent()
        .refused(&broker, ReasonCode::QUOTA_EXCEEDED);
    Client::new(&broker, Version::V5, "clean").expect_silence();
    first.expect_silence();
}

#[test]
fn members_of_a_shared_group_are_bounded() {
    let broker = Broker::setup()
        .set("limits.max_shared_group_members=1")
        .start();
    let options = SubscribeOptions::new(QoS::AtMostOnce);
    let mut first = Client::new(&broker, Version::V5, "first");
    first.subscribe("$share/group/t", QoS::AtMostOnce);
    let mut second = Client::new(&broker, Version::V5, "second");
    assert_eq!(
        second.subscribe_all(&[("$share/group/t", options)], &[]),
        [0x97]
    );
    second.subscribe("$share/other/t", QoS::AtMostOnce);
}

#[test]
fn a_slow_reader_loses_qos_0_and_nothing_else() {
    let broker = Broker::setup()
        .set("limits.outbox_bytes=65536")
        .allow_log("slow")
        .start();
    let mut slow = Client::new(&broker, Version::V5, "slow");
    slow.subscribe("slow/#", QoS::AtLeastOnce);
    let mut quick = Client::new(&broker, Version::V5, "quick");
    quick.subscribe("slow/0", QoS::AtMostOnce);
    let mut publisher = Client::new(&broker, Version::V5, "slow-pub");
    let payload = vec![b'x'; 100_000];
    // Far more than the outbox and the kernel's buffers hold together; the quick reader gets all of it.
    for n in 0..400 {
        publisher.publish("slow/0", &payload, QoS::AtMostOnce);
        quick.expect_message("slow/0", &payload);
        if n % 40 == 0 {
            publisher.publish("slow/1", &[n as u8], QoS::AtLeastOnce);
        }
    }
    let mut zero = 0;
    let mut one = 0;
    while one < 10 {
        let received = slow.receive();
        slow.answer(&received);
        if received.publish().topic == "slow/0" {
            zero += 1
        } else {
            one += 1
        }
    }
    assert!(
        zero < 400,
        "nothing was dropped for a reader that did not read"
    );
}
