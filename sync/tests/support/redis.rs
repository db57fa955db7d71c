//! Redis servers for tests: each on a port of its own, in a directory of its own, ended with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::{Backplane, BackplaneError, Head, Reply, Request};
use tokio::runtime::Handle;

/// How long anything may take that is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Runs `redis-server`; fails loudly where it is missing.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    pub(crate) dir: tempfile::TempDir,
    args: Vec<String>,
    config: Option<PathBuf>,
    child: Option<Child>,
}

impl RedisServer {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_on(free_port(), args)
    }

    pub(crate) fn start_on(port: u16, args: &[&str]) -> Self {
        let mut server = Self {
            port,
            dir: tempfile::tempdir().unwrap(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            config: None,
            child: None,
        };
        server.run();
        server
    }

    /// A Sentinel, from its configuration.
    pub(crate) fn start_sentinel(config: &str) -> Self {
        let mut server = Self {
            port: free_port(),
            dir: tempfile::tempdir().unwrap(),
            args: vec!["--sentinel".to_owned()],
            config: None,
            child: None,
        };
        let path = server.dir.path().join("sentinel.conf");
        std::fs::write(&path, config).unwrap();
        server.config = Some(path);
        server.run();
        server
    }

    fn run(&mut self) {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("redis-server");
        if let Some(config) = &self.config {
            command.arg(config);
        }
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--dir", self.dir.path().to_str().unwrap()])
            .args(["--daemonize", "no"]);
        if self.config.is_none() {
            command.args(["--save", ""]);
        }
        let child = command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("redis-server is needed for this test: install it with scripts/deps");
        self.child = Some(child);
        let port = self.port;
        let log = self.dir.path().join("log");
        wait_until(
            || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(),
            || {
                format!(
                    "redis-server on {port}: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                )
            },
        );
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// After [`kill`](Self::kill): the same data directory, the same port.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none());
        self.run();
    }

    /// Runs a command with `redis-cli`, and returns what it says.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        cli(self.port, args)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(args)
        .output()
        .expect("redis-cli is needed for this test: install it with scripts/deps");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits for a level, not for a time.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool, what: impl Fn() -> String) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "waited in vain: {}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same in a task.
pub(crate) async fn until(mut condition: impl FnMut() -> bool, what: &str) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn options(url: impl Into<String>) -> RedisOptions {
    let mut options = RedisOptions::new(url);
    options.backoff_min = Duration::from_millis(10);
    options.backoff_max = Duration::from_millis(100);
    options
}

pub(crate) fn connect(url: impl Into<String>) -> Arc<RedisBackplane> {
    connect_with(options(url))
}

pub(crate) fn connect_with(options: RedisOptions) -> Arc<RedisBackplane> {
    Arc::new(RedisBackplane::start(options, Handle::current()).unwrap())
}

/// Executes one request within the limit.
pub(crate) async fn ask(backplane: &RedisBackplane, request: Request) -> Reply {
    let shown = format!("{request:?}");
    try_ask(backplane, request)
        .await
        .unwrap_or_else(|error| panic!("{error} to {shown:.300}"))
}

pub(crate) async fn try_ask(
    backplane: &RedisBackplane,
    request: Request,
) -> Result<Reply, BackplaneError> {
    ask_all(backplane, vec![request]).await.pop().unwrap()
}

pub(crate) async fn ask_all(
    backplane: &RedisBackplane,
    requests: Vec<Request>,
) -> Vec<Result<Reply, BackplaneError>> {
    tokio::time::timeout(LIMIT, backplane.execute(requests))
        .await
        .unwrap_or_else(|_| panic!("no answer in time: {:?}", backplane.status()))
}

pub(crate) fn head(origin: u64) -> Head {
    let mut head = *b"DN\x01\x01\0\0\0\0\0\0\0\0";
    head[4..].copy_from_slice(&origin.to_le_bytes());
    head
}

/// A record with (1) or without (0) shared subscriptions.
pub(crate) fn record(flags: u8) -> Bytes {
    Bytes::from(vec![1, flags, 0, 255, 254])
}
