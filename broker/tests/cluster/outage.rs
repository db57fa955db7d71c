//! While Redis is away: what needs it waits within bounds, the rest goes on.

use std::{thread, time::Duration};

use dunlin_protocol::{Properties, Subscribe};
use rustix::process::Signal;

use crate::{
    rig::Cluster,
    support::{link::Link, *},
};

fn publish(topic: &str, packet_id: u16) -> Packet<'_> {
    Packet::Publish(Publish {
        qos: QoS::AtLeastOnce,
        topic,
        packet_id: Some(id(packet_id)),
        payload: b"held",
        ..Publish::default()
    })
}

#[test]
fn qos_0_goes_on_and_qos_1_waits_until_redis_is_back() {
    let mut cluster = Cluster::setup(2).with_faults().start();
    let mut away = cluster.open(1, &connect(Version::V5, "away").persistent(), false);
    away.subscribe("durable/#", QoS::AtLeastOnce);
    away.disconnect();
    let mut local = cluster.clean(0, "local");
    local.subscribe("local/#", QoS::AtMostOnce);
    let mut publisher = cluster.clean(0, "publisher");

    cluster.redis.shut_down();
    publisher.send(publish("durable/x", 1));
    publisher.publish("local/x", b"still here", QoS::AtMostOnce);
    local.expect_message("local/x", b"still here");
    publisher.expect_silence();

    cluster.redis.start_again();
    publisher.expect(Packet::PubAck(Ack::new(id(1), ReasonCode::SUCCESS)));
    let mut away = cluster.open(1, &connect(Version::V5, "away").persistent(), true);
    away.expect_message("durable/x", b"held");
    away.expect_silence();
}

#[test]
fn a_connect_that_needs_redis_is_told_that_it_is_away() {
    let mut cluster = Cluster::setup(1).with_faults().start();
    cluster.redis.shut_down();
    for connecting in [
        connect(Version::V5, "persistent").persistent(),
        connect(Version::V5, "clean"),
    ] {
        let (_client, answer) = connecting.answer(&cluster.replicas[0]);
        assert_eq!(
            answer.connack().reason,
            ReasonCode::SERVER_UNAVAILABLE,
            "{answer:?}"
        );
    }
    let (_client, answer) = connect(Version::V311, "old").answer(&cluster.replicas[0]);
    // Connection Refused, Server unavailable.
    assert_eq!(answer.bytes().get(3), Some(&3), "{answer:?}");
    cluster.redis.start_again();
    wait_until("clients can connect again", || {
        Link::open_at(
            cluster.address(0),
            &connect(Version::V5, "persistent").persistent(),
            false,
            true,
        )
        .is_some()
    });
}

#[test]
fn a_subscribe_that_needs_redis_is_answered_with_an_error_or_when_redis_is_back() {
    let mut cluster = Cluster::setup(2).with_faults().start();
    let mut client = cluster.clean(0, "client");
    cluster.redis.shut_down();
    let mut filters = SubscribeFiltersBuf::new();
    filters
        .push("late/#", SubscribeOptions::new(QoS::AtLeastOnce))
        .expect("the filter can be written");
    client.send(Packet::Subscribe(Subscribe {
        packet_id: id(1),
        properties: Properties::EMPTY,
        filters: filters.as_filters(),
    }));
    let redis = &mut cluster.redis;
    let (answer, while_away) = thread::scope(|scope| {
        let asked = scope.spawn(move || client.receive());
        // Longer than the broker waits for Redis before it answers.
        thread::sleep(Duration::from_secs(8));
        let while_away = asked.is_finished();
        redis.start_again();
        (asked.join().expect("an answer"), while_away)
    });
    match answer.packet() {
        Packet::SubAck(suback) => {
            let granted = suback.reason_codes.iter().all(|code| *code < 0x80);
            assert!(!granted || !while_away, "{answer:?}");
        }
        Packet::Disconnect(packet) => assert!(packet.reason.is_error(), "{answer:?}"),
        other => panic!("{other:?}"),
    }
}

