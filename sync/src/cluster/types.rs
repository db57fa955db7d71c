//! Numbers and records that the layers of the cluster have in common.

use std::sync::Arc;

use crate::codec::{CodecError, Reader, put_u32, put_u64};
use crate::{MessageError, SessionId, SubscriptionRecord};

/// Number of buckets: the tables, and everything of one client, are spread over so many hash slots.
/// Part of the format of the keys: it never changes.
pub const BUCKETS: u16 = 256;

/// What an entry of a queue becomes when only its PUBREL is owed: a whole encoded entry, the same for
/// all. Part of the format of the keys.
pub const RELEASED_ENTRY: &[u8] = &[1, 3];

/// Where a session remembers up to which number its messages have been sent, among the QoS 2 packet ids
/// that its client has not released (which begin at 1): written when its connection ends, removed when it is
/// resumed. A connection that is ended for a dead replica leaves the end of the queue. Without it (the session
/// is claimed from a replica that may be dead) everything in the queue may have been sent.
pub const SENT_MARK: u16 = 0;

/// Count of a QoS 2 packet id of a publisher whose message is with all its receivers: whoever has the
/// session next answers a repetition and delivers nothing. Counts of publishes are above it.
pub const DELIVERED: u64 = 0;

/// One running broker process; a new number at every start, never used again. 0 is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// Fencing number of a claim of a client id; rises within a bucket. 0 is no claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A share of the keys, with a version of its own; all its keys have one hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub u16);

impl Bucket {
    /// The bucket of a client id or a topic: FNV-1a, folded. Part of the format of the keys.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in text.as_bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let folded = hash ^ (hash >> 32);
        let folded = folded ^ (folded >> 16);
        Self((folded % u64::from(BUCKETS)) as u16)
    }

    /// The bucket of a session: its number says.
    #[must_use]
    pub fn of_session(session: SessionId) -> Self {
        Self((session.0 % u64::from(BUCKETS)) as u16)
    }

    /// The session number of this bucket that the counter value `n` stands for.
    #[must_use]
    pub fn session(self, n: u64) -> SessionId {
        SessionId(n * u64::from(BUCKETS) + u64::from(self.0))
    }

    /// All buckets, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..BUCKETS).map(Self)
    }
}

/// What the connected sessions of a replica want of a filter. A route with no flag set is no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    /// See the constants.
    pub flags: u8,
    /// Of a `$share/…` filter: connected members there whose session ends with its connection.
    pub members: u16,
}

impl Route {
    /// A connected session was granted QoS 0: it gets every publish, over the `sync` lane.
    pub const AT_MOST_ONCE: u8 = 1;
    /// A session that ends with its connection was granted QoS 1 or 2: QoS 0 publishes go over the
    /// `sync` lane, others through the replica's inbox.
    pub const ACKNOWLEDGED: u8 = 2;
    /// A persistent session was granted QoS 1 or 2: QoS 0 publishes go over the `sync` lane, others
    /// through its queue.
    pub const STORED: u8 = 4;
    /// Of a `$share/…` filter: no member there can be sent to at once.
    pub const BUSY: u8 = 8;

    /// Whether there is any interest.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.flags & !Self::BUSY == 0
    }
}

/// A persistent session as every replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// Its number.
    pub id: SessionId,
    /// Its client.
    pub client_id: Arc<str>,
    /// Its subscriptions, by filter, ascending.
    pub subscriptions: Vec<SubscriptionRecord>,
    /// The replica that its client is connected to. A hint, kept only for sessions with shared
    /// subscriptions.
    pub owner: ReplicaId,
}

/// Version byte of the record of a session.
const RECORD_VERSION: u8 = 1;
/// Flag of a record: it has a `$share/…` subscription. The scripts look at it.
const RECORD_SHARED: u8 = 1;
/// Flag of a record: the time at which the client left is at the end.
const RECORD_LEFT: u8 = 2;

impl SessionEntry {
    /// A session without subscriptions that nobody has.
    #[must_use]
    pub fn new(id: SessionId, client_id: Arc<str>) -> Self {
        Self {
            id,
            client_id,
            subscriptions: Vec::new(),
            owner: ReplicaId(0),
        }
    }

