//! The listener of provisioning.

use std::sync::Arc;
use std::time::Duration;

use super::{Provisioner, http};
use crate::http::server;
use crate::shutdown::Shutdown;

/// Connections that are served at a time.
const CONNECTIONS: usize = 512;
/// How long answers that are under way are waited for at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until `stop`.
pub(crate) async fn serve(
    socket: std::net::TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    provisioner: Arc<Provisioner>,
    stop: Shutdown,
) -> std::io::Result<()> {
    let tls = tls.map(|tls| Arc::new(move || Arc::clone(&tls)) as server::Tls);
    server::serve(
        socket,
        tls,
        http::router(provisioner),
        CONNECTIONS,
        stop,
        GRACE,
    )
    .await
}
