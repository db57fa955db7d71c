//! A Redis Cluster instead of one Redis.

use std::time::Duration;

use crate::{
    rig::{Cluster, Redis},
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
