//! What all clients of a tenant may use together: the exact answer at each bound, what a neighbour notices of it (nothing), how
//! room is made again, and that a restarted broker counts what is there.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::support::*;
use crate::tenants::World;

const ACME: usize = 1;
const OTHER: usize = 2;

fn world(bounds: &str) -> World {
    World::start(&format!(
        "[[tenant]]\nname = \"acme\"\n{bounds}\n[[tenant]]\nname = \"b\"\n"
    ))
}

/// Publishes and says how it was answered; a QoS 2 exchange that was accepted is ended.
fn try_publish(client: &mut Client, publish: Publish<'_>) -> ReasonCode {
    let packet_id = id(client.next_id());
    client.send(Packet::Publish(Publish {
        packet_id: Some(packet_id),
        ..publish
    }));
    let answer = client.next_answer();
    let reason = answer.reason();
    if publish.qos == QoS::ExactlyOnce && !reason.is_error() {
        client.send(Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
        client.expect_answer(Packet::PubComp(Ack::new(packet_id, ReasonCode::SUCCESS)));
    }
    match reason {
        // Nobody listens, which is no failure.
        ReasonCode::NO_MATCHING_SUBSCRIBERS => ReasonCode::SUCCESS,
        other => other,
    }
}

fn retained<'a>(topic: &'a str, payload: &'a [u8], qos: QoS) -> Publish<'a> {
    Publish {
        topic,
        payload,
        qos,
        retain: true,
        ..Publish::default()
    }
}

/// Topics of the retained messages that a new client of a tenant gets for a filter.
fn kept(world: &World, door: usize, filter: &str) -> Vec<String> {
    let mut reader = world.client(door, Version::V5, "kept-reader");
    reader.subscribe(filter, QoS::AtLeastOnce);
    reader.send(Packet::PingReq);
    let mut topics = Vec::new();
    loop {
        let received = reader.receive();
        match received.packet() {
            Packet::PingResp => break,
            Packet::Publish(publish) => {
                assert!(publish.retain);
                topics.push(publish.topic.to_owned());
                reader.answer(&received);
            }
            other => panic!("{other:?}"),
        }
    }
    reader.disconnect();
    topics.sort();
    topics
}

// --- rates

/// Publishes one message after the other until told to stop, with all qualities of service in turn; gives back how many.
fn publish_until(world: &World, version: Version, name: &str, stop: &AtomicBool) -> usize {
    let mut client = world.client(ACME, version, name);
    let topic = format!("rate/{name}");
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let qos = QoS::try_from((sent % 3) as u8).expect("one of three");
        let payload = format!("{sent:0100}");
        client.publish(&topic, payload.as_bytes(), qos);
        sent += 1;
    }
    client.disconnect();
    sent
}

