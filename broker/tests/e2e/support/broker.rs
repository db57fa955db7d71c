//! The broker under test, as a process of its own.

use std::{
    fs::{self, File, OpenOptions},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{log::Log, wait::wait_until};

/// Exit code of the broker when its port is taken: the harness takes another port and tries again.
const COULD_NOT_BIND: i32 = 3;

/// How to start a broker.
pub(crate) struct Setup {
    dir: TempDir,
    arguments: Vec<String>,
    config: String,
    memory: bool,
    log: Log,
}

impl Setup {
    /// Sets one key of the configuration, as `--set KEY=VALUE`.
    pub(crate) fn set(mut self, key_value: &str) -> Self {
        self.arguments
            .extend(["--set".to_owned(), key_value.to_owned()]);
        self
    }

    /// Gives the broker a configuration file. `{port}` in it is the port of [`Broker::address`], `{dir}` the
    /// broker's own directory; the first listener has to be on that port.
    pub(crate) fn config(mut self, toml: &str) -> Self {
        self.config = toml.to_owned();
        self
    }

    /// Keeps nothing on disk.
    pub(crate) fn memory(mut self) -> Self {
        self.memory = true;
        self
    }

    /// Announces that lines with `text` in the log are no failure.
    pub(crate) fn allow_log(mut self, text: &str) -> Self {
        self.log.allow(text);
        self
    }

    /// Where the broker's files go.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the broker and waits until it accepts connections.
    pub(crate) fn start(self) -> Broker {
        let mut broker = Broker {
            child: None,
            port: free_port(),
            restarts: 0,
            setup: self,
        };
        for _ in 0..5 {
            if broker.spawn() {
                return broker;
            }
            broker.port = free_port();
        }
        panic!("five ports in a row were taken");
    }
}

/// A broker process on a port and a directory of its own. Stopped when it goes out of scope, and its log read.
pub(crate) struct Broker {
    child: Option<Child>,
    port: u16,
    restarts: u32,
    setup: Setup,
}

impl Broker {
    /// A broker to be configured.
    pub(crate) fn setup() -> Setup {
        let dir = tempfile::Builder::new()
            .prefix("dunlin-e2e-")
            .tempdir()
            .expect("a directory");
        let log = Log::new(dir.path().join("broker.log"));
        Setup {
            dir,
            arguments: Vec::new(),
            config: String::new(),
            memory: false,
            log,
        }
    }

    /// A broker with the defaults and an embedded store on disk.
    pub(crate) fn start() -> Self {
        Self::setup().start()
    }

    /// Where the first listener is.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The port of the first listener.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The most memory that the process has had, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let child = self.child.as_ref().expect("the broker runs");
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.expect("the status of the process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        number.expect("a number of kB") * 1024
    }

    /// Where the broker's files are.
    pub(crate) fn dir(&self) -> &Path {
        self.setup.dir()
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.setup.log.text()
    }

    /// Ends the process with SIGKILL, as a crash would.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the broker can be killed");
            child.wait().expect("the broker ends");
        }
    }

    /// Starts the process again on the same port and directory.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "the broker still runs");
        self.restarts += 1;
        wait_until("the port is free again", || self.spawn());
    }

    /// Asks the process to end with SIGTERM and says how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends SIGTERM or the like and does not wait.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the broker runs");
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("the broker can be signalled");
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the broker runs");
        let mut status = None;
        wait_until("the broker ends", || {
            status = child.try_wait().expect("the broker can be waited for");
            status.is_some()
        });
        status.expect("the broker has ended")
    }

    /// Starts the process. False: the port was taken.
    fn spawn(&mut self) -> bool {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join("broker.log"))
            .expect("the log can be opened");
        let mut command = self.command();
        let child = command
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("the log can be opened twice"))
            .stdout(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        self.child = Some(child);
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> bool {
        let address = self.address();
        let child = self.child.as_mut().expect("just started");
        let mut bound = true;
        wait_until("the broker accepts connections", || {
            if let Some(status) = child.try_wait().expect("the broker can be waited for") {
                let log = self.setup.log.text();
                assert!(
                    status.code() == Some(COULD_NOT_BIND),
                    "the broker ended, {status}:\n{log}"
                );
                bound = false;
                return true;
            }
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        });
        if !bound {
            self.child = None;
            // What that attempt had to say about the port is no failure.
            File::create(self.dir().join("broker.log")).expect("the log can be emptied");
        }
        bound
    }

    fn command(&self) -> Command {
        let dir = self.dir().display().to_string();
        let port = self.port.to_string();
        if let Ok(template) = std::env::var("DUNLIN_E2E_COMMAND") {
            return foreign_broker(&template.replace("{port}", &port).replace("{dir}", &dir));
        }
        let mut command = Command::new(executable());
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--no-ops"]);
        if self.setup.memory {
            command.args(["--store", "memory"]);
        } else {
            command.args(["--store", &format!("{dir}/store")]);
        }
        if !self.setup.config.is_empty() {
            let path = self.dir().join("dunlin.toml");
            let text = self
                .setup
                .config
                .replace("{port}", &port)
                .replace("{dir}", &dir);
            fs::write(&path, text).expect("the configuration can be written");
            command = Command::new(executable());
            command.arg("--config").arg(path).arg("--no-ops");
        }
        command.args(&self.setup.arguments);
        command
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!(
                "--- log of the broker on port {}:\n{}",
                self.port,
                self.log()
            );
            return;
        }
        let alarms = self.setup.log.unexpected();
        assert!(
            alarms.is_empty(),
            "unannounced warnings in the log:\n{}",
            alarms.join("\n")
        );
    }
}

/// The `broker` of this build. Tests of other crates find it beside their own folder.
pub(crate) fn executable() -> PathBuf {
    if let Some(path) = option_env!("CARGO_BIN_EXE_broker") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.parent().and_then(Path::parent);
    let broker = target.expect("target/<profile>/deps").join("broker");
    assert!(
        broker.exists(),
        "{} is missing: cargo build -p dunlin-broker",
        broker.display()
    );
    broker
}

/// Another broker to hold the tests themselves against, such as `mosquitto -p {port}`.
fn foreign_broker(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("DUNLIN_E2E_COMMAND names a program"));
    command.args(words);
    command
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections, so that no client takes
/// it between a kill and a restart. Each test process starts its search somewhere else.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 18_000;
    const COUNT: u16 = 14_000;
    let offset = u16::try_from(std::process::id().wrapping_mul(61) % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset + step % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
