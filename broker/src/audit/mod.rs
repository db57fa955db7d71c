//! The audit log: who connected, who was refused and why, and what was changed by whom.
//!
//! One event is one line. Events go through a queue of fixed length to a thread that writes them: nobody who tells of an
//! event waits for a disk. When the queue is full the event is counted as lost, and the next line that is written says how
//! many were. What is secret has no field here: there is no place for a password, a token or a key.

mod event;
mod writer;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

pub use event::{Event, Kind};

use writer::{Line, Sink, Writer};

/// Events that wait to be written. Each has at most about 4 KiB, and usually a tenth of it.
const QUEUE: usize = 8_192;
/// How long the writer is waited for at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// Nowhere.
    Off,
    /// Into the broker's own log, at the level `info`, as what `dunlin_audit` says.
    #[default]
    Log,
    /// Into a file, as one JSON object a line; appended, and opened anew on SIGHUP.
    File(PathBuf),
}

/// Which events are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// What somebody or something changed: administration, provisioning, bans, revocations.
    #[default]
    Changes,
    /// These, and who was refused.
    Refused,
    /// Everything, also who connected and when he left.
    All,
}

/// What `[audit]` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditConfig {
    /// Where to.
    pub target: Target,
    /// What.
    pub scope: Scope,
}

/// Counters of what was recorded and what was lost.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Events that were taken.
    pub recorded: Counter,
    /// Events that were lost: the queue was full, or the file could not be written.
    pub lost: Counter,
}

/// The audit log. Cheap to ask; shared by all.
#[derive(Debug)]
pub struct Audit {
    queue: Option<SyncSender<Line>>,
    shared: Arc<Shared>,
}

/// What the writer and those who tell it share.
#[derive(Debug)]
struct Shared {
    wanted: Mutex<Scope>,
    /// The same, for those who only look.
    refusals: AtomicBool,
    connections: AtomicBool,
    on: AtomicBool,
    /// Where the next line goes, if that has changed.
    next: Mutex<Option<Sink>>,
    /// Lost since the last line that was written.
    lost: AtomicU64,
    counts: Counts,
    /// Lines that were taken, and lines that are done with.
    taken: AtomicU64,
    done: AtomicU64,
}

/// The file of the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {} cannot be opened: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

impl Audit {
    /// Records nothing, for tests and tools.
    #[must_use]
    pub fn off() -> Arc<Self> {
        Arc::new(Self {
            queue: None,
            shared: Shared::new(Scope::Changes, false, Counts::default()),
        })
    }

    /// Opens the target and starts the thread that writes.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system gives no thread.
    pub fn start(config: &AuditConfig, counts: Counts) -> Result<Arc<Self>, AuditError> {
        let sink = open(&config.target)?;
        let shared = Shared::new(config.scope, config.target != Target::Off, counts);
        let (queue, lines) = sync_channel(QUEUE);
        let writer = Writer::new(lines, sink, Arc::clone(&shared));
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| AuditError {
                path: PathBuf::from("(its thread)"),
                source,
            })?;
        Ok(Arc::new(Self {
            queue: Some(queue),
            shared,
        }))
    }

    /// From now on this holds. The file is opened anew even when its name is the same: it may have been moved away.
    ///
    /// # Errors
    /// When the file cannot be opened: everything stays as it was.
    pub fn renew(&self, config: &AuditConfig) -> Result<(), AuditError> {
        if self.queue.is_none() {
            return Ok(());
        }
        *self.shared.next.lock() = Some(open(&config.target)?);
        self.shared.set(config.scope, config.target != Target::Off);
        Ok(())
    }

    /// Whether an event of this kind would be recorded: who has to put one together may ask first.
    #[must_use]
    pub fn wants(&self, kind: Kind) -> bool {
        let shared = &self.shared;
        shared.on.load(Ordering::Relaxed)
            && match kind.scope() {
                Scope::Changes => true,
                Scope::Refused => shared.refusals.load(Ordering::Relaxed),
                Scope::All => shared.connections.load(Ordering::Relaxed),
            }
    }

    /// Records an event. Never waits.
    pub fn record(&self, event: Event) {
        let Some(queue) = self.queue.as_ref().filter(|_| self.wants(event.kind())) else {
            return;
        };
        match queue.try_send(Line::now(event)) {
            Ok(()) => {
                self.shared.taken.fetch_add(1, Ordering::Relaxed);
                self.shared.counts.recorded.inc();
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.shared.lose(1),
        }
    }

    /// Waits, for two seconds at most, until what was recorded is written. For the end; blocks the thread.
    pub fn flush(&self) {
        let taken = self.shared.taken.load(Ordering::Relaxed);
        let deadline = Instant::now() + LAST_LINES;
        while self.shared.done.load(Ordering::Acquire) < taken && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Shared {
    fn new(scope: Scope, on: bool, counts: Counts) -> Arc<Self> {
        let shared = Self {
            wanted: Mutex::new(scope),
            refusals: AtomicBool::new(false),
            connections: AtomicBool::new(false),
            on: AtomicBool::new(false),
            next: Mutex::new(None),
            lost: AtomicU64::new(0),
            counts,
            taken: AtomicU64::new(0),
            done: AtomicU64::new(0),
        };
        shared.set(scope, on);
        Arc::new(shared)
    }

    fn set(&self, scope: Scope, on: bool) {
        let mut wanted = self.wanted.lock();
        *wanted = scope;
        self.refusals
            .store(scope != Scope::Changes, Ordering::Relaxed);
        self.connections
            .store(scope == Scope::All, Ordering::Relaxed);
        self.on.store(on, Ordering::Relaxed);
    }

    fn lose(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
        self.counts.lost.inc_by(events);
    }
}

fn open(target: &Target) -> Result<Sink, AuditError> {
    match target {
        Target::Off | Target::Log => Ok(Sink::Log),
        Target::File(path) => append(path)
            .map(|file| Sink::file(file, path))
            .map_err(|source| AuditError {
                path: path.clone(),
                source,
            }),
    }
}

/// Whoever may read the log learns who comes and goes: it is for its owner and group.
fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests;
