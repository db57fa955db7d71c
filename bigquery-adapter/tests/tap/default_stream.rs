//! The default stream: in order each message once, after kills at least once.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::kills::{faults, kills};
use crate::support::{Random, wait_for};
use crate::world::{Load, World};

const CLIENTS: [(&str, &str); 4] = [("a", "1"), ("b", "2"), ("c", "1"), ("d", "2")];
const DEFAULT: [&str; 2] = ["--set", "bigquery.stream=default"];

fn partitions(setup: &crate::support::Setup, count: u64) {
    wait_for("its share", || {
        (setup.metric("dunlin_adapter_tap_partitions") == Some(count)).then_some(())
    });
}

fn all_stored(world: &World) {
    wait_for("everything to be acknowledged", || {
        (world.messages_left() == 0).then_some(())
    });
}

#[test]
fn adapters_that_come_and_go_in_order_repeat_nothing_on_the_default_stream() {
    let world = World::start();
    world.fake.state().late_ms = 30;
    let setups = [world.adapter().and(&DEFAULT), world.adapter().and(&DEFAULT)];
    let first = setups[0].start_ready();
    let load = Load::start(&world, &CLIENTS);
    for _ in 0..2 {
        let second = setups[1].start_ready();
        partitions(&setups[0], 3);
        partitions(&setups[1], 3);
        let before = world.count("messages");
        wait_for("rows", || {
            (world.count("messages") > before + 100).then_some(())
        });
        assert!(second.terminate().success());
        partitions(&setups[0], 6);
    }
    let sent = load.finish();
    all_stored(&world);
    world.assert_exactly(&sent);
    assert_eq!(world.fake.state().created, 0, "no stream was made");
    assert!(first.terminate().success());
}

#[test]
fn adapters_killed_on_the_default_stream_lose_nothing() {
    let mut random = Random::new();
    let world = World::start();
    world.fake.state().late_ms = 30;
    let setup = world.adapter().and(&DEFAULT);
    let mut adapter = setup.start_ready();
    let load = Load::start(&world, &CLIENTS);
    for _ in 0..kills(3) {
        world.fake.state().faults = faults(&mut random, 15);
        let before = world.count("messages");
        wait_for("rows", || (world.count("messages") > before).then_some(()));
        std::thread::sleep(Duration::from_millis(random.below(300)));
        adapter.kill();
        adapter = setup.start();
    }
    world.fake.state().faults.clear();
    let sent = load.finish();
    all_stored(&world);
    let found = world.by_client();
    let rows: usize = found.values().map(Vec::len).sum();
    for (client, count) in &sent {
        let numbers: BTreeSet<u64> = found[client].iter().copied().collect();
        let missing: Vec<u64> = (0..*count)
            .filter(|number| !numbers.contains(number))
            .collect();
        assert!(missing.is_empty(), "{client} lacks {missing:?}");
        assert_eq!(
            numbers.len() as u64,
            *count,
            "{client} has what nobody sent"
        );
    }
    println!("sent {sent:?}, {rows} rows");
    assert!(adapter.terminate().success());
}
