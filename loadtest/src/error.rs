//! Everything that can stop the load tester, each with a code that an operator can look up.
//!
//! The codes are DUN-3000 to DUN-3099; `loadtest/README.md` has a line on each. The text says what was
//! wrong with the numbers in it, and what to do.

use std::io;
use std::path::PathBuf;

/// Why a run could not start, or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scenario file cannot be read.
    #[error("cannot read the scenario file {path}: {source}")]
    ScenarioUnreadable {
        /// The file named on the command line.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The scenario file is read, but wrong; every problem is a line of its own.
    #[error("the scenario {name} has {} problem(s):\n  {}", problems.len(), problems.join("\n  "))]
    ScenarioInvalid {
        /// The file, or `built-in`.
        name: String,
        /// All problems found, not only the first.
        problems: Vec<String>,
    },
    /// An input file (CSV) is missing or malformed.
    #[error("input data {name}: {problem}")]
    Data {
        /// The file, or `builtin:<name>`.
        name: String,
        /// What is wrong, with the line where it is known.
        problem: String,
    },
    /// Nothing answers at the address of the broker.
    #[error(
        "no broker reachable at {address} within {seconds} s: {problem}; is it running, and is the port right?"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// How long was tried.
        seconds: u64,
        /// What the last attempt ended with.
        problem: String,
    },
    /// The broker answered CONNECT with a refusal.
    #[error(
        "the broker at {address} refused client {client}: {reason}; check user name, password and permissions"
    )]
    Refused {
        /// Host and port.
        address: String,
        /// The client id that was refused.
        client: String,
        /// The reason code, by name and number.
        reason: String,
    },
    /// Certificates, keys or the server's name are unusable.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The fleet ended with messages unacknowledged.
    #[error(
        "{missing} of {due} messages were not acknowledged ({failed} failed); see the report above"
    )]
    Incomplete {
        /// Messages without an acknowledgement.
        missing: u64,
        /// Messages that were due.
        due: u64,
        /// Of these, refused by the broker or given up.
        failed: u64,
    },
    /// More sockets are needed than the process may open.
    #[error(
        "{needed} sockets are needed, but this process may open {limit} files; raise `ulimit -n` or ask for fewer"
    )]
    TooManySockets {
        /// Sockets and files that the run needs.
        needed: u64,
        /// The hard limit in force.
        limit: u64,
    },
    /// A broker to be measured did not start.
    #[error("broker {name} did not start: {problem}\n{log}")]
    BrokerStart {
        /// Its name in the scenario.
        name: String,
        /// What happened.
        problem: String,
        /// The end of what it printed.
        log: String,
    },
    /// A process cannot be observed.
    #[error("cannot read /proc/{pid}: {problem}; is the process still running?")]
    Proc {
        /// Its process id.
        pid: u32,
        /// What happened.
        problem: String,
    },
    /// A report cannot be written.
    #[error("cannot write {path}: {source}")]
    Output {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// An option or a combination of options makes no sense.
    #[error("{0}")]
    Option(String),
    /// A benchmark run went wrong: a connection broke, or the broker broke the protocol.
    #[error("benchmark {workload} on {broker}: {problem}")]
    Bench {
        /// The workload.
        workload: String,
        /// The broker.
        broker: String,
        /// What happened.
        problem: String,
    },
    /// The network of this machine refused something that has nothing to do with the broker.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A benchmark lost, repeated or reordered messages that it must not.
    #[error("benchmark results are wrong: {0}")]
    WrongCounts(String),
    /// A message costs more CPU time than `--max-cpu` allows, or a goal is not met.
    #[error("what was asked for was not found: {0}")]
    TooDear(String),
}

impl Error {
    /// The number to look up, stable across versions.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ScenarioUnreadable { .. } => "DUN-3000",
            Self::ScenarioInvalid { .. } => "DUN-3001",
            Self::Data { .. } => "DUN-3002",
            Self::Unreachable { .. } => "DUN-3003",
            Self::Refused { .. } => "DUN-3004",
            Self::Tls(_) => "DUN-3005",
            Self::Incomplete { .. } => "DUN-3006",
            Self::TooManySockets { .. } => "DUN-3007",
            Self::BrokerStart { .. } => "DUN-3008",
            Self::Proc { .. } => "DUN-3009",
            Self::Output { .. } => "DUN-3010",
            Self::Option(_) => "DUN-3011",
            Self::Bench { .. } => "DUN-3012",
            Self::Io { .. } => "DUN-3013",
            Self::WrongCounts(_) => "DUN-3014",
            Self::TooDear(_) => "DUN-3015",
        }
    }

    /// The exit code of the process: 1 when the run was wrong, 2 when it could not begin.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Incomplete { .. }
            | Self::Bench { .. }
            | Self::WrongCounts(_)
            | Self::TooDear(_) => 1,
            _ => 2,
        }
    }
}
