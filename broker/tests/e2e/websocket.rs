//! MQTT over WebSocket, frame by frame.

use crate::support::{
    websocket::{Opcode, WebSocket},
    *,
};

fn listening() -> Broker {
    Broker::setup()
        .config(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\ntype = \"ws\"\n\n[store]\nkind = \"memory\"\n",
        )
        .start()
}

const CONNACK_311: [u8; 4] = [0x20, 2, 0, 0];

// [MQTT-6.0.0-1] v311 [MQTT-6.0.0-4] v311 [MQTT-6.0.0-1] v5 [MQTT-6.0.0-4] v5
#[test]
fn packets_travel_in_binary_frames_of_subprotocol_mqtt() {
    let broker = listening();
    let mut socket = WebSocket::open(broker.address());
    socket.send(Opcode::Binary, &connect(Version::V311, "ws").bytes());
    assert_eq!(
        socket.receive(),
        Some((Opcode::Binary, CONNACK_311.to_vec()))
    );
    socket.send(Opcode::Binary, b"\xC0\x00");
    assert_eq!(
        socket.receive(),
        Some((Opcode::Binary, b"\xD0\x00".to_vec()))
    );
    socket.send(Opcode::Ping, b"still there?");
    assert_eq!(
        socket.receive(),
        Some((Opcode::Pong, b"still there?".to_vec()))
    );
}

// [MQTT-6.0.0-2] v311 [MQTT-6.0.0-2] v5
#[test]
fn packets_may_share_and_span_frames() {
    let broker = listening();
    let mut socket = WebSocket::open(broker.address());
    let mut bytes = connect(Version::V311, "ws").bytes();
    bytes.extend_from_slice(b"\xC0\x00\xC0\x00");
    let (first, rest) = bytes.split_at(5);
    let (second, third) = rest.split_at(rest.len() - 1);
    for part in [first, second, b"", third] {
        socket.send(Opcode::Binary, part);
    }
    assert_eq!(socket.receive_bytes(8), b"\x20\x02\x00\x00\xD0\x00\xD0\x00");
}

// [MQTT-6.0.0-1] v311 [MQTT-6.0.0-1] v5
#[test]
fn a_text_frame_ends_the_connection() {
    let broker = listening();
    let mut socket = WebSocket::open(broker.address());
    socket.send(Opcode::Binary, &connect(Version::V311, "ws").bytes());
    assert_eq!(
        socket.receive(),
        Some((Opcode::Binary, CONNACK_311.to_vec()))
    );
    socket.send(Opcode::Text, b"\xC0\x00");
    match socket.receive() {
        None => {}
        Some((opcode, code)) => {
            assert_eq!(
                (opcode, code.get(..2)),
                (Opcode::Close, Some(&1003_u16.to_be_bytes()[..]))
            );
            assert_eq!(socket.receive(), None);
        }
    }
}

// [MQTT-6.0.0-3] v311 [MQTT-6.0.0-3] v5 [MQTT-6.0.0-4] v5
#[test]
fn without_the_subprotocol_there_is_no_websocket() {
    let broker = listening();
    for offer in ["", "chat", "mqtt5"] {
        let upgrade = WebSocket::upgrade(broker.address(), offer);
        assert!(
            upgrade.head.starts_with("HTTP/1.1 4"),
            "offer {offer:?}: {}",
            upgrade.head
        );
    }
    for offer in ["mqtt", "chat, mqtt", "mqttv3.1, mqtt"] {
        let upgrade = WebSocket::upgrade(broker.address(), offer);
        assert!(
            upgrade.head.starts_with("HTTP/1.1 101"),
            "offer {offer:?}: {}",
            upgrade.head
        );
        assert_eq!(
            upgrade.header("sec-websocket-protocol"),
            Some("mqtt"),
            "offer {offer:?}"
        );
    }
}
