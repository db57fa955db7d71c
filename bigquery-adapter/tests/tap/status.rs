//! `bigquery-adapter status` shows the whole tap, whoever asks.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Setup, wait_for};
use crate::world::World;

fn ask(setup: &Setup, arguments: &[&str]) -> (bool, String) {
    run(setup, &[&["status"], arguments].concat())
}

fn run(setup: &Setup, arguments: &[&str]) -> (bool, String) {
    let mut command = setup.command();
    command.args(["--log-level", "off"]).args(arguments);
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn as_json(setup: &Setup) -> Value {
    let (success, text) = ask(setup, &["--json"]);
    assert!(success, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_status_shows_all_adapters_and_how_far_they_are() {
    let mut world = World::start();
    let setups = [world.adapter(), world.adapter()];
    let (success, text) = ask(&setups[0], &[]);
    assert!(
        !success && text.contains("has no tap called \"warehouse\""),
        "{text}"
    );
    let running = [setups[0].start_ready(), setups[1].start_ready()];
    wait_for("three partitions each", || {
        let has = |setup: &Setup| setup.metric("dunlin_adapter_tap_partitions") == Some(3);
        setups.iter().all(has).then_some(())
    });
    world.fake.state().down = true;
    for _ in 0..3 {
        world.publish(&["-i", "c", "-q", "1", "-t", "a", "-m", "x"]);
    }
    // One that runs nowhere sees the same as those that run.
    let elsewhere = world.adapter();
    for setup in [&setups[0], &setups[1], &elsewhere] {
        let status = as_json(setup);
        let tap = &status["tap"];
        assert_eq!(tap["name"], "warehouse");
        let adapters = tap["adapters"].as_array().unwrap();
        assert_eq!(adapters.len(), 2, "{tap}");
        let partitions = tap["partitions"].as_array().unwrap();
        assert_eq!(partitions.len(), 6);
        for adapter in adapters {
            let theirs = partitions.iter().filter(|of| of["adapter"] == *adapter);
            assert_eq!(theirs.count(), 3, "{tap}");
        }
        let sum = |field: &str| -> u64 {
            partitions
                .iter()
                .map(|of| of[field].as_u64().unwrap())
                .sum()
        };
        assert_eq!(sum("lag_messages"), 3, "{tap}");
        assert!(sum("lag_bytes") > 0 && sum("epoch") >= 6, "{tap}");
        for partition in partitions {
            let number = |field: &str| partition[field].as_u64().unwrap();
            assert_eq!(
                number("tail") - number("acknowledged"),
                number("lag_messages")
            );
            let behind = partition["lag_seconds"].as_f64().unwrap();
            assert_eq!(behind > 0.0, number("lag_messages") > 0, "{partition}");
        }
    }
    assert_eq!(run(&setups[0], &["health"]), (true, "ready\n".to_owned()));
    let local = as_json(&setups[1])["adapter"].clone();
    assert_eq!(local["metrics"]["tap_partitions"], 3.0);
    assert_eq!(as_json(&elsewhere)["adapter"], Value::Null);
    let (success, text) = ask(&elsewhere, &[]);
    assert!(success, "{text}");
    assert!(
        text.starts_with("tap warehouse: 6 partitions, 2 adapters, filters # $tenant/+/#\n"),
        "{text}"
    );
    assert!(text.contains("no adapter answers at 127.0.0.1:"), "{text}");
    world.fake.state().down = false;
    wait_for("everything to be stored", || {
        let status = as_json(&elsewhere);
        let partitions = status["tap"]["partitions"].as_array()?.clone();
        partitions
            .iter()
            .all(|of| of["lag_messages"] == 0)
            .then_some(())
    });
    for adapter in running {
        assert!(adapter.terminate().success());
    }
    let status = as_json(&elsewhere);
    assert_eq!(status["tap"]["adapters"].as_array().unwrap().len(), 0);
    world.kill_redis();
    let (success, text) = ask(&elsewhere, &[]);
    assert!(!success && text.contains("does not answer"), "{text}");
    world.start_redis();
}
