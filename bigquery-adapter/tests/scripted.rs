//! What real brokers do not do on request: a broker that follows a script.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use dunlin_protocol::{
    Ack, ConnAck, Disconnect, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Sender,
    SubAck, Version, decode, peek_frame,
};
use support::{LIMIT, Setup, wait_for};

/// One accepted connection.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    version: Version,
}

struct Script(TcpListener);

impl Script {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn url(&self) -> String {
        format!("mqtt://{}", self.0.local_addr().unwrap())
    }

    /// Accepts a connection and reads its CONNECT; the version is the client's.
    fn accept(&self) -> Peer {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut peer = Peer {
            stream,
            buffer: Vec::new(),
            version: Version::V5,
        };
        peer.version = peer.expect(|packet| match packet {
            Packet::Connect(connect) => Some(connect.version),
            _ => None,
        });
        peer
    }

    /// Accepts a connection, with a session or without, and grants its subscription.
    fn serve(&self, session_present: bool) -> Peer {
        let mut peer = self.accept();
        peer.send(Packet::ConnAck(ConnAck {
            session_present,
            ..ConnAck::default()
        }));
        let (id, count) = peer.expect(|packet| match packet {
            Packet::Subscribe(subscribe) => Some((subscribe.packet_id, subscribe.filters.len())),
            _ => None,
        });
        peer.send(Packet::SubAck(SubAck {
            packet_id: id,
            properties: Properties::EMPTY,
            reason_codes: &vec![2; count],
        }));
        peer
    }
}

