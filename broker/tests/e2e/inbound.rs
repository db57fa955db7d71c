//! Messages from a client to the broker: what is answered, and that QoS 2 comes through once.

use crate::support::*;

/// A PUBLISH of a client with everything that matters here.
fn publish<'a>(
    topic: &'a str,
    payload: &'a [u8],
    qos: QoS,
    packet_id: u16,
    dup: bool,
) -> Packet<'a> {
    Packet::Publish(Publish {
        topic,
        payload,
        qos,
        packet_id: Some(id(packet_id)),
        dup,
        ..Publish::default()
    })
}

fn ack(packet_id: u16) -> Ack<'static> {
    Ack::new(id(packet_id), ReasonCode::SUCCESS)
}

/// A client that is subscribed to what it publishes here, at every QoS.
fn pair(broker: &Broker, version: Version) -> (Client, Client) {
    let mut subscriber = Client::new(broker, version, "subscriber");
    subscriber.subscribe("in/#", QoS::ExactlyOnce);
    (Client::new(broker, version, "publisher"), subscriber)
}

// [MQTT-3.3.4-1] v311 [MQTT-2.3.1-6] v311 [MQTT-4.3.2-2] v311 [MQTT-4.3.3-2] v311 [MQTT-3.1.2-5] v311
// [MQTT-3.3.4-1] v5 [MQTT-2.2.1-5] v5 [MQTT-4.3.2-4] v5 [MQTT-4.3.3-8] v5 [MQTT-4.3.3-11] v5 [MQTT-4.3.1-1] v5
// [MQTT-3.4.2-1] v5 [MQTT-3.5.2-1] v5 [MQTT-3.7.2-1] v5
#[test]
fn each_qos_is_answered_as_it_asks() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, mut subscriber) = pair(&broker, version);
        client.publish("in/0", b"zero", QoS::AtMostOnce);
        client.expect_silence();
        client.send(publish("in/1", b"one", QoS::AtLeastOnce, 65_535, false));
        client.expect(Packet::PubAck(ack(65_535)));
        client.send(publish("in/2", b"two", QoS::ExactlyOnce, 1, false));
        client.expect(Packet::PubRec(ack(1)));
        client.send(Packet::PubRel(ack(1)));
        client.expect(Packet::PubComp(ack(1)));
        let zero = subscriber.expect_message("in/0", b"zero");
        assert_eq!(
            (
                zero.publish().qos,
                zero.publish().packet_id,
                zero.publish().dup
            ),
            (QoS::AtMostOnce, None, false)
        );
        subscriber.expect_message("in/1", b"one");
        subscriber.expect_message("in/2", b"two");
    }
}

// [MQTT-4.3.3-10] v5 [MQTT-4.3.3-2] v311
#[test]
fn a_repeated_qos_2_publish_is_answered_again_and_delivered_once() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, mut subscriber) = pair(&broker, version);
        client.send(publish("in/2", b"once", QoS::ExactlyOnce, 5, false));
        client.expect(Packet::PubRec(ack(5)));
        for dup in [true, false] {
            client.send(publish("in/2", b"once", QoS::ExactlyOnce, 5, dup));
            let again = client.receive();
            assert!(
                matches!(again.packet(), Packet::PubRec(ack) if ack.packet_id == id(5)),
                "{again:?}"
            );
        }
        client.send(Packet::PubRel(ack(5)));
        client.expect(Packet::PubComp(ack(5)));
        client.publish("in/marker", b"end", QoS::ExactlyOnce);
        subscriber.expect_message("in/2", b"once");
        subscriber.expect_message("in/marker", b"end");
    }
}

// [MQTT-4.3.3-12] v5 [MQTT-4.3.3-2] v311
#[test]
fn a_released_packet_id_stands_for_a_new_message() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, mut subscriber) = pair(&broker, version);
        for (payload, dup) in [(&b"first"[..], false), (b"second", false), (b"third", true)] {
            client.send(publish("in/2", payload, QoS::ExactlyOnce, 5, dup));
            client.expect(Packet::PubRec(ack(5)));
            client.send(Packet::PubRel(ack(5)));
            client.expect(Packet::PubComp(ack(5)));
            subscriber.expect_message("in/2", payload);
        }
    }
}

// [MQTT-4.3.2-5] v5 [MQTT-4.3.2-2] v311
#[test]
fn a_repeated_qos_1_publish_is_a_new_message() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, mut subscriber) = pair(&broker, version);
        for (payload, dup) in [
            (&b"first"[..], false),
            (b"second", false),
            (b"second", true),
        ] {
            client.send(publish("in/1", payload, QoS::AtLeastOnce, 7, dup));
            client.expect(Packet::PubAck(ack(7)));
            subscriber.expect_message("in/1", payload);
        }
    }
}

