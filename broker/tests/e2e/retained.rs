//! Retained messages: kept, replaced, removed, and given to new subscriptions.

use crate::support::*;

/// Options with a retain handling.
fn handling(retain_handling: RetainHandling) -> SubscribeOptions {
    SubscribeOptions {
        retain_handling,
        ..SubscribeOptions::new(QoS::AtLeastOnce)
    }
}

// [MQTT-3.3.1-5] v311 [MQTT-3.3.1-6] v311 [MQTT-3.3.1-8] v311 [MQTT-3.3.1-7] v311 [MQTT-3.3.1-5] v5 [MQTT-3.3.1-9] v5
#[test]
fn a_new_subscription_gets_the_last_retained_message_of_each_topic() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = Client::new(&broker, version, "ret-pub");
        publisher.publish_retained("ret/1", b"old", QoS::AtLeastOnce);
        publisher.publish_retained("ret/1", b"new", QoS::ExactlyOnce);
        publisher.publish_retained("ret/2/x", b"deep", QoS::AtLeastOnce);
        publisher.publish_retained("ret/2/x", b"zero", QoS::AtMostOnce);
        publisher.expect_silence();
        let mut reader = Client::new(&broker, version, "ret-sub");
        reader.subscribe("ret/#", QoS::ExactlyOnce);
        let mut got = Vec::new();
        for _ in 0..2 {
            let received = reader.receive();
            reader.answer(&received);
            let publish = received.publish();
            assert!(publish.retain, "{publish:?}");
            got.push((
                publish.topic.to_owned(),
                publish.payload.to_vec(),
                publish.qos,
            ));
        }
        got.sort();
        assert_eq!(
            got,
            [
                ("ret/1".to_owned(), b"new".to_vec(), QoS::ExactlyOnce),
                ("ret/2/x".to_owned(), b"zero".to_vec(), QoS::AtMostOnce)
            ]
        );
        reader.expect_silence();
        for topic in ["ret/1", "ret/2/x"] {
            publisher.publish_retained(topic, b"", QoS::AtLeastOnce);
        }
    }
}

// [MQTT-3.3.1-10] v311 [MQTT-3.3.1-11] v311 [MQTT-3.3.1-6] v5 [MQTT-3.3.1-7] v5
#[test]
fn an_empty_retained_message_removes_and_is_delivered() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = Client::new(&broker, version, "rm-pub");
        publisher.publish_retained("rm", b"x", QoS::AtLeastOnce);
        let mut established = Client::new(&broker, version, "rm-sub");
        established.subscribe("rm", QoS::AtLeastOnce);
        established.expect_message("rm", b"x");
        publisher.publish_retained("rm", b"", QoS::AtLeastOnce);
        assert!(!established.expect_message("rm", b"").publish().retain);
        let mut late = Client::new(&broker, version, "rm-late");
        late.subscribe("rm", QoS::AtLeastOnce);
        late.expect_silence();
    }
}

// [MQTT-3.3.1-12] v311 [MQTT-3.3.1-8] v5
#[test]
fn a_message_without_the_flag_leaves_the_retained_one_alone() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = Client::new(&broker, version, "plain-pub");
        publisher.publish("plain", b"not kept", QoS::AtLeastOnce);
        let mut reader = Client::new(&broker, version, "plain-sub");
        reader.subscribe("plain", QoS::AtLeastOnce);
        reader.expect_silence();
        publisher.publish_retained("plain", b"kept", QoS::AtLeastOnce);
        publisher.publish("plain", b"passing", QoS::AtLeastOnce);
        publisher.publish("plain", b"", QoS::AtLeastOnce);
        let mut late = Client::new(&broker, version, "plain-late");
        late.subscribe("plain", QoS::AtLeastOnce);
        late.expect_message("plain", b"kept");
        late.expect_silence();
        publisher.publish_retained("plain", b"", QoS::AtLeastOnce);
    }
}

// [MQTT-3.3.1-9] v311 [MQTT-3.3.1-12] v5 [MQTT-3.3.1-13] v5
#[test]
fn an_established_subscription_sees_the_flag_only_as_published() {
    let broker = Broker::start();
    for version in BOTH {
        let mut plain = Client::new(&broker, version, "flag-plain");
        plain.subscribe("flag", QoS::AtMostOnce);
        let mut publisher = Client::new(&broker, version, "flag-pub");
        publisher.publish_retained("flag", b"x", QoS::AtLeastOnce);
        assert!(!plain.expect_message("flag", b"x").publish().retain);
        publisher.publish_retained("flag", b"", QoS::AtLeastOnce);
    }
    let mut as_published = Client::new(&broker, Version::V5, "flag-rap");
    let options = SubscribeOptions {
        retain_as_published: true,
        ..SubscribeOptions::new(QoS::AtMostOnce)
    };
    as_published.subscribe_with("flag", options, &[]);
    let mut publisher = Client::new(&broker, Version::V5, "flag-pub");
    publisher.publish_retained("flag", b"kept", QoS::AtLeastOnce);
    assert!(
        as_published
            .expect_message("flag", b"kept")
            .publish()
            .retain
    );
    publisher.publish("flag", b"not", QoS::AtLeastOnce);
    assert!(!as_published.expect_message("flag", b"not").publish().retain);
    // What a new subscription gets has the flag, whatever the option.
    let mut late = Client::new(&broker, Version::V5, "flag-late");
    late.subscribe("flag", QoS::AtMostOnce);
    assert!(late.expect_message("flag", b"kept").publish().retain);
}

