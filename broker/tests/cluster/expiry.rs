//! Messages that wait for an absent client expire, wherever it comes back.

use crate::{
    rig::Cluster,
    support::{connecting::Connecting, *},
};

fn sleeper() -> Connecting {
    connect(Version::V5, "sleeper").persistent()
}

fn expiry(seconds: u32) -> [Property<'static>; 1] {
    [Property::MessageExpiryInterval(seconds)]
}

#[test]
fn a_message_that_expires_while_its_receiver_is_away_is_not_sent_by_another_replica() {
    let cluster = Cluster::start(2);
    let mut sleeper_here = cluster.open(0, &sleeper(), false);
    sleeper_here.subscribe("out/#", QoS::ExactlyOnce);
    sleeper_here.disconnect();
    let mut publisher = cluster.clean(1, "publisher");
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish_with("out/short", b"", qos, &expiry(1));
        publisher.publish_with("out/long", b"", qos, &expiry(600));
    }
    let_seconds_pass(&cluster.replicas[1], 2);
    let mut back = cluster.open(1, &sleeper(), true);
    for _ in 0..2 {
        let received = back.expect_message("out/long", b"");
        let publish = received.publish();
        assert!(!publish.dup, "it was never sent: {publish:?}");
        let left = publish.properties.message_expiry_interval();
        assert!(
            left.is_some_and(|left| (1..600).contains(&left)),
            "{publish:?}"
        );
    }
    back.expect_silence();
}

#[test]
fn a_message_that_was_sent_by_one_replica_does_not_expire_at_the_next() {
    let cluster = Cluster::start(2);
    let mut sleeper_here = cluster.open(0, &sleeper(), false);
    sleeper_here.subscribe("out/#", QoS::AtLeastOnce);
    let mut publisher = cluster.clean(1, "publisher");
    publisher.publish_with("out/sent", b"", QoS::AtLeastOnce, &expiry(1));
    sleeper_here.expect_unanswered("out/sent", b"");
    sleeper_here.disconnect();
    publisher.publish_with("out/short", b"", QoS::AtLeastOnce, &expiry(1));
    publisher.publish_with("out/last", b"", QoS::AtLeastOnce, &[]);
    let_seconds_pass(&cluster.replicas[1], 2);
    let mut back = cluster.open(1, &sleeper(), true);
    let received = back.expect_message("out/sent", b"");
    assert!(received.publish().dup, "{received:?}");
    let received = back.expect_message("out/last", b"");
    assert!(!received.publish().dup, "{received:?}");
    back.expect_silence();
}
