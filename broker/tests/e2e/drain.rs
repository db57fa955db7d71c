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
