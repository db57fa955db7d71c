//! One MQTT connection of a device: TCP or TLS, the CONNECT, and frames in and out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dunlin_protocol::{
    ConnAck, Connect, Disconnect, Packet, PropertiesBuf, Property, QoS, ReasonCode, Sender,
    Version, decode, peek_frame,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// Bytes that a packet from the broker may have; a publisher gets acknowledgements only.
const PACKET_MAX: u32 = 1 << 20;
const READ_BYTES: usize = 4096;

/// How devices connect and who they say they are.
#[derive(Debug, Clone)]
pub struct Login {
    /// Host name or address of the broker.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// MQTT version.
    pub version: Version,
    /// Put before the device's name to make its client id.
    pub client_id_prefix: String,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    /// Seconds that the broker keeps the session over a broken connection (MQTT 5).
    pub session_expiry: u32,
    /// TLS, where it is wanted.
    pub tls: Option<TlsFiles>,
}

/// PEM files for TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificates that are trusted.
    pub ca: PathBuf,
    /// The client's own certificate chain and key, for mutual TLS.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the broker's certificate must have; `None` for the host's.
    pub server_name: Option<String>,
}

/// TLS as read from its files, or plain TCP.
#[derive(Clone)]
pub(crate) enum Transport {
    Plain,
    Tls(TlsConnector, ServerName<'static>),
}

impl Transport {
    pub(crate) fn new(login: &Login) -> Result<Self, Error> {
        let Some(files) = &login.tls else {
            return Ok(Self::Plain);
        };
        let bad = |what: String| Error::Tls(what);
        let mut roots = rustls::RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(&files.ca)
            .map_err(|problem| bad(format!("{}: {problem}", files.ca.display())))?;
        for certificate in certificates {
            let certificate =
                certificate.map_err(|problem| bad(format!("{}: {problem}", files.ca.display())))?;
            roots
                .add(certificate)
                .map_err(|problem| bad(format!("{}: {problem}", files.ca.display())))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|problem| bad(problem.to_string()))?
            .with_root_certificates(roots);
        let config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_file_iter(chain)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|problem| bad(format!("{}: {problem}", chain.display())))?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|problem| bad(format!("{}: {problem}", key.display())))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|problem| bad(problem.to_string()))?
            }
        };
        let name = files
            .server_name
            .clone()
            .unwrap_or_else(|| login.host.clone());
        let name = ServerName::try_from(name.clone())
            .map_err(|_| bad(format!("{name:?} is no server name")))?;
        Ok(Self::Tls(TlsConnector::from(Arc::new(config)), name))
    }
}

trait Socket: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// Why there is no connection, or no longer one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The network, or a time limit.
    #[error("{0}")]
    Network(String),
    /// A CONNACK that says no.
    #[error("{0}")]
    Refused(String),
    /// Trying again cannot help.
    #[error("{0}")]
    Final(String),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Network(error.to_string())
    }
}

/// What the broker's CONNACK says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Welcome {
    pub(crate) session_present: bool,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_qos: QoS,
    pub(crate) keep_alive: u16,
}

/// A connection on which CONNECT has been accepted.
pub(crate) struct Link {
    socket: Box<dyn Socket>,
    buffer: BytesMut,
    version: Version,
}

