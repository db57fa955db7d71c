//! What a client shows of itself when it connects.

use std::net::SocketAddr;
use std::sync::Arc;

use dunlin_protocol::Version;
use zeroize::Zeroizing;

use crate::net::{ClientCertificate, ListenerInfo};

/// What a client shows of itself.
#[derive(Clone)]
pub struct Credentials {
    /// The client id, given or assigned.
    pub client_id: Arc<str>,
    /// The user name of CONNECT.
    pub username: Option<Arc<str>>,
    /// The password of CONNECT; overwritten when it has been asked for.
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// The name in the client's certificate, where the listener takes one from it.
    pub tls_name: Option<Arc<str>>,
    /// The client's certificate, which its authority has signed and which is not revoked.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The host name that the client asked for in its TLS handshake. It says what it likes: this proves nothing.
    pub sni: Option<Arc<str>>,
    /// What it speaks.
    pub version: Version,
    /// This name has logged in from this address lately: its password need not wait behind those of strangers.
    pub known: bool,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Where it came in.
    pub listener: Arc<ListenerInfo>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
