//! A failover of Redis that loses its newest writes loses no message.

use std::time::Duration;

use crate::{
    rig::{Balancer, Cluster, Proxy, Redis, connect_again},
    support::{
        fleet::{Fleet, FleetSetup, Random, chaos_seed, environment},
        *,
    },
};

/// A Redis that follows another one, and what lies between them.
struct Standby {
    link: Proxy,
    redis: Redis,
}

impl Standby {
    /// One that has all the data of `master`.
    fn of(master: &Redis) -> Self {
        let link = Proxy::start(master.address());
        let port = link.address().port().to_string();
        let redis = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        wait_until("the replica has the data", || {
            redis
                .ask(&["INFO", "replication"])
                .contains("master_link_status:up")
        });
        Self { link, redis }
    }

    /// From here on it misses what is written.
    fn lag(&self) {
        self.link.black_hole();
    }

    /// The master dies, and it takes the master's place. What it has missed is lost.
    fn take_over(self, cluster: &mut Cluster) {
        cluster.redis.kill9();
        self.link.cut();
        self.redis.ask(&["REPLICAOF", "NO", "ONE"]);
        for proxy in &cluster.proxies {
            proxy.retarget(self.redis.address());
        }
        cluster.redis = self.redis;
    }
}

#[test]
fn what_was_acknowledged_and_not_replicated_is_written_again() {
    let mut cluster = Cluster::setup(2).with_faults().start();
    let mut away = cluster.open(1, &connect(Version::V5, "away").persistent(), false);
    away.subscribe("tail/#", QoS::ExactlyOnce);
    away.disconnect();
    let standby = Standby::of(&cluster.redis);
    let mut publisher = cluster.clean(0, "publisher");
    publisher.publish("tail/x", b"0", QoS::ExactlyOnce);
    wait_until("the replica has the first message", || {
        let queues = standby.redis.ask(&["--scan", "--pattern", "*:q:*"]);
        queues.lines().count() == 1
    });
    standby.lag();
    for n in 1..20 {
        publisher.publish("tail/x", n.to_string().as_bytes(), QoS::ExactlyOnce);
    }
    publisher.publish_retained("tail/retained", b"kept", QoS::AtLeastOnce);
    standby.take_over(&mut cluster);

    let mut back = connect_again(
        &cluster.replicas[1],
        &connect(Version::V5, "away").persistent(),
    );
    for n in 0..20 {
        back.expect_message("tail/x", n.to_string().as_bytes());
    }
    back.expect_message("tail/retained", b"kept");
    back.expect_silence();
    let mut late = cluster.clean(1, "late");
    late.subscribe("tail/retained", QoS::AtMostOnce);
    late.expect_message("tail/retained", b"kept");
}

#[test]
fn chaos_failovers_that_lose_the_tail_lose_no_message() {
    let faults = environment("CHAOS_KILLS").unwrap_or(1).min(20);
    let mut random = Random(chaos_seed(&format!("{faults} failovers")));
    let mut cluster = Cluster::setup(3).with_faults().start();
    let fleet = Fleet::start(FleetSetup {
        connected: vec![cluster.address(2)],
        may_be_refused: true,
        pause: Duration::from_millis(2),
        ..FleetSetup::new("tail", cluster.balancer.address(), random.below(u64::MAX))
    });
    for fault in 1..=faults {
        fleet.wait_for_more(200);
        let standby = Standby::of(&cluster.redis);
        fleet.wait_for_more(100);
        standby.lag();
        fleet.wait_for_more(20 + u32::try_from(random.below(300)).unwrap_or(0));
        standby.take_over(&mut cluster);
        eprintln!(
            "chaos: failover {fault}, {} acknowledged",
            fleet.acknowledged()
        );
    }
    fleet.wait_for_more(200);
    fleet.finish().check(&format!("{faults} failovers"));
}

#[test]
fn replicas_come_back_by_themselves_when_redis_is_emptied_and_lose_nothing_of_the_last_seconds() {
    let cluster = Cluster::setup(2)
        .with_faults()
        .allow_log("Redis has lost everything")
        .start();
    let reader = connect(Version::V5, "reader").persistent();
    let mut away = cluster.open(1, &reader, false);
    away.subscribe("empty/#", QoS::ExactlyOnce);
    away.disconnect();
    let mut publisher = cluster.clean(0, "publisher");
    for n in 0..10 {
        publisher.publish("empty/x", n.to_string().as_bytes(), QoS::ExactlyOnce);
    }
    publisher.publish_retained("empty/retained", b"kept", QoS::AtLeastOnce);
    let before = replicas_of(&cluster.redis);
    assert_eq!(cluster.redis.ask(&["FLUSHALL"]).trim(), "OK");

    // Both join anew, under numbers that nobody has had.
    wait_until("both have joined anew", || {
        let now = replicas_of(&cluster.redis);
        now.len() == 2 && now.iter().all(|replica| !before.contains(replica))
    });
    publisher.drop_connection();
    let mut publisher = connect_again(&cluster.replicas[0], &connect(Version::V5, "publisher"));
    publisher.publish("empty/x", b"10", QoS::ExactlyOnce);
    let mut back = connect_again(&cluster.replicas[1], &reader);
    for n in 0..10 {
        back.expect_message("empty/x", n.to_string().as_bytes());
    }
    back.expect_message("empty/retained", b"kept");
    back.expect_message("empty/x", b"10");
    back.expect_silence();
    let mut late = connect_again(&cluster.replicas[0], &connect(Version::V5, "late"));
    late.subscribe("empty/retained", QoS::AtMostOnce);
    late.expect_message("empty/retained", b"kept");
}

