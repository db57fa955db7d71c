//! What changes in the registry reaches all connections of a device.

use std::time::Instant;

use dunlin_broker::registry::{PolicyAction, PolicyEffect, PolicyRule, State};

use super::{Pair, World, expect_end, now, setup};
use crate::support::*;

#[test]
fn a_device_that_is_blocked_is_off_all_replicas_and_may_come_back_when_it_is_not() {
    let world = World::start();
    let open = || -> Vec<Client> {
        (0..3)
            .map(|n| {
                world
                    .cluster
                    .open(n, &world.pair.connect(&format!("pump/{n}")), false)
            })
            .collect()
    };
    let mut longest = std::time::Duration::ZERO;
    for _ in 0..5 {
        let mut clients = open();
        let begin = Instant::now();
        world
            .administrator()
            .change(|device| device.state = State::Blocked);
        for client in &mut clients {
            expect_end(client);
        }
        longest = longest.max(begin.elapsed());
        for replica in &world.cluster.replicas {
            world
                .pair
                .connect("pump")
                .refused(replica, ReasonCode::NOT_AUTHORIZED);
        }
        world
            .administrator()
            .change(|device| device.state = State::Active);
    }
    println!(
        "revocation: blocked in the registry to the end of three connections on three replicas: {longest:?} at the longest of 5"
    );
}

#[test]
fn a_credential_that_is_removed_ends_its_connections_and_not_those_of_the_other_one() {
    let world = World::start();
    let new = Pair::new();
    let mut first = world.open(0, "pump/0");
    new.connect("pump/1").refused(
        &world.cluster.replicas[1],
        ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    );
    world
        .administrator()
        .change(|device| device.credentials.push(new.credential("new")));
    let mut second = world.cluster.open(1, &new.connect("pump/1"), false);
    first.expect_silence();
    world
        .administrator()
        .change(|device| device.credentials.retain(|it| it.id != "only"));
    expect_end(&mut first);
    second.expect_silence();
    world.pair.connect("pump/0").refused(
        &world.cluster.replicas[0],
        ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    );
    // A key says who signed, not for which device.
    new.connect("another").refused(
        &world.cluster.replicas[2],
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    );
}

#[test]
fn with_a_credential_that_was_taken_away_nothing_is_done_any_more_when_that_is_answered() {
    const TOPIC: &str = "/devices/pump/events";
    let world = World::with(setup().set("auth.default=allow"));
    let mut listener = world.cluster.clean(0, "listener");
    listener.subscribe(TOPIC, QoS::AtMostOnce);
    let mut others: Vec<_> = (0..3)
        .map(|n| world.cluster.clean(n, &format!("other-{n}")))
        .collect();
    let mut late = Vec::new();
    let publish = Packet::Publish(Publish {
        topic: TOPIC,
        payload: b"late",
        ..Publish::default()
    });
    publish
        .encode(Version::V5, &mut late)
        .expect("it can be written");
    let mut longest = std::time::Duration::ZERO;
    for round in 0..10 {
        let lost = Pair::new();
        let id = format!("lost-{round}");
        let credential = lost.credential(&id);
        world
            .administrator()
            .change(|device| device.credentials.push(credential.clone()));
        let mut clients: Vec<Client> = (0..3)
            .map(|n| {
                world
                    .cluster
                    .open(n, &lost.connect(&format!("pump/{n}")), false)
            })
            .collect();
        let begin = Instant::now();
        let path = format!("/v1/devices/pump/credentials/{id}");
        world.operator.delete(world.replica(round % 3), &path);
        longest = longest.max(begin.elapsed());
        for client in &mut clients {
            client.try_send_bytes(&late);
        }
        for client in &mut clients {
            expect_end(client);
        }
        // What a replica sends keeps its order.
        for other in &mut others {
            other.publish(TOPIC, b"marker", QoS::AtMostOnce);
        }
        for _ in 0..3 {
            listener.expect_message(TOPIC, b"marker");
        }
    }
    println!("withdrawal of a credential: answered after {longest:?} at the longest of 10");
}

#[test]
fn a_credential_whose_end_is_brought_forward_ends_its_connections_then() {
    let world = World::start();
    let mut client = world.open(1, "pump");
    let end = now() + 2;
    world
        .administrator()
        .change(|device| device.credentials[0].expires_at = Some(end));
    client.expect_silence();
    client.expect_end(ReasonCode::MAXIMUM_CONNECT_TIME);
    assert!(now() >= end);
}

