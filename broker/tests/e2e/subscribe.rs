//! SUBSCRIBE and UNSUBSCRIBE, filters, overlapping subscriptions, options.

use crate::support::*;

fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions::new(qos)
}

// [MQTT-3.8.4-1] v311 [MQTT-3.8.4-2] v311 [MQTT-3.8.4-4] v311 [MQTT-3.8.4-5] v311 [MQTT-3.9.3-1] v311
// [MQTT-3.9.3-2] v311 [MQTT-2.3.1-7] v311
// [MQTT-3.8.4-1] v5 [MQTT-3.8.4-2] v5 [MQTT-3.8.4-5] v5 [MQTT-3.8.4-6] v5 [MQTT-3.8.4-7] v5 [MQTT-3.9.3-1] v5
// [MQTT-3.9.3-2] v5 [MQTT-2.2.1-6] v5
#[test]
fn a_suback_has_a_code_for_each_filter_in_order() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::new(&broker, version, "codes");
        let filters = [
            ("s/2", options(QoS::ExactlyOnce)),
            ("s/0", options(QoS::AtMostOnce)),
            ("s/1/#", options(QoS::AtLeastOnce)),
            ("s/+/x", options(QoS::ExactlyOnce)),
        ];
        assert_eq!(client.subscribe_all(&filters, &[]), [2, 0, 1, 2]);
    }
}

// [MQTT-3.8.4-3] v311 [MQTT-3.8.4-3] v5
#[test]
fn the_same_filter_replaces_its_subscription() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::new(&broker, version, "replace");
        let mut publisher = Client::new(&broker, version, "replace-pub");
        for qos in [QoS::ExactlyOnce, QoS::AtMostOnce, QoS::AtLeastOnce] {
            client.subscribe("replace/+", qos);
            publisher.publish("replace/x", b"1", QoS::ExactlyOnce);
            assert_eq!(client.expect_message("replace/x", b"1").publish().qos, qos);
            client.expect_silence();
        }
        // Within one packet too: the last one counts.
        let both = [
            ("replace/+", options(QoS::ExactlyOnce)),
            ("replace/+", options(QoS::AtMostOnce)),
        ];
        assert_eq!(client.subscribe_all(&both, &[]), [2, 0]);
        publisher.publish("replace/x", b"2", QoS::ExactlyOnce);
        assert_eq!(
            client.expect_message("replace/x", b"2").publish().qos,
            QoS::AtMostOnce
        );
        client.expect_silence();
    }
}

// [MQTT-3.3.2-3] v311 [MQTT-4.7.1-2] v311 [MQTT-4.7.1-3] v311 [MQTT-4.7.3-4] v311
// [MQTT-3.3.2-3] v5 [MQTT-4.7.1-1] v5 [MQTT-4.7.1-2] v5 [MQTT-4.7.3-4] v5
#[test]
fn filters_match_level_by_level() {
    let broker = Broker::setup().memory().start();
    let topics = [
        "a",
        "/a",
        "a/",
        "/",
        "a/b",
        "a/b/c",
        "a//c",
        "A/b",
        "a/B",
        "b",
        "ä",
        "a\u{308}",
        "a b",
        "\u{FEFF}a",
        "a/+b",
    ];
    let topics = topics.map(|topic| topic.replace('+', "plus"));
    let cases: [(&str, &[&str]); 14] = [
        ("a", &["a"]),
        ("+", &["a", "b", "ä", "a\u{308}", "a b", "\u{FEFF}a"]),
        ("/+", &["/a", "/"]),
        ("+/", &["a/", "/"]),
        ("+/+", &["/a", "a/", "/", "a/b", "A/b", "a/B", "a/plusb"]),
        (
            "a/#",
            &["a", "a/", "a/b", "a/b/c", "a//c", "a/B", "a/plusb"],
        ),
        ("a/+/c", &["a/b/c", "a//c"]),
        ("a//c", &["a//c"]),
        ("a/b/#", &["a/b", "a/b/c"]),
        ("+/b/+", &["a/b/c"]),
        ("/#", &["/a", "/"]),
        ("ä", &["ä"]),
        ("\u{FEFF}a", &["\u{FEFF}a"]),
        ("A/b", &["A/b"]),
    ];
    for version in BOTH {
        let mut publisher = Client::new(&broker, version, "match-pub");
        for (filter, wanted) in cases {
            let mut client = Client::new(&broker, version, "match");
            client.subscribe(filter, QoS::AtLeastOnce);
            client.subscribe("the/end", QoS::AtLeastOnce);
            for topic in &topics {
                publisher.publish(topic, filter.as_bytes(), QoS::AtLeastOnce);
            }
            publisher.publish("the/end", b"", QoS::AtLeastOnce);
            for topic in wanted {
                client.expect_message(topic, filter.as_bytes());
            }
            client.expect_message("the/end", b"");
        }
    }
}

