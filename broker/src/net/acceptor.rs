//! What happens to one socket before MQTT: PROXY header, TLS, WebSocket; on a worker, under the
//! connect timeout.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Accepted, Admission, ClientCertificate, ListenerInfo, Transport,
    proxy::{self, ProxyError},
    sniff::{Sniffed, sniff},
    tls, websocket,
};
use crate::{
    abuse::{Guard, Here, Shaking},
    audit::{Audit, Event, Kind},
    auth::Method,
    config::{ListenerKind, NameFrom, ProxyProtocol, TenantFrom},
    ops::Metrics,
};

/// How sockets of one listener become connections.
#[derive(Debug)]
pub struct Acceptor {
    /// The listener.
    pub info: ArcSwap<ListenerInfo>,
    /// TLS, where the listener has it. Swapped as a whole, so that certificates can be renewed while
    /// the broker runs.
    pub tls: Option<ArcSwap<Serving>>,
    /// Where the user name is taken from.
    pub name_from: Option<NameFrom>,
    /// Where the tenant is taken from.
    pub tenant_from: Option<TenantFrom>,
    /// Whether a PROXY header comes first.
    pub proxy: ProxyProtocol,
    /// The path of a WebSocket listener.
    pub path: String,
    /// From the accepted socket to the complete CONNECT.
    pub connect_timeout: Duration,
    /// Bytes of one WebSocket message.
    pub max_message: usize,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
    /// Where refusals are recorded.
    pub audit: Arc<Audit>,
    /// Bounds by address, bans.
    pub guard: Arc<Guard>,
}

/// What a client has shown of itself below MQTT.
#[derive(Debug, Default)]
struct Shown {
    name: Option<Arc<str>>,
    certificate: Option<Arc<ClientCertificate>>,
    sni: Option<Arc<str>>,
}

/// TLS as new connections get it.
#[derive(Debug)]
pub struct Serving {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// What it was made of.
    pub fingerprint: tls::Fingerprint,
}

impl From<tls::Loaded> for Serving {
    fn from(loaded: tls::Loaded) -> Self {
        Self {
            config: loaded.config,
            fingerprint: loaded.fingerprint,
        }
    }
}

/// Why a socket did not become a connection.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no complete handshake within the connect timeout of {0:?}")]
    Timeout(Duration),
    #[error("closed before it said anything")]
    Silent,
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    #[error("{0}")]
    NotMqtt(String),
    #[error("TLS handshake: {0}")]
    Tls(std::io::Error),
    #[error("client certificate: {0}")]
    Name(String),
    #[error("WebSocket handshake: {0}")]
    WebSocket(Box<tokio_tungstenite::tungstenite::Error>),
    #[error("{0}")]
    Kept(&'static str),
    #[error("the socket failed: {0}")]
    Socket(#[from] std::io::Error),
}

impl Refused {
    /// The word in the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Silent | Self::Socket(_) => "closed",
            Self::Kept(why) => why,
            Self::Proxy(_) => "proxy",
            Self::NotMqtt(_) => "not mqtt",
            Self::Tls(_) | Self::Name(_) => "tls",
            Self::WebSocket(_) => "websocket",
        }
    }
}

impl Acceptor {
    /// The listener.
    #[must_use]
    pub fn info(&self) -> Arc<ListenerInfo> {
        self.info.load_full()
    }

    /// Whether clients without a name are accepted, and who is asked for the others, of those who come from now on.
    pub fn set_access(&self, anonymous: bool, auth: Arc<[Method]>) {
        let info = self.info();
        if info.anonymous != anonymous || info.auth != auth {
            let info = ListenerInfo::clone(&info);
            self.info.store(Arc::new(ListenerInfo {
                anonymous,
                auth,
                ..info
            }));
        }
    }

    /// Connections that come from now on get this; false when it is what they get already, or the listener has no TLS.
    pub fn set_tls(&self, loaded: tls::Loaded) -> bool {
        let Some(serving) = &self.tls else {
            return false;
        };
        if serving.load().fingerprint == loaded.fingerprint {
            return false;
        }
        serving.store(Arc::new(loaded.into()));
        true
    }

    /// Makes a connection of a socket; `None` when it is none, which has then been logged and counted.
    /// Must run on the runtime that will serve the connection. Not cancel safe: the socket is lost.
    pub async fn accept(
        &self,
        socket: std::net::TcpStream,
        peer: SocketAddr,
        accepted_at: Instant,
        mut admission: Admission,
    ) -> Option<Accepted> {
        let mut from = peer;
        let info = self.info();
        let handshake = self.handshake(socket, (&mut from, &mut admission), &info);
        let left = self.connect_timeout.saturating_sub(accepted_at.elapsed());
        let result = match tokio::time::timeout(left, handshake).await {
            Ok(result) => result,
            Err(_) => Err(Refused::Timeout(self.connect_timeout)),
        };
        match result {
            Ok((transport, shown)) => {
                let listener = info;
                Some(Accepted {
                    transport,
                    peer: from,
                    listener,
                    tls_name: shown.name,
                    certificate: shown.certificate,
                    sni: shown.sni,
                    accepted_at,
                    admission,
                })
            }
            Err(refused) => {
                if !matches!(refused, Refused::Kept(_)) {
                    self.metrics.refused(refused.reason());
                }
                let listener = &*info.name;
                match refused {
                    // Connections come and go; nothing was wrong with what they said.
                    Refused::Silent | Refused::Socket(_) | Refused::Kept(_) => {
                        tracing::debug!(listener, peer = %from, "connection refused: {refused}");
                    }
                    _ => {
                        let event = Event::new(Kind::Refused).peer(from).listener(listener);
                        self.audit.record(event.why(&refused.to_string()));
                        if self.guard.talk.may() {
                            tracing::info!(listener, peer = %from, "connection refused: {refused}");
                        }
                    }
                }
                None
            }
        }
    }

