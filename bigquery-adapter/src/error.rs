//! Errors by boundary, each with the code that the log, the exit message and the operator's page share.

use std::io;
use std::path::{Path, PathBuf};

/// A stable name of something that went wrong, `DUN-2000` to `DUN-2099`. What to do about each: README, "Errors".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(&'static str);

macro_rules! codes {
    ($($name:ident = $code:literal, $meaning:literal;)*) => {
        impl Code {
            $(#[doc = $meaning] pub const $name: Self = Self($code);)*
            /// Every code with its meaning.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $meaning),)*];
        }
    };
}

codes! {
    CONFIGURATION = "DUN-2000", "the configuration has problems";
    CONFIGURATION_FILE = "DUN-2001", "the configuration file cannot be read";
    OPS_ADDRESS = "DUN-2002", "the address for health and metrics cannot be bound";
    WAREHOUSE_PATH = "DUN-2010", "the warehouse directory cannot be used";
    WAREHOUSE_LOCKED = "DUN-2011", "another adapter is using the warehouse";
    JOURNAL_DAMAGED = "DUN-2012", "a journal segment is damaged";
    JOURNAL_VERSION = "DUN-2013", "the journal was written by a newer adapter";
    PART_UNREADABLE = "DUN-2014", "a Parquet file of the warehouse cannot be read";
    JOURNAL_WRITE = "DUN-2015", "the journal cannot be written; tried again";
    JOURNAL_SYNC = "DUN-2016", "the journal cannot be made durable; the adapter stops";
    ROLL = "DUN-2017", "journal rows cannot be written as Parquet; tried again";
    COMPACTION = "DUN-2018", "a past day cannot be compacted; tried again";
    SINK_STOPPED = "DUN-2019", "a part of the adapter has stopped unexpectedly";
    CONNECT = "DUN-2030", "the broker cannot be reached; tried again";
    REFUSED = "DUN-2031", "the broker refuses the connection; tried again";
    SUBSCRIPTION = "DUN-2032", "the broker refuses a subscription; tried again";
    TAKEN_OVER = "DUN-2033", "another client connected with the adapter's client id";
    PACKET_TOO_LARGE = "DUN-2034", "the broker sent a packet above the limit";
    PROTOCOL = "DUN-2035", "the broker broke the protocol";
    TLS = "DUN-2036", "the TLS connection to the broker failed";
    SILENT = "DUN-2037", "the broker has fallen silent";
    SESSION_LOST = "DUN-2038", "the broker no longer had the adapter's session";
    DRAIN = "DUN-2039", "the adapter could not finish within the shutdown limit";
    TAP_REDIS = "DUN-2050", "Redis cannot be reached, or its settings make no sense";
    TAP_DEFINITION = "DUN-2051", "the tap cannot be defined";
    RULES = "DUN-2052", "the rules cannot be used";
    CREDENTIALS = "DUN-2060", "there is no token for BigQuery";
    DATASET = "DUN-2061", "the dataset or the project was not found";
    PERMISSION = "DUN-2062", "BigQuery refuses a permission";
    TABLE = "DUN-2063", "a table has other columns than the rules want";
    BIGQUERY_UNAVAILABLE = "DUN-2064", "BigQuery cannot be reached; tried again";
    BIGQUERY_REFUSES = "DUN-2065", "BigQuery refuses all rows; tried again";
    BIGQUERY_AGAIN = "DUN-2066", "BigQuery has refused an attempt; tried again";
    CHECKPOINT = "DUN-2067", "the checkpoint of a partition cannot be read";
    DEAD_LETTERS = "DUN-2068", "dead letters do not reach their table";
    STREAM_GONE = "DUN-2069", "a write stream is gone with its table or by age";
    DISCONNECTED = "DUN-2040", "the broker closed the connection; tried again";
}

impl Code {
    /// The code as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// Bytes of the journal are not what the adapter writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// The bytes end early.
    #[error("{wanted} bytes wanted, {left} left")]
    Short {
        /// Bytes that were to be read.
        wanted: u64,
        /// Bytes that there were.
        left: usize,
    },
    /// A length takes more than ten bytes.
    #[error("a length has no end")]
    Length,
    /// A text is not UTF-8.
    #[error("a text is not utf-8")]
    Text,
    /// A field has a value that is never written.
    #[error("{what} has the unknown value {found}")]
    Value {
        /// Name of the field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// Bytes follow where none should.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Why a sink did not store a batch.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Nothing of the batch is stored, and storing it may work later.
    #[error("{text}")]
    Retry {
        /// What it is about.
        code: Code,
        /// What was being done, to what, and the reason.
        text: String,
    },
    /// The sink can no longer tell what is stored: the adapter must stop and recover.
    #[error("{text}")]
    Fatal {
        /// What it is about.
        code: Code,
        /// What was being done, to what, and the reason.
        text: String,
    },
}

impl SinkError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Retry { code, .. } | Self::Fatal { code, .. } => *code,
        }
    }
}

/// Why a warehouse cannot be opened. Exit code 4.
#[derive(Debug, thiserror::Error)]
pub enum WarehouseError {
    /// The directory cannot be made, listed or written.
    #[error("{action} {} failed: {error}; check that the path is right, that the user may write there and that the disk has room", path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// Another process holds the lock.
    #[error("{} is locked: another adapter is using this warehouse; stop it, or give this one a directory of its own", .0.display())]
    Locked(PathBuf),
    /// A segment has bytes that were never written so.
    #[error("{} is damaged at byte {at}: {reason}; restore the file from a copy, or move it out of the journal directory to go on without the rows in it", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the damage begins.
        at: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A segment says that it has a format that this version does not know.
    #[error("{} has journal format {found}, this adapter knows up to {known}; start the version that wrote it, or a newer one", path.display())]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: u8,
        /// The newest known one.
        known: u8,
    },
    /// A part file cannot be read, so it is unknown which rows it has.
    #[error("{} cannot be read: {reason}; restore it from a copy, or move it out of the warehouse to go on without the rows in it", path.display())]
    Part {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl WarehouseError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Path { .. } => Code::WAREHOUSE_PATH,
            Self::Locked(_) => Code::WAREHOUSE_LOCKED,
            Self::Damaged { .. } => Code::JOURNAL_DAMAGED,
            Self::Version { .. } => Code::JOURNAL_VERSION,
            Self::Part { .. } => Code::PART_UNREADABLE,
        }
    }

    pub(crate) fn path(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Path {
            action,
            path,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_the_adapters_range() {
        let mut seen = std::collections::BTreeSet::new();
        for (code, meaning) in Code::ALL {
            let number: u32 = code.as_str().strip_prefix("DUN-").unwrap().parse().unwrap();
            assert!((2000..2100).contains(&number), "{code} is out of range");
            assert!(seen.insert(code.as_str()), "{code} occurs twice");
            assert!(!meaning.is_empty());
        }
    }

    #[test]
    fn the_readme_explains_every_code() {
        let readme = include_str!("../README.md");
        for (code, _) in Code::ALL {
            assert!(
                readme.contains(code.as_str()),
                "{code} is missing in README.md"
            );
        }
    }
}
