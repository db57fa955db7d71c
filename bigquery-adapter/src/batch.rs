//! What travels from a source to a sink: rows, and between them what the source must remember, in one order.

use crate::encoding::{Reader, put_bytes, put_varint};
use crate::error::EncodingError;
use crate::row::{Identity, Row};

/// One entry of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Entry<'a> {
    /// A message to store.
    Row(RawRow<'a>),
    /// The broker has released this packet id of a QoS 2 message: what comes under it from now on is a new message.
    Released(u16),
    /// The broker has no session for us: no packet id means anything any longer.
    SessionReset,
    /// These are the filters that the session is subscribed to.
    Subscribed(Filters<'a>),
    /// Everything of this partition of the tap is stored, up to here.
    Stored(StoredUpto<'a>),
}

/// A row as bytes; decoded only by who needs its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRow<'a>(&'a [u8]);

impl<'a> RawRow<'a> {
    /// Which message it is.
    ///
    /// # Errors
    /// When the bytes are not a row.
    pub fn identity(self) -> Result<Identity, EncodingError> {
        Identity::decode(self.0)
    }

    /// All fields.
    ///
    /// # Errors
    /// When the bytes are not a row.
    pub fn decode(self) -> Result<Row<'a>, EncodingError> {
        Row::decode(self.0)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// A list of topic filters, encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filters<'a>(&'a [u8]);

impl<'a> Filters<'a> {
    /// The filters in their order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            if reader.is_empty() {
                None
            } else {
                reader.text().ok()
            }
        })
    }
}

/// How far a partition of a tap is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredUpto<'a> {
    /// Name of the tap.
    pub tap: &'a str,
    /// Partition.
    pub partition: u16,
    /// First position that is not stored.
    pub position: u64,
}

const ROW: u8 = 1;
const RELEASED: u8 = 2;
const SESSION_RESET: u8 = 3;
const SUBSCRIBED: u8 = 4;
const STORED: u8 = 5;

/// Entries in their order, encoded back to back. Grows only by what is pushed: whoever fills it keeps the bound.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    scratch: Vec<u8>,
    rows: usize,
    last_position: u64,
}

impl Batch {
    /// Adds a row; `position` is the source's count of entries so far, and never goes back.
    pub fn push_row(&mut self, position: u64, row: &Row<'_>) {
        self.scratch.clear();
        row.encode(&mut self.scratch);
        self.bytes.push(ROW);
        put_bytes(&mut self.bytes, &self.scratch);
        self.rows += 1;
        self.last_position = position;
    }

    /// Adds the release of a packet id.
    pub fn push_released(&mut self, position: u64, packet_id: u16) {
        self.bytes.push(RELEASED);
        put_bytes(&mut self.bytes, &packet_id.to_le_bytes());
        self.last_position = position;
    }

    /// Adds the end of what the broker remembered of us.
    pub fn push_session_reset(&mut self, position: u64) {
        self.bytes.push(SESSION_RESET);
        put_varint(&mut self.bytes, 0);
        self.last_position = position;
    }

    /// Adds the list of filters that are subscribed.
    pub fn push_subscribed<'f>(&mut self, position: u64, filters: impl Iterator<Item = &'f str>) {
        self.scratch.clear();
        for filter in filters {
            put_bytes(&mut self.scratch, filter.as_bytes());
        }
        self.bytes.push(SUBSCRIBED);
        put_bytes(&mut self.bytes, &self.scratch);
        self.last_position = position;
    }

    /// Adds how far a partition of a tap is, with the rows up to there before it.
    pub fn push_stored(&mut self, position: u64, stored: StoredUpto<'_>) {
        self.scratch.clear();
        put_bytes(&mut self.scratch, stored.tap.as_bytes());
        self.scratch
            .extend_from_slice(&stored.partition.to_le_bytes());
        self.scratch
            .extend_from_slice(&stored.position.to_le_bytes());
        self.bytes.push(STORED);
        put_bytes(&mut self.bytes, &self.scratch);
        self.last_position = position;
    }

    /// Appends all entries of `other`, which must be the later one.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.rows += other.rows;
        self.last_position = other.last_position;
    }

    /// Number of rows among the entries.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Encoded entries, as [`entries`] reads them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Position of the last entry: when this batch is stored, so is everything up to there.
    #[must_use]
    pub const fn last_position(&self) -> u64 {
        self.last_position
    }

    /// Whether it has no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Removes all entries and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows = 0;
    }
}

/// Reads encoded entries one after the other; ends after the first error.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, EncodingError>> {
    let mut reader = Reader::new(bytes);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || reader.is_empty() {
            return None;
        }
        let entry = entry(&mut reader);
        failed = entry.is_err();
        Some(entry)
    })
}

fn entry<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>, EncodingError> {
    let [kind] = reader.array()?;
    let body = reader.bytes()?;
    match kind {
        ROW => Ok(Entry::Row(RawRow(body))),
        RELEASED => {
            let mut body = Reader::new(body);
            let id = u16::from_le_bytes(body.array()?);
            body.end()?;
            Ok(Entry::Released(id))
        }
        SESSION_RESET => Ok(Entry::SessionReset),
        STORED => {
            let mut body = Reader::new(body);
            let stored = StoredUpto {
                tap: body.text()?,
                partition: u16::from_le_bytes(body.array()?),
                position: u64::from_le_bytes(body.array()?),
            };
            body.end()?;
            Ok(Entry::Stored(stored))
        }
        SUBSCRIBED => Ok(Entry::Subscribed(Filters(body))),
        other => Err(EncodingError::Value {
            what: "entry kind",
            found: u64::from(other),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Delivery, UserProperties};

    fn row(number: u64) -> Row<'static> {
        Row {
            received_at: 5,
            origin: None,
            number,
            delivery: Delivery::ExactlyOnce(7),
            fingerprint: 9,
            retain: false,
            topic: "a/b",
            payload: b"x",
            client_id: None,
            tenant: None,
            device_id: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: UserProperties::default(),
        }
    }

    #[test]
    fn entries_come_back_in_their_order() {
        let mut first = Batch::default();
        first.push_session_reset(1);
        first.push_subscribed(2, ["a/#", "b"].into_iter());
        first.push_row(3, &row(41));
        let mut second = Batch::default();
        second.push_released(4, 7);
        second.push_row(5, &row(42));
        let stored = StoredUpto {
            tap: "warehouse",
            partition: 3,
            position: 77,
        };
        second.push_stored(6, stored);
        first.append(&second);
        assert_eq!((first.rows(), first.last_position()), (2, 6));
        let read: Vec<_> = entries(first.as_bytes()).collect::<Result<_, _>>().unwrap();
        let [
            Entry::SessionReset,
            Entry::Subscribed(filters),
            Entry::Row(one),
            Entry::Released(7),
            Entry::Row(two),
            Entry::Stored(upto),
        ] = read.as_slice()
        else {
            panic!("unexpected entries {read:?}");
        };
        assert_eq!(*upto, stored);
        assert_eq!(filters.iter().collect::<Vec<_>>(), ["a/#", "b"]);
        assert_eq!(
            (one.identity().unwrap().number, two.decode().unwrap()),
            (41, row(42))
        );
    }

    #[test]
    fn an_unknown_kind_ends_the_reading_with_an_error() {
        let read: Vec<_> = entries(&[3, 0, 9, 0, 3, 0]).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(
            read[1],
            Err(EncodingError::Value {
                what: "entry kind",
                found: 9
            })
        );
    }
}
