//! A will is published exactly once, also when its replica dies, and after its delay.

use crate::{rig::Cluster, support::*};

/// When no will is stored any more, none is published any more.
fn wait_until_no_will_is_stored(cluster: &Cluster) {
    wait_until("all wills are done with", || {
        cluster
            .redis
            .ask(&["--scan", "--pattern", "*:wills"])
            .is_empty()
    });
}

fn watchers(cluster: &Cluster, at: &[usize]) -> Vec<Client> {
    at.iter()
        .map(|&at| {
            let mut watcher = cluster.clean(at, &format!("watcher-{at}"));
            watcher.subscribe("will/#", QoS::ExactlyOnce);
            watcher
        })
        .collect()
}

#[test]
fn the_wills_of_a_killed_replica_are_published_once_each() {
    let mut cluster = Cluster::setup(3).with_faults().start();
    let mut watchers = watchers(&cluster, &[1, 2]);
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut mortal = connect(Version::V5, &format!("mortal-{n}"));
        if n % 2 == 0 {
            mortal = mortal.persistent();
        }
        let topic = format!("will/{n}");
        let mortal = mortal.will(&topic, b"gone", QoS::AtLeastOnce, false);
        clients.push(cluster.open(0, &mortal, false));
    }
    cluster.replicas[0].kill9();
    let mut wanted: Vec<String> = (0..20).map(|n| format!("will/{n}")).collect();
    wanted.sort();
    for watcher in &mut watchers {
        let mut topics = Vec::new();
        for _ in 0..20 {
            let received = watcher.receive();
            watcher.answer(&received);
            topics.push(received.publish().topic.to_owned());
        }
        topics.sort();
        assert_eq!(topics, wanted);
    }
    wait_until_no_will_is_stored(&cluster);
    for watcher in &mut watchers {
        watcher.expect_silence();
    }
}

#[test]
fn a_will_is_heard_on_other_replicas_when_its_connection_breaks() {
    let cluster = Cluster::start(3);
    let mut watchers = watchers(&cluster, &[0, 1, 2]);
    let mortal = connect(Version::V5, "mortal").will("will/x", b"gone", QoS::AtLeastOnce, false);
    cluster.open(0, &mortal, false).drop_connection();
    for watcher in &mut watchers {
        watcher.expect_message("will/x", b"gone");
    }
    wait_until_no_will_is_stored(&cluster);
    for watcher in &mut watchers {
        watcher.expect_silence();
    }
}

#[test]
fn a_client_that_is_back_elsewhere_within_the_delay_has_no_will_published() {
    let cluster = Cluster::start(2);
    let mut watchers = watchers(&cluster, &[0, 1]);
    let delay = [Property::WillDelayInterval(3)];
    let mortal = connect(Version::V5, "mortal").persistent().will_with(
        "will/delayed",
        b"gone",
        QoS::AtLeastOnce,
        false,
        &delay,
    );
    cluster.open(0, &mortal, false).drop_connection();
    let back = cluster.open(1, &connect(Version::V5, "mortal").persistent(), true);
    wait_until_no_will_is_stored(&cluster);
    for watcher in &mut watchers {
        watcher.expect_silence();
    }
    back.disconnect();
}

#[test]
fn a_delayed_will_of_a_killed_replica_comes_after_its_delay() {
    let mut cluster = Cluster::setup(2).with_faults().start();
    let mut watchers = watchers(&cluster, &[1]);
    let delay = [Property::WillDelayInterval(2)];
    let mortal = connect(Version::V5, "mortal").persistent().will_with(
        "will/delayed",
        b"gone",
        QoS::ExactlyOnce,
        false,
        &delay,
    );
    let client = cluster.open(0, &mortal, false);
    cluster.replicas[0].kill9();
    watchers[0].expect_message("will/delayed", b"gone");
    wait_until_no_will_is_stored(&cluster);
    watchers[0].expect_silence();
    drop(client);
}

#[test]
fn a_client_that_says_goodbye_has_no_will_published() {
    let cluster = Cluster::start(2);
    let mut watchers = watchers(&cluster, &[1]);
    let mortal = connect(Version::V5, "mortal").will("will/x", b"gone", QoS::AtLeastOnce, false);
    cluster.open(0, &mortal, false).disconnect();
    wait_until_no_will_is_stored(&cluster);
    watchers[0].expect_silence();
}
