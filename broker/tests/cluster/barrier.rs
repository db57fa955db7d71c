//! After SUBACK, a publish that any replica accepts reaches the subscriber.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    rig::{Cluster, connect_again},
    support::{fleet::environment, *},
};

fn rounds() -> u16 {
    let faults = environment("CHAOS_KILLS").unwrap_or(2);
    u16::try_from(faults * 10).unwrap_or(u16::MAX)
}

/// Subscribes on one replica and publishes on another one at once, many times.
fn subscribe_and_publish(cluster: &Cluster, persistent: bool) {
    let mut publishers: Vec<_> = (0..3)
        .map(|n| cluster.clean(n, &format!("publisher-{n}")))
        .collect();
    let qos = if persistent {
        [QoS::AtLeastOnce, QoS::ExactlyOnce]
    } else {
        [QoS::AtMostOnce, QoS::AtLeastOnce]
    };
    for round in 0..rounds() {
        let at = usize::from(round) % 3;
        let mut subscriber = connect(Version::V5, &format!("subscriber-{round}"));
        if persistent {
            subscriber = subscriber.persistent();
        }
        let mut subscriber = cluster.open(at, &subscriber, false);
        let topic = format!("barrier/{round}");
        subscriber.subscribe(&topic, QoS::ExactlyOnce);
        let publisher = &mut publishers[(at + 1 + usize::from(round) / 3 % 2) % 3];
        publisher.publish(&topic, b"heard?", qos[usize::from(round) % 2]);
        subscriber.expect_message(&topic, b"heard?");
        subscriber.disconnect();
    }
}

#[test]
fn a_clean_session_hears_at_once_what_other_replicas_publish() {
    subscribe_and_publish(&Cluster::start(3), false);
}

#[test]
fn a_persistent_session_hears_at_once_what_other_replicas_publish() {
    subscribe_and_publish(&Cluster::start(3), true);
}

#[test]
fn a_subscription_is_acknowledged_when_the_slowest_replica_knows_it() {
    let cluster = Cluster::setup(3).with_faults().start();
    for (proxy, ms) in cluster.proxies.iter().zip([5, 40, 100]) {
        proxy.delay(Duration::from_millis(ms));
    }
    subscribe_and_publish(&cluster, false);
    subscribe_and_publish(&cluster, true);
}

#[test]
fn a_replica_that_slept_through_a_subscription_accepts_no_publish_that_misses_it() {
    let cluster = Cluster::setup(3).with_faults().start();
    let mut publisher = cluster.clean(2, "publisher");
    cluster.replicas[2].signal(Signal::STOP);
    // It waits for the stopped replica, until its lease has lapsed.
    let mut subscriber = cluster.clean(0, "subscriber");
    subscriber.subscribe("barrier", QoS::AtLeastOnce);
    publisher.send(Packet::Publish(Publish {
        qos: QoS::AtLeastOnce,
        topic: "barrier",
        packet_id: Some(id(1)),
        payload: b"accepted?",
        ..Publish::default()
    }));
    cluster.replicas[2].signal(Signal::CONT);
    let accepted = loop {
        match publisher.next() {
            Some(received) if matches!(received.packet(), Packet::PubAck(_)) => break true,
            Some(_) => {}
            None => break false,
        }
    };
    if accepted {
        subscriber.expect_message("barrier", b"accepted?");
    } else {
        // It had lost its lease, and sent its clients away: they publish again, and are heard.
        let again = connect(Version::V5, "publisher");
        let mut publisher = connect_again(&cluster.replicas[2], &again);
        publisher.publish("barrier", b"again", QoS::AtLeastOnce);
        subscriber.expect_message("barrier", b"again");
    }
}
