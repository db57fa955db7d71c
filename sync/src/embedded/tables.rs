//! The storage engine's tables and its errors in our words.

use std::io;
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError};

use super::EmbeddedOptions;
use super::keys::{FIRST_TABLES, STATE_TABLE_ID, TABLES};
use crate::StoreError;
use crate::pipeline::guarded;

/// Journals kept before tables are flushed to get rid of them: bounds the time of a restart.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// Open files of tables.
const OPEN_FILES_MAX: usize = 256;
/// One may compact while the other flushes.
const WORKER_THREADS: usize = 2;

/// The open database.
#[derive(Clone)]
pub(crate) struct Tables {
    pub(crate) db: Database,
    pub(crate) state: Keyspace,
    pub(crate) queue: Keyspace,
    pub(crate) bodies: Keyspace,
    pub(crate) retained: Keyspace,
    pub(crate) wills: Keyspace,
    pub(crate) records: Keyspace,
}

impl Tables {
    /// Creates a database at `path`, which must not exist.
    pub(crate) fn create(path: &Path, options: &EmbeddedOptions) -> Result<Self, StoreError> {
        open(path, options, true)
    }

    /// Opens the database at `path`, which must hold all tables but those that came later: they are made.
    pub(crate) fn open(path: &Path, options: &EmbeddedOptions) -> Result<Self, StoreError> {
        open(path, options, false)
    }

    /// Removes the table of records and closes the database: when it is opened again that table is made, under the next free number.
    pub(crate) fn forget_records(self, path: &Path) -> Result<(), StoreError> {
        let Self { db, records, .. } = self;
        db.delete_keyspace(records)
            .map_err(|error| open_error(path, &error))
    }

    pub(crate) fn all(&self) -> [&Keyspace; 6] {
        [
            &self.state,
            &self.queue,
            &self.bodies,
            &self.retained,
            &self.wills,
            &self.records,
        ]
    }
}

/// The engine panics on some kinds of damage, hence the guard.
fn open(path: &Path, options: &EmbeddedOptions, create: bool) -> Result<Tables, StoreError> {
    let place = path.display().to_string();
    let opened = guarded(|| {
        let db = Database::builder(path)
            .cache_size(options.cache_bytes)
            .worker_threads(WORKER_THREADS)
            .max_cached_files(Some(OPEN_FILES_MAX))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()
            .map_err(|error| open_error(path, &error))?;
        let table = |index: usize| {
            let name = TABLES.get(index).copied().unwrap_or_default();
            if !create && index < FIRST_TABLES && !db.keyspace_exists(name) {
                return Err(StoreError::damaged(
                    path.display().to_string(),
                    format!("table {name} is missing"),
                ));
            }
            db.keyspace(name, || table_options(name, options.write_buffer_bytes))
                .map_err(|error| open_error(path, &error))
        };
        let tables = Tables {
            state: table(0)?,
            queue: table(1)?,
            bodies: table(2)?,
            retained: table(3)?,
            wills: table(4)?,
            records: table(5)?,
            db,
        };
        if tables.state.id() == STATE_TABLE_ID {
            Ok(tables)
        } else {
            Err(StoreError::damaged(
                path.display().to_string(),
                format!(
                    "table state has number {}, not {STATE_TABLE_ID}",
                    tables.state.id()
                ),
            ))
        }
    });
    opened.map_err(|error| match error {
        StoreError::Panicked { reason } => StoreError::damaged(place, reason),
        other => other,
    })
}

fn table_options(name: &str, write_buffer_bytes: u64) -> KeyspaceCreateOptions {
    let bytes = match name {
        "queue" => write_buffer_bytes,
        _ => write_buffer_bytes / 4,
    };
    KeyspaceCreateOptions::default().max_memtable_size(bytes)
}

fn open_error(path: &Path, error: &fjall::Error) -> StoreError {
    match error {
        fjall::Error::Locked => StoreError::InUse {
            path: path.to_path_buf(),
            pid: None,
        },
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))
            if is_environment(error) =>
        {
            StoreError::io("open", path, error)
        }
        other => StoreError::damaged(path.display().to_string(), format!("{other:?}")),
    }
}

/// Whether an I/O error speaks of the machine and not of the bytes.
fn is_environment(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::NotFound
            | io::ErrorKind::Other
    )
}

/// An error of the engine while reading a table.
pub(crate) fn read_error(table: &str, error: &fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))
            if is_environment(error) =>
        {
            StoreError::ReadFailed {
                reason: format!("table {table}: {error}"),
            }
        }
        other => StoreError::damaged(format!("table {table}"), format!("{other:?}")),
    }
}

/// An error of the engine while writing.
pub(crate) fn write_error(root: &Path, error: &fjall::Error) -> StoreError {
    let path = root.to_path_buf();
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) if is_full(error) => {
            StoreError::DiskFull { path }
        }
        // Background work has failed; the engine only says so. The usual reason can be found out.
        fjall::Error::Poisoned if probe_is_full(root) => StoreError::DiskFull { path },
        fjall::Error::Poisoned => StoreError::WriteFailed {
            path,
            reason: "writing tables in the background has failed (see the log)".to_owned(),
        },
        other => StoreError::WriteFailed {
            path,
            reason: format!("{other:?}"),
        },
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn probe_is_full(root: &Path) -> bool {
    const PROBE_BYTES: usize = 1 << 20;
    let path = root.join("probe.tmp");
    let full = std::fs::write(&path, vec![1; PROBE_BYTES]).is_err_and(|error| is_full(&error));
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, "probe file was not removed");
    }
    full
}
