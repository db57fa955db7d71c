//! A past day's parts, merged into few large ones.
//!
//! Readers list a directory and then open what they have found, so replacing some files of a directory by one, file
//! by file, would show them rows twice or not at all. Instead the day is built anew beside the old one, files that stay
//! as they are by hard link, and the two directories change places in one step (`renameat2` with `RENAME_EXCHANGE`).
//! Who lists sees the old day or the new one. A query that listed the old one and opens a file afterwards gets an
//! error that the file is gone, never a wrong answer: it is run again. That is why only past days are touched, and each
//! in general once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::day::Day;
use super::layout::{self, PartName};
use super::part::{self, PartInfo, Span};
use super::warehouse::{Warehouse, part_error, write_error};
use crate::error::WarehouseError;

/// What compacting a day did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Files that went into others.
    pub(crate) merged: usize,
    /// Files that came of it.
    pub(crate) into: usize,
}

impl Warehouse {
    /// Compacts the first day before `today` that can be; none when there is nothing to do.
    pub(crate) fn compact_one(
        &mut self,
        today: Day,
    ) -> Result<Option<(Day, Compacted)>, WarehouseError> {
        let messages = self.layout.messages();
        let days = self
            .layout
            .days()
            .map_err(WarehouseError::path("listing", &messages))?;
        for day in days.into_iter().filter(|day| *day < today) {
            if self.settled.contains(&day) {
                continue;
            }
            let runs = self.runs(day)?;
            if runs.iter().any(|run| run.len() > 1) {
                return self
                    .compact(day, &runs)
                    .map(|compacted| Some((day, compacted)));
            }
            self.settled.insert(day);
        }
        Ok(None)
    }

    /// A day's parts in order, cut into runs that each fit into one part.
    fn runs(&self, day: Day) -> Result<Vec<Vec<PartInfo>>, WarehouseError> {
        let mut runs: Vec<Vec<PartInfo>> = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        for (_, path) in self.part_names(day)? {
            let part = part::info(&path).map_err(|error| part_error(&path, &error))?;
            (rows, bytes) = (rows + part.rows, bytes + part.bytes);
            match runs.last_mut() {
                Some(run)
                    if rows <= self.sizes.compact_rows && bytes <= self.sizes.compact_bytes =>
                {
                    run.push(part)
                }
                _ => {
                    (rows, bytes) = (part.rows, part.bytes);
                    runs.push(vec![part]);
                }
            }
        }
        Ok(runs)
    }

    fn compact(&mut self, day: Day, runs: &[Vec<PartInfo>]) -> Result<Compacted, WarehouseError> {
        let old = self.layout.day(day);
        let new = self.layout.tmp().join(format!("day={day}"));
        discard(&new).map_err(WarehouseError::path("removing", &new))?;
        fs::create_dir(&new).map_err(WarehouseError::path("creating", &new))?;
        let mut done = Compacted::default();
        let mut merged: Vec<&Path> = Vec::new();
        for run in runs.iter().filter(|run| run.len() > 1) {
            self.merge(run, &new)?;
            merged.extend(run.iter().map(|part| part.path.as_path()));
            done.into += 1;
        }
        done.merged = merged.len();
        link_others(&old, &new, &merged)
            .map_err(WarehouseError::path("linking the unchanged files of", &old))?;
        layout::sync_dir(&new).map_err(WarehouseError::path("syncing", &new))?;
        self.forget_newest();
        renameat_with(CWD, &new, CWD, &old, RenameFlags::EXCHANGE)
            .map_err(io::Error::from)
            .map_err(WarehouseError::path(
                "exchanging the compacted day with",
                &old,
            ))?;
        let messages = self.layout.messages();
        layout::sync_dir(&messages).map_err(WarehouseError::path("syncing", &messages))?;
        discard(&new).map_err(WarehouseError::path("removing", &new))?;
        Ok(done)
    }

    fn merge(&self, run: &[PartInfo], dir: &Path) -> Result<PathBuf, WarehouseError> {
        let first = run
            .iter()
            .map(|part| part.span.first)
            .min()
            .unwrap_or_default();
        let last = run
            .iter()
            .map(|part| part.span.last)
            .max()
            .unwrap_or_default();
        let span = Span {
            writer: self.writer,
            first,
            last,
        };
        let path = dir.join(
            PartName {
                writer: self.writer,
                first,
                last: Some(last),
            }
            .to_string(),
        );
        let sources: Vec<&Path> = run.iter().map(|part| part.path.as_path()).collect();
        part::write(&path, &sources, None, span, self.codec)
            .map_err(|error| write_error(&path, &error))?;
        let wanted: u64 = run.iter().map(|part| part.rows).sum();
        let found = part::info(&path)
            .map_err(|error| part_error(&path, &error))?
            .rows;
        if wanted == found {
            return Ok(path);
        }
        Err(WarehouseError::Part {
            path,
            reason: format!("it has {found} rows where {wanted} were merged"),
        })
    }
}

/// Gives `new` every file of `old` but the merged ones.
fn link_others(old: &Path, new: &Path, merged: &[&Path]) -> io::Result<()> {
    for entry in fs::read_dir(old)? {
        let path = entry?.path();
        if let (false, Some(name)) = (merged.contains(&path.as_path()), path.file_name()) {
            fs::hard_link(&path, new.join(name))?;
        }
    }
    Ok(())
}

fn discard(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
