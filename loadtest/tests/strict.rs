//! The fleet against a broker of this test's own that holds to the letter of the QoS 2 exchange, and breaks
//! connections at random moments: before an answer, after it, in between.

#![allow(clippy::unwrap_used)] // a test may panic

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use dunlin_protocol::{
    Ack, ConnAck, Packet, PacketId, Properties, PropertiesBuf, Property, QoS, ReasonCode, Sender,
    Version, decode, peek_frame,
};
use rand::RngExt as _;
use support::loadtest;

const WINDOW: u16 = 5;

#[derive(Default)]
struct Session {
    connections: u32,
    /// Packet ids received and not yet released.
    held: BTreeSet<PacketId>,
    /// Packet ids seen at all since they were last done: a PUBLISH with one of them must have DUP.
    open: BTreeSet<PacketId>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<String, Session>,
    messages: BTreeMap<Vec<u8>, u32>,
    faults: Vec<String>,
    broken: u32,
}

impl State {
    fn check(&mut self, good: bool, fault: &str) {
        if !good && self.faults.len() < 20 {
            self.faults.push(fault.to_owned());
        }
    }
}

/// Serves one connection until it ends; breaks it with a small probability at every packet.
fn serve(
    mut socket: TcpStream,
    state: &Mutex<State>,
    version: Version,
    seed: u64,
) -> std::io::Result<()> {
    let mut random = dunlin_loadtest::generate::random(seed, "breaks");
    let (mut bytes, mut name) = (Vec::new(), String::new());
    loop {
        let header = peek_frame(&bytes, 1 << 20)
            .unwrap()
            .filter(|header| header.total_len <= bytes.len());
        let Some(header) = header else {
            let mut part = [0; 4096];
            match socket.read(&mut part)? {
                0 => return Ok(()),
                count => bytes.extend_from_slice(&part[..count]),
            }
            continue;
        };
        let frame: Vec<u8> = bytes.drain(..header.total_len).collect();
        let answer = answer(
            &decode(&frame, version, Sender::Client).unwrap(),
            &mut name,
            &mut state.lock().unwrap(),
        );
        let luck: f64 = random.random();
        if let Some(answer) = answer {
            let packet = answer.packet();
            let connack = matches!(packet, Packet::ConnAck(_));
            if luck >= 0.01 || connack {
                let mut out = Vec::new();
                packet.encode(version, &mut out).unwrap();
                socket.write_all(&out)?;
            }
            if luck < 0.02 && !connack {
                state.lock().unwrap().broken += 1;
                return Ok(());
            }
        }
    }
}

enum Answer {
    Welcome(bool, PropertiesBuf),
    Received(PacketId),
    Complete(PacketId, ReasonCode),
    Pong,
}

impl Answer {
    fn packet(&self) -> Packet<'_> {
        match self {
            Self::Welcome(present, properties) => Packet::ConnAck(ConnAck {
                session_present: *present,
                reason: ReasonCode::SUCCESS,
                properties: properties.as_properties(),
            }),
            Self::Received(id) => Packet::PubRec(Ack::new(*id, ReasonCode::SUCCESS)),
            Self::Complete(id, reason) => Packet::PubComp(Ack::new(*id, *reason)),
            Self::Pong => Packet::PingResp,
        }
    }
}

fn answer(packet: &Packet<'_>, name: &mut String, state: &mut State) -> Option<Answer> {
    match packet {
        Packet::Connect(connect) => {
            connect.client_id.clone_into(name);
            if connect.clean_start {
                state.sessions.remove(name.as_str());
            }
            let session = state.sessions.entry(name.clone()).or_default();
            session.connections += 1;
            let mut properties = PropertiesBuf::new();
            if connect.version.is_v5() {
                properties.push(Property::ReceiveMaximum(WINDOW)).unwrap();
            }
            Some(Answer::Welcome(session.connections > 1, properties))
        }
        Packet::Publish(publish) => {
            let id = publish.packet_id?;
            state.check(publish.qos == QoS::ExactlyOnce, "wrong QoS");
            let session = state.sessions.get_mut(name.as_str())?;
            let known = !session.open.insert(id);
            let new = session.held.insert(id);
            let many = session.held.len() > usize::from(WINDOW);
            // The other way round is right: what was lost with a connection comes with DUP, too.
            state.check(publish.dup || !known, "sent again without DUP");
            state.check(!many, "more in flight than the receive maximum");
            if new {
                *state.messages.entry(publish.payload.to_vec()).or_default() += 1;
            }
            Some(Answer::Received(id))
        }
        Packet::PubRel(ack) => {
            let session = state.sessions.get_mut(name.as_str())?;
            session.open.remove(&ack.packet_id);
            let held = session.held.remove(&ack.packet_id);
            let reason = if held {
                ReasonCode::SUCCESS
            } else {
                ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
            };
            Some(Answer::Complete(ack.packet_id, reason))
        }
        Packet::PingReq => Some(Answer::Pong),
        Packet::Disconnect(disconnect) => {
            state.check(
                disconnect.reason == ReasonCode::NORMAL_DISCONNECTION,
                "abnormal disconnect",
            );
            state.check(
                disconnect.properties == Properties::EMPTY || !name.is_empty(),
                "no CONNECT first",
            );
            None
        }
        other => {
            state.check(false, &format!("unexpected {:?}", other.packet_type()));
            None
        }
    }
}

fn run(version: Version, protocol: &str) -> (State, serde_json::Value) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let state = Arc::new(Mutex::new(State::default()));
    let shared = Arc::clone(&state);
    std::thread::spawn(move || {
        for (seed, socket) in listener.incoming().map_while(Result::ok).enumerate() {
            let state = Arc::clone(&shared);
            // An error is a connection that the other side broke.
            std::thread::spawn(move || drop(serve(socket, &state, version, seed as u64)));
        }
    });
    let folder = tempfile::TempDir::new().unwrap();
    let report = folder.path().join("report.json");
    let output = loadtest()
        .args([
            "fleet",
            "--quiet",
            "--devices",
            "12",
            "--as-fast-as-possible",
            "--qos",
            "2",
        ])
        .args([
            "--inflight",
            "5",
            "--port",
            &port.to_string(),
            "--protocol",
            protocol,
            "--json",
        ])
        .arg(&report)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let state = std::mem::take(&mut *state.lock().unwrap());
    (state, report)
}

#[test]
fn qos_2_is_exactly_once_over_any_number_of_broken_connections() {
    for (version, protocol) in [(Version::V5, "5"), (Version::V311, "3.1.1")] {
        let (state, report) = run(version, protocol);
        assert_eq!(state.faults, Vec::<String>::new());
        assert!(
            state.broken > 100,
            "only {} connections broke",
            state.broken
        );
        assert!(report["reconnects"].as_u64() > Some(100), "{report}");
        assert_eq!(report["sessions_lost"], 0);
        assert_eq!(state.messages.len(), 8759 + 8759 + 1461);
        assert!(
            state.messages.values().all(|count| *count == 1),
            "something was published twice"
        );
    }
}
