//! A store that an earlier version has written is opened by this one, whole.
//!
//! `earlier/before-records` was written by the version before there were records, by [`fill`] as it stands here, and closed. A store that
//! is filled now must hold the same. It is kept as it is: the same lies on the disks of others.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dunlin_sync::records::{Record, RecordKey, RecordPut, Table};
use dunlin_sync::testing::{Driver, samples};
use dunlin_sync::{EmbeddedOptions, EmbeddedStore, Op, SessionId, StoreError, SubscriptionRecord};

/// Sessions of [`fill`].
const SESSIONS: u64 = 3;
/// Payload that is stored apart from the queues.
const LARGE: usize = 1500;

/// Small tables, so that there are some on disk besides the journal.
fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        write_buffer_bytes: 8 << 10,
        ..EmbeddedOptions::default()
    }
}

fn open(path: &Path) -> Result<Driver, StoreError> {
    Ok(Driver::new(Arc::new(EmbeddedStore::open(
        path,
        &options(),
    )?)))
}

/// Something of each kind that a store knew before it knew records, some of it changed and removed again. Opens the store twice.
fn fill(path: &Path) {
    let driver = open(path).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|client| driver.new_session(client));
    let mut left = samples::session(c, "c");
    left.disconnected_at = Some(1_750_000_000_000);
    left.epoch = 7;
    let named = SubscriptionRecord {
        identifier: Some(268_435_455),
        ..samples::subscription("$share/group/plant/+/#", 0x2d)
    };
    driver.commit(vec![
        Op::PutSession(left),
        Op::PutSubscription(a, named),
        Op::PutSubscription(a, samples::subscription("gone", 1)),
        Op::PutSubscription(b, samples::subscription("b/+", 2)),
        Op::DeleteSubscription(a, "gone".into()),
        Op::PutInboundQos2 {
            session: a,
            packet_id: 1,
            count: 0,
        },
        Op::PutInboundQos2 {
            session: a,
            packet_id: 65_535,
            count: 1,
        },
        Op::DeleteInboundQos2 {
            session: a,
            packet_id: 1,
        },
        Op::PutRetained(samples::full_message("r/full", b"kept")),
        Op::PutRetained(samples::message_on("r/gone", b"removed")),
        Op::DeleteRetained("r/gone".into()),
        Op::PutWill(samples::will("a", Some(a))),
        Op::PutWill(samples::will("nobody", None)),
    ]);
    for n in 0..8 {
        let large = samples::message_on("large", &[n; LARGE]);
        driver.commit(vec![
            samples::enqueue(a, &format!("small {n}")),
            samples::enqueue_message(a, Arc::clone(&large)),
            samples::enqueue_message(b, large),
            Op::Dequeue {
                session: a,
                seq: u64::from(n) * 2,
            },
            Op::PutRetained(samples::message_on("r/often", &[n; 100])),
        ]);
    }
    driver.store().close().unwrap();
    drop(driver);
    let driver = open(path).unwrap();
    driver.store().recover().unwrap();
    driver.commit(vec![
        Op::Enqueue {
            session: c,
            delivery: samples::full_delivery(),
            message: samples::full_message("plant/press", b"full"),
            once: None,
        },
        samples::enqueue(c, "released"),
        Op::Release { session: c, seq: 1 },
        Op::DeleteWill {
            client_id: Arc::from("nobody"),
        },
    ]);
    driver.store().close().unwrap();
}

/// All that a store has, in words.
fn content(driver: &Driver) -> String {
    let mut recovered = driver.store().recover().unwrap();
    recovered.sessions.sort_by_key(|session| session.record.id);
    recovered
        .retained
        .sort_by_key(|message| message.topic().to_owned());
    recovered.wills.sort_by_key(|will| will.client_id.clone());
    let queues: Vec<_> = (1..=SESSIONS)
        .map(|session| driver.read_all(SessionId(session)))
        .collect();
    format!("{recovered:#?}\n{queues:#?}")
}

