//! Real parts for the tests: a mosquitto broker, the adapter as a process, a Python with DuckDB and pandas.
#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {LIMIT:?} in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Drop for Setup {
    /// A failed test shows what the adapter had to say.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the end of the adapter's log:\n{}",
                lines
                    .get(lines.len().saturating_sub(15)..)
                    .unwrap_or_default()
                    .join("\n")
            );
        }
    }
}

/// A process that ends with its value.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_owned();
        Self(
            command.spawn().unwrap_or_else(|error| {
                panic!("{name:?} cannot be started: {error}; run: make deps")
            }),
        )
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub fn terminate(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of a process", || self.0.try_wait().unwrap())
    }

    /// Sets the largest size of a file that the process may write, in bytes.
    pub fn limit_file_size(&self, bytes: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")])
            .status();
        assert!(status.expect("prlimit is part of util-linux").success());
    }

    /// The most memory that it has had.
    pub fn peak_mib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.0.id());
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() / 1_024
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A mosquitto with persistence, in a directory of its own.
pub struct Mosquitto {
    dir: TempDir,
    pub port: u16,
    process: Option<Process>,
}

impl Mosquitto {
    pub fn start() -> Self {
        Self::with("allow_anonymous true\n", &[])
    }

    /// `listener` comes after the listener's line; `{dir}` in it is the directory, in which `files` are written first.
    pub fn with(listener: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A broker that runs as root gives up its rights and must still be able to write here.
        let port = free_port();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let path = dir.path().display();
        let config = format!(
            "user root\npersistence true\npersistence_location {path}/\nmax_queued_messages 0\nmax_inflight_messages 100\n\
             listener {port} 127.0.0.1\n{}",
            listener.replace("{dir}", &path.to_string())
        );
        fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let mut broker = Self {
            dir,
            port,
            process: None,
        };
        broker.run();
        broker
    }

    pub fn run(&mut self) {
        let log = File::create(self.dir.path().join("mosquitto.log")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
        let mut command = Command::new("mosquitto");
        command
            .env("PATH", path)
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"));
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null());
        self.process = Some(Process::start(&mut command));
        let port = self.port;
        wait_for("mosquitto", || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// Ends it in order, so that it writes down its sessions.
    pub fn stop(&mut self) {
        assert!(self.process.take().unwrap().terminate().success());
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub fn publish(&self, arguments: &[&str]) {
        let mut publisher = self.publisher(arguments);
        assert!(publisher.process.wait().success(), "mosquitto_pub failed");
    }

    /// A `mosquitto_pub` that can be written to.
    pub fn publisher(&self, arguments: &[&str]) -> Publisher {
        let mut command = Command::new("mosquitto_pub");
        command
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-V", "5"])
            .args(arguments);
        Publisher::over(&mut command)
    }
}

pub struct Publisher {
    process: Process,
    input: Option<std::process::ChildStdin>,
}

impl Publisher {
    /// Starts a program that publishes the lines it is given.
    pub fn over(command: &mut Command) -> Self {
        let mut process = Process::start(command.stdin(Stdio::piped()));
        let input = process.0.stdin.take();
        Self { process, input }
    }

    /// Id of its process.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    pub fn line(&mut self, text: &str) {
        writeln!(self.input.as_mut().unwrap(), "{text}").unwrap();
    }

    /// Waits until everything is acknowledged.
    pub fn finish(mut self) {
        drop(self.input.take());
        assert!(self.process.wait().success(), "mosquitto_pub failed");
    }
}

/// Settings of an adapter that is started again and again.
pub struct Setup {
    pub dir: TempDir,
    pub arguments: Vec<String>,
    pub ops: u16,
}

impl Setup {
    pub fn new(url: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ops = free_port();
        let warehouse = dir.path().join("warehouse").display().to_string();
        let arguments = [
            "--url",
            url,
            "--warehouse",
            &warehouse,
            "--log-format",
            "json",
            "--ops-listen",
        ];
        let mut arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        arguments.push(format!("127.0.0.1:{ops}"));
        Self {
            dir,
            arguments,
            ops,
        }
    }

    #[must_use]
    pub fn and(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|text| (*text).to_owned()));
        self
    }

    pub fn warehouse(&self) -> PathBuf {
        self.dir.path().join("warehouse")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("adapter.log")
    }

    /// Everything that all runs have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn command(&self) -> Command {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bigquery-adapter"));
        command
            .args(&self.arguments)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    pub fn start(&self) -> Process {
        Process::start(&mut self.command())
    }

    /// Starts it so that a write beyond the limit on file sizes is an error for it, as a full disk is, and not its end.
    pub fn start_with_limits(&self) -> Process {
        let direct = self.command();
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(direct.get_program())
            .args(direct.get_args());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        Process::start(
            command
                .env_remove("RUST_LOG")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        )
    }

    /// Starts it and waits until it is subscribed.
    pub fn start_ready(&self) -> Process {
        let process = self.start();
        self.wait_ready();
        process
    }

    pub fn wait_ready(&self) {
        let ready = || (self.get("/health/ready")?.0 == 200).then_some(());
        wait_for("the adapter to be ready", ready);
    }

    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ops)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub fn metric(&self, name: &str) -> Option<u64> {
        let text = self.get("/metrics")?.1;
        text.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        })
    }

    /// No line of level WARN or ERROR with another code than these.
    #[track_caller]
    pub fn assert_log_has_only(&self, codes: &[&str]) {
        for line in self.log().lines() {
            let loud = line.contains("\"level\":\"WARN\"")
                || line.contains("\"level\":\"ERROR\"")
                || !line.starts_with('{');
            let listed = codes.iter().any(|code| line.contains(code));
            assert!(!loud || listed, "an unexpected line in the log: {line}");
        }
    }

    /// Runs Python with the warehouse's path in `warehouse`, and reads back what it prints.
    pub fn python(&self, script: &str) -> String {
        let script = format!(
            "import duckdb, pandas\nwarehouse = {:?}\n{script}",
            self.warehouse().display().to_string()
        );
        let output = Command::new(python())
            .args(["-c", &script])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "python failed: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Rows of an SQL query, in which `messages` is the table; as Python prints them.
    pub fn sql(&self, query: &str) -> String {
        self.python(&format!(
            "c = duckdb.connect()\nc.sql(\"SET TimeZone='UTC'\")\n\
             c.sql(\"create view messages as select * from read_parquet('\" + warehouse + \"/messages/*/*.parquet', hive_partitioning = true)\")\n\
             print(*c.sql({query:?}).fetchall(), sep='\\n')"
        ))
    }

    pub fn has_rows(&self) -> bool {
        let days = fs::read_dir(self.warehouse().join("messages"))
            .into_iter()
            .flatten()
            .flatten();
        days.into_iter()
            .any(|day| fs::read_dir(day.path()).is_ok_and(|mut files| files.next().is_some()))
    }
}

pub fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("DUNLIN_PYTHON") {
        return PathBuf::from(python);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = root.join(".venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make deps`, or set DUNLIN_PYTHON to a Python with duckdb, pandas and pyarrow",
        python.display()
    );
    python
}

/// Repeatable random numbers.
pub struct Random(u64);

impl Random {
    /// From `DUNLIN_SEED`, or from the clock; printed, so that a failure can be repeated.
    pub fn new() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64;
        let seed = std::env::var("DUNLIN_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(now | 1);
        eprintln!("DUNLIN_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