impl Peer {
    fn send(&mut self, packet: Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn publish(&mut self, id: u16, qos: QoS, dup: bool, payload: &str) {
        let packet_id = PacketId::new(id);
        self.send(Packet::Publish(Publish {
            dup,
            qos,
            topic: "t",
            packet_id,
            payload: payload.as_bytes(),
            ..Publish::default()
        }));
    }

    /// The next packet, which must be what `wanted` wants.
    #[track_caller]
    fn expect<T>(&mut self, wanted: impl Fn(&Packet<'_>) -> Option<T>) -> T {
        loop {
            if let Some(header) = peek_frame(&self.buffer, u32::MAX).unwrap()
                && self.buffer.len() >= header.total_len
            {
                let frame: Vec<u8> = self.buffer.drain(..header.total_len).collect();
                let packet = decode(&frame, self.version, Sender::Client).unwrap();
                return wanted(&packet)
                    .unwrap_or_else(|| panic!("an unexpected packet: {packet:?}"));
            }
            let mut bytes = [0; 1024];
            match self.stream.read(&mut bytes).unwrap() {
                0 => panic!("the adapter closed the connection"),
                read => self.buffer.extend_from_slice(&bytes[..read]),
            }
        }
    }

    #[track_caller]
    fn expect_ack(&mut self, wanted: Packet<'static>) {
        self.expect(|packet| (*packet == wanted).then_some(()));
    }

    /// Nothing comes for a while.
    fn expect_silence(&mut self) {
        self.stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut bytes = [0; 16];
        let read = self.stream.read(&mut bytes);
        assert!(
            read.is_err() && self.buffer.is_empty(),
            "something came: {read:?} {bytes:02x?}"
        );
        self.stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
}

fn ack(id: u16) -> Ack<'static> {
    Ack::new(PacketId::new(id).unwrap(), ReasonCode::SUCCESS)
}

fn setup(script: &Script) -> Setup {
    Setup::new(&script.url()).and(&[
        "--qos",
        "2",
        "--filter",
        "t",
        "--set",
        "mqtt.reconnect_max_ms=200",
    ])
}

#[test]
fn a_broker_that_refuses_mqtt_5_is_spoken_to_in_3_1_1_when_that_is_allowed() {
    let script = Script::new();
    let setup = setup(&script).and(&["--set", "mqtt.version=auto"]);
    let adapter = setup.start();
    let mut first = script.accept();
    assert_eq!(first.version, Version::V5);
    first.stream.write_all(&[0x20, 2, 0, 1]).unwrap();
    let mut second = script.serve(false);
    assert_eq!(second.version, Version::V311);
    second.publish(1, QoS::AtLeastOnce, false, "x");
    second.expect_ack(Packet::PubAck(ack(1)));
    assert!(adapter.terminate().success());
    setup.assert_log_has_only(&[]);
}

#[test]
fn a_refused_filter_is_named_and_tried_again() {
    let script = Script::new();
    let setup = setup(&script);
    let adapter = setup.start();
    for _ in 0..2 {
        let mut peer = script.accept();
        peer.send(Packet::ConnAck(ConnAck::default()));
        let packet_id = peer.expect(|packet| match packet {
            Packet::Subscribe(subscribe) => Some(subscribe.packet_id),
            _ => None,
        });
        peer.send(Packet::SubAck(SubAck {
            packet_id,
            properties: Properties::EMPTY,
            reason_codes: &[0x87],
        }));
    }
    wait_for("the reason", || {
        setup
            .log()
            .contains("the broker refuses the filter \\\"t\\\": Not authorized (0x87)")
            .then_some(())
    });
    assert!(setup.log().contains("DUN-2032"));
    assert!(adapter.terminate().success());
}

#[test]
fn a_takeover_and_a_lost_session_are_told() {
    let script = Script::new();
    let setup = setup(&script);
    let adapter = setup.start();
    let mut peer = script.serve(false);
    wait_for("ready", || {
        (setup.get("/health/ready")?.0 == 200).then_some(())
    });
    peer.send(Packet::Disconnect(Disconnect {
        reason: ReasonCode::SESSION_TAKEN_OVER,
        properties: Properties::EMPTY,
    }));
    let _peer = script.serve(false);
    wait_for("both codes", || {
        (setup.log().contains("DUN-2033") && setup.log().contains("DUN-2038")).then_some(())
    });
    assert!(adapter.terminate().success());
}

#[test]
fn qos_2_goes_on_where_it_was_after_a_kill() {
    let script = Script::new();
    let setup = setup(&script);
    let adapter = setup.start();
    let mut peer = script.serve(false);
    peer.publish(7, QoS::ExactlyOnce, false, "once");
    peer.expect_ack(Packet::PubRec(ack(7)));
    adapter.kill();
    let adapter = setup.start();
    let mut peer = script.serve(true);
    // The PUBREC did not arrive, say.
    peer.publish(7, QoS::ExactlyOnce, true, "once");
    peer.expect_ack(Packet::PubRec(ack(7)));
    peer.send(Packet::PubRel(ack(7)));
    peer.expect_ack(Packet::PubComp(ack(7)));
    adapter.kill();
    let adapter = setup.start();
    let mut peer = script.serve(true);
    // Nor did the PUBCOMP.
    peer.send(Packet::PubRel(ack(7)));
    peer.expect_ack(Packet::PubComp(Ack::new(
        PacketId::new(7).unwrap(),
        ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
    )));
    peer.publish(7, QoS::ExactlyOnce, false, "once");
    peer.expect_ack(Packet::PubRec(ack(7)));
    assert!(adapter.terminate().success());
    assert_eq!(
        setup.sql("select count(*), count(distinct message_id) from messages"),
        "(2, 2)"
    );
}

#[test]
fn nothing_is_acknowledged_while_the_disk_takes_nothing() {
    let script = Script::new();
    let setup = setup(&script);
    let adapter = setup.start_with_limits();
    let mut peer = script.serve(false);
    // Larger than the log gets: the limit is for that too.
    peer.publish(1, QoS::AtLeastOnce, false, &"stored".repeat(100_000));
    peer.expect_ack(Packet::PubAck(ack(1)));
    // A limit on the size of files is what a full disk looks like to the process.
    let journal = std::fs::read_dir(setup.warehouse().join("journal"))
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    let size = journal.metadata().unwrap().len();
    adapter.limit_file_size(&(size + 10).to_string());
    peer.publish(2, QoS::AtLeastOnce, false, &"x".repeat(1000));
    wait_for("the failure", || {
        setup.log().contains("DUN-2015").then_some(())
    });
    peer.expect_silence();
    assert_eq!(setup.get("/health/ready").unwrap().0, 503);
    adapter.limit_file_size("unlimited");
    peer.expect_ack(Packet::PubAck(ack(2)));
    wait_for("ready again", || {
        (setup.get("/health/ready")?.0 == 200).then_some(())
    });
    assert!(adapter.terminate().success());
    assert_eq!(
        setup.sql("select count(*), count(distinct payload) from messages"),
        "(2, 2)"
    );
    setup.assert_log_has_only(&["DUN-2015"]);
}

#[test]
fn a_packet_above_the_limit_is_named() {
    let script = Script::new();
    let setup = setup(&script).and(&["--set", "mqtt.max_packet_bytes=2000"]);
    let adapter = setup.start();
    let mut peer = script.serve(false);
    peer.publish(1, QoS::AtLeastOnce, false, &"x".repeat(3000));
    wait_for("the code", || {
        setup.log().contains("DUN-2034").then_some(())
    });
    assert!(
        setup
            .log()
            .contains("more than mqtt.max_packet_bytes allows (2000)")
    );
    assert!(adapter.terminate().success());
}

#[test]
fn a_silent_broker_is_left() {
    let script = Script::new();
    let setup = setup(&script).and(&["--set", "mqtt.keep_alive_seconds=5"]);
    let adapter = setup.start();
    let mut peer = script.serve(false);
    peer.expect(|packet| matches!(packet, Packet::PingReq).then_some(()));
    // No answer.
    let _next = script.accept();
    assert!(setup.log().contains("DUN-2037"), "{}", setup.log());
    assert!(adapter.terminate().success());
}