// [MQTT-4.7.2-1] v311 [MQTT-4.7.2-1] v5
#[test]
fn a_leading_wildcard_does_not_match_topics_that_begin_with_a_dollar() {
    let broker = Broker::setup().set("features.sys_interval=1").start();
    for version in BOTH {
        let mut wild = Client::new(&broker, version, "wild");
        for filter in ["#", "+/#", "+/broker/#", "+/+/uptime"] {
            wild.subscribe(filter, QoS::AtMostOnce);
        }
        let mut sys = Client::new(&broker, version, "sys");
        sys.subscribe("$SYS/#", QoS::AtMostOnce);
        sys.subscribe("$SYS/broker/+", QoS::AtMostOnce);
        sys.receive().publish();
        wild.expect_silence();
    }
}

#[test]
fn the_sys_topics_that_mosquitto_users_know_are_there() {
    let broker = Broker::setup().set("features.sys_interval=1").start();
    let mut client = Client::new(&broker, Version::V5, "sys");
    client.subscribe("$SYS/#", QoS::AtMostOnce);
    let known = [
        "$SYS/broker/version",
        "$SYS/broker/uptime",
        "$SYS/broker/clients/connected",
        "$SYS/broker/clients/total",
        "$SYS/broker/messages/received",
        "$SYS/broker/messages/sent",
        "$SYS/broker/publish/messages/received",
        "$SYS/broker/bytes/received",
        "$SYS/broker/subscriptions/count",
        "$SYS/broker/retained messages/count",
        "$SYS/broker/load/messages/received/1min",
    ];
    let mut missing: std::collections::BTreeSet<_> = known.into_iter().collect();
    wait_until("all known $SYS topics have come", || {
        missing.remove(client.receive().publish().topic);
        missing.is_empty()
    });
}

// [MQTT-3.8.3-3] v5
#[test]
fn no_local_keeps_a_clients_own_messages_away() {
    let broker = Broker::start();
    let mut client = Client::new(&broker, Version::V5, "self");
    let no_local = SubscribeOptions {
        no_local: true,
        ..options(QoS::AtLeastOnce)
    };
    client.subscribe_with("local/no", no_local, &[]);
    client.subscribe("local/yes", QoS::AtLeastOnce);
    client.publish("local/no", b"mine", QoS::AtLeastOnce);
    client.publish("local/yes", b"mine", QoS::AtLeastOnce);
    client.expect_message("local/yes", b"mine");
    Client::new(&broker, Version::V5, "other").publish("local/no", b"other's", QoS::AtLeastOnce);
    client.expect_message("local/no", b"other's");
    // It is the client id that counts, also from one connection to the next.
    let persistent = connect(Version::V5, "self").persistent();
    drop(client);
    connect(Version::V5, "self")
        .open(&broker, false)
        .disconnect();
    let mut client = persistent.open(&broker, false);
    client.subscribe_with("local/no", no_local, &[]);
    client.disconnect();
    let mut client = persistent.open(&broker, true);
    client.publish("local/no", b"mine", QoS::AtLeastOnce);
    client.expect_silence();
}

// [MQTT-3.3.5-1] v311 [MQTT-3.3.4-2] v5
#[test]
fn overlapping_subscriptions_respect_the_highest_qos() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::new(&broker, version, "overlap");
        client.subscribe("over/#", QoS::AtMostOnce);
        client.subscribe("over/+", QoS::ExactlyOnce);
        client.subscribe("over/lap", QoS::AtLeastOnce);
        let mut publisher = Client::new(&broker, version, "overlap-pub");
        publisher.publish("over/lap", b"x", QoS::ExactlyOnce);
        assert_eq!(
            client.expect_message("over/lap", b"x").publish().qos,
            QoS::ExactlyOnce
        );
        client.expect_silence();
    }
}

