//! Records: small values under keys, shared by all replicas, that are changed by comparison and announced.
//!
//! Devices, their credentials, bans, revocations: what an administrator writes and every replica must heed. Unlike retained
//! messages they are not kept whole in every replica's memory: there may be millions of them and a replica asks for few. It
//! reads what it needs ([`Records::get`]), keeps it as long as it likes, and is told when it is old ([`Records::listen`],
//! [`Records::subscribe`]).
//!
//! - A put is durable when it resolves, like any batch of the store; a record is changed as a whole, and each for itself.
//! - Revisions rise with every change of a record and are never used twice for it, not even after it was removed. They
//!   are not consecutive.
//! - Changes of one record are told in their order, to every replica, or it is told that it has [missed](RecordChange::Missed)
//!   some: then it must take all that it has kept for old.
//! - A record whose time is over is not there any more for anybody, whether it has been cleared away or not. That is told, too,
//!   when it is cleared away, some seconds later. The clock is that of the store: of Redis in a cluster.

mod batch;
mod changes;
pub(crate) mod judge;
pub(crate) mod memory;

use std::sync::Arc;

use bytes::Bytes;

pub use self::batch::RecordBatch;
pub(crate) use self::batch::{check_keys, put};
pub(crate) use self::changes::Listeners;
pub use self::changes::{RecordChange, RecordChanges, RecordListener};
use crate::cluster::Bucket;
use crate::{BoxFuture, StoreError};

/// Longest key of a record, in bytes.
pub const RECORD_KEY_MAX: usize = 1024;
/// Longest value of a record, in bytes.
pub const RECORD_VALUE_MAX: usize = 1 << 20;
/// Most changes in one put, and most keys in one get.
pub const RECORDS_AT_ONCE: usize = 4096;
/// Most bytes of keys and values in one put.
pub const RECORD_BYTES_AT_ONCE: usize = 8 << 20;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $code:literal $text:literal;)+) => {
        /// A kind of records. Its number and its name are part of the stored formats: neither changes, and none is used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Table { $($(#[$doc])* $name = $code,)+ }

        impl Table {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it is called in keys and texts.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The table with this number.
            #[must_use]
            pub const fn of_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

tables! {
    /// Devices of the registry, by `<tenant or nothing>/<device id>`.
    Device 1 "device";
    /// Which device a credential belongs to, by its fingerprint.
    Credential 2 "credential";
    /// Who is banned.
    Ban 3 "ban";
    /// Credentials that are revoked before their time.
    Revoked 4 "revoked";
    /// Which identity a serial number was given.
    Serial 5 "serial";
    /// Serial numbers that may ask for an identity.
    Allow 6 "allow";
    /// Serial numbers that may not.
    Block 7 "block";
    /// Configurations of devices.
    Config 8 "config";
    /// What devices report of themselves.
    State 9 "state";
    /// What was used once and must not be used again, for a time.
    Nonce 10 "nonce";
}

impl Table {
    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// In which table.
    pub table: Table,
    /// 1 to [`RECORD_KEY_MAX`] bytes.
    pub key: Arc<str>,
}

impl RecordKey {
    /// The record `key` of `table`.
    #[must_use]
    pub fn new(table: Table, key: impl Into<Arc<str>>) -> Self {
        Self {
            table,
            key: key.into(),
        }
    }

    /// The bucket that it is in: that of its key, whatever its table.
    #[must_use]
    pub fn bucket(&self) -> Bucket {
        Bucket::of(&self.key)
    }
}

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// See [the module](self).
    pub revision: u64,
    /// At most [`RECORD_VALUE_MAX`] bytes.
    pub value: Bytes,
    /// Unix time in milliseconds from which on it is not there any more.
    pub expires_at_ms: Option<u64>,
}

/// What must be found for a change to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    #[default]
    Any,
    /// No record.
    Absent,
    /// The record of this revision.
    Revision(u64),
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPut {
    /// Of which.
    pub key: RecordKey,
    /// Its value from now on; `None`: it is removed.
    pub value: Option<Bytes>,
    /// What must be found.
    pub expect: Expect,
    /// Unix time in milliseconds from which on it is not there any more, at most 2^53 - 1.
    pub expires_at_ms: Option<u64>,
    /// Told along with the change, and not kept: what it means for those who listen, so that they can act
    /// before they have read the record. The tables' owners define it; 0 says nothing.
    pub hint: u8,
}

impl RecordPut {
    /// Sets a record, whatever is there.
    #[must_use]
    pub fn set(key: RecordKey, value: impl Into<Bytes>) -> Self {
        Self {
            key,
            value: Some(value.into()),
            expect: Expect::Any,
            expires_at_ms: None,
            hint: 0,
        }
    }

    /// Removes a record, whatever is there.
    #[must_use]
    pub fn remove(key: RecordKey) -> Self {
        Self {
            key,
            value: None,
            expect: Expect::Any,
            expires_at_ms: None,
            hint: 0,
        }
    }

    /// Only if this is found.
    #[must_use]
    pub fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// With an end.
    #[must_use]
    pub fn until(mut self, expires_at_ms: Option<u64>) -> Self {
        self.expires_at_ms = expires_at_ms;
        self
    }

    /// With a [hint](Self::hint).
    #[must_use]
    pub fn hinting(mut self, hint: u8) -> Self {
        self.hint = hint;
        self
    }

    fn size(&self) -> usize {
        self.key.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was made; the record has this revision now. (Of a removal: what is put there next has a higher one. 0 if
    /// there was nothing to remove.)
    Done {
        /// See [the module](self).
        revision: u64,
    },
    /// Something else was found than was expected, and nothing was changed.
    Conflict {
        /// What is there.
        found: Option<Record>,
    },
}

impl PutOutcome {
    /// Its revision, if the change was made.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Done { revision } => Some(*revision),
            Self::Conflict { .. } => None,
        }
    }
}

/// A part of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Records with their keys.
    pub records: Vec<(Arc<str>, Record)>,
    /// From where to go on; `None`: that was all.
    pub next: Option<Cursor>,
}

