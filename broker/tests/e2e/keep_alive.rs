//! Keep alive: silence for one and a half times the interval is the end.

use crate::support::*;

// [MQTT-3.1.2-24] v311 [MQTT-3.1.2-22] v5 [MQTT-3.2.2-22] v5
#[test]
fn a_silent_client_is_closed_and_its_will_is_published() {
    let broker = Broker::start();
    for version in BOTH {
        let mut witness = Client::new(&broker, version, "witness");
        witness.subscribe("silent/will", QoS::AtMostOnce);
        let mut silent = connect(version, "silent")
            .keep_alive(1)
            .will("silent/will", b"fell asleep", QoS::AtMostOnce, false)
            .open(&broker, false);
        silent.expect_end(ReasonCode::KEEP_ALIVE_TIMEOUT);
        witness.expect_message("silent/will", b"fell asleep");
    }
}

// [MQTT-3.1.2-24] v311 [MQTT-3.1.2-22] v5
#[test]
fn any_packet_keeps_a_client_alive_and_0_means_for_ever() {
    let broker = Broker::start();
    let mut without = Client::new(&broker, Version::V311, "without-keep-alive");
    let mut pinging = connect(Version::V311, "pinging")
        .keep_alive(1)
        .open(&broker, false);
    let mut publishing = connect(Version::V5, "publishing")
        .keep_alive(1)
        .open(&broker, false);
    // Meanwhile a silent client with twice the interval is closed.
    let silent = connect(Version::V311, "silent")
        .keep_alive(2)
        .open(&broker, false);
    let closed = std::thread::spawn(move || {
        let mut silent = silent;
        silent.expect_closed();
    });
    wait_until("the silent client is closed", || {
        pinging.expect_silence();
        publishing.publish("alive", b"", QoS::AtLeastOnce);
        std::thread::sleep(std::time::Duration::from_millis(100));
        closed.is_finished()
    });
    closed
        .join()
        .expect("the silent client was closed properly");
    without.expect_silence();
}

// [MQTT-3.2.2-22] v5
#[test]
fn a_server_keep_alive_takes_the_place_of_a_longer_one() {
    let broker = Broker::setup().set("limits.max_keep_alive=1").start();
    for wish in [60, 0] {
        let (mut client, answer) = connect(Version::V5, "capped")
            .keep_alive(wish)
            .accepted(&broker);
        assert_eq!(
            answer.properties().server_keep_alive(),
            Some(1),
            "a wish of {wish} s"
        );
        client.expect_end(ReasonCode::KEEP_ALIVE_TIMEOUT);
    }
    let (_client, answer) = connect(Version::V5, "within")
        .keep_alive(1)
        .accepted(&broker);
    assert_eq!(answer.properties().server_keep_alive(), None);
    // A 3.1.1 client cannot be told: its own interval counts.
    let mut old = connect(Version::V311, "old").open(&broker, false);
    let_seconds_pass(&broker, 3);
    old.expect_silence();
}
