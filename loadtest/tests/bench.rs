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

/// A system of several processes: a mosquitto that serves `first`, one that serves `second`, and a Redis that
/// nobody uses.
fn system(folder: &Path, first: &str, second: &str) -> std::path::PathBuf {
    let mosquitto = |name: &str, serves: &str| {
        format!(
            "[[process]]\nname = \"{name}\"\ncommand = \"/usr/sbin/mosquitto\"\nserves = [{serves}]\n\
             args = [\"-c\", \"{{dir}}/mosquitto.conf\"]\n[process.files]\n\"mosquitto.conf\" = \"\"\"\n\
             listener {{port}} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             # redis is at {{redis.port}}\n\"\"\"\n"
        )
    };
    let text = format!(
        "name = \"several\"\n[[process]]\nname = \"redis\"\ncommand = \"redis-server\"\n\
         args = [\"--bind\", \"127.0.0.1\", \"--port\", \"{{port}}\", \"--dir\", \"{{dir}}\", \"--save\", \"\"]\n{}{}",
        mosquitto("first", first),
        mosquitto("second", second),
    );
    let file = folder.join("system.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn bench_of(file: &Path, folder: &Path, more: &[&str]) -> Output {
    loadtest()
        .args(["bench", "--smoke", "--workload", "pairs", "--qos", "1"])
        .arg("--broker")
        .arg(file)
        .args(more)
        .arg("--save")
        .arg(folder)
        .output()
        .unwrap()
}

#[test]
fn the_cost_of_several_processes_is_told_by_role_and_held_to_limits() {
    let folder = tempfile::TempDir::new().unwrap();
    let runs = tempfile::TempDir::new().unwrap();
    let file = system(folder.path(), r#""publishers", "subscribers""#, "");
    let within = ["--persistent", "--max-cpu", "first=1e6,redis=1e5,all=1e6"];
    let output = bench_of(&file, runs.path(), &within);
    assert!(output.status.success(), "{}", text(&output));
    let outcome = &saved(runs.path())["outcomes"][0];
    let cost = |role: usize| outcome["roles"][role]["cpu_us"].as_f64().unwrap();
    assert_eq!(outcome["roles"][0]["role"], "redis");
    assert_eq!(outcome["roles"][1]["role"], "first");
    assert!(cost(1) > 10.0 * cost(0), "the broker works: {outcome}");
    let sum = cost(0) + cost(1) + cost(2);
    assert!((outcome["cpu_us"].as_f64().unwrap() / sum - 1.0).abs() < 0.001);
    assert!(outcome["ack_latency"]["count"].as_u64() > Some(0));
    assert!(text(&output).contains("first "), "{}", text(&output));

    for beyond in ["first=0.000001", "all=0.000001", "nobody=1"] {
        let output = bench_of(&file, runs.path(), &["--max-cpu", beyond]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("DUN-3015"), "{}", text(&output));
    }
}

#[test]
fn publishers_and_subscribers_connect_to_the_processes_that_serve_them() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = system(folder.path(), r#""publishers""#, r#""subscribers""#);
    // These two do not know each other: nothing arrives.
    let output = bench_of(&file, folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("DUN-3014"), "{}", text(&output));
}
