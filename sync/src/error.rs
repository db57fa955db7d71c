//! Why a store cannot be opened, read or written.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a store cannot do what it was asked. Each kind has a stable code for operators.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the store open.
    #[error("store {} is in use by another process ({}); stop that process or choose another path",
        path.display(), pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}")))]
    InUse {
        /// The store's directory.
        path: PathBuf,
        /// What the other process wrote into its lock.
        pid: Option<u32>,
    },
    /// The path exists and is not a directory.
    #[error("store {} is not a directory; move that file away or choose another path", path.display())]
    NotADirectory {
        /// The configured path.
        path: PathBuf,
    },
    /// The process may not read or write there.
    #[error("permission denied: cannot {action} {}; give this user read and write permission", path.display())]
    PermissionDenied {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
    },
    /// Another failure of the file system while opening.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The directory holds something else.
    #[error("{} is not a dunlin store: it has no readable dunlin-store.toml but holds {found}; choose an empty directory, or restore the missing file",
        path.display())]
    NotAStore {
        /// The configured path.
        path: PathBuf,
        /// A file that is there.
        found: String,
    },
    /// Written by another version of the program.
    #[error("store {} has format {found}, and this version reads format {supported}; use the version that wrote it",
        path.display())]
    UnknownFormat {
        /// The store's directory.
        path: PathBuf,
        /// The format of the store.
        found: String,
        /// The format this build reads.
        supported: u32,
    },
    /// Bytes on disk are not what was written.
    #[error(
        "store is damaged at {place}: {reason}; restore it from a backup, or move the directory away to start empty"
    )]
    Damaged {
        /// File and offset, or table and key.
        place: String,
        /// What is wrong there.
        reason: String,
    },
    /// Commits that were acknowledged are not there any more.
    #[error("store {} has lost acknowledged data: commit {acknowledged} was acknowledged but the last one found is {found}{detail}; restore it from a backup, or move the directory away to start empty",
        path.display())]
    AcknowledgedLost {
        /// The store's directory.
        path: PathBuf,
        /// Last commit that was acknowledged.
        acknowledged: u64,
        /// Last commit that is whole.
        found: u64,
        /// Where the damage is, if known; empty or beginning with a separator.
        detail: String,
    },
    /// No space left.
    #[error("no space left for store {}; free some and start again (reading still works)", path.display())]
    DiskFull {
        /// The store's directory.
        path: PathBuf,
    },
    /// Writing failed; nothing more is accepted until the store is opened again.
    #[error("store {} cannot be written: {reason}; it takes no more changes until it is opened again", path.display())]
    WriteFailed {
        /// The store's directory.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
    /// Reading failed.
    #[error("store cannot be read: {reason}")]
    ReadFailed {
        /// What failed.
        reason: String,
    },
    /// A defect: the writer thread panicked.
    #[error(
        "the store's writer stopped because of a defect: {reason}; it takes no more changes until the process is restarted"
    )]
    Panicked {
        /// The panic message.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A change that no store can hold.
    #[error("refused: {reason}")]
    InvalidOp {
        /// What is wrong with it.
        reason: String,
    },
    /// [`Store::recover`](crate::Store::recover) was called again.
    #[error("the state found at opening has already been handed out")]
    AlreadyRecovered,
    /// A change that the cluster did not take, or of which it is not known whether it did: this replica
    /// was taken for dead, or Redis refused it. The store goes on.
    #[error("the cluster did not take the change: {reason}")]
    Cluster {
        /// What happened.
        reason: String,
    },
}

impl StoreError {
    /// Stable code of this kind, as in logs and the error catalogue.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "DUN-1001",
            Self::NotADirectory { .. } => "DUN-1002",
            Self::PermissionDenied { .. } => "DUN-1003",
            Self::Io { .. } => "DUN-1004",
            Self::NotAStore { .. } => "DUN-1005",
            Self::UnknownFormat { .. } => "DUN-1006",
            Self::Damaged { .. } => "DUN-1007",
            Self::AcknowledgedLost { .. } => "DUN-1008",
            Self::DiskFull { .. } => "DUN-1009",
            Self::WriteFailed { .. } => "DUN-1010",
            Self::ReadFailed { .. } => "DUN-1011",
            Self::Panicked { .. } => "DUN-1012",
            Self::Closed => "DUN-1013",
            Self::InvalidOp { .. } => "DUN-1014",
            Self::AlreadyRecovered => "DUN-1015",
            Self::Cluster { .. } => "DUN-1016",
        }
    }

    /// A failure of the file system while `action` was done with `path`.
    pub(crate) fn io(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::PermissionDenied { action, path }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io {
                action,
                path,
                reason: error.to_string(),
            },
        }
    }

    /// Damage at a named place.
    pub(crate) fn damaged(place: impl Into<String>, reason: impl ToString) -> Self {
        Self::Damaged {
            place: place.into(),
            reason: reason.to_string(),
        }
    }
}