/// Bytes of memory of a replica's process.
fn resident(cluster: &Cluster, replica: usize) -> u64 {
    let port = cluster.replicas[replica].port().to_string();
    let listen = format!("127.0.0.1:{port}");
    let found = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .find(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&listen)
        })
        .expect("the replica's process");
    let status = std::fs::read_to_string(found.path().join("status")).expect("its status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("its memory");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("a number");
    kib * 1024
}

#[test]
fn publishers_are_slowed_down_while_redis_is_away_and_memory_stays_bounded() {
    const PUBLISHERS: u16 = 8;
    const MESSAGES: u16 = 400;
    const SIZE: usize = 64 * 1024;
    let cluster = Cluster::setup(1)
        .with_faults()
        .set("limits.store_pending_bytes=16777216")
        .start();
    let mut away = cluster.open(0, &connect(Version::V5, "away").persistent(), false);
    away.subscribe("flood/#", QoS::AtLeastOnce);
    away.disconnect();
    let before = resident(&cluster, 0);
    let payload = vec![b'x'; SIZE];
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|n| flooding(&cluster, &format!("flood-{n}")))
        .collect();
    cluster.redis.signal(Signal::STOP);
    let acknowledged: u32 = thread::scope(|scope| {
        let threads: Vec<_> = publishers
            .into_iter()
            .map(|link| {
                let payload = &payload;
                scope.spawn(move || flood(link, MESSAGES, payload))
            })
            .collect();
        // 200 MB want to get in.
        thread::sleep(Duration::from_secs(3));
        let grown = resident(&cluster, 0).saturating_sub(before);
        eprintln!("chaos: {} MiB held while Redis was away", grown >> 20);
        assert!(
            (8 << 20..120 << 20).contains(&grown),
            "{grown} bytes are held"
        );
        cluster.redis.signal(Signal::CONT);
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a publisher"))
            .sum()
    });
    assert!(acknowledged > 0);
}

fn flooding(cluster: &Cluster, client_id: &str) -> Link {
    let connecting = connect(Version::V5, client_id);
    Link::open_at(cluster.address(0), &connecting, false, false).expect("a connection")
}

/// Publishes as fast as it is read from; how many were acknowledged before the connection ended, or all.
fn flood(mut link: Link, messages: u16, payload: &[u8]) -> u32 {
    let mut acknowledged = 0;
    let mut sent = 0;
    while acknowledged < u32::from(messages) {
        // No more at once than the broker has to take: its Receive Maximum is 100 at least.
        while sent < messages && u32::from(sent) < acknowledged + 50 {
            sent += 1;
            let packet = Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                topic: "flood/x",
                packet_id: Some(id(sent)),
                payload,
                ..Publish::default()
            });
            if link.send(packet).is_err() {
                return acknowledged;
            }
        }
        match link.receive() {
            Ok(received) if matches!(received.packet(), Packet::PubAck(_)) => acknowledged += 1,
            _ => return acknowledged,
        }
    }
    acknowledged
}

#[test]
fn a_redis_that_sleeps_for_a_while_costs_nothing() {
    let cluster = Cluster::setup(2).with_faults().start();
    let mut subscriber = cluster.open(1, &connect(Version::V5, "slow").persistent(), false);
    subscriber.subscribe("slow/#", QoS::ExactlyOnce);
    let mut publisher = cluster.clean(0, "publisher");
    cluster.redis.signal(Signal::STOP);
    for n in 1..=20 {
        publisher.send(publish("slow/x", n));
    }
    thread::sleep(Duration::from_millis(1_500));
    cluster.redis.signal(Signal::CONT);
    for n in 1..=20 {
        publisher.expect(Packet::PubAck(Ack::new(id(n), ReasonCode::SUCCESS)));
        subscriber.expect_message("slow/x", b"held");
    }
    subscriber.expect_silence();
}

