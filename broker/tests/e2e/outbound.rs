//! Messages from the broker to a client: identifiers, retransmission, order, expiry.

use std::collections::HashSet;

use crate::support::*;

fn ack(packet_id: PacketId) -> Ack<'static> {
    Ack::new(packet_id, ReasonCode::SUCCESS)
}

/// Reads `count` messages on topics under `out/` without answering them.
fn take_unanswered(client: &mut Client, count: usize) -> Vec<(PacketId, Vec<u8>, bool)> {
    (0..count)
        .map(|_| {
            let received = client.receive();
            let publish = received.publish();
            (
                publish.packet_id.expect("a packet id"),
                publish.payload.to_vec(),
                publish.dup,
            )
        })
        .collect()
}

// [MQTT-3.8.4-6] v311 [MQTT-3.8.4-8] v5
#[test]
fn the_lower_of_both_qos_counts() {
    let broker = Broker::start();
    let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for version in BOTH {
        for granted in all {
            let mut subscriber = Client::new(&broker, version, "min-sub");
            subscriber.subscribe("out/min", granted);
            for published in all {
                Client::new(&broker, version, "min-pub").publish("out/min", b"q", published);
                assert_eq!(
                    subscriber.expect_message("out/min", b"q").publish().qos,
                    granted.min(published)
                );
            }
            subscriber.disconnect();
        }
    }
}

// [MQTT-2.3.1-4] v311 [MQTT-2.2.1-4] v5 [MQTT-4.3.2-1] v5 [MQTT-4.3.3-1] v5 [MQTT-4.3.2-1] v311 [MQTT-4.3.3-1] v311
#[test]
fn packet_ids_in_use_are_different() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = Client::new(&broker, version, "ids-sub");
        subscriber.subscribe("out/#", QoS::ExactlyOnce);
        let mut publisher = Client::new(&broker, version, "ids-pub");
        for n in 0..50 {
            let qos = if n % 2 == 0 {
                QoS::AtLeastOnce
            } else {
                QoS::ExactlyOnce
            };
            publisher.publish("out/ids", b"x", qos);
        }
        let ids: HashSet<_> = take_unanswered(&mut subscriber, 50)
            .into_iter()
            .map(|(id, ..)| id)
            .collect();
        assert_eq!(ids.len(), 50);
    }
}

// [MQTT-4.4.0-1] v311 [MQTT-3.3.1-1] v311 [MQTT-4.6.0-1] v311 [MQTT-2.3.1-3] v311 [MQTT-4.3.2-1] v311
// [MQTT-4.3.3-1] v311 [MQTT-4.4.0-1] v5 [MQTT-3.3.1-1] v5 [MQTT-4.3.2-3] v5 [MQTT-4.3.3-3] v5
#[test]
fn what_is_unacknowledged_is_sent_again_after_a_reconnect_and_only_then() {
    for kill in [false, true] {
        let mut broker = Broker::start();
        for version in BOTH {
            let name = format!("again-{version:?}");
            let persistent = connect(version, &name).persistent();
            let mut subscriber = persistent.open(&broker, false);
            subscriber.subscribe("out/#", QoS::ExactlyOnce);
            let mut publisher = Client::new(&broker, version, "again-pub");
            for n in 0..6_u8 {
                let qos = if n % 2 == 0 {
                    QoS::AtLeastOnce
                } else {
                    QoS::ExactlyOnce
                };
                publisher.publish("out/again", &[b'0' + n], qos);
            }
            let sent = take_unanswered(&mut subscriber, 6);
            assert!(sent.iter().all(|(_, _, dup)| !dup), "{sent:?}");
            // The first of them is done with; the others stay. (A crash may forget an acknowledgement, and then the
            // message comes again, so there is none before a crash.)
            let done = usize::from(!kill);
            if !kill {
                subscriber.send(Packet::PubAck(ack(sent[0].0)));
                subscriber.expect_silence();
            }
            subscriber.drop_connection();
            if kill {
                broker.kill9();
                broker.start_again();
            }
            let mut subscriber = persistent.open(&broker, true);
            let again = take_unanswered(&mut subscriber, 6 - done);
            let wanted: Vec<_> = sent
                .into_iter()
                .skip(done)
                .map(|(id, payload, _)| (id, payload, true))
                .collect();
            assert_eq!(again, wanted);
            subscriber.expect_silence();
            connect(version, &name).open(&broker, false);
        }
    }
}

