//! Sessions: their beginning, what they keep, and their end.

use crate::support::*;

// [MQTT-3.2.2-1] v311 [MQTT-3.2.2-2] v311 [MQTT-3.2.2-3] v311 [MQTT-3.1.2-4] v311 [MQTT-3.1.4-3] v311
// [MQTT-3.2.2-2] v5 [MQTT-3.2.2-3] v5 [MQTT-3.1.2-6] v5 [MQTT-3.1.4-4] v5 [MQTT-3.1.2-23] v5
#[test]
fn session_present_says_whether_there_was_a_session() {
    let broker = Broker::start();
    for version in BOTH {
        let name = format!("present-{version:?}");
        let persistent = connect(version, &name).persistent();
        persistent.open(&broker, false).disconnect();
        persistent.open(&broker, true).disconnect();
        persistent.open(&broker, true).drop_connection();
        persistent.open(&broker, true).disconnect();
        connect(version, &name).open(&broker, false).disconnect();
        persistent.open(&broker, false).disconnect();
    }
}

// [MQTT-3.1.2-4] v311 [MQTT-3.1.2-5] v311 [MQTT-4.1.0-1] v311 [MQTT-4.5.0-1] v311
// [MQTT-3.1.2-5] v5 [MQTT-4.5.0-1] v5 [MQTT-3.1.2-23] v5
#[test]
fn a_resumed_session_has_its_subscriptions_and_what_came_meanwhile() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = Client::new(&broker, version, "meanwhile-pub");
        let persistent = connect(version, "meanwhile").persistent();
        let mut client = persistent.open(&broker, false);
        client.subscribe("meanwhile/1", QoS::AtLeastOnce);
        client.subscribe("meanwhile/2", QoS::ExactlyOnce);
        client.disconnect();
        publisher.publish("meanwhile/1", b"one", QoS::AtLeastOnce);
        publisher.publish("meanwhile/2", b"two", QoS::ExactlyOnce);
        let mut client = persistent.open(&broker, true);
        let one = client.expect_message("meanwhile/1", b"one");
        assert_eq!(
            (one.publish().qos, one.publish().dup),
            (QoS::AtLeastOnce, false)
        );
        let two = client.expect_message("meanwhile/2", b"two");
        assert_eq!(
            (two.publish().qos, two.publish().dup),
            (QoS::ExactlyOnce, false)
        );
        publisher.publish("meanwhile/1", b"live", QoS::AtMostOnce);
        client.expect_message("meanwhile/1", b"live");
        client.expect_silence();
        connect(version, "meanwhile")
            .open(&broker, false)
            .disconnect();
    }
}

// [MQTT-3.1.2-6] v311 [MQTT-3.1.2-4] v5
#[test]
fn a_clean_start_discards_subscriptions_and_queue() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = Client::new(&broker, version, "discard-pub");
        let name = format!("discard-{version:?}");
        let persistent = connect(version, &name).persistent();
        let mut client = persistent.open(&broker, false);
        client.subscribe("discard", QoS::AtLeastOnce);
        client.disconnect();
        publisher.publish("discard", b"queued", QoS::AtLeastOnce);
        let mut clean = connect(version, &name).open(&broker, false);
        publisher.publish("discard", b"live", QoS::AtLeastOnce);
        clean.expect_silence();
        clean.disconnect();
        let mut again = persistent.open(&broker, false);
        publisher.publish("discard", b"later", QoS::AtLeastOnce);
        again.expect_silence();
        again.disconnect();
    }
}

// [MQTT-3.1.2-6] v311
#[test]
fn a_clean_session_before_5_0_ends_with_its_connection() {
    let broker = Broker::start();
    let mut clean = connect(Version::V311, "brief").open(&broker, false);
    clean.subscribe("brief", QoS::AtLeastOnce);
    clean.drop_connection();
    let mut next = connect(Version::V311, "brief")
        .resume()
        .open(&broker, false);
    Client::new(&broker, Version::V311, "brief-pub").publish("brief", b"x", QoS::AtLeastOnce);
    next.expect_silence();
}

// The end of a connection and the next CONNECT of its client meet in the broker.
#[test]
fn a_client_that_is_back_at_once_finds_its_session_ended_or_whole() {
    let broker = Broker::start();
    let brief = connect(Version::V5, "at-once").resume().expiry(0);
    let kept = connect(Version::V5, "at-once-kept").persistent();
    for (connect, present) in [(&brief, false), (&kept, true)] {
        let mut last = connect.open(&broker, false);
        for _ in 0..500 {
            let mut next = Client::open(broker.address(), Version::V5);
            last.drop_connection();
            next.send_bytes(&connect.bytes());
            assert_eq!(next.receive().connack().session_present, present);
            last = next;
        }
    }
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    let broker = Broker::start();
    connect(Version::V5, "brief")
        .resume()
        .open(&broker, false)
        .disconnect();
    connect(Version::V5, "brief")
        .resume()
        .expiry(0)
        .open(&broker, false)
        .drop_connection();
    connect(Version::V5, "brief")
        .resume()
        .open(&broker, false)
        .disconnect();
}