// [MQTT-4.4.0-1] v311 [MQTT-4.3.3-10] v5
#[test]
fn a_qos_2_publish_repeated_after_a_reconnect_is_delivered_once() {
    for kill in [false, true] {
        let mut broker = Broker::start();
        for version in BOTH {
            let name = format!("resender-{version:?}");
            let mut subscriber = connect(version, &format!("receiver-{version:?}"))
                .persistent()
                .open(&broker, false);
            subscriber.subscribe("in/2", QoS::ExactlyOnce);
            let persistent = connect(version, &name).persistent();
            let mut client = persistent.open(&broker, false);
            client.send(publish("in/2", b"once", QoS::ExactlyOnce, 9, false));
            client.expect(Packet::PubRec(ack(9)));
            client.drop_connection();
            if kill {
                broker.kill9();
                broker.start_again();
                subscriber = connect(version, &format!("receiver-{version:?}"))
                    .persistent()
                    .open(&broker, true);
            }
            let mut client = persistent.open(&broker, true);
            client.send(publish("in/2", b"once", QoS::ExactlyOnce, 9, true));
            let answer = client.receive();
            assert!(
                matches!(answer.packet(), Packet::PubRec(ack) if ack.packet_id == id(9)),
                "{answer:?}"
            );
            client.send(Packet::PubRel(ack(9)));
            client.expect(Packet::PubComp(ack(9)));
            client.publish("in/2", b"end", QoS::ExactlyOnce);
            subscriber.expect_message("in/2", b"once");
            subscriber.expect_message("in/2", b"end");
            connect(version, &format!("receiver-{version:?}")).open(&broker, false);
        }
    }
}

#[test]
fn a_release_of_an_unknown_packet_id_is_completed() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::new(&broker, version, "stray");
        client.send(Packet::PubRel(ack(77)));
        let answer = client.receive();
        let reason = if version.is_v5() {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        } else {
            ReasonCode::SUCCESS
        };
        assert_eq!(answer.packet(), Packet::PubComp(Ack::new(id(77), reason)));
        // Acknowledgements of what was never sent do no harm.
        client.send(Packet::PubAck(ack(77)));
        client.send(Packet::PubComp(ack(77)));
        client.expect_silence();
    }
}

// [MQTT-3.3.1-3] v311 [MQTT-3.3.1-3] v5 [MQTT-4.3.2-2] v5 [MQTT-4.3.3-2] v5 [MQTT-4.3.2-1] v311 [MQTT-4.3.3-1] v311
#[test]
fn the_dup_flag_of_a_publisher_is_not_passed_on() {
    let broker = Broker::start();
    for version in BOTH {
        let (mut client, mut subscriber) = pair(&broker, version);
        client.send(publish("in/1", b"dup", QoS::AtLeastOnce, 3, true));
        client.expect(Packet::PubAck(ack(3)));
        client.send(publish("in/2", b"dup", QoS::ExactlyOnce, 3, true));
        client.expect(Packet::PubRec(ack(3)));
        client.send(Packet::PubRel(ack(3)));
        client.expect(Packet::PubComp(ack(3)));
        assert!(!subscriber.expect_message("in/1", b"dup").publish().dup);
        assert!(!subscriber.expect_message("in/2", b"dup").publish().dup);
    }
}

// [MQTT-4.6.0-2] v311 [MQTT-4.6.0-3] v311
#[test]
fn answers_come_in_the_order_of_the_messages() {
    let broker = Broker::start();
    for version in BOTH {
        // A persistent subscriber: each answer waits for the store.
        let mut sleeper = connect(version, &format!("sleeper-{version:?}"))
            .persistent()
            .open(&broker, false);
        sleeper.subscribe("order/#", QoS::ExactlyOnce);
        sleeper.disconnect();
        let mut client = Client::new(&broker, version, "ordered");
        for packet_id in 1..=200 {
            let (topic, qos) = match packet_id % 3 {
                0 => ("order/stored", QoS::ExactlyOnce),
                1 => ("order/stored", QoS::AtLeastOnce),
                _ => ("unheard", QoS::AtLeastOnce),
            };
            client.send(publish(topic, b"x", qos, packet_id, false));
        }
        let mut acks = Vec::new();
        let mut recs = Vec::new();
        for _ in 0..200 {
            match client.receive().packet() {
                Packet::PubAck(ack) => acks.push(ack.packet_id.get()),
                Packet::PubRec(ack) => recs.push(ack.packet_id.get()),
                other => panic!("{other:?}"),
            }
        }
        assert!(acks.is_sorted() && recs.is_sorted(), "{acks:?} {recs:?}");
    }
}

#[test]
fn no_matching_subscribers_is_said_or_success() {
    let broker = Broker::start();
    let mut client = Client::new(&broker, Version::V5, "lonely");
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("nobody/listens", b"", qos);
    }
}

// [MQTT-3.3.4-6] v5
#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let broker = Broker::start();
    let mut client = Client::new(&broker, Version::V5, "cheeky");
    client.publish_with(
        "in/0",
        b"",
        QoS::AtMostOnce,
        &[Property::SubscriptionIdentifier(1)],
    );
    client.expect_end(ReasonCode::PROTOCOL_ERROR);
}
