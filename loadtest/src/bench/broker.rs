//! Starting a broker to be measured, each time anew, on a free port and in a folder of its own.
//!
//! A broker is described by a TOML file (`loadtest/scenarios/brokers/`) or by `--broker name=command`. In its
//! arguments and files `{port}` and `{dir}` are filled in.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Deserialize;
use tempfile::TempDir;

use crate::error::Error;

/// How to start a broker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerSpec {
    /// Its name in reports.
    pub name: String,
    /// The program; a path with a slash is relative to where `loadtest` was started.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables beside the inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files to write into its folder before it starts, by name.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Seconds that it may take to listen; 10 when not given.
    pub ready_seconds: Option<u64>,
    /// Arguments that make it print its version, for the report.
    #[serde(default)]
    pub version_args: Vec<String>,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A broker that is started for each measurement.
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

impl BrokerSpec {
    /// Reads a broker file.
    ///
    /// # Errors
    /// When it cannot be read or has unknown or missing keys.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ScenarioUnreadable {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|problem| Error::ScenarioInvalid {
            name: path.display().to_string(),
            problems: vec![problem.to_string()],
        })
    }

    /// Reads `name=command arguments…`, split at blanks.
    ///
    /// # Errors
    /// [`Error::Option`] when there is no name, no command, or nowhere `{port}`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Option(format!(
                "--broker {text:?} is not NAME=COMMAND with {{port}} in it, and no file"
            ))
        };
        let (name, command) = text.split_once('=').ok_or_else(wrong)?;
        let mut words = command.split_whitespace().map(str::to_owned);
        let command = words.next().ok_or_else(wrong)?;
        let args: Vec<String> = words.collect();
        if name.is_empty() || !args.iter().any(|arg| arg.contains("{port}")) {
            return Err(wrong());
        }
        Ok(Self {
            name: name.to_owned(),
            command,
            args,
            env: BTreeMap::new(),
            files: BTreeMap::new(),
            ready_seconds: None,
            version_args: Vec::new(),
        })
    }

    /// The first line that the broker prints about its version; empty when it says nothing.
    #[must_use]
    pub fn version(&self) -> String {
        if self.version_args.is_empty() {
            return String::new();
        }
        let output = Command::new(&self.command)
            .args(&self.version_args)
            .stdin(Stdio::null())
            .output();
        output.map_or_else(
            |_| String::new(),
            |output| {
                String::from_utf8_lossy(&output.stdout)
                    .lines()
                    .next()
                    .unwrap_or("")
                    .trim()
                    .to_owned()
            },
        )
    }
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
    pub(crate) fn start(&self, processor: Option<usize>) -> Result<Broker, Error> {
        match self {
            Self::Start(spec) => Broker::start(spec, processor),
            Self::Running { address, pid, .. } => Ok(Broker {
                address: *address,
                pid: *pid,
                child: None,
            }),
        }
    }
}

/// A broker that runs; one that we started ends with this value.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) pid: Option<u32>,
    child: Option<(Child, TempDir)>,
}

impl Broker {
    fn start(spec: &BrokerSpec, processor: Option<usize>) -> Result<Self, Error> {
        let failed = |problem: String, log: String| Error::BrokerStart {
            name: spec.name.clone(),
            problem,
            log,
        };
        let io = |what: &'static str| {
            move |source| Error::Io {
                what: what.to_owned(),
                source,
            }
        };
        let folder = TempDir::with_prefix("loadtest-").map_err(io("cannot make a folder"))?;
        let address = free_address().map_err(io("no free port"))?;
        let port = address.port().to_string();
        let directory = folder.path().display().to_string();
        let fill = |text: &str| text.replace("{port}", &port).replace("{dir}", &directory);
        for (name, content) in &spec.files {
            let path = folder.path().join(name);
            std::fs::write(&path, fill(content))
                .map_err(|source| Error::Output { path, source })?;
        }
        let log = folder.path().join("broker.log");
        let output = File::create(&log).map_err(io("cannot make a log file"))?;
        let errors = output.try_clone().map_err(io("cannot make a log file"))?;
        let mut command = Command::new(&spec.command);
        command
            .args(spec.args.iter().map(|arg| fill(arg)))
            .envs(spec.env.iter().map(|(key, value)| (key, fill(value))))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let child = spawn_on(&mut command, processor)
            .map_err(|problem| failed(format!("{}: {problem}", spec.command), String::new()))?;
        let mut broker = Self {
            address,
            pid: Some(child.id()),
            child: Some((child, folder)),
        };
        broker
            .await_listener(Duration::from_secs(spec.ready_seconds.unwrap_or(10)))
            .map_err(|problem| failed(problem, tail(&log)))?;
        Ok(broker)
    }

    fn await_listener(&mut self, limit: Duration) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            if let Some((child, _)) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(format!("it ended with {status}"));
            }
            if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            if begin.elapsed() > limit {
                return Err(format!(
                    "nothing listens on {} after {} s",
                    self.address,
                    limit.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some((child, _)) = &mut self.child else {
            return;
        };
        // It is told to end, and after 5 s made to.
        let _gone = kill_process(Pid::from_child(child), Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _gone = child.kill();
        let _gone = child.wait();
    }
}

/// Starts a process on one processor: a child inherits the set of the thread that starts it.
fn spawn_on(command: &mut Command, processor: Option<usize>) -> std::io::Result<Child> {
    let Some(processor) = processor else {
        return command.spawn();
    };
    let own = sched_getaffinity(None)?;
    pin_this_thread(processor)?;
    let child = command.spawn();
    sched_setaffinity(None, &own)?;
    child
}

/// Leaves one processor to the calling thread.
pub(crate) fn pin_this_thread(processor: usize) -> std::io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    Ok(sched_setaffinity(None, &only)?)
}

/// The processors that this process may use.
#[must_use]
pub fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU)
        .filter(|processor| allowed.is_set(*processor))
        .collect()
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn tail(log: &PathBuf) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let from = bytes.len().saturating_sub(2000);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_on_the_command_line_is_name_and_command() {
        let spec = BrokerSpec::parse("mq=mosquitto -p {port}").unwrap();
        assert_eq!(
            (spec.name.as_str(), spec.command.as_str()),
            ("mq", "mosquitto")
        );
        assert_eq!(spec.args, ["-p", "{port}"]);
        for wrong in [
            "mosquitto -p {port}",
            "=x {port}",
            "mq=",
            "mq=mosquitto -p 1883",
        ] {
            assert!(BrokerSpec::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_broker_that_ends_at_once_is_reported_with_what_it_said() {
        let mut spec = BrokerSpec::parse("sh=sh {port}").unwrap();
        spec.args = vec!["-c".to_owned(), "echo no such option; exit 3".to_owned()];
        let text = Broker::start(&spec, None).unwrap_err().to_string();
        assert!(
            text.contains("no such option") && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn a_broker_that_is_not_installed_is_reported_by_name() {
        let spec = BrokerSpec::parse("none=/nowhere/broker {port}").unwrap();
        let text = Broker::start(&spec, None).unwrap_err().to_string();
        assert!(text.contains("/nowhere/broker"), "{text}");
    }

    #[test]
    fn the_broker_files_of_the_project_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/brokers");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().collect();
        assert!(files.len() >= 2);
        for file in files {
            BrokerSpec::open(&file.path()).unwrap();
        }
    }
}
