//! What goes wrong for somebody who tries the broker for the first time, and the words they get.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use crate::support::{
    broker::{executable, free_port},
    certs,
    foreign::{Outcome, run},
    *,
};

/// Runs the broker, which has to end by itself, with a configuration file in a folder of its own.
fn start_with(toml: &str, arguments: &[&str]) -> (Outcome, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("dunlin.toml");
    fs::write(
        &file,
        toml.replace("{dir}", &dir.path().display().to_string()),
    )
    .expect("the file can be written");
    let mut command = Command::new(executable());
    command
        .arg("--config")
        .arg(&file)
        .arg("--no-ops")
        .args(arguments);
    (run(&mut command), dir)
}

/// It has to have ended with `code`, and have said all of `words` on standard error.
#[track_caller]
fn said(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:#?}");
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let address = format!("127.0.0.1:{port}");
    let (outcome, dir) = start_with("[store]\npath = \"{dir}/store\"\n", &["--listen", &address]);
    said(&outcome, 3, &["DUN-0401", &address, "in use"]);
    assert!(
        !dir.path().join("store").exists(),
        "the store was touched before the port was had"
    );
}

#[test]
fn a_missing_certificate_file_is_named() {
    let (outcome, dir) = start_with(
        "[[listener]]\naddress = \"127.0.0.1:1\"\ntype = \"tls\"\n\
         tls = { certificate = \"{dir}/nowhere.pem\", key = \"{dir}/nowhere.key\" }\n",
        &["--store", "memory"],
    );
    let file = dir.path().join("nowhere.pem").display().to_string();
    said(&outcome, 2, &["DUN-0201", &file, "dunlin.toml:"]);
}

#[test]
fn a_certificate_that_is_none_and_a_key_of_another_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    certs::write(dir.path(), "client");
    let folder = dir.path().display().to_string();
    fs::write(dir.path().join("text.pem"), "no certificate").expect("the file can be written");
    let tls = |certificate: &str, key: &str| {
        let toml = format!(
            "[[listener]]\naddress = \"127.0.0.1:1\"\ntype = \"tls\"\n\
             tls = {{ certificate = \"{folder}/{certificate}\", key = \"{folder}/{key}\" }}\n"
        );
        start_with(&toml, &["--store", "memory"]).0
    };
    said(&tls("text.pem", "server.key"), 2, &["DUN-0202", "text.pem"]);
    said(&tls("server.pem", "client.key"), 2, &["DUN-0203"]);
}

#[test]
fn misspelt_keys_and_wrong_values_are_all_reported_at_once_with_their_lines() {
    let (outcome, _dir) = start_with(
        "[limits]\nmax_paket_size = 10\nreceive_maximum = 0\n\n[listner]\n\n[store]\nkind = \"embeded\"\n",
        &[],
    );
    said(
        &outcome,
        2,
        &[
            "dunlin.toml:2",
            "max_paket_size",
            "max_packet_size",
            "dunlin.toml:3",
            "receive_maximum",
            "dunlin.toml:5",
            "listner",
            "dunlin.toml:8",
            "DUN-0103",
            "DUN-0104",
        ],
    );
}

#[test]
fn a_file_that_is_not_toml_and_one_that_is_not_there_are_named() {
    let (outcome, _dir) = start_with("[limits\n", &[]);
    said(&outcome, 2, &["DUN-0102", "dunlin.toml:1"]);
    let missing = run(Command::new(executable()).args(["--config", "/nowhere/dunlin.toml"]));
    said(&missing, 2, &["DUN-0101", "/nowhere/dunlin.toml"]);
}

#[test]
fn an_unreadable_store_is_named() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let (outcome, dir) = start_with(
        "[store]\npath = \"{dir}/dunlin.toml\"\n",
        &["--listen", &listen],
    );
    let file = dir.path().join("dunlin.toml").display().to_string();
    said(&outcome, 4, &["DUN-10", &file]);
    let folder = tempfile::tempdir().expect("a directory");
    fs::write(folder.path().join("somebody-elses.txt"), "data").expect("the file can be written");
    let store = folder.path().display().to_string();
    let (outcome, _dir) = start_with("", &["--listen", &listen, "--store", &store]);
    said(&outcome, 4, &["DUN-10", &store]);
}

#[test]
fn a_store_that_another_broker_has_open_is_named() {
    let broker = Broker::start();
    // Once it answers, it has its store.
    Client::new(&broker, Version::V5, "first").disconnect();
    let store = broker.dir().join("store").display().to_string();
    let listen = format!("127.0.0.1:{}", free_port());
    let (outcome, _dir) = start_with("", &["--listen", &listen, "--store", &store]);
    said(&outcome, 4, &["DUN-1001", &store]);
    Client::new(&broker, Version::V5, "unharmed").expect_silence();
}

