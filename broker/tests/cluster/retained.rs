//! After a retained publish is acknowledged, a later subscribe on any replica gets it.

use std::time::Duration;

use dunlin_protocol::{Properties, Subscribe};
use rustix::process::Signal;

use crate::{
    rig::{Cluster, Redis, connect_again},
    support::*,
};

#[test]
fn an_acknowledged_retained_message_is_there_on_every_replica_at_once() {
    let cluster = Cluster::setup(3).with_faults().start();
    for (proxy, ms) in cluster.proxies.iter().zip([0, 30, 80]) {
        proxy.delay(Duration::from_millis(ms));
    }
    let mut publishers: Vec<_> = (0..3)
        .map(|n| cluster.clean(n, &format!("publisher-{n}")))
        .collect();
    for round in 0..12_usize {
        let topic = format!("retained/{}", round % 4);
        let body = format!("value {round}");
        publishers[round % 3].publish_retained(&topic, body.as_bytes(), QoS::AtLeastOnce);
        for at in 0..3 {
            let mut subscriber = cluster.clean(at, "late");
            subscriber.subscribe(&topic, QoS::AtMostOnce);
            let received = subscriber.expect_message(&topic, body.as_bytes());
            assert!(received.publish().retain, "{received:?}");
            subscriber.disconnect();
        }
    }
}

#[test]
fn a_retained_message_that_was_removed_is_gone_on_every_replica_at_once() {
    let cluster = Cluster::start(3);
    let mut publisher = cluster.clean(0, "publisher");
    publisher.publish_retained("retained/gone", b"x", QoS::AtLeastOnce);
    publisher.publish_retained("retained/gone", b"", QoS::AtLeastOnce);
    for at in 0..3 {
        let mut subscriber = cluster.clean(at, "late");
        subscriber.subscribe("retained/#", QoS::AtLeastOnce);
        subscriber.expect_silence();
    }
}

#[test]
fn what_has_expired_is_removed_from_redis_and_from_every_replica() {
    let cluster = Cluster::setup(3).set("limits.max_retained=25").start();
    let count = "local n = 0 for _, key in ipairs(redis.call('KEYS', '*:retained')) do n = n + redis.call('HLEN', key) end return n";
    let in_redis = || -> u32 {
        cluster
            .redis
            .ask(&["EVAL", count, "0"])
            .trim()
            .parse()
            .unwrap()
    };
    let mut publisher = cluster.clean(0, "publisher");
    for topic in 0..20 {
        let topic = format!("expiring/{topic}");
        let block = properties(&[Property::MessageExpiryInterval(1)]);
        publisher.publish_packet(Publish {
            topic: &topic,
            payload: b"x",
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: block.as_properties(),
            ..Publish::default()
        });
    }
    publisher.publish_retained("expiring/0", b"this one stays", QoS::AtLeastOnce);
    wait_until("only what has not expired is kept", || in_redis() == 1);
    for at in 0..3 {
        let mut subscriber = cluster.clean(at, "late");
        subscriber.subscribe("expiring/#", QoS::AtMostOnce);
        subscriber.expect_message("expiring/0", b"this one stays");
        // A replica that still had the others would refuse some of these.
        for topic in 0..8 {
            let topic = format!("kept/{at}/{topic}");
            subscriber.publish_retained(&topic, b"x", QoS::AtLeastOnce);
        }
    }
    assert_eq!(in_redis(), 25);
}

#[test]
fn a_replica_that_slept_through_a_retained_publish_gives_it_to_who_subscribes_there() {
    let cluster = Cluster::setup(3).with_faults().start();
    let mut publisher = cluster.clean(0, "publisher");
    publisher.publish_retained("retained/x", b"old", QoS::AtLeastOnce);
    let mut subscriber = cluster.clean(2, "subscriber");
    cluster.replicas[2].signal(Signal::STOP);
    // It waits for the stopped replica, until its lease has lapsed.
    publisher.publish_retained("retained/x", b"new", QoS::AtLeastOnce);
    let mut filters = SubscribeFiltersBuf::new();
    filters
        .push("retained/#", SubscribeOptions::new(QoS::AtLeastOnce))
        .expect("the filter can be written");
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: id(1),
        properties: Properties::EMPTY,
        filters: filters.as_filters(),
    });
    subscriber.send(subscribe);
    cluster.replicas[2].signal(Signal::CONT);
    let granted = loop {
        match subscriber.next() {
            Some(received) => match received.packet() {
                Packet::SubAck(suback) => break suback.reason_codes == [1],
                Packet::Disconnect(_) => {}
                other => panic!("{other:?}"),
            },
            None => break false,
        }
    };
    if granted {
        let received = subscriber.expect_message("retained/x", b"new");
        assert!(received.publish().retain, "{received:?}");
    } else {
        // It had lost its lease: whoever comes when it is back has what is new.
        let again = connect(Version::V5, "again");
        let mut subscriber = connect_again(&cluster.replicas[2], &again);
        subscriber.subscribe("retained/#", QoS::AtLeastOnce);
        subscriber.expect_message("retained/x", b"new");
    }
}

#[test]
fn retained_messages_are_there_when_all_replicas_and_redis_were_killed() {
    // Nobody is left who could write again what Redis has lost.
    let redis = Redis::start_with(&["--appendfsync", "always"]);
    let mut cluster = Cluster::setup(2).with_faults().start_over(redis);
    let mut publisher = cluster.clean(0, "publisher");
    for n in 0..50 {
        publisher.publish_retained(&format!("kept/{n}"), b"value", QoS::AtLeastOnce);
    }
    for replica in &mut cluster.replicas {
        replica.kill9();
    }
    cluster.redis.kill9();
    cluster.redis.start_again();
    for replica in 0..2 {
        cluster.start_again(replica);
    }
    for at in 0..2 {
        let mut subscriber = cluster.clean(at, &format!("late-{at}"));
        subscriber.subscribe("kept/#", QoS::AtMostOnce);
        let mut topics: Vec<String> = (0..50)
            .map(|_| subscriber.receive().publish().topic.to_owned())
            .collect();
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 50);
        subscriber.expect_silence();
    }
}
