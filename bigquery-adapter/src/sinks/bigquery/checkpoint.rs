//! What the sink keeps with a partition's acknowledgement in the tap: how far each write stream was at that position.
//!
//! Little-endian and varints, with a version byte. Read by whoever has the partition next, perhaps a newer adapter.

use std::collections::BTreeMap;

use crate::encoding::{Reader, put_bytes, put_varint};
use crate::error::EncodingError;

const VERSION: u8 = 1;
/// Bytes of an encoded checkpoint at the most, see [`Checkpoint::encode`].
pub const MAX_BYTES: usize = 64 * 1024;

/// How far one table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAt {
    /// Table within the dataset.
    pub table: String,
    /// Full name of its write stream.
    pub stream: String,
    /// Rows in the stream at the acknowledged position.
    pub offset: u64,
}

/// The state of a partition at an acknowledged position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Text of the rules by which the rows behind this position are made.
    pub rules: String,
    /// Streams that may have rows beyond this position.
    pub streams: Vec<StreamAt>,
    /// Rows behind this position that BigQuery has refused, as (table, position): they are in no stream.
    pub refused: Vec<(String, u64)>,
}

impl Checkpoint {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_bytes(&mut out, self.rules.as_bytes());
        put_varint(&mut out, self.streams.len() as u64);
        for at in &self.streams {
            put_bytes(&mut out, at.table.as_bytes());
            put_bytes(&mut out, at.stream.as_bytes());
            put_varint(&mut out, at.offset);
        }
        // Table by table and as differences: a whole request may be refused.
        let mut tables: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (table, position) in &self.refused {
            tables.entry(table).or_default().push(*position);
        }
        put_varint(&mut out, tables.len() as u64);
        for (table, mut positions) in tables {
            positions.sort_unstable();
            put_bytes(&mut out, table.as_bytes());
            put_varint(&mut out, positions.len() as u64);
            let mut before = 0;
            for position in positions {
                put_varint(&mut out, position - before);
                before = position;
            }
        }
        out
    }

    /// Reads what [`Checkpoint::encode`] has written; no bytes are the state before the first row.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, EncodingError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = Reader::new(bytes);
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(EncodingError::Value {
                what: "version of the checkpoint",
                found: u64::from(version),
            });
        }
        let mut checkpoint = Self {
            rules: reader.text()?.to_owned(),
            ..Self::default()
        };
        for _ in 0..reader.varint()? {
            checkpoint.streams.push(StreamAt {
                table: reader.text()?.to_owned(),
                stream: reader.text()?.to_owned(),
                offset: reader.varint()?,
            });
        }
        for _ in 0..reader.varint()? {
            let table = reader.text()?.to_owned();
            let mut position = 0_u64;
            for _ in 0..reader.varint()? {
                position = position.saturating_add(reader.varint()?);
                checkpoint.refused.push((table.clone(), position));
            }
        }
        reader.end()?;
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_a_short_one_is_refused() {
        let checkpoint = Checkpoint {
            rules: "default_table = \"m\"".to_owned(),
            streams: vec![StreamAt {
                table: "messages".to_owned(),
                stream: "projects/p/datasets/d/tables/messages/streams/s".to_owned(),
                offset: 7_000_000,
            }],
            refused: vec![
                ("messages".to_owned(), 1 << 40),
                ("messages".to_owned(), (1 << 40) + 2),
                ("telemetry".to_owned(), 7),
            ],
        };
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint);
        for end in 1..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
        assert_eq!(Checkpoint::decode(&[]).unwrap(), Checkpoint::default());
        assert!(Checkpoint::decode(&[2]).is_err());
    }
}
