//! A real mosquitto and a foreign subscriber for the end-to-end tests. Both end with the test.

#![allow(dead_code)] // not every test uses everything

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing in these tests takes nearly as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Waits for a condition; fails the test when it does not come about.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Mosquitto on a free port of its own, with its store in a folder of its own.
pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    folder: TempDir,
    child: Child,
}

impl Mosquitto {
    pub(crate) fn start(more: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let port = free_port();
        let store = folder.path().display();
        let config = format!(
            "per_listener_settings false\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
             persistence_location {store}/\nmax_queued_messages 0\nmax_inflight_messages 0\nuser root\n{more}\n"
        );
        std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
        let child = Self::spawn(folder.path());
        let broker = Self {
            port,
            folder,
            child,
        };
        broker.wait();
        broker
    }

    fn spawn(folder: &Path) -> Child {
        Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(folder.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed (apt-get install mosquitto)")
    }

    fn wait(&self) {
        wait_for("mosquitto to listen", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a service manager does (it writes its store then) and starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.folder.path());
        self.wait();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// mosquitto_sub with a persistent session; counts every `topic payload` that it prints.
pub(crate) struct Collector {
    child: Child,
    seen: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Collector {
    pub(crate) fn start(port: u16, filter: &str, qos: u8) -> Self {
        let port_text = port.to_string();
        let qos_text = qos.to_string();
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port_text, "-i", "collector"])
            .args(["-V", "mqttv5", "-c", "-x", "3600"])
            // Mosquitto 2.0.11 breaks its subscriber's connection at QoS 2 when this is 20, the default.
            .args(["-D", "connect", "receive-maximum", "65535"])
            .args(["-q", &qos_text, "-t", filter, "-t", "probe", "-F", "%t %p"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is installed (apt-get install mosquitto-clients)");
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let (lines, into) = (
            BufReader::new(child.stdout.take().unwrap()).lines(),
            Arc::clone(&seen),
        );
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *into.lock().unwrap().entry(line).or_insert(0) += 1;
            }
        });
        let collector = Self { child, seen };
        wait_for("the subscription", || {
            let probe = [
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-t",
                "probe",
                "-m",
                "x",
            ];
            Command::new("mosquitto_pub").args(probe).status().unwrap();
            !collector.seen.lock().unwrap().is_empty()
        });
        collector
    }

    /// Messages seen so far, each once.
    pub(crate) fn len(&self) -> usize {
        self.take(|seen| seen.len())
    }

    /// All messages seen, and how often each.
    pub(crate) fn messages(&self) -> BTreeMap<String, u32> {
        self.take(|seen| seen.clone())
    }

    fn take<T>(&self, with: impl FnOnce(&BTreeMap<String, u32>) -> T) -> T {
        let mut seen = self.seen.lock().unwrap();
        seen.retain(|line, _| !line.starts_with("probe "));
        with(&seen)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// The binary under test.
pub(crate) fn loadtest() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
}
