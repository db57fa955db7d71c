//! A Redis Cluster instead of one Redis.

use std::time::Duration;

use crate::{
    rig::{Balancer, Cluster, Redis},
    support::{
        broker::free_port,
        fleet::{Fleet, FleetSetup, Random, chaos_seed},
        *,
    },
};

/// Three masters that share the hash slots.
fn masters() -> Vec<Redis> {
    let masters: Vec<Redis> = (0..3)
        .map(|_| {
            let bus = free_port().to_string();
            Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus])
        })
        .collect();
    let addresses: Vec<String> = masters
        .iter()
        .map(|master| master.address().to_string())
        .collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.push("--cluster-yes");
    masters[0].ask(&create);
    wait_until("every node knows every slot", || {
        masters.iter().all(|master| {
            master
                .ask(&["CLUSTER", "INFO"])
                .contains("cluster_state:ok")
        })
    });
    masters
}

#[test]
fn chaos_over_a_redis_cluster_a_killed_replica_costs_no_message() {
    let mut random = Random(chaos_seed("a replica over a Redis Cluster killed"));
    let masters = masters();
    let url = format!("redis+cluster://{}", masters[0].address());
    let setup = Cluster::setup(0).with_faults();
    let mut brokers: Vec<Broker> = (0..2).map(|_| setup.replica(&url)).collect();
    let survivor = brokers[1].address();
    let mut fleet = FleetSetup::new("shards", survivor, random.below(u64::MAX));
    fleet.connected = vec![survivor];
    fleet.may_be_refused = true;
    fleet.pause = Duration::from_millis(2);
    let here = Fleet::start(fleet);
    let mut other = FleetSetup::new("others", brokers[0].address(), random.below(u64::MAX));
    other.connected = vec![survivor];
    other.may_be_refused = true;
    other.pause = Duration::from_millis(2);
    let there = Fleet::start(other);
    here.wait_for_more(300);
    there.wait_for_more(300);
    brokers[0].kill9();
    here.wait_for_more(300);
    brokers[0].start_again();
    there.wait_for_more(300);
    here.finish().check("beside a killed replica");
    there.finish().check("on a killed replica");
    for master in &masters {
        assert_ne!(master.ask(&["DBSIZE"]), "0", "the load is spread");
    }
}

/// A server that has what `master` has, and takes its place when it dies.
fn standby_of(master: &Redis, others: &[Redis]) -> Redis {
    let bus = free_port().to_string();
    let standby = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    let port = master.port().to_string();
    let answer = master.ask(&["CONFIG", "GET", "cluster-port"]);
    let master_bus = answer.lines().last().expect("its port").to_owned();
    standby.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &master_bus]);
    let id = master.ask(&["CLUSTER", "MYID"]);
    wait_until("the standby follows its master", || {
        let knows = standby.ask(&["CLUSTER", "NODES"]).contains(&id);
        knows && standby.ask(&["CLUSTER", "REPLICATE", &id]) == "OK"
    });
    wait_until("the standby has the data, and all know of it", || {
        let own = standby.ask(&["CLUSTER", "MYID"]);
        let up = standby.ask(&["INFO", "replication"]);
        up.contains("master_link_status:up")
            && others.iter().all(|other| {
                let nodes = other.ask(&["CLUSTER", "NODES"]);
                nodes
                    .lines()
                    .any(|line| line.starts_with(&own) && line.contains("slave"))
            })
    });
    standby
}

#[test]
fn chaos_a_redis_cluster_that_fails_over_with_writes_in_flight_loses_nothing() {
    let mut random = Random(chaos_seed("a master of a Redis Cluster killed"));
    let mut masters = masters();
    let victim = usize::try_from(random.below(3)).unwrap_or(0);
    let standby = standby_of(&masters[victim], &masters);
    for node in masters.iter().chain([&standby]) {
        node.ask(&["CONFIG", "SET", "cluster-node-timeout", "1000"]);
    }
    let url = format!("redis+cluster://{}", masters[(victim + 1) % 3].address());
    let setup = Cluster::setup(0)
        .with_faults()
        .set("limits.max_queued_messages=1000000")
        .set("limits.max_queued_bytes=4294967296");
    let brokers = [setup.replica(&url), setup.replica(&url)];
    let balancer = Balancer::start(brokers.iter().map(Broker::address).collect());
    let fleet = Fleet::start(FleetSetup {
        may_be_refused: true,
        pause: Duration::from_millis(2),
        ..FleetSetup::new("moved", balancer.address(), random.below(u64::MAX))
    });
    fleet.wait_for_more(200 + u32::try_from(random.below(600)).unwrap_or(0));
    masters[victim].kill9();
    eprintln!(
        "chaos: master {victim} killed, {} acknowledged",
        fleet.acknowledged()
    );
    wait_until("the standby has taken its place", || {
        standby
            .ask(&["INFO", "replication"])
            .contains("role:master")
    });
    fleet.wait_for_more(500);
    fleet.finish().check("a master of a Redis Cluster killed");
}

#[test]
fn over_a_redis_cluster_clients_on_different_replicas_hear_each_other() {
    let masters = masters();
    let url = format!("redis+cluster://{}", masters[1].address());
    let setup = Cluster::setup(0).with_faults();
    let brokers: Vec<Broker> = (0..2).map(|_| setup.replica(&url)).collect();
    let mut publisher = Client::new(&brokers[0], Version::V5, "publisher");
    for (n, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
        .into_iter()
        .enumerate()
    {
        let mut clean = Client::new(&brokers[1], Version::V5, &format!("clean-{n}"));
        let mut stored = connect(Version::V5, &format!("stored-{n}"))
            .persistent()
            .open(&brokers[1], false);
        let topic = format!("shards/{n}");
        clean.subscribe(&topic, QoS::ExactlyOnce);
        stored.subscribe(&topic, QoS::ExactlyOnce);
        publisher.publish(&topic, b"heard?", qos);
        clean.expect_message(&topic, b"heard?");
        stored.expect_message(&topic, b"heard?");
    }
    publisher.publish_retained("shards/retained", b"kept", QoS::AtLeastOnce);
    let mut late = Client::new(&brokers[1], Version::V5, "late");
    late.subscribe("shards/retained", QoS::AtMostOnce);
    late.expect_message("shards/retained", b"kept");
}
