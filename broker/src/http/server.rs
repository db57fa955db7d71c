//! Serves HTTP to few and trusted ones, or to many and unknown ones: everything is bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::{Request, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::shutdown::Shutdown;

/// Time for the TLS handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for a connection as a whole: nobody holds a place for good.
const LIFETIME: Duration = Duration::from_secs(600);
/// Bytes that a connection may have for what was read and not yet understood.
const BUFFER: usize = 64 * 1024;
/// Wait after an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request came from.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The client's certificates, its own first; empty when it has shown none.
    pub certificates: Arc<[rustls::pki_types::CertificateDer<'static>]>,
}

/// Serves `router` until `stop`, at most `connections` at a time; what is being answered then is given `grace`.
/// `tls` is asked for every connection, so that new certificates hold at once.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
pub async fn serve(
    socket: std::net::TcpListener,
    tls: Option<Tls>,
    router: Router,
    connections: usize,
    stop: Shutdown,
    grace: Duration,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    let places = Arc::new(Semaphore::new(connections));
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stop.wait() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection for HTTP cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls()));
        let (router, stop) = (router.clone(), stop.clone());
        open.spawn(async move {
            let served = one(stream, address, acceptor, router, stop);
            if tokio::time::timeout(LIFETIME, served).await.is_err() {
                tracing::debug!(%address, "a connection for HTTP has had its time");
            }
            drop(place);
        });
    }
    let ended = async { while open.join_next().await.is_some() {} };
    // What is left is cut off when the set is dropped.
    drop(tokio::time::timeout(grace, ended).await);
    Ok(())
}

/// Gives the TLS of new connections.
pub type Tls = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

async fn one(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    stop: Shutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "a connection for HTTP has ended at once");
        return;
    }
    let Some(acceptor) = acceptor else {
        let peer = Peer {
            address,
            certificates: Arc::new([]),
        };
        return speak(TokioIo::new(stream), peer, router, stop).await;
    };
    match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = shown.iter().map(|one| one.clone().into_owned()).collect();
            let peer = Peer {
                address,
                certificates,
            };
            speak(TokioIo::new(stream), peer, router, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake for HTTP has failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake for HTTP took too long"),
    }
}

async fn speak<S>(stream: S, peer: Peer, router: Router, stop: Shutdown)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let address = peer.address;
    let service = tower_of(router, peer);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(BUFFER)
        .serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection for HTTP has ended");
    }
}

type Service = TowerToHyperService<axum::routing::RouterIntoService<Incoming>>;

/// The router for one connection: its handlers find the [`Peer`] as [`ConnectInfo`].
fn tower_of(router: Router, peer: Peer) -> Service {
    let router = router.layer(axum::Extension(ConnectInfo(peer)));
    TowerToHyperService::new(router.into_service())
}

/// A request as handlers take it.
pub type HttpRequest = Request<Body>;
