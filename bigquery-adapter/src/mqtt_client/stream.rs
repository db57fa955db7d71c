//! The byte stream to the broker, with or without TLS.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Address;
use crate::error::Code;

/// Reading side.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// Writing side.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No TCP connection.
    #[error("no TCP connection: {0}")]
    Tcp(io::Error),
    /// No TLS.
    #[error("no TLS: {0}")]
    Tls(io::Error),
    /// The host cannot be the name in a certificate.
    #[error("{0:?} cannot be the name in a certificate; set mqtt.server_name")]
    Name(String),
}

impl OpenError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Tcp(_) => Code::CONNECT,
            Self::Tls(_) | Self::Name(_) => Code::TLS,
        }
    }
}

/// Connects. Cancel safe: dropping it closes the socket.
pub(super) async fn open(
    address: &Address,
    tls: Option<(&Arc<ClientConfig>, &str)>,
) -> Result<(ReadHalf, WriteHalf), OpenError> {
    let tcp = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(OpenError::Tcp)?;
    // Acknowledgements are small and must not wait for each other.
    tcp.set_nodelay(true).map_err(OpenError::Tcp)?;
    let Some((config, name)) = tls else {
        let (read, write) = tcp.into_split();
        return Ok((Box::new(read), Box::new(write)));
    };
    let name =
        ServerName::try_from(name.to_owned()).map_err(|_| OpenError::Name(name.to_owned()))?;
    let stream = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await
        .map_err(OpenError::Tls)?;
    let (read, write) = tokio::io::split(stream);
    Ok((Box::new(read), Box::new(write)))
}
