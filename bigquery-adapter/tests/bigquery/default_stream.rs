//! The default stream: nothing is lost, and only what may have been stored before is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dunlin_bigquery_adapter::rules::Rules;
use dunlin_bigquery_adapter::sinks::bigquery::partition::{Partition, Settings};
use dunlin_bigquery_adapter::sinks::bigquery::writer::Kind;
use tonic::Code;

use crate::fake::{Fake, Fault};
use crate::runs::{
    Dice, Given, Kept, RULES, id_of_dead, id_of_even, id_of_messages, ids, shared, work,
};

const LAST: u64 = 601;

/// Positions 1 to 600, in batches; every 97th is refused by BigQuery.
fn source() -> Vec<Given> {
    (0..60)
        .map(|batch| 1 + batch * 10..11 + batch * 10)
        .map(|positions| Given {
            gap: positions.start..positions.start,
            poisoned: positions
                .clone()
                .filter(|position| position % 97 == 0)
                .collect(),
            positions,
        })
        .collect()
}

/// How often each message is in its table, and which are dead letters, in their table or in files: an append of theirs may be refused, too.
struct Seen {
    stored: BTreeMap<String, u32>,
    dead: BTreeSet<String>,
}

fn in_files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines() {
            let letter: serde_json::Value = serde_json::from_str(line).unwrap();
            found.insert(letter["message_id"].as_str().unwrap().to_owned());
        }
    }
    found
}

fn seen(fake: &Fake, directory: &Path) -> Seen {
    let mut stored: BTreeMap<String, u32> = BTreeMap::new();
    let odd = ids(fake, "messages", id_of_messages);
    for id in odd.into_iter().chain(ids(fake, "even", id_of_even)) {
        *stored.entry(id).or_default() += 1;
    }
    let mut dead = in_files(directory);
    dead.extend(ids(fake, "dead_letters", id_of_dead));
    Seen { stored, dead }
}

fn check_complete(seen: &Seen, context: &str) {
    let (bad, good): (Vec<u64>, Vec<u64>) = (1..LAST).partition(|position| position % 97 == 0);
    let names = |positions: &[u64]| -> BTreeSet<String> {
        positions
            .iter()
            .map(|position| format!("m-{position}"))
            .collect()
    };
    let stored: BTreeSet<String> = seen.stored.keys().cloned().collect();
    let differs = |found: &BTreeSet<String>, expected: &BTreeSet<String>, what: &str| {
        let difference: Vec<&String> = found.symmetric_difference(expected).collect();
        assert!(difference.is_empty(), "{context}, {what}: {difference:?}");
    };
    differs(&stored, &names(&good), "rows");
    differs(&seen.dead, &names(&bad), "dead letters");
}

async fn life(
    fake: &Fake,
    directory: &Path,
    kind: Kind,
    kept: &mut Kept,
    limit: Duration,
    dice: &mut Dice,
) -> bool {
    let shared = shared(fake, directory.to_owned(), kind).await;
    let rules = Arc::new(Rules::parse(RULES).unwrap());
    let mut partition = Partition::take_up(shared, rules, kept.upto, &kept.checkpoint)
        .await
        .unwrap();
    work(&mut partition, &source(), kept, limit, dice).await
}

fn beginning() -> Kept {
    Kept {
        upto: 1,
        checkpoint: Vec::new(),
    }
}

