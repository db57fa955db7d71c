//! What was acknowledged is delivered, whatever dies: publishers and subscribers sit on different replicas.

use std::{
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    rig::{Cluster, Redis, cluster::ClusterSetup},
    support::fleet::{Fleet, FleetSetup, Random, chaos_seed, environment},
};

/// Two thousand messages a second at most: a subscriber that is away while a fault lasts stays within its queue's bound.
const PAUSE: Duration = Duration::from_millis(2);

/// A cluster whose queues have room for what comes while subscribers cannot connect.
fn cluster(replicas: usize) -> Cluster {
    queues_with_room(replicas).start()
}

fn queues_with_room(replicas: usize) -> ClusterSetup {
    Cluster::setup(replicas)
        .with_faults()
        .set("limits.max_queued_messages=1000000")
        .set("limits.max_queued_bytes=4294967296")
}

/// Faults of one run.
fn faults() -> u64 {
    environment("CHAOS_KILLS").unwrap_or(2)
}

/// Three replicas; the clients are dealt to them in turn, and one subscriber whose session ends with its connection sits on
/// the last replica, which suffers no fault of its own.
fn fleet(cluster: &Cluster, name: &'static str, random: &mut Random) -> Fleet {
    Fleet::start(FleetSetup {
        connected: vec![cluster.address(2)],
        may_be_refused: true,
        pause: PAUSE,
        ..FleetSetup::new(name, cluster.balancer.address(), random.below(u64::MAX))
    })
}

fn some(random: &mut Random) -> u32 {
    200 + u32::try_from(random.below(600)).unwrap_or(0)
}

#[test]
fn chaos_replicas_killed_in_a_row_lose_nothing_and_repeat_no_qos_2() {
    let faults = faults();
    let mut random = Random(chaos_seed(&format!("{faults} replicas killed")));
    let mut cluster = cluster(3);
    let fleet = fleet(&cluster, "killed", &mut random);
    for kill in 1..=faults {
        fleet.wait_for_more(some(&mut random));
        let victim = usize::try_from(random.below(2)).unwrap_or(0);
        cluster.replicas[victim].kill9();
        // Some messages go by without it, so that its sessions are with others when it is back.
        fleet.wait_for_more(some(&mut random) / 2);
        cluster.start_again(victim);
        eprintln!(
            "chaos: kill {kill} (replica {victim}), {} acknowledged",
            fleet.acknowledged()
        );
    }
    fleet.finish().check(&format!("{faults} replicas killed"));
}

#[test]
fn chaos_redis_killed_in_a_row_loses_nothing_and_repeats_no_qos_2() {
    let faults = faults();
    let mut random = Random(chaos_seed(&format!("Redis killed {faults} times")));
    let mut cluster = cluster(3);
    let fleet = fleet(&cluster, "redis", &mut random);
    for kill in 1..=faults {
        fleet.wait_for_more(some(&mut random));
        if random.below(2) == 0 {
            cluster.redis.kill9();
        } else {
            cluster.redis.shut_down();
        }
        thread::sleep(Duration::from_millis(random.below(1_500)));
        cluster.redis.start_again();
        eprintln!(
            "chaos: restart {kill}, {} acknowledged",
            fleet.acknowledged()
        );
    }
    fleet.wait_for_more(some(&mut random));
    fleet
        .finish()
        .check(&format!("Redis killed {faults} times"));
}

#[test]
fn chaos_partitions_between_a_replica_and_redis_lose_nothing_and_repeat_no_qos_2() {
    let faults = faults();
    let mut random = Random(chaos_seed(&format!("{faults} partitions")));
    let cluster = cluster(3);
    let fleet = fleet(&cluster, "parted", &mut random);
    for fault in 1..=faults {
        fleet.wait_for_more(some(&mut random));
        let victim = usize::try_from(random.below(2)).unwrap_or(0);
        let proxy = &cluster.proxies[victim];
        let hole = random.below(2) == 0;
        if hole {
            proxy.black_hole();
        } else {
            proxy.cut();
        }
        // Shorter than the lease, or longer.
        let length = [500, 2_000, 8_000][usize::try_from(random.below(3)).unwrap_or(0)];
        thread::sleep(Duration::from_millis(length + random.below(500)));
        proxy.heal();
        eprintln!(
            "chaos: partition {fault} (replica {victim}, {}, {length} ms), {} acknowledged",
            if hole { "black hole" } else { "cut" },
            fleet.acknowledged()
        );
    }
    fleet.wait_for_more(some(&mut random));
    fleet.finish().check(&format!("{faults} partitions"));
}

