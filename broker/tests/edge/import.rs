//! Thousands of devices by the command line, into a broker that keeps them on its disk.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{broker, run};
use crate::rig::LIMIT;

const DEVICES: usize = 10_000;
const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAp3mkcKcSKtkfDgiVpMunT99h2Jl\n\
    h/40lvkG4opF6hdl/T/ttzx0N+uKzplEushuZK7pYuMVHR3Ku17Wflg+fg==\n\
    -----END PUBLIC KEY-----\n";

/// A broker with an administration, and its operator.
struct Place {
    folder: TempDir,
    broker: Option<Child>,
    url: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Place {
    fn new() -> Self {
        let mut place = Self {
            folder: tempfile::tempdir().unwrap(),
            broker: None,
            url: String::new(),
        };
        let made = run(broker()
            .arg("token")
            .arg(place.path("tokens"))
            .args(["operator", "--write"]));
        fs::write(place.path("token"), made.stdout).unwrap();
        place.start();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        let (log, tokens) = (self.path("log"), self.path("tokens"));
        let mut command = broker();
        command
            .args(["--no-ops", "--listen", "127.0.0.1:0", "--store"])
            .arg(self.path("store"))
            .args(["--set", "admin.listen=127.0.0.1:0", "--set"])
            .arg(format!("admin.tokens_file={}", tokens.display()))
            .stderr(fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + LIMIT;
        let said = loop {
            let said = fs::read_to_string(&log).unwrap();
            if said.contains("\"message\":\"ready\"") {
                break said;
            }
            assert!(Instant::now() < end, "{said}");
            assert!(child.try_wait().unwrap().is_none(), "{said}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let mut lines = said.lines();
        let line = lines.find(|line| line.contains("\"administration\""));
        let (_, rest) = line.unwrap().split_once("127.0.0.1:").unwrap();
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        self.url = format!("http://127.0.0.1:{port}");
        self.broker = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            broker.kill().unwrap();
            broker.wait().unwrap();
        }
    }

    fn devices(&self, arguments: &[&str]) -> Output {
        let mut command = broker();
        command
            .args(["devices", "--url", &self.url, "--token-file"])
            .arg(self.path("token"))
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        run(&mut command)
    }

    /// What an import says of itself, and how it ends.
    fn import(&self, file: &str) -> (String, Option<i32>) {
        let output = self.devices(&["import", file]);
        let said = String::from_utf8(output.stdout).unwrap();
        (said.trim_end().to_owned(), output.status.code())
    }
}

fn line(n: usize) -> String {
    json!({
        "id": format!("pump-{n:05}"),
        "credentials": [{ "public_key": KEY }],
        "attributes": { "site": format!("plant {}", n % 7) },
    })
    .to_string()
}

#[test]
fn ten_thousand_devices_are_imported_survive_a_kill_and_come_out_again() {
    let mut place = Place::new();
    let mut lines: Vec<String> = (0..DEVICES).map(line).collect();
    fs::write(place.path("devices.ndjson"), lines.join("\n")).unwrap();
    // Two that are no devices, in the middle of a part.
    lines[1_500] = "{\"id\": \"no spaces\"}".to_owned();
    lines[7_777] = "{".to_owned();
    fs::write(place.path("faulty.ndjson"), lines.join("\n")).unwrap();

    let (said, code) = place.import("faulty.ndjson");
    assert_eq!(said, "9998 created, 0 replaced, 0 unchanged, 2 refused");
    assert_eq!(code, Some(6));
    let rejected = fs::read_to_string(place.path("rejected.ndjson")).unwrap();
    let numbers: Vec<Value> = rejected
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].clone())
        .collect();
    assert_eq!(numbers, [1_501, 7_778]);

    // What was answered is on the disk.
    place.kill();
    place.start();
    let (said, code) = place.import("devices.ndjson");
    assert_eq!(said, "2 created, 0 replaced, 9998 unchanged, 0 refused");
    assert_eq!(code, Some(0));

    let exported = place.devices(&["export"]);
    assert!(exported.status.success(), "{exported:?}");
    fs::write(place.path("exported.ndjson"), &exported.stdout).unwrap();
    let exported = String::from_utf8(exported.stdout).unwrap();
    assert_eq!(exported.lines().count(), DEVICES);
    let mut ids: Vec<String> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].to_string())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), DEVICES);
    // What comes out can go in again, here and elsewhere.
    let (said, _) = place.import("exported.ndjson");
    assert_eq!(said, "0 created, 0 replaced, 10000 unchanged, 0 refused");
    let elsewhere = Place::new();
    fs::copy(place.path("exported.ndjson"), elsewhere.path("in.ndjson")).unwrap();
    let (said, _) = elsewhere.import("in.ndjson");
    assert_eq!(said, "10000 created, 0 replaced, 0 unchanged, 0 refused");
}
