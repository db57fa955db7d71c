//! A shared subscription delivers each message to one member in the whole cluster.

use std::collections::BTreeMap;

use crate::{
    rig::Cluster,
    support::{
        connecting::Connecting,
        link::{Closed, Link},
        *,
    },
};

const SHARED: &str = "$share/group/work/#";

fn member(n: usize, window: u16) -> Connecting {
    connect(Version::V5, &format!("member-{n}")).with(Property::ReceiveMaximum(window))
}

/// Takes what comes now, and acknowledges it.
fn take(link: &mut Link, got: &mut BTreeMap<String, u32>) -> Result<(), Closed> {
    while let Some(received) = link.receive_soon()? {
        match received.packet() {
            Packet::Publish(publish) => {
                let body = String::from_utf8_lossy(publish.payload).into_owned();
                *got.entry(body).or_default() += 1;
                if let Some(packet_id) = publish.packet_id {
                    link.send(Packet::PubAck(Ack::new(packet_id, ReasonCode::SUCCESS)))?;
                }
            }
            other => panic!("a member got {other:?}"),
        }
    }
    Ok(())
}

fn join(cluster: &Cluster, at: usize, connecting: &Connecting) -> Link {
    let mut link =
        Link::open_at(cluster.address(at), connecting, false, false).expect("a connection");
    link.subscribe(SHARED, QoS::AtLeastOnce).expect("granted");
    link
}

#[test]
fn each_message_goes_to_one_member_and_every_replica_has_its_share() {
    let cluster = Cluster::start(3);
    let mut members: Vec<Link> = (0..6)
        .map(|n| {
            let mut connecting = member(n, 100);
            if n >= 3 {
                connecting = connecting.persistent();
            }
            join(&cluster, n % 3, &connecting)
        })
        .collect();
    let mut publishers: Vec<_> = (0..3)
        .map(|n| cluster.clean(n, &format!("publisher-{n}")))
        .collect();
    let mut got: Vec<BTreeMap<String, u32>> = vec![BTreeMap::new(); members.len()];
    for n in 0..300_usize {
        let body = n.to_string();
        publishers[n % 3].publish("work/x", body.as_bytes(), QoS::AtLeastOnce);
    }
    wait_until("everything has come", || {
        for (member, got) in members.iter_mut().zip(&mut got) {
            take(member, got).expect("the connection stands");
        }
        got.iter().map(BTreeMap::len).sum::<usize>() >= 300
    });
    let mut all: BTreeMap<&String, u32> = BTreeMap::new();
    for (body, times) in got.iter().flatten() {
        *all.entry(body).or_default() += times;
    }
    assert_eq!(all.len(), 300);
    assert!(all.values().all(|times| *times == 1), "{all:?}");
    for at in 0..3 {
        assert!(
            !got[at].is_empty() || !got[at + 3].is_empty(),
            "replica {at} got nothing"
        );
    }
}

#[test]
fn what_a_member_on_a_killed_replica_left_goes_to_another() {
    let mut cluster = Cluster::setup(3).with_faults().start();
    // Takes and never acknowledges.
    let _hoarder = join(&cluster, 0, &member(0, 50));
    let _keeper = join(&cluster, 0, &member(9, 50).persistent());
    let mut members: Vec<Link> = (1..3).map(|n| join(&cluster, n, &member(n, 100))).collect();
    let mut publisher = cluster.clean(1, "publisher");
    for n in 0..200 {
        publisher.publish("work/x", n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    cluster.replicas[0].kill9();
    let mut got = BTreeMap::new();
    wait_until("the rest has come to the other members", || {
        for member in &mut members {
            take(member, &mut got).expect("the connection stands");
        }
        // The persistent member may come back and has what it had got.
        got.len() == 200 || {
            let mut link =
                Link::open_at(cluster.address(1), &member(9, 50).persistent(), true, true);
            if let Some(link) = &mut link {
                take(link, &mut got).ok();
            }
            got.len() == 200
        }
    });
}

#[test]
fn what_a_member_left_when_it_went_goes_to_another_replica() {
    let cluster = Cluster::start(2);
    let hoarder = join(&cluster, 0, &member(0, 50));
    let mut publisher = cluster.clean(1, "publisher");
    for n in 0..20 {
        publisher.publish("work/x", n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    let mut other = join(&cluster, 1, &member(1, 100));
    drop(hoarder);
    let mut got = BTreeMap::new();
    wait_until("everything has come to the other member", || {
        take(&mut other, &mut got).expect("the connection stands");
        got.len() == 20
    });
}

#[test]
fn a_message_is_not_acknowledged_before_the_death_of_the_one_replica_that_has_it_loses_nothing() {
    let mut cluster = Cluster::setup(2).with_faults().start();
    // Publisher and member are connected to the same replica, and the member never acknowledges.
    let _hoarder = join(&cluster, 0, &member(0, 50));
    let mut other = join(&cluster, 1, &member(1, 100));
    let mut publisher = cluster.clean(0, "publisher");
    for n in 0..40 {
        publisher.publish("work/x", n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    cluster.replicas[0].kill9();
    let mut got = BTreeMap::new();
    wait_until("everything has come to the other member", || {
        take(&mut other, &mut got).expect("the connection stands");
        got.len() == 40
    });
}

/// Frames that were put into inboxes.
fn inbox_frames(cluster: &Cluster) -> u64 {
    let stats = cluster.redis.ask(&["INFO", "commandstats"]);
    let calls = stats.split("cmdstat_xadd:calls=").nth(1);
    calls.map_or(0, |rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number of calls")
    })
}

#[test]
fn a_message_takes_the_way_through_redis_only_if_a_member_elsewhere_could_inherit_it() {
    let cluster = Cluster::start(2);
    let mut here = join(&cluster, 0, &member(0, 100));
    let mut publisher = cluster.clean(0, "publisher");
    let before = inbox_frames(&cluster);
    publisher.publish("work/x", b"1", QoS::AtLeastOnce);
    assert!(here.receive().is_ok());
    assert_eq!(inbox_frames(&cluster), before);
    let mut elsewhere = join(&cluster, 1, &member(1, 100));
    for n in 0..4 {
        publisher.publish("work/x", n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    let mut got = BTreeMap::new();
    wait_until("all have come", || {
        take(&mut here, &mut got).expect("the connection stands");
        take(&mut elsewhere, &mut got).expect("the connection stands");
        got.len() == 4
    });
    assert!(inbox_frames(&cluster) >= before + 4);
}
