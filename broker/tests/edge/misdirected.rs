//! Clients that knock at the wrong door.

use std::net::SocketAddr;

use dunlin_broker::{
    config::{ClientAuth, ListenerKind},
    net::{
        ListenerInfo,
        sniff::{Sniffed, not_mqtt, sniff},
    },
};
use tokio::io::AsyncWriteExt;

use crate::{
    certificates::Authority,
    rig::{Setup, read_to_end},
};

const CONNECT: &[u8] = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CLIENT_HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01];

#[test]
fn the_first_bytes_tell_what_is_spoken() {
    for (bytes, found) in [
        (CONNECT, Some(Sniffed::Mqtt)),
        (GET, Some(Sniffed::Http)),
        (b"POST /x", Some(Sniffed::Http)),
        (b"HEAD /x", Some(Sniffed::Http)),
        (b"OPTIONS *", Some(Sniffed::Http)),
        (b"PRI * HTTP/2.0", Some(Sniffed::Http)),
        (CLIENT_HELLO, Some(Sniffed::Tls)),
        (b"PROXY TCP4", Some(Sniffed::Proxy)),
        (b"\r\n\r\n\0\r\nQUIT\n", Some(Sniffed::Proxy)),
        (b"", None),
        (b"G", None),
        (b"\xc0\x00", None),
        (b"PUBLISH", None),
    ] {
        assert_eq!(sniff(bytes), found, "{bytes:?}");
    }
    assert_eq!(not_mqtt(CONNECT), None);
    assert_eq!(not_mqtt(GET), Some(Sniffed::Http));
}

#[test]
fn a_browser_is_told_where_it_is_and_where_websocket_is() {
    let listener = ListenerInfo {
        name: "plain".into(),
        kind: ListenerKind::Tcp,
        address: SocketAddr::from(([127, 0, 0, 1], 1883)),
        anonymous: true,
        auth: [].into(),
        websocket_hint: "MQTT over WebSocket is at ws://127.0.0.1:8083/mqtt.".into(),
        tenant: None,
    };
    let answer = String::from_utf8(Sniffed::Http.answer(&listener)).unwrap();
    let body = "This is a port for MQTT, not for HTTP (Dunlin, listener \"plain\").\n\
                MQTT over WebSocket is at ws://127.0.0.1:8083/mqtt.\n";
    assert_eq!(
        answer,
        format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    );
    assert_eq!(Sniffed::Tls.answer(&listener), b"");
    assert_eq!(
        Sniffed::Tls.message(&listener),
        "client speaks TLS: listener \"plain\" on 127.0.0.1:1883 is for plain MQTT"
    );
}

#[tokio::test]
async fn plain_mqtt_on_a_tls_port_is_closed_and_counted() {
    let authority = Authority::new();
    let mut rig = Setup::new(ListenerKind::Tls)
        .tls(authority.server(ClientAuth::None, None))
        .start();
    let mut stream = rig.connect().await;
    stream.write_all(CONNECT).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    rig.refused("not_mqtt", 1).await;
    assert!(rig.saw_nothing_more());
}

#[tokio::test]
async fn http_on_a_tls_port_is_answered() {
    let authority = Authority::new();
    let rig = Setup::new(ListenerKind::Tls)
        .tls(authority.server(ClientAuth::None, None))
        .start();
    let mut stream = rig.connect().await;
    stream.write_all(GET).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut stream).await).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    drop(stream);
    rig.refused("not_mqtt", 1).await;
}

#[tokio::test]
async fn plain_mqtt_and_tls_on_a_websocket_port_are_closed_and_counted() {
    for bytes in [CONNECT, CLIENT_HELLO] {
        let mut rig = Setup::new(ListenerKind::Ws).start();
        let mut stream = rig.connect().await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, b"");
        rig.refused("not_mqtt", 1).await;
        assert!(rig.saw_nothing_more());
    }
}
