//! One listener whose connections are echoed, on workers of its own.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use dunlin_broker::{
    auth::Method,
    config::{ListenerKind, ProxyProtocol, TlsConfig},
    net::{
        Accepted, Admission, ListenerInfo, Serve,
        acceptor::Acceptor,
        gate::Gate,
        listener::{self, Bound},
        slots::Slots,
        tls,
    },
    ops::Metrics,
    shutdown::Shutdown,
    workers::Workers,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

/// How long a test waits for what must happen.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What the rig saw of a connection.
#[derive(Debug)]
pub struct Seen {
    pub peer: SocketAddr,
    pub tls_name: Option<String>,
    /// It has a place within `max_connections`.
    pub has_slot: bool,
}

/// How the rig is set up.
pub struct Setup {
    pub kind: ListenerKind,
    pub tls: Option<TlsConfig>,
    pub proxy: ProxyProtocol,
    pub connect_timeout: Duration,
    pub max_connections: usize,
    pub max_handshakes: usize,
    pub max_message: usize,
}

impl Setup {
    pub fn new(kind: ListenerKind) -> Self {
        Self {
            kind,
            tls: None,
            proxy: ProxyProtocol::Off,
            connect_timeout: LIMIT,
            max_connections: 1_000,
            max_handshakes: 1_000,
            max_message: 64 * 1024,
        }
    }

    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    pub fn proxy(mut self, proxy: ProxyProtocol) -> Self {
        self.proxy = proxy;
        self
    }

    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    pub fn max_handshakes(mut self, max: usize) -> Self {
        self.max_handshakes = max;
        self
    }

    pub fn start(self) -> Rig {
        let metrics = Arc::new(Metrics::default());
        let socket = listener::bind("rig", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = socket.local_addr().unwrap();
        let info = ListenerInfo {
            name: "rig".into(),
            kind: self.kind,
            address,
            anonymous: true,
            auth: Arc::new(Method::ASKED),
            websocket_hint: "MQTT over WebSocket is at ws://elsewhere/mqtt.".into(),
            tenant: None,
        };
        let name_from = self.tls.as_ref().and_then(|tls| tls.name_from);
        let tenant_from = self.tls.as_ref().and_then(|tls| tls.tenant_from);
        let bound = Bound {
            socket,
            acceptor: Arc::new(Acceptor {
                info: ArcSwap::from_pointee(info),
                tls: self
                    .tls
                    .map(|tls| ArcSwap::from_pointee(tls::load(&tls).unwrap().into())),
                name_from,
                tenant_from,
                proxy: self.proxy,
                path: "/mqtt".to_owned(),
                connect_timeout: self.connect_timeout,
                max_message: self.max_message,
                metrics: Arc::clone(&metrics),
                audit: dunlin_broker::audit::Audit::off(),
                guard: dunlin_broker::abuse::Guard::new(
                    &Default::default(),
                    &Default::default(),
                    Arc::clone(&metrics),
                ),
            }),
            slots: Box::new([Slots::shown(
                self.max_connections,
                metrics.sockets_open.clone(),
            )]),
            gate: Gate::new(0, 0, self.max_handshakes, Arc::clone(&metrics)),
        };
        let workers = Arc::new(Workers::start(2, |_late| {}).unwrap());
        let shutdown = Shutdown::default();
        let (seen, seen_by_rig) = mpsc::channel(1_000);
        let serve: Serve = Arc::new(move |accepted| Box::pin(echo(accepted, seen.clone())));
        tokio::spawn(listener::run(
            vec![bound],
            Arc::clone(&workers),
            shutdown.clone(),
            serve,
        ));
        Rig {
            address,
            metrics,
            workers,
            shutdown,
            seen: seen_by_rig,
        }
    }
}

async fn echo(mut accepted: Accepted, seen: mpsc::Sender<Seen>) {
    assert!(
        Workers::current().is_some(),
        "connections are served on workers"
    );
    let tls_name = accepted.tls_name.as_deref().map(str::to_owned);
    let Admission { slot, place, .. } = accepted.admission;
    seen.send(Seen {
        peer: accepted.peer,
        tls_name,
        has_slot: slot.is_some(),
    })
    .await
    .unwrap();
    // As if its CONNECT had been answered.
    drop(place);
    if slot.is_none() {
        return;
    }
    let mut buffer = vec![0; 4_096];
    while let Ok(len @ 1..) = accepted.transport.read(&mut buffer).await {
        accepted.transport.write_all(&buffer[..len]).await.unwrap();
        accepted.transport.flush().await.unwrap();
    }
    // The other end may be gone.
    let _closed = accepted.transport.shutdown().await;
}

pub struct Rig {
    pub address: SocketAddr,
    pub metrics: Arc<Metrics>,
    pub workers: Arc<Workers>,
    shutdown: Shutdown,
    seen: mpsc::Receiver<Seen>,
}

impl Rig {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The next connection that got as far as being served.
    pub async fn seen(&mut self) -> Seen {
        tokio::time::timeout(LIMIT, self.seen.recv())
            .await
            .expect("no connection was served")
            .unwrap()
    }

    /// Whether no connection has been served that was not asked for.
    pub fn saw_nothing_more(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    /// Waits until refusals of a reason have been counted.
    pub async fn refused(&self, reason: &str, count: u64) {
        let line = format!("dunlin_connections_refused_total{{reason=\"{reason}\"}} {count}\n");
        wait_for(&format!("the metric {line}"), || {
            self.metrics.render().contains(&line)
        })
        .await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.trigger();
        self.workers.stop(Duration::ZERO);
    }
}

/// Waits until something holds.
pub async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends bytes and expects them back.
pub async fn expect_echo<S>(stream: &mut S, bytes: &[u8])
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    expect(stream, bytes).await;
}

/// Expects bytes.
pub async fn expect<S: tokio::io::AsyncRead + Unpin>(stream: &mut S, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut got))
        .await
        .expect("no echo")
        .unwrap();
    assert_eq!(got, bytes);
}

/// Reads to the end; a reset counts as one.
pub async fn read_to_end<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut got = Vec::new();
    // What came before a reset is in the buffer.
    let _reset = tokio::time::timeout(LIMIT, stream.read_to_end(&mut got))
        .await
        .expect("not closed")
        .is_err();
    got
}
