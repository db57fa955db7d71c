//! Bounds by address, wrong logins and bans of a running broker.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use dunlin_broker::auth::{password, users};
use socket2::{Domain, Socket, Type};

use crate::audit::{connect, wait_for};
use crate::process::{CONNECT, Running, broker};
use crate::rig::LIMIT;

/// A connection from another address of this machine.
fn from(running: &Running, last: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&address.into()).unwrap();
    socket.connect(&running.address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// What the broker answers; nothing when it has closed the connection.
fn answer(stream: &mut TcpStream, packet: &[u8]) -> Option<[u8; 4]> {
    // What is closed already may not take it.
    let _taken = stream.write_all(packet).is_ok();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).ok().map(|()| connack)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Setting {
    folder: tempfile::TempDir,
    running: Running,
}

impl Setting {
    fn new(keys: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        for name in ["ann", "bob"] {
            users::put(&path, name, &password::hash(b"right").unwrap()).unwrap();
        }
        let mut command = broker();
        command.args(["--set", &format!("auth.users={}", path.display())]);
        let audit = folder.path().join("audit");
        command.args(["--set", &format!("audit.to={}", audit.display())]);
        for key in keys {
            command.args(["--set", key]);
        }
        let running = Running::start(command);
        Self { folder, running }
    }

    fn login(&self, last: u8, name: &str, password: &str) -> Option<[u8; 4]> {
        answer(
            &mut from(&self.running, last),
            &connect("c", name, password),
        )
    }
}

const ACCEPTED: Option<[u8; 4]> = Some([0x20, 2, 0, 0]);
const WRONG: Option<[u8; 4]> = Some([0x20, 2, 0, 4]);
const WAIT: Option<[u8; 4]> = Some([0x20, 2, 0, 3]);

#[test]
fn wrong_passwords_make_a_name_wait_where_they_come_from_and_nobody_else() {
    let setting = Setting::new(&["limits.login_failures=2", "limits.login_pause_max=2"]);
    for _ in 0..3 {
        assert_eq!(setting.login(2, "ann", "wrong"), WRONG);
    }
    assert_eq!(setting.login(2, "ann", "right"), WAIT);
    assert_eq!(setting.login(2, "bob", "right"), ACCEPTED);
    assert_eq!(setting.login(3, "ann", "right"), ACCEPTED);
    wait_until("the pause ends", || {
        setting.login(2, "ann", "right") == ACCEPTED
    });
    assert!(!setting.running.log().contains("wrong\""));
}

#[test]
fn an_address_that_guesses_is_banned_and_what_it_has_open_ends() {
    let setting = Setting::new(&["bans.after_failures=4", "bans.seconds=600"]);
    let mut live = from(&setting.running, 2);
    assert_eq!(
        answer(&mut live, &connect("live", "ann", "right")),
        ACCEPTED
    );
    let mut other = from(&setting.running, 3);
    assert_eq!(
        answer(&mut other, &connect("other", "bob", "right")),
        ACCEPTED
    );
    for _ in 0..4 {
        assert_eq!(setting.login(2, "ann", "wrong"), WRONG);
    }
    assert!(is_closed(&mut live), "it is told to end");
    wait_until("it is not heard any more", || {
        setting.login(2, "ann", "right").is_none()
    });
    assert_eq!(setting.login(3, "ann", "right"), ACCEPTED);
    other.write_all(&[0xC0, 0]).unwrap();
    let mut pong = [0; 2];
    other.read_exact(&mut pong).unwrap();
    let banned = wait_for(&setting.folder.path().join("audit"), |event| {
        event["event"] == "banned"
    });
    assert_eq!(banned["target"], "address:127.0.0.2");
    assert_eq!(banned["by"], "broker");
}

#[test]
fn an_address_has_so_many_connections_and_handshakes() {
    let mut command = broker();
    command.args(["--set", "limits.connections_per_address=3"]);
    command.args(["--set", "limits.handshakes_per_address=2"]);
    let running = Running::start(command);
    let silent = [from(&running, 2), from(&running, 2)];
    let mut third = from(&running, 2);
    assert_eq!(answer(&mut third, CONNECT), None, "two shake hands");
    let mut other = from(&running, 3);
    assert_eq!(answer(&mut other, CONNECT), ACCEPTED);
    drop(silent);
    let id = |n: u8| {
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01"
            .iter()
            .copied()
            .chain([n])
    };
    let mut open = Vec::new();
    for n in 0..3 {
        wait_until("there is a place", || {
            let mut stream = from(&running, 2);
            let packet: Vec<u8> = id(b'0' + n).collect();
            let accepted = answer(&mut stream, &packet) == ACCEPTED;
            open.push(stream);
            accepted
        });
    }
    assert_eq!(
        answer(&mut from(&running, 2), CONNECT),
        None,
        "three are open"
    );
    drop(open);
    wait_until("places are given back", || {
        answer(&mut from(&running, 2), CONNECT) == ACCEPTED
    });
}