    /// Lets a new connection of an address in, or counts it as refused.
    ///
    /// # Errors
    /// Why not, as a word.
    pub(super) fn enter(
        &self,
        address: IpAddr,
    ) -> Result<Option<(Box<Here>, Shaking)>, &'static str> {
        let entered = match self.guard.bans.holds_address(address) {
            true => Err("banned"),
            false => self.guard.sources.enter(address),
        };
        entered.inspect_err(|why| {
            self.metrics.refused(why);
            if self.audit.wants(Kind::Refused) {
                let event = Event::new(Kind::Refused).peer((address, 0).into());
                self.audit
                    .record(event.listener(&self.info().name).why(why));
            }
        })
    }

    async fn handshake(
        &self,
        socket: std::net::TcpStream,
        (peer, admission): (&mut SocketAddr, &mut Admission),
        info: &ListenerInfo,
    ) -> Result<(Transport, Shown), Refused> {
        let mut tcp = TcpStream::from_std(socket)?;
        tcp.set_nodelay(true)?;
        if self.proxy != ProxyProtocol::Off
            && let Some(client) = proxy::read(&mut tcp, self.proxy).await?
        {
            *peer = client;
            let from = self.enter(client.ip()).map_err(Refused::Kept)?;
            (admission.here, admission.shaking) = from.unzip();
        }
        match info.kind {
            // What does not begin with CONNECT is noticed when it is read.
            ListenerKind::Tcp => Ok((Transport::Tcp(tcp), Shown::default())),
            ListenerKind::Ws => {
                self.look(&mut tcp, info, |found| {
                    matches!(found, Sniffed::Mqtt | Sniffed::Tls | Sniffed::Proxy)
                })
                .await?;
                let stream = Box::new(self.websocket(tcp).await?);
                Ok((Transport::Ws(stream), Shown::default()))
            }
            ListenerKind::Tls => {
                let (stream, shown) = self.tls(tcp, info).await?;
                Ok((Transport::Tls(Box::new(stream)), shown))
            }
            ListenerKind::Wss => {
                let (stream, shown) = self.tls(tcp, info).await?;
                let stream = Box::new(self.websocket(stream).await?);
                Ok((Transport::Wss(stream), shown))
            }
        }
    }

    /// Looks at the first bytes without taking them, and refuses what is meant for another listener.
    async fn look(
        &self,
        tcp: &mut TcpStream,
        info: &ListenerInfo,
        wrong: impl Fn(Sniffed) -> bool,
    ) -> Result<(), Refused> {
        let mut first = [0; 3];
        let len = tcp.peek(&mut first).await?;
        if len == 0 {
            return Err(Refused::Silent);
        }
        let Some(found) = sniff(first.get(..len).unwrap_or_default()).filter(|found| wrong(*found))
        else {
            return Ok(());
        };
        let answer = found.answer(info);
        if !answer.is_empty() {
            websocket::say_last(tcp, &answer).await?;
        }
        Err(Refused::NotMqtt(found.message(info)))
    }

    async fn tls(
        &self,
        mut tcp: TcpStream,
        info: &ListenerInfo,
    ) -> Result<(TlsStream<TcpStream>, Shown), Refused> {
        self.look(&mut tcp, info, |found| found != Sniffed::Tls)
            .await?;
        let Some(serving) = &self.tls else {
            return Err(Refused::Tls(std::io::Error::other(
                "the listener has no certificate",
            )));
        };
        let stream = TlsAcceptor::from(Arc::clone(&serving.load().config))
            .accept(tcp)
            .await
            .map_err(Refused::Tls)?;
        let mut shown = Shown {
            sni: stream.get_ref().1.server_name().map(Arc::from),
            ..Shown::default()
        };
        if let Some(chain) = stream.get_ref().1.peer_certificates()
            && let Some(certificate) = chain.first()
        {
            if let Some(from) = self.name_from {
                shown.name = Some(tls::peer_name(certificate, from).map_err(Refused::Name)?);
            }
            let mut read = ClientCertificate::read(chain).map_err(Refused::Name)?;
            if let Some(from) = self.tenant_from {
                let tenant =
                    super::certificate::tenant(certificate, from).map_err(Refused::Name)?;
                read.tenant = Some(tenant);
            }
            shown.certificate = Some(Arc::new(read));
        }
        Ok((stream, shown))
    }

    async fn websocket<S>(&self, stream: S) -> Result<websocket::WsStream<S>, Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        websocket::accept(stream, &self.path, self.max_message)
            .await
            .map_err(|error| Refused::WebSocket(Box::new(error)))
    }
}
