//! Making a connection: socket, TLS, login, and who is at the other end.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::options::{RedisError, RedisOptions};
use super::resp::{Decoder, RespError, Value, Writer};
use super::tls::Renewing;
use super::url::{Address, Url};

/// Oldest server that knows flags of scripts.
const VERSION_MIN: u32 = 7;
/// Bytes that a read buffer has room for at least.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{address}: {error}")]
    Io { address: String, error: io::Error },
    #[error("{0}: no answer in time")]
    Timeout(String),
    #[error("{address}: {error}")]
    Protocol { address: String, error: RespError },
    #[error("{address} says {error}; {advice}")]
    Said {
        address: String,
        error: String,
        advice: &'static str,
    },
    #[error("{address} is a {role}, not a master")]
    NotMaster {
        address: String,
        role: String,
        cluster: bool,
    },
    #[error("{address} is still loading its data")]
    Loading { address: String },
    #[error("{address} is Redis {version}; at least {VERSION_MIN}.0 is needed")]
    Version { address: String, version: String },
    #[error("no Sentinel knows the master: {0}")]
    NoMaster(String),
}

impl ConnectError {
    /// An operator must act: said as an error, not as a warning.
    pub(super) fn is_operators(&self) -> bool {
        matches!(self, Self::Said { .. } | Self::Version { .. })
    }
}

/// How to reach and enter a server; the same for all of them.
pub(super) struct Access {
    tls: Option<Renewing>,
    user: Option<String>,
    password: Option<String>,
    database: u32,
    timeout: Duration,
    answer_timeout: Duration,
}

impl Access {
    pub(super) fn new(options: &RedisOptions, url: &Url) -> Result<Self, RedisError> {
        Ok(Self {
            tls: url.tls.then(|| Renewing::new(options)).transpose()?,
            user: options.user.clone().or_else(|| url.user.clone()),
            password: options.password.clone().or_else(|| url.password.clone()),
            database: url.database,
            timeout: options.connect_timeout,
            answer_timeout: options.answer_timeout,
        })
    }

    /// Connects and logs in.
    pub(super) async fn connect(&self, address: &Address) -> Result<Wire, ConnectError> {
        self.in_time(address, async {
            let mut wire = self.open(address).await?;
            self.log_in(&mut wire).await?;
            Ok(wire)
        })
        .await
    }

    /// Connects to a Sentinel, which may have another password or none.
    pub(super) async fn connect_sentinel(&self, address: &Address) -> Result<Wire, ConnectError> {
        self.in_time(address, async {
            let mut wire = self.open(address).await?;
            match self.log_in_plainly(&mut wire).await {
                Ok(()) | Err(ConnectError::Said { .. }) => Ok(wire),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn in_time<T>(
        &self,
        address: &Address,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| Err(ConnectError::Timeout(address.to_string())))
    }

    async fn open(&self, address: &Address) -> Result<Wire, ConnectError> {
        let failed = |error| ConnectError::Io {
            address: address.to_string(),
            error,
        };
        let (read, write): (Reading, Writing) = match address {
            Address::Unix(path) => {
                let (read, write) = UnixStream::connect(path)
                    .await
                    .map_err(failed)?
                    .into_split();
                (Box::new(read), Box::new(write))
            }
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(failed)?;
                self.tune(&stream).map_err(failed)?;
                match &self.tls {
                    None => {
                        let (read, write) = stream.into_split();
                        (Box::new(read), Box::new(write))
                    }
                    Some(renewing) => {
                        let name = renewing
                            .name(host)
                            .map_err(|error| failed(io::Error::other(error)))?;
                        let stream = tokio_rustls::TlsConnector::from(renewing.config())
                            .connect(name, stream)
                            .await
                            .map_err(failed)?;
                        let (read, write) = tokio::io::split(stream);
                        (Box::new(read), Box::new(write))
                    }
                }
            }
        };
        Ok(Wire {
            address: address.to_string(),
            read,
            write,
            buffer: BytesMut::with_capacity(READ_BYTES),
            decoder: Decoder::default(),
        })
    }

    /// No delay for small writes; a dead peer is noticed by the kernel, too; and what is still in the
    /// socket when it is given up is thrown away, so that it cannot come after what a new connection sends.
    fn tune(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(stream);
        socket.set_linger(Some(Duration::ZERO))?;
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(self.answer_timeout.max(Duration::from_secs(1)))
            .with_interval(Duration::from_secs(1));
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.answer_timeout * 2))?;
        Ok(())
    }

    async fn log_in(&self, wire: &mut Wire) -> Result<(), ConnectError> {
        self.log_in_plainly(wire).await?;
        wire.ask(&[b"CLIENT", b"SETNAME", b"dunlin"]).await?;
        if self.database != 0 {
            let database = self.database.to_string();
            wire.ask(&[b"SELECT", database.as_bytes()]).await?;
        }
        Ok(())
    }