#[test]
fn a_tenant_above_its_rate_is_slowed_down_and_its_neighbour_is_not() {
    const RATE: usize = 40;
    // Payloads have a hundred bytes.
    for bound in ["messages_per_second = 40", "bytes_per_second = 4000"] {
        let world = world(bound);
        let stop = AtomicBool::new(false);
        let mut readers = ["old", "new"].map(|name| {
            let mut reader = world.client(ACME, Version::V5, &format!("reader-{name}"));
            reader.subscribe(&format!("rate/{name}"), QoS::ExactlyOnce);
            reader
        });
        let (began, world, stop) = (Instant::now(), &world, &stop);
        let (sent, took) = std::thread::scope(|scope| {
            let publishers =
                [("old", Version::V311), ("new", Version::V5)].map(|(name, version)| {
                    scope.spawn(move || publish_until(world, version, name, stop))
                });
            let neighbours = [(OTHER, "neighbour"), (0, "nobody's")].map(|(door, name)| {
                scope.spawn(move || {
                    let mut client = world.client(door, Version::V5, name);
                    client.subscribe("rate/#", QoS::AtLeastOnce);
                    for number in 0..20 * RATE {
                        let payload = format!("{number:0100}");
                        client.publish("rate/new", payload.as_bytes(), QoS::AtLeastOnce);
                        client.expect_message("rate/new", payload.as_bytes());
                    }
                })
            });
            // At the tenant's rate each of them would need longer than anything here waits for.
            for neighbour in neighbours {
                neighbour.join().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            let sent = publishers.map(|publisher| publisher.join().unwrap());
            (sent, began.elapsed())
        });
        // What the bucket held at first, what ran into it since, and what each had under way.
        let all = sent[0] + sent[1];
        let most = (took.as_secs_f64() * RATE as f64) as usize + RATE + 2 * 8;
        assert!(all <= most, "{bound}: {sent:?} in {took:?}");
        for (reader, (count, name)) in readers.iter_mut().zip([(sent[0], "old"), (sent[1], "new")])
        {
            for number in 0..count {
                let payload = format!("{number:0100}");
                reader.expect_message(&format!("rate/{name}"), payload.as_bytes());
            }
            reader.expect_silence();
        }
    }
}

#[test]
fn a_burst_above_the_rate_is_taken_whole_also_where_clients_would_be_disconnected() {
    const COUNT: usize = 60;
    let world = World::start(
        "[limits]\nover_rate = \"disconnect\"\n[[tenant]]\nname = \"acme\"\nmessages_per_second = 20\n[[tenant]]\nname = \"b\"\n",
    );
    for version in BOTH {
        let mut reader = world.client(ACME, Version::V5, "reader");
        reader.subscribe("burst", QoS::AtLeastOnce);
        let mut client = world.client(ACME, version, "bursting");
        let mut bytes = Vec::new();
        for number in 0..COUNT {
            let payload = number.to_string();
            let publish = Publish {
                topic: "burst",
                payload: payload.as_bytes(),
                qos: QoS::AtLeastOnce,
                packet_id: Some(id(number as u16 + 1)),
                ..Publish::default()
            };
            Packet::Publish(publish)
                .encode(version, &mut bytes)
                .unwrap();
        }
        client.send_bytes(&bytes);
        for number in 0..COUNT {
            let answer = client.receive();
            assert_eq!(answer.reason(), ReasonCode::SUCCESS);
            reader.expect_message("burst", number.to_string().as_bytes());
        }
        client.disconnect();
    }
}

#[test]
fn mosquittos_client_is_slowed_down_to_the_rate_of_its_tenant_and_loses_nothing() {
    const COUNT: usize = 100;
    let world = world("messages_per_second = 40");
    for (version, qos) in [("311", "1"), ("5", "2"), ("5", "1")] {
        let mut reader = world.client(ACME, Version::V5, "reader");
        reader.subscribe("foreign", QoS::AtMostOnce);
        let mut command = Command::new("mosquitto_pub");
        let port = world.doors[ACME].port().to_string();
        command
            .args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", qos])
            .args(["-t", "foreign", "-m", "x", "--repeat", &COUNT.to_string()]);
        foreign::run(&mut command).success();
        for _ in 0..COUNT {
            reader.expect_message("foreign", b"x");
        }
        reader.expect_silence();
        reader.disconnect();
    }
}

// --- retained messages

#[test]
fn a_tenants_retained_messages_are_bounded_in_number_by_every_road() {
    let mut world = world("max_retained = 2");
    let [mut one, mut two] =
        BOTH.map(|version| world.client(ACME, version, &format!("{version:?}")));
    let mut live = world.client(ACME, Version::V5, "live");
    live.subscribe("kept/#", QoS::AtLeastOnce);
    one.publish_retained("kept/1", b"x", QoS::AtLeastOnce);
    two.publish_retained("kept/2", b"x", QoS::ExactlyOnce);
    live.expect_message("kept/1", b"x");
    live.expect_message("kept/2", b"x");
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        // MQTT 5 says that it was not taken, and nobody gets it.
        let answer = try_publish(&mut two, retained("kept/3", b"new", qos));
        assert_eq!(answer, ReasonCode::QUOTA_EXCEEDED);
        // MQTT 3.1.1 cannot say so: who is there gets it, and it is not kept.
        let answer = try_publish(&mut one, retained("kept/3", b"old", qos));
        assert_eq!(answer, ReasonCode::SUCCESS);
        live.expect_message("kept/3", b"old");
    }
    for client in [&mut one, &mut two] {
        client.publish_retained("kept/4", b"zero", QoS::AtMostOnce);
        live.expect_message("kept/4", b"zero");
    }
    let willing = connect(Version::V5, "willing").will("kept/5", b"will", QoS::AtLeastOnce, true);
    world.open(ACME, &willing).0.drop_connection();
    live.expect_message("kept/5", b"will");
    live.expect_silence();
    assert_eq!(kept(&world, ACME, "#"), ["kept/1", "kept/2"]);
    // What is there can be changed.
    two.publish_retained("kept/1", b"changed", QoS::AtLeastOnce);
    // The neighbours notice nothing.
    for door in [0, OTHER] {
        let mut neighbour = world.client(door, Version::V5, "neighbour");
        for number in 0..5 {
            neighbour.publish_retained(&format!("kept/{number}"), b"x", QoS::AtLeastOnce);
        }
        assert_eq!(kept(&world, door, "#").len(), 5);
    }
    // A restart does not forget what is there.
    world.broker.kill9();
    world.broker.start_again();
    let mut two = world.client(ACME, Version::V5, "two");
    let refused = try_publish(&mut two, retained("kept/3", b"", QoS::AtLeastOnce));
    assert_eq!(refused, ReasonCode::SUCCESS, "nothing is to be kept of it");
    let refused = try_publish(&mut two, retained("kept/3", b"x", QoS::AtLeastOnce));
    assert_eq!(refused, ReasonCode::QUOTA_EXCEEDED);
    // Removed, and expired: both make room.
    two.publish_retained("kept/1", b"", QoS::AtLeastOnce);
    let short = [Property::MessageExpiryInterval(1)];
    let block = properties(&short);
    let short = Publish {
        properties: block.as_properties(),
        ..retained("kept/3", b"short", QoS::AtLeastOnce)
    };
    assert_eq!(try_publish(&mut two, short), ReasonCode::SUCCESS);
    assert_eq!(kept(&world, ACME, "#"), ["kept/2", "kept/3"]);
    wait_until("the short-lived message has made room", || {
        let answer = try_publish(&mut two, retained("kept/6", b"x", QoS::AtLeastOnce));
        answer == ReasonCode::SUCCESS
    });
    assert_eq!(kept(&world, ACME, "#"), ["kept/2", "kept/6"]);
}

