//! Shared subscriptions: each message to one member of the group.

use std::collections::BTreeMap;

use crate::support::*;

/// Publishes `count` numbered messages and waits for all answers.
fn publish_numbers(broker: &Broker, topic: &str, count: u32, qos: QoS) {
    let mut publisher = Client::new(broker, Version::V5, "numbers");
    for n in 0..count {
        publisher.publish(topic, n.to_string().as_bytes(), qos);
    }
    publisher.expect_silence();
    publisher.disconnect();
}

/// Everything that waits for a client, up to a marker that only it gets.
fn drain(
    broker: &Broker,
    client: &mut Client,
    marker: &str,
) -> Vec<(String, Option<PacketId>, bool)> {
    client.subscribe(marker, QoS::AtLeastOnce);
    Client::new(broker, Version::V5, "marker").publish(marker, b"", QoS::AtLeastOnce);
    let mut got = Vec::new();
    loop {
        let received = client.receive();
        let publish = received.publish();
        if publish.topic == marker {
            client.answer(&received);
            return got;
        }
        got.push((
            String::from_utf8_lossy(publish.payload).into_owned(),
            publish.packet_id,
            publish.dup,
        ));
    }
}

// [MQTT-4.8.2-3] v5
#[test]
fn each_message_goes_to_one_member_and_all_members_get_some() {
    let broker = Broker::start();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut members: Vec<Client> = (0..3)
            .map(|n| Client::new(&broker, Version::V5, &format!("member-{n}")))
            .collect();
        for member in &mut members {
            member.subscribe("$share/group/jobs/+", qos);
        }
        let mut whole = Client::new(&broker, Version::V5, "whole");
        whole.subscribe("jobs/#", qos);
        publish_numbers(&broker, "jobs/x", 30, QoS::ExactlyOnce);
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for (n, member) in members.iter_mut().enumerate() {
            let got = drain(&broker, member, &format!("end/{n}"));
            assert!(!got.is_empty(), "member {n} got nothing");
            for (payload, packet_id, _) in got {
                assert_eq!(packet_id.is_some(), qos != QoS::AtMostOnce);
                *seen.entry(payload).or_default() += 1;
            }
        }
        assert_eq!(seen.len(), 30, "{seen:?}");
        assert!(seen.values().all(|&times| times == 1), "{seen:?}");
        for n in 0..30 {
            whole.expect_message("jobs/x", n.to_string().as_bytes());
        }
    }
}

#[test]
fn groups_are_apart_and_a_member_may_be_in_several() {
    let broker = Broker::start();
    let mut one = Client::new(&broker, Version::V5, "one");
    one.subscribe_with(
        "$share/a/t",
        SubscribeOptions::new(QoS::AtMostOnce),
        &[Property::SubscriptionIdentifier(1)],
    );
    one.subscribe_with(
        "$share/b/t",
        SubscribeOptions::new(QoS::AtMostOnce),
        &[Property::SubscriptionIdentifier(2)],
    );
    Client::new(&broker, Version::V5, "pub").publish("t", b"x", QoS::AtMostOnce);
    let mut identifiers = Vec::new();
    for _ in 0..2 {
        let received = one.expect_message("t", b"x");
        identifiers.extend(received.properties().subscription_identifiers());
    }
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 2]);
    one.expect_silence();
}

#[test]
fn retained_messages_are_not_for_shared_subscriptions() {
    let broker = Broker::start();
    Client::new(&broker, Version::V5, "keeper").publish_retained("kept", b"x", QoS::AtLeastOnce);
    let mut member = Client::new(&broker, Version::V5, "member");
    member.subscribe("$share/group/kept", QoS::AtLeastOnce);
    member.expect_silence();
}

