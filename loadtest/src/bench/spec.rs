//! What is measured, as it is written down: a broker of one process, or a cluster of several.
//!
//! A TOML file (`loadtest/scenarios/brokers/`, `loadtest/scenarios/clusters/`) or `--broker name=command`. In
//! arguments, environment and files `{port}`, `{ops_port}` and `{dir}` are those of the process, and
//! `{redis.port}` is the port of the process named `redis`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use crate::error::Error;

/// Processes of one system; more than that a measurement on one machine does not bear.
const PROCESSES_MAX: usize = 64;
/// Seconds until a process is ready, where the file does not say.
const READY_SECONDS: u64 = 10;
/// The longest time until a process is ready.
const READY_SECONDS_MAX: u64 = 3600;

/// How to start what is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerSpec {
    /// Its name in reports.
    pub name: String,
    /// Its processes, in the order of starting: each is ready before the next one starts.
    pub processes: Vec<ProcessSpec>,
    /// Subscriber `n` connects to the server `n + shift` of those that serve subscribers: with 1, to the
    /// one after its publisher's.
    pub shift: usize,
    /// Program and arguments that print a version, for the report.
    version: Option<(String, Vec<String>)>,
}

/// One process, or several alike.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// What others call it in their arguments.
    pub name: String,
    /// What its cost is counted to; its name where the file does not say.
    pub role: Option<String>,
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
    /// Whether clients connect by TLS. `tls.crt` and `tls.key` are then in its folder: a certificate for 127.0.0.1, P-256.
    #[serde(default)]
    pub tls: bool,
    /// Which clients connect to it.
    #[serde(default)]
    pub serves: BTreeSet<End>,
    /// How many of it; 1 when not given.
    pub count: Option<usize>,
    /// Whether `--replicas` says how many.
    #[serde(default)]
    pub scales: bool,
    /// Path of an HTTP endpoint on `{ops_port}` that answers 200 when it is ready; without it, it is
    /// ready when it listens on `{port}`.
    pub ready_path: Option<String>,
    /// Seconds that it may take to be ready; 10 when not given.
    pub ready_seconds: Option<u64>,
}

/// An end of a flow of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Publishers.
    Publishers,
    /// Subscribers, and connections that do nothing.
    Subscribers,
}

/// The file: either `command` and what belongs to it, or `process`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpec {
    name: String,
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    ready_seconds: Option<u64>,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    version_args: Vec<String>,
    version_command: Option<String>,
    #[serde(default)]
    shift: usize,
    #[serde(default)]
    process: Vec<ProcessSpec>,
}

impl ProcessSpec {
    /// What its cost is counted to.
    #[must_use]
    pub fn role(&self) -> &str {
        self.role.as_deref().unwrap_or(&self.name)
    }

    /// How many of it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.unwrap_or(1)
    }

    /// How long it may take to be ready.
    #[must_use]
    pub fn ready_limit(&self) -> Duration {
        Duration::from_secs(self.ready_seconds.unwrap_or(READY_SECONDS))
    }
}

impl BrokerSpec {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, has unknown or missing keys, or makes no sense; all problems are named.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ScenarioUnreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(&text).map_err(|problems| Error::ScenarioInvalid {
            name: path.display().to_string(),
            problems,
        })
    }

    fn from_toml(text: &str) -> Result<Self, Vec<String>> {
        let raw: RawSpec = toml::from_str(text).map_err(|problem| vec![problem.to_string()])?;
        let spec = raw.into_spec()?;
        let problems = spec.problems();
        if problems.is_empty() {
            Ok(spec)
        } else {
            Err(problems)
        }
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
            processes: vec![ProcessSpec::alone(command, args)],
            shift: 0,
            version: None,
        })
    }

    /// Whether `--replicas` changes anything.
    #[must_use]
    pub fn scales(&self) -> bool {
        self.processes.iter().any(|process| process.scales)
    }

    /// The same with so many of each process that scales; the name says how many.
    ///
    /// # Errors
    /// [`Error::Option`] when there is none, or the number is out of bounds.
    pub fn with_replicas(&self, replicas: usize) -> Result<Self, Error> {
        let mut spec = self.clone();
        if !spec.scales() {
            return Err(Error::Option(format!(
                "--replicas: {} has no process with `scales = true`",
                spec.name
            )));
        }
        for process in spec.processes.iter_mut().filter(|process| process.scales) {
            process.count = Some(replicas);
        }
        spec.name = format!("{} x{replicas}", spec.name);
        let problems = spec.problems();
        if problems.is_empty() {
            Ok(spec)
        } else {
            Err(Error::Option(format!(
                "--replicas {replicas}: {}",
                problems.join("; ")
            )))
        }
    }

    /// The first line that the broker prints about its version; empty when it says nothing.
    #[must_use]
    pub fn version(&self) -> String {
        let Some((command, args)) = &self.version else {
            return String::new();
        };
        let output = Command::new(command)
            .args(args)
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

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut names = BTreeSet::new();
        for process in &self.processes {
            let name = &process.name;
            if !names.insert(name) {
                problems.push(format!("two processes are named {name}"));
            }
            if process.count() == 0 {
                problems.push(format!("{name}: count must be at least 1"));
            }
            if process
                .ready_seconds
                .is_some_and(|seconds| seconds > READY_SECONDS_MAX)
            {
                problems.push(format!(
                    "{name}: ready_seconds must be at most {READY_SECONDS_MAX}"
                ));
            }
            if process
                .ready_path
                .as_ref()
                .is_some_and(|path| !path.starts_with('/'))
            {
                problems.push(format!("{name}: ready_path must begin with /"));
            }
        }
        let count: usize = self.processes.iter().map(ProcessSpec::count).sum();
        if count > PROCESSES_MAX {
            problems.push(format!(
                "{count} processes are more than {PROCESSES_MAX}, which is the most"
            ));
        }
        let tls = |process: &&ProcessSpec| !process.serves.is_empty() && process.tls;
        let serving = |process: &&ProcessSpec| !process.serves.is_empty();
        let by_tls = self.processes.iter().filter(tls).count();
        if by_tls > 0 && by_tls < self.processes.iter().filter(serving).count() {
            problems.push("clients connect to all by TLS, or to none".to_owned());
        }
        for (end, text) in [
            (End::Publishers, "publishers"),
            (End::Subscribers, "subscribers"),
        ] {
            if !self
                .processes
                .iter()
                .any(|process| process.serves.contains(&end))
            {
                problems.push(format!("no process has {text:?} in `serves`"));
            }
        }
        problems
    }
}