// [MQTT-4.3.3-4] v5 [MQTT-4.3.3-5] v5 [MQTT-4.3.3-6] v5 [MQTT-4.4.0-1] v5 [MQTT-3.6.2-1] v5
// [MQTT-4.3.3-1] v311 [MQTT-4.4.0-1] v311 [MQTT-2.3.1-6] v311
#[test]
fn a_received_qos_2_message_is_released_again_and_not_sent_again() {
    for kill in [false, true] {
        let mut broker = Broker::start();
        for version in BOTH {
            let name = format!("release-{version:?}");
            let persistent = connect(version, &name).persistent();
            let mut subscriber = persistent.open(&broker, false);
            subscriber.subscribe("out/#", QoS::ExactlyOnce);
            Client::new(&broker, version, "release-pub").publish("out/2", b"two", QoS::ExactlyOnce);
            let received = subscriber.expect_unanswered("out/2", b"two");
            let packet_id = received.publish().packet_id.expect("a packet id");
            subscriber.send(Packet::PubRec(ack(packet_id)));
            subscriber.expect(Packet::PubRel(ack(packet_id)));
            subscriber.expect_silence();
            subscriber.drop_connection();
            if kill {
                broker.kill9();
                broker.start_again();
            }
            let mut subscriber = persistent.open(&broker, true);
            subscriber.expect(Packet::PubRel(ack(packet_id)));
            subscriber.send(Packet::PubComp(ack(packet_id)));
            subscriber.expect_silence();
            subscriber.drop_connection();
            let mut subscriber = persistent.open(&broker, true);
            subscriber.expect_silence();
            drop(subscriber);
            connect(version, &name).open(&broker, false);
        }
    }
}

// [MQTT-4.4.0-2] v5
#[test]
fn a_refusal_by_the_receiver_ends_the_delivery() {
    let broker = Broker::start();
    let persistent = connect(Version::V5, "refuser").persistent();
    let mut subscriber = persistent.open(&broker, false);
    subscriber.subscribe("out/#", QoS::ExactlyOnce);
    let mut publisher = Client::new(&broker, Version::V5, "refuser-pub");
    publisher.publish("out/1", b"one", QoS::AtLeastOnce);
    publisher.publish("out/2", b"two", QoS::ExactlyOnce);
    let sent = take_unanswered(&mut subscriber, 2);
    subscriber.send(Packet::PubAck(Ack::new(
        sent[0].0,
        ReasonCode::QUOTA_EXCEEDED,
    )));
    subscriber.send(Packet::PubRec(Ack::new(
        sent[1].0,
        ReasonCode::UNSPECIFIED_ERROR,
    )));
    subscriber.expect_silence();
    subscriber.drop_connection();
    persistent.open(&broker, true).expect_silence();
}

// [MQTT-3.3.1-2] v311 [MQTT-3.3.1-2] v5 [MQTT-2.3.1-5] v311 [MQTT-2.2.1-2] v5 [MQTT-4.3.1-1] v311 [MQTT-4.3.1-1] v5
#[test]
fn qos_0_has_neither_dup_nor_packet_id() {
    let broker = Broker::start();
    for version in BOTH {
        let mut subscriber = Client::new(&broker, version, "zero-sub");
        subscriber.subscribe("out/0", QoS::ExactlyOnce);
        Client::new(&broker, version, "zero-pub").publish("out/0", b"zero", QoS::AtMostOnce);
        let received = subscriber.expect_message("out/0", b"zero");
        assert_eq!(received.bytes()[0], 0x30);
    }
}

// [MQTT-4.6.0-5] v311 [MQTT-4.6.0-6] v311 [MQTT-4.6.0-5] v5 [MQTT-4.6.0-6] v5
#[test]
fn messages_keep_the_order_of_their_publisher() {
    let broker = Broker::start();
    for version in BOTH {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut clean = Client::new(&broker, version, "order-clean");
            clean.subscribe("out/order", qos);
            let name = format!("order-{version:?}");
            let mut persistent = connect(version, &name).persistent().open(&broker, false);
            persistent.subscribe("out/order", qos);
            let mut bytes = Vec::new();
            for n in 1..=500_u16 {
                let packet_id = (qos != QoS::AtMostOnce).then(|| id(n));
                let payload = n.to_string();
                let publish = Publish {
                    topic: "out/order",
                    payload: payload.as_bytes(),
                    qos,
                    packet_id,
                    ..Publish::default()
                };
                Packet::Publish(publish)
                    .encode(version, &mut bytes)
                    .expect("a PUBLISH");
            }
            let mut publisher = Client::new(&broker, version, "order-pub");
            publisher.send_bytes(&bytes);
            for subscriber in [&mut clean, &mut persistent] {
                for n in 1..=500_u16 {
                    subscriber.expect_message("out/order", n.to_string().as_bytes());
                }
            }
            connect(version, &name).open(&broker, false);
        }
    }
}

