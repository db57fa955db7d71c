//! Damages a store in every way that comes to mind: opening it must say so, or lose nothing.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dunlin_sync::records::{RecordKey, RecordPut, Table};
use dunlin_sync::testing::{Driver, samples};
use dunlin_sync::{EmbeddedOptions, EmbeddedStore, Op, SessionId, StoreError};

const SMALL_TABLES: u64 = 8 << 10;
/// Bits flipped in each file of the tables.
const PLACES_PER_FILE: usize = 8;
const LARGE_TABLES: u64 = 32 << 20;

fn try_open(path: &Path) -> Result<Driver, StoreError> {
    let store = EmbeddedStore::open(path, &EmbeddedOptions::default())?;
    Ok(Driver::new(Arc::new(store)))
}

/// A store with something of everything, closed.
struct Original {
    directory: tempfile::TempDir,
    content: Content,
}

/// All that a store holds, for comparison.
#[derive(Debug, PartialEq)]
struct Content {
    recovered: String,
    queues: Vec<Vec<(u64, String)>>,
    records: String,
}

impl Original {
    fn new(commits: usize, write_buffer_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            write_buffer_bytes,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(directory.path().join("store"), &options).unwrap();
        let driver = Driver::new(Arc::new(store));
        let one = driver.new_session("one");
        let two = driver.new_session("two");
        for n in 0..commits {
            driver.commit(vec![
                samples::enqueue(one, &format!("message {n}")),
                samples::enqueue_message(two, samples::message_on("t", &[n as u8; 300])),
                Op::PutRetained(samples::message_on(&format!("r/{n}"), b"retained")),
                Op::PutSubscription(one, samples::subscription(&format!("f/{n}"), 1)),
                Op::PutWill(samples::will(&format!("client {n}"), None)),
                Op::Dequeue {
                    session: two,
                    seq: n as u64 / 2,
                },
            ]);
        }
        for n in 0..commits {
            let device = RecordKey::new(Table::Device, format!("/device-{n}"));
            let put = RecordPut::set(device, vec![n as u8; 300]);
            let put = driver.store().records().put(vec![put]);
            driver.block_on(put).unwrap();
        }
        driver.store().close().unwrap();
        drop(driver);
        let this = Self {
            content: content(&try_open(&directory.path().join("store")).unwrap()),
            directory,
        };
        assert_eq!(this.content.queues[0].len(), commits);
        this
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A copy to be damaged.
    fn copy(&self) -> Copy {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(&self.path(), &directory.path().join("store"));
        Copy { directory }
    }

    /// Damage was noticed or has hit nothing.
    fn assert_noticed_or_harmless(&self, copy: &Copy, what: &str) -> Option<StoreError> {
        match try_open(&copy.path()) {
            Ok(driver) => {
                assert_eq!(content(&driver), self.content, "{what}: silently lost");
                None
            }
            Err(error) => {
                assert!(
                    ["DUN-1005", "DUN-1006", "DUN-1007", "DUN-1008"].contains(&error.code()),
                    "{what}: {error}"
                );
                Some(error)
            }
        }
    }
}

struct Copy {
    directory: tempfile::TempDir,
}

impl Copy {
    fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            // Journals are mostly reserved space: only what is used is worth copying.
            let bytes = fs::read(entry.path()).unwrap();
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |at| at + 1);
            fs::write(&target, &bytes[..used]).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&target).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
    }
}

fn content(driver: &Driver) -> Content {
    let recovered = driver.store().recover().unwrap();
    let scan = driver.store().records().scan(Table::Device, None, 4096);
    let records = driver.block_on(scan).unwrap();
    Content {
        recovered: format!("{recovered:?}"),
        queues: (1..=2).map(|id| driver.texts(SessionId(id))).collect(),
        records: format!("{records:?}"),
    }
}

/// Files below a directory, by name.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn used_len(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1)
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn journal(store: &Path) -> PathBuf {
    let mut journals = files(&store.join("data"));
    journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    assert_eq!(journals.len(), 1);
    journals.remove(0)
}

#[test]
fn a_flipped_bit_anywhere_in_the_journal_is_noticed_with_its_place() {
    let original = Original::new(12, LARGE_TABLES);
    let used = used_len(&journal(&original.path()));
    let mut noticed = 0;
    let mut harmless = Vec::new();
    let copy = original.copy();
    let path = journal(&copy.path());
    let good = fs::read(&path).unwrap()[..used].to_vec();
    // Every byte would take minutes; a stride prime to the form of the records meets all fields.
    for at in (0..used).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        match original.assert_noticed_or_harmless(&copy, &format!("bit in byte {at}")) {
            Some(error) => {
                assert!(error.to_string().contains("byte"), "{error}");
                noticed += 1;
            }
            None => harmless.push(at),
        }
    }
    // The engine's own number of the last batch may grow without consequence: 8 bytes.
    assert!(harmless.len() <= 2, "bytes {harmless:?} of {used}");
    assert!(noticed > 500, "{noticed}");
}

#[test]
fn a_journal_cut_off_anywhere_is_noticed() {
    let original = Original::new(12, LARGE_TABLES);
    let used = used_len(&journal(&original.path()));
    for part in 0..40 {
        let at = used * part / 40;
        let copy = original.copy();
        change(&journal(&copy.path()), |bytes| bytes.truncate(at));
        let error = original.assert_noticed_or_harmless(&copy, &format!("cut at {at}"));
        assert!(error.is_some(), "cut at byte {at} of {used}");
    }
}