    async fn log_in_plainly(&self, wire: &mut Wire) -> Result<(), ConnectError> {
        let Some(password) = &self.password else {
            return Ok(());
        };
        let user = self.user.as_deref().unwrap_or_default().as_bytes();
        let password = password.as_bytes();
        match user.is_empty() {
            true => wire.ask(&[b"AUTH", password]).await,
            false => wire.ask(&[b"AUTH", user, password]).await,
        }
        .map(drop)
    }
}

fn advice(error: &str) -> &'static str {
    match error.split(' ').next().unwrap_or_default() {
        "NOAUTH" => "give the password of Redis (redis.password_file)",
        "WRONGPASS" | "ERR" if error.contains("AUTH") || error.starts_with("WRONGPASS") => {
            "user and password are not those of Redis: correct them (redis.url, redis.password_file)"
        }
        "NOPERM" => "give the account of the broker the commands and keys that docs/redis.md names",
        _ => "it is tried again",
    }
}

type Reading = Box<dyn AsyncRead + Send + Unpin>;
type Writing = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection that is logged in.
pub(super) struct Wire {
    pub(super) address: String,
    pub(super) read: Reading,
    pub(super) write: Writing,
    pub(super) buffer: BytesMut,
    pub(super) decoder: Decoder,
}

impl Wire {
    /// One command, one answer. An error of Redis is an error. Not to be dropped half-way.
    pub(super) async fn ask(&mut self, args: &[&[u8]]) -> Result<Value, ConnectError> {
        self.send(args).await?;
        self.receive_good().await
    }

    /// The next answer; an error of Redis is an error.
    pub(super) async fn receive_good(&mut self) -> Result<Value, ConnectError> {
        match self.receive().await? {
            Value::Error(error) => Err(self.said(error)),
            value => Ok(value),
        }
    }

    /// What Redis says instead of an answer, with what to do.
    pub(super) fn said(&self, error: String) -> ConnectError {
        ConnectError::Said {
            address: self.address.clone(),
            advice: advice(&error),
            error,
        }
    }

    pub(super) async fn send(&mut self, args: &[&[u8]]) -> Result<(), ConnectError> {
        let mut writer = Writer::default();
        writer.command(args);
        self.write_all(&writer.bytes).await
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let result = self.write.write_all(bytes).await;
        result.map_err(|error| self.io(error))?;
        let result = self.write.flush().await;
        result.map_err(|error| self.io(error))
    }

    /// The next answer. Cancel safe: what has been read stays in the buffer.
    pub(super) async fn receive(&mut self) -> Result<Value, ConnectError> {
        loop {
            let next = self.decoder.next(&mut self.buffer);
            if let Some(value) = next.map_err(|error| self.protocol(error))? {
                return Ok(value);
            }
            self.buffer.reserve(READ_BYTES);
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(self.io(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(self.io(error)),
            }
        }
    }

    pub(super) fn io(&self, error: io::Error) -> ConnectError {
        ConnectError::Io {
            address: self.address.clone(),
            error,
        }
    }

    pub(super) fn protocol(&self, error: RespError) -> ConnectError {
        ConnectError::Protocol {
            address: self.address.clone(),
            error,
        }
    }
}

/// Who a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// The process and the history of its data: another one after a restart, a failover, a resynchronisation.
    pub(super) name: [u8; 8],
    pub(super) cluster: bool,
}

impl Server {
    /// Asks who is there; an error if it is not a master that can be written to.
    pub(super) async fn of(wire: &mut Wire) -> Result<Self, ConnectError> {
        let info = wire.ask(&[b"INFO"]).await?;
        let Value::Bulk(info) = info else {
            return Err(wire.protocol(RespError::Type(b'?')));
        };
        let info = String::from_utf8_lossy(&info);
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let address = wire.address.clone();
        let version = field("redis_version").unwrap_or("0").to_owned();
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        if major.unwrap_or(0) < VERSION_MIN {
            return Err(ConnectError::Version { address, version });
        }
        if field("loading").is_some_and(|loading| loading != "0") {
            return Err(ConnectError::Loading { address });
        }
        let cluster = field("cluster_enabled") == Some("1");
        let role = field("role").unwrap_or("master").to_owned();
        if role != "master" {
            return Err(ConnectError::NotMaster {
                address,
                role,
                cluster,
            });
        }
        let identity = format!(
            "{}{}",
            field("run_id").unwrap_or_default(),
            field("master_replid").unwrap_or_default()
        );
        Ok(Self {
            name: fnv(identity.as_bytes()).to_le_bytes(),
            cluster,
        })
    }
}

/// All replicas must find the same name for the same server: FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