// [MQTT-3.3.4-9] v5 [MQTT-3.3.4-10] v5 [MQTT-4.9.0-1] v5 [MQTT-4.9.0-2] v5 [MQTT-4.9.0-3] v5
#[test]
fn no_more_than_the_receive_maximum_is_on_its_way() {
    let broker = Broker::start();
    let mut subscriber = connect(Version::V5, "narrow")
        .with(Property::ReceiveMaximum(2))
        .open(&broker, false);
    subscriber.subscribe("out/#", QoS::ExactlyOnce);
    let mut publisher = Client::new(&broker, Version::V5, "narrow-pub");
    for n in 0..6_u8 {
        let qos = if n % 2 == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        publisher.publish("out/flow", &[b'0' + n], qos);
    }
    let first = take_unanswered(&mut subscriber, 2);
    // The quota is used up; everything else goes on: pings, subscriptions, QoS 0.
    subscriber.expect_silence();
    subscriber.subscribe("other", QoS::AtMostOnce);
    publisher.publish("other", b"free", QoS::AtMostOnce);
    subscriber.expect_message("other", b"free");
    // PUBACK makes room for one; PUBREC does not, PUBCOMP does.
    subscriber.send(Packet::PubAck(ack(first[0].0)));
    let third = take_unanswered(&mut subscriber, 1);
    assert_eq!(third[0].1, b"2");
    subscriber.send(Packet::PubRec(ack(first[1].0)));
    subscriber.expect(Packet::PubRel(ack(first[1].0)));
    subscriber.expect_silence();
    subscriber.send(Packet::PubComp(ack(first[1].0)));
    let fourth = take_unanswered(&mut subscriber, 1);
    assert_eq!(fourth[0].1, b"3");
    // An error in PUBREC ends that exchange and makes room.
    subscriber.send(Packet::PubRec(Ack::new(
        fourth[0].0,
        ReasonCode::UNSPECIFIED_ERROR,
    )));
    assert_eq!(take_unanswered(&mut subscriber, 1)[0].1, b"4");
    subscriber.expect_silence();
}

// [MQTT-3.3.4-9] v5 [MQTT-4.4.0-1] v5
#[test]
fn a_resumed_session_keeps_to_the_receive_maximum_of_the_new_connection() {
    let broker = Broker::start();
    let mut subscriber = connect(Version::V5, "narrower")
        .persistent()
        .open(&broker, false);
    subscriber.subscribe("out/#", QoS::AtLeastOnce);
    let mut publisher = Client::new(&broker, Version::V5, "narrower-pub");
    for n in 0..5_u8 {
        publisher.publish("out/flow", &[b'0' + n], QoS::AtLeastOnce);
    }
    let first = take_unanswered(&mut subscriber, 5);
    subscriber.drop_connection();
    let mut subscriber = connect(Version::V5, "narrower")
        .persistent()
        .with(Property::ReceiveMaximum(1))
        .open(&broker, true);
    for (packet_id, payload, _) in first {
        assert_eq!(
            take_unanswered(&mut subscriber, 1),
            [(packet_id, payload, true)]
        );
        subscriber.expect_silence();
        subscriber.send(Packet::PubAck(ack(packet_id)));
    }
    subscriber.expect_silence();
}

// [MQTT-3.3.2-5] v5 [MQTT-3.3.2-6] v5
#[test]
fn message_expiry_counts_down_while_a_message_waits() {
    let broker = Broker::start();
    let persistent = connect(Version::V5, "late").persistent();
    persistent
        .open(&broker, false)
        .subscribe("out/#", QoS::AtLeastOnce);
    let mut publisher = Client::new(&broker, Version::V5, "late-pub");
    let expiry = |seconds| [Property::MessageExpiryInterval(seconds)];
    publisher.publish_with("out/short", b"", QoS::AtLeastOnce, &expiry(1));
    publisher.publish_with("out/long", b"", QoS::AtLeastOnce, &expiry(600));
    publisher.publish("out/without", b"", QoS::AtLeastOnce);
    let_seconds_pass(&broker, 2);
    let mut subscriber = persistent.open(&broker, true);
    let long = subscriber.expect_message("out/long", b"");
    let left = long
        .properties()
        .message_expiry_interval()
        .expect("an expiry");
    assert!((1..=598).contains(&left), "{left} s left of 600 after 2 s");
    assert_eq!(
        subscriber
            .expect_message("out/without", b"")
            .properties()
            .message_expiry_interval(),
        None
    );
    subscriber.expect_silence();
}

// [MQTT-3.3.2-6] v5
#[test]
fn message_expiry_is_passed_on_at_once_unchanged() {
    let broker = Broker::start();
    let mut subscriber = Client::new(&broker, Version::V5, "prompt");
    subscriber.subscribe("out/#", QoS::AtLeastOnce);
    let mut publisher = Client::new(&broker, Version::V5, "prompt-pub");
    publisher.publish_with(
        "out/now",
        b"",
        QoS::AtLeastOnce,
        &[Property::MessageExpiryInterval(600)],
    );
    let left = subscriber
        .expect_message("out/now", b"")
        .properties()
        .message_expiry_interval()
        .expect("an expiry");
    assert!((598..=600).contains(&left), "{left}");
}