#[test]
fn a_member_that_unsubscribes_gets_no_more() {
    let broker = Broker::start();
    let mut stays = Client::new(&broker, Version::V5, "stays");
    let mut leaves = Client::new(&broker, Version::V5, "leaves");
    for member in [&mut stays, &mut leaves] {
        member.subscribe("$share/group/t", QoS::AtLeastOnce);
    }
    assert_eq!(
        leaves.unsubscribe(&["t", "$share/other/t", "$share/group/t"]),
        [0x11, 0x11, 0]
    );
    publish_numbers(&broker, "t", 10, QoS::AtLeastOnce);
    for n in 0..10 {
        stays.expect_message("t", n.to_string().as_bytes());
    }
    leaves.expect_silence();
    stays.disconnect();
    publish_numbers(&broker, "t", 3, QoS::AtLeastOnce);
}

#[test]
fn what_a_leaving_member_has_not_acknowledged_goes_to_another() {
    let broker = Broker::start();
    let mut stays = Client::new(&broker, Version::V5, "stays");
    let mut leaves = Client::new(&broker, Version::V5, "leaves");
    for member in [&mut stays, &mut leaves] {
        member.subscribe("$share/group/t", QoS::AtLeastOnce);
    }
    publish_numbers(&broker, "t", 20, QoS::AtLeastOnce);
    let hers = drain(&broker, &mut leaves, "end/leaves");
    assert!(!hers.is_empty());
    leaves.disconnect();
    // All twenty, hers among them, come to the one that is left.
    let mut got: Vec<String> = Vec::new();
    while got.len() < 20 {
        let received = stays.receive();
        got.push(String::from_utf8_lossy(received.publish().payload).into_owned());
        stays.answer(&received);
    }
    got.sort_by_key(|payload| payload.parse::<u32>().unwrap_or(u32::MAX));
    let wanted: Vec<String> = (0..20).map(|n: u32| n.to_string()).collect();
    assert_eq!(got, wanted);
    stays.expect_silence();
}

#[test]
fn a_group_of_persistent_members_keeps_messages_while_all_are_away() {
    for kill in [false, true] {
        let mut broker = Broker::start();
        let persistent = |n: u32| connect(Version::V5, &format!("away-{n}")).persistent();
        for n in 0..2 {
            persistent(n)
                .open(&broker, false)
                .subscribe("$share/group/t", QoS::ExactlyOnce);
        }
        publish_numbers(&broker, "t", 10, QoS::ExactlyOnce);
        if kill {
            broker.kill9();
            broker.start_again();
        }
        let mut members: Vec<Client> = (0..2).map(|n| persistent(n).open(&broker, true)).collect();
        let mut got = Vec::new();
        for (n, member) in members.iter_mut().enumerate() {
            let marker = format!("end/{n}");
            member.subscribe(&marker, QoS::AtLeastOnce);
            Client::new(&broker, Version::V5, "marker").publish(&marker, b"", QoS::AtLeastOnce);
            loop {
                let received = member.receive();
                member.answer(&received);
                if received.publish().topic == marker {
                    break;
                }
                got.push(String::from_utf8_lossy(received.publish().payload).into_owned());
            }
        }
        got.sort_unstable();
        let wanted: Vec<String> = (0..10).map(|n: u32| n.to_string()).collect();
        assert_eq!(got, wanted);
    }
}

// [MQTT-4.8.2-4] v5
#[test]
fn a_qos_2_delivery_that_has_begun_stays_with_its_member() {
    let broker = Broker::start();
    let persistent = connect(Version::V5, "begun").persistent();
    let mut member = persistent.open(&broker, false);
    member.subscribe("$share/group/t", QoS::ExactlyOnce);
    publish_numbers(&broker, "t", 1, QoS::ExactlyOnce);
    let received = member.expect_unanswered("t", b"0");
    let packet_id = received.publish().packet_id.expect("a packet id");
    let mut other = Client::new(&broker, Version::V5, "other");
    other.subscribe("$share/group/t", QoS::ExactlyOnce);
    member.drop_connection();
    other.expect_silence();
    let mut member = persistent.open(&broker, true);
    let again = member.expect_unanswered("t", b"0");
    assert_eq!(
        (again.publish().packet_id, again.publish().dup),
        (Some(packet_id), true)
    );
    member.answer(&again);
    other.expect_silence();
}

