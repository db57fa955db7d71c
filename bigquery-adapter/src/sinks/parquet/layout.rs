//! Names and places of the warehouse's files, and the few things done to directories.
//!
//! ```text
//! <warehouse>/
//!   messages/day=2026-11-21/part-<writer>-<first segment>[-<last segment>].parquet
//!   journal/segment-<number>.log
//!   tmp/                          unfinished files; emptied at start
//!   lock
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::day::Day;

/// The directories of one warehouse.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(crate) fn messages(&self) -> PathBuf {
        self.root.join("messages")
    }

    pub(crate) fn day(&self, day: Day) -> PathBuf {
        self.messages().join(format!("day={day}"))
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.journal().join(format!("segment-{number:020}.log"))
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Days that have a directory, in order.
    pub(crate) fn days(&self) -> io::Result<Vec<Day>> {
        let mut days: Vec<Day> = names(&self.messages())?
            .iter()
            .filter_map(|name| name.strip_prefix("day=").and_then(Day::parse))
            .collect();
        days.sort_unstable();
        Ok(days)
    }

    /// Numbers of the journal's segments, in order.
    pub(crate) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<u64> = names(&self.journal())?
            .iter()
            .filter_map(|name| {
                name.strip_prefix("segment-")?
                    .strip_suffix(".log")?
                    .parse()
                    .ok()
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// Which rows a part file has: those of the segments `first..=last` of one writer's journal that fall on its day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartName {
    /// Id of the journal that the rows have gone through.
    pub(crate) writer: u32,
    /// First segment.
    pub(crate) first: u64,
    /// Last segment, only in the name of a compacted part. A part that still grows keeps its name, so that a reader
    /// who has listed it can open it; its last segment is in its footer.
    pub(crate) last: Option<u64>,
}

impl PartName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut fields = name
            .strip_prefix("part-")?
            .strip_suffix(".parquet")?
            .split('-');
        let writer = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let last = fields.next().map(str::parse).transpose().ok()?;
        let name = Self {
            writer: u32::from_str_radix(writer, 16).ok()?,
            first,
            last,
        };
        (writer.len() == 8 && fields.next().is_none()).then_some(name)
    }
}

impl std::fmt::Display for PartName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "part-{:08x}-{:020}", self.writer, self.first)?;
        if let Some(last) = self.last {
            write!(f, "-{last:020}")?;
        }
        f.write_str(".parquet")
    }
}

/// Names in a directory that are text; none when there is no such directory.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Makes the names in a directory durable: after this a new, renamed or removed file stays so.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory where there is none, durably; its parent must exist.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => dir.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes everything in a directory.
pub(crate) fn empty_dir(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_read_back() {
        for last in [None, Some(99)] {
            let name = PartName {
                writer: 0x00ab_cdef,
                first: 42,
                last,
            };
            assert_eq!(PartName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(
            PartName {
                writer: 1,
                first: 2,
                last: None
            }
            .to_string(),
            "part-00000001-00000000000000000002.parquet"
        );
    }

    #[test]
    fn files_of_others_are_not_taken_for_parts() {
        for name in [
            "x.parquet",
            "part-1-2.parquet",
            "part-00000001-2-3-4.parquet",
            "part-00000001-2.tmp",
            "part-zz.parquet",
        ] {
            assert_eq!(PartName::parse(name), None, "{name}");
        }
    }
}
