//! A whole cluster in one thread and in virtual time: replicas with everything but their sockets, a
//! model of Redis, hundreds of clients, faults at random, and an oracle that knows the promises.
//!
//! A seed decides everything and reproduces a run: `SIM_SEED=17 cargo test -p dunlin-broker --test sim`.
//! `SIM_SEEDS` says how many seeds are tried, `SIM_FIRST` from which on.

mod client;
mod faults;
mod oracle;
mod plan;
mod roles;
mod world;

use plan::Plan;
use world::{Ended, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `plan` for every seed; the first seed that breaks a promise ends it with all that is known.
fn all_seeds(name: &str, default: u64, plan: impl Fn(u64) -> Plan) {
    let (first, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("SIM_FIRST").unwrap_or(1),
            number("SIM_SEEDS").unwrap_or(default),
        ),
    };
    let mut sum = Ended::default();
    for seed in first..first + count {
        let ended = run(&plan(seed));
        if !ended.broken.is_empty() {
            panic!(
                "{name}: seed {seed} breaks {} promises; reproduce with SIM_SEED={seed}\n{}\nfaults: {:#?}",
                ended.broken.len(),
                ended
                    .broken
                    .iter()
                    .take(20)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("\n"),
                ended.faults,
            );
        }
        sum.add(&ended);
    }
    eprintln!("{name}: {count} seeds from {first}: {sum}");
}

#[test]
fn without_faults_every_promise_is_kept_and_nothing_is_repeated() {
    all_seeds("calm", 4, Plan::calm);
}

#[test]
fn while_replicas_die_and_redis_is_cut_off_every_promise_is_kept() {
    all_seeds("storm", 30, Plan::storm);
}

#[test]
fn while_redis_fails_over_and_loses_its_newest_writes_every_promise_is_kept() {
    all_seeds("failovers", 20, Plan::failovers);
}

#[test]
fn a_seed_reproduces_its_run() {
    let (one, two) = (run(&Plan::storm(5)), run(&Plan::storm(5)));
    assert_eq!(one.digest, two.digest);
    assert_ne!(one.digest, run(&Plan::storm(6)).digest);
}

/// What the simulation is worth: it finds an acknowledgement that comes before the write.
#[test]
fn a_planted_early_acknowledgement_is_found() {
    let found = (1..=40).find(|seed| {
        let mut plan = Plan::storm(*seed);
        plan.planted_early_acknowledgement = true;
        !run(&plan).broken.is_empty()
    });
    let seed = found.expect("40 seeds do not find an acknowledgement before the write");
    eprintln!("an early acknowledgement is found by seed {seed}");
}

/// The same for a write by a replica whose claim is another's.
#[test]
fn a_planted_missing_epoch_check_is_found() {
    let found = (1..=40).find(|seed| {
        let mut plan = Plan::storm(*seed);
        plan.planted_no_epoch_check = true;
        !run(&plan).broken.is_empty()
    });
    let seed = found.expect("40 seeds do not find a missing epoch check");
    eprintln!("a missing epoch check is found by seed {seed}");
}
