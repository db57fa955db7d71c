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

/// CONNECT of MQTT 5 as `n`.
const CONNECT_5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01n";

/// First byte and body of the next packet, which is short.
fn next(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut header = [0; 2];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; usize::from(header[1])];
    stream.read_exact(&mut body).unwrap();
    (header[0], body)
}

fn publish(payload: usize) -> Vec<u8> {
    let mut packet = vec![0x30, u8::try_from(payload + 4).unwrap()];
    packet.extend_from_slice(b"\x00\x01t\x00");
    packet.resize(packet.len() + payload, 0);
    packet
}

#[test]
fn who_publishes_too_fast_is_told_so_where_that_is_wanted() {
    let mut command = broker();
    command.args(["--set", "limits.publish_byte_rate=100"]);
    command.args(["--set", "limits.over_rate=disconnect"]);
    let running = Running::start(command);
    let mut stream = running.connect();
    stream.write_all(CONNECT_5).unwrap();
    assert_eq!(next(&mut stream).0, 0x20);
    stream.write_all(&publish(90)).unwrap();
    stream.write_all(&[0xC0, 0]).unwrap();
    assert_eq!(next(&mut stream), (0xD0, vec![]), "within its rate");
    stream.write_all(&publish(100)).unwrap();
    let (kind, body) = next(&mut stream);
    assert_eq!((kind, body[0]), (0xE0, 0x96));

    // An older client cannot be told: it is slowed down, and its ping is answered when a second's worth is there again.
    let mut stream = running.connect_mqtt();
    for _ in 0..3 {
        let mut packet = publish(99);
        packet.remove(5);
        packet[1] -= 1;
        stream.write_all(&packet).unwrap();
    }
    stream.write_all(&[0xC0, 0]).unwrap();
    assert_eq!(next(&mut stream), (0xD0, vec![]));
}

#[test]
fn a_packet_that_comes_byte_by_byte_has_its_time() {
    let mut command = broker();
    command.args(["--set", "limits.packet_timeout_ms=300"]);
    let running = Running::start(command);
    let mut stream = running.connect();
    stream.write_all(CONNECT_5).unwrap();
    assert_eq!(next(&mut stream).0, 0x20);
    // Of 100,000 bytes 5,000 come at once, and then one at a time.
    let mut begun = vec![0x30, 0xA0, 0x8D, 0x06, 0, 1, b't', 0];
    begun.resize(5_000, 0);
    stream.write_all(&begun).unwrap();
    let mut trickle = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while trickle.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let (kind, body) = next(&mut stream);
    assert_eq!((kind, body[0]), (0xE0, 0x83));
}

#[test]
fn filters_have_so_many_wildcards_and_packets_so_many_filters() {
    let mut command = broker();
    command.args(["--set", "limits.max_filters_per_subscribe=3"]);
    command.args(["--set", "limits.max_wildcards_per_filter=2"]);
    let running = Running::start(command);
    let mut stream = running.connect();
    stream.write_all(CONNECT_5).unwrap();
    assert_eq!(next(&mut stream).0, 0x20);
    let mut body = b"\x00\x01\x00".to_vec();
    for filter in ["+/+/a", "+/+/#", "b", "c"] {
        body.extend_from_slice(&u16::try_from(filter.len()).unwrap().to_be_bytes());
        body.extend_from_slice(filter.as_bytes());
        body.push(1);
    }
    let mut packet = vec![0x82, u8::try_from(body.len()).unwrap()];
    packet.extend(body);
    stream.write_all(&packet).unwrap();
    let (kind, body) = next(&mut stream);
    assert_eq!((kind, &body[..]), (0x90, &[0, 1, 0, 1, 0x97, 1, 0x97][..]));
}
