//! Sockets, TLS, bounds.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dunlin_broker::{
    config::{ClientAuth, ListenerKind, NameFrom},
    error::Code,
    net::{listener, tls},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    certificates::{Authority, email},
    rig::{Rig, Setup, expect_echo, read_to_end, wait_for},
};

pub async fn connect_tls(
    rig: &Rig,
    client: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(client)
        .connect(name, rig.connect().await)
        .await
}

#[tokio::test]
async fn bytes_over_tcp_come_back_and_the_peer_is_known() {
    let mut rig = Setup::new(ListenerKind::Tcp).start();
    let mut stream = rig.connect().await;
    expect_echo(&mut stream, b"hello").await;
    assert_eq!(rig.seen().await.peer, stream.local_addr().unwrap());
}

#[tokio::test]
async fn bytes_over_tls_come_back() {
    let authority = Authority::new();
    let mut rig = Setup::new(ListenerKind::Tls)
        .tls(authority.server(ClientAuth::None, None))
        .start();
    let mut stream = connect_tls(&rig, authority.client(None)).await.unwrap();
    expect_echo(&mut stream, &vec![7; 100_000]).await;
    assert_eq!(rig.seen().await.tls_name, None);
}

#[tokio::test]
async fn the_common_name_of_a_client_certificate_is_its_name() {
    let authority = Authority::new();
    let server = authority.server(ClientAuth::Required, Some(NameFrom::Cn));
    let mut rig = Setup::new(ListenerKind::Tls).tls(server).start();
    authority.sign("sensor-7", |_| {});
    let mut stream = connect_tls(&rig, authority.client(Some("sensor-7")))
        .await
        .unwrap();
    expect_echo(&mut stream, b"hello").await;
    assert_eq!(rig.seen().await.tls_name.as_deref(), Some("sensor-7"));
}

#[tokio::test]
async fn the_alternative_name_of_a_client_certificate_is_its_name() {
    let authority = Authority::new();
    let server = authority.server(ClientAuth::Required, Some(NameFrom::San));
    let mut rig = Setup::new(ListenerKind::Tls).tls(server).start();
    authority.sign("anything", |params| {
        params.subject_alt_names = vec![email("seven@sensors.example")]
    });
    let mut stream = connect_tls(&rig, authority.client(Some("anything")))
        .await
        .unwrap();
    expect_echo(&mut stream, b"hello").await;
    assert_eq!(
        rig.seen().await.tls_name.as_deref(),
        Some("seven@sensors.example")
    );
}

#[tokio::test]
async fn a_client_without_a_required_certificate_is_refused() {
    let authority = Authority::new();
    let server = authority.server(ClientAuth::Required, Some(NameFrom::Cn));
    let mut rig = Setup::new(ListenerKind::Tls).tls(server).start();
    // In TLS 1.3 the client learns of it after its own half of the handshake.
    if let Ok(mut stream) = connect_tls(&rig, authority.client(None)).await {
        assert_eq!(read_to_end(&mut stream).await, b"");
    }
    rig.refused("tls", 1).await;
    assert!(rig.saw_nothing_more());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let authority = Authority::new();
    let server = authority.server(ClientAuth::Optional, Some(NameFrom::Cn));
    let mut rig = Setup::new(ListenerKind::Tls).tls(server).start();
    let stranger = Authority::new();
    stranger.sign("sensor-7", |_| {});
    std::fs::copy(authority.path("ca.pem"), stranger.path("ca.pem")).unwrap();
    if let Ok(mut stream) = connect_tls(&rig, stranger.client(Some("sensor-7"))).await {
        assert_eq!(read_to_end(&mut stream).await, b"");
    }
    rig.refused("tls", 1).await;
    assert!(rig.saw_nothing_more());
}

#[tokio::test]
async fn a_certificate_without_the_name_asked_for_is_refused() {
    let authority = Authority::new();
    let server = authority.server(ClientAuth::Required, Some(NameFrom::San));
    let mut rig = Setup::new(ListenerKind::Tls).tls(server).start();
    authority.sign("nameless", |params| params.subject_alt_names.clear());
    if let Ok(mut stream) = connect_tls(&rig, authority.client(Some("nameless"))).await {
        assert_eq!(read_to_end(&mut stream).await, b"");
    }
    rig.refused("tls", 1).await;
    assert!(rig.saw_nothing_more());
}