/// A place in a table, good for any replica, at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// 0 in stores that are not spread over buckets.
    pub(crate) bucket: u16,
    /// The last key that was given; `None`: none of this bucket.
    pub(crate) after: Option<Arc<str>>,
}

impl Cursor {
    /// As text, for those who ask over a network.
    #[must_use]
    pub fn to_text(&self) -> String {
        match &self.after {
            Some(after) => format!("{}:{after}", self.bucket),
            None => self.bucket.to_string(),
        }
    }

    /// From [`Self::to_text`]; `None` if it is not such a text.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let (bucket, after) = match text.split_once(':') {
            Some((bucket, after)) => (bucket, Some(Arc::from(after))),
            None => (text, None),
        };
        Some(Self {
            bucket: bucket.parse().ok()?,
            after,
        })
    }
}

/// What [`Records::get`] gives.
pub type Got = BoxFuture<Result<Vec<Option<Record>>, StoreError>>;
/// What [`Records::put`] gives.
pub type Put = BoxFuture<Result<Vec<PutOutcome>, StoreError>>;

/// The records of a store. See [the module](self).
///
/// Futures may be dropped at any time: a put goes on nevertheless.
pub trait Records: Send + Sync + 'static {
    /// Reads records, one answer for each key, in order. Sees at least all that was durable when it was called.
    ///
    /// # Errors
    ///
    /// Over [`RECORDS_AT_ONCE`] keys; damaged or unreadable data; the store is closed.
    fn get(&self, keys: Vec<RecordKey>) -> Got;

    /// Changes records, one outcome for each, in order. Those of one key are made in their order.
    ///
    /// # Errors
    ///
    /// Something is over its bound: nothing was changed. Any other error: it is not known what was changed.
    fn put(&self, puts: Vec<RecordPut>) -> Put;

    /// As [`Self::put`], and resolves when every live replica has been told of the changes (its listeners have
    /// returned), or its lease has ended.
    ///
    /// # Errors
    ///
    /// As those of [`Self::put`].
    fn put_everywhere(&self, puts: Vec<RecordPut>) -> Put;

    /// Records of a table from a place on, at most `limit` (1 to [`RECORDS_AT_ONCE`]; other numbers are taken for the nearest of
    /// these), in an order that stays the same. Each that is there all the time is given once. A page may be shorter,
    /// even empty, and not be the last one.
    ///
    /// # Errors
    ///
    /// Damaged or unreadable data; the store is closed.
    fn scan(
        &self,
        table: Table,
        from: Option<Cursor>,
        limit: usize,
    ) -> BoxFuture<Result<ScanPage, StoreError>>;

    /// `listener` is told of every change of any record from now on, for as long as it lives: before the put that made it
    /// resolves, if that was made here, and before [`Self::put_everywhere`] resolves anywhere. It is called on a thread of the store,
    /// must not block and must not panic. At most 64 at a time; what is more is told nothing, which is logged.
    fn listen(&self, listener: &Arc<dyn RecordListener>);

    /// The same as a stream, which is bounded: who reads it too slowly is told that it has missed something.
    fn subscribe(&self) -> RecordChanges;
}
