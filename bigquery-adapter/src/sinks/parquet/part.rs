//! One Parquet file: written from rows of the journal, from older files, or from both.
//!
//! A file comes into being under `tmp/`, is made durable there, and gets its name by a rename: who can see it sees
//! all of it. Its footer says which segments of the journal it has, so that a crash between the rename and the removal of
//! a segment does not bring the segment's rows in twice.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{BoolType, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::{
    SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter,
};

use super::encode::Rows;
use super::schema::{self, Codec, Column};
use crate::batch::RawRow;

/// Rows in a row group, at most, where rows are not large.
const GROUP_ROWS: usize = 131_072;
/// Bytes in a row group before compression; a row larger than that gets a group of its own.
const GROUP_BYTES: u64 = 128 << 20;
/// Bytes of values that are copied from one file to another at a time, about.
const COPY_BYTES: u64 = 1 << 20;

const WRITER: &str = "dunlin.writer";
const FIRST: &str = "dunlin.first_segment";
const LAST: &str = "dunlin.last_segment";

/// Which segments of which journal a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) writer: u32,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// What the footer of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartInfo {
    pub(super) path: PathBuf,
    pub(super) span: Span,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Rows of a segment that go into a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewRows<'a> {
    pub(super) segment: &'a Bytes,
    pub(super) rows: &'a [RawRow<'a>],
}

/// Reads the footer of a file.
pub(super) fn info(path: &Path) -> Result<PartInfo> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let reader = SerializedFileReader::new(file)?;
    let metadata = reader.metadata().file_metadata();
    let entry = |key: &str| -> Result<&str> {
        let found = metadata
            .key_value_metadata()
            .into_iter()
            .flatten()
            .find(|entry| entry.key == key);
        found
            .and_then(|entry| entry.value.as_deref())
            .ok_or_else(|| ParquetError::General(format!("its footer has no {key}")))
    };
    let number = |key: &str, radix: u32| -> Result<u64> {
        u64::from_str_radix(entry(key)?, radix)
            .map_err(|error| ParquetError::General(format!("{key} in its footer: {error}")))
    };
    let writer = u32::try_from(number(WRITER, 16)?)
        .map_err(|error| ParquetError::General(format!("{WRITER}: {error}")))?;
    let span = Span {
        writer,
        first: number(FIRST, 10)?,
        last: number(LAST, 10)?,
    };
    Ok(PartInfo {
        path: path.to_owned(),
        span,
        rows: u64::try_from(metadata.num_rows()).unwrap_or_default(),
        bytes,
    })
}

/// Writes `to`: the rows of `sources` in their order, then the new ones. Durable when this returns, its name is not.
pub(super) fn write(
    to: &Path,
    sources: &[&Path],
    new: Option<NewRows<'_>>,
    span: Span,
    codec: Codec,
) -> Result<()> {
    let metadata = [
        (WRITER, format!("{:08x}", span.writer)),
        (FIRST, span.first.to_string()),
        (LAST, span.last.to_string()),
    ];
    let metadata = metadata
        .into_iter()
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .collect();
    let file = File::create(to)?;
    let properties = Arc::new(schema::properties(codec, metadata));
    let mut out = SerializedFileWriter::new(BufWriter::new(file), schema::schema()?, properties)?;
    let readers = sources
        .iter()
        .map(|path| SerializedFileReader::new(File::open(path)?))
        .collect::<Result<Vec<_>>>()?;
    for group in plan(&readers, new) {
        let mut to = out.next_row_group()?;
        write_group(
            &mut to,
            &readers,
            &group,
            new.map(|new| (new.segment, span.writer)),
        )?;
        to.close()?;
    }
    let file = out
        .into_inner()?
        .into_inner()
        .map_err(|error| error.into_error())?;
    file.sync_all()?;
    Ok(())
}

/// What goes into one row group: row groups of sources (source, group), then new rows.
#[derive(Debug, Default)]
struct Group<'a> {
    old: Vec<(usize, usize)>,
    new: &'a [RawRow<'a>],
    rows: usize,
    bytes: u64,
}

fn plan<'a>(readers: &[SerializedFileReader<File>], new: Option<NewRows<'a>>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (source, reader) in readers.iter().enumerate() {
        for (index, group) in reader.metadata().row_groups().iter().enumerate() {
            let rows = usize::try_from(group.num_rows()).unwrap_or_default();
            let bytes = u64::try_from(group.total_byte_size()).unwrap_or_default();
            let fits = |last: &&mut Group<'_>| {
                last.rows + rows <= GROUP_ROWS && last.bytes + bytes <= GROUP_BYTES
            };
            match groups.last_mut().filter(fits) {
                Some(last) => {
                    last.old.push((source, index));
                    last.rows += rows;
                    last.bytes += bytes;
                }
                None => groups.push(Group {
                    old: vec![(source, index)],
                    rows,
                    bytes,
                    new: &[],
                }),
            }
        }
    }
    let mut rest = new.map_or(&[][..], |new| new.rows);
    while !rest.is_empty() {
        let (rows, bytes) = groups
            .last()
            .map_or((GROUP_ROWS, GROUP_BYTES), |last| (last.rows, last.bytes));
        let fitting = fitting(
            rest,
            GROUP_ROWS.saturating_sub(rows),
            GROUP_BYTES.saturating_sub(bytes),
        );
        if fitting == 0 {
            groups.push(Group {
                rows: 0,
                bytes: 0,
                ..Group::default()
            });
            let fresh = fitting_at_least_one(rest);
            push_new(&mut groups, &mut rest, fresh);
        } else {
            push_new(&mut groups, &mut rest, fitting);
        }
    }
    groups
}

