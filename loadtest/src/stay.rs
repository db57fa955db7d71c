//! Clients that stay: each has a persistent session, publishes and subscribes slowly, and connects again at once
//! whenever its connection ends. What rollouts, kills and storms do to them is counted.
//!
//! Client *n* publishes numbers to `stay/n` and subscribes to the topic of its successor, so every message has one
//! receiver. The odd ones publish at QoS 2, the even ones at QoS 1; every fourth speaks MQTT 3.1.1. A client connects
//! again without waiting, so that what the report says of each second is what the brokers did, and not a pause of
//! ours; only after an attempt that failed it waits, for longer each time, by a random part.

mod report;
mod resident;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::Version;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

pub use report::{Report, Second};
use resident::Resident;

use crate::error::Error;
use crate::fleet::Login;
use crate::fleet::client::Transport;
use crate::limits::require_sockets;

/// Connections that are set up at a time at the start.
const HANDSHAKES: usize = 100;
/// Files beside the connections.
const OTHER_FILES: u64 = 32;

/// What `loadtest stay` is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where and as whom clients connect. The version is that of all but every fourth client.
    pub login: Login,
    /// Clients, at least two.
    pub clients: usize,
    /// Time between two messages of one client.
    pub interval: Duration,
    /// How long messages are begun; `None`: until interrupted.
    pub duration: Option<Duration>,
    /// How long is waited for what is under way at the end.
    pub patience: Duration,
}

/// What all clients share; one thread runs them.
struct Shared {
    options: Options,
    /// Of MQTT 3.1.1.
    older: Login,
    transport: Transport,
    counts: RefCell<report::Counts>,
    handshakes: Semaphore,
    /// A client has connected for the first time, or something was acknowledged or received.
    changed: Notify,
    phase: watch::Receiver<Phase>,
}

/// What clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connect,
    Publish,
    /// No new messages.
    Finish,
    Leave,
}

impl Shared {
    fn login(&self, number: usize) -> &Login {
        match number % 4 {
            3 => &self.older,
            _ => &self.options.login,
        }
    }
}

/// Runs the clients; `begun` is called when all are connected. Ends when the time is over or `interrupted` resolves,
/// and what was under way has arrived.
///
/// # Errors
/// When it cannot begin. What was lost or repeated is in the report.
pub async fn run(
    options: Options,
    begun: impl FnOnce(),
    interrupted: impl Future<Output = ()>,
) -> Result<Report, Error> {
    if options.clients < 2 {
        return Err(Error::Option("--clients must be 2 at least".to_owned()));
    }
    require_sockets(options.clients as u64 + OTHER_FILES)?;
    let (phase, phases) = watch::channel(Phase::Connect);
    let shared = Rc::new(Shared {
        older: Login {
            version: Version::V311,
            ..options.login.clone()
        },
        transport: Transport::new(&options.login)?,
        counts: RefCell::new(report::Counts::new(options.clients)),
        handshakes: Semaphore::new(HANDSHAKES),
        changed: Notify::new(),
        phase: phases,
        options,
    });
    let local = LocalSet::new();
    local
        .run_until(async {
            tokio::pin!(interrupted);
            let mut tasks = JoinSet::new();
            for number in 0..shared.options.clients {
                tasks.spawn_local(Resident::new(number, Rc::clone(&shared)).run());
            }
            let until = |counts: fn(&report::Counts) -> bool| {
                let shared = Rc::clone(&shared);
                async move {
                    while !counts(&shared.counts.borrow()) {
                        shared.changed.notified().await;
                    }
                }
            };
            let connected = tokio::time::timeout(
                shared.options.patience,
                until(report::Counts::all_connected),
            );
            if connected.await.is_err() {
                let counts = shared.counts.borrow();
                return Err(Error::Unreachable {
                    address: format!(
                        "{}:{}",
                        shared.options.login.host, shared.options.login.port
                    ),
                    seconds: shared.options.patience.as_secs(),
                    problem: format!(
                        "{} of {} clients are connected; {}",
                        counts.connected(),
                        shared.options.clients,
                        counts.last_trouble()
                    ),
                });
            }
            shared.counts.borrow_mut().begin(Instant::now());
            phase.send_replace(Phase::Publish);
            begun();
            match shared.options.duration {
                Some(duration) => {
                    tokio::select! {
                        () = tokio::time::sleep(duration) => {}
                        () = &mut interrupted => {}
                    }
                }
                None => interrupted.await,
            }
            phase.send_replace(Phase::Finish);
            // What is missing then is lost.
            let _late =
                tokio::time::timeout(shared.options.patience, until(report::Counts::all_arrived))
                    .await
                    .is_err();
            let report = Report::new(&shared.counts.borrow(), &shared.options);
            phase.send_replace(Phase::Leave);
            let leaving = async { while tasks.join_next().await.is_some() {} };
            let _stuck = tokio::time::timeout(shared.options.patience, leaving)
                .await
                .is_err();
            Ok(report)
        })
        .await
}
