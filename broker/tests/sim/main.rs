//! A whole cluster in one thread and in virtual time: replicas with everything but their sockets, a
//! model of Redis, hundreds of clients, faults at random, and an oracle that knows the promises.
//!
//! A seed decides everything and reproduces a run: `SIM_SEED=17 cargo test -p dunlin-broker --test sim`,
//! with `SIM_TRACE=1` to see what happens. `SIM_SEEDS` says how many seeds of each kind are tried,
//! `SIM_FIRST` from which on; they are shared among `SIM_THREADS` threads (default: one for each core).
//! `make sim SEEDS=2000` does so in a build that is optimised.

mod client;
mod faults;
mod oracle;
mod plan;
mod records;
mod roles;
mod tap;
mod world;

use std::ops::Range;
use std::sync::Mutex;

use plan::Plan;
use world::{Ended, run};

/// So many broken seeds are told of before a run is given up.
const ENOUGH_BROKEN: usize = 5;
/// So many broken promises of one seed are told of.
const ENOUGH_PROMISES: usize = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds to try: those of the environment, or the first `default` ones.
fn seeds(default: u64) -> Range<u64> {
    if let Some(seed) = number("SIM_SEED") {
        return seed..seed + 1;
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    first..first + number("SIM_SEEDS").unwrap_or(default)
}

fn threads() -> usize {
    match number("SIM_THREADS") {
        Some(threads) => threads.max(1) as usize,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// What came of the seeds tried so far.
struct Tried {
    rest: Range<u64>,
    sum: Ended,
    broken: Vec<(u64, Ended)>,
}

/// Runs `plan` for every seed, several at a time; tells of the seeds that break a promise, and of what it
/// takes to see that again: `test` is the name of the calling test.
fn all_seeds(test: &str, default: u64, plan: impl Fn(u64) -> Plan + Sync) {
    let rest = seeds(default);
    let (first, count) = (rest.start, rest.end - rest.start);
    let tried = Mutex::new(Tried {
        rest,
        sum: Ended::default(),
        broken: Vec::new(),
    });
    let next = || {
        let mut tried = tried.lock().expect("no thread panicked");
        if tried.broken.len() >= ENOUGH_BROKEN {
            return None;
        }
        tried.rest.next()
    };
    let work = || {
        while let Some(seed) = next() {
            let ended = run(&plan(seed));
            let mut tried = tried.lock().expect("no thread panicked");
            tried.sum.add(&ended);
            if !ended.broken.is_empty() {
                tried.broken.push((seed, ended));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(work);
        }
    });
    let Tried {
        rest,
        sum,
        mut broken,
    } = tried.into_inner().expect("no thread panicked");
    broken.sort_by_key(|(seed, _)| *seed);
    for (seed, ended) in &broken {
        eprintln!(
            "seed {seed} breaks {} promises; SIM_SEED={seed} cargo test -p dunlin-broker --test sim {test} -- --nocapture",
            ended.broken.len()
        );
        for promise in ended.broken.iter().take(ENOUGH_PROMISES) {
            eprintln!("  {promise}");
        }
        eprintln!("  faults: {:#?}", ended.faults);
    }
    let seeds: Vec<u64> = broken.iter().map(|(seed, _)| *seed).collect();
    assert!(
        seeds.is_empty(),
        "{test}: {} of {} seeds from {first} break promises: {seeds:?}",
        seeds.len(),
        count - (rest.end - rest.start),
    );
    eprintln!("{test}: {count} seeds from {first}: {sum}");
}

#[test]
fn without_faults_every_promise_is_kept_and_nothing_is_repeated() {
    all_seeds("without_faults", 4, Plan::calm);
}

#[test]
fn while_replicas_die_and_redis_is_cut_off_every_promise_is_kept() {
    all_seeds("while_replicas_die", 30, Plan::storm);
}

#[test]
fn while_members_of_shared_groups_come_and_go_every_promise_is_kept() {
    all_seeds("while_members", 20, Plan::crowds);
}

#[test]
fn while_redis_fails_over_and_loses_its_newest_writes_every_promise_is_kept() {
    all_seeds("while_redis_fails_over", 20, Plan::failovers);
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
        // Records have no claims: what they ask of Redis only shifts the rest.
        plan.records = 0;
        !run(&plan).broken.is_empty()
    });
    let seed = found.expect("40 seeds do not find a missing epoch check");
    eprintln!("a missing epoch check is found by seed {seed}");
}

/// The same for changes of records that a failover has lost and nobody makes good.
#[test]
fn a_planted_loss_of_records_is_found() {
    let found = (1..=40).find_map(|seed| {
        let mut plan = Plan::failovers(seed);
        plan.planted_lost_records = true;
        let broken = run(&plan).broken;
        let record = broken.iter().find(|text| text.starts_with("record "));
        record.map(|text| (seed, text.clone()))
    });
    let (seed, text) = found.expect("40 seeds do not find a record that was lost");
    eprintln!("a record that was lost is found by seed {seed}: {text}");
}
