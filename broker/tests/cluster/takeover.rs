//! A client id is connected once in the whole cluster.

use std::thread;

use crate::{
    rig::Cluster,
    support::{connecting::Connecting, fleet::environment, *},
};

fn client() -> Connecting {
    connect(Version::V5, "moving").persistent()
}

/// Reads until the broker ends the connection, which it has to do because of a newer one.
fn expect_taken_over(client: &mut Client) {
    loop {
        match client.next() {
            Some(received) => match received.packet() {
                Packet::Publish(_) => {}
                Packet::Disconnect(packet) => {
                    assert_eq!(packet.reason, ReasonCode::SESSION_TAKEN_OVER, "{packet:?}");
                    client.expect_closed();
                    return;
                }
                other => panic!("{other:?}"),
            },
            None => panic!("closed without a word"),
        }
    }
}

#[test]
fn a_client_that_connects_elsewhere_goes_on_there_and_its_older_connection_ends() {
    let cluster = Cluster::start(3);
    let mut first = cluster.open(0, &client(), false);
    first.subscribe("moving/#", QoS::AtLeastOnce);
    let mut publisher = cluster.clean(2, "publisher");
    let bodies: Vec<String> = (0..20).map(|n| format!("message {n}")).collect();
    for body in &bodies {
        publisher.publish("moving/x", body.as_bytes(), QoS::AtLeastOnce);
    }
    for body in &bodies {
        first.expect_unanswered("moving/x", body.as_bytes());
    }

    let mut second = cluster.open(1, &client(), true);
    expect_taken_over(&mut first);
    for body in &bodies {
        let received = second.expect_message("moving/x", body.as_bytes());
        assert!(received.publish().dup, "{received:?}");
    }
    publisher.publish("moving/x", b"after", QoS::AtLeastOnce);
    second.expect_message("moving/x", b"after");
    second.expect_silence();
    // What is not noted before the next claim is sent again.
    wait_until("the acknowledgements are stored", || {
        let queues = cluster.redis.ask(&["--scan", "--pattern", "*:q:*"]);
        queues.is_empty()
    });

    let mut third = cluster.open(2, &client(), true);
    expect_taken_over(&mut second);
    third.expect_silence();
    publisher.publish("moving/x", b"at last", QoS::AtLeastOnce);
    third.expect_message("moving/x", b"at last");
}

#[test]
fn a_clean_session_is_connected_once_too() {
    let cluster = Cluster::start(2);
    let mut first = cluster.clean(0, "single");
    let mut second = cluster.clean(1, "single");
    expect_taken_over(&mut first);
    second.expect_silence();
}

#[test]
fn a_clean_start_elsewhere_ends_the_session() {
    let cluster = Cluster::start(2);
    let mut first = cluster.open(0, &client(), false);
    first.subscribe("moving/#", QoS::AtLeastOnce);
    let mut second = cluster.clean(1, "moving");
    expect_taken_over(&mut first);
    let mut publisher = cluster.clean(0, "publisher");
    publisher.publish("moving/x", b"to nobody", QoS::AtLeastOnce);
    second.expect_silence();
    second.disconnect();
    let mut third = cluster.open(0, &client(), false);
    third.expect_silence();
}

#[test]
fn of_connections_that_race_one_stays() {
    let cluster = Cluster::start(3);
    let rounds = environment("CHAOS_KILLS").unwrap_or(2) * 3;
    let mut publisher = cluster.clean(0, "publisher");
    let mut present = false;
    for round in 0..rounds {
        let mut clients: Vec<Client> = thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|n| {
                    let cluster = &cluster;
                    scope.spawn(move || client().accepted(&cluster.replicas[n % 3]).0)
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("connected"))
                .collect()
        });
        if !present {
            drop(clients);
            let mut first = client().accepted(&cluster.replicas[0]).0;
            first.subscribe("moving/#", QoS::AtMostOnce);
            present = true;
            continue;
        }
        let body = format!("round {round}");
        publisher.publish("moving/x", body.as_bytes(), QoS::AtMostOnce);
        // Each either gets it or was sent away; nobody is left hanging.
        let mut heard = 0;
        for client in &mut clients {
            while let Some(received) = client.next() {
                match received.packet() {
                    Packet::Publish(publish) => {
                        assert_eq!(publish.payload, body.as_bytes());
                        // It may still be sent away: by one whose CONNECT was later, but whose CONNACK was read earlier.
                        client.try_send_bytes(&[0xC0, 0]);
                    }
                    Packet::PingResp => {
                        heard += 1;
                        break;
                    }
                    Packet::Disconnect(packet) => {
                        assert_eq!(packet.reason, ReasonCode::SESSION_TAKEN_OVER);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(
            heard, 1,
            "round {round}: {heard} connections have the session"
        );
    }
}
