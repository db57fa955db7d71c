//! The process from outside: exit codes and messages for what goes wrong before anything is connected.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::process::{Command, Output, Stdio};

use support::{Setup, free_port, wait_for};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bigquery-adapter"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

#[test]
fn a_valid_configuration_is_checked_and_printed_without_running() {
    let checked = run(&["--check-config"]);
    assert_ends(&checked, 0, &[]);
    assert_eq!(
        String::from_utf8_lossy(&checked.stdout),
        "the configuration is valid\n"
    );
    let printed = run(&["--print-config", "--qos", "2"]);
    assert!(
        String::from_utf8_lossy(&printed.stdout)
            .contains("[mqtt]\nurl = \"mqtt://127.0.0.1:1883\"")
    );
    assert!(String::from_utf8_lossy(&printed.stdout).contains("qos = 2\n"));
}

#[test]
fn all_problems_of_a_configuration_are_told_with_exit_code_2() {
    let output = run(&[
        "--url",
        "nowhere",
        "--set",
        "parquet.rol_ms=5",
        "--config",
        "/nowhere/adapter.toml",
    ]);
    assert_ends(
        &output,
        2,
        &[
            "DUN-2001",
            "/nowhere/adapter.toml",
            "must begin with mqtt://",
            "did you mean parquet.roll_ms?",
        ],
    );
    assert_ends(&run(&["--no-such-flag"]), 2, &["--no-such-flag"]);
}

#[test]
fn an_address_in_use_is_named_with_exit_code_3() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let warehouse = dir.path().join("w").display().to_string();
    let output = run(&["--ops-listen", &address, "--warehouse", &warehouse]);
    assert_ends(
        &output,
        3,
        &["DUN-2002", &address, "choose another ops.listen"],
    );
}

#[test]
fn a_warehouse_in_use_or_unusable_is_named_with_exit_code_4() {
    let setup = Setup::new(&format!("mqtt://127.0.0.1:{}", free_port()));
    let adapter = setup.start();
    wait_for("the adapter to run", || setup.get("/health/live"));
    let warehouse = setup.warehouse().display().to_string();
    let output = run(&["--ops-listen", "off", "--warehouse", &warehouse]);
    assert_ends(
        &output,
        4,
        &[
            "DUN-2011",
            &warehouse,
            "another adapter is using this warehouse",
        ],
    );
    assert!(adapter.terminate().success());
    let file = setup
        .dir
        .path()
        .join("adapter.log/below")
        .display()
        .to_string();
    assert_ends(
        &run(&["--ops-listen", "off", "--warehouse", &file]),
        4,
        &["DUN-2010", &file, "check that the path is right"],
    );
}

#[test]
fn a_broker_that_is_not_there_is_a_warning_and_not_the_end() {
    let setup = Setup::new(&format!("mqtt://127.0.0.1:{}", free_port()));
    let adapter = setup.start();
    wait_for("two attempts", || {
        (setup.metric("dunlin_adapter_source_connect_failures_total")? >= 2).then_some(())
    });
    let (status, text) = setup.get("/health/ready").unwrap();
    assert_eq!(status, 503);
    assert!(
        text.starts_with("source: DUN-2030: no TCP connection: Connection refused"),
        "{text}"
    );
    assert_eq!(
        setup.get("/health/live").unwrap(),
        (200, "alive\n".to_owned())
    );
    // As a container's health check asks.
    let health = |what: &str| {
        let mut command = setup.command();
        command.args(["health", what]).stderr(Stdio::piped());
        command.output().unwrap()
    };
    assert_ends(
        &health("ready"),
        1,
        &["source: DUN-2030: no TCP connection"],
    );
    assert_ends(&health("live"), 0, &[]);
    assert!(adapter.terminate().success());
    assert_ends(&health("live"), 1, &["no adapter answers at 127.0.0.1:"]);
    setup.assert_log_has_only(&["DUN-2030"]);
}