/// The numbers of the replicas on the register.
fn replicas_of(redis: &Redis) -> Vec<String> {
    let register = redis.ask(&["HKEYS", "dunlin:{r}:register"]);
    register.lines().map(str::to_owned).collect()
}

#[test]
fn sentinel_moves_the_cluster_to_the_promoted_replica() {
    let master = Redis::start();
    let standby = Standby::of(&master);
    let sentinel = sentinel_of(&master);
    let url = format!("redis+sentinel://{}/mymaster", sentinel.address());
    let setup = Cluster::setup(0).with_faults();
    let brokers = [setup.replica(&url), setup.replica(&url)];
    let mut reader = connect(Version::V5, "reader")
        .persistent()
        .open(&brokers[1], false);
    reader.subscribe("moved/#", QoS::AtLeastOnce);
    let mut publisher = connect(Version::V5, "publisher").open(&brokers[0], false);
    publisher.publish("moved/x", b"before", QoS::AtLeastOnce);
    reader.expect_message("moved/x", b"before");
    wait_until("the acknowledgement is stored", || {
        let queues = standby.redis.ask(&["--scan", "--pattern", "*:q:*"]);
        queues.is_empty()
    });
    drop(master);
    // Until Sentinel has decided the lease may lapse, and then clients are sent away.
    publisher.drop_connection();
    reader.drop_connection();
    let mut publisher = connect_again(&brokers[0], &connect(Version::V5, "publisher"));
    let mut reader = connect_again(&brokers[1], &connect(Version::V5, "reader").persistent());
    publisher.publish("moved/x", b"after", QoS::AtLeastOnce);
    reader.expect_message("moved/x", b"after");
    assert!(
        standby
            .redis
            .ask(&["INFO", "replication"])
            .contains("role:master")
    );
}

#[test]
fn chaos_a_sentinel_failover_with_writes_in_flight_loses_nothing() {
    let mut random = Random(chaos_seed("Sentinel moves the cluster"));
    let mut master = Redis::start();
    let standby = Standby::of(&master);
    let sentinel = sentinel_of(&master);
    let url = format!("redis+sentinel://{}/mymaster", sentinel.address());
    let setup = Cluster::setup(0)
        .with_faults()
        .set("limits.max_queued_messages=1000000")
        .set("limits.max_queued_bytes=4294967296");
    let brokers = [setup.replica(&url), setup.replica(&url)];
    let balancer = Balancer::start(brokers.iter().map(Broker::address).collect());
    // Until Sentinel has decided the lease may lapse: no client whose session would end with its connection.
    let fleet = Fleet::start(FleetSetup {
        may_be_refused: true,
        pause: Duration::from_millis(2),
        ..FleetSetup::new("sent", balancer.address(), random.below(u64::MAX))
    });
    fleet.wait_for_more(200 + u32::try_from(random.below(600)).unwrap_or(0));
    master.kill9();
    eprintln!(
        "chaos: master killed, {} acknowledged",
        fleet.acknowledged()
    );
    fleet.wait_for_more(500);
    let role = standby.redis.ask(&["INFO", "replication"]);
    assert!(role.contains("role:master"), "{role}");
    fleet.finish().check("Sentinel moved the cluster");
}

/// A Sentinel that watches `master` and gives it up quickly.
fn sentinel_of(master: &Redis) -> Redis {
    // A Sentinel rewrites its own file.
    let file = master.dir().join("sentinel.conf");
    let text = format!(
        "sentinel monitor mymaster 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds mymaster 1000\n\
         sentinel failover-timeout mymaster 3000\n",
        master.port()
    );
    std::fs::write(&file, text).expect("the configuration can be written");
    let sentinel = Redis::sentinel(&file);
    wait_until("the Sentinel knows the replica", || {
        sentinel
            .ask(&["SENTINEL", "REPLICAS", "mymaster"])
            .contains("slave")
    });
    sentinel
}
