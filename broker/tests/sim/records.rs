//! Records that several writers change by comparison, on any replica; readers, and what each replica's listener is told.
//!
//! A change is counted as acknowledged when its put resolves, and as unknown when that takes too long, or ends with an error.
//! What is promised: no revision is replaced by two acknowledged changes; who reads on any replica after an acknowledgement
//! finds that change or a later one, whatever happened between; a change that everybody was to be told of has been told on
//! every replica that was not cut off; and in the end every replica reads the same and was told of it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_sync::Store;
use dunlin_sync::records::{
    Expect, PutOutcome, Record, RecordChange, RecordKey, RecordListener, RecordPut, Table,
};

use crate::oracle::Ms;
use crate::plan::Random;
use crate::world::{Replica, World};

const WRITERS_EACH: usize = 2;
const READERS_EACH: usize = 2;
/// Longest wait for an answer, in virtual time. Redis is away for less.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was acknowledged of one record.
#[derive(Debug, Default)]
struct Told {
    /// By revision: the value, and what it replaced.
    changes: BTreeMap<u64, (String, u64)>,
    /// By the revision that was replaced.
    replaced: BTreeMap<u64, u64>,
    /// When the newest of them was asked for.
    newest_asked: Ms,
}

impl Told {
    fn newest(&self) -> u64 {
        self.changes.keys().next_back().copied().unwrap_or(0)
    }
}

/// What was acknowledged of all of them.
#[derive(Debug, Default)]
pub(crate) struct Book(BTreeMap<usize, Told>);

impl Book {
    /// Acknowledged changes.
    pub(crate) fn changes(&self) -> u64 {
        self.0.values().map(|told| told.changes.len() as u64).sum()
    }
}

/// What the listener of a replica was told: the newest revision of each record.
#[derive(Debug, Default)]
struct Heard {
    revisions: BTreeMap<RecordKey, u64>,
    /// It was told that it has missed some, at least once.
    missed: bool,
    /// A record went back: which, from where and where to.
    back: Vec<(RecordKey, u64, u64)>,
}

/// Listens on a replica for as long as it lives.
#[derive(Debug)]
pub(crate) struct Ear {
    heard: Mutex<Heard>,
    since: Ms,
}

impl RecordListener for Ear {
    fn changed(&self, change: &RecordChange) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            RecordChange::Changed { key, revision, .. } => {
                let before = heard.revisions.insert(key.clone(), *revision);
                if let Some(before) = before.filter(|before| before > revision) {
                    heard.back.push((key.clone(), before, *revision));
                }
            }
            RecordChange::Missed { .. } => {
                heard.missed = true;
                heard.revisions.retain(|key, _| !change.concerns(key));
            }
        }
    }
}

impl Ear {
    pub(crate) fn listen(store: &dyn Store, since: Ms) -> Arc<Self> {
        let ear = Arc::new(Self {
            heard: Mutex::default(),
            since,
        });
        let listener: Arc<dyn RecordListener> = ear.clone();
        store.records().listen(&listener);
        ear
    }

    /// Whether it knows of this revision, or knows that it does not know.
    fn knows(&self, key: &RecordKey, revision: u64) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.revisions.get(key) {
            Some(told) => *told >= revision,
            None => heard.missed,
        }
    }
}

fn key(n: usize) -> RecordKey {
    RecordKey::new(Table::Device, format!("device-{n}"))
}

pub(crate) fn spawn(world: &Rc<World>) {
    for n in 0..world.plan.records {
        for writer in 0..WRITERS_EACH {
            world.spawn(write(world.clone(), n, writer));
        }
        for reader in 0..READERS_EACH {
            world.spawn(read(world.clone(), n, reader));
        }
    }
}

async fn pause(world: &World, random: &mut Random) {
    // As long as the faults.
    let each = world.plan.span_ms / u64::from(world.plan.changes_each.max(1));
    tokio::time::sleep(Duration::from_millis(1 + random.below(2 * each))).await;
}

fn any_replica(world: &World, random: &mut Random) -> Option<Rc<Replica>> {
    let replicas = world.replicas();
    let at = random.below(replicas.len() as u64) as usize;
    replicas.get(at).cloned()
}

async fn get(replica: &Replica, n: usize) -> Option<Option<Record>> {
    let got = replica.store().records().get(vec![key(n)]);
    let mut got = tokio::time::timeout(PATIENCE, got).await.ok()?.ok()?;
    Some(got.remove(0))
}

