//! QoS 2 exchanges that go on at another replica.

use crate::{
    rig::Cluster,
    support::{connecting::Connecting, *},
};

fn publisher() -> Connecting {
    connect(Version::V5, "publisher").persistent()
}

fn subscriber() -> Connecting {
    connect(Version::V5, "subscriber").persistent()
}

fn publish<'a>(payload: &'a [u8], packet_id: u16, dup: bool) -> Packet<'a> {
    Packet::Publish(Publish {
        dup,
        qos: QoS::ExactlyOnce,
        topic: "exactly/once",
        packet_id: Some(id(packet_id)),
        payload,
        ..Publish::default()
    })
}

fn ack(packet_id: u16) -> Ack<'static> {
    Ack::new(id(packet_id), ReasonCode::SUCCESS)
}

#[test]
fn a_publisher_that_resends_to_another_replica_is_delivered_once() {
    let mut cluster = Cluster::setup(3).with_faults().start();
    let mut receiver = cluster.open(2, &subscriber(), false);
    receiver.subscribe("exactly/#", QoS::ExactlyOnce);
    let mut sender = cluster.open(0, &publisher(), false);
    sender.send(publish(b"one", 7, false));
    sender.expect(Packet::PubRec(ack(7)));
    cluster.replicas[0].kill9();

    let mut sender = cluster.open(1, &publisher(), true);
    sender.send(publish(b"one", 7, true));
    sender.expect(Packet::PubRec(ack(7)));
    sender.send(Packet::PubRel(ack(7)));
    sender.expect(Packet::PubComp(ack(7)));
    // The id stands for a new message now.
    sender.send(publish(b"two", 7, false));
    sender.expect(Packet::PubRec(ack(7)));
    sender.send(Packet::PubRel(ack(7)));
    sender.expect(Packet::PubComp(ack(7)));
    receiver.expect_message("exactly/once", b"one");
    receiver.expect_message("exactly/once", b"two");
    receiver.expect_silence();
}

#[test]
fn a_pubrel_that_is_owed_is_sent_by_the_next_replica() {
    let mut cluster = Cluster::setup(3).with_faults().start();
    let mut receiver = cluster.open(0, &subscriber(), false);
    receiver.subscribe("exactly/#", QoS::ExactlyOnce);
    let mut sender = cluster.clean(2, "sender");
    sender.publish("exactly/once", b"one", QoS::ExactlyOnce);
    let received = receiver.expect_unanswered("exactly/once", b"one");
    let packet_id = received.publish().packet_id.expect("QoS 2").get();
    receiver.send(Packet::PubRec(ack(packet_id)));
    receiver.expect(Packet::PubRel(ack(packet_id)));
    cluster.replicas[0].kill9();

    let mut receiver = cluster.open(1, &subscriber(), true);
    receiver.expect(Packet::PubRel(ack(packet_id)));
    receiver.send(Packet::PubComp(ack(packet_id)));
    sender.publish("exactly/once", b"two", QoS::ExactlyOnce);
    receiver.expect_message("exactly/once", b"two");
    // PUBCOMP has no answer: until it is stored, a resumed session may be sent PUBREL once more.
    wait_until("the exchange is done with", || {
        let queues = cluster.redis.ask(&["--scan", "--pattern", "*:q:*"]);
        queues.is_empty()
    });
    receiver.disconnect();
    let mut receiver = cluster.open(2, &subscriber(), true);
    receiver.expect_silence();
}

#[test]
fn a_subscriber_that_acknowledged_nothing_gets_everything_again_in_order() {
    let mut cluster = Cluster::setup(3).with_faults().start();
    let mut receiver = cluster.open(0, &subscriber(), false);
    receiver.subscribe("exactly/#", QoS::ExactlyOnce);
    let mut sender = cluster.clean(2, "sender");
    let bodies: Vec<String> = (0..30).map(|n| format!("message {n}")).collect();
    for body in &bodies {
        sender.publish("exactly/once", body.as_bytes(), QoS::ExactlyOnce);
    }
    let first: Vec<_> = bodies
        .iter()
        .map(|body| {
            let received = receiver.expect_unanswered("exactly/once", body.as_bytes());
            received.publish().packet_id
        })
        .collect();
    cluster.replicas[0].kill9();
    let mut receiver = cluster.open(1, &subscriber(), true);
    for (body, packet_id) in bodies.iter().zip(first) {
        let received = receiver.expect_unanswered("exactly/once", body.as_bytes());
        assert!(received.publish().dup, "{received:?}");
        assert_eq!(received.publish().packet_id, packet_id, "[MQTT-4.3.3-3]");
        receiver.answer(&received);
    }
    receiver.expect_silence();
}