// [MQTT-4.8.2-5] v5
#[test]
fn a_qos_2_delivery_that_has_begun_ends_with_its_session() {
    let broker = Broker::start();
    let mut member = connect(Version::V5, "ends")
        .persistent()
        .open(&broker, false);
    member.subscribe("$share/group/t", QoS::ExactlyOnce);
    publish_numbers(&broker, "t", 1, QoS::ExactlyOnce);
    member.expect_unanswered("t", b"0");
    let mut other = Client::new(&broker, Version::V5, "other");
    other.subscribe("$share/group/t", QoS::ExactlyOnce);
    member.drop_connection();
    connect(Version::V5, "ends").open(&broker, false);
    publish_numbers(&broker, "t", 1, QoS::ExactlyOnce);
    other.expect_message("t", b"0");
    other.expect_silence();
}

// [MQTT-4.8.2-6] v5
#[test]
fn a_message_that_a_member_refuses_goes_to_nobody_else() {
    let broker = Broker::start();
    for (qos, name) in [(QoS::AtLeastOnce, "one"), (QoS::ExactlyOnce, "two")] {
        let filter = format!("$share/{name}/t/{name}");
        let topic = format!("t/{name}");
        let mut refuses = Client::new(&broker, Version::V5, "refuses");
        refuses.subscribe(&filter, qos);
        publish_numbers(&broker, &topic, 1, qos);
        let received = refuses.expect_unanswered(&topic, b"0");
        let mut other = Client::new(&broker, Version::V5, "other");
        other.subscribe(&filter, qos);
        let refusal = Ack::new(
            received.publish().packet_id.expect("a packet id"),
            ReasonCode::QUOTA_EXCEEDED,
        );
        refuses.send(if qos == QoS::AtLeastOnce {
            Packet::PubAck(refusal)
        } else {
            Packet::PubRec(refusal)
        });
        refuses.expect_silence();
        refuses.disconnect();
        other.expect_silence();
    }
}

// [MQTT-3.8.3-4] v5
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let broker = Broker::start();
    let mut client = Client::new(&broker, Version::V5, "selfish");
    // SUBSCRIBE, id 1, no properties, "$share/g/t", no local.
    client.send_bytes(b"\x82\x10\x00\x01\x00\x00\x0A$share/g/t\x04");
    client.expect_end(ReasonCode::PROTOCOL_ERROR);
}

// [MQTT-4.8.2-1] v5 [MQTT-4.8.2-2] v5
#[test]
fn a_share_name_has_to_be_whole() {
    let broker = Broker::start();
    for filter in [
        "$share",
        "$share/",
        "$share//t",
        "$share/g",
        "$share/g/",
        "$share/g+/t",
        "$share/#/t",
        "$share/+/t",
    ] {
        let mut client = Client::new(&broker, Version::V5, "incomplete");
        let mut buffer = SubscribeFiltersBuf::new();
        buffer
            .push(filter, SubscribeOptions::new(QoS::AtMostOnce))
            .expect("the filter can be written");
        client.send(Packet::Subscribe(dunlin_protocol::Subscribe {
            packet_id: id(1),
            properties: dunlin_protocol::Properties::EMPTY,
            filters: buffer.as_filters(),
        }));
        let answer = client.receive();
        match answer.packet() {
            // "$share" alone is a topic filter like any other.
            Packet::SubAck(suback) if filter == "$share" => assert_eq!(suback.reason_codes, [0]),
            Packet::SubAck(suback) => {
                assert!(suback.reason_codes[0] >= 0x80, "{filter}: {suback:?}")
            }
            Packet::Disconnect(disconnect) => {
                assert!(disconnect.reason.is_error(), "{filter}: {disconnect:?}")
            }
            other => panic!("{filter}: {other:?}"),
        }
    }
}
