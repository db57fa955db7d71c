//! SIGTERM: the broker takes leave of its clients and ends well.

use rustix::process::Signal;

use crate::support::*;

#[test]
fn a_terminated_broker_tells_its_clients_and_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = Broker::start();
        let mut new = Client::new(&broker, Version::V5, "new");
        let mut old = Client::new(&broker, Version::V311, "old");
        broker.signal(signal);
        new.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
        old.expect_closed();
        assert_eq!(broker.wait().code(), Some(0));
    }
}

#[test]
fn what_was_accepted_before_a_shutdown_is_there_after_it() {
    let mut broker = Broker::start();
    let persistent = connect(Version::V5, "keeps").persistent();
    persistent
        .open(&broker, false)
        .subscribe("drain", QoS::AtLeastOnce);
    let mut publisher = Client::new(&broker, Version::V5, "drain-pub");
    let mut bytes = Vec::new();
    for n in 1..=500_u16 {
        let payload = n.to_string();
        let publish = Publish {
            topic: "drain",
            payload: payload.as_bytes(),
            qos: QoS::AtLeastOnce,
            packet_id: Some(id(n)),
            ..Publish::default()
        };
        Packet::Publish(publish)
            .encode(Version::V5, &mut bytes)
            .expect("a PUBLISH");
    }
    publisher.send_bytes(&bytes);
    assert!(matches!(publisher.receive().packet(), Packet::PubAck(_)));
    broker.signal(Signal::TERM);
    let mut acknowledged = 1;
    while let Some(received) = publisher.next() {
        acknowledged += u16::from(matches!(received.packet(), Packet::PubAck(_)));
    }
    assert_eq!(broker.wait().code(), Some(0));
    broker.start_again();
    let mut client = persistent.open(&broker, true);
    for n in 1..=acknowledged {
        client.expect_message("drain", n.to_string().as_bytes());
    }
}

#[test]
fn a_broker_that_is_terminated_twice_still_ends() {
    let mut broker = Broker::start();
    let _client = Client::new(&broker, Version::V5, "there");
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait().code(), Some(0));
    broker.start_again();
    assert_eq!(broker.terminate().code(), Some(0));
}

#[test]
fn clients_are_served_until_it_is_their_turn_to_go() {
    let mut broker = Broker::setup()
        .set("drain_timeout_ms=8000")
        .set("drain_rate=1")
        .start();
    let mut clients: Vec<_> = (0..40)
        .map(|n| Client::new(&broker, Version::V5, &format!("turn-{n}")))
        .collect();
    broker.signal(Signal::TERM);
    wait_until("the clients are being sent away", || {
        broker.log().contains("sending the clients away")
    });
    let mut served = 0;
    for client in &mut clients {
        if !client.try_send_bytes(&[0xC0, 0]) {
            continue;
        }
        match client.next() {
            Some(received) if received.packet() == Packet::PingResp => {
                served += 1;
                client.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
            }
            Some(received) => {
                assert!(matches!(received.packet(), Packet::Disconnect(_)));
            }
            None => {}
        }
    }
    assert!(served > 0, "nobody was served any more");
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn new_clients_are_taken_until_balancers_have_noticed() {
    let mut broker = Broker::setup().set("drain_delay_ms=3000").start();
    let mut early = Client::new(&broker, Version::V5, "early");
    broker.signal(Signal::TERM);
    wait_until("the broker is unready", || broker.log().contains("unready"));
    let mut late = Client::new(&broker, Version::V5, "late");
    late.subscribe("late", QoS::AtLeastOnce);
    late.publish("late", b"served", QoS::AtLeastOnce);
    late.expect_message("late", b"served");
    late.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
    early.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
    assert_eq!(broker.wait().code(), Some(0));
}

// [MQTT-4.13.2-1] v5: the reasons 0x9C and 0x9D with a Server Reference, section 4.11.
#[test]
fn clients_that_can_take_it_are_told_where_to_go() {
    for (moved, reason) in [
        (false, ReasonCode::USE_ANOTHER_SERVER),
        (true, ReasonCode::SERVER_MOVED),
    ] {
        let mut broker = Broker::setup()
            .set("drain_server_reference=other.example:8883")
            .set(&format!("drain_server_moved={moved}"))
            .start();
        let mut new = Client::new(&broker, Version::V5, "new");
        let mut small = connect(Version::V5, "small")
            .with(Property::MaximumPacketSize(20))
            .open(&broker, false);
        let mut old = Client::new(&broker, Version::V311, "old");
        broker.signal(Signal::TERM);
        let told = new.receive();
        let Packet::Disconnect(told) = told.packet() else {
            panic!("{told:?}");
        };
        assert_eq!(told.reason, reason);
        assert_eq!(
            told.properties.server_reference(),
            Some("other.example:8883")
        );
        small.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
        old.expect_closed();
        assert_eq!(broker.wait().code(), Some(0));
    }
}
