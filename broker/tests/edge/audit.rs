//! The audit log of a running broker.

use std::{
    io::{Read, Write},
    path::Path,
    time::Instant,
};

use dunlin_broker::auth::{password, users};
use serde_json::Value;

use crate::process::{CONNECT, Running, broker};
use crate::rig::LIMIT;

/// CONNECT of MQTT 3.1.1 with a name and a password.
pub fn connect(client: &str, name: &str, password: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04\xC2\x00\x3c".to_vec();
    for text in [client, name, password] {
        body.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut packet = vec![0x10, u8::try_from(body.len()).unwrap()];
    packet.extend(body);
    packet
}

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line| serde_json::from_str(line).unwrap();
    whole.lines().map(parse).collect()
}

pub fn wait_for(path: &Path, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let events = events(path);
        if let Some(found) = events.iter().find(|event| wanted(event)) {
            return found.clone();
        }
        assert!(Instant::now() < end, "not among {events:#?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn who_came_who_was_refused_and_why_is_written_down_and_no_password_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    users::put(
        &path("users"),
        "ann",
        &password::hash(b"right-one").unwrap(),
    )
    .unwrap();
    let audit = path("audit.jsonl");
    let mut command = broker();
    command
        .args(["--set", &format!("auth.users={}", path("users").display())])
        .args(["--set", &format!("audit.to={}", audit.display())])
        .args(["--set", "audit.events=all"]);
    let mut running = Running::start(command);
    for (packet, answer) in [
        (connect("one", "ann", "right-one"), [0x20, 2, 0, 0]),
        (connect("two", "ann", "wrong-one"), [0x20, 2, 0, 4]),
        (CONNECT.to_vec(), [0x20, 2, 0, 5]),
    ] {
        let mut stream = running.connect();
        stream.write_all(&packet).unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!(connack, answer);
    }
    let came = wait_for(&audit, |event| event["event"] == "connected");
    assert_eq!(came["client"], "one");
    assert_eq!(came["user"], "ann");
    assert_eq!(came["version"], "3.1.1");
    assert!(came["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let left = wait_for(&audit, |event| event["event"] == "disconnected");
    assert_eq!(left["client"], "one");
    let wrong = wait_for(&audit, |event| event["client"] == "two");
    assert_eq!(wrong["event"], "refused");
    assert_eq!(wrong["reason"], "0x86");
    assert_eq!(wrong["user"], "ann");
    let nameless = wait_for(&audit, |event| event["client"] == "c");
    assert_eq!(nameless["reason"], "0x87");

    // As logrotate does it.
    let moved = path("audit.jsonl.1");
    std::fs::rename(&audit, &moved).unwrap();
    running.signal("-HUP");
    running.wait_for("the configuration was read again");
    drop(running.connect().write_all(b"GET / HTTP/1.1\r\n\r\n"));
    wait_for(&audit, |event| event["why"] == "not MQTT");
    let all = std::fs::read_to_string(&moved).unwrap() + &std::fs::read_to_string(&audit).unwrap();
    for secret in ["right-one", "wrong-one"] {
        assert!(!all.contains(secret));
        assert!(!running.log().contains(secret));
    }
    running.signal("-TERM");
    assert_eq!(running.wait(), 0);
}