impl ProcessSpec {
    /// The one process of a broker that has no other.
    fn alone(command: String, args: Vec<String>) -> Self {
        Self {
            name: "broker".to_owned(),
            role: None,
            command,
            args,
            env: BTreeMap::new(),
            files: BTreeMap::new(),
            tls: false,
            serves: BTreeSet::from([End::Publishers, End::Subscribers]),
            count: None,
            scales: false,
            ready_path: None,
            ready_seconds: None,
        }
    }
}

impl RawSpec {
    fn into_spec(self) -> Result<BrokerSpec, Vec<String>> {
        let version = self
            .version_command
            .as_ref()
            .or(self.command.as_ref())
            .filter(|_| !self.version_args.is_empty())
            .map(|command| (command.clone(), self.version_args.clone()));
        let alone_keys = !self.args.is_empty()
            || !self.env.is_empty()
            || !self.files.is_empty()
            || self.tls
            || self.ready_seconds.is_some();
        let processes = match (self.command, self.process) {
            (Some(command), processes) if processes.is_empty() => vec![ProcessSpec {
                env: self.env,
                files: self.files,
                tls: self.tls,
                ready_seconds: self.ready_seconds,
                ..ProcessSpec::alone(command, self.args)
            }],
            (None, processes) if !processes.is_empty() && !alone_keys => processes,
            (None, processes) if !processes.is_empty() => {
                return Err(vec![
                    "args, env, files, tls and ready_seconds belong into each [[process]]"
                        .to_owned(),
                ]);
            }
            _ => {
                return Err(vec![
                    "either `command` or [[process]] entries, and not both".to_owned(),
                ]);
            }
        };
        Ok(BrokerSpec {
            name: self.name,
            processes,
            shift: self.shift,
            version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"
        name = "cluster"
        shift = 1
        [[process]]
        name = "redis"
        command = "redis-server"
        args = ["--port", "{port}"]
        [[process]]
        name = "replica"
        command = "broker"
        args = ["--redis", "redis://127.0.0.1:{redis.port}"]
        serves = ["publishers", "subscribers"]
        count = 2
        scales = true
    "#;

    #[test]
    fn a_broker_on_the_command_line_is_name_and_command() {
        let spec = BrokerSpec::parse("mq=mosquitto -p {port}").unwrap();
        let process = spec.processes.first().unwrap();
        assert_eq!(
            (spec.name.as_str(), process.command.as_str()),
            ("mq", "mosquitto")
        );
        assert_eq!(process.args, ["-p", "{port}"]);
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
    fn a_cluster_has_processes_and_as_many_replicas_as_are_asked_for() {
        let spec = BrokerSpec::from_toml(CLUSTER).unwrap();
        let counts: Vec<usize> = spec.processes.iter().map(ProcessSpec::count).collect();
        assert_eq!((counts.as_slice(), spec.shift), (&[1, 2][..], 1));
        let spec = spec.with_replicas(8).unwrap();
        let counts: Vec<usize> = spec.processes.iter().map(ProcessSpec::count).collect();
        assert_eq!(
            (counts.as_slice(), spec.name.as_str()),
            (&[1, 8][..], "cluster x8")
        );
        assert!(spec.with_replicas(0).is_err() && spec.with_replicas(1000).is_err());
        let alone = BrokerSpec::parse("mq=mosquitto -p {port}").unwrap();
        assert!(alone.with_replicas(2).is_err());
    }

    #[test]
    fn what_makes_no_sense_in_a_file_is_named() {
        let broken = CLUSTER
            .replace("name = \"replica\"", "name = \"redis\"")
            .replace("\"subscribers\"", "\"publishers\"")
            .replace("count = 2", "count = 0");
        let problems = BrokerSpec::from_toml(&broken).unwrap_err().join("\n");
        for expected in ["two processes are named redis", "count", "subscribers"] {
            assert!(problems.contains(expected), "{problems}");
        }
        for wrong in [
            "name = \"x\"",
            "name = \"x\"\ncommand = \"y\"\nunknown = 1",
            &CLUSTER.replace("shift = 1", "command = \"broker\""),
            &CLUSTER.replace("shift = 1", "args = [\"x\"]"),
            &CLUSTER.replace("shift = 1", "tls = true"),
        ] {
            assert!(BrokerSpec::from_toml(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_files_of_the_project_are_valid() {
        let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        for folder in ["brokers", "clusters"] {
            let files: Vec<_> = std::fs::read_dir(scenarios.join(folder))
                .unwrap()
                .flatten()
                .collect();
            assert!(files.len() >= 2, "{folder}");
            for file in files {
                BrokerSpec::open(&file.path()).unwrap();
            }
        }
    }
}