/// Changes a record as often as the plan says, each time what it has found.
async fn write(world: Rc<World>, n: usize, writer: usize) {
    let mut random = Random::of(world.plan.seed, "record writer", 10 * n + writer);
    let mut known = 0;
    let mut number = 0;
    while number < world.plan.changes_each {
        pause(&world, &mut random).await;
        let Some(replica) = any_replica(&world, &mut random) else {
            continue;
        };
        number += 1;
        let value = format!("{writer} {number}");
        let expect = match known {
            0 => Expect::Absent,
            known => Expect::Revision(known),
        };
        let put = vec![RecordPut::set(key(n), value.clone()).expecting(expect)];
        let everywhere = random.chance(300);
        let least = newest(&world, n);
        let asked = world.now();
        let records = replica.store().records();
        let putting = match everywhere {
            true => records.put_everywhere(put),
            false => records.put(put),
        };
        let outcome = match tokio::time::timeout(PATIENCE, putting).await {
            Ok(Ok(mut outcomes)) => outcomes.remove(0),
            _ => {
                world.note(&format!(
                    "nobody knows what became of {value} of record {n}"
                ));
                if let Some(found) = get(&replica, n).await {
                    known = found.map_or(0, |found| found.revision);
                }
                continue;
            }
        };
        match outcome {
            PutOutcome::Done { revision } => {
                world.note(&format!("record {n} is {value:?} at {revision}"));
                acknowledged(&world, n, (revision, asked), known, value);
                known = revision;
                if everywhere {
                    all_know(&world, n, revision, asked);
                }
            }
            PutOutcome::Conflict { found } => {
                look(&world, "a writer", &replica, n, found.as_ref(), least);
                known = found.map_or(0, |found| found.revision);
            }
        }
    }
}

fn newest(world: &World, n: usize) -> u64 {
    world.records.borrow().0.get(&n).map_or(0, Told::newest)
}

fn acknowledged(
    world: &World,
    n: usize,
    (revision, asked): (u64, Ms),
    replaced: u64,
    value: String,
) {
    let mut book = world.records.borrow_mut();
    let told = book.0.entry(n).or_default();
    if revision > told.newest() {
        told.newest_asked = asked;
    }
    let mut broken = Vec::new();
    if let Some(other) = told.replaced.insert(replaced, revision) {
        broken.push(format!(
            "both {other} and {revision} have replaced {replaced}"
        ));
    }
    if revision <= replaced {
        broken.push(format!("{revision} has replaced {replaced}"));
    }
    if let Some((other, _)) = told.changes.insert(revision, (value.clone(), replaced)) {
        broken.push(format!("{revision} is both {other:?} and {value:?}"));
    }
    let mut oracle = world.oracle.borrow_mut();
    for text in broken {
        oracle.breach(format!("record {n}: {text}"));
    }
}

/// Every replica that could be told has been: it listened before the change was asked for, and was never cut off.
fn all_know(world: &World, n: usize, revision: u64, asked: Ms) {
    for replica in world.replicas() {
        let could = !replica.troubled.get() && replica.ear.since < asked;
        if could && !replica.ear.knows(&key(n), revision) {
            world.oracle.borrow_mut().breach(format!(
                "record {n}: replica {} was not told of {revision} before everybody was said to be",
                replica.backplane
            ));
        }
    }
}

/// Compares what was found with what had been acknowledged before it was looked for.
fn look(world: &World, who: &str, replica: &Replica, n: usize, found: Option<&Record>, least: u64) {
    let revision = found.map_or(0, |found| found.revision);
    let book = world.records.borrow();
    let told = book.0.get(&n).and_then(|told| told.changes.get(&revision));
    let value = found.map(|found| String::from_utf8_lossy(&found.value).into_owned());
    let right = told.is_none_or(|(value_then, _)| value.as_ref() == Some(value_then));
    if revision < least || !right {
        world.oracle.borrow_mut().breach(format!(
            "record {n}: {who} on replica {} found {value:?} at {revision}, although {least} had been acknowledged ({told:?})",
            replica.backplane
        ));
    }
}

async fn read(world: Rc<World>, n: usize, reader: usize) {
    let mut random = Random::of(world.plan.seed, "record reader", 10 * n + reader);
    for _ in 0..world.plan.changes_each {
        pause(&world, &mut random).await;
        let Some(replica) = any_replica(&world, &mut random) else {
            continue;
        };
        let least = newest(&world, n);
        if let Some(found) = get(&replica, n).await {
            look(&world, "a reader", &replica, n, found.as_ref(), least);
        }
    }
}

/// When everything is over: all replicas say the same, and their listeners know it.
pub(crate) async fn end(world: &Rc<World>) {
    for n in 0..world.plan.records {
        let mut first: Option<Option<Record>> = None;
        for replica in world.replicas() {
            let number = replica.backplane;
            let breach = |text: String| {
                world
                    .oracle
                    .borrow_mut()
                    .breach(format!("record {n}: replica {number} {text}"));
            };
            let Some(found) = get(&replica, n).await else {
                breach("does not answer in the end".to_owned());
                continue;
            };
            look(
                world,
                "the end",
                &replica,
                n,
                found.as_ref(),
                newest(world, n),
            );
            if first.as_ref().is_some_and(|first| *first != found) {
                breach(format!("has {found:?} in the end, another one {first:?}"));
            }
            let revision = found.as_ref().map_or(0, |found| found.revision);
            let book = world.records.borrow();
            let asked = book.0.get(&n).map_or(0, |told| told.newest_asked);
            drop(book);
            let heard = replica
                .ear
                .heard
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let told = heard.revisions.get(&key(n)).copied();
            let must = asked > replica.ear.since && !heard.missed;
            if told.is_some_and(|told| told != revision) || (told.is_none() && must) {
                breach(format!("was told of {told:?}, and {revision} is there"));
            }
            if !world.plan.failovers && !heard.back.is_empty() {
                breach(format!(
                    "was told of revisions that went back: {:?}",
                    heard.back
                ));
            }
            drop(heard);
            first = Some(found);
        }
    }
}
