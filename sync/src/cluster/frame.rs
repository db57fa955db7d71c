//! Frames: what travels on the lanes.
//!
//! All numbers are little-endian. Every frame begins with a head of 12 bytes:
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | `DN` |
//! | 1 | version of the format, 1 |
//! | 1 | kind, below |
//! | 8 | the replica that caused it |
//!
//! | kind | goes over | behind the head |
//! | --- | --- | --- |
//! | 1 table | `sync` | bucket (2), version of the bucket after the change (8), one change |
//! | 2 routes | `sync` | version of the origin's routes after the change (8), changes |
//! | 3 messages | `sync`, a replica's channel, an inbox | destination (8), sequence number on this lane (8), entries |
//! | 4 control | `sync`, a replica's channel | destination (8), sequence number on this lane (8), entries |
//! | 5 tap | a partition of a tap | entries |
//!
//! Kinds 1 and 2 are written by Redis itself, in the atomic step that makes the change. A change of a
//! table is a tag and the rest of the frame:
//!
//! | tag | change | rest |
//! | --- | --- | --- |
//! | 1 | retained message set | encoded message |
//! | 2 | retained message removed | topic |
//! | 3 | session's record set | session (8), encoded record |
//! | 4 | session deleted | session (8) |
//! | 5 | session's owner | session (8), replica (8) |
//!
//! A change of routes: flags (1), members (2), length of the filter (2), filter.
//!
//! Kinds 3 and 4 differ only in that a frame of kind 4 has no messages. Their entries are in
//! `entry.rs`; each says how long it is, so that an older replica skips what it does not know, and bytes
//! behind the known fields of an entry are a newer replica's. A frame of another version of the format
//! or of an unknown kind is skipped as a whole and counted.
//!
//! The layout byte by byte, with examples, is in `docs/frames.md`.

mod describe;
mod entry;
mod pack;

use bytes::Bytes;

use super::request::Head;
use super::types::text16;
use super::{BUCKETS, Bucket, ReplicaId, Route};
use crate::SessionId;
use crate::codec::{CodecError, Reader};

pub use describe::describe;
pub(crate) use entry::{Entries, Entry, MessageView};
pub(crate) use pack::{Pack, put_tapped};

/// First bytes of every frame.
pub const MAGIC: [u8; 2] = *b"DN";
/// Version of the format.
pub const VERSION: u8 = 1;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A change of a table.
    Table = 1,
    /// Changes of routes.
    Routes = 2,
    /// Messages, and perhaps control entries.
    Messages = 3,
    /// Control entries alone.
    Control = 4,
    /// Messages for a tap.
    Tap = 5,
}

/// The head of a frame.
#[must_use]
pub fn head(kind: Kind, origin: ReplicaId) -> Head {
    let mut head = [0; 12];
    let (start, id) = head.split_at_mut(4);
    start.copy_from_slice(&[MAGIC[0], MAGIC[1], VERSION, kind as u8]);
    id.copy_from_slice(&origin.0.to_le_bytes());
    head
}

/// Why bytes are not a frame that this version can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame at all.
    #[error("it does not begin as a frame")]
    Foreign,
    /// Of another version of the format.
    #[error("its version is {0}, and this program reads version {VERSION}")]
    Version(u8),
    /// Of a kind that a newer version knows.
    #[error("its kind is {0}, which this program does not know")]
    Kind(u8),
    /// Torn or foreign bytes.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl From<CodecError> for FrameError {
    fn from(error: CodecError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A frame that was read; its texts and bodies are borrowed.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    /// Who caused it.
    pub(crate) origin: ReplicaId,
    /// What it says.
    pub(crate) body: Body<'a>,
}

/// What a frame says.
#[derive(Clone, Debug)]
pub(crate) enum Body<'a> {
    /// Kind 1.
    Table {
        bucket: Bucket,
        version: u64,
        change: Change<'a>,
    },
    /// Kind 2.
    Routes {
        version: u64,
        changes: RouteChanges<'a>,
    },
    /// Kinds 3 and 4.
    Lane {
        /// 0: all.
        to: ReplicaId,
        sequence: u64,
        entries: Entries<'a>,
    },
    /// Kind 5.
    Tap { entries: Entries<'a> },
}