// [MQTT-3.3.1-9] v5 [MQTT-3.3.1-10] v5 [MQTT-3.3.1-11] v5 [MQTT-3.8.4-4] v5
#[test]
fn retain_handling_says_when_retained_messages_come() {
    let broker = Broker::start();
    Client::new(&broker, Version::V5, "rh-pub").publish_retained("rh", b"x", QoS::AtLeastOnce);
    let mut client = Client::new(&broker, Version::V5, "rh");
    client.subscribe_with("rh", handling(RetainHandling::DoNotSend), &[]);
    client.expect_silence();
    client.subscribe_with("rh", handling(RetainHandling::SendIfNew), &[]);
    client.expect_silence();
    for _ in 0..2 {
        client.subscribe_with("rh", handling(RetainHandling::Send), &[]);
        client.expect_message("rh", b"x");
    }
    client.unsubscribe(&["rh"]);
    client.subscribe_with("rh", handling(RetainHandling::SendIfNew), &[]);
    client.expect_message("rh", b"x");
    client.expect_silence();
}

// [MQTT-3.3.1-10] v5
#[test]
fn a_resumed_subscription_is_not_new() {
    let broker = Broker::start();
    Client::new(&broker, Version::V5, "res-pub").publish_retained("res", b"x", QoS::AtLeastOnce);
    let persistent = connect(Version::V5, "res").persistent();
    let mut client = persistent.open(&broker, false);
    client.subscribe_with("res", handling(RetainHandling::SendIfNew), &[]);
    client.expect_message("res", b"x");
    client.disconnect();
    let mut client = persistent.open(&broker, true);
    client.subscribe_with("res", handling(RetainHandling::SendIfNew), &[]);
    client.expect_silence();
}

// [MQTT-3.8.4-3] v311 [MQTT-3.8.4-4] v5
#[test]
fn a_repeated_subscription_gets_retained_messages_again() {
    let broker = Broker::start();
    for version in BOTH {
        Client::new(&broker, version, "rep-pub").publish_retained("rep", b"x", QoS::AtLeastOnce);
        let mut client = Client::new(&broker, version, "rep");
        for _ in 0..3 {
            client.subscribe("rep", QoS::AtLeastOnce);
            client.expect_message("rep", b"x");
        }
        client.expect_silence();
    }
}

#[test]
fn a_retained_message_expires() {
    let broker = Broker::start();
    let mut publisher = Client::new(&broker, Version::V5, "exp-pub");
    for (topic, seconds) in [("exp/short", 1), ("exp/long", 600)] {
        let block = properties(&[Property::MessageExpiryInterval(seconds)]);
        publisher.publish_packet(Publish {
            topic,
            payload: b"x",
            retain: true,
            qos: QoS::AtLeastOnce,
            properties: block.as_properties(),
            ..Publish::default()
        });
    }
    let_seconds_pass(&broker, 2);
    let mut reader = Client::new(&broker, Version::V5, "exp-sub");
    reader.subscribe("exp/#", QoS::AtLeastOnce);
    let left = reader
        .expect_message("exp/long", b"x")
        .properties()
        .message_expiry_interval()
        .expect("an expiry");
    assert!((1..=598).contains(&left), "{left}");
    reader.expect_silence();
}

#[test]
fn retained_messages_and_their_properties_survive_a_crash() {
    let mut broker = Broker::start();
    let block = properties(&[
        Property::ContentType("text/plain"),
        Property::UserProperty("k", "v"),
    ]);
    Client::new(&broker, Version::V5, "crash-pub").publish_packet(Publish {
        topic: "crash/kept",
        payload: b"x",
        retain: true,
        qos: QoS::ExactlyOnce,
        properties: block.as_properties(),
        ..Publish::default()
    });
    let mut remover = Client::new(&broker, Version::V311, "crash-rm");
    remover.publish_retained("crash/removed", b"x", QoS::AtLeastOnce);
    remover.publish_retained("crash/removed", b"", QoS::AtLeastOnce);
    broker.kill9();
    broker.start_again();
    let mut reader = Client::new(&broker, Version::V5, "crash-sub");
    reader.subscribe("crash/#", QoS::ExactlyOnce);
    let kept = reader.expect_message("crash/kept", b"x");
    assert!(kept.publish().retain && kept.publish().qos == QoS::ExactlyOnce);
    assert_eq!(kept.properties().content_type(), Some("text/plain"));
    assert_eq!(
        kept.properties().user_properties().collect::<Vec<_>>(),
        [("k", "v")]
    );
    reader.expect_silence();
}

// [MQTT-3.2.2-13] v5
#[test]
fn a_broker_without_retained_messages_says_so() {
    let broker = Broker::setup()
        .set("features.retain_available=false")
        .start();
    let (mut client, answer) = connect(Version::V5, "no-ret").accepted(&broker);
    assert_eq!(answer.properties().retain_available(), Some(false));
    connect(Version::V5, "no-ret-will")
        .will("t", b"", QoS::AtMostOnce, true)
        .refused(&broker, ReasonCode::RETAIN_NOT_SUPPORTED);
    client.publish_retained("t", b"x", QoS::AtMostOnce);
    client.expect_end(ReasonCode::RETAIN_NOT_SUPPORTED);
}
