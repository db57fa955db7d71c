//! The benchmarks against a real mosquitto, small: that the counts are right, not how fast anything is.

#![allow(clippy::unwrap_used)] // a test may panic

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use support::{Mosquitto, loadtest};

fn broker_file(name: &str) -> String {
    format!("{}/scenarios/brokers/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn mosquitto_file() -> String {
    broker_file("mosquitto.toml")
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn saved_file(folder: &Path, kind: &str) -> PathBuf {
    std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|of| of == kind))
        .expect("a run was saved")
}

fn saved(folder: &Path) -> serde_json::Value {
    let file = saved_file(folder, "json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// The report of a short run of everything against the broker of a file.
fn smoke(broker: &str, more: &[&str]) -> serde_json::Value {
    let folder = tempfile::TempDir::new().unwrap();
    let output = loadtest()
        .args(["bench", "--smoke", "--broker", broker, "--save"])
        .arg(folder.path())
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    saved(folder.path())
}

fn outcomes(report: &serde_json::Value) -> &[serde_json::Value] {
    let outcomes = report["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 10, "three shapes at three QoS, and idle");
    outcomes
}

fn assert_nothing_lost_or_repeated(outcome: &serde_json::Value) {
    assert_eq!(
        (&outcome["lost"], &outcome["duplicated"]),
        (&0.into(), &0.into()),
        "{outcome}"
    );
}

#[test]
fn every_workload_loses_and_repeats_nothing_and_has_a_cost() {
    for protocol in ["3.1.1", "5"] {
        let report = smoke(&broker_file("mosquitto.toml"), &["--protocol", protocol]);
        for outcome in outcomes(&report) {
            let idle = outcome["workload"]["shape"] == "idle";
            assert!(idle || outcome["sent"].as_u64() > Some(0), "{outcome}");
            assert_nothing_lost_or_repeated(outcome);
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
fn a_broker_that_wants_tls_is_measured_over_tls() {
    let cost_of_connecting = |report: &serde_json::Value| {
        let idle = |outcome: &&serde_json::Value| outcome["workload"]["shape"] == "idle";
        let idle = outcomes(report).iter().find(idle).unwrap();
        idle["cpu_us"].as_f64().unwrap_or_else(|| panic!("{idle}"))
    };
    let tls = smoke(&broker_file("mosquitto-tls.toml"), &[]);
    outcomes(&tls)
        .iter()
        .for_each(assert_nothing_lost_or_repeated);
    let plain = smoke(&broker_file("mosquitto.toml"), &[]);
    let (tls, plain) = (cost_of_connecting(&tls), cost_of_connecting(&plain));
    assert!(
        tls > 2.0 * plain,
        "a handshake is dear: {tls} and {plain} us"
    );
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
        assert!(output.status.success(), "{}", text_of(&output));
        for outcome in saved(folder.path())["outcomes"].as_array().unwrap() {
            assert!(outcome["sent"].as_u64() > Some(0), "{outcome}");
            assert_eq!(outcome["lost"], 0, "{outcome}");
        }
    }
}

#[test]
fn the_relay_passes_everything_on_once_and_in_order() {
    let folder = tempfile::TempDir::new().unwrap();
    let relay = format!(
        "relay={} relay --listen 127.0.0.1:{{port}}",
        env!("CARGO_BIN_EXE_loadtest")
    );
    for protocol in ["3.1.1", "5"] {
        let runs = folder.path().join(protocol);
        std::fs::create_dir(&runs).unwrap();
        let output = loadtest()
            .args([
                "bench",
                "--smoke",
                "--protocol",
                protocol,
                "--topics",
                "3",
                "--broker",
                &relay,
            ])
            .args(["--workload", "fan-in,fan-out,pairs,churn,idle", "--save"])
            .arg(&runs)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text_of(&output));
        let report = saved(&runs);
        let outcomes = report["outcomes"].as_array().unwrap();
        assert_eq!(outcomes.len(), 13);
        for outcome in outcomes {
            let idle = outcome["workload"]["shape"] == "idle";
            assert!(idle || outcome["delivered"].as_u64() > Some(0), "{outcome}");
            for nothing in ["lost", "duplicated", "reordered"] {
                assert_eq!(outcome[nothing], 0, "{outcome}");
            }
        }
    }
}

#[test]
fn a_saved_run_has_a_page_and_can_be_compared() {
    let runs = tempfile::TempDir::new().unwrap();
    let output = loadtest()
        .args([
            "bench",
            "--smoke",
            "--workload",
            "pairs",
            "--qos",
            "0,1",
            "--broker",
        ])
        .args([&mosquitto_file(), "--save"])
        .arg(runs.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    let run = saved_file(runs.path(), "json");
    let page = std::fs::read_to_string(saved_file(runs.path(), "html")).unwrap();
    assert!(page.contains("<svg") && page.contains("pairs 10 QoS 1"));
    let again = runs.path().join("again.html");
    let output = loadtest()
        .arg("report")
        .arg(&run)
        .arg("--output")
        .arg(&again)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(std::fs::read_to_string(again).unwrap(), page);

    let compare = |more: &[&str]| {
        loadtest()
            .arg("compare")
            .args([&run, &run])
            .args(more)
            .output()
            .unwrap()
    };
    let output = compare(&["--max-cpu", "1.01"]);
    let text = text_of(&output);
    assert!(
        output.status.success() && text.contains("pairs 10 QoS 1"),
        "{text}"
    );
    assert!(text.contains(" 1.00 "), "{text}");
    let output = compare(&["--brokers", "mosquitto,nobody"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text_of(&output).contains("nobody"), "{}", text_of(&output));
    let output = loadtest()
        .arg("report")
        .arg(mosquitto_file())
        .output()
        .unwrap();
    assert!(
        text_of(&output).contains("DUN-3002"),
        "{}",
        text_of(&output)
    );
}

#[test]
fn a_scenario_file_says_what_is_measured() {
    let folder = tempfile::TempDir::new().unwrap();
    let runs = tempfile::TempDir::new().unwrap();
    std::fs::copy(mosquitto_file(), folder.path().join("mosquitto.toml")).unwrap();
    let file = folder.path().join("scenario.toml");
    let text = "brokers = [\"mosquitto.toml\"]\nprotocol = \"5\"\n\
        [[workload]]\nkind = \"retain-store\"\nclients = 120\nqos = [0, 1, 2]\n\
        [[workload]]\nkind = \"retain-read\"\nclients = 120\nqos = [0, 1]\n\
        [[workload]]\nkind = \"churn\"\nclients = 4\nqos = 1\n\
        [[workload]]\nkind = \"churn\"\nclients = 4\nrate = 200\n\
        [[workload]]\nkind = \"fan-in\"\nclients = 3\nqos = 1\npayload = [20, 5000]\ntopics = 7\nlevels = 6\n\
        [[workload]]\nkind = \"subscriptions\"\nclients = 300\nfilters = [\"plain\", \"plus\", \"hash\", \"shared\"]\n\
        [[workload]]\nkind = \"sessions\"\nclients = 150\n\
        [[workload]]\nkind = \"queue\"\nclients = 150\nqos = [1, 2]\n\
        [[workload]]\nkind = \"pairs\"\nclients = 2\nqos = 1\nstanding = 200\nfilters = \"hash\"\n\
        [[workload]]\nkind = \"pairs\"\nclients = 2\nrate = 500\ndeaf = 2\nslow = 3\n";
    std::fs::write(&file, text).unwrap();
    let output = loadtest()
        .args(["bench", "--smoke", "--scenario"])
        .arg(&file)
        .arg("--save")
        .arg(runs.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    let report = saved(runs.path());
    assert_eq!(report["mqtt"], "5.0");
    let outcomes = report["outcomes"].as_array().unwrap();
    let numbers: Vec<_> = outcomes
        .iter()
        .map(|one| {
            let of = |key: &str| one[key].as_u64().unwrap();
            assert_eq!((of("lost"), of("duplicated")), (0, 0), "{one}");
            assert!(one["cpu_us"].as_f64() > Some(0.0), "{one}");
            of("sent")
        })
        .collect();
    // Five readers, one after the other; the rest goes on for as long as it is measured.
    assert_eq!(numbers.get(..5), Some(&[120, 120, 120, 600, 600][..]));
    assert!(numbers.len() == 18 && numbers.iter().all(|sent| *sent > 0));
    assert_eq!(
        numbers.get(9..16),
        Some(&[300, 300, 300, 300, 150, 150, 150][..])
    );
    // One of QoS 1 or 2 that is stored is acknowledged, a visit has an end.
    assert!(outcomes[1]["ack_latency"]["count"] == 120 && outcomes[0]["ack_latency"]["count"] == 0);
    assert!(outcomes[5]["latency_curve"].as_array().unwrap().len() > 3);

    let asked = "[[workload]]\nkind = \"pairs\"\nclients = 3\n\
        goals = [{ figure = \"per-second\", broker = \"mosquitto\", least = 1 }, \
        { figure = \"cpu\", broker = \"mosquitto\", most = 0.000001 }]\n";
    std::fs::write(&file, asked).unwrap();
    for (more, code) in [(&[][..], 0), (&["--check"], 1)] {
        let output = loadtest()
            .args([
                "bench",
                "--smoke",
                "--broker",
                &mosquitto_file(),
                "--scenario",
            ])
            .arg(&file)
            .args(more)
            .output()
            .unwrap();
        let text = text_of(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(
            text.contains("1 of 2 are met") && text.contains("NOT MET"),
            "{text}"
        );
        assert_eq!(text.contains("DUN-3015"), code == 1, "{text}");
    }

    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, "[[workload]]\nkind = \"fan-in\"\nclient = 3\n").unwrap();
    let output = loadtest()
        .args(["bench", "--scenario"])
        .arg(&wrong)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text_of(&output).contains("client"), "{}", text_of(&output));
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
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    assert!(
        text_of(&output).contains("DUN-3014"),
        "{}",
        text_of(&output)
    );
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
        text_of(&output).contains("DUN-3012") && text_of(&output).contains("idle 50"),
        "{}",
        text_of(&output)
    );
}

/// A system of several processes: a mosquitto that serves `first`, one that serves `second`, and a Redis that
/// nobody uses.
fn system(folder: &Path, first: &str, second: &str) -> PathBuf {
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
    assert!(output.status.success(), "{}", text_of(&output));
    let outcome = &saved(runs.path())["outcomes"][0];
    let cost = |role: usize| outcome["roles"][role]["cpu_us"].as_f64().unwrap();
    assert_eq!(outcome["roles"][0]["role"], "redis");
    assert_eq!(outcome["roles"][1]["role"], "first");
    assert!(cost(1) > 10.0 * cost(0), "the broker works: {outcome}");
    let sum = cost(0) + cost(1) + cost(2);
    assert!((outcome["cpu_us"].as_f64().unwrap() / sum - 1.0).abs() < 0.001);
    assert!(outcome["ack_latency"]["count"].as_u64() > Some(0));
    assert!(text_of(&output).contains("first "), "{}", text_of(&output));

    for beyond in ["first=0.000001", "all=0.000001", "nobody=1"] {
        let output = bench_of(&file, runs.path(), &["--max-cpu", beyond]);
        assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
        assert!(
            text_of(&output).contains("DUN-3015"),
            "{}",
            text_of(&output)
        );
    }
}

#[test]
fn publishers_and_subscribers_connect_to_the_processes_that_serve_them() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = system(folder.path(), r#""publishers""#, r#""subscribers""#);
    // These two do not know each other: nothing arrives.
    let output = bench_of(&file, folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    assert!(
        text_of(&output).contains("DUN-3014"),
        "{}",
        text_of(&output)
    );
}
