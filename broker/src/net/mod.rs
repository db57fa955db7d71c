//! From a bound address to a byte stream that carries MQTT.
//!
//! The accept loop does nothing but accept: the socket goes to a worker at once, and PROXY header,
//! TLS and WebSocket handshakes happen there, under the connect timeout. What comes out is an
//! [`Accepted`]: one byte stream whatever is below it, and what is known about the peer.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use futures_util::future::BoxFuture;

pub mod acceptor;
mod certificate;
pub mod gate;
pub mod listener;
mod proxy;
pub mod slots;
pub mod sniff;
pub mod tls;
mod transport;
pub mod websocket;

use crate::abuse::{Here, Shaking};
use crate::auth::Method;
use crate::config::ListenerKind;
pub use certificate::ClientCertificate;
pub(crate) use certificate::hex;
pub use slots::Slot;
pub use transport::Transport;

/// What is known about a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// What is spoken below MQTT.
    pub kind: ListenerKind,
    /// What it has bound; the port is never 0.
    pub address: SocketAddr,
    /// Whether clients without a name are accepted.
    pub anonymous: bool,
    /// The methods that are asked who a client is, in order.
    pub auth: Arc<[Method]>,
    /// Where the WebSocket listeners are, in words for a person; empty when there are none.
    pub websocket_hint: Arc<str>,
    /// The tenant of everybody who comes in here.
    pub tenant: Option<Arc<str>>,
}

/// A connection that is ready for its CONNECT packet.
#[derive(Debug)]
pub struct Accepted {
    /// The byte stream.
    pub transport: Transport,
    /// Who is at the other end; what the PROXY header says, if there is one.
    pub peer: SocketAddr,
    /// Where it came in.
    pub listener: Arc<ListenerInfo>,
    /// The name in the client's certificate, where the listener takes one from it.
    pub tls_name: Option<Arc<str>>,
    /// The client's certificate, if it has shown one.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The host name that it asked for in its TLS handshake.
    pub sni: Option<Arc<str>>,
    /// When the socket was accepted: the connect timeout runs from here to the end of CONNECT.
    pub accepted_at: Instant,
    /// What it holds of the bounds.
    pub admission: Admission,
}

/// What a connection holds of the broker's bounds.
#[derive(Debug)]
pub struct Admission {
    /// Its place within `max_connections`, to be dropped with the connection; `None`: there was none, and it is to be
    /// told so when it has said which version it speaks.
    pub slot: Option<Slot>,
    /// Its place within `max_handshakes`, to be dropped when the CONNECT is answered.
    pub place: gate::Place,
    /// Its place within `connections_per_address`, to be dropped with the connection; `None` without such a bound.
    pub here: Option<Box<Here>>,
    /// Its place within `handshakes_per_address`, to be dropped when the CONNECT is answered.
    pub shaking: Option<Shaking>,
}

/// Serves one connection to its end. Called on a worker.
pub type Serve = Arc<dyn Fn(Accepted) -> BoxFuture<'static, ()> + Send + Sync>;
