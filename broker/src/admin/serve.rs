//! The listener of the administration.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::tokens::Tokens;
use super::{Admin, CONNECTIONS, router};
use crate::config::AdminFiles;
use crate::http::server;
use crate::hub::Hub;
use crate::registry::Registry;
use crate::shutdown::Shutdown;

/// How long answers that are under way are waited for at the end.
const GRACE: Duration = Duration::from_secs(2);

/// What can be renewed while the administration is served. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    tokens: Arc<ArcSwap<Tokens>>,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
}

impl Access {
    pub(crate) fn new(files: AdminFiles) -> Self {
        Self {
            tokens: Arc::new(ArcSwap::from_pointee(files.tokens)),
            tls: files.tls.map(|tls| Arc::new(ArcSwap::new(tls.config))),
        }
    }

    /// These tokens are good from now on; false when they are the same.
    pub(crate) fn renew_tokens(&self, tokens: Tokens) -> bool {
        if **self.tokens.load() == tokens {
            return false;
        }
        self.tokens.store(Arc::new(tokens));
        true
    }

    /// New connections get this TLS.
    pub(crate) fn renew_tls(&self, tls: crate::net::tls::Loaded) {
        if let Some(place) = &self.tls {
            place.store(tls.config);
        }
    }
}

/// Serves until `stop`.
pub(crate) async fn serve(
    socket: std::net::TcpListener,
    access: Access,
    hub: Arc<Hub>,
    registry: Arc<Registry>,
    stop: Shutdown,
) -> std::io::Result<()> {
    let admin = Arc::new(Admin {
        hub,
        registry,
        tokens: access.tokens,
    });
    let tls = access
        .tls
        .map(|tls| Arc::new(move || tls.load_full()) as server::Tls);
    server::serve(socket, tls, router(admin), CONNECTIONS, stop, GRACE).await
}