#[test]
fn a_full_redis_holds_publishers_and_is_emptied_by_subscribers() {
    let cluster = Cluster::setup(1)
        .with_faults()
        .allow_log("redis is full")
        .start();
    let mut subscriber = cluster.open(0, &connect(Version::V5, "reader").persistent(), false);
    subscriber.subscribe("full/#", QoS::AtLeastOnce);
    let mut publisher = cluster.clean(0, "publisher");
    publisher.publish("full/x", b"before", QoS::AtLeastOnce);
    cluster.redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    publisher.send(publish("full/x", 77));
    // An acknowledgement frees memory, and goes on.
    subscriber.expect_message("full/x", b"before");
    publisher.expect_silence();
    cluster.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    publisher.expect(Packet::PubAck(Ack::new(id(77), ReasonCode::SUCCESS)));
    subscriber.expect_message("full/x", b"held");
}

/// For longer than a replica may go without its lease.
const LONG: Duration = Duration::from_secs(8);

/// Publishers whose sessions end with their connections, in both protocols and on both replicas.
fn clean_publishers(cluster: &Cluster) -> Vec<Client> {
    [(0, Version::V5), (0, Version::V311), (1, Version::V5)]
        .iter()
        .enumerate()
        .map(|(n, (replica, version))| {
            connect(*version, &format!("publisher-{n}")).open(&cluster.replicas[*replica], false)
        })
        .collect()
}