/// A copy of what is kept, to be opened.
fn earlier(into: &Path) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/earlier/before-records");
    copy(&kept, into);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn ban(key: &str) -> RecordKey {
    RecordKey::new(Table::Ban, key)
}

fn put(driver: &Driver, put: RecordPut) -> u64 {
    let outcomes = driver.block_on(driver.store().records().put(vec![put]));
    outcomes.unwrap()[0].revision().unwrap()
}

fn get(driver: &Driver, key: &str) -> Option<Record> {
    let got = driver.block_on(driver.store().records().get(vec![ban(key)]));
    got.unwrap().remove(0)
}

#[test]
fn a_store_from_before_there_were_records_is_opened_whole_and_takes_records() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    earlier(&old);
    assert!(
        !old.join("data/keyspaces/6").exists(),
        "what is kept has a table for records"
    );
    fill(&new);
    let expected = content(&open(&new).unwrap());
    let driver = open(&old).unwrap();
    let found = content(&driver);
    assert!(expected.contains("plant/press") && expected.contains("large\\x07"));
    assert_eq!(found, expected);
    // It goes on where it was, and has records as any other.
    let first = put(&driver, RecordPut::set(ban("x"), "1"));
    assert_eq!(get(&driver, "x").map(|record| record.revision), Some(first));
    assert_eq!(driver.enqueue(SessionId(3), "more"), 2);
    driver.store().close().unwrap();
    drop(driver);
    let driver = open(&old).unwrap();
    driver.store().recover().unwrap();
    assert_eq!(get(&driver, "x").map(|record| record.revision), Some(first));
    assert!(put(&driver, RecordPut::set(ban("x"), "2")) > first);
    assert!(driver.new_session("d") > SessionId(SESSIONS));
}

/// The engine makes a table's folder, then its list, then its name; it passes over the number of a folder without a name.
#[test]
fn an_upgrade_that_was_killed_at_any_step_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    earlier(&whole);
    let expected = content(&open(&whole).unwrap());
    for step in ["folder", "list", "another number"] {
        let path = directory.path().join(step);
        earlier(&path);
        let folder = path.join("data/keyspaces/6");
        fs::create_dir_all(folder.join("tables")).unwrap();
        if step == "list" {
            copy(&whole.join("data/keyspaces/6"), &folder);
        }
        if step == "another number" {
            let database = fjall::Database::builder(path.join("data")).open().unwrap();
            let records = database.keyspace("records", fjall::KeyspaceCreateOptions::default);
            assert_eq!(records.unwrap().id(), 7);
        }
        for revisions in [1, 2] {
            let driver = open(&path).unwrap_or_else(|error| panic!("{step}: {error}"));
            if revisions == 1 {
                assert_eq!(content(&driver), expected, "{step}");
            }
            put(&driver, RecordPut::set(ban("x"), format!("{revisions}")));
            driver.store().close().unwrap();
        }
        assert!(folder.join("current").exists(), "{step}");
    }
}

#[test]
fn a_store_of_a_later_format_is_refused_in_words_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("old");
    earlier(&path);
    let marker = path.join("dunlin-store.toml");
    let text = fs::read_to_string(&marker).unwrap();
    assert!(text.contains("format = 1"), "{text}");
    let later = text.replace("format = 1", "format = 2");
    fs::write(&marker, &later).unwrap();
    let error = open(&path).err().unwrap();
    assert_eq!(error.code(), "DUN-1006");
    let said = error.to_string();
    for words in ["format 2", "format 1", path.to_str().unwrap()] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(fs::read_to_string(&marker).unwrap(), later);
    assert!(!path.join("data/keyspaces/6").exists());
}

/// Writes what is kept beside this file, with an earlier version.
#[test]
#[ignore = "writes what is kept"]
fn write_earlier() {
    let Ok(path) = std::env::var("DUNLIN_EARLIER") else {
        return;
    };
    fill(Path::new(&path));
}