#[tokio::test]
async fn an_optional_certificate_may_be_left_out() {
    let authority = Authority::new();
    let server = authority.server(ClientAuth::Optional, Some(NameFrom::Cn));
    let mut rig = Setup::new(ListenerKind::Tls).tls(server).start();
    let mut stream = connect_tls(&rig, authority.client(None)).await.unwrap();
    expect_echo(&mut stream, b"hello").await;
    assert_eq!(rig.seen().await.tls_name, None);
}

#[tokio::test]
async fn stalled_handshakes_do_not_hold_up_others() {
    let authority = Authority::new();
    let mut rig = Setup::new(ListenerKind::Tls)
        .tls(authority.server(ClientAuth::None, None))
        .start();
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let mut stream = rig.connect().await;
        // The beginning of a ClientHello, and no more of it.
        stream.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
        stalled.push(stream);
    }
    let mut stream = connect_tls(&rig, authority.client(None)).await.unwrap();
    expect_echo(&mut stream, b"hello").await;
    rig.seen().await;
    assert!(rig.saw_nothing_more(), "the stalled ones are not served");
    assert_eq!(rig.metrics.sockets_open.get(), 101);
}

#[tokio::test]
async fn a_silent_client_is_closed_by_the_connect_timeout() {
    let authority = Authority::new();
    let timeout = Duration::from_millis(50);
    for (kind, tls) in [
        (
            ListenerKind::Tls,
            Some(authority.server(ClientAuth::None, None)),
        ),
        (ListenerKind::Ws, None),
    ] {
        let mut setup = Setup::new(kind).connect_timeout(timeout);
        setup.tls = tls;
        let mut rig = setup.start();
        let mut stream = rig.connect().await;
        assert_eq!(read_to_end(&mut stream).await, b"");
        rig.refused("timeout", 1).await;
        assert!(rig.saw_nothing_more());
        assert_eq!(rig.metrics.sockets_open.get(), 0, "its place is given back");
    }
}

#[tokio::test]
async fn above_max_connections_a_socket_has_no_slot() {
    let mut rig = Setup::new(ListenerKind::Tcp).max_connections(2).start();
    let mut first = rig.connect().await;
    let mut second = rig.connect().await;
    expect_echo(&mut first, b"1").await;
    expect_echo(&mut second, b"2").await;
    let mut third = rig.connect().await;
    assert_eq!(read_to_end(&mut third).await, b"");
    for has_slot in [true, true, false] {
        assert_eq!(rig.seen().await.has_slot, has_slot);
    }

    drop(first);
    let metrics = Arc::clone(&rig.metrics);
    wait_for("a free place", || metrics.sockets_open.get() == 1).await;
    let mut fourth = rig.connect().await;
    expect_echo(&mut fourth, b"4").await;
    expect_echo(&mut second, b"2").await;
    assert!(rig.seen().await.has_slot);
}

#[tokio::test]
async fn who_comes_while_enough_handshakes_are_under_way_waits_its_turn() {
    let authority = Authority::new();
    let mut rig = Setup::new(ListenerKind::Tls)
        .tls(authority.server(ClientAuth::None, None))
        .max_handshakes(3)
        .start();
    let mut stalled = Vec::new();
    for _ in 0..3 {
        stalled.push(rig.connect().await);
    }
    let waiting = tokio::spawn({
        let (address, client) = (rig.address, authority.client(None));
        async move {
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            TlsConnector::from(client).connect(name, stream).await
        }
    });
    let metrics = Arc::clone(&rig.metrics);
    wait_for("one that waits", || metrics.accepts_delayed.get() == 1).await;
    assert_eq!(metrics.handshakes.get(), 3);
    assert!(!waiting.is_finished());
    stalled.pop();
    let mut stream = waiting.await.unwrap().unwrap();
    expect_echo(&mut stream, b"my turn").await;
    assert!(rig.seen().await.has_slot);
    wait_for("the handshake's end", || metrics.handshakes.get() == 2).await;
}

