//! How Redis is reached.

use std::path::PathBuf;
use std::time::Duration;

use super::names::DEFAULT_PREFIX;
use super::url::UrlError;

/// See [`RedisOptions::server_name`].
pub const ANY_NAME: &str = "*";

/// How Redis is reached.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://`, `rediss://`, `redis+unix://`, `redis+sentinel://` or `redis+cluster://`; a server of
    /// a Redis Cluster behind `redis://` is noticed.
    pub url: String,
    /// Instead of the user of the URL.
    pub user: Option<String>,
    /// Instead of the password of the URL.
    pub password: Option<String>,
    /// PEM with the authorities that may have signed the server's certificate; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// What the servers' certificates must name instead of the address that was connected to. [`ANY_NAME`]: whatever they like, if
    /// they are from an authority of `ca_file`, which must be given then.
    pub server_name: Option<String>,
    /// PEM with a client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM with the key of the client certificate.
    pub key_file: Option<PathBuf>,
    /// First part of every key; the channel is called `sync`, or with another prefix than `dunlin`
    /// `<prefix>:sync`.
    pub prefix: String,
    /// Making a connection, TLS and login included. Default 2 s.
    pub connect_timeout: Duration,
    /// A connection over which nothing has come for so long while an answer is due is replaced. Default 3 s.
    pub answer_timeout: Duration,
    /// Shortest pause between attempts to connect; doubled each time, with jitter. Default 50 ms.
    pub backoff_min: Duration,
    /// Longest such pause. Default 2 s.
    pub backoff_max: Duration,
    /// Bytes of acknowledged writes, per master, that are kept to be written again when a failover has
    /// lost them. 0: none. Default 64 MiB.
    pub ring_bytes: usize,
    /// How long they are kept. Default 30 s.
    pub ring_age: Duration,
    /// So many replicas of Redis must have a write before it counts as done, and how many milliseconds one
    /// `WAIT` for them takes at most. Writes are not acknowledged while there are fewer. Default none.
    pub wait_replicas: Option<(u32, u32)>,
}

impl RedisOptions {
    /// The defaults, for Redis at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            password: None,
            ca_file: None,
            server_name: None,
            cert_file: None,
            key_file: None,
            prefix: DEFAULT_PREFIX.to_owned(),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            ring_bytes: 64 << 20,
            ring_age: Duration::from_secs(30),
            wait_replicas: None,
        }
    }
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisOptions")
            .field("prefix", &self.prefix)
            .field("ring_bytes", &self.ring_bytes)
            .field("wait_replicas", &self.wait_replicas)
            .finish_non_exhaustive()
    }
}

/// Why the backplane cannot be started. That Redis does not answer is no reason: it is tried again for ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// The URL makes no sense.
    #[error("the URL of Redis cannot be used: {0}")]
    Url(#[from] UrlError),
    /// A file cannot be read, or does not hold what it should.
    #[error("cannot use {file} for TLS with Redis: {reason}")]
    Tls {
        /// Which.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The prefix would change the hash slots of keys.
    #[error("the prefix {0:?} of keys must not be empty or have braces")]
    Prefix(String),
}
