//! What a user meets who opens the wrong thing: each case has its code and says what to do.
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected has to stop"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use dunlin_sync::testing::{Driver, samples};
use dunlin_sync::{EmbeddedOptions, EmbeddedStore, Op, Store, StoreError};

fn try_open(path: &Path) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(path, &EmbeddedOptions::default())
}

/// The refusal, with its text checked for the path.
fn refusal(path: &Path) -> StoreError {
    match try_open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => {
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
            error
        }
    }
}

#[test]
fn a_missing_directory_is_created_with_its_parents() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/store");
    try_open(&path).unwrap().close().unwrap();
    assert!(path.join("dunlin-store.toml").is_file());
    try_open(&path).unwrap();
}

#[test]
fn a_second_opening_in_the_same_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = try_open(directory.path()).unwrap();
    let error = refusal(directory.path());
    assert_eq!(error.code(), "DUN-1001");
}

#[test]
fn a_store_of_another_process_is_refused_with_its_pid_and_free_again_after_its_death() {
    let directory = tempfile::tempdir().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--ignored", "--nocapture"])
        .env("DUNLIN_HOLD", directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(holder.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("held") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut said, &mut line).unwrap() > 0);
    }
    let error = refusal(directory.path());
    assert_eq!(error.code(), "DUN-1001");
    assert!(
        error.to_string().contains(&format!("pid {}", holder.id())),
        "{error}"
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
    try_open(directory.path()).unwrap();
}

/// Holds a store open until it is killed.
#[test]
#[ignore = "child process of another test"]
fn holder() {
    let Ok(path) = std::env::var("DUNLIN_HOLD") else {
        return;
    };
    let _store = try_open(Path::new(&path)).unwrap();
    println!("held");
    // Ends with the parent, whose pipe it is.
    std::io::stdin().lines().for_each(drop);
}

#[test]
fn a_file_where_the_directory_should_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "x").unwrap();
    assert_eq!(refusal(&path).code(), "DUN-1002");
    assert_eq!(refusal(&path.join("store")).code(), "DUN-1002");
    assert_eq!(fs::read(&path).unwrap(), b"x");
}

#[test]
fn a_directory_without_permission_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(path.join("probe"), "x").is_ok() {
        // Root may write anywhere, but not into the kernel's own file system.
        fs::remove_file(path.join("probe")).unwrap();
        let refused = try_open(Path::new("/proc/dunlin-store")).err().unwrap();
        assert!(
            ["DUN-1003", "DUN-1004"].contains(&refused.code()),
            "{refused}"
        );
        return;
    }
    assert_eq!(refusal(&path).code(), "DUN-1003");
}

#[test]
fn a_directory_with_other_files_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), "x").unwrap();
    let error = refusal(directory.path());
    assert_eq!(error.code(), "DUN-1005");
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_fresh_mount_with_lost_and_found_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    try_open(directory.path()).unwrap();
}

#[test]
fn a_store_whose_marker_was_removed_is_not_taken_for_an_empty_directory() {
    let directory = tempfile::tempdir().unwrap();
    try_open(directory.path()).unwrap().close().unwrap();
    fs::remove_file(directory.path().join("dunlin-store.toml")).unwrap();
    let error = refusal(directory.path());
    assert_eq!(error.code(), "DUN-1005");
    assert!(error.to_string().contains("dunlin-store.toml"), "{error}");
}

#[test]
fn another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    try_open(directory.path()).unwrap().close().unwrap();
    let marker = directory.path().join("dunlin-store.toml");
    for (text, said) in [
        ("format = 2\n", "format 2"),
        ("# format = 1\n", "does not state"),
        ("", "does not state"),
        ("\u{0}\u{1}", "does not state"),
    ] {
        fs::write(&marker, text).unwrap();
        let error = refusal(directory.path());
        assert_eq!(error.code(), "DUN-1006");
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.to_string().contains("format 1"), "{error}");
    }
}

#[test]
fn an_interrupted_creation_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    try_open(root).unwrap().close().unwrap();
    // As after a crash before the data got their name.
    fs::rename(root.join("data"), root.join("data.new")).unwrap();
    fs::remove_file(root.join("acknowledged")).unwrap();
    fs::remove_file(root.join("data.new/version")).unwrap();
    let driver = Driver::new(Arc::new(try_open(root).unwrap()));
    assert_eq!(driver.enqueue(driver.new_session("c"), "x"), 0);
    assert!(!root.join("data.new").exists());
}

#[test]
fn a_missing_data_directory_is_not_created_anew() {
    let directory = tempfile::tempdir().unwrap();
    let driver = Driver::new(Arc::new(try_open(directory.path()).unwrap()));
    driver.commit(vec![Op::PutRetained(samples::message("x"))]);
    drop(driver);
    fs::remove_dir_all(directory.path().join("data")).unwrap();
    assert_eq!(refusal(directory.path()).code(), "DUN-1007");
    assert!(!directory.path().join("data").exists());
}

#[test]
fn every_code_is_different() {
    let path = Path::new("/x").to_path_buf();
    let reason = String::new();
    let errors = [
        StoreError::InUse {
            path: path.clone(),
            pid: None,
        },
        StoreError::NotADirectory { path: path.clone() },
        StoreError::PermissionDenied {
            action: "read",
            path: path.clone(),
        },
        StoreError::Io {
            action: "read",
            path: path.clone(),
            reason: reason.clone(),
        },
        StoreError::NotAStore {
            path: path.clone(),
            found: reason.clone(),
        },
        StoreError::UnknownFormat {
            path: path.clone(),
            found: reason.clone(),
            supported: 1,
        },
        StoreError::Damaged {
            place: reason.clone(),
            reason: reason.clone(),
        },
        StoreError::AcknowledgedLost {
            path: path.clone(),
            acknowledged: 2,
            found: 1,
            detail: reason.clone(),
        },
        StoreError::DiskFull { path: path.clone() },
        StoreError::WriteFailed {
            path,
            reason: reason.clone(),
        },
        StoreError::ReadFailed {
            reason: reason.clone(),
        },
        StoreError::Panicked {
            reason: reason.clone(),
        },
        StoreError::Closed,
        StoreError::InvalidOp { reason },
        StoreError::AlreadyRecovered,
    ];
    let codes: std::collections::BTreeSet<_> = errors.iter().map(StoreError::code).collect();
    assert_eq!(codes.len(), errors.len());
}
