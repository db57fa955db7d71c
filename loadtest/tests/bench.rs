//! The benchmarks against a real mosquitto, small: that the counts are right, not how fast anything is.

#![allow(clippy::unwrap_used)] // a test may panic

mod support;

use std::path::Path;
use std::process::Output;

use support::{Mosquitto, loadtest};

fn mosquitto_file() -> String {
    format!(
        "{}/scenarios/brokers/mosquitto.toml",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn saved(folder: &Path) -> serde_json::Value {
    let file = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .next()
        .expect("a run was saved")
        .path();
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn every_workload_loses_and_repeats_nothing_and_has_a_cost() {
    for protocol in ["3.1.1", "5"] {
        let folder = tempfile::TempDir::new().unwrap();
        let output = loadtest()
            .args([
                "bench",
                "--smoke",
                "--protocol",
                protocol,
                "--broker",
                &mosquitto_file(),
                "--save",
            ])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let report = saved(folder.path());
        let outcomes = report["outcomes"].as_array().unwrap();
        assert_eq!(outcomes.len(), 10, "three shapes at three QoS, and idle");
        for outcome in outcomes {
            let idle = outcome["workload"]["shape"] == "idle";
            assert!(idle || outcome["sent"].as_u64() > Some(0), "{outcome}");
            assert_eq!(
                (&outcome["lost"], &outcome["duplicated"]),
                (&0.into(), &0.into()),
                "{outcome}"
            );
            assert!(outcome["cpu_us"].as_f64() > Some(0.0), "{outcome}");
        }
        assert!(
            report["machine"]["date"]
                .as_str()
                .is_some_and(|date| date.ends_with('Z'))
        );
    }
}

#[test]
fn rates_and_single_messages_arrive_too() {
    let broker = Mosquitto::start("");
    let address = format!("127.0.0.1:{}", broker.port);
    for load in [&["--rate", "2000"][..], &["--one"]] {
        let folder = tempfile::TempDir::new().unwrap();
        let output = loadtest()
            .args([
                "bench",
                "--smoke",
                "--workload",
                "fan-in,pairs",
                "--connect",
                &address,
            ])
            .args(["--pid", &broker.pid().to_string()])
            .args(load)
            .arg("--save")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        for outcome in saved(folder.path())["outcomes"].as_array().unwrap() {
            assert!(outcome["sent"].as_u64() > Some(0), "{outcome}");
            assert_eq!(outcome["lost"], 0, "{outcome}");
        }
    }
}

#[test]
fn a_broker_that_drops_acknowledged_messages_is_found_out() {
    let folder = tempfile::TempDir::new().unwrap();
    let lossy = std::fs::read_to_string(mosquitto_file())
        .unwrap()
        .replace("max_queued_messages 0", "max_queued_messages 1")
        .replace("max_inflight_messages 0", "max_inflight_messages 1");
    let file = folder.path().join("lossy.toml");
    std::fs::write(&file, lossy).unwrap();
    let output = loadtest()
        .args([
            "bench",
            "--smoke",
            "--workload",
            "fan-in",
            "--qos",
            "1",
            "--broker",
        ])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("DUN-3014"), "{}", text(&output));
}

#[test]
fn a_port_where_nobody_listens_is_an_error_with_the_workload() {
    let address = format!("127.0.0.1:{}", support::free_port());
    let output = loadtest()
        .args([
            "bench",
            "--smoke",
            "--workload",
            "idle",
            "--connect",
            &address,
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("DUN-3012") && text(&output).contains("idle 50"),
        "{}",
        text(&output)
    );
}
