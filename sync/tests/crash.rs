//! Kills a process that writes, many times in a row, and looks at what is left.
//!
//! A child runs several submitters. Batch `k` of a submitter queues two small messages for its own
//! session and one large one for its own and a common session, dequeues all that batch `k - LAG`
//! queued, and replaces a retained message and a QoS 2 packet id. For each commit it is told of it
//! prints a line. So for any last batch `m` that a store holds, its whole content is known: exactly
//! the entries of the last `LAG` batches. Any loss, tear or repetition shows.
//!
//! Beside them some change records, each its own: put in pairs, in one put, so that of what was not acknowledged the
//! first may be there without the second; now and then one is removed. What is there must be what was acknowledged last
//! for that key, with its revision, or the one change behind it; and a revision is never given twice.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use dunlin_sync::records::{Record, RecordKey, RecordPut, Table};
use dunlin_sync::testing::{Driver, samples};
use dunlin_sync::{
    Appended, Batch, Committed, EmbeddedOptions, EmbeddedStore, Op, Recovered, SessionId, Store,
    StoreError,
};

const ROUNDS: usize = 25;
const SUBMITTERS: u64 = 4;
/// Batches after which a batch's entries are dequeued.
const LAG: u64 = 10;
/// Batches a submitter has under way; below `LAG`, so that it knows what to dequeue.
const WINDOW: usize = 6;
/// Payload of the messages that are stored once for two queues.
const LARGE: usize = 3000;

fn open(path: &Path) -> Driver {
    // Small tables, so that kills hit flushes and merges too.
    let options = EmbeddedOptions {
        write_buffer_bytes: 256 << 10,
        ..EmbeddedOptions::default()
    };
    Driver::new(Arc::new(EmbeddedStore::open(path, &options).unwrap()))
}

fn own_session(submitter: u64) -> SessionId {
    SessionId(1 + submitter)
}

fn common_session() -> SessionId {
    SessionId(1 + SUBMITTERS)
}

/// `submitter:batch:part`, and a filler for the large part.
fn payload(submitter: u64, batch: u64, part: &str) -> Vec<u8> {
    let mut bytes = format!("{submitter}:{batch}:{part}").into_bytes();
    if part == "large" {
        bytes.resize(LARGE, b' ');
    }
    bytes
}

fn parse(payload: &[u8]) -> (u64, u64, String) {
    let text = std::str::from_utf8(payload).unwrap().trim_end();
    let mut parts = text.split(':');
    let mut next = || parts.next().unwrap().to_owned();
    (next().parse().unwrap(), next().parse().unwrap(), next())
}

/// Who changes records beside the submitters.
const CHANGERS: u64 = 2;
/// Changes after which the next removes what it finds.
const REMOVED_EVERY: u64 = 7;

/// The two records of change `n`: one that each change changes, one of sixteen.
fn changed(changer: u64, n: u64) -> [RecordKey; 2] {
    [
        RecordKey::new(Table::Device, format!("{changer}/always")),
        RecordKey::new(Table::Serial, format!("{changer}/{}", n % 16)),
    ]
}

/// What change `n` makes of each of its records; `None`: it is removed.
fn value(changer: u64, n: u64) -> Option<String> {
    // Some are large, so that tables are flushed.
    let size = if n.is_multiple_of(5) { LARGE } else { 0 };
    (!n.is_multiple_of(REMOVED_EVERY)).then(|| format!("{changer}:{n}:{:size$}", ""))
}

fn change(driver: &Driver, changer: u64, n: u64) -> Vec<u64> {
    let puts = changed(changer, n).map(|key| RecordPut {
        value: value(changer, n).map(Into::into),
        ..RecordPut::remove(key)
    });
    let outcomes = driver.block_on(driver.store().records().put(puts.to_vec()));
    let outcomes = outcomes.unwrap();
    outcomes
        .iter()
        .map(|outcome| outcome.revision().unwrap())
        .collect()
}

/// Changes records, one change after the other, and tells the parent of each.
fn change_records(store: Arc<dyn Store>, changer: u64, first: u64) {
    let driver = Driver::new(store);
    for n in first.. {
        let revisions = change(&driver, changer, n);
        let line = format!("R {changer} {n} {} {}\n", revisions[0], revisions[1]);
        let mut out = std::io::stdout().lock();
        if out
            .write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            std::process::exit(1);
        }
    }
}

