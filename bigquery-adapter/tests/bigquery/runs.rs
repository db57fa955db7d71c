//! Runs with crashes and faults: the rows in the tables are the messages that were given, each once.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dunlin_bigquery_adapter::row::{Delivery, Row, UserProperties};
use dunlin_bigquery_adapter::rules::Rules;
use dunlin_bigquery_adapter::sinks::bigquery::api::WriteApi;
use dunlin_bigquery_adapter::sinks::bigquery::dead::DeadLetters;
use dunlin_bigquery_adapter::sinks::bigquery::partition::{Messages, Partition, Settings, Shared};
use dunlin_bigquery_adapter::sinks::bigquery::tables::Catalog;
use dunlin_bigquery_adapter::sinks::bigquery::token::{Credentials, Tokens};
use dunlin_bigquery_adapter::sinks::bigquery::writer::Kind;
use prost::Message as _;
use tonic::Code;

use crate::catalog::Memory;
use crate::fake::{Fake, Fault};

/// Fields of `messages` that matter here, by their numbers in the default table.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(bytes = "vec", optional, tag = "3")]
    payload: Option<Vec<u8>>,
    #[prost(string, optional, tag = "8")]
    message_id: Option<String>,
}

pub(crate) const RULES: &str = r#"
[[rule]]
topic = "even/{device}"
table = "even"
columns = { payload = "payload" }
"#;

/// Messages that a test gives: every other one is for the table `even`, the others for `messages`.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) positions: Range<u64>,
    pub(crate) gap: Range<u64>,
    pub(crate) poisoned: Vec<u64>,
}

impl Messages for Given {
    fn positions(&self) -> Range<u64> {
        self.positions.clone()
    }
    fn gap(&self) -> Range<u64> {
        self.gap.clone()
    }
    fn bytes(&self) -> usize {
        100 * usize::try_from(self.positions.end - self.positions.start).unwrap()
    }
    fn each(&self, take: &mut dyn FnMut(u64, &str, &Row<'_>)) {
        for position in self.positions.clone() {
            let topic = if position % 2 == 0 { "even/d" } else { "odd" };
            let payload = if self.poisoned.contains(&position) {
                "poison"
            } else {
                "fine"
            };
            let row = Row {
                received_at: 1_000_000 * position.cast_signed(),
                number: position,
                delivery: Delivery::AtLeastOnce(1),
                fingerprint: 0,
                retain: false,
                topic,
                payload: payload.as_bytes(),
                client_id: Some("c"),
                tenant: None,
                device_id: None,
                content_type: None,
                response_topic: None,
                origin: None,
                correlation_data: None,
                user_properties: UserProperties::default(),
            };
            take(position, &format!("m-{position}"), &row);
        }
    }
}

/// Numbers from a seed.
pub(crate) struct Dice(pub(crate) u64);
impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// What Redis would hold for the partition.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) upto: u64,
    pub(crate) checkpoint: Vec<u8>,
}

pub(crate) async fn shared(fake: &Fake, directory: PathBuf, stream: Kind) -> Shared {
    let tokens = Tokens::open(&Credentials::None).await.unwrap();
    let api = WriteApi::with_channel(fake.channel(), tokens);
    let tables: Arc<dyn Catalog> = Arc::new(Memory::default());
    let dead = DeadLetters::new(api.clone(), Arc::clone(&tables), "dead_letters", directory);
    Shared {
        api,
        tables,
        dead,
        metrics: Arc::default(),
        health: Arc::default(),
        settings: Arc::new(Settings {
            stream,
            rows: 7,
            bytes: 1 << 20,
            age: Duration::from_millis(20),
            in_flight: 4,
            ahead_bytes: 8_000,
        }),
    }
}

/// Ids in a table, in their order.
pub(crate) fn ids(fake: &Fake, table: &str, tag: fn(&[u8]) -> String) -> Vec<String> {
    let state = fake.state();
    let rows = state
        .tables
        .get(&format!("projects/p/datasets/d/tables/{table}"));
    rows.into_iter().flatten().map(|row| tag(row)).collect()
}

pub(crate) fn id_of_messages(row: &[u8]) -> String {
    Stored::decode(row).unwrap().message_id.unwrap()
}

