//! kill -9 in a row, under load: what was acknowledged is there, and QoS 2 comes once and in order.
//!
//! Some subscribers are away while the broker is killed. `CHAOS_KILLS` (3) and `CHAOS_SEED` (random, printed) can be
//! given; `make chaos` kills 20 times.

use std::{thread, time::Duration};

use crate::support::{
    fleet::{Fleet, FleetSetup, Random, chaos_seed, environment},
    *,
};

#[test]
fn chaos_kill_9_in_a_row_loses_nothing_and_repeats_no_qos_2() {
    let kills = environment("CHAOS_KILLS").unwrap_or(3);
    let seed = chaos_seed(&format!("{kills} kills"));
    let mut random = Random(seed);
    // The subscribers with small windows are meant to lag behind.
    // A kill may tear the last commit, and recovery says so.
    let mut broker = Broker::setup()
        .allow_log("too slowly")
        .allow_log("dropped an unfinished commit")
        .start();
    let setup = FleetSetup::new("chaos", broker.address(), random.below(u64::MAX));
    let clients = u64::from(setup.publishers + setup.subscribers);
    let fleet = Fleet::start(setup);
    for kill in 1..=kills {
        fleet.wait_for_more(200 + u32::try_from(random.below(800)).unwrap_or(0));
        thread::sleep(Duration::from_micros(random.below(20_000)));
        broker.kill9();
        broker.start_again();
        eprintln!("chaos: kill {kill}, {} acknowledged", fleet.acknowledged());
    }
    // A kill breaks at most one connection of each client, and nothing else may.
    let broken = fleet.broken();
    assert!(
        u64::from(broken) <= kills * clients,
        "{broken} connections broke in {kills} kills"
    );
    fleet.finish().check(&format!("{kills} kills"));
}
