//! The PROXY protocol in front of MQTT.

use std::net::SocketAddr;

use dunlin_broker::config::{ListenerKind, ProxyProtocol};
use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::AsyncWriteExt;

use crate::rig::{Setup, expect, expect_echo, read_to_end};

fn header(version: u8) -> Vec<u8> {
    let source: SocketAddr = "198.51.100.7:40000".parse().unwrap();
    let destination: SocketAddr = "192.0.2.1:1883".parse().unwrap();
    let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
    let mut bytes = Vec::new();
    match version {
        1 => header.encode_v1(&mut bytes).unwrap(),
        _ => header.encode_v2(&mut bytes).unwrap(),
    }
    bytes
}

#[tokio::test]
async fn the_header_names_the_client_and_nothing_after_it_is_taken() {
    for (version, accept) in [
        (1, ProxyProtocol::V1),
        (1, ProxyProtocol::Any),
        (2, ProxyProtocol::V2),
        (2, ProxyProtocol::Any),
    ] {
        let mut rig = Setup::new(ListenerKind::Tcp).proxy(accept).start();
        let mut stream = rig.connect().await;
        let mut bytes = header(version);
        bytes.extend_from_slice(b"and what follows\r\n");
        stream.write_all(&bytes).await.unwrap();
        expect(&mut stream, b"and what follows\r\n").await;
        assert_eq!(rig.seen().await.peer, "198.51.100.7:40000".parse().unwrap());
        expect_echo(&mut stream, b"more").await;
    }
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    for version in [1, 2] {
        let mut rig = Setup::new(ListenerKind::Tcp)
            .proxy(ProxyProtocol::Any)
            .start();
        let mut stream = rig.connect().await;
        stream.set_nodelay(true).unwrap();
        for byte in header(version) {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        expect_echo(&mut stream, b"then bytes").await;
        assert_eq!(rig.seen().await.peer, "198.51.100.7:40000".parse().unwrap());
    }
}

#[tokio::test]
async fn the_balancers_own_check_keeps_its_address() {
    let mut rig = Setup::new(ListenerKind::Tcp)
        .proxy(ProxyProtocol::V2)
        .start();
    let mut stream = rig.connect().await;
    let mut bytes = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    expect_echo(&mut stream, b"check").await;
    assert_eq!(rig.seen().await.peer, stream.local_addr().unwrap());
}

#[tokio::test]
async fn what_is_no_header_or_the_wrong_one_is_refused() {
    let connect = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00".to_vec();
    let mut long_v1 = b"PROXY TCP4 ".to_vec();
    long_v1.resize(200, b'1');
    let mut long_v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    long_v2.resize(100, 0);
    for (what, accept, bytes) in [
        ("no header", ProxyProtocol::Any, connect),
        ("version 2 where 1 is allowed", ProxyProtocol::V1, header(2)),
        ("version 1 where 2 is allowed", ProxyProtocol::V2, header(1)),
        (
            "no numbers",
            ProxyProtocol::Any,
            b"PROXY TCP4 a b c d\r\n".to_vec(),
        ),
        (
            "a line end without return",
            ProxyProtocol::Any,
            b"PROXY UNKNOWN\n".to_vec(),
        ),
        ("a line without end", ProxyProtocol::Any, long_v1),
        ("a length above the bound", ProxyProtocol::Any, long_v2),
    ] {
        let mut rig = Setup::new(ListenerKind::Tcp).proxy(accept).start();
        let mut stream = rig.connect().await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, b"", "{what}");
        rig.refused("proxy", 1).await;
        assert!(rig.saw_nothing_more(), "{what}");
    }
}
