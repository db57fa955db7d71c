//! The stream of bytes: packets do not care how TCP cuts it.

use crate::support::*;

fn append(out: &mut Vec<u8>, version: Version, packet: Packet<'_>) {
    packet
        .encode(version, out)
        .expect("the packet can be written");
}

/// CONNECT, SUBSCRIBE, 10 messages to itself and a PINGREQ.
fn conversation(version: Version, client_id: &str) -> Vec<u8> {
    let mut bytes = connect(version, client_id).bytes();
    let mut filters = SubscribeFiltersBuf::new();
    filters
        .push("cut/#", SubscribeOptions::new(QoS::AtMostOnce))
        .expect("the filter can be written");
    append(
        &mut bytes,
        version,
        Packet::Subscribe(dunlin_protocol::Subscribe {
            packet_id: id(1),
            properties: dunlin_protocol::Properties::EMPTY,
            filters: filters.as_filters(),
        }),
    );
    for n in 0..10_u8 {
        let payload = vec![n; usize::from(n) * 40];
        let publish = Publish {
            topic: "cut/x",
            payload: &payload,
            qos: QoS::AtLeastOnce,
            packet_id: Some(id(u16::from(n) + 10)),
            ..Publish::default()
        };
        append(&mut bytes, version, Packet::Publish(publish));
    }
    append(&mut bytes, version, Packet::PingReq);
    bytes
}

/// What the broker has to answer to a conversation, messages apart from the rest.
fn expect_conversation(client: &mut Client) {
    assert_eq!(client.receive().connack().reason, ReasonCode::SUCCESS);
    let mut messages = 0_u8;
    let mut acks = 0_u16;
    let mut others = Vec::new();
    while messages < 10 || acks < 10 || others.len() < 2 {
        let received = client.receive();
        match received.packet() {
            Packet::Publish(publish) => {
                assert_eq!(publish.payload, vec![messages; usize::from(messages) * 40]);
                messages += 1;
            }
            Packet::PubAck(ack) => {
                assert_eq!(ack.packet_id, id(acks + 10));
                acks += 1;
            }
            other => others.push(other.packet_type()),
        }
    }
    let mut names: Vec<_> = others.iter().map(|kind| kind.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["PINGRESP", "SUBACK"]);
}

#[test]
fn a_stream_in_single_bytes_is_understood() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::open(broker.address(), version);
        for byte in conversation(version, "single-bytes") {
            client.send_bytes(&[byte]);
        }
        expect_conversation(&mut client);
    }
}

#[test]
fn many_packets_in_one_write_are_understood() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::open(broker.address(), version);
        client.send_bytes(&conversation(version, "one-write"));
        expect_conversation(&mut client);
    }
}

#[test]
fn a_stream_cut_at_any_place_is_understood() {
    let broker = Broker::setup().memory().start();
    let bytes = conversation(Version::V5, "cut");
    // A prime step keeps the number of connections small and still meets every kind of place.
    for at in (1..bytes.len()).step_by(7) {
        let mut client = Client::open(broker.address(), Version::V5);
        client.send_bytes(&bytes[..at]);
        if at >= connect(Version::V5, "cut").bytes().len() {
            // Make sure that the broker has read the first part before the second comes.
            let connack = client.receive();
            assert_eq!(connack.connack().reason, ReasonCode::SUCCESS);
            client.send_bytes(&bytes[at..]);
            let mut acks = 0_u16;
            while acks < 10 {
                acks += u16::from(matches!(client.receive().packet(), Packet::PubAck(_)));
            }
        } else {
            client.send_bytes(&bytes[at..]);
            expect_conversation(&mut client);
        }
    }
}
