//! The part files: which exist, which one grows, and how a segment's rows get into them once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::day::Day;
use super::journal::Segment;
use super::layout::{self, Layout, PartName};
use super::part::{self, NewRows, PartInfo, Span};
use super::schema::Codec;
use crate::batch::{Entry, RawRow};
use crate::error::WarehouseError;
use crate::row;

/// How large part files get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartSizes {
    /// A part with fewer rows than this grows by the next segment, instead of the segment getting a part of its own.
    pub(crate) grow_rows: u64,
    /// The same in bytes of the file.
    pub(crate) grow_bytes: u64,
    /// A compacted part has at most this many rows, unless a single part had more before.
    pub(crate) compact_rows: u64,
    /// The same in bytes of the file.
    pub(crate) compact_bytes: u64,
}

/// Owner of everything under `messages/`. There is one per warehouse: the lock sees to it.
#[derive(Debug)]
pub(crate) struct Warehouse {
    pub(super) layout: Layout,
    pub(super) codec: Codec,
    pub(super) sizes: PartSizes,
    pub(super) writer: u32,
    /// The newest part of the day that was last written to.
    newest: Option<(Day, PartInfo)>,
    /// Past days that were looked at and need no compaction.
    pub(super) settled: BTreeSet<Day>,
}

/// What became of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rolled {
    /// Rows written that were not in a part file before.
    pub rows: u64,
    /// Files written.
    pub files: u64,
}

impl Warehouse {
    pub(crate) fn new(layout: Layout, codec: Codec, sizes: PartSizes, writer: u32) -> Self {
        Self {
            layout,
            codec,
            sizes,
            writer,
            newest: None,
            settled: BTreeSet::new(),
        }
    }

    /// Brings a sealed segment's rows into part files and removes the segment. May be called again after any failure
    /// and after any crash: rows that are there already are not written again.
    pub(crate) fn store(&mut self, number: u64) -> Result<Rolled, WarehouseError> {
        let path = self.layout.segment(number);
        let segment = Segment::read(&path)?;
        let mut rolled = Rolled::default();
        for (day, rows) in by_day(&segment)? {
            if self.store_day(day, &segment, &rows)? {
                rolled.rows += rows.len() as u64;
                rolled.files += 1;
            }
        }
        fs::remove_file(&path).map_err(WarehouseError::path("removing", &path))?;
        let journal = self.layout.journal();
        layout::sync_dir(&journal).map_err(WarehouseError::path("syncing", &journal))?;
        Ok(rolled)
    }

    /// Whether something was written.
    fn store_day(
        &mut self,
        day: Day,
        segment: &Segment,
        rows: &[RawRow<'_>],
    ) -> Result<bool, WarehouseError> {
        let number = segment.number();
        let newest = self.newest_part(day)?;
        if newest.as_ref().is_some_and(|part| part.span.last >= number) {
            return Ok(false);
        }
        let grown = newest.filter(|part| self.can_grow(part));
        let first = grown.as_ref().map_or(number, |part| part.span.first);
        let span = Span {
            writer: self.writer,
            first,
            last: number,
        };
        let dir = self.layout.day(day);
        let path = match &grown {
            Some(part) => part.path.clone(),
            None => dir.join(
                PartName {
                    writer: self.writer,
                    first: number,
                    last: None,
                }
                .to_string(),
            ),
        };
        layout::create_dir(&dir).map_err(WarehouseError::path("creating", &dir))?;
        let tmp = self.layout.tmp().join("part.tmp");
        let sources: Vec<&Path> = grown.iter().map(|part| part.path.as_path()).collect();
        let new = NewRows {
            segment: segment.bytes(),
            rows,
        };
        part::write(&tmp, &sources, Some(new), span, self.codec)
            .map_err(|error| write_error(&tmp, &error))?;
        fs::rename(&tmp, &path).map_err(WarehouseError::path("renaming the new part to", &path))?;
        layout::sync_dir(&dir).map_err(WarehouseError::path("syncing", &dir))?;
        let info = part::info(&path).map_err(|error| part_error(&path, &error))?;
        self.newest = Some((day, info));
        self.settled.remove(&day);
        Ok(true)
    }

    fn can_grow(&self, part: &PartInfo) -> bool {
        // A compacted part has its last segment in its name.
        let name = part
            .path
            .file_name()
            .and_then(|name| PartName::parse(name.to_str()?));
        part.rows < self.sizes.grow_rows
            && part.bytes < self.sizes.grow_bytes
            && name.is_some_and(|name| name.last.is_none())
    }

    /// The part of this journal that has a day's newest rows.
    fn newest_part(&self, day: Day) -> Result<Option<PartInfo>, WarehouseError> {
        // A file that somebody has removed since (an old day, say) is no longer there to grow.
        if let Some((known, part)) = &self.newest
            && *known == day
            && part.path.is_file()
        {
            return Ok(Some(part.clone()));
        }
        let parts = self.part_names(day)?;
        let Some((_, path)) = parts.last() else {
            return Ok(None);
        };
        part::info(path)
            .map(Some)
            .map_err(|error| part_error(path, &error))
    }

    /// A day's parts of this journal, oldest first.
    pub(super) fn part_names(&self, day: Day) -> Result<Vec<(PartName, PathBuf)>, WarehouseError> {
        let dir = self.layout.day(day);
        let names = layout::names(&dir).map_err(WarehouseError::path("listing", &dir))?;
        let mut parts: Vec<(PartName, PathBuf)> = names
            .iter()
            .filter_map(|name| Some((PartName::parse(name)?, dir.join(name))))
            .filter(|(name, _)| name.writer == self.writer)
            .collect();
        parts.sort();
        Ok(parts)
    }

    /// Forgets which part is the newest: after the files of its day have changed.
    pub(super) fn forget_newest(&mut self) {
        self.newest = None;
    }
}

fn by_day(segment: &Segment) -> Result<BTreeMap<Day, Vec<RawRow<'_>>>, WarehouseError> {
    let mut days: BTreeMap<Day, Vec<RawRow<'_>>> = BTreeMap::new();
    for (at, entry) in segment.entries() {
        if let Entry::Row(row) = entry.map_err(|error| segment.damaged(at, error))? {
            let received_at =
                row::received_at(row.as_bytes()).map_err(|error| segment.damaged(at, error))?;
            days.entry(Day::of_micros(received_at))
                .or_default()
                .push(row);
        }
    }
    Ok(days)
}

pub(super) fn write_error(path: &Path, error: &parquet::errors::ParquetError) -> WarehouseError {
    WarehouseError::Path {
        action: "writing",
        path: path.to_owned(),
        error: io::Error::other(error.to_string()),
    }
}

pub(super) fn part_error(path: &Path, error: &parquet::errors::ParquetError) -> WarehouseError {
    WarehouseError::Part {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