#[test]
fn chaos_replicas_stopped_and_continued_lose_nothing_and_repeat_no_qos_2() {
    use rustix::process::Signal;
    let faults = faults();
    let mut random = Random(chaos_seed(&format!("{faults} replicas stopped")));
    let cluster = cluster(3);
    let fleet = fleet(&cluster, "stopped", &mut random);
    for fault in 1..=faults {
        fleet.wait_for_more(some(&mut random));
        let victim = usize::try_from(random.below(2)).unwrap_or(0);
        cluster.replicas[victim].signal(Signal::STOP);
        let length = [300, 3_000, 8_000][usize::try_from(random.below(3)).unwrap_or(0)];
        thread::sleep(Duration::from_millis(length + random.below(500)));
        cluster.replicas[victim].signal(Signal::CONT);
        eprintln!(
            "chaos: stop {fault} (replica {victim}, {length} ms), {} acknowledged",
            fleet.acknowledged()
        );
    }
    fleet.wait_for_more(some(&mut random));
    fleet.finish().check(&format!("{faults} replicas stopped"));
}

/// How far Redis' clock is off.
fn seconds_off(cluster: &Cluster) -> u64 {
    let time = cluster.redis.ask(&["TIME"]);
    let seconds = time.lines().next().and_then(|line| line.parse().ok());
    let redis = UNIX_EPOCH + Duration::from_secs(seconds.expect("seconds since 1970"));
    let now = SystemTime::now();
    let off = redis
        .duration_since(now)
        .or_else(|_| now.duration_since(redis));
    off.map_or(0, |off| off.as_secs())
}

#[test]
fn chaos_jumps_of_redis_clock_take_nobody_for_dead_and_lose_nothing() {
    let faults = faults();
    let mut random = Random(chaos_seed(&format!("{faults} jumps of Redis' clock")));
    let cluster = queues_with_room(3).start_over(Redis::start_with_clock());
    let fleet = fleet(&cluster, "jumped", &mut random);
    for jump in 1..=faults {
        fleet.wait_for_more(some(&mut random));
        // Longer than leases, and within the hour that a session of the fleet lasts without its client.
        let length = Duration::from_millis(60_000 + random.below(1_600_000));
        let ahead = random.below(2) == 0;
        let clock = cluster.redis.clock();
        if ahead {
            clock.ahead(length);
        } else {
            clock.behind(length);
        }
        let off = seconds_off(&cluster);
        assert!(off >= length.as_secs() - 30, "only {off} s off");
        // Leases are looked at, and renewed.
        thread::sleep(Duration::from_millis(500 + random.below(3_000)));
        eprintln!(
            "chaos: jump {jump} (to {length:?} {}), {} acknowledged",
            if ahead { "ahead" } else { "behind" },
            fleet.acknowledged()
        );
    }
    fleet.wait_for_more(some(&mut random));
    assert_eq!(fleet.broken(), 0, "connections were closed");
    fleet
        .finish()
        .check(&format!("{faults} jumps of Redis' clock"));
    let register = cluster.redis.ask(&["HLEN", "dunlin:{r}:register"]);
    assert!(
        register.ends_with('3'),
        "{register} replicas are registered"
    );
}

#[test]
fn a_replica_that_is_added_takes_its_part_and_one_that_leaves_gives_it_up() {
    let mut random = Random(chaos_seed("a replica added, another leaves"));
    let mut cluster = cluster(2);
    cluster.add();
    let mut setup = FleetSetup::new("grown", cluster.address(2), random.below(u64::MAX));
    setup.connected = vec![cluster.address(1)];
    let fleet = Fleet::start(setup);
    fleet.wait_for_more(300);
    let status = cluster.replicas[0].terminate();
    assert!(status.success(), "{status}");
    fleet.wait_for_more(300);
    fleet.finish().check("a replica added, another leaves");
}
