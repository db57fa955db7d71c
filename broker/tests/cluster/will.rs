//! A will is published exactly once, also when its replica dies, and after its delay.

use rustix::process::Signal;

use crate::{
    rig::{Cluster, connect_again},
    support::*,
};

/// When no will is stored any more, none is published any more.
fn wait_until_no_will_is_stored(cluster: &Cluster) {
    wait_until("all wills are done with", || {
        cluster
            .redis
            .ask(&["--scan", "--pattern", "*:wills"])
            .is_empty()
    });
}

/// Nothing more comes: what any of these replicas had sent comes before what a client publishes there now.
fn expect_no_more(cluster: &Cluster, replicas: &[usize], watchers: &mut [Client]) {
    wait_until_no_will_is_stored(cluster);
    for &at in replicas {
        let mut publisher = connect_again(&cluster.replicas[at], &connect(Version::V5, "marker"));
        publisher.publish("will/marker", b"here", QoS::AtLeastOnce);
        for watcher in &mut *watchers {
            watcher.expect_message("will/marker", b"here");
        }
    }
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

/// Twenty clients with wills, half of them with sessions that outlive the connection.
fn mortals(cluster: &Cluster, at: usize) -> Vec<Client> {
    let mortal = |n: usize| {
        let mut mortal = connect(Version::V5, &format!("mortal-{n}"));
        if n.is_multiple_of(2) {
            mortal = mortal.persistent();
        }
        let topic = format!("will/{n}");
        let mortal = mortal.will(&topic, b"gone", QoS::AtLeastOnce, false);
        cluster.open(at, &mortal, false)
    };
    (0..20).map(mortal).collect()
}

/// Each of the twenty wills comes to each watcher.
fn expect_the_wills(watchers: &mut [Client]) {
    let mut wanted: Vec<String> = (0..20).map(|n| format!("will/{n}")).collect();
    wanted.sort();
    for watcher in watchers {
        let mut topics = Vec::new();
        for _ in 0..20 {
            let received = watcher.receive();
            watcher.answer(&received);
            topics.push(received.publish().topic.to_owned());
        }
        topics.sort();
        assert_eq!(topics, wanted);
    }
}

#[test]
fn the_wills_of_a_killed_replica_are_published_once_each() {
    let mut cluster = Cluster::setup(3).with_faults().start();
    let mut watchers = watchers(&cluster, &[1, 2]);
    let _clients = mortals(&cluster, 0);
    cluster.replicas[0].kill9();
    expect_the_wills(&mut watchers);
    expect_no_more(&cluster, &[1, 2], &mut watchers);
}

#[test]
fn the_wills_of_a_replica_that_slept_are_not_published_again_when_it_wakes_up() {
    let cluster = Cluster::setup(3).with_faults().start();
    let mut watchers = watchers(&cluster, &[1, 2]);
    let mut clients = mortals(&cluster, 0);
    cluster.replicas[0].signal(Signal::STOP);
    expect_the_wills(&mut watchers);
    cluster.replicas[0].signal(Signal::CONT);
    // The connections that the wills belong to end, and no will is left for that.
    for client in &mut clients {
        while client.next().is_some() {}
    }
    expect_no_more(&cluster, &[0, 1, 2], &mut watchers);
}

#[test]
fn the_wills_of_clients_that_are_sent_away_while_redis_is_away_are_published_once_each() {
    let cluster = Cluster::setup(2).with_faults().start();
    let mut watchers = watchers(&cluster, &[0, 1]);
    let mut clients = mortals(&cluster, 0);
    cluster.redis.signal(Signal::STOP);
    for client in clients.iter_mut().step_by(2) {
        client.expect_end(ReasonCode::SERVER_BUSY);
    }
    cluster.redis.signal(Signal::CONT);
    for client in clients.into_iter().skip(1).step_by(2) {
        client.drop_connection();
    }
    expect_the_wills(&mut watchers);
    expect_no_more(&cluster, &[0, 1], &mut watchers);
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

#[test]
fn wills_of_clients_that_a_stopping_replica_sends_away_follow_their_delay() {
    let mut cluster = Cluster::start(2);
    let mut watchers = watchers(&cluster, &[1]);
    let mortal = |name: &str, seconds: u32| {
        connect(Version::V5, name).persistent().will_with(
            &format!("will/{name}"),
            b"gone",
            QoS::AtLeastOnce,
            false,
            &[Property::WillDelayInterval(seconds)],
        )
    };
    let mut returns = cluster.open(0, &mortal("returns", 3), false);
    let mut stays_away = cluster.open(0, &mortal("stays-away", 3), false);
    cluster.replicas[0].signal(Signal::TERM);
    returns.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
    stays_away.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
    let back = cluster.open(1, &connect(Version::V5, "returns").persistent(), true);
    assert_eq!(cluster.replicas[0].wait().code(), Some(0));
    watchers[0].expect_message("will/stays-away", b"gone");
    expect_no_more(&cluster, &[1], &mut watchers);
    back.disconnect();
}