// [MQTT-4.3.3-7] v5 [MQTT-4.3.3-13] v5
#[test]
fn a_message_that_has_been_sent_does_not_expire() {
    let broker = Broker::start();
    let persistent = connect(Version::V5, "started").persistent();
    let mut subscriber = persistent.open(&broker, false);
    subscriber.subscribe("out/#", QoS::ExactlyOnce);
    let mut publisher = Client::new(&broker, Version::V5, "started-pub");
    publisher.publish_with(
        "out/begun",
        b"two",
        QoS::ExactlyOnce,
        &[Property::MessageExpiryInterval(1)],
    );
    let sent = take_unanswered(&mut subscriber, 1);
    let_seconds_pass(&broker, 2);
    subscriber.drop_connection();
    let mut subscriber = persistent.open(&broker, true);
    let again = take_unanswered(&mut subscriber, 1);
    assert_eq!((again[0].0, again[0].2), (sent[0].0, true));
    subscriber.send(Packet::PubRec(ack(sent[0].0)));
    subscriber.expect(Packet::PubRel(ack(sent[0].0)));
    subscriber.send(Packet::PubComp(ack(sent[0].0)));
    subscriber.expect_silence();
}

/// Publishes `count` messages in one write.
fn publish_burst(publisher: &mut Client, count: u16) {
    let mut bytes = Vec::new();
    for n in 1..=count {
        let publish = Publish {
            topic: "out/w",
            qos: QoS::AtLeastOnce,
            packet_id: Some(id(n)),
            ..Publish::default()
        };
        Packet::Publish(publish)
            .encode(Version::V5, &mut bytes)
            .expect("a PUBLISH");
    }
    publisher.send_bytes(&bytes);
}

// [MQTT-2.3.1-4] v311 [MQTT-2.2.1-4] v5
#[test]
fn packet_ids_wrap_around_and_one_in_use_is_never_taken_again() {
    let broker = Broker::setup().memory().start();
    let mut subscriber = Client::new(&broker, Version::V5, "wrap");
    subscriber.subscribe("out/#", QoS::AtLeastOnce);
    let mut publisher = Client::new(&broker, Version::V5, "wrap-pub");
    publisher.publish("out/held", b"held", QoS::AtLeastOnce);
    let mut held = Some(take_unanswered(&mut subscriber, 1)[0].0);
    let mut seen = HashSet::new();
    for burst in 0..70 {
        publish_burst(&mut publisher, 1_000);
        let mut acks = Vec::new();
        for (packet_id, ..) in take_unanswered(&mut subscriber, 1_000) {
            assert_ne!(Some(packet_id), held, "a packet id in use was taken again");
            seen.insert(packet_id);
            Packet::PubAck(ack(packet_id))
                .encode(Version::V5, &mut acks)
                .expect("a PUBACK");
        }
        // Before the identifiers have been around once.
        if burst == 60
            && let Some(held) = held.take()
        {
            subscriber.send(Packet::PubAck(ack(held)));
        }
        subscriber.send_bytes(&acks);
        for _ in 0..1_000 {
            assert!(matches!(publisher.receive().packet(), Packet::PubAck(_)));
        }
    }
    assert_eq!(seen.len(), 65_535, "all identifiers have been used");
}

// [MQTT-4.6.0-4] v311
#[test]
fn releases_come_in_the_order_of_the_receipts() {
    let broker = Broker::start();
    for version in BOTH {
        for name in ["clean".to_owned(), format!("kept-{version:?}")] {
            let mut subscriber = if name == "clean" {
                Client::new(&broker, version, &name)
            } else {
                connect(version, &name).persistent().open(&broker, false)
            };
            subscriber.subscribe("out/#", QoS::ExactlyOnce);
            let mut publisher = Client::new(&broker, version, "releases-pub");
            for _ in 0..20 {
                publisher.publish("out/2", b"x", QoS::ExactlyOnce);
            }
            let ids: Vec<_> = take_unanswered(&mut subscriber, 20)
                .into_iter()
                .map(|(id, ..)| id)
                .collect();
            let mut bytes = Vec::new();
            for packet_id in &ids {
                Packet::PubRec(ack(*packet_id))
                    .encode(version, &mut bytes)
                    .expect("a PUBREC");
            }
            subscriber.send_bytes(&bytes);
            for packet_id in ids {
                subscriber.expect(Packet::PubRel(ack(packet_id)));
            }
        }
    }
}