fn record(driver: &Driver, key: RecordKey) -> Option<Record> {
    let got = driver.block_on(driver.store().records().get(vec![key]));
    got.unwrap().remove(0)
}

/// Tells the parent, then the submitter.
struct Report {
    submitter: u64,
    batch: u64,
    /// Where the batch's entries are, for its own end.
    sender: SyncSender<(u64, Vec<(SessionId, u64)>)>,
}

impl Committed for Report {
    fn committed(self: Box<Self>, appended: Vec<Appended>) {
        let places: Vec<_> = appended
            .iter()
            .map(|done| (done.session, done.seq))
            .collect();
        let mut line = format!("C {} {}", self.submitter, self.batch);
        for (session, seq) in &places {
            line.push_str(&format!(" {} {seq}", session.0));
        }
        line.push('\n');
        // One write: a line is there whole or not at all.
        let mut out = std::io::stdout().lock();
        if out
            .write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            std::process::exit(1);
        }
        self.sender.send((self.batch, places)).ok();
    }

    fn failed(self: Box<Self>, error: &StoreError) {
        eprintln!("failed: {error}");
        std::process::exit(1);
    }
}

/// Writes until it is killed.
#[test]
#[ignore = "child process of another test"]
fn writer() {
    let Ok(path) = std::env::var("DUNLIN_CRASH") else {
        return;
    };
    let driver = open(Path::new(&path));
    let last = last_batches(&driver);
    let next: u64 = std::env::var("DUNLIN_CRASH_CHANGE")
        .unwrap()
        .parse()
        .unwrap();
    std::thread::scope(|scope| {
        for changer in 0..CHANGERS {
            let store = Arc::clone(driver.store());
            scope.spawn(move || change_records(store, changer, next));
        }
        for submitter in 0..SUBMITTERS {
            let live = live_entries(&driver, submitter);
            let first = last.get(&submitter).copied().unwrap_or(0) + 1;
            let driver = &driver;
            let store = Arc::clone(driver.store());
            scope.spawn(move || write(&*store, submitter, first, live));
        }
    });
}

/// Where the entries of each batch of a submitter are.
type Live = BTreeMap<u64, Vec<(SessionId, u64)>>;

fn live_entries(driver: &Driver, submitter: u64) -> Live {
    let mut live = Live::new();
    for session in [own_session(submitter), common_session()] {
        for entry in driver.read_all(session) {
            let (by, batch, _) = parse(entry.message.unwrap().payload());
            if by == submitter {
                live.entry(batch).or_default().push((session, entry.seq));
            }
        }
    }
    live
}

fn write(store: &dyn Store, submitter: u64, first: u64, mut live: Live) {
    let (sender, receiver) = sync_channel(2 * WINDOW);
    for batch in first.. {
        if batch >= first + WINDOW as u64 {
            let (done, places) = receiver.recv().unwrap();
            live.insert(done, places);
        }
        let report = Report {
            submitter,
            batch,
            sender: sender.clone(),
        };
        let ops = batch_ops(submitter, batch, live.remove(&batch.saturating_sub(LAG)));
        store.submit(Batch::with_callback(ops, Box::new(report)));
    }
}

fn batch_ops(submitter: u64, batch: u64, done: Option<Vec<(SessionId, u64)>>) -> Vec<Op> {
    let own = own_session(submitter);
    let message = |part: &str| samples::message_on("t", &payload(submitter, batch, part));
    let large = message("large");
    let mut ops = vec![
        samples::enqueue_message(own, message("a")),
        samples::enqueue_message(own, Arc::clone(&large)),
        samples::enqueue_message(common_session(), large),
        samples::enqueue_message(own, message("b")),
        Op::PutRetained(samples::message_on(
            &format!("r/{submitter}"),
            &payload(submitter, batch, "r"),
        )),
        Op::PutInboundQos2 {
            session: own,
            packet_id: packet_id(batch),
            count: 0,
        },
        Op::DeleteInboundQos2 {
            session: own,
            packet_id: packet_id(batch.wrapping_sub(1)),
        },
    ];
    for (session, seq) in done.into_iter().flatten() {
        ops.push(Op::Dequeue { session, seq });
    }
    ops
}

fn packet_id(batch: u64) -> u16 {
    u16::try_from(batch % 65_535).unwrap() + 1
}

