//! Both sides against each other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::{
    Router,
    extract::ConnectInfo,
    routing::{get, post},
};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

use super::server::{Peer, serve};
use super::{HttpClient, HttpError};
use crate::shutdown::Shutdown;

const PATIENCE: Duration = Duration::from_secs(20);

fn router() -> Router {
    Router::new()
        .route("/a/echo", post(|body: Bytes| async move { body }))
        .route(
            "/a/who",
            get(
                |ConnectInfo(peer): ConnectInfo<Peer>| async move { peer.address.ip().to_string() },
            ),
        )
        .route("/a/never", get(std::future::pending::<()>))
}

struct Served {
    url: String,
    stop: Shutdown,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

fn served(tls: Option<Arc<rustls::ServerConfig>>) -> Served {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!(
        "{scheme}://localhost:{}/a",
        socket.local_addr().unwrap().port()
    );
    let stop = Shutdown::default();
    let tls = tls.map(|tls| Arc::new(move || Arc::clone(&tls)) as super::server::Tls);
    let task = tokio::spawn(serve(socket, tls, router(), 4, stop.clone(), PATIENCE));
    Served { url, stop, task }
}

async fn talk(served: Served, ca: Option<PathBuf>) {
    let client = HttpClient::new(&served.url, ca.as_deref(), PATIENCE, 1_000).unwrap();
    for _ in 0..3 {
        let answer = client
            .send(Method::POST, "/echo", &[], Bytes::from_static(b"hello"))
            .await
            .unwrap();
        assert_eq!(
            (answer.status, &answer.body[..]),
            (StatusCode::OK, &b"hello"[..])
        );
    }
    let who = client
        .send(Method::GET, "/who", &[], Bytes::new())
        .await
        .unwrap();
    assert_eq!(&who.body[..], b"127.0.0.1");
    let large = client
        .send(Method::POST, "/echo", &[], vec![0; 1_001].into())
        .await;
    assert!(matches!(large, Err(HttpError::Answer { .. })), "{large:?}");
    assert_eq!(
        client
            .send(Method::GET, "/none", &[], Bytes::new())
            .await
            .unwrap()
            .status,
        StatusCode::NOT_FOUND
    );
    let hasty =
        HttpClient::new(&served.url, ca.as_deref(), Duration::from_millis(50), 1_000).unwrap();
    let never = hasty.send(Method::GET, "/never", &[], Bytes::new()).await;
    assert!(
        matches!(never, Err(HttpError::TimedOut { .. })),
        "{never:?}"
    );
    served.stop.trigger();
    tokio::time::timeout(PATIENCE, served.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    // The kept connection is closed, and nobody listens any more.
    let gone = client.send(Method::GET, "/who", &[], Bytes::new()).await;
    assert!(matches!(gone, Err(HttpError::Connect { .. })), "{gone:?}");
}

#[tokio::test]
async fn the_client_asks_the_server_over_tcp() {
    talk(served(None), None).await;
}

#[tokio::test]
async fn the_client_asks_the_server_over_tls_that_it_trusts() {
    let folder = tempfile::tempdir().unwrap();
    let pair = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&pair)
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).unwrap();
    talk(served(Some(Arc::new(tls))), Some(ca)).await;
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let make = || {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.self_signed(&pair).unwrap(), pair)
    };
    let ((certificate, pair), (other, _)) = (make(), make());
    let key = PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, other.pem()).unwrap();
    let served = served(Some(Arc::new(tls)));
    let client = HttpClient::new(&served.url, Some(&ca), PATIENCE, 1_000).unwrap();
    let refused = client.send(Method::GET, "/who", &[], Bytes::new()).await;
    assert!(
        matches!(refused, Err(HttpError::Connect { .. })),
        "{refused:?}"
    );
    served.stop.trigger();
    served.task.await.unwrap().unwrap();
}