/// What is acknowledged is kept: each answer is about its own message, also when many come in one read.
#[test]
fn retained_messages_of_one_read_are_answered_one_by_one() {
    let world = world("max_retained = 3");
    let mut client = world.client(ACME, Version::V5, "client");
    let publishes = [
        ("a", "x", true),
        ("b", "x", true),
        ("b", "y", true),
        ("c", "x", true),
        ("d", "x", false),
        ("a", "", true),
        ("d", "x", true),
        ("e", "x", false),
        ("b", "z", true),
    ];
    let mut bytes = Vec::new();
    for (number, (topic, payload, _)) in (1..).zip(publishes) {
        let publish = Publish {
            packet_id: Some(id(number)),
            ..retained(topic, payload.as_bytes(), QoS::AtLeastOnce)
        };
        Packet::Publish(publish)
            .encode(Version::V5, &mut bytes)
            .unwrap();
    }
    client.send_bytes(&bytes);
    for (topic, payload, taken) in publishes {
        let answer = client.next_answer();
        let refused = answer.reason() == ReasonCode::QUOTA_EXCEEDED;
        assert_eq!(!refused, taken, "{topic} {payload:?}: {answer:?}");
    }
    assert_eq!(kept(&world, ACME, "#"), ["b", "c", "d"]);
}

#[test]
fn a_tenants_retained_messages_are_bounded_in_bytes() {
    let mut world = world("max_retained_bytes = 2500");
    let body = [b'x'; 1_200];
    let mut client = world.client(ACME, Version::V5, "client");
    let room_for = |client: &mut Client, topic: &str, len: usize| {
        let answer = try_publish(client, retained(topic, &body[..len], QoS::AtLeastOnce));
        assert!(
            [ReasonCode::SUCCESS, ReasonCode::QUOTA_EXCEEDED].contains(&answer),
            "{answer:?}"
        );
        answer == ReasonCode::SUCCESS
    };
    assert!(room_for(&mut client, "one", 1_000));
    assert!(room_for(&mut client, "two", 900));
    // What is kept of a message beside its payload counts too: it is memory.
    assert!(!room_for(&mut client, "three", 300));
    // At the bound, the messages that are there can be replaced by others of their size, and by smaller ones.
    assert!(room_for(&mut client, "one", 1_000));
    assert!(!room_for(&mut client, "two", 1_000 + 300 - 160));
    assert_eq!(kept(&world, ACME, "#"), ["one", "two"]);
    world.broker.kill9();
    world.broker.start_again();
    let mut client = world.client(ACME, Version::V5, "client");
    assert!(!room_for(&mut client, "three", 300));
    assert!(room_for(&mut client, "one", 100));
    assert!(room_for(&mut client, "three", 300));
    assert_eq!(kept(&world, ACME, "#"), ["one", "three", "two"]);
    // Each of these alone is larger than what acme has.
    for door in [0, OTHER] {
        let mut neighbour = world.client(door, Version::V5, "neighbour");
        for topic in ["one", "two", "three", "four"] {
            assert!(room_for(&mut neighbour, topic, 1_000));
        }
    }
}