    /// Whether it has a shared subscription, so that its owner is known to all.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.subscriptions
            .iter()
            .any(|record| record.filter.starts_with("$share/"))
    }

    /// Replaces or adds a subscription.
    pub(crate) fn subscribe(&mut self, record: SubscriptionRecord) {
        let found = self
            .subscriptions
            .binary_search_by(|known| known.filter.cmp(&record.filter));
        match found {
            Ok(at) => {
                if let Some(known) = self.subscriptions.get_mut(at) {
                    *known = record;
                }
            }
            Err(at) => self.subscriptions.insert(at, record),
        }
    }

    /// Removes a subscription; whether it was there.
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> bool {
        let found = self
            .subscriptions
            .binary_search_by(|known| (*known.filter).cmp(filter));
        if let Ok(at) = found {
            self.subscriptions.remove(at);
        }
        found.is_ok()
    }

    /// The record as it is stored and announced: everything but the owner. `left_at`: Unix time in
    /// milliseconds, of sessions that are put without a claim.
    ///
    /// # Errors
    ///
    /// A text longer than 65,535 bytes.
    pub fn encode(&self, left_at: Option<u64>) -> Result<Vec<u8>, MessageError> {
        let texts: usize = self
            .subscriptions
            .iter()
            .map(|sub| 8 + sub.filter.len())
            .sum();
        let mut out = Vec::with_capacity(16 + self.client_id.len() + texts);
        let mut flags = 0;
        if self.is_shared() {
            flags |= RECORD_SHARED;
        }
        if left_at.is_some() {
            flags |= RECORD_LEFT;
        }
        out.extend_from_slice(&[RECORD_VERSION, flags]);
        put_text16(&mut out, &self.client_id, "client id")?;
        put_u32(&mut out, self.subscriptions.len() as u32);
        for record in &self.subscriptions {
            out.extend_from_slice(&[record.options, u8::from(record.identifier.is_some())]);
            if let Some(identifier) = record.identifier {
                put_u32(&mut out, identifier);
            }
            put_text16(&mut out, &record.filter, "topic filter")?;
        }
        if let Some(at) = left_at {
            put_u64(&mut out, at);
        }
        Ok(out)
    }

    /// Reads a record; bytes after what is known are a newer version's.
    ///
    /// # Errors
    ///
    /// Torn bytes, an unknown version, text that is not UTF-8.
    pub fn decode(id: SessionId, bytes: &[u8]) -> Result<(Self, Option<u64>), MessageError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("record version")?;
        if version != RECORD_VERSION {
            return Err(MessageError(CodecError::Unknown {
                field: "record version",
                found: u64::from(version),
            }));
        }
        let flags = reader.u8("record flags")?;
        let client_id = Arc::from(text16(&mut reader, "client id")?);
        let count = reader.u32("number of subscriptions")? as usize;
        // One takes 4 bytes at least: no memory is spent on a count that cannot be true.
        let mut subscriptions = Vec::with_capacity(count.min(reader.left() / 4));
        for _ in 0..count {
            let options = reader.u8("subscription options")?;
            let identifier = match reader.u8("subscription identifier")? {
                0 => None,
                _ => Some(reader.u32("subscription identifier")?),
            };
            subscriptions.push(SubscriptionRecord {
                filter: Box::from(text16(&mut reader, "topic filter")?),
                options,
                identifier,
            });
        }
        let left_at = match flags & RECORD_LEFT {
            0 => None,
            _ => Some(reader.u64("time of leaving")?),
        };
        subscriptions.sort_by(|one, other| one.filter.cmp(&other.filter));
        let entry = Self {
            id,
            client_id,
            subscriptions,
            owner: ReplicaId(0),
        };
        Ok((entry, left_at))
    }
}

/// A `u16` length and the text.
pub(crate) fn put_text16(
    out: &mut Vec<u8>,
    text: &str,
    field: &'static str,
) -> Result<(), CodecError> {
    let len = u16::try_from(text.len()).map_err(|_| CodecError::TooLong {
        field,
        len: text.len(),
        max: usize::from(u16::MAX),
    })?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The counterpart of [`put_text16`].
pub(crate) fn text16<'a>(
    reader: &mut Reader<'a>,
    field: &'static str,
) -> Result<&'a str, CodecError> {
    let len = usize::from(reader.u16(field)?);
    std::str::from_utf8(reader.bytes(len, field)?).map_err(|_| CodecError::NotUtf8(field))
}