const LONG: Duration = Duration::from_secs(1_000);

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_sent_again_by_itself_and_nothing_else_is() {
    for seed in 1..21 {
        let fake = Fake::default();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut dice = Dice(seed);
        fake.state().poison = Some(b"poison".to_vec());
        let codes = [
            Code::Aborted,
            Code::Internal,
            Code::ResourceExhausted,
            Code::Unavailable,
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::NotFound,
            Code::FailedPrecondition,
        ];
        let faults = (0..60).map(|_| {
            let code = codes[usize::try_from(dice.roll(27)).unwrap() % codes.len()];
            (dice.roll(3) == 0).then_some(Fault::Refuse(code))
        });
        let faults = faults.collect();
        fake.state().faults = faults;
        let mut kept = beginning();
        let done = life(&fake, directory, Kind::Default, &mut kept, LONG, &mut dice).await;
        assert!(done, "seed {seed}: not everything was written");
        let seen = seen(&fake, directory);
        // A single row that is refused without being named is a dead letter: only then does one that is fine become one.
        let stored: u32 = seen.stored.values().sum();
        assert_eq!(
            stored as usize,
            seen.stored.len(),
            "seed {seed}: a row is there twice"
        );
        let everything: BTreeSet<&String> = seen.stored.keys().chain(&seen.dead).collect();
        assert_eq!(everything.len() as u64, LAST - 1, "seed {seed}");
        assert_eq!(fake.state().created, 0, "no stream is made");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_repeats_one_request_and_no_more_than_is_under_way() {
    let fake = Fake::default();
    fake.state().poison = Some(b"poison".to_vec());
    fake.state().faults = [None, None, Some(Fault::LoseReply)].into();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (mut kept, mut dice) = (beginning(), Dice(1));
    assert!(life(&fake, directory, Kind::Default, &mut kept, LONG, &mut dice).await);
    let seen = seen(&fake, directory);
    check_complete(&seen, "a lost reply");
    let again = seen.stored.values().filter(|count| **count > 1).count();
    // Four requests of seven rows may be under way.
    assert!((1..=28).contains(&again), "{again} rows are there twice");
    assert!(seen.stored.values().all(|count| *count <= 2));
}

#[tokio::test(start_paused = true)]
async fn crashes_and_changes_between_the_streams_lose_nothing() {
    for seed in 1..21 {
        let fake = Fake::default();
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut dice = Dice(seed);
        fake.state().poison = Some(b"poison".to_vec());
        let mut kept = beginning();
        for crash in 0.. {
            let calm = crash > 10;
            let faults = (0..40).map(|_| match dice.roll(12) {
                _ if calm => None,
                0 => Some(Fault::LoseReply),
                1 => Some(Fault::End(Code::Unavailable)),
                2 => Some(Fault::Refuse(Code::Aborted)),
                _ => None,
            });
            let faults = faults.collect();
            fake.state().faults = faults;
            let kind = match dice.roll(3) {
                0 => Kind::Committed,
                _ => Kind::Default,
            };
            let limit = match calm {
                true => LONG,
                false => Duration::from_millis(dice.roll(400)),
            };
            if life(&fake, directory, kind, &mut kept, limit, &mut dice).await {
                break;
            }
            assert!(!calm, "seed {seed}: without faults everything is written");
        }
        check_complete(&seen(&fake, directory), &format!("seed {seed}"));
    }
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_taken_no_more_is_read_than_the_bound() {
    let fake = Fake::default();
    fake.state().down = true;
    let directory = tempfile::tempdir().unwrap();
    let mut shared = shared(&fake, directory.path().to_owned(), Kind::Default).await;
    shared.settings = Arc::new(Settings {
        ahead_bytes: 3_000,
        ..(*shared.settings).clone()
    });
    let rules = Arc::new(Rules::parse(RULES).unwrap());
    let mut partition = Partition::take_up(shared, rules, 1, &[]).await.unwrap();
    let mut given = source().into_iter();
    let mut taken = 0;
    while partition.wants_more() {
        partition.give(given.next().unwrap());
        taken += 1;
    }
    assert_eq!(taken, 3, "a batch has 1,000 bytes");
    let nothing = tokio::time::timeout(Duration::from_secs(600), partition.next()).await;
    assert!(nothing.is_err(), "nothing is stored, nothing acknowledged");
    assert!(!partition.wants_more());
    fake.state().down = false;
    let end = async {
        loop {
            let acknowledge = partition.next().await;
            partition.confirmed();
            if acknowledge.upto == 31 {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, end).await.unwrap();
}