/// A change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    RetainedSet(&'a [u8]),
    RetainedRemoved(&'a str),
    RecordSet(SessionId, &'a [u8]),
    SessionDeleted(SessionId),
    Owner(SessionId, ReplicaId),
    /// See [`records`].
    Records(&'a [u8]),
    /// A newer replica's.
    Unknown(u8),
}

/// Reads the head and what has a fixed place behind it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let mut reader = Reader::new(bytes);
    if reader.bytes(2, "magic").map_err(|_| FrameError::Foreign)? != MAGIC {
        return Err(FrameError::Foreign);
    }
    let version = reader.u8("version")?;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let kind = reader.u8("kind")?;
    let origin = ReplicaId(reader.u64("origin")?);
    let body = match kind {
        1 => table(&mut reader)?,
        2 => Body::Routes {
            version: reader.u64("version of routes")?,
            changes: RouteChanges {
                left: reader.rest(),
            },
        },
        3 | 4 => Body::Lane {
            to: ReplicaId(reader.u64("destination")?),
            sequence: reader.u64("sequence number")?,
            entries: Entries::new(reader.rest()),
        },
        5 => Body::Tap {
            entries: Entries::new(reader.rest()),
        },
        other => return Err(FrameError::Kind(other)),
    };
    Ok(Frame { origin, body })
}

fn table<'a>(reader: &mut Reader<'a>) -> Result<Body<'a>, FrameError> {
    let bucket = reader.u16("bucket")?;
    if bucket >= BUCKETS {
        return Err(FrameError::Damaged(format!(
            "its bucket is {bucket}, and there are {BUCKETS}"
        )));
    }
    let version = reader.u64("version of the bucket")?;
    Ok(Body::Table {
        bucket: Bucket(bucket),
        version,
        change: change(reader)?,
    })
}

fn change<'a>(reader: &mut Reader<'a>) -> Result<Change<'a>, FrameError> {
    let session = |reader: &mut Reader<'a>| reader.u64("session").map(SessionId);
    Ok(match reader.u8("tag of the change")? {
        1 => Change::RetainedSet(reader.rest()),
        2 => Change::RetainedRemoved(
            std::str::from_utf8(reader.rest()).map_err(|_| CodecError::NotUtf8("topic"))?,
        ),
        3 => Change::RecordSet(session(reader)?, reader.rest()),
        4 => Change::SessionDeleted(session(reader)?),
        5 => Change::Owner(session(reader)?, ReplicaId(reader.u64("owner")?)),
        6 => Change::Records(reader.rest()),
        other => Change::Unknown(other),
    })
}

/// A record that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangedRecord<'a> {
    /// Number of its table, which a newer version may have made.
    pub(crate) code: u8,
    pub(crate) hint: u8,
    pub(crate) revision: u64,
    pub(crate) key: &'a str,
}

/// Those of a [`Change::Records`]. After damage nothing more is read.
pub(crate) fn records(bytes: &[u8]) -> impl Iterator<Item = Result<ChangedRecord<'_>, FrameError>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        if reader.left() == 0 {
            return None;
        }
        let read = changed_record(&mut reader);
        if read.is_err() {
            reader.rest();
        }
        Some(read.map_err(FrameError::from))
    })
}

fn changed_record<'a>(reader: &mut Reader<'a>) -> Result<ChangedRecord<'a>, CodecError> {
    Ok(ChangedRecord {
        code: reader.u8("table")?,
        hint: reader.u8("hint")?,
        revision: reader.u64("revision")?,
        key: text16(reader, "key of a record")?,
    })
}

/// The changes in a frame of routes.
#[derive(Clone, Debug)]
pub(crate) struct RouteChanges<'a> {
    left: &'a [u8],
}

impl<'a> Iterator for RouteChanges<'a> {
    type Item = Result<(&'a str, Route), FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let mut reader = Reader::new(self.left);
        let read = route(&mut reader);
        // After damage nothing more is read.
        self.left = if read.is_ok() { reader.rest() } else { &[] };
        Some(read.map_err(FrameError::from))
    }
}

fn route<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, Route), CodecError> {
    let flags = reader.u8("flags of a route")?;
    let members = reader.u16("members of a route")?;
    Ok((
        text16(reader, "filter of a route")?,
        Route { flags, members },
    ))
}

/// Whether bytes are a frame, of whatever version.
#[must_use]
pub fn is_frame(bytes: &Bytes) -> bool {
    bytes.starts_with(&MAGIC)
}

#[cfg(test)]
mod tests;
