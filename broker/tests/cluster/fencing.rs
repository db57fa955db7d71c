//! A replica that was away cannot act on sessions that others have claimed since.

use rustix::process::Signal;

use crate::{
    rig::Cluster,
    support::{connecting::Connecting, *},
};

fn client() -> Connecting {
    connect(Version::V5, "fenced").persistent()
}

/// Five messages that replica 0 has sent and that are not acknowledged: their packet ids.
fn five_unacknowledged(cluster: &Cluster, client: &mut Client) -> Vec<PacketId> {
    client.subscribe("fenced/#", QoS::AtLeastOnce);
    let mut publisher = cluster.clean(2, "publisher");
    for n in 0..5 {
        publisher.publish("fenced/x", n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    (0..5)
        .map(|n| {
            let received = client.expect_unanswered("fenced/x", n.to_string().as_bytes());
            received.publish().packet_id.expect("QoS 1")
        })
        .collect()
}

fn expect_the_five(client: &mut Client, answer: bool) {
    for n in 0..5 {
        let body = n.to_string();
        let received = client.expect_unanswered("fenced/x", body.as_bytes());
        if answer {
            client.answer(&received);
        }
    }
    client.expect_silence();
}

/// Reads until the end.
fn expect_gone(client: &mut Client) {
    while client.next().is_some() {}
}

#[test]
fn acknowledgements_to_a_replica_that_slept_do_not_count() {
    let cluster = Cluster::setup(3).with_faults().start();
    let mut old = cluster.open(0, &client(), false);
    let ids = five_unacknowledged(&cluster, &mut old);
    cluster.replicas[0].signal(Signal::STOP);
    let mut new = cluster.open(1, &client(), true);
    expect_the_five(&mut new, false);
    // They wait in the socket of the replica that sleeps.
    for packet_id in ids {
        old.send(Packet::PubAck(Ack::new(packet_id, ReasonCode::SUCCESS)));
    }
    cluster.replicas[0].signal(Signal::CONT);
    expect_gone(&mut old);
    new.drop_connection();
    let mut last = cluster.open(2, &client(), true);
    expect_the_five(&mut last, true);
}

#[test]
fn a_replica_that_cannot_renew_its_lease_sends_its_persistent_sessions_away() {
    let cluster = Cluster::setup(3).with_faults().start();
    let mut old = cluster.open(0, &client(), false);
    five_unacknowledged(&cluster, &mut old);
    cluster.proxies[0].black_hole();
    let mut new = cluster.open(1, &client(), true);
    expect_gone(&mut old);
    expect_the_five(&mut new, true);
    // Nobody gets in there until it can keep its promises again.
    let (_refused, answer) = client().answer(&cluster.replicas[0]);
    assert_eq!(answer.connack().reason, ReasonCode::SERVER_UNAVAILABLE);
    cluster.proxies[0].heal();
    wait_until("the replica is back in the cluster", || {
        let (_client, answer) = client().answer(&cluster.replicas[0]);
        answer.connack().reason == ReasonCode::SUCCESS
    });
}

#[test]
fn a_replica_that_slept_past_its_lease_acknowledges_nothing_that_gets_lost() {
    let cluster = Cluster::setup(3).with_faults().start();
    let mut reader = cluster.open(1, &connect(Version::V5, "reader").persistent(), false);
    reader.subscribe("fenced/#", QoS::AtLeastOnce);
    let mut publisher = cluster.clean(0, "publisher");
    cluster.replicas[0].signal(Signal::STOP);
    publisher.send(Packet::Publish(Publish {
        qos: QoS::AtLeastOnce,
        topic: "fenced/x",
        packet_id: Some(id(1)),
        payload: b"late",
        ..Publish::default()
    }));
    wait_until("the others have taken it off the register", || {
        cluster
            .redis
            .ask(&["HLEN", "dunlin:{r}:register"])
            .ends_with('2')
    });
    cluster.replicas[0].signal(Signal::CONT);
    let acknowledged = loop {
        match publisher.next() {
            Some(received) if matches!(received.packet(), Packet::PubAck(_)) => break true,
            Some(_) => {}
            None => break false,
        }
    };
    eprintln!("acknowledged by the replica that slept: {acknowledged}");
    if !acknowledged {
        let mut publisher = cluster.clean(2, "publisher");
        publisher.publish("fenced/x", b"late", QoS::AtLeastOnce);
    }
    reader.expect_message("fenced/x", b"late");
}