#[test]
fn a_replica_that_has_missed_the_change_makes_up_for_it() {
    let world = World::with(setup().with_faults());
    let mut client = world.cluster.open(1, &world.pair.connect("pump"), false);
    world.cluster.proxies[1].cut();
    world
        .administrator()
        .change(|device| device.state = State::Blocked);
    world.cluster.proxies[1].heal();
    expect_end(&mut client);
}

#[test]
fn a_token_of_iot_core_is_taken_as_it_is() {
    let world = World::start();
    let name = "projects/plant/locations/europe-west1/registries/pumps/devices/pump";
    let with = |claims: String| {
        connect(Version::V311, name)
            .username("unused")
            .password(world.pair.token(&claims).as_bytes())
    };
    let (past, soon) = (now() - 60, now() + 3_600);
    let good = format!(r#"{{"aud":"plant","iat":{past},"exp":{soon}}}"#);
    world.cluster.open(0, &with(good), false);
    for wrong in [
        format!(r#"{{"aud":"another","iat":{past},"exp":{soon}}}"#),
        format!(
            r#"{{"aud":"plant","iat":{},"exp":{}}}"#,
            past - 7_200,
            past - 3_600
        ),
        format!(r#"{{"aud":"plant","iat":{past},"exp":{}}}"#, past + 200_000),
    ] {
        let refused = with(wrong).answer(&world.cluster.replicas[0]).1;
        assert_eq!(refused.connack().reason.0, 5, "not authorized: {refused:?}");
    }
}

#[test]
fn a_device_has_its_own_topics_and_those_of_no_other() {
    let world = World::start();
    let mut client = world.cluster.open(0, &world.pair.connect("pump"), false);
    let filters = [
        ("/devices/pump/config", 1),
        ("/devices/pump/commands/#", 1),
        ("/devices/pump/commands/reboot", 1),
        ("/devices/pump/#", 0x87),
        ("/devices/+/config", 0x87),
        ("/devices/valve/config", 0x87),
        ("/devices/pump/events", 0x87),
        ("#", 0x87),
        ("$share/g//devices/+/commands/#", 0x87),
        ("$share/g//devices/pump/commands/#", 1),
        ("$SYS/#", 0x87),
    ];
    for (filter, expected) in filters {
        let options = SubscribeOptions::new(QoS::AtLeastOnce);
        let codes = client.subscribe_all(&[(filter, options)], &[]);
        assert_eq!(codes, [expected], "{filter}");
    }
    let topics = [
        ("/devices/pump/events", true),
        ("/devices/pump/events/alarm", true),
        ("/devices/pump/state", true),
        ("/devices/pump/config", false),
        ("/devices/valve/state", false),
        ("/devices/pump/../valve/state", false),
        ("/devices/pump", false),
        ("devices/pump/state", false),
    ];
    for (topic, allowed) in topics {
        let packet_id = client.next_id();
        client.send(Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(id(packet_id)),
            properties: properties(&[]).as_properties(),
            payload: b"x",
        }));
        let reason = client.next_answer().reason();
        assert_eq!(reason != ReasonCode::NOT_AUTHORIZED, allowed, "{topic}");
    }
    assert_eq!(
        world.administrator().states(),
        [b"x"],
        "what it reports is kept"
    );
}

#[test]
fn rules_that_are_changed_reach_the_connections_on_all_replicas() {
    let world = World::start();
    let mut clients: Vec<Client> = (0..3)
        .map(|n| {
            let mut client =
                world
                    .cluster
                    .open(n, &world.pair.connect(&format!("pump/{n}")), false);
            client.subscribe("/devices/pump/config", QoS::AtLeastOnce);
            client
        })
        .collect();
    let begin = Instant::now();
    world.administrator().change(|device| {
        device.policy = Some(vec![PolicyRule {
            effect: PolicyEffect::Allow,
            action: PolicyAction::Any,
            topics: vec!["site/%{place}/#".to_owned()],
        }]);
        let place = ("place".to_owned(), "north".to_owned());
        device.attributes.extend([place]);
    });
    for client in &mut clients {
        expect_end(client);
    }
    println!(
        "rules: changed in the registry to the end of three subscribers on three replicas: {:?}",
        begin.elapsed()
    );
    let mut client = world.cluster.open(1, &world.pair.connect("pump"), false);
    client.subscribe("site/north/x", QoS::AtMostOnce);
    let options = SubscribeOptions::new(QoS::AtMostOnce);
    let codes = client.subscribe_all(&[("site/south/x", options)], &[]);
    assert_eq!(codes, [0x87]);
}
