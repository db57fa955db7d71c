//! Wills: what publishes them, what cancels them, and what they carry.

use crate::support::*;

/// A subscriber to everything under `will/`.
fn witness(broker: &Broker, version: Version) -> Client {
    let mut witness = Client::new(broker, version, "witness");
    witness.subscribe("will/#", QoS::ExactlyOnce);
    witness
}

// [MQTT-3.1.2-8] v311 [MQTT-3.1.2-9] v311 [MQTT-3.1.2-7] v5 [MQTT-3.1.2-8] v5 [MQTT-3.1.2-9] v5
#[test]
fn a_broken_connection_publishes_the_will_at_its_qos() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let client = connect(version, "mortal")
                .will("will/qos", b"gone", qos, false)
                .open(&broker, false);
            client.drop_connection();
            let will = witness.expect_message("will/qos", b"gone");
            assert_eq!(will.publish().qos, qos);
        }
    }
}

// [MQTT-3.14.4-3] v311 [MQTT-3.1.2-10] v311 [MQTT-3.14.4-3] v5 [MQTT-3.1.2-10] v5
#[test]
fn a_proper_disconnect_discards_the_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        let client = connect(version, "polite")
            .will("will/polite", b"no", QoS::AtLeastOnce, false)
            .open(&broker, false);
        client.disconnect();
        // Nor does it come when the client id is used again.
        connect(version, "polite")
            .open(&broker, false)
            .drop_connection();
        Client::new(&broker, version, "marker").publish("will/marker", b"end", QoS::AtLeastOnce);
        witness.expect_message("will/marker", b"end");
    }
}

// [MQTT-3.1.2-10] v311 [MQTT-3.1.2-10] v5
#[test]
fn a_will_is_published_once() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        let name = format!("once-{version:?}");
        let persistent = connect(version, &name).persistent();
        connect(version, &name)
            .persistent()
            .will("will/once", b"gone", QoS::AtLeastOnce, false)
            .open(&broker, false)
            .drop_connection();
        witness.expect_message("will/once", b"gone");
        persistent.open(&broker, true).drop_connection();
        Client::new(&broker, version, "marker").publish("will/marker", b"end", QoS::AtLeastOnce);
        witness.expect_message("will/marker", b"end");
    }
}

// [MQTT-3.1.2-12] v311
#[test]
fn without_a_will_nothing_is_published() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        connect(version, "plain")
            .open(&broker, false)
            .drop_connection();
        Client::new(&broker, version, "marker").publish("will/marker", b"end", QoS::AtLeastOnce);
        witness.expect_message("will/marker", b"end");
    }
}

#[test]
fn a_disconnect_with_will_publishes_it() {
    let broker = Broker::start();
    let mut witness = witness(&broker, Version::V5);
    for reason in [
        ReasonCode::DISCONNECT_WITH_WILL_MESSAGE,
        ReasonCode::UNSPECIFIED_ERROR,
    ] {
        let mut client = connect(Version::V5, "speaker")
            .will("will/spoken", b"farewell", QoS::AtLeastOnce, false)
            .open(&broker, false);
        client.send(Packet::Disconnect(Disconnect {
            reason,
            ..Disconnect::default()
        }));
        client.expect_closed();
        witness.expect_message("will/spoken", b"farewell");
    }
}

#[test]
fn a_protocol_error_and_a_takeover_publish_the_will() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        let will =
            connect(version, "faulty").will("will/faulty", b"erred", QoS::AtLeastOnce, false);
        let mut client = will.open(&broker, false);
        client.send_bytes(b"\xF3\x00");
        witness.expect_message("will/faulty", b"erred");
        drop(client);
        let _first = connect(version, "robbed")
            .will("will/robbed", b"taken", QoS::AtLeastOnce, false)
            .open(&broker, false);
        let _second = Client::new(&broker, version, "robbed");
        witness.expect_message("will/robbed", b"taken");
    }
}

// [MQTT-3.1.2-16] v311 [MQTT-3.1.2-17] v311 [MQTT-3.1.2-14] v5 [MQTT-3.1.2-15] v5
#[test]
fn a_will_is_retained_if_it_says_so() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = witness(&broker, version);
        for (topic, retain) in [("will/kept", true), ("will/not-kept", false)] {
            connect(version, "mortal")
                .will(topic, b"gone", QoS::AtLeastOnce, retain)
                .open(&broker, false)
                .drop_connection();
            let will = witness.expect_message(topic, b"gone");
            assert!(
                !will.publish().retain,
                "an established subscription gets it without the flag"
            );
        }
        let mut late = Client::new(&broker, version, "late");
        late.subscribe("will/#", QoS::AtMostOnce);
        assert!(late.expect_message("will/kept", b"gone").publish().retain);
        late.expect_silence();
        // Acknowledged: it is gone before the next witness subscribes.
        late.publish_retained("will/kept", b"", QoS::AtLeastOnce);
    }
}

