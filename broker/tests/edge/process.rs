//! The process from outside: exit codes, messages, signals.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::rig::LIMIT;

pub const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
pub const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

pub fn broker() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("DUNLIN_") || name == "RUST_LOG")
        {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running broker; killed when dropped.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
    log: std::path::PathBuf,
    _folder: TempDir,
}

impl Running {
    /// Starts `command` with a listener on a free port and its log in a file.
    pub fn start(command: Command) -> Self {
        Self::start_with(command, &["--no-ops"])
    }

    pub fn start_with(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["--listen", "127.0.0.1:0"]);
        Self::start_as_is(command, arguments)
    }

    /// The same with the listeners of its configuration.
    pub fn start_as_is(mut command: Command, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = command
            .args(arguments)
            .args(["--store", folder.path().join("store").to_str().unwrap()])
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut running = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
            _folder: folder,
        };
        running.wait_for("\"message\":\"ready\"");
        running.address = address_in(&running.log());
        running
    }

    /// What a CONNECT of 3.1.1 with this user name is answered.
    pub fn log_in(&self, user: &str, password: &str) -> [u8; 4] {
        let mut bytes = b"\x10\x00\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c".to_vec();
        for text in [user, password] {
            bytes.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
        let mut stream = self.connect();
        stream.write_all(&bytes).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        answer
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn wait_for(&mut self, words: &str) {
        let end = Instant::now() + LIMIT;
        while !self.log().contains(words) {
            assert!(Instant::now() < end, "waited for {words}:\n{}", self.log());
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "ended:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Connects as an MQTT client.
    pub fn connect_mqtt(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(CONNECT).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, CONNACK);
        stream
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The exit code, once the process has ended.
    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < end, "does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill().is_err();
        self.child.wait().unwrap();
    }
}

#[test]
fn wrong_usage_and_configuration_exit_with_2() {
    for (arguments, words) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--listen", "nowhere"], "must be an address and a port"),
        (&["--listen", "0.0.0.0:0"], "DUN-0105"),
        (&["--set", "limits.max_inflight"], "must be KEY=VALUE"),
        (
            &["--set", "limits.max_inflght=1"],
            "did you mean \"limits.max_inflight\"?",
        ),
        (&["--log-level", "loud"], "DUN-0003"),
        (&["--config", "/nowhere/x.toml"], "DUN-0101"),
        (&["check-config", "--set", "workers=0"], "DUN-0104"),
    ] {
        let output = run(broker().args(arguments));
        assert_eq!(code(&output), 2, "{arguments:?}: {output:?}");
        assert!(
            stderr(&output).contains(words),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_port_in_use_exits_with_3_and_every_one_is_named() {
    let taken = [
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    ];
    let mut command = broker();
    for socket in &taken {
        command.args(["--listen", &socket.local_addr().unwrap().to_string()]);
    }
    let output = run(command.args(["--store", "memory", "--no-ops"]));
    assert_eq!(code(&output), 3);
    for socket in &taken {
        let address = socket.local_addr().unwrap();
        assert!(
            stderr(&output).contains(&format!("cannot listen on {address}")),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(
        stderr(&output)
            .matches("the port is in use by another process")
            .count(),
        2
    );
}

#[test]
fn a_store_that_cannot_be_opened_exits_with_4() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let store = file.to_str().unwrap();
    let output = run(broker().args(["--listen", "127.0.0.1:0", "--no-ops", "--store", store]));
    assert_eq!(code(&output), 4, "{output:?}");
    assert!(stderr(&output).contains("DUN-1002"), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("is not a directory; move that file away"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn check_config_and_print_config_start_nothing() {
    let output = run(broker().args(["check-config", "--listen", "127.0.0.1:1"]));
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "the configuration is good (listeners: 1, warnings: 0)\n"
    );
    let output = run(broker()
        .args(["print-config"])
        .env("DUNLIN__LIMITS__MAX_INFLIGHT", "77"));
    assert_eq!(code(&output), 0);
    let printed: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert_eq!(printed["limits"]["max_inflight"].as_integer(), Some(77));
}

#[test]
fn the_help_names_commands_and_exit_codes() {
    let output = run(broker().arg("--help"));
    assert_eq!(code(&output), 0);
    let help = String::from_utf8(output.stdout).unwrap();
    for words in [
        "check-config",
        "print-config",
        "passwd",
        "--listen",
        "--store",
        "Exit codes:",
        "3  a port could not be bound",
    ] {
        assert!(help.contains(words), "{words}\n{help}");
    }
    assert_eq!(
        String::from_utf8(run(broker().arg("--version")).stdout).unwrap(),
        concat!("broker ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

pub fn passwd(file: &Path, user: &str, password: &str) -> Output {
    let mut child = broker()
        .arg("passwd")
        .arg(file)
        .arg(user)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A process that refuses the name does not read.
    let _unread = child
        .stdin
        .take()
        .unwrap()
        .write_all(password.as_bytes())
        .is_err();
    child.wait_with_output().unwrap()
}

/// The first address in lines of the log.
fn address_in(log: &str) -> SocketAddr {
    let after = log.split("\"address\":\"").nth(1).unwrap();
    after.split('"').next().unwrap().parse().unwrap()
}

#[test]
fn a_password_that_was_set_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    assert_eq!(code(&passwd(&users, "ann", "first\n")), 0);
    assert_eq!(code(&passwd(&users, "ann", "right\n")), 0);
    for (user, password) in [("a:b", "x\n"), ("", "x\n"), ("bob", "\n")] {
        assert_eq!(code(&passwd(&users, user, password)), 2, "{user:?}");
    }
    let mut command = broker();
    command.args(["--set", &format!("auth.users={}", users.display())]);
    let running = Running::start(command);
    assert_eq!(running.log_in("ann", "right"), CONNACK);
    assert_eq!(running.log_in("ann", "first"), [0x20, 2, 0, 4]);
    assert_eq!(running.log_in("ann", "wrong"), [0x20, 2, 0, 4]);
    let mut nameless = running.connect();
    nameless.write_all(CONNECT).unwrap();
    let mut answer = [0; 4];
    nameless.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 5]);
}

#[test]
fn sigterm_closes_connections_and_exits_with_0() {
    for signal in ["-TERM", "-INT"] {
        let mut running = Running::start(broker());
        let mut stream = running.connect_mqtt();
        // One that has said nothing does not hold up the end.
        let _silent = running.connect();
        running.signal(signal);
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
        assert_eq!(running.wait(), 0, "{}", running.log());
        assert!(
            running.log().contains("every client was told"),
            "{}",
            running.log()
        );
        assert!(TcpStream::connect(running.address).is_err());
    }
}

#[test]
fn the_log_is_json_when_nobody_looks_and_quiet_about_libraries() {
    let running = Running::start(broker());
    for line in running.log().lines() {
        assert!(
            line.starts_with("{\"timestamp\":") && line.ends_with('}'),
            "{line}"
        );
        assert!(line.contains("\"target\":\"dunlin_"), "{line}");
    }
}

#[test]
fn accepting_goes_on_after_the_system_was_out_of_files() {
    let mut command = Command::new("sh");
    // The hard limit too, or the broker would raise it.
    command.args([
        "-c",
        "ulimit -n 64; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_broker"),
        "--set",
        "workers=1",
    ]);
    let mut running = Running::start(command);
    let stalled: Vec<_> = (0..100).map(|_| running.connect()).collect();
    running.wait_for("DUN-0405");
    drop(stalled);
    running.connect_mqtt();
}

#[test]
fn a_browser_on_the_mqtt_port_is_told() {
    let running = Running::start(broker());
    let mut stream = running.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("This is a port for MQTT, not for HTTP"),
        "{answer}"
    );
}

#[test]
fn a_second_broker_on_the_same_store_is_refused() {
    let first = Running::start(broker());
    let store = first.log.with_file_name("store");
    let output = run(broker().args([
        "--listen",
        "127.0.0.1:0",
        "--no-ops",
        "--store",
        store.to_str().unwrap(),
    ]));
    assert_eq!(code(&output), 4);
    let words = format!("is in use by another process (pid {})", first.child.id());
    assert!(stderr(&output).contains(&words), "{}", stderr(&output));
}

#[test]
fn the_health_command_asks_the_running_broker() {
    let mut command = broker();
    // The address that the system chooses stands in the log.
    command.args(["--set", "ops.listen=127.0.0.1:0"]);
    let running = Running::start_with(command, &[]);
    let log = running.log();
    let line = log.lines().find(|line| line.contains("health and metrics"));
    let address = &address_in(line.unwrap()).to_string();
    for (question, words) in [
        ("started", "started\n"),
        ("ready", "ready\n"),
        ("live", "live\n"),
    ] {
        let output = run(broker().args(["health", question, "--address", address]));
        assert_eq!(code(&output), 0, "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), words);
    }
    let listen = format!("ops.listen={address}");
    assert_eq!(code(&run(broker().args(["health", "--set", &listen]))), 0);
    drop(running);
    let output = run(broker().args(["health", "--set", &listen]));
    assert_eq!(code(&output), 1, "{output:?}");
    assert!(stderr(&output).contains("does not answer"), "{output:?}");
    let output = run(broker().args(["health", "--no-ops"]));
    assert_eq!(code(&output), 1, "{output:?}");
    assert!(
        stderr(&output).contains("there is nothing to ask"),
        "{output:?}"
    );
}
