//! The system under test while it runs: its processes, where clients connect, and what each role costs.
//!
//! It is started for each measurement anew, on free ports and with a folder for each process. Processes end
//! with it, the last started first.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use tempfile::TempDir;

use super::identity::Identity;
use super::processor::spawn_on;
use super::spec::{BrokerSpec, End, ProcessSpec};
use crate::error::Error;
use crate::proc::Usage;

/// The role of a broker of which only the process id is known.
const BROKER: &str = "broker";
/// A process that was told to end has so long.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks whether a process is ready. It bounds how exact the time of a start is.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A system that is started for each measurement.
    Start(BrokerSpec),
    /// A broker that is running already; without a process id its cost is not known.
    Running {
        /// Its name in reports.
        name: String,
        /// Where it listens.
        address: SocketAddr,
        /// Its process id.
        pid: Option<u32>,
    },
}

impl Target {
    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Start(spec) => &spec.name,
            Self::Running { name, .. } => name,
        }
    }

    /// Its version as it says it.
    #[must_use]
    pub fn version(&self) -> String {
        match self {
            Self::Start(spec) => spec.version(),
            Self::Running { .. } => String::new(),
        }
    }

    /// Starts it on a processor, or on any; or takes the one that runs.
    pub(crate) fn start(&self, processor: Option<usize>) -> Result<System, Error> {
        match self {
            Self::Start(spec) => {
                let mut launch = Launch::new(spec, processor)?;
                while launch.start_next()?.is_some() {}
                Ok(launch.into_system())
            }
            Self::Running { address, pid, .. } => Ok(System {
                addresses: Addresses {
                    publishers: vec![*address],
                    subscribers: vec![*address],
                    shift: 0,
                    tls: None,
                },
                watched: pid
                    .map(|pid| (BROKER.to_owned(), pid))
                    .into_iter()
                    .collect(),
                _processes: Processes::default(),
            }),
        }
    }
}

/// Where clients connect.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    publishers: Vec<SocketAddr>,
    subscribers: Vec<SocketAddr>,
    shift: usize,
    tls: Option<Arc<ClientConfig>>,
}

impl Addresses {
    /// Of a publisher: they are dealt out in turns.
    pub(crate) fn publisher(&self, number: usize) -> Option<SocketAddr> {
        let place = number.checked_rem(self.publishers.len())?;
        self.publishers.get(place).copied()
    }

    /// How, where that is by TLS.
    pub(crate) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    /// Of a subscriber.
    pub(crate) fn subscriber(&self, number: usize) -> Option<SocketAddr> {
        let place = (number + self.shift).checked_rem(self.subscribers.len())?;
        self.subscribers.get(place).copied()
    }
}

/// CPU time and memory by role, in the order of the processes.
pub(crate) type Usages = Vec<(String, Usage)>;

/// A system that runs; what was started ends with this value.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) addresses: Addresses,
    /// Role and process id.
    watched: Vec<(String, u32)>,
    _processes: Processes,
}

impl System {
    /// What each role has used so far; empty where no process is known.
    pub(crate) fn usages(&self) -> Result<Usages, Error> {
        let mut usages: Usages = Vec::new();
        for (role, pid) in &self.watched {
            let usage = Usage::read(*pid)?;
            match usages.iter_mut().find(|(known, _)| known == role) {
                Some((_, sum)) => *sum = sum.plus(usage),
                None => usages.push((role.clone(), usage)),
            }
        }
        Ok(usages)
    }

    /// What each role has used since `earlier`.
    pub(crate) fn since(&self, earlier: &Usages) -> Result<Usages, Error> {
        let now = self.usages()?;
        Ok(now
            .into_iter()
            .zip(earlier)
            .map(|((role, now), (_, earlier))| (role, now.since(*earlier)))
            .collect())
    }
}

/// All roles together; `None` where no process is known.
pub(crate) fn sum(usages: &Usages) -> Option<Usage> {
    usages
        .iter()
        .map(|(_, usage)| *usage)
        .reduce(|one, other| one.plus(other))
}