// [MQTT-3.1.3-10] v5 [MQTT-3.1.2-9] v5
#[test]
fn a_will_carries_its_properties_in_order() {
    let broker = Broker::start();
    let mut witness = witness(&broker, Version::V5);
    let will = [
        Property::WillDelayInterval(0),
        Property::PayloadFormatIndicator(1),
        Property::MessageExpiryInterval(600),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("will/answer"),
        Property::CorrelationData(b"\x00\xFF"),
        Property::UserProperty("b", "1"),
        Property::UserProperty("a", "2"),
        Property::UserProperty("b", "0"),
    ];
    connect(Version::V5, "rich")
        .will_with(
            "will/rich",
            "völlig".as_bytes(),
            QoS::AtLeastOnce,
            false,
            &will,
        )
        .open(&broker, false)
        .drop_connection();
    let message = witness.expect_message("will/rich", "völlig".as_bytes());
    let got = message.properties();
    assert_eq!(got.payload_format_indicator(), Some(1));
    assert!(
        got.message_expiry_interval()
            .is_some_and(|left| (1..=600).contains(&left))
    );
    assert_eq!(got.content_type(), Some("text/plain"));
    assert_eq!(got.response_topic(), Some("will/answer"));
    assert_eq!(got.correlation_data(), Some(&b"\x00\xFF"[..]));
    assert_eq!(
        got.user_properties().collect::<Vec<_>>(),
        [("b", "1"), ("a", "2"), ("b", "0")]
    );
    assert_eq!(got.will_delay_interval(), None);
}

/// A client whose will waits `delay` seconds and whose session lasts `expiry` seconds, gone without a DISCONNECT.
fn leave_with_delay(broker: &Broker, name: &str, delay: u32, expiry: u32) {
    connect(Version::V5, name)
        .resume()
        .expiry(expiry)
        .will_with(
            &format!("will/{name}"),
            b"",
            QoS::AtLeastOnce,
            false,
            &[Property::WillDelayInterval(delay)],
        )
        .open(broker, false)
        .drop_connection();
}

// [MQTT-3.1.3-9] v5 [MQTT-3.1.2-8] v5
#[test]
fn a_return_within_the_delay_cancels_the_will() {
    let broker = Broker::start();
    let mut witness = witness(&broker, Version::V5);
    leave_with_delay(&broker, "returns", 1, 600);
    let _client = connect(Version::V5, "returns")
        .resume()
        .expiry(600)
        .open(&broker, true);
    leave_with_delay(&broker, "stays-away", 2, 600);
    witness.expect_message("will/stays-away", b"");
}

// [MQTT-3.1.2-8] v5
#[test]
fn a_will_comes_at_the_end_of_its_delay_or_of_the_session_whichever_is_first() {
    let broker = Broker::start();
    let mut witness = witness(&broker, Version::V5);
    // Not in the order of their delays: the session's end counts where it is earlier.
    leave_with_delay(&broker, "third", 3, 600);
    leave_with_delay(&broker, "second", 600, 1);
    leave_with_delay(&broker, "first", 600, 0);
    for name in ["first", "second", "third"] {
        witness.expect_message(&format!("will/{name}"), b"");
    }
}

// [MQTT-3.1.2-8] v5
#[test]
fn a_clean_start_ends_the_session_and_so_publishes_a_delayed_will() {
    let broker = Broker::start();
    let mut witness = witness(&broker, Version::V5);
    leave_with_delay(&broker, "replaced", 600, 600);
    let _client = connect(Version::V5, "replaced").open(&broker, false);
    witness.expect_message("will/replaced", b"");
}

#[test]
fn a_delayed_will_survives_a_crash_of_the_broker() {
    let mut broker = Broker::start();
    let persistent = connect(Version::V5, "lasting-witness").persistent();
    persistent
        .open(&broker, false)
        .subscribe("will/#", QoS::AtLeastOnce);
    leave_with_delay(&broker, "delayed", 2, 600);
    // A client that is connected while the broker dies has lost its connection too.
    let _connected = connect(Version::V5, "connected")
        .resume()
        .expiry(600)
        .will_with(
            "will/connected",
            b"",
            QoS::AtLeastOnce,
            false,
            &[Property::WillDelayInterval(3)],
        )
        .open(&broker, false);
    broker.kill9();
    broker.start_again();
    let mut witness = persistent.open(&broker, true);
    witness.expect_message("will/delayed", b"");
    witness.expect_message("will/connected", b"");
}
