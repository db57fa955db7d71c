//! Rows turned into columns.

use bytes::Bytes;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::writer::SerializedColumnWriter;

use super::schema::Column;
use crate::json;
use crate::row::{Row, write_message_id};

/// Rows handed to a column writer at a time.
const CHUNK: usize = 1024;

/// Rows of one segment, decoded.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    /// The segment: every field of `rows` is a part of it.
    pub(super) segment: &'a Bytes,
    /// Id of the journal.
    pub(super) writer: u32,
    /// The rows.
    pub(super) rows: Vec<Row<'a>>,
}

impl Rows<'_> {
    /// Writes one column of all rows.
    pub(super) fn write(&self, column: Column, out: &mut SerializedColumnWriter<'_>) -> Result<()> {
        for rows in self.rows.chunks(CHUNK) {
            match column {
                Column::ReceivedAt => {
                    let values: Vec<i64> = rows.iter().map(|row| row.received_at).collect();
                    out.typed::<Int64Type>().write_batch(&values, None, None)?;
                }
                Column::Qos => {
                    let values: Vec<i32> = rows
                        .iter()
                        .map(|row| i32::from(row.delivery.qos()))
                        .collect();
                    out.typed::<Int32Type>().write_batch(&values, None, None)?;
                }
                Column::Retain => {
                    let values: Vec<bool> = rows.iter().map(|row| row.retain).collect();
                    out.typed::<BoolType>().write_batch(&values, None, None)?;
                }
                Column::MessageId => required(out, self.message_ids(rows))?,
                Column::Topic => required(
                    out,
                    rows.iter()
                        .map(|row| self.share(row.topic.as_bytes()))
                        .collect(),
                )?,
                Column::Payload => required(
                    out,
                    rows.iter().map(|row| self.share(row.payload)).collect(),
                )?,
                Column::PayloadJson => {
                    self.optional(out, rows, |row| json::text(row.payload).map(str::as_bytes))?
                }
                Column::ClientId => {
                    self.optional(out, rows, |row| row.client_id.map(str::as_bytes))?
                }
                Column::Tenant => self.optional(out, rows, |row| row.tenant.map(str::as_bytes))?,
                Column::DeviceId => {
                    self.optional(out, rows, |row| row.device_id.map(str::as_bytes))?
                }
                Column::ContentType => {
                    self.optional(out, rows, |row| row.content_type.map(str::as_bytes))?
                }
                Column::ResponseTopic => {
                    self.optional(out, rows, |row| row.response_topic.map(str::as_bytes))?
                }
                Column::CorrelationData => self.optional(out, rows, |row| row.correlation_data)?,
                Column::UserPropertyKey => self.pairs(out, rows, |(key, _)| key)?,
                Column::UserPropertyValue => self.pairs(out, rows, |(_, value)| value)?,
            }
        }
        Ok(())
    }

    /// A part of the segment, without copying it.
    fn share(&self, part: &[u8]) -> ByteArray {
        ByteArray::from(self.segment.slice_ref(part))
    }

    fn message_ids(&self, rows: &[Row<'_>]) -> Vec<ByteArray> {
        const LEN: usize = 8 + 1 + 16;
        let mut text = String::with_capacity(rows.len() * LEN);
        let mut ends = Vec::with_capacity(rows.len());
        for row in rows {
            let origin = row.origin.unwrap_or(u64::from(self.writer));
            // Writing to a String cannot fail.
            write_message_id(&mut text, origin, row.number).unwrap_or_default();
            ends.push(text.len());
        }
        let text = Bytes::from(text);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts
            .zip(&ends)
            .map(|(start, end)| ByteArray::from(text.slice(start..*end)))
            .collect()
    }

    fn optional<'r>(
        &self,
        out: &mut SerializedColumnWriter<'_>,
        rows: &'r [Row<'r>],
        field: impl Fn(&'r Row<'r>) -> Option<&'r [u8]>,
    ) -> Result<()> {
        let mut values = Vec::with_capacity(rows.len());
        let mut defined = Vec::with_capacity(rows.len());
        for row in rows {
            let value = field(row);
            defined.push(i16::from(value.is_some()));
            values.extend(value.map(|value| self.share(value)));
        }
        out.typed::<ByteArrayType>()
            .write_batch(&values, Some(&defined), None)
            .map(drop)
    }

    /// One side of the user properties. Levels: an empty list is defined to 0, a pair to 1; the first pair of a row is
    /// repeated at 0, the others at 1.
    fn pairs<'r>(
        &self,
        out: &mut SerializedColumnWriter<'_>,
        rows: &'r [Row<'r>],
        side: impl Fn((&'r str, &'r str)) -> &'r str,
    ) -> Result<()> {
        let mut values = Vec::new();
        let mut defined = Vec::with_capacity(rows.len());
        let mut repeated = Vec::with_capacity(rows.len());
        for row in rows {
            let before = values.len();
            values.extend(
                row.user_properties
                    .iter()
                    .map(|pair| self.share(side(pair).as_bytes())),
            );
            let pairs = values.len() - before;
            defined.extend(std::iter::repeat_n(i16::from(pairs > 0), pairs.max(1)));
            repeated.push(0);
            repeated.extend(std::iter::repeat_n(1, pairs.saturating_sub(1)));
        }
        out.typed::<ByteArrayType>()
            .write_batch(&values, Some(&defined), Some(&repeated))
            .map(drop)
    }
}

fn required(out: &mut SerializedColumnWriter<'_>, values: Vec<ByteArray>) -> Result<()> {
    out.typed::<ByteArrayType>()
        .write_batch(&values, None, None)
        .map(drop)
}
