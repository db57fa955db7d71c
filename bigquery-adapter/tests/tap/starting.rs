//! What is wrong at the start is told with what to do, before anything is read.

use std::process::Output;

use serde_json::json;

use crate::support::{Setup, wait_for};
use crate::world::World;

/// Runs the adapter until it ends by itself.
fn run(setup: &Setup) -> Output {
    let mut command = setup.command();
    command.stderr(std::process::Stdio::piped());
    command.output().unwrap()
}

#[track_caller]
fn assert_ends(setup: &Setup, code: i32, words: &[&str]) {
    let output = run(setup);
    let text = String::from_utf8_lossy(&output.stderr).replace("\\\"", "\"");
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

#[test]
fn what_is_wrong_with_bigquery_is_told_with_what_to_do() {
    let world = World::start();
    let setup = world.adapter();
    let wrong = world.adapter().and(&["--set", "bigquery.dataset=nowhere"]);
    assert_ends(
        &wrong,
        6,
        &[
            "DUN-2061",
            "dataset p:nowhere was not found",
            "bq mk --dataset p:nowhere",
        ],
    );
    let wrong = world.adapter().and(&["--set", "bigquery.project=nobody"]);
    assert_ends(
        &wrong,
        6,
        &[
            "DUN-2061",
            "dataset nobody:d was not found",
            "check bigquery.project",
        ],
    );
    world.rest.state().fails = Some((403, "accessDenied", "Access Denied: Dataset p:d"));
    assert_ends(
        &setup,
        6,
        &[
            "DUN-2062",
            "roles/bigquery.dataEditor",
            "Access Denied: Dataset p:d",
        ],
    );
    world.rest.state().fails = Some((401, "authError", "Invalid Credentials"));
    assert_ends(&setup, 6, &["DUN-2062", "Invalid Credentials"]);
    world.rest.state().fails = Some((400, "invalid", "Invalid project ID"));
    assert_ends(
        &setup,
        6,
        &["DUN-2061", "Invalid project ID", "check bigquery.project"],
    );
    world.rest.state().fails = None;
    let schema = json!({"fields": [{"name": "received_at", "type": "TIMESTAMP"}, {"name": "topic", "type": "INTEGER"}]});
    let reference = json!({"projectId": "p", "datasetId": "d", "tableId": "messages"});
    let table = json!({"tableReference": reference, "schema": schema});
    world
        .rest
        .state()
        .tables
        .insert("messages".to_owned(), table);
    assert_ends(
        &setup,
        6,
        &[
            "DUN-2063",
            "table messages has column \"topic\" as NULLABLE Integer",
            "name the column otherwise",
        ],
    );
    world.rest.state().tables.clear();
    let wrong = world
        .adapter()
        .and(&["--set", "bigquery.credentials=/nowhere/key.json"]);
    assert_ends(&wrong, 6, &["DUN-2060", "/nowhere/key.json"]);
}

#[test]
fn while_bigquery_cannot_be_reached_the_start_waits() {
    let world = World::start();
    world.rest.state().fails = Some((503, "backendError", "try later"));
    let setup = world.adapter();
    let adapter = setup.start();
    wait_for("the adapter to say what it waits for", || {
        let (status, text) = setup.get("/health/ready")?;
        (status == 503 && text.contains("try later")).then_some(())
    });
    world.rest.state().fails = None;
    setup.wait_ready();
    assert!(adapter.terminate().success());
    setup.assert_log_has_only(&["DUN-2064"]);
}

#[test]
fn what_is_wrong_with_the_tap_is_told_with_what_to_do() {
    let world = World::start();
    assert!({
        let setup = world.adapter();
        let adapter = setup.start_ready();
        adapter.terminate().success()
    });
    let fewer = world.adapter().and(&["--set", "tap.partitions=2"]);
    assert_ends(
        &fewer,
        5,
        &[
            "DUN-2051",
            "it has 6 partitions and cannot have fewer",
            "check [tap]",
        ],
    );
    let nowhere = world
        .adapter()
        .and(&["--redis", "redis+sentinel://127.0.0.1:1/mymaster"]);
    let adapter = nowhere.start();
    wait_for("the adapter to say what it waits for", || {
        (nowhere.get("/health/ready")?.1.contains("Redis")).then_some(())
    });
    assert!(adapter.terminate().success());
    let settings = Setup::new("mqtt://127.0.0.1:1").and(&["--source", "tap", "--sink", "bigquery"]);
    assert_ends(
        &settings,
        2,
        &[
            "redis.url",
            "redis://127.0.0.1:6379",
            "bigquery.project",
            "bigquery.dataset",
        ],
    );
    let settings = Setup::new("mqtt://127.0.0.1:1").and(&[
        "--sink",
        "bigquery",
        "--project",
        "p",
        "--dataset",
        "d",
    ]);
    assert_ends(
        &settings,
        2,
        &["\"bigquery\" needs adapter.source = \"tap\""],
    );
    let settings = Setup::new("mqtt://127.0.0.1:1").and(&["--rules", "/nowhere/rules.toml"]);
    assert_ends(&settings, 2, &["/nowhere/rules.toml cannot be read"]);
}
