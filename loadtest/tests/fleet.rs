//! The fleet against a real mosquitto, seen by a foreign subscriber.

#![allow(clippy::unwrap_used)] // a test may panic

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Output, Stdio};

use support::{Collector, Mosquitto, free_port, loadtest, wait_for};

const ROWS: usize = 8759 + 8759 + 1461;

fn fleet(port: u16) -> Command {
    let mut command = loadtest();
    command.args([
        "fleet",
        "--quiet",
        "--devices",
        "100",
        "--port",
        &port.to_string(),
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// `station time value` of every row of both temperature files, read here without the crate's help.
fn rows_of_files() -> BTreeSet<(String, String, String)> {
    let seattle = include_str!("../data/seattle-temps.csv")
        .lines()
        .skip(1)
        .map(|line| {
            let (time, value) = line.split_once(',').unwrap();
            ("seattle", format!("{time}:00"), value)
        });
    let san_francisco = include_str!("../data/sf-temps.csv")
        .lines()
        .skip(1)
        .map(|line| {
            let (value, time) = line.split_once(',').unwrap();
            ("san-francisco", time.to_owned(), value)
        });
    seattle
        .chain(san_francisco)
        .map(|(station, time, value)| {
            let time = time.replace('/', "-").replace(' ', "T") + "Z";
            (station.to_owned(), time, value.to_owned())
        })
        .collect()
}

/// The same from what the subscriber saw. The number is cut out of the payload as text: `39.0` is not `39`.
fn rows_of_messages(messages: &BTreeMap<String, u32>) -> BTreeSet<(String, String, String)> {
    let cut = |text: &str, from: &str, to: char| {
        let (_, rest) = text.split_once(from)?;
        rest.split_once(to).map(|(value, _)| value.to_owned())
    };
    messages
        .keys()
        .filter_map(|line| {
            Some((
                cut(line, r#""station":""#, '"')?,
                cut(line, r#""time":""#, '"')?,
                cut(line, r#""temperature":"#, ',')?,
            ))
        })
        .collect()
}

fn assert_all_rows_arrived(collector: &Collector) {
    wait_for("all rows", || collector.len() >= ROWS);
    let messages = collector.messages();
    assert_eq!(messages.len(), ROWS);
    assert_eq!(rows_of_messages(&messages), rows_of_files());
}

#[test]
fn every_row_arrives_exactly_as_it_is_in_the_files() {
    for (qos, protocol) in [("0", "3.1.1"), ("1", "5"), ("2", "3.1.1"), ("2", "5")] {
        let broker = Mosquitto::start("");
        let collector = Collector::start(broker.port, "telemetry/#", 2);
        let arguments = [
            "--as-fast-as-possible",
            "--qos",
            qos,
            "--protocol",
            protocol,
        ];
        let output = fleet(broker.port).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert_all_rows_arrived(&collector);
        assert!(
            collector.messages().values().all(|count| *count == 1),
            "something arrived twice"
        );
    }
}

fn run_over_a_restart(qos: &str) -> (Collector, serde_json::Value) {
    let mut broker = Mosquitto::start("");
    let collector = Collector::start(broker.port, "telemetry/#", 2);
    let report = broker.folder().join("report.json");
    let arguments = ["--speedup", "8000000", "--qos", qos, "--json"];
    let running = fleet(broker.port)
        .args(arguments)
        .arg(&report)
        .spawn()
        .unwrap();
    wait_for("a part of the rows", || collector.len() > ROWS / 4);
    broker.restart();
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_all_rows_arrived(&collector);
    let report = std::fs::read(report).unwrap();
    (collector, serde_json::from_slice(&report).unwrap())
}

#[test]
fn a_broker_that_restarts_in_the_middle_loses_nothing_at_qos_1() {
    let (_, report) = run_over_a_restart("1");
    assert_eq!(report["messages"]["acknowledged"], ROWS);
    assert_eq!(report["messages"]["failed"], 0);
    assert!(report["reconnects"].as_u64() >= Some(100), "{report}");
    assert_eq!(report["sessions_lost"], 0);
    // The time without a broker is in the latencies: they are counted from when messages were due.
    assert!(report["latency"]["max_us"].as_f64() > report["latency"]["p50_us"].as_f64());
}

// That nothing is repeated is shown with a strict broker (tests/strict.rs): mosquitto 2.0.11 and its subscriber
// repeat a few QoS 2 messages over a restart.
#[test]
fn a_broker_that_restarts_in_the_middle_loses_nothing_at_qos_2() {
    let (_, report) = run_over_a_restart("2");
    assert_eq!(report["messages"]["acknowledged"], ROWS);
    assert_eq!(report["messages"]["failed"], 0);
}

#[test]
fn a_broker_that_goes_away_for_good_makes_the_run_fail_with_figures() {
    let broker = Mosquitto::start("");
    let collector = Collector::start(broker.port, "telemetry/#", 0);
    let arguments = [
        "--speedup",
        "8000000",
        "--give-up",
        "1",
        "--ack-timeout",
        "1",
    ];
    let running = fleet(broker.port).args(arguments).spawn().unwrap();
    wait_for("some rows", || collector.len() > 100);
    drop(broker);
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("DUN-3006"), "{}", text(&output));
    assert!(
        text(&output).contains(&format!("of {ROWS} messages were not acknowledged")),
        "{}",
        text(&output)
    );
}

#[test]
fn no_broker_is_said_with_its_address() {
    let port = free_port();
    let output = fleet(port).args(["--give-up", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains(&format!(
            "DUN-3003: no broker reachable at 127.0.0.1:{port}"
        )),
        "{}",
        text(&output)
    );
}

#[test]
fn a_wrong_password_is_said_and_the_right_one_lets_the_fleet_in() {
    let folder = tempfile::TempDir::new().unwrap();
    let passwords = folder.path().join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["fleet", "secret"])
        .status();
    assert!(made.expect("mosquitto_passwd is installed").success());
    let broker = Mosquitto::start(&format!(
        "allow_anonymous false\npassword_file {}",
        passwords.display()
    ));
    let run = |password: &str, protocol: &str| {
        let login = [
            "--user",
            "fleet",
            "--password",
            password,
            "--protocol",
            protocol,
        ];
        fleet(broker.port)
            .args(login)
            .arg("--as-fast-as-possible")
            .output()
            .unwrap()
    };
    for (protocol, reason) in [("5", "Not authorized"), ("3.1.1", "not authorized (5)")] {
        let output = run("wrong", protocol);
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output);
        assert!(said.contains("DUN-3004") && said.contains(reason), "{said}");
    }
    let output = run("secret", "5");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_fleet_connects_by_tls_with_a_certificate_of_its_own() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, content: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, "authority");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_file = file(
        "ca.pem",
        authority.self_signed(&authority_key).unwrap().pem(),
    );
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let make = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        (
            file(&format!("{name}.pem"), certificate),
            file(&format!("{name}.key"), key.serialize_pem()),
        )
    };
    let (server, server_key) = make("broker.test");
    let (client, client_key) = make("fleet.test");
    let port = free_port();
    let _broker = Mosquitto::start(&format!(
        "listener {port} 127.0.0.1\ncafile {authority_file}\ncertfile {server}\nkeyfile {server_key}\nrequire_certificate true"
    ));
    let run = |server_name: &str| {
        fleet(port)
            .args([
                "--as-fast-as-possible",
                "--give-up",
                "0",
                "--tls-ca",
                &authority_file,
                "--tls-server-name",
                server_name,
            ])
            .args(["--tls-cert", &client, "--tls-key", &client_key])
            .output()
            .unwrap()
    };
    let output = run("broker.test");
    assert!(output.status.success(), "{}", text(&output));
    let output = run("other.test");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("certificate"), "{}", text(&output));
}

#[test]
fn an_interrupt_ends_the_run_with_a_report() {
    let broker = Mosquitto::start("");
    let collector = Collector::start(broker.port, "telemetry/#", 1);
    let running: Child = fleet(broker.port)
        .args(["--speedup", "100000"])
        .spawn()
        .unwrap();
    wait_for("some rows", || collector.len() > 10);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&running),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("interrupted before its end"),
        "{}",
        text(&output)
    );
}