/// Publishes while Redis is away, and takes the acknowledgements when it is back.
fn publish_through_an_outage(
    cluster: &mut Cluster,
    go_away: impl FnOnce(&mut Cluster),
    come_back: impl FnOnce(&mut Cluster),
) {
    const HELD: u16 = 20;
    let reader = connect(Version::V5, "reader").persistent();
    let mut before = cluster.open(1, &reader, false);
    before.subscribe("held/#", QoS::ExactlyOnce);
    before.disconnect();
    let mut publishers = clean_publishers(cluster);
    let send = |publisher: &mut Client, who: usize, n: u16| {
        let qos = if n.is_multiple_of(2) {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        publisher.send(Packet::Publish(Publish {
            qos,
            topic: &format!("held/{who}"),
            packet_id: Some(id(n)),
            payload: n.to_string().as_bytes(),
            ..Publish::default()
        }));
    };
    // Some is under way when Redis goes.
    for (who, publisher) in publishers.iter_mut().enumerate() {
        (1..=HELD / 2).for_each(|n| send(publisher, who, n));
    }
    go_away(cluster);
    for (who, publisher) in publishers.iter_mut().enumerate() {
        (HELD / 2 + 1..=HELD).for_each(|n| send(publisher, who, n));
    }
    thread::sleep(LONG);
    // What needs nothing of Redis goes on, on connections that wait for it, too.
    for publisher in &mut publishers {
        publisher.send(Packet::PingReq);
    }
    come_back(cluster);
    for publisher in &mut publishers {
        let mut acknowledged = 0;
        while acknowledged < HELD {
            let answer = publisher.receive();
            let (kind, packet_id) = match answer.packet() {
                Packet::PingResp => continue,
                Packet::PubAck(ack) => (0, ack.packet_id),
                Packet::PubRec(ack) => (1, ack.packet_id),
                other => panic!("{other:?}"),
            };
            acknowledged += 1;
            assert_eq!((kind, packet_id), (acknowledged % 2, id(acknowledged)));
        }
        for n in (1..=HELD).step_by(2) {
            publisher.send(Packet::PubRel(Ack::new(id(n), ReasonCode::SUCCESS)));
            publisher.expect(Packet::PubComp(Ack::new(id(n), ReasonCode::SUCCESS)));
        }
    }
    let mut got = vec![Vec::new(); publishers.len()];
    let mut back = crate::rig::connect_again(&cluster.replicas[1], &reader.resume());
    for _ in 0..publishers.len() * usize::from(HELD) {
        let received = back.receive();
        let publish = received.publish();
        let who: usize = publish.topic["held/".len()..].parse().expect("a publisher");
        got[who].push(String::from_utf8_lossy(publish.payload).into_owned());
        back.answer(&received);
    }
    back.expect_silence();
    let all: Vec<_> = (1..=HELD).map(|n| n.to_string()).collect();
    assert_eq!(got, vec![all; publishers.len()]);
}

#[test]
fn clean_publishers_stay_while_redis_is_down_for_long_and_everything_held_is_sent_once() {
    let mut cluster = Cluster::setup(2).with_faults().start();
    publish_through_an_outage(
        &mut cluster,
        |cluster| cluster.redis.shut_down(),
        |cluster| cluster.redis.start_again(),
    );
}

#[test]
fn clean_publishers_stay_while_redis_sleeps_for_long_and_everything_held_is_sent_once() {
    let mut cluster = Cluster::setup(2).with_faults().start();
    publish_through_an_outage(
        &mut cluster,
        |cluster| cluster.redis.signal(Signal::STOP),
        |cluster| cluster.redis.signal(Signal::CONT),
    );
}

#[test]
fn a_replica_that_is_cut_off_for_long_says_so_in_reason_codes() {
    let cluster = Cluster::setup(1).with_faults().start();
    let mut persistent = cluster.open(0, &connect(Version::V5, "stays").persistent(), false);
    let mut clean = cluster.clean(0, "clean");
    let mut older = connect(Version::V311, "older").open(&cluster.replicas[0], false);
    let mut listener = cluster.clean(0, "listener");
    listener.subscribe("local/#", QoS::AtMostOnce);
    cluster.redis.signal(Signal::STOP);
    // Its session may be another replica's soon.
    persistent.expect_end(ReasonCode::SERVER_BUSY);
    let mut filters = SubscribeFiltersBuf::new();
    filters
        .push("late/#", SubscribeOptions::new(QoS::AtLeastOnce))
        .expect("the filter can be written");
    let subscribe = || {
        Packet::Subscribe(Subscribe {
            packet_id: id(9),
            properties: Properties::EMPTY,
            filters: filters.as_filters(),
        })
    };
    clean.send(subscribe());
    match clean.receive().packet() {
        Packet::SubAck(suback) => {
            assert_eq!(
                suback.reason_codes,
                [ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR.0]
            );
            assert!(suback.properties.reason_string().is_some(), "{suback:?}");
        }
        other => panic!("{other:?}"),
    }
    older.send(subscribe());
    match older.receive().packet() {
        Packet::SubAck(suback) => assert_eq!(suback.reason_codes, [0x80]),
        other => panic!("{other:?}"),
    }
    // Both stay, and what needs nobody else goes on.
    clean.publish("local/x", b"1", QoS::AtMostOnce);
    listener.expect_message("local/x", b"1");
    older.publish("local/x", b"2", QoS::AtMostOnce);
    listener.expect_message("local/x", b"2");
    cluster.redis.signal(Signal::CONT);
    wait_until("subscriptions are taken again", || {
        clean.send(subscribe());
        match clean.receive().packet() {
            Packet::SubAck(suback) => suback.reason_codes == [1],
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn qos_0_goes_on_when_publishers_at_qos_1_have_used_up_the_memory() {
    const SIZE: usize = 64 * 1024;
    let cluster = Cluster::setup(1)
        .with_faults()
        .set("limits.store_pending_bytes=1048576")
        .start();
    let mut away = cluster.open(0, &connect(Version::V5, "away").persistent(), false);
    away.subscribe("flood/#", QoS::AtLeastOnce);
    away.disconnect();
    let mut listener = cluster.clean(0, "listener");
    listener.subscribe("local/#", QoS::AtMostOnce);
    let mut talker = cluster.clean(0, "talker");
    let flooding = flooding(&cluster, "flood");
    cluster.redis.signal(Signal::STOP);
    let payload = vec![b'x'; SIZE];
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(flooding, 60, &payload));
        // It is read from no more when so much is held.
        thread::sleep(Duration::from_secs(6));
        assert!(!flooding.is_finished());
        talker.publish("local/x", b"1", QoS::AtMostOnce);
        listener.expect_message("local/x", b"1");
        cluster.redis.signal(Signal::CONT);
        assert_eq!(flooding.join().expect("a publisher"), 60);
    });
}
