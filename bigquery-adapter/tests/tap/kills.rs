//! Adapters killed and faults under load. Brokers die with them in `tests/chaos`.

use std::collections::VecDeque;
use std::time::Duration;

use tonic::Code;

use crate::fake::Fault;
use crate::support::{Random, wait_for};
use crate::world::{Load, World};

const CLIENTS: [(&str, &str); 8] = [
    ("a", "1"),
    ("b", "2"),
    ("c", "1"),
    ("d", "2"),
    ("e", "1"),
    ("f", "2"),
    ("g", "1"),
    ("h", "2"),
];

pub(crate) fn kills(default: u64) -> u64 {
    let kills = std::env::var("CHAOS_KILLS").ok();
    kills
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(default)
}

/// Now and then something else than the right answer.
pub(crate) fn faults(random: &mut Random, share: u64) -> VecDeque<Option<Fault>> {
    (0..60)
        .map(|_| (random.below(100) < share).then(|| Fault::numbered(random.below(9))))
        .collect()
}

fn wait_for_rows(world: &World, sent: &[(String, u64)]) {
    let expected: u64 = sent.iter().map(|(_, count)| count).sum();
    wait_for("all rows", || {
        (world.count("messages") as u64 >= expected).then_some(())
    });
    wait_for("everything to be acknowledged", || {
        (world.messages_left() == 0).then_some(())
    });
}

#[test]
fn adapters_killed_at_any_moment_neither_lose_nor_repeat_a_row() {
    let mut random = Random::new();
    let world = World::start();
    world.fake.state().late_ms = 30;
    let setups = [world.adapter(), world.adapter()];
    // The tap is there before the first message.
    let first = setups[0].start_ready();
    let load = Load::start(&world, &CLIENTS);
    let mut running = [Some(first), Some(setups[1].start())];
    for kill in 0..kills(6) {
        world.fake.state().faults = faults(&mut random, 15);
        // Kills hit adapters that write: rows have come since the last one.
        let before = world.count("messages");
        wait_for("rows", || (world.count("messages") > before).then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(500)));
        let both = random.below(4) == 0;
        for which in 0..2 {
            if both || kill % 2 == which {
                running[usize::try_from(which).unwrap()]
                    .take()
                    .unwrap()
                    .kill();
            }
        }
        std::thread::sleep(Duration::from_millis(random.below(100)));
        for (place, setup) in running.iter_mut().zip(&setups) {
            place.get_or_insert_with(|| setup.start());
        }
    }
    world.fake.state().faults.clear();
    world.fake.state().late_ms = 0;
    let sent = load.finish();
    wait_for_rows(&world, &sent);
    world.assert_exactly(&sent);
    for adapter in running.into_iter().flatten() {
        assert!(adapter.terminate().success());
    }
    world.assert_exactly(&sent);
    println!("sent {sent:?}, streams {}", world.fake.state().created);
}

#[test]
fn while_bigquery_or_redis_is_away_everything_waits_and_is_there_once_afterwards() {
    let mut world = World::start();
    let setup = world.adapter();
    let adapter = setup.start_ready();
    let load = Load::start(&world, &CLIENTS);
    let rows = |world: &World| {
        let before = world.count("messages");
        wait_for("rows", || (world.count("messages") > before).then_some(()));
    };
    rows(&world);
    world.fake.state().down = true;
    wait_for("the adapter to say so", || {
        (setup.get("/metrics")?.1)
            .contains("cause=\"Unavailable\"")
            .then_some(())
    });
    std::thread::sleep(Duration::from_secs(10));
    world.fake.state().down = false;
    rows(&world);
    world.kill_redis();
    wait_for("the adapter to say so", || {
        (setup.get("/health/ready")?.0 == 503).then_some(())
    });
    world.start_redis();
    rows(&world);
    // Quotas: the pause begins at five seconds.
    let quota = std::iter::repeat_n(Some(Fault::Refuse(Code::ResourceExhausted)), 8);
    world.fake.state().faults = quota.collect();
    wait_for("the quota to be spent", || {
        world.fake.state().faults.is_empty().then_some(())
    });
    let sent = load.finish();
    wait_for_rows(&world, &sent);
    world.assert_exactly(&sent);
    assert!(adapter.terminate().success());
}

#[test]
fn a_lease_that_ends_while_requests_are_under_way_repeats_nothing() {
    let world = World::start();
    // Large requests: a partition is handed over when what was read ahead is stored, and each request takes up to a second.
    let large = [
        "--set",
        "bigquery.rows=5000",
        "--set",
        "bigquery.age_ms=500",
    ];
    let setups = [world.adapter().and(&large), world.adapter().and(&large)];
    let first = setups[0].start_ready();
    let load = Load::start(&world, &CLIENTS);
    wait_for("rows", || (world.count("messages") > 0).then_some(()));
    let second = setups[1].start_ready();
    // What has been sent is executed up to a second later: often when somebody else has the partition.
    world.fake.state().late_ms = 1_000;
    for _ in 0..kills(3) {
        first.signal("-STOP");
        wait_for("the other one to have all partitions", || {
            (setups[1].metric("dunlin_adapter_tap_partitions") == Some(6)).then_some(())
        });
        first.signal("-CONT");
        wait_for("it to have some again", || {
            (setups[1].metric("dunlin_adapter_tap_partitions") == Some(3)).then_some(())
        });
        let before = world.count("messages");
        wait_for("rows", || (world.count("messages") > before).then_some(()));
    }
    world.fake.state().late_ms = 0;
    let sent = load.finish();
    wait_for_rows(&world, &sent);
    world.assert_exactly(&sent);
    for adapter in [first, second] {
        assert!(adapter.terminate().success());
    }
}

#[test]
fn adapters_come_and_go_under_load() {
    let world = World::start();
    let setups = [world.adapter(), world.adapter(), world.adapter()];
    let mut running = vec![setups[0].start_ready()];
    let load = Load::start(&world, &CLIENTS);
    let shares = |shares: &[u64]| {
        wait_for("a fair share each", || {
            let held = setups.iter().take(shares.len());
            held.zip(shares)
                .all(|(setup, share)| setup.metric("dunlin_adapter_tap_partitions") == Some(*share))
                .then_some(())
        });
    };
    shares(&[6]);
    running.push(setups[1].start_ready());
    shares(&[3, 3]);
    running.push(setups[2].start_ready());
    shares(&[2, 2, 2]);
    for adapter in running.drain(1..) {
        assert!(adapter.terminate().success());
    }
    shares(&[6]);
    let sent = load.finish();
    wait_for_rows(&world, &sent);
    world.assert_exactly(&sent);
    setups[0].assert_log_has_only(&[]);
}