/// In `even` the columns are received_at, message_id, payload.
pub(crate) fn id_of_even(row: &[u8]) -> String {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Even {
        #[prost(string, optional, tag = "2")]
        message_id: Option<String>,
    }
    Even::decode(row).unwrap().message_id.unwrap()
}

pub(crate) fn id_of_dead(row: &[u8]) -> String {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Dead {
        #[prost(string, optional, tag = "3")]
        message_id: Option<String>,
    }
    Dead::decode(row).unwrap().message_id.unwrap()
}

/// Works until everything up to `last` is acknowledged, or for `limit`. Acknowledgements are stored, and confirmed or not.
pub(crate) async fn work(
    partition: &mut Partition<Given>,
    source: &[Given],
    kept: &mut Kept,
    limit: Duration,
    dice: &mut Dice,
) -> bool {
    let last = source.last().unwrap().positions.end;
    let from = kept.upto;
    let mut given = source
        .iter()
        .filter(|given| given.positions.start >= from)
        .map(|given| Given {
            gap: given.gap.start.max(from)..given.gap.end,
            ..given.clone()
        });
    let work = async {
        loop {
            while partition.wants_more() {
                match given.next() {
                    Some(messages) => partition.give(messages),
                    None => break,
                }
            }
            let acknowledge = partition.next().await;
            // The crash may come between the request and its effect.
            tokio::time::sleep(Duration::from_millis(dice.roll(5))).await;
            assert!(acknowledge.upto >= kept.upto, "acknowledgements only rise");
            *kept = Kept {
                upto: acknowledge.upto,
                checkpoint: acknowledge.checkpoint,
            };
            partition.confirmed();
            if kept.upto >= last {
                return;
            }
        }
    };
    tokio::time::timeout(limit, work).await.is_ok()
}

fn faults(dice: &mut Dice, share: u64) -> Vec<Option<Fault>> {
    (0..40)
        .map(|_| match dice.roll(100) {
            roll if roll >= share => None,
            roll => Some(match roll % 10 {
                0 => Fault::Refuse(Code::Aborted),
                1 => Fault::Refuse(Code::Internal),
                2 => Fault::Refuse(Code::ResourceExhausted),
                3 => Fault::Refuse(Code::OutOfRange),
                4 => Fault::End(Code::Unavailable),
                5 => Fault::End(Code::Unauthenticated),
                6 => Fault::Refuse(Code::Unavailable),
                7 => Fault::Finalized,
                8 => Fault::Silence,
                _ => Fault::LoseReply,
            }),
        })
        .collect()
}