#[tokio::test]
async fn connections_are_spread_over_the_workers() {
    let mut rig = Setup::new(ListenerKind::Tcp).start();
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(rig.connect().await);
        rig.seen().await;
    }
    assert_eq!(rig.workers.tasks(), 10);
    drop(streams);
    let workers = Arc::clone(&rig.workers);
    wait_for("the end of the tasks", || workers.tasks() == 0).await;
}

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = listener::bind("mine", address).unwrap_err();
    assert_eq!(error.code, Code::AddressInUse);
    let port = address.port();
    assert_eq!(
        error.to_string(),
        format!(
            "DUN-0401 cannot listen on {address} (listener \"mine\"): the port is in use by another process: \
             stop that one (`ss -ltnp 'sport = :{port}'` shows it), or choose another port"
        )
    );
}

#[test]
fn an_address_of_another_machine_is_named_as_such() {
    // TEST-NET-3 of RFC 5737 belongs to nobody.
    let error = listener::bind("mine", SocketAddr::from(([203, 0, 113, 7], 1883))).unwrap_err();
    assert_eq!(error.code, Code::AddressUnknown);
    assert!(
        error
            .to_string()
            .contains("does not belong to this machine"),
        "{error}"
    );
}

/// Every fault of the files, by what is done to a good pair.
#[test]
fn faults_of_certificate_files_are_named() {
    let authority = Authority::new();
    let good = authority.server(ClientAuth::Required, None);
    assert!(tls::load(&good).unwrap().warnings.is_empty());
    authority.sign("other", |_| {});
    std::fs::write(authority.path("empty"), "").unwrap();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAwAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(authority.path("encrypted"), encrypted).unwrap();
    let damaged = "-----BEGIN CERTIFICATE-----\nMAA*\n-----END CERTIFICATE-----\n";
    std::fs::write(authority.path("damaged"), damaged).unwrap();

    let path = |name: &str| authority.path(name);
    let cases = [
        ("certificate", "absent", Code::TlsFile, "cannot read"),
        (
            "certificate",
            "empty",
            Code::TlsContent,
            "holds no certificate in PEM form",
        ),
        (
            "certificate",
            "server.key",
            Code::TlsContent,
            "are certificate and key exchanged?",
        ),
        ("certificate", "damaged", Code::TlsContent, "is damaged"),
        (
            "certificate",
            "other.pem",
            Code::TlsMismatch,
            "does not belong to the first certificate",
        ),
        ("key", "absent", Code::TlsFile, "cannot read"),
        ("key", "empty", Code::TlsContent, "holds no private key"),
        (
            "key",
            "server.pem",
            Code::TlsContent,
            "are certificate and key exchanged?",
        ),
        (
            "key",
            "encrypted",
            Code::TlsContent,
            "is protected by a passphrase",
        ),
        (
            "key",
            "other.key",
            Code::TlsMismatch,
            "does not belong to the first certificate",
        ),
        ("client_ca", "absent", Code::TlsFile, "cannot read"),
        (
            "client_ca",
            "empty",
            Code::TlsContent,
            "holds no certificate in PEM form",
        ),
    ];
    for (key, file, code, words) in cases {
        let mut tls = good.clone();
        match key {
            "certificate" => tls.certificate = path(file),
            "key" => tls.key = path(file),
            _ => tls.client_ca = Some(path(file)),
        }
        let faults = tls::load(&tls).unwrap_err();
        assert_eq!(faults.len(), 1, "{key} = {file}: {faults:?}");
        assert_eq!(faults[0].code, code, "{key} = {file}: {faults:?}");
        assert!(faults[0].text.contains(words), "{key} = {file}: {faults:?}");
    }
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let authority = Authority::new();
    let tls = authority.server(ClientAuth::None, None);
    authority.sign("server", |params| {
        params.not_after = rcgen::date_time_ymd(2020, 2, 29)
    });
    let loaded = tls::load(&tls).unwrap();
    assert_eq!(loaded.warnings[0].code, Code::TlsValidity);
    assert!(
        loaded.warnings[0].text.contains("has expired on Feb 29"),
        "{:?}",
        loaded.warnings
    );
}