// [MQTT-4.1.0-2] v5 [MQTT-4.1.0-1] v5 [MQTT-4.1.0-2] v311
#[test]
fn a_session_ends_when_its_expiry_has_passed_and_not_while_connected() {
    let broker = Broker::start();
    let mut connected = connect(Version::V5, "stays")
        .resume()
        .expiry(1)
        .open(&broker, false);
    connected.subscribe("stays", QoS::AtLeastOnce);
    connect(Version::V5, "goes")
        .resume()
        .expiry(1)
        .open(&broker, false)
        .disconnect();
    connect(Version::V5, "keeps")
        .resume()
        .expiry(600)
        .open(&broker, false)
        .disconnect();
    let_seconds_pass(&broker, 2);
    connect(Version::V5, "goes").resume().open(&broker, false);
    connect(Version::V5, "keeps").resume().open(&broker, true);
    Client::new(&broker, Version::V5, "stays-pub").publish("stays", b"here", QoS::AtLeastOnce);
    connected.expect_message("stays", b"here");
    connected.drop_connection();
    connect(Version::V5, "stays").resume().open(&broker, true);
}

#[test]
fn the_expiry_given_at_disconnect_counts() {
    let broker = Broker::start();
    let leave = |name: &str, connect_expiry: u32, disconnect_expiry: u32| {
        let mut client = connect(Version::V5, name)
            .resume()
            .expiry(connect_expiry)
            .open(&broker, false);
        let block = properties(&[Property::SessionExpiryInterval(disconnect_expiry)]);
        client.send(Packet::Disconnect(Disconnect {
            properties: block.as_properties(),
            ..Disconnect::default()
        }));
        client
    };
    leave("raised", 1, 600).expect_closed();
    leave("lowered", 600, 0).expect_closed();
    // From 0 it may not be raised.
    leave("from-nothing", 0, 600).expect_end(ReasonCode::PROTOCOL_ERROR);
    let_seconds_pass(&broker, 2);
    connect(Version::V5, "raised").resume().open(&broker, true);
    connect(Version::V5, "lowered")
        .resume()
        .open(&broker, false);
    connect(Version::V5, "from-nothing")
        .resume()
        .open(&broker, false);
}

#[test]
fn a_longer_expiry_than_the_bound_is_answered_with_the_bound() {
    let broker = Broker::setup().set("limits.max_session_expiry=100").start();
    let (_client, answer) = connect(Version::V5, "long").expiry(101).accepted(&broker);
    assert_eq!(answer.properties().session_expiry_interval(), Some(100));
    let (_client, answer) = connect(Version::V5, "short").expiry(100).accepted(&broker);
    assert_eq!(answer.properties().session_expiry_interval(), None);
}

// [MQTT-3.1.4-2] v311 [MQTT-3.1.4-3] v5
#[test]
fn a_second_connection_takes_the_session_over() {
    let broker = Broker::start();
    for version in BOTH {
        let persistent = connect(version, "taken").persistent();
        let mut old = persistent.open(&broker, false);
        old.subscribe("taken", QoS::AtLeastOnce);
        let mut new = persistent.open(&broker, true);
        old.expect_end(ReasonCode::SESSION_TAKEN_OVER);
        Client::new(&broker, version, "taken-pub").publish("taken", b"yours", QoS::AtLeastOnce);
        new.expect_message("taken", b"yours");
        connect(version, "taken").open(&broker, false).disconnect();
        new.expect_end(ReasonCode::SESSION_TAKEN_OVER);
    }
}

#[test]
fn a_takeover_of_one_client_by_many_leaves_one() {
    let broker = Broker::start();
    let persistent = connect(Version::V5, "contested").persistent();
    let mut holders = vec![persistent.open(&broker, false)];
    for _ in 0..20 {
        holders.push(persistent.open(&broker, true));
    }
    let mut last = holders.pop().expect("the last one");
    for mut holder in holders {
        holder.expect_end(ReasonCode::SESSION_TAKEN_OVER);
    }
    last.expect_silence();
}

#[test]
fn unacknowledged_messages_move_with_a_takeover_by_another_version() {
    let broker = Broker::start();
    let mut old = connect(Version::V311, "upgraded")
        .persistent()
        .open(&broker, false);
    old.subscribe("upgraded", QoS::AtLeastOnce);
    Client::new(&broker, Version::V5, "upgraded-pub").publish(
        "upgraded",
        b"keep",
        QoS::AtLeastOnce,
    );
    old.expect_unanswered("upgraded", b"keep");
    let mut new = connect(Version::V5, "upgraded")
        .persistent()
        .open(&broker, true);
    old.expect_closed();
    assert!(new.expect_message("upgraded", b"keep").publish().dup);
}

// [MQTT-3.1.2-7] v311
#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    let broker = Broker::start();
    for version in BOTH {
        let mut publisher = Client::new(&broker, version, "outlived");
        publisher.publish_retained("outlived", b"kept", QoS::AtLeastOnce);
        publisher.disconnect();
        connect(version, "outlived")
            .open(&broker, false)
            .disconnect();
        let mut reader = Client::new(&broker, version, "outliving");
        reader.subscribe("outlived", QoS::AtMostOnce);
        reader.expect_message("outlived", b"kept");
    }
}