/// Starts the processes of a system one after the other.
#[derive(Debug)]
pub struct Launch {
    name: String,
    shift: usize,
    processor: Option<usize>,
    waiting: std::vec::IntoIter<Planned>,
    /// Ports by `{name.port}`.
    ports: BTreeMap<String, u16>,
    publishers: Vec<SocketAddr>,
    subscribers: Vec<SocketAddr>,
    watched: Vec<(String, u32)>,
    processes: Processes,
    tls: Option<Identity>,
}

#[derive(Debug)]
struct Planned {
    spec: ProcessSpec,
    port: u16,
    ops_port: u16,
}

/// A process that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its name in the file.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Its process id.
    pub pid: u32,
    /// From its start until it was ready, to 5 ms.
    pub took: Duration,
}

impl Launch {
    /// Chooses ports; nothing is started yet. `processor`: of all processes.
    ///
    /// # Errors
    /// [`Error::Io`] when there are no free ports.
    pub fn new(spec: &BrokerSpec, processor: Option<usize>) -> Result<Self, Error> {
        let each = spec
            .processes
            .iter()
            .flat_map(|process| std::iter::repeat_n(process, process.count()));
        // All at once: a port that is given back at once might be given out again.
        let mut held = Vec::new();
        let mut free_port = || -> std::io::Result<u16> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let planned: std::io::Result<Vec<Planned>> = each
            .map(|process| {
                Ok(Planned {
                    spec: process.clone(),
                    port: free_port()?,
                    ops_port: free_port()?,
                })
            })
            .collect();
        let planned = planned.map_err(|source| Error::Io {
            what: "no free port".to_owned(),
            source,
        })?;
        let tls = planned.iter().any(|process| process.spec.tls);
        let tls = tls.then(Identity::new).transpose()?;
        let mut ports = BTreeMap::new();
        for process in &planned {
            let name = format!("{{{}.port}}", process.spec.name);
            ports.entry(name).or_insert(process.port);
        }
        Ok(Self {
            name: spec.name.clone(),
            shift: spec.shift,
            processor,
            waiting: planned.into_iter(),
            ports,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            watched: Vec::new(),
            processes: Processes::default(),
            tls,
        })
    }