#[test]
fn a_listener_for_everybody_needs_a_word_about_who_may_connect() {
    let listen = format!("0.0.0.0:{}", free_port());
    let (outcome, _dir) = start_with("", &["--listen", &listen, "--store", "memory"]);
    said(&outcome, 2, &["DUN-0105", "anonymous", "users"]);
}

#[test]
fn a_users_file_that_is_missing_or_broken_is_named() {
    let (outcome, dir) = start_with("[auth]\nusers = \"{dir}/users\"\n", &["--store", "memory"]);
    let file = dir.path().join("users").display().to_string();
    said(&outcome, 2, &["DUN-0301", &file]);
    let users = dir.path().join("broken");
    fs::write(&users, "bird:secret-in-the-clear\n").expect("the file can be written");
    fs::set_permissions(&users, Permissions::from_mode(0o600)).expect("its permissions can be set");
    let (outcome, _dir) = start_with(
        &format!("[auth]\nusers = \"{}\"\n", users.display()),
        &["--store", "memory"],
    );
    said(&outcome, 2, &["DUN-0302", "broken:1"]);
}

#[test]
fn check_config_finds_the_same_and_starts_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("dunlin.toml");
    let check = |toml: &str| {
        fs::write(&file, toml).expect("the file can be written");
        run(Command::new(executable())
            .arg("check-config")
            .arg("--config")
            .arg(&file))
    };
    said(&check("[limits]\nmax_inflight = 10\n"), 0, &[]);
    said(
        &check("[limits]\nmax_inflite = 10\n"),
        2,
        &["max_inflite", "max_inflight"],
    );
    let printed = run(Command::new(executable())
        .arg("print-config")
        .arg("--set")
        .arg("limits.max_inflight=77"));
    said(&printed, 0, &["max_inflight = 77", "[limits]"]);
}

/// What comes back on a fresh connection after some bytes, until the broker closes.
fn exchange(port: u16, bytes: &[u8]) -> String {
    let mut stream =
        TcpStream::connect(("127.0.0.1", port)).expect("the broker accepts a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a read limit");
    stream.write_all(bytes).expect("the broker reads");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_web_browser_on_the_mqtt_port_is_told_where_it_is() {
    let broker = Broker::start();
    let request =
        "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n";
    let answer = exchange(broker.port(), request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("MQTT"), "{answer}");
    wait_until("the log tells of the browser", || {
        broker.log().to_lowercase().contains("http")
    });
}

#[test]
fn a_tls_client_on_the_plain_port_is_named_in_the_log() {
    let broker = Broker::start();
    let client_hello = b"\x16\x03\x01\x00\xC8\x01\x00\x00\xC4\x03\x03";
    exchange(broker.port(), client_hello);
    wait_until("the log tells of TLS", || broker.log().contains("TLS"));
}

#[test]
fn an_mqtt_client_on_the_websocket_port_is_named_in_the_log() {
    let broker = Broker::setup()
        .config("[[listener]]\naddress = \"127.0.0.1:{port}\"\ntype = \"ws\"\n\n[store]\nkind = \"memory\"\n")
        .start();
    let connect = connect(Version::V5, "lost").bytes();
    let mut client = Client::open(broker.address(), Version::V5);
    client.send_bytes(&connect);
    client.read_to_close();
    wait_until("the log tells of WebSocket", || {
        broker.log().contains("WebSocket")
    });
    // A browser gets an answer that it can show.
    let answer = exchange(
        broker.port(),
        b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let wrong_path = exchange(
        broker.port(),
        b"GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert!(wrong_path.starts_with("HTTP/1.1 4"), "{wrong_path}");
}

#[test]
fn a_plain_client_on_the_tls_port_is_named_in_the_log() {
    let setup = Broker::setup();
    certs::write(setup.dir(), "client");
    let broker = setup
        .config(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\ntype = \"tls\"\n\
             tls = { certificate = \"{dir}/server.pem\", key = \"{dir}/server.key\" }\n\n[store]\nkind = \"memory\"\n",
        )
        .start();
    let mut client = Client::open(broker.address(), Version::V5);
    client.send_bytes(&connect(Version::V5, "lost").bytes());
    client.read_to_close();
    wait_until("the log tells of TLS", || broker.log().contains("TLS"));
}
