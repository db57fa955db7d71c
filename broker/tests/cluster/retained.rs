//! After a retained publish is acknowledged, a later subscribe on any replica gets it.

use std::time::Duration;

use crate::{rig::Cluster, support::*};

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
fn retained_messages_are_there_when_all_replicas_and_redis_were_killed() {
    let mut cluster = Cluster::setup(2).with_faults().start();
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