    /// Starts the next process and waits until it is ready; `None` when all are.
    ///
    /// # Errors
    /// [`Error::BrokerStart`] when it ends, or is not ready in time.
    pub fn start_next(&mut self) -> Result<Option<Started>, Error> {
        let Some(Planned {
            spec,
            port,
            ops_port,
        }) = self.waiting.next()
        else {
            return Ok(None);
        };
        let failed = |problem: String, log: String| Error::BrokerStart {
            name: if self.name == spec.name || spec.name == BROKER {
                self.name.clone()
            } else {
                format!("{} ({})", self.name, spec.name)
            },
            problem,
            log,
        };
        let folder = TempDir::with_prefix("loadtest-").map_err(io("cannot make a folder"))?;
        let fill = |text: &str| {
            let text = text
                .replace("{port}", &port.to_string())
                .replace("{ops_port}", &ops_port.to_string())
                .replace("{dir}", &folder.path().display().to_string());
            self.ports.iter().fold(text, |text, (name, port)| {
                text.replace(name, &port.to_string())
            })
        };
        for (name, content) in &spec.files {
            let path = folder.path().join(name);
            std::fs::write(&path, fill(content))
                .map_err(|source| Error::Output { path, source })?;
        }
        if let Some(identity) = self.tls.as_ref().filter(|_| spec.tls) {
            identity.write_to(folder.path())?;
        }
        let log = folder.path().join("output.log");
        let mut command = command(&spec, fill, &log)?;
        let begin = Instant::now();
        let child = spawn_on(&mut command, self.processor)
            .map_err(|problem| failed(format!("{}: {problem}", spec.command), String::new()))?;
        let pid = child.id();
        let mut process = Process {
            child,
            _folder: folder,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let ready = await_ready(&mut process.child, &spec, address, ops_port);
        let took = begin.elapsed();
        let failure = ready.err().map(|problem| failed(problem, tail(&log)));
        self.processes.0.push(process);
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.watched.push((spec.role().to_owned(), pid));
        if spec.serves.contains(&End::Publishers) {
            self.publishers.push(address);
        }
        if spec.serves.contains(&End::Subscribers) {
            self.subscribers.push(address);
        }
        Ok(Some(Started {
            name: spec.name,
            port,
            pid,
            took,
        }))
    }

    fn into_system(self) -> System {
        System {
            addresses: Addresses {
                publishers: self.publishers,
                subscribers: self.subscribers,
                shift: self.shift,
                tls: self.tls.map(|identity| identity.trusted),
            },
            watched: self.watched,
            _processes: self.processes,
        }
    }
}

fn command(
    spec: &ProcessSpec,
    fill: impl Fn(&str) -> String,
    log: &Path,
) -> Result<Command, Error> {
    let output = File::create(log).map_err(io("cannot make a log file"))?;
    let errors = output.try_clone().map_err(io("cannot make a log file"))?;
    let mut command = Command::new(&spec.command);
    command
        .args(spec.args.iter().map(|arg| fill(arg)))
        .envs(spec.env.iter().map(|(key, value)| (key, fill(value))))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    Ok(command)
}

fn await_ready(
    child: &mut Child,
    spec: &ProcessSpec,
    address: SocketAddr,
    ops_port: u16,
) -> Result<(), String> {
    let limit = spec.ready_limit();
    let begin = Instant::now();
    let ops = SocketAddr::from(([127, 0, 0, 1], ops_port));
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it ended with {status}"));
        }
        let (ready, what) = match &spec.ready_path {
            Some(path) => (
                answers_200(ops, path).unwrap_or(false),
                format!("http://{ops}{path} does not answer 200"),
            ),
            None => (
                TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok(),
                format!("nothing listens on {address}"),
            ),
        };
        if ready {
            return Ok(());
        }
        if begin.elapsed() > limit {
            return Err(format!("{what} after {} s", limit.as_secs()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn answers_200(address: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(status.ends_with(b" 200"))
}

#[derive(Debug)]
struct Process {
    child: Child,
    _folder: TempDir,
}

/// Processes that end with this value.
#[derive(Debug, Default)]
struct Processes(Vec<Process>);

impl Drop for Processes {
    fn drop(&mut self) {
        while let Some(mut process) = self.0.pop() {
            process.end();
        }
    }
}

impl Process {
    /// It is told to end, and after [`END_LIMIT`] made to.
    fn end(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < END_LIMIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io {
        what: what.to_owned(),
        source,
    }
}

fn tail(log: &PathBuf) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let from = bytes.len().saturating_sub(2000);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str) -> Result<System, Error> {
        Target::Start(BrokerSpec::parse(text).unwrap()).start(None)
    }

    #[test]
    fn a_broker_that_ends_at_once_is_reported_with_what_it_said() {
        let mut spec = BrokerSpec::parse("shell=sh {port}").unwrap();
        spec.processes.first_mut().unwrap().args =
            vec!["-c".to_owned(), "echo no such option; exit 3".to_owned()];
        let text = Target::Start(spec).start(None).unwrap_err().to_string();
        assert!(
            text.contains("no such option")
                && text.contains("exit status: 3")
                && text.contains("shell"),
            "{text}"
        );
    }

    #[test]
    fn a_broker_that_is_not_installed_is_reported_by_name() {
        let text = start("none=/nowhere/broker {port}")
            .unwrap_err()
            .to_string();
        assert!(text.contains("/nowhere/broker"), "{text}");
    }

    #[test]
    fn a_subscriber_is_on_the_replica_after_its_publishers() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let all: Vec<SocketAddr> = (1..=3).map(at).collect();
        let addresses = Addresses {
            publishers: all.clone(),
            subscribers: all,
            shift: 1,
            tls: None,
        };
        for (number, publisher, subscriber) in [(0, 1, 2), (1, 2, 3), (2, 3, 1), (3, 1, 2)] {
            assert_eq!(addresses.publisher(number), Some(at(publisher)));
            assert_eq!(addresses.subscriber(number), Some(at(subscriber)));
        }
    }

    #[test]
    fn only_200_is_ready() {
        for (answer, ready) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                count
            });
            assert_eq!(answers_200(address, "/health/ready").unwrap(), ready);
            assert!(server.join().unwrap() > 0);
        }
    }
}