// [MQTT-3.3.4-3] v5 [MQTT-3.3.4-4] v5
#[test]
fn one_copy_carries_the_identifiers_of_all_subscriptions() {
    let broker = Broker::start();
    let mut client = Client::new(&broker, Version::V5, "ids");
    let with = |number| [Property::SubscriptionIdentifier(number)];
    client.subscribe_with("ids/#", options(QoS::AtMostOnce), &with(1));
    client.subscribe_with("ids/+", options(QoS::AtLeastOnce), &with(268_435_455));
    client.subscribe_with("ids/x", options(QoS::AtMostOnce), &[]);
    client.subscribe_with("ids/y", options(QoS::AtMostOnce), &with(1));
    let mut publisher = Client::new(&broker, Version::V5, "ids-pub");
    let identifiers = |received: &Received| {
        let mut list: Vec<u32> = received.properties().subscription_identifiers().collect();
        list.sort_unstable();
        list
    };
    publisher.publish("ids/x", b"", QoS::AtLeastOnce);
    assert_eq!(
        identifiers(&client.expect_message("ids/x", b"")),
        [1, 268_435_455]
    );
    publisher.publish("ids/x/deep", b"", QoS::AtLeastOnce);
    assert_eq!(identifiers(&client.expect_message("ids/x/deep", b"")), [1]);
    // A subscription that is replaced without an identifier has none any more.
    client.subscribe_with("ids/#", options(QoS::AtMostOnce), &[]);
    client.subscribe_with("ids/+", options(QoS::AtMostOnce), &with(7));
    publisher.publish("ids/z", b"", QoS::AtLeastOnce);
    assert_eq!(identifiers(&client.expect_message("ids/z", b"")), [7]);
    client.expect_silence();
}

// [MQTT-3.3.4-3] v5
#[test]
fn subscription_identifiers_survive_a_reconnect_and_a_crash() {
    let mut broker = Broker::start();
    let persistent = connect(Version::V5, "ids-kept").persistent();
    let mut client = persistent.open(&broker, false);
    client.subscribe_with(
        "kept/#",
        options(QoS::AtLeastOnce),
        &[Property::SubscriptionIdentifier(42)],
    );
    client.drop_connection();
    for kill in [false, true] {
        let mut publisher = Client::new(&broker, Version::V5, "ids-kept-pub");
        publisher.publish("kept/queued", b"", QoS::AtLeastOnce);
        if kill {
            broker.kill9();
            broker.start_again();
        }
        let mut client = persistent.open(&broker, true);
        let queued = client.expect_message("kept/queued", b"");
        assert_eq!(
            queued
                .properties()
                .subscription_identifiers()
                .collect::<Vec<_>>(),
            [42]
        );
        let mut publisher = Client::new(&broker, Version::V5, "ids-kept-pub");
        publisher.publish("kept/live", b"", QoS::AtLeastOnce);
        let live = client.expect_message("kept/live", b"");
        assert_eq!(
            live.properties()
                .subscription_identifiers()
                .collect::<Vec<_>>(),
            [42]
        );
        client.expect_silence();
        client.drop_connection();
    }
}

// [MQTT-3.10.4-1] v311 [MQTT-3.10.4-2] v311 [MQTT-3.10.4-4] v311 [MQTT-3.10.4-5] v311 [MQTT-3.10.4-6] v311
// [MQTT-3.10.4-1] v5 [MQTT-3.10.4-2] v5 [MQTT-3.10.4-4] v5 [MQTT-3.10.4-5] v5 [MQTT-3.10.4-6] v5
// [MQTT-3.11.3-1] v5 [MQTT-3.11.3-2] v5 [MQTT-2.3.1-7] v311 [MQTT-2.2.1-6] v5
#[test]
fn an_unsubscribe_removes_exactly_the_filters_it_names() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::new(&broker, version, "un");
        let mut publisher = Client::new(&broker, version, "un-pub");
        for filter in ["un/+", "un/a", "un/b"] {
            client.subscribe(filter, QoS::AtLeastOnce);
        }
        let codes = client.unsubscribe(&["un/b", "un/#", "Un/a", "un/+", "un/b"]);
        let wanted: &[u8] = if version.is_v5() {
            &[0, 0x11, 0x11, 0, 0x11]
        } else {
            &[]
        };
        assert_eq!(codes, wanted);
        for topic in ["un/a", "un/b", "un/c"] {
            publisher.publish(topic, b"x", QoS::AtLeastOnce);
        }
        client.expect_message("un/a", b"x");
        client.expect_silence();
    }
}