/// Names the first difference: the lists are long.
fn same(found: &[String], expected: &[String], context: &str) {
    let first = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    let at = first.unwrap_or(found.len().min(expected.len()));
    let near = |ids: &[String]| {
        ids.iter()
            .skip(at.saturating_sub(3))
            .take(9)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert!(
        found == expected,
        "{context}: {} rows of {}, row {at} differs: found {:?}, expected {:?}",
        found.len(),
        expected.len(),
        near(found),
        near(expected)
    );
}

async fn run(seed: u64) {
    let mut dice = Dice(seed);
    let fake = Fake::default();
    let directory = tempfile::tempdir().unwrap();
    let shared = shared(&fake, directory.path().to_owned(), Kind::Committed).await;
    // Batches of different sizes, with two gaps.
    let (mut source, mut next, mut poisoned) = (Vec::new(), 1_u64, Vec::new());
    for batch in 0..60_u64 {
        let gap = if batch % 25 == 24 {
            next..next + (1 << 24)
        } else {
            next..next
        };
        let start = gap.end;
        let end = start + 1 + dice.roll(20);
        let bad: Vec<u64> = (start..end).filter(|_| dice.roll(150) == 0).collect();
        poisoned.extend_from_slice(&bad);
        source.push(Given {
            positions: start..end,
            gap,
            poisoned: bad,
        });
        next = end;
    }
    fake.state().poison = Some(b"poison".to_vec());
    let mut kept = Kept {
        upto: 1,
        checkpoint: Vec::new(),
    };
    let rules = Arc::new(Rules::parse(RULES).unwrap());
    let mut crashes = 0;
    loop {
        let calm = crashes > 12;
        let share = if calm { 0 } else { 30 };
        fake.state().faults = faults(&mut dice, share).into();
        let mut partition = Partition::take_up(
            shared.clone(),
            Arc::clone(&rules),
            kept.upto,
            &kept.checkpoint,
        )
        .await
        .unwrap();
        let limit = if calm { 100_000 } else { dice.roll(1_500) };
        if work(
            &mut partition,
            &source,
            &mut kept,
            Duration::from_millis(limit),
            &mut dice,
        )
        .await
        {
            break;
        }
        assert!(!calm, "seed {seed}: without faults everything is written");
        crashes += 1;
    }
    let positions: Vec<u64> = source
        .iter()
        .flat_map(|given| given.positions.clone())
        .collect();
    let expect = |even: bool| -> Vec<String> {
        let positions = positions
            .iter()
            .filter(|position| (*position % 2 == 0) == even);
        positions
            .filter(|position| !poisoned.contains(position))
            .map(|position| format!("m-{position}"))
            .collect()
    };
    let context = format!("seed {seed}, {crashes} crashes");
    same(
        &ids(&fake, "messages", id_of_messages),
        &expect(false),
        &context,
    );
    same(&ids(&fake, "even", id_of_even), &expect(true), &context);
    let mut dead = ids(&fake, "dead_letters", id_of_dead);
    dead.sort();
    dead.dedup();
    let mut expected: Vec<String> = poisoned
        .iter()
        .map(|position| format!("m-{position}"))
        .collect();
    expected.sort();
    assert_eq!(dead, expected, "{context}");
}

#[test]
fn whatever_fails_every_message_is_stored_once_and_in_order() {
    let first = std::env::var("BIGQUERY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = match first {
        Some(seed) => {
            tracing_subscriber::fmt()
                .with_test_writer()
                .without_time()
                .init();
            seed..seed + 1
        }
        None => 1..41,
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(seed));
    }
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_without_bigquery_everything_is_written_once() {
    let fake = Fake::default();
    let directory = tempfile::tempdir().unwrap();
    let shared = shared(&fake, directory.path().to_owned(), Kind::Committed).await;
    let source = hundred_batches();
    let outage = {
        let fake = fake.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            fake.state().down = true;
            tokio::time::sleep(Duration::from_secs(600)).await;
            fake.state().down = false;
        }
    };
    let before = tokio::time::Instant::now();
    tokio::spawn(outage);
    let mut kept = Kept {
        upto: 1,
        checkpoint: Vec::new(),
    };
    let rules = Arc::new(Rules::parse(RULES).unwrap());
    let mut partition = Partition::take_up(shared, rules, 1, &[]).await.unwrap();
    let limit = Duration::from_secs(700);
    assert!(work(&mut partition, &source, &mut kept, limit, &mut Dice(1)).await);
    assert!(
        before.elapsed() > Duration::from_secs(600),
        "there was no outage"
    );
    hundred_batches_are_there(&fake);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_answers_nothing_any_more_is_given_up_and_nothing_is_repeated() {
    let fake = Fake::default();
    let directory = tempfile::tempdir().unwrap();
    let shared = shared(&fake, directory.path().to_owned(), Kind::Committed).await;
    let source = hundred_batches();
    fake.state().faults = [None, None, None, Some(Fault::Silence)].into();
    let before = tokio::time::Instant::now();
    let mut kept = Kept {
        upto: 1,
        checkpoint: Vec::new(),
    };
    let rules = Arc::new(Rules::parse(RULES).unwrap());
    let mut partition = Partition::take_up(shared, rules, 1, &[]).await.unwrap();
    let limit = Duration::from_secs(100);
    assert!(work(&mut partition, &source, &mut kept, limit, &mut Dice(1)).await);
    assert!(
        before.elapsed() >= Duration::from_secs(60),
        "nobody was silent"
    );
    hundred_batches_are_there(&fake);
}

fn hundred_batches() -> Vec<Given> {
    let batch = |batch: u64| Given {
        positions: 1 + batch * 10..11 + batch * 10,
        gap: 0..0,
        poisoned: Vec::new(),
    };
    (0..100).map(batch).collect()
}

fn hundred_batches_are_there(fake: &Fake) {
    for (table, even, tag) in [
        ("messages", false, id_of_messages as fn(&[u8]) -> String),
        ("even", true, id_of_even),
    ] {
        let numbers = (1..1_001).filter(|number| (number % 2 == 0) == even);
        let expected: Vec<String> = numbers.map(|number| format!("m-{number}")).collect();
        same(&ids(fake, table, tag), &expected, table);
    }
}