fn fitting(rows: &[RawRow<'_>], room: usize, mut bytes: u64) -> usize {
    let take = |row: &&RawRow<'_>| {
        let left = bytes.checked_sub(row.as_bytes().len() as u64);
        bytes = left.unwrap_or_default();
        left.is_some()
    };
    rows.iter().take(room).take_while(take).count()
}

fn fitting_at_least_one(rows: &[RawRow<'_>]) -> usize {
    fitting(rows, GROUP_ROWS, GROUP_BYTES).max(1)
}

fn push_new<'a>(groups: &mut [Group<'a>], rest: &mut &'a [RawRow<'a>], count: usize) {
    let (taken, left) = rest.split_at_checked(count).unwrap_or((rest, &[]));
    *rest = left;
    if let Some(last) = groups.last_mut() {
        last.new = taken;
        last.rows = GROUP_ROWS;
    }
}

fn write_group<W: std::io::Write + Send>(
    out: &mut SerializedRowGroupWriter<'_, W>,
    readers: &[SerializedFileReader<File>],
    group: &Group<'_>,
    origin: Option<(&Bytes, u32)>,
) -> Result<()> {
    let new = match origin {
        Some((segment, writer)) if !group.new.is_empty() => {
            let rows = group
                .new
                .iter()
                .map(|row| row.decode())
                .collect::<std::result::Result<Vec<_>, _>>();
            Some(Rows {
                segment,
                writer,
                rows: rows.map_err(|error| ParquetError::External(Box::new(error)))?,
            })
        }
        _ => None,
    };
    for (index, column) in Column::ALL.into_iter().enumerate() {
        let mut to = out
            .next_column()?
            .ok_or_else(|| ParquetError::General(format!("the schema has no column {index}")))?;
        for (source, row_group) in &group.old {
            let Some(reader) = readers.get(*source) else {
                continue;
            };
            copy_column(reader, *row_group, index, &mut to)?;
        }
        if let Some(new) = &new {
            new.write(column, &mut to)?;
        }
        to.close()?;
    }
    Ok(())
}

/// Copies one column of one row group.
fn copy_column(
    reader: &SerializedFileReader<File>,
    row_group: usize,
    column: usize,
    to: &mut SerializedColumnWriter<'_>,
) -> Result<()> {
    let group = reader.get_row_group(row_group)?;
    let rows = u64::try_from(group.metadata().num_rows()).unwrap_or_default();
    let bytes =
        u64::try_from(group.metadata().column(column).uncompressed_size()).unwrap_or_default();
    let at_a_time = usize::try_from((COPY_BYTES * rows / bytes.max(1)).clamp(1, 8192)).unwrap_or(1);
    match group.get_column_reader(column)? {
        ColumnReader::BoolColumnReader(from) => copy(from, to.typed::<BoolType>(), at_a_time),
        ColumnReader::Int32ColumnReader(from) => copy(from, to.typed::<Int32Type>(), at_a_time),
        ColumnReader::Int64ColumnReader(from) => copy(from, to.typed::<Int64Type>(), at_a_time),
        ColumnReader::ByteArrayColumnReader(from) => {
            copy(from, to.typed::<ByteArrayType>(), at_a_time)
        }
        _ => Err(ParquetError::General(format!(
            "column {column} has a type that is not part of the schema"
        ))),
    }
}

fn copy<T: DataType>(
    mut from: ColumnReaderImpl<T>,
    to: &mut ColumnWriterImpl<'_, T>,
    at_a_time: usize,
) -> Result<()> {
    let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    let optional = to.get_descriptor().max_def_level() > 0;
    let list = to.get_descriptor().max_rep_level() > 0;
    loop {
        values.clear();
        defined.clear();
        repeated.clear();
        let (records, ..) = from.read_records(
            at_a_time,
            Some(&mut defined),
            Some(&mut repeated),
            &mut values,
        )?;
        if records == 0 {
            return Ok(());
        }
        to.write_batch(
            &values,
            optional.then_some(defined.as_slice()),
            list.then_some(repeated.as_slice()),
        )?;
    }
}