/// Last batch of each submitter that the store holds, by its retained messages.
fn last_batches(driver: &Driver) -> BTreeMap<u64, u64> {
    let recovered = driver.store().recover().unwrap();
    retained_batches(&recovered)
}

fn retained_batches(recovered: &Recovered) -> BTreeMap<u64, u64> {
    recovered
        .retained
        .iter()
        .map(|message| {
            let (submitter, batch, _) = parse(message.payload());
            (submitter, batch)
        })
        .collect()
}

/// What the parent has been told.
#[derive(Default)]
struct Told {
    /// Last acknowledged batch of each submitter.
    last: BTreeMap<u64, u64>,
    /// Which part of which batch has each position of each queue, over all rounds.
    places: BTreeMap<(u64, u64), (u64, u64, usize)>,
    lines: usize,
    /// Last change of each changer, and of each record: by which change, and its revision.
    changes: BTreeMap<u64, u64>,
    records: BTreeMap<RecordKey, (u64, u64)>,
    revisions: BTreeSet<u64>,
    /// The first change of the child that runs.
    first_change: u64,
    /// Changes that were never acknowledged, since the last look: by whom, and which.
    under_way: Vec<(u64, u64)>,
}

impl Told {
    fn line(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next();
        if kind != Some("C") && kind != Some("R") {
            return;
        }
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        if kind == Some("R") {
            return self.change(&numbers, line);
        }
        let [submitter, batch, places @ ..] = numbers.as_slice() else {
            panic!("short line: {line}");
        };
        let previous = self.last.insert(*submitter, *batch);
        assert!(
            previous.is_none_or(|previous| previous < *batch),
            "order of {line}"
        );
        for (part, place) in places.chunks(2).enumerate() {
            let before = self
                .places
                .insert((place[0], place[1]), (*submitter, *batch, part));
            assert_eq!(before, None, "a position was used twice: {line}");
        }
        self.lines += 1;
    }

    fn change(&mut self, numbers: &[u64], line: &str) {
        let [changer, n, revisions @ ..] = numbers else {
            panic!("short line: {line}");
        };
        self.changes.insert(*changer, *n);
        for (key, revision) in changed(*changer, *n).into_iter().zip(revisions) {
            // 0: there was nothing to remove.
            let fresh = *revision == 0 || self.revisions.insert(*revision);
            assert!(fresh, "a revision was used twice: {line}");
            let before = self.records.insert(key, (*n, *revision));
            let rises = before.is_none_or(|(_, before)| before < *revision || *revision == 0);
            assert!(rises, "{line} comes after {before:?}");
        }
    }

    /// The next child's changes are behind all that one before may have made.
    fn next_change(&mut self) -> u64 {
        let last = self.changes.values().copied().max().unwrap_or(0);
        self.first_change = self.first_change.max(last) + 2;
        self.first_change
    }

    fn child_was_killed(&mut self) {
        for changer in 0..CHANGERS {
            let done = self.changes.get(&changer).copied().unwrap_or(0);
            self.under_way
                .push((changer, self.first_change.max(done + 1)));
        }
    }
}