impl Link {
    /// Connects and logs in. Not cancel safe: a dropped call leaves no connection.
    pub(crate) async fn open(
        login: &Login,
        transport: &Transport,
        client_id: &str,
        clean: bool,
        limit: Duration,
    ) -> Result<(Self, Welcome), Trouble> {
        match tokio::time::timeout(limit, Self::log_in(login, transport, client_id, clean)).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::Network(format!(
                "no CONNACK within {} s",
                limit.as_secs()
            ))),
        }
    }

    async fn log_in(
        login: &Login,
        transport: &Transport,
        client_id: &str,
        clean: bool,
    ) -> Result<(Self, Welcome), Trouble> {
        let tcp = TcpStream::connect((login.host.as_str(), login.port)).await?;
        tcp.set_nodelay(true)?;
        let socket: Box<dyn Socket> = match transport {
            Transport::Plain => Box::new(tcp),
            Transport::Tls(connector, name) => {
                Box::new(connector.connect(name.clone(), tcp).await?)
            }
        };
        let mut link = Self {
            socket,
            buffer: BytesMut::new(),
            version: login.version,
        };
        let mut properties = PropertiesBuf::new();
        if login.version.is_v5() && login.session_expiry > 0 {
            let expiry = Property::SessionExpiryInterval(login.session_expiry);
            properties
                .push(expiry)
                .map_err(|problem| Trouble::Final(problem.to_string()))?;
        }
        let connect = Connect {
            clean_start: clean,
            keep_alive: login.keep_alive,
            properties: properties.as_properties(),
            username: login.user.as_deref(),
            password: login.password.as_deref().map(str::as_bytes),
            ..Connect::new(login.version, client_id)
        };
        link.send(&Packet::Connect(connect)).await?;
        loop {
            if let Some(frame) = link.next_frame()? {
                return match link.decode(&frame)? {
                    Packet::ConnAck(connack) => {
                        Ok((welcome(&connack, login)?, link)).map(|(welcome, link)| (link, welcome))
                    }
                    other => Err(Trouble::Network(format!(
                        "{:?} in place of a CONNACK",
                        other.packet_type()
                    ))),
                };
            }
            link.read_more().await?;
        }
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Waits for bytes. Cancel safe.
    pub(crate) async fn read_more(&mut self) -> Result<(), Trouble> {
        self.buffer.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.buffer).await? {
            0 => Err(Trouble::Network(
                "the broker closed the connection".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The next whole packet among the bytes read.
    pub(crate) fn next_frame(&mut self) -> Result<Option<BytesMut>, Trouble> {
        let header = peek_frame(&self.buffer, PACKET_MAX).map_err(|problem| {
            Trouble::Network(format!("the broker sent a malformed packet: {problem}"))
        })?;
        Ok(header
            .filter(|header| header.total_len <= self.buffer.len())
            .map(|header| self.buffer.split_to(header.total_len)))
    }

    /// Reads a frame as a packet from the broker.
    pub(crate) fn decode<'a>(&self, frame: &'a [u8]) -> Result<Packet<'a>, Trouble> {
        decode(frame, self.version, Sender::Server).map_err(|problem| {
            Trouble::Network(format!("the broker sent a malformed packet: {problem}"))
        })
    }

    /// Writes all bytes. Not cancel safe.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await?;
        Ok(())
    }

    pub(crate) async fn send(&mut self, packet: &Packet<'_>) -> Result<(), Trouble> {
        let mut out = Vec::new();
        packet
            .encode(self.version, &mut out)
            .map_err(|problem| Trouble::Final(problem.to_string()))?;
        self.write(&out).await
    }

    /// Says goodbye. In MQTT 5 the session ends with it.
    pub(crate) async fn close(mut self, session_ends: bool) -> Result<(), Trouble> {
        let mut properties = PropertiesBuf::new();
        if self.version.is_v5() && session_ends {
            let ends = Property::SessionExpiryInterval(0);
            properties
                .push(ends)
                .map_err(|problem| Trouble::Final(problem.to_string()))?;
        }
        let disconnect = Disconnect {
            properties: properties.as_properties(),
            ..Disconnect::new(ReasonCode::NORMAL_DISCONNECTION)
        };
        self.send(&Packet::Disconnect(disconnect)).await?;
        Ok(self.socket.shutdown().await?)
    }
}

fn welcome(connack: &ConnAck<'_>, login: &Login) -> Result<Welcome, Trouble> {
    if connack.reason.0 != 0 {
        return Err(Trouble::Refused(refusal(connack, login.version)));
    }
    let properties = connack.properties;
    Ok(Welcome {
        session_present: connack.session_present,
        receive_maximum: properties.receive_maximum().unwrap_or(u16::MAX),
        maximum_qos: properties.maximum_qos().unwrap_or(QoS::ExactlyOnce),
        keep_alive: properties.server_keep_alive().unwrap_or(login.keep_alive),
    })
}

fn refusal(connack: &ConnAck<'_>, version: Version) -> String {
    let code = connack.reason;
    if version.is_v5() {
        let text = connack
            .properties
            .reason_string()
            .map(|text| format!(" ({text})"))
            .unwrap_or_default();
        return format!("{code}{text}");
    }
    let name = match code.0 {
        1 => "unacceptable protocol version",
        2 => "identifier rejected",
        3 => "server unavailable",
        4 => "bad user name or password",
        5 => "not authorized",
        _ => "unknown return code",
    };
    format!("{name} ({})", code.0)
}