// --- queues

#[test]
fn what_waits_for_a_tenants_clients_is_bounded_and_taken_again_when_they_have_got_it() {
    let mut world = world("max_queued_bytes = 20000");
    let body = [b'x'; 1_000];
    let sleeper = connect(Version::V5, "sleeper").persistent();
    for door in [ACME, OTHER] {
        let mut client = world.open(door, &sleeper).0;
        client.subscribe("work", QoS::ExactlyOnce);
        client.drop_connection();
    }
    let work = |qos| Publish {
        topic: "work",
        payload: &body,
        qos,
        ..Publish::default()
    };
    // Those who were told that it was taken: not one of these is lost.
    let taken = AtomicUsize::new(0);
    let until_full = |client: &mut Client| {
        wait_until("the tenant has as much waiting as it may", || {
            let answer = try_publish(client, work(QoS::AtLeastOnce));
            if answer == ReasonCode::SUCCESS {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            answer == ReasonCode::QUOTA_EXCEEDED
        });
    };
    let mut new = world.client(ACME, Version::V5, "new");
    until_full(&mut new);
    assert!(taken.load(Ordering::Relaxed) >= 15);
    let refused = try_publish(&mut new, work(QoS::ExactlyOnce));
    assert_eq!(refused, ReasonCode::QUOTA_EXCEEDED);
    // MQTT 3.1.1 has no word for it: acknowledged and thrown away. QoS 0 waits for nobody.
    let mut old = world.client(ACME, Version::V311, "old");
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(try_publish(&mut old, work(qos)), ReasonCode::SUCCESS);
    }
    old.subscribe("now", QoS::AtMostOnce);
    old.publish("now", b"0", QoS::AtMostOnce);
    old.expect_message("now", b"0");
    // The neighbour's queue has room for as much and more.
    let mut neighbour = world.client(OTHER, Version::V5, "neighbour");
    for _ in 0..60 {
        neighbour.publish_packet(work(QoS::AtLeastOnce));
    }
    // After a restart it is counted again, before it is full anew.
    world.broker.kill9();
    world.broker.start_again();
    let before = taken.load(Ordering::Relaxed);
    let mut new = world.client(ACME, Version::V5, "new");
    until_full(&mut new);
    let since = taken.load(Ordering::Relaxed) - before;
    println!("{before} messages were taken before the restart, {since} after it");

    let mut client = world.open(ACME, &sleeper.resume()).0;
    for _ in 0..taken.load(Ordering::Relaxed) {
        client.expect_message("work", &body);
    }
    client.expect_silence();
    wait_until("there is room again", || {
        try_publish(&mut new, work(QoS::AtLeastOnce)) == ReasonCode::SUCCESS
    });
    client.expect_message("work", &body);
    let mut client = world
        .open(OTHER, &connect(Version::V5, "sleeper").resume())
        .0;
    for _ in 0..60 {
        client.expect_message("work", &body);
    }
    client.expect_silence();
}

// --- sessions and connections

/// What a client that finds no place is told.
fn no_place(version: Version) -> ReasonCode {
    match version.is_v5() {
        true => ReasonCode::QUOTA_EXCEEDED,
        false => ReasonCode(3),
    }
}

fn answer(world: &World, door: usize, connecting: &connecting::Connecting) -> ReasonCode {
    let (mut client, answer) = connecting.answer_at(world.doors[door]);
    match answer.reason() {
        ReasonCode::SUCCESS => client.disconnect(),
        _ => client.expect_closed(),
    }
    answer.reason()
}

