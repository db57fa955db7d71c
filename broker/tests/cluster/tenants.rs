//! The bounds of a tenant over several replicas: what is counted in the whole cluster, and what each replica counts for itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::{rig::Cluster, support::*};

const ACME: &str = "acme";
const OTHER: &str = "b";

fn cluster(bounds: &str) -> Cluster {
    let mut tables = format!("[[tenant]]\nname = \"acme\"\n{bounds}\n[[tenant]]\nname = \"b\"\n");
    for tenant in [ACME, OTHER] {
        tables.push_str(&format!(
            "[[listener]]\nname = \"{tenant}\"\naddress = \"127.0.0.1:0\"\ntenant = \"{tenant}\"\n"
        ));
    }
    // One of them is killed.
    Cluster::setup(2).with_faults().tables(&tables).start()
}

/// Where clients of a tenant come in at a replica.
fn door(cluster: &Cluster, replica: usize, tenant: &str) -> SocketAddr {
    let log = cluster.replicas[replica].log();
    let mark = format!("\"listener\":\"{tenant}\",\"address\":\"");
    let (_, rest) = log.rsplit_once(&mark).expect("the listener is in the log");
    let (address, _) = rest.split_once('"').expect("an address");
    address.parse().expect("an address")
}

fn answer(address: SocketAddr, connecting: &connecting::Connecting) -> (ReasonCode, bool) {
    let (mut client, answer) = connecting.answer_at(address);
    match answer.reason() {
        ReasonCode::SUCCESS => client.disconnect(),
        _ => client.expect_closed(),
    }
    (answer.reason(), answer.connack().session_present)
}

fn open(address: SocketAddr, connecting: &connecting::Connecting) -> Client {
    let (client, answer) = connecting.answer_at(address);
    assert_eq!(answer.reason(), ReasonCode::SUCCESS, "{answer:?}");
    client
}

fn retain(client: &mut Client, topic: &str) -> ReasonCode {
    client.send(Packet::Publish(Publish {
        topic,
        payload: b"x",
        retain: true,
        qos: QoS::AtLeastOnce,
        packet_id: Some(id(700)),
        ..Publish::default()
    }));
    match client.next_answer().reason() {
        ReasonCode::NO_MATCHING_SUBSCRIBERS => ReasonCode::SUCCESS,
        other => other,
    }
}

#[test]
fn retained_messages_and_stored_sessions_of_a_tenant_are_counted_in_the_whole_cluster() {
    let mut cluster = cluster("max_retained = 2\nmax_sessions = 2");
    let doors = [0, 1].map(|replica| door(&cluster, replica, ACME));
    let mut clients = doors.map(|door| open(door, &connect(Version::V5, &door.port().to_string())));
    for (client, topic) in clients.iter_mut().zip(["one", "two"]) {
        assert_eq!(retain(client, topic), ReasonCode::SUCCESS);
    }
    // What was acknowledged is known to every replica, and so is that the bound is reached.
    for client in &mut clients {
        assert_eq!(retain(client, "three"), ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(retain(client, "one"), ReasonCode::SUCCESS);
    }
    clients[1].publish_retained("one", b"", QoS::AtLeastOnce);
    assert_eq!(retain(&mut clients[0], "three"), ReasonCode::SUCCESS);
    assert_eq!(retain(&mut clients[1], "one"), ReasonCode::QUOTA_EXCEEDED);

    let stored = |name: &str| connect(Version::V5, name).persistent();
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        let mut client = open(doors[number], &stored(name));
        // Every replica knows the session when it has its subscription.
        client.subscribe("x", QoS::AtLeastOnce);
        client.disconnect();
    }
    for (number, door_of_acme) in doors.into_iter().enumerate() {
        let refused = answer(door_of_acme, &stored("third"));
        assert_eq!(refused.0, ReasonCode::QUOTA_EXCEEDED);
        // Who has one comes back to it, on the other replica, too.
        let back = answer(door_of_acme, &stored("first").resume());
        assert_eq!(back, (ReasonCode::SUCCESS, true));
        for neighbour in 0..3 {
            let name = format!("{number}-{neighbour}");
            let theirs = answer(door(&cluster, number, OTHER), &stored(&name));
            assert_eq!(theirs.0, ReasonCode::SUCCESS);
        }
    }
    let ended = answer(doors[0], &connect(Version::V5, "first"));
    assert_eq!(ended.0, ReasonCode::SUCCESS);
    wait_until("the other replica knows that there is room", || {
        answer(doors[1], &stored("third")).0 == ReasonCode::SUCCESS
    });

    // A replica that is started again counts what is there before it takes clients.
    drop(clients);
    cluster.replicas[1].kill9();
    cluster.start_again(1);
    let door = door(&cluster, 1, ACME);
    let mut client = open(door, &connect(Version::V5, "late"));
    assert_eq!(retain(&mut client, "one"), ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(retain(&mut client, "two"), ReasonCode::SUCCESS);
    let refused = answer(door, &stored("fourth"));
    assert_eq!(refused.0, ReasonCode::QUOTA_EXCEEDED);
}

#[test]
fn connections_and_rates_of_a_tenant_are_counted_by_each_replica() {
    const RATE: usize = 40;
    let cluster = cluster("max_connections = 2\nmessages_per_second = 40");
    let doors = [0, 1].map(|replica| door(&cluster, replica, ACME));
    let clients: Vec<Client> = doors
        .iter()
        .enumerate()
        .flat_map(|(replica, door)| {
            let names = [1, 2].map(|number| format!("{replica}-{number}"));
            names.map(|name| open(*door, &connect(Version::V5, &name)))
        })
        .collect();
    for (number, door) in doors.iter().enumerate() {
        for (version, code) in [
            (Version::V5, ReasonCode::QUOTA_EXCEEDED),
            (Version::V311, ReasonCode(3)),
        ] {
            assert_eq!(answer(*door, &connect(version, "more")).0, code);
        }
        // A client of another replica needs a place here, and one that is here has it.
        let moving = answer(
            doors[1 - number],
            &connect(Version::V5, &format!("{number}-1")),
        );
        assert_eq!(moving.0, ReasonCode::QUOTA_EXCEEDED);
    }
    let (stop, began) = (&AtomicBool::new(false), Instant::now());
    let sent = std::thread::scope(|scope| {
        let publishers: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                scope.spawn(move || {
                    let mut sent = 0;
                    while !stop.load(Ordering::Relaxed) {
                        client.publish("t", b"x", QoS::AtLeastOnce);
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        let cluster = &cluster;
        let neighbours = [0, 1].map(|replica| {
            scope.spawn(move || {
                let name = format!("neighbour-{replica}");
                let mut client = open(door(cluster, replica, OTHER), &connect(Version::V5, &name));
                for _ in 0..20 * RATE {
                    client.publish("t", b"x", QoS::AtLeastOnce);
                }
            })
        });
        for neighbour in neighbours {
            neighbour.join().expect("the neighbour publishes");
        }
        stop.store(true, Ordering::Relaxed);
        let sent = publishers
            .into_iter()
            .map(|it| it.join().expect("it publishes"));
        sent.collect::<Vec<usize>>()
    });
    // A bucket of one second, what has run into it since, and what each client has under way.
    let most = (began.elapsed().as_secs_f64() * RATE as f64) as usize + RATE + 2 * 8;
    for of_replica in sent.chunks(2) {
        assert!(
            of_replica.iter().sum::<usize>() <= most,
            "{sent:?} of {most}"
        );
    }
}