// [MQTT-3.10.4-3] v311 [MQTT-3.10.4-3] v5
#[test]
fn deliveries_under_way_are_finished_after_an_unsubscribe() {
    let broker = Broker::start();
    for version in BOTH {
        let name = format!("under-way-{version:?}");
        let persistent = connect(version, &name).persistent();
        let mut client = persistent.open(&broker, false);
        client.subscribe("way", QoS::ExactlyOnce);
        Client::new(&broker, version, "way-pub").publish("way", b"x", QoS::ExactlyOnce);
        let first = client.expect_unanswered("way", b"x");
        client.unsubscribe(&["way"]);
        client.drop_connection();
        let mut client = persistent.open(&broker, true);
        let again = client.expect_unanswered("way", b"x");
        assert_eq!(again.publish().packet_id, first.publish().packet_id);
        client.answer(&again);
        client.expect_silence();
        drop(client);
        connect(version, &name).open(&broker, false);
    }
}

// [MQTT-3.2.2-9] v5 [MQTT-3.2.2-10] v5 [MQTT-3.2.2-12] v5
#[test]
fn a_broker_with_a_maximum_qos_says_so_and_grants_no_more() {
    let broker = Broker::setup().set("features.maximum_qos=1").start();
    let (mut client, answer) = connect(Version::V5, "max-qos").accepted(&broker);
    assert_eq!(answer.properties().maximum_qos(), Some(QoS::AtLeastOnce));
    assert_eq!(
        client.subscribe_all(&[("m", options(QoS::ExactlyOnce))], &[]),
        [1]
    );
    connect(Version::V5, "max-qos-will")
        .will("t", b"", QoS::ExactlyOnce, false)
        .refused(&broker, ReasonCode::QOS_NOT_SUPPORTED);
    client.send(Packet::Publish(Publish {
        topic: "m",
        qos: QoS::ExactlyOnce,
        packet_id: Some(id(1)),
        ..Publish::default()
    }));
    client.expect_end(ReasonCode::QOS_NOT_SUPPORTED);
}

// [MQTT-3.8.3-2] v311
#[test]
fn features_that_are_switched_off_are_announced_and_refused() {
    let broker = Broker::setup()
        .set("features.wildcard_subscriptions=false")
        .set("features.subscription_identifiers=false")
        .set("features.shared_subscriptions=false")
        .start();
    let (mut client, answer) = connect(Version::V5, "off").accepted(&broker);
    let told = answer.properties();
    assert_eq!(told.wildcard_subscription_available(), Some(false));
    assert_eq!(told.subscription_identifier_available(), Some(false));
    assert_eq!(told.shared_subscription_available(), Some(false));
    let plain = options(QoS::AtMostOnce);
    let filters = [
        ("a/#", plain),
        ("a/+/b", plain),
        ("$share/g/a", plain),
        ("a", plain),
    ];
    assert_eq!(client.subscribe_all(&filters, &[]), [0xA2, 0xA2, 0x9E, 0]);
    // Clients of 3.1.1 may share too where it is available, so what is switched off is switched off for them.
    let mut old = Client::new(&broker, Version::V311, "off-old");
    assert_eq!(old.subscribe_all(&filters, &[]), [0x80, 0x80, 0x80, 0]);
}

#[test]
fn a_subscription_is_in_force_when_its_suback_has_come() {
    let broker = Broker::start();
    let mut publisher = Client::new(&broker, Version::V5, "force-pub");
    for round in 0..100 {
        let topic = format!("force/{round}");
        let mut client = Client::new(&broker, Version::V5, "force");
        client.subscribe(&topic, QoS::AtMostOnce);
        publisher.publish(&topic, b"x", QoS::AtMostOnce);
        client.expect_message(&topic, b"x");
    }
}