#[test]
fn a_tenants_stored_sessions_are_bounded_and_those_that_end_make_room() {
    let mut world = world("max_sessions = 2");
    let stored = |version, name: &str| connect(version, name).persistent();
    for (version, name) in [(Version::V311, "one"), (Version::V5, "two")] {
        assert_eq!(
            answer(&world, ACME, &stored(version, name)),
            ReasonCode::SUCCESS
        );
    }
    for restarted in [false, true] {
        if restarted {
            world.broker.kill9();
            world.broker.start_again();
        }
        for version in BOTH {
            let reason = answer(&world, ACME, &stored(version, "three"));
            assert_eq!(reason, no_place(version), "restarted: {restarted}");
            // Who has a session comes back to it; who wants none to be stored needs no place; elsewhere there is room.
            let (client, back) = stored(version, "one").answer_at(world.doors[ACME]);
            assert!(back.connack().session_present);
            client.disconnect();
            assert_eq!(
                answer(&world, ACME, &connect(version, "clean")),
                ReasonCode::SUCCESS
            );
            for door in [0, OTHER] {
                let name = format!("{version:?}-{restarted}");
                for number in 0..3 {
                    let stored = stored(version, &format!("{name}-{number}"));
                    assert_eq!(answer(&world, door, &stored), ReasonCode::SUCCESS);
                }
            }
        }
    }
    // A session that its client ends makes room, and so does one that expires.
    assert_eq!(
        answer(&world, ACME, &connect(Version::V311, "one")),
        ReasonCode::SUCCESS
    );
    let short = connect(Version::V5, "short").resume().expiry(1);
    assert_eq!(answer(&world, ACME, &short), ReasonCode::SUCCESS);
    wait_until("the short session has made room", || {
        answer(&world, ACME, &stored(Version::V5, "three")) == ReasonCode::SUCCESS
    });
    assert_eq!(
        answer(&world, ACME, &stored(Version::V5, "four")),
        no_place(Version::V5)
    );
}

#[test]
fn a_tenants_connections_are_bounded_and_those_that_end_make_room() {
    let world = world("max_connections = 2");
    let first = world.client(ACME, Version::V5, "first");
    let mut second = world.client(ACME, Version::V311, "second");
    for version in BOTH {
        assert_eq!(
            answer(&world, ACME, &connect(version, "third")),
            no_place(version)
        );
    }
    let _neighbours: Vec<_> = [0, OTHER]
        .into_iter()
        .flat_map(|door| (0..4).map(move |number| (door, number)))
        .map(|(door, number)| world.client(door, Version::V5, &number.to_string()))
        .collect();
    // A client whose connection was lost, and the broker does not know of it yet, takes its own place.
    let again = world.client(ACME, Version::V5, "second");
    second.expect_closed();
    assert_eq!(
        answer(&world, ACME, &connect(Version::V5, "third")),
        no_place(Version::V5)
    );
    first.drop_connection();
    wait_until("the place of the lost connection is free", || {
        answer(&world, ACME, &connect(Version::V5, "third")) == ReasonCode::SUCCESS
    });
    again.disconnect();
}

#[test]
fn of_those_who_race_for_the_last_places_nobody_is_told_that_what_is_thrown_away_was_kept() {
    const PLACES: usize = 6;
    let world = world(&format!("max_retained = {PLACES}"));
    let mut clients = ["a", "b", "c", "d"].map(|name| world.client(ACME, Version::V5, name));
    for round in 0..40 {
        let start = std::sync::Barrier::new(clients.len());
        let publish = |client: &mut Client, who: usize| {
            start.wait();
            let topics = (0..3).map(|n| format!("race/{who}/{n}"));
            let kept = topics.filter(|topic| {
                let reason = try_publish(client, retained(topic, b"x", QoS::AtLeastOnce));
                assert!([ReasonCode::SUCCESS, ReasonCode::QUOTA_EXCEEDED].contains(&reason));
                reason == ReasonCode::SUCCESS
            });
            kept.collect::<Vec<_>>()
        };
        let mut promised = std::thread::scope(|scope| {
            let each = clients.iter_mut().enumerate();
            let running: Vec<_> = each
                .map(|(who, client)| {
                    scope.spawn({
                        let publish = &publish;
                        move || publish(client, who)
                    })
                })
                .collect();
            let ended = running
                .into_iter()
                .map(|run| run.join().expect("it publishes"));
            ended.collect::<Vec<_>>().concat()
        });
        promised.sort();
        assert_eq!(kept(&world, ACME, "race/#"), promised, "round {round}");
        // Each of the others may have looked before the last place was taken.
        assert!((PLACES..PLACES + clients.len()).contains(&promised.len()));
        for topic in promised {
            clients[0].publish_retained(&topic, b"", QoS::AtLeastOnce);
        }
    }
}
