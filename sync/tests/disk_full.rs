//! A disk without space: submitters are told, reading goes on, nothing acknowledged is lost.
//!
//! The limit on the size of files stands in for a full disk: the engine reserves its journal as a
//! sparse file, so that only a write behind the limit fails, as on a full disk.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dunlin_sync::testing::{Driver, samples};
use dunlin_sync::{EmbeddedOptions, EmbeddedStore, Op, SessionId, StoreError};

fn open(path: &Path) -> Driver {
    // So large that the journal is not begun anew before the limit is reached.
    let options = EmbeddedOptions {
        write_buffer_bytes: 1 << 30,
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::open(path, &options);
    Driver::new(Arc::new(store.unwrap()))
}

/// Files of this process may not grow beyond this many KiB, the journal's reserved size and a bit.
const FILE_KIB: usize = 64 * 1024 + 512;

/// Writes until it cannot, in a process whose files are limited.
#[test]
#[ignore = "child process of another test"]
fn filler() {
    let Ok(path) = std::env::var("DUNLIN_FULL") else {
        return;
    };
    let driver = open(Path::new(&path));
    let id = driver.new_session("c");
    let body = vec![1; 1 << 20];
    let mut acknowledged = 0;
    let error = loop {
        let op = samples::enqueue_message(id, samples::message_on("t", &body));
        match driver.try_commit(vec![op]) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 200, "the limit is not in force");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert_eq!(error.code(), "DUN-1009");
    // Every later batch fails as well, and says the same.
    let later = driver.try_commit(vec![Op::PutRetained(samples::message("x"))]);
    assert!(
        matches!(later, Err(StoreError::DiskFull { .. })),
        "{later:?}"
    );
    let health = driver.store().health();
    assert!(
        matches!(health, Err(StoreError::DiskFull { .. })),
        "{health:?}"
    );
    assert_eq!(driver.read_all(id).len(), acknowledged);
    println!("acknowledged {acknowledged}");
}

#[test]
fn a_full_disk_fails_the_submitters_and_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let program = std::env::current_exe().unwrap();
    // SIGXFSZ ignored: the write then fails with EFBIG instead of ending the process.
    let script = format!("trap '' XFSZ; ulimit -f {FILE_KIB}; exec \"$0\" \"$@\"");
    let output = Command::new("bash")
        .args(["-c", &script])
        .arg(program)
        .args(["--exact", "filler", "--ignored", "--nocapture"])
        .env("DUNLIN_FULL", &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let acknowledged: u64 = said
        .lines()
        .find_map(|line| line.strip_prefix("acknowledged ")?.parse().ok())
        .unwrap();
    assert!(acknowledged > 10);
    // With space again, everything acknowledged is there, and the store works.
    let driver = open(&path);
    let recovered = driver.store().recover().unwrap();
    let found = &recovered.sessions[0];
    assert_eq!(found.record.id, SessionId(1));
    assert!(found.queue_len == acknowledged || found.queue_len == acknowledged + 1);
    assert_eq!(driver.read_all(SessionId(1)).len() as u64, found.queue_len);
    driver.commit(vec![Op::PutRetained(samples::message("x"))]);
}
