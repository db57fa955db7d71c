//! Runs a fleet from the first connection to the report.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::QoS;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use super::client::{Login, Transport};
use super::deal;
use super::device::{self, Shared};
use super::progress::Progress;
use super::report::Report;
use super::schedule::Speed;
use super::tally::Tally;
use crate::error::Error;
use crate::limits::require_sockets;
use crate::scenario::Scenario;

/// Connections that are being set up at a time: below the usual backlog of a listener.
const HANDSHAKES: usize = 100;

/// Files that the process has open beside its connections.
const OTHER_FILES: u64 = 32;

/// What `loadtest fleet` is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where and as whom devices connect.
    pub login: Login,
    /// QoS of all messages.
    pub qos: QoS,
    /// Devices in all.
    pub devices: usize,
    /// How fast virtual time runs.
    pub speed: Speed,
    /// Unacknowledged messages of one device.
    pub inflight: u16,
    /// How long a broker may take to answer before the connection is given up.
    pub ack_timeout: Duration,
    /// How long a device tries to connect before it is given up.
    pub give_up: Duration,
    /// No progress display at all.
    pub quiet: bool,
}

/// Runs the fleet and returns what came of it. Stops early when `interrupted` resolves; the report says so.
///
/// # Errors
/// When it cannot begin: no broker, a refusal, wrong options. A fleet that began always ends in a report,
/// which may say that messages are missing.
pub async fn run(
    options: Options,
    scenario: &Scenario,
    interrupted: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let (devices, messages) = deal::devices(scenario, options.devices, options.speed)?;
    require_sockets(devices.len() as u64 + OTHER_FILES)?;
    let count = devices.len();
    let (start, started) = watch::channel(None);
    let shared = Rc::new(Shared {
        transport: Transport::new(&options.login)?,
        tally: RefCell::new(Tally::new(scenario.stations.len())),
        start: started,
        handshakes: Semaphore::new(HANDSHAKES),
        changed: Notify::new(),
        fatal: RefCell::new(None),
        options,
    });
    let progress = Progress::new(
        messages,
        std::io::stderr().is_terminal(),
        shared.options.quiet,
    );
    let local = LocalSet::new();
    let complete = local.run_until(async {
        tokio::pin!(interrupted);
        let mut tasks = JoinSet::new();
        for device in devices {
            tasks.spawn_local(device::run(device, Rc::clone(&shared)));
        }
        let complete = tokio::select! {
            result = all_connected(&shared, count, &progress) => { result?; true }
            () = &mut interrupted => false,
        };
        if !complete {
            return Ok((Duration::ZERO, false));
        }
        let begin = Instant::now();
        start.send_replace(Some(begin));
        let complete = tokio::select! {
            () = finish(&mut tasks, &shared, &progress) => true,
            () = &mut interrupted => false,
        };
        Ok::<_, Error>((begin.elapsed(), complete))
    });
    let (duration, complete) = complete.await?;
    progress.end();
    drop(local); // ends the devices that are left
    let tally = shared.tally.borrow();
    Ok(Report::new(
        scenario,
        &shared.options,
        count,
        &tally,
        duration,
        !complete,
    ))
}

async fn all_connected(shared: &Shared, count: usize, progress: &Progress) -> Result<(), Error> {
    loop {
        if let Some(error) = shared.fatal.borrow_mut().take() {
            return Err(error);
        }
        let connected = shared.tally.borrow().connected;
        progress.connecting(connected, count);
        if connected >= count {
            return Ok(());
        }
        shared.changed.notified().await;
    }
}

async fn finish(tasks: &mut JoinSet<()>, shared: &Shared, progress: &Progress) {
    let mut tick =
        tokio::time::interval_at(Instant::now() + progress.interval(), progress.interval());
    loop {
        tokio::select! {
            done = tasks.join_next() => match done {
                None => return,
                Some(Ok(())) => {}
                Some(Err(problem)) => {
                    // A device that panicked is our own fault; its messages are missing in the report.
                    shared.tally.borrow_mut().last_trouble = Some(problem.to_string());
                }
            },
            _ = tick.tick() => progress.update(&shared.tally.borrow()),
        }
    }
}