#[test]
fn a_hole_in_the_journal_is_noticed() {
    let original = Original::new(60, LARGE_TABLES);
    let used = used_len(&journal(&original.path()));
    for at in (0..used - 512).step_by(1024) {
        let copy = original.copy();
        change(&journal(&copy.path()), |bytes| bytes[at..at + 512].fill(0));
        let error = original.assert_noticed_or_harmless(&copy, &format!("hole at {at}"));
        assert!(error.is_some(), "hole at byte {at} of {used}");
    }
}

#[test]
fn a_torn_commit_behind_the_acknowledged_ones_is_dropped() {
    let original = Original::new(12, LARGE_TABLES);
    let path = journal(&original.path());
    let bytes = fs::read(&path).unwrap();
    let used = used_len(&path);
    // The beginning of the first batch, as if it were the next one and had not been finished.
    for len in [1, 5, 13, 40, 100] {
        let copy = original.copy();
        change(&journal(&copy.path()), |torn| {
            torn.truncate(used);
            torn.extend_from_slice(&bytes[..len]);
        });
        let error = original.assert_noticed_or_harmless(&copy, "torn");
        assert!(error.is_none(), "{error:?}");
        // And what comes after it is kept.
        let driver = try_open(&copy.path()).unwrap();
        driver.commit(vec![Op::PutRetained(samples::message_on("late", b"x"))]);
        drop(driver);
        let recovered = try_open(&copy.path()).unwrap().store().recover().unwrap();
        assert!(
            recovered
                .retained
                .iter()
                .any(|message| message.topic() == "late")
        );
    }
}

#[test]
fn a_missing_or_damaged_count_of_commits_is_handled() {
    let original = Original::new(12, LARGE_TABLES);
    let copy = original.copy();
    change(&copy.path().join("acknowledged"), |bytes| bytes[30] ^= 4);
    let error = original
        .assert_noticed_or_harmless(&copy, "flipped")
        .unwrap();
    assert_eq!(error.code(), "DUN-1007");
    let copy = original.copy();
    change(&copy.path().join("acknowledged"), |bytes| {
        bytes.truncate(20)
    });
    let error = original.assert_noticed_or_harmless(&copy, "short").unwrap();
    assert_eq!(error.code(), "DUN-1007");
    let copy = original.copy();
    fs::remove_file(copy.path().join("acknowledged")).unwrap();
    let error = original.assert_noticed_or_harmless(&copy, "missing");
    assert!(error.is_none(), "nothing of the data is wrong: {error:?}");
}

#[test]
fn a_journal_from_an_older_copy_is_noticed() {
    let original = Original::new(12, LARGE_TABLES);
    let old = fs::read(journal(&original.path())).unwrap();
    let driver = try_open(&original.path()).unwrap();
    driver.commit(vec![Op::PutRetained(samples::message_on("late", b"x"))]);
    drop(driver);
    fs::write(journal(&original.path()), old).unwrap();
    let error = try_open(&original.path()).err().unwrap();
    assert_eq!(error.code(), "DUN-1008");
}

#[test]
fn any_missing_file_is_noticed() {
    for (commits, buffer) in [(12, LARGE_TABLES), (150, SMALL_TABLES)] {
        let original = Original::new(commits, buffer);
        for file in files(&original.path()) {
            let name = file.strip_prefix(original.path()).unwrap().to_owned();
            let copy = original.copy();
            fs::remove_file(copy.path().join(&name)).unwrap();
            original.assert_noticed_or_harmless(&copy, &format!("missing {}", name.display()));
        }
    }
}

#[test]
fn a_missing_table_directory_is_noticed() {
    let original = Original::new(12, LARGE_TABLES);
    for table in 0..=5 {
        let copy = original.copy();
        fs::remove_dir_all(copy.path().join("data/keyspaces").join(table.to_string())).unwrap();
        let error = original.assert_noticed_or_harmless(&copy, &format!("table {table}"));
        assert_eq!(error.unwrap().code(), "DUN-1007");
    }
}

#[test]
fn a_flipped_bit_in_any_file_of_the_tables_is_noticed_or_harmless() {
    let original = Original::new(150, SMALL_TABLES);
    let tables = original.path().join("data/keyspaces");
    let mut noticed = 0;
    for file in files(&tables) {
        let name = file.strip_prefix(original.path()).unwrap().to_owned();
        let used = used_len(&file);
        for part in 0..PLACES_PER_FILE {
            let at = (used * part / PLACES_PER_FILE + 3).min(used.saturating_sub(1));
            let copy = original.copy();
            change(&copy.path().join(&name), |bytes| {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 0b0001_0000;
                }
            });
            let what = format!("{} byte {at} of {used}", name.display());
            noticed += usize::from(original.assert_noticed_or_harmless(&copy, &what).is_some());
        }
    }
    assert!(noticed > 10, "{noticed}");
}

#[test]
fn a_table_file_cut_short_is_noticed() {
    let original = Original::new(150, SMALL_TABLES);
    let tables = original.path().join("data/keyspaces");
    for file in files(&tables) {
        let name = file.strip_prefix(original.path()).unwrap().to_owned();
        let copy = original.copy();
        change(&copy.path().join(&name), |bytes| {
            bytes.truncate(bytes.len() / 2)
        });
        original.assert_noticed_or_harmless(&copy, &format!("half of {}", name.display()));
    }
}