fn start_writer(path: &Path, told: &mut Told) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env("DUNLIN_CRASH", path)
        .env("DUNLIN_CRASH_CHANGE", told.next_change().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// Lets the child run for a number of commits, kills it, and hears what it had still said.
fn run_and_kill(path: &Path, told: &mut Told, commits: usize) {
    let (mut child, out) = start_writer(path, told);
    let until = told.lines + commits;
    let mut killed = false;
    for line in out.lines() {
        // A line cut off by the end of the child is no acknowledgement.
        let Ok(line) = line else { break };
        told.line(&line);
        if !killed && told.lines >= until {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "the child ended by itself: {status}");
    told.child_was_killed();
}

/// Kills a child while it opens the store, `delay` after it was started.
fn kill_while_opening(path: &Path, told: &mut Told, delay: Duration) {
    let (mut child, out) = start_writer(path, told);
    // Not a wait for anything: any moment is right.
    std::thread::sleep(delay);
    child.kill().unwrap();
    for line in out.lines() {
        let Ok(line) = line else { break };
        told.line(&line);
    }
    child.wait().unwrap();
    told.child_was_killed();
}

fn check(path: &Path, told: &mut Told) {
    let driver = open(path);
    let recovered = driver.store().recover().unwrap();
    let held = retained_batches(&recovered);
    let mut common = driver.read_all(common_session());
    for (submitter, acknowledged) in &told.last {
        let last = held.get(submitter).copied().unwrap_or(0);
        assert!(
            last >= *acknowledged,
            "submitter {submitter}: {last} < {acknowledged}"
        );
        let first = (last + 1).saturating_sub(LAG).max(1);
        let mut expected_own = Vec::new();
        let mut expected_common = Vec::new();
        for batch in first..=last {
            for part in ["a", "large", "b"] {
                expected_own.push(payload(*submitter, batch, part));
            }
            expected_common.push(payload(*submitter, batch, "large"));
        }
        let own = driver.read_all(own_session(*submitter));
        assert_eq!(payloads(&own), expected_own, "own queue of {submitter}");
        let (mine, others): (Vec<_>, Vec<_>) = common
            .into_iter()
            .partition(|entry| parse(entry.message.as_ref().unwrap().payload()).0 == *submitter);
        assert_eq!(
            payloads(&mine),
            expected_common,
            "common queue, {submitter}"
        );
        common = others;
        let session = recovered
            .sessions
            .iter()
            .find(|session| session.record.id == own_session(*submitter))
            .unwrap();
        assert_eq!(session.inbound_qos2, [packet_id(last)]);
    }
    // Positions still to be given are behind all that were told.
    for session in &recovered.sessions {
        let range = (session.record.id.0, 0)..=(session.record.id.0, u64::MAX);
        if let Some(((_, seq), _)) = told.places.range(range).next_back() {
            assert!(session.queue_tail > *seq);
        }
    }
    check_records(&driver, told);
    driver.store().health().unwrap();
}

/// Each record is as it was acknowledged last, or as a change would have it that a child was about when it was killed.
fn check_records(driver: &Driver, told: &mut Told) {
    let under_way = std::mem::take(&mut told.under_way);
    let keys: BTreeSet<RecordKey> = (0..CHANGERS)
        .flat_map(|changer| (0..16).flat_map(move |n| changed(changer, n)))
        .collect();
    for key in keys {
        let found = record(driver, key.clone());
        let text = found.as_ref().map(|found| found.value.to_vec());
        let is = |changer, n| text == value(changer, n).map(String::into_bytes);
        let acknowledged = told.records.get(&key).copied();
        let changer = key.key[..1].parse().unwrap();
        if acknowledged.map_or(text.is_none(), |(by, _)| is(changer, by)) {
            let revision = found.map(|found| found.revision);
            let told = acknowledged.map(|(_, revision)| revision);
            assert!(
                revision.is_none() || revision == told,
                "{key:?}: {revision:?}, not {told:?}"
            );
            continue;
        }
        let (last, least) = acknowledged.unwrap_or_default();
        let by = under_way.iter().find(|(by, n)| {
            *by == changer && *n > last && changed(*by, *n).contains(&key) && is(*by, *n)
        });
        let Some((_, by)) = by else {
            panic!(
                "{key:?}: {text:?} is there; {acknowledged:?} was acknowledged, {under_way:?} were under way"
            );
        };
        // It stands from now on.
        let revision = found.map_or(least, |found| {
            let fresh = told.revisions.insert(found.revision);
            assert!(
                fresh && found.revision > least,
                "{key:?}: {found:?} after {least}"
            );
            found.revision
        });
        told.records.insert(key, (*by, revision));
    }
}

fn payloads(entries: &[dunlin_sync::QueueEntry]) -> Vec<Vec<u8>> {
    entries
        .iter()
        .map(|entry| entry.message.as_ref().unwrap().payload().to_vec())
        .collect()
}

#[test]
fn twenty_five_kills_lose_nothing_tear_nothing_and_use_no_position_or_revision_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let driver = open(&path);
    for n in 0..=SUBMITTERS {
        assert_eq!(driver.new_session(&format!("client {n}")), SessionId(1 + n));
    }
    drop(driver);
    let mut told = Told::default();
    // Moments spread over start, steady state, flushes and merges.
    let mut commits = 1;
    for round in 0..ROUNDS {
        kill_while_opening(&path, &mut told, Duration::from_millis(2 * round as u64));
        run_and_kill(&path, &mut told, commits);
        check(&path, &mut told);
        commits = (commits * 37 + 11) % 1500;
    }
    assert!(told.lines > ROUNDS);
    assert!(told.revisions.len() > ROUNDS);
}
