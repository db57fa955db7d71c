//! A real Redis, as a process that a test may stop, kill and start again.

use std::{
    fs::OpenOptions,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::clock::Clock;
use crate::support::{
    broker::free_port,
    foreign::{Outcome, run},
    wait_until,
};

/// A redis-server on a port and a directory of its own, with an append-only file. With `appendfsync everysec`, the default, it may
/// put off writing for up to two seconds while the disk is busy: what it has answered last may die with it.
pub(crate) struct Redis {
    child: Option<Child>,
    port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    /// The file of a Sentinel; `None`: it is a server with data.
    sentinel: Option<PathBuf>,
    /// Its wall clock, if a test sets it.
    clock: Option<Clock>,
}

impl Redis {
    /// Starts a server.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::launch(arguments, None, false)
    }

    /// Starts a server with a clock that can be set: [`Self::clock`].
    pub(crate) fn start_with_clock() -> Self {
        Self::launch(&[], None, true)
    }

    /// The server's wall clock.
    #[track_caller]
    pub(crate) fn clock(&self) -> &Clock {
        self.clock.as_ref().expect("started with a clock")
    }

    /// Starts a Sentinel with a configuration file of its own.
    pub(crate) fn sentinel(file: &Path) -> Self {
        Self::launch(&[], Some(file.to_path_buf()), false)
    }

    fn launch(arguments: &[&str], sentinel: Option<PathBuf>, clock: bool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("dunlin-redis-")
            .tempdir()
            .expect("a directory");
        let mut redis = Self {
            child: None,
            port: free_port(),
            clock: clock.then(|| Clock::new(dir.path())),
            dir,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            sentinel,
        };
        for _ in 0..5 {
            if redis.spawn() {
                return redis;
            }
            redis.port = free_port();
        }
        panic!(
            "redis-server does not start; `make deps` installs it. Its log:\n{}",
            redis.log()
        );
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `redis-cli` with a command; the answer as text.
    #[track_caller]
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).success().stdout.trim_end().to_owned()
    }

    fn try_ask(&self, command: &[&str]) -> Outcome {
        run(Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(command))
    }

    /// Ends it as an operator would: everything is on disk.
    pub(crate) fn shut_down(&mut self) {
        self.signal(Signal::TERM);
        self.wait();
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill9(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().expect("redis-server can be killed");
        }
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().expect("redis-server ends");
        }
    }

    /// Starts it again, on the same port and with the same files.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "redis-server still runs");
        wait_until("redis-server is back", || self.spawn());
    }

    /// Sends SIGSTOP, SIGCONT or the like.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("redis-server runs");
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("redis-server can be signalled");
    }

    /// Starts the process. False: it ended at once.
    fn spawn(&mut self) -> bool {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("redis.log"))
            .expect("the log can be opened");
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log can be opened twice"))
            .stderr(log);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("redis-server does not start ({error}); `make deps` installs it")
        });
        let child = self.child.insert(child);
        let mut ended = false;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        wait_until("redis-server accepts connections", || {
            ended = child
                .try_wait()
                .expect("redis-server can be waited for")
                .is_some();
            ended || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        });
        if ended {
            self.child = None;
            return false;
        }
        wait_until("redis-server has loaded its data", || {
            self.try_ask(&["PING"]).stdout.trim_end() == "PONG"
        });
        true
    }

    fn command(&self) -> Command {
        let mut command = Command::new("redis-server");
        if let Some(clock) = &self.clock {
            clock.apply(&mut command);
        }
        if let Some(file) = &self.sentinel {
            command.arg(file).arg("--sentinel");
        }
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--dir".as_ref(), self.dir.path().as_os_str()]);
        if self.sentinel.is_none() {
            command
                .args(["--save", "", "--appendonly", "yes"])
                .args(["--maxmemory-policy", "noeviction"])
                .args(&self.arguments);
        }
        command
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill9();
    }
}
