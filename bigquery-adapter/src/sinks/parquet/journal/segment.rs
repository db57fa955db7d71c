//! One file of the journal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::layout::{Layout, sync_dir};
use super::frame::{self, Found, HEAD};
use crate::batch::{Entry, entries};
use crate::encoding::Reader;
use crate::error::{EncodingError, WarehouseError};
use crate::ledger::Ledger;

const MAGIC: [u8; 7] = *b"DUNLINJ";
const VERSION: u8 = 2;
/// The oldest format that is read: rows and ledgers without taps.
const OLDEST: u8 = 1;

/// What a segment begins with.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot<'a> {
    /// Random id of this journal, part of every part file's name and of every message id.
    pub(crate) writer: u32,
    /// Number of the segment.
    pub(crate) number: u64,
    /// The ledger as of the end of the segment before.
    pub(crate) ledger: &'a [u8],
}

impl<'a> Snapshot<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut body = MAGIC.to_vec();
        body.push(VERSION);
        body.extend_from_slice(&self.writer.to_le_bytes());
        body.extend_from_slice(&self.number.to_le_bytes());
        body.extend_from_slice(self.ledger);
        body
    }

    fn decode(body: &'a [u8]) -> Result<Result<Self, u8>, EncodingError> {
        let mut reader = Reader::new(body);
        let magic: [u8; 7] = reader.array()?;
        let [version] = reader.array()?;
        if magic != MAGIC {
            return Err(EncodingError::Value {
                what: "first byte",
                found: u64::from(magic[0]),
            });
        }
        if !(OLDEST..=VERSION).contains(&version) {
            return Ok(Err(version));
        }
        let writer = u32::from_le_bytes(reader.array()?);
        let number = u64::from_le_bytes(reader.array()?);
        Ok(Ok(Self {
            writer,
            number,
            ledger: body.get(20..).unwrap_or_default(),
        }))
    }
}

/// Why a commit was not appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Writing failed and nothing of it is left: it may be tried again.
    Write(io::Error),
    /// It is unknown what the file holds: the process must stop and recover.
    Unknown(io::Error),
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: File,
    path: PathBuf,
    number: u64,
    /// Bytes that are known to be durable.
    len: u64,
    /// Bytes of the snapshot that it begins with.
    head: u64,
    rows: usize,
}

impl SegmentWriter {
    /// Creates a segment that is durable, name and all, when this returns.
    pub(crate) fn create(layout: &Layout, snapshot: &Snapshot<'_>) -> io::Result<Self> {
        let path = layout.segment(snapshot.number);
        let tmp = layout
            .tmp()
            .join(format!("segment-{}.tmp", snapshot.number));
        let body = snapshot.encode();
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&tmp)?;
        file.write_all(&frame::head(&body))?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&tmp, &path)?;
        sync_dir(&layout.journal())?;
        let head = (HEAD + body.len()) as u64;
        Ok(Self {
            file,
            path,
            number: snapshot.number,
            len: head,
            head,
            rows: 0,
        })
    }

    /// Appends a commit; it is durable when this returns `Ok`.
    pub(crate) fn append(&mut self, body: &[u8], rows: usize) -> Result<(), AppendError> {
        if let Err(error) = self.write(body) {
            self.cut().map_err(AppendError::Unknown)?;
            return Err(AppendError::Write(error));
        }
        // After a failed sync the system may have dropped the bytes and call the next sync a success.
        self.file.sync_data().map_err(AppendError::Unknown)?;
        self.len += (HEAD + body.len()) as u64;
        self.rows += rows;
        Ok(())
    }

    /// Removes what was written in part: the next frame would follow it.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len)).map(drop)
    }

    fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let head = frame::head(body);
        let written = self
            .file
            .write_vectored(&[IoSlice::new(&head), IoSlice::new(body)])?;
        if written < HEAD {
            self.file.write_all(&head[written..])?;
        }
        self.file
            .write_all(body.get(written.saturating_sub(HEAD)..).unwrap_or_default())
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of the commits in the file.
    pub(crate) const fn committed(&self) -> u64 {
        self.len - self.head
    }

    /// Rows appended.
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A segment read back: all of it in memory, at most `roll_bytes` and one batch.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    bytes: Bytes,
    frames: Vec<Range<usize>>,
    torn: bool,
    writer: u32,
    number: u64,
}

impl Segment {
    /// Reads a segment and checks every frame. An unfinished last frame is left out, see [`Segment::repair`].
    pub(crate) fn read(path: &Path) -> Result<Self, WarehouseError> {
        let bytes = Bytes::from(fs::read(path).map_err(WarehouseError::path("reading", path))?);
        let damaged = |at: usize, reason: &dyn std::fmt::Display| WarehouseError::Damaged {
            path: path.to_owned(),
            at: at as u64,
            reason: reason.to_string(),
        };
        let (mut frames, mut at, mut torn) = (Vec::new(), 0, false);
        loop {
            match frame::read(bytes.get(at..).unwrap_or_default()) {
                Found::Frame(body) => {
                    frames.push(at + HEAD..at + HEAD + body.len());
                    at += HEAD + body.len();
                }
                Found::End => break,
                Found::Torn => {
                    torn = true;
                    break;
                }
                Found::Damaged(reason) => return Err(damaged(at, &reason)),
            }
        }
        let first = frames
            .first()
            .cloned()
            .ok_or_else(|| damaged(0, &"it has no beginning"))?;
        let snapshot = Snapshot::decode(&bytes[first]).map_err(|error| damaged(0, &error))?;
        let snapshot = snapshot.map_err(|found| WarehouseError::Version {
            path: path.to_owned(),
            found,
            known: VERSION,
        })?;
        let (writer, number) = (snapshot.writer, snapshot.number);
        Ok(Self {
            path: path.to_owned(),
            frames,
            torn,
            writer,
            number,
            bytes,
        })
    }

    /// Whether the writing of the last frame did not finish.
    pub(crate) const fn is_torn(&self) -> bool {
        self.torn
    }

    /// Cuts an unfinished last frame off the file, durably.
    pub(crate) fn repair(&mut self) -> io::Result<()> {
        if self.torn {
            let end = self.frames.last().map_or(0, |frame| frame.end);
            let file = OpenOptions::new().write(true).open(&self.path)?;
            file.set_len(end as u64)?;
            file.sync_all()?;
            self.torn = false;
        }
        Ok(())
    }

    pub(crate) const fn writer(&self) -> u32 {
        self.writer
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The ledger as of the end of the segment.
    pub(crate) fn ledger(&self, window: u16) -> Result<Ledger, WarehouseError> {
        let first = self.frames.first().cloned().unwrap_or(0..0);
        let body = self.bytes.get(first.clone()).unwrap_or_default();
        let mut ledger = Ledger::decode(body.get(20..).unwrap_or_default(), window)
            .map_err(|error| self.damaged(first.start, error))?;
        for (at, entry) in self.entries() {
            let entry = entry.map_err(|error| self.damaged(at, error))?;
            ledger
                .apply(&entry)
                .map_err(|error| self.damaged(at, error))?;
        }
        Ok(ledger)
    }

    /// All entries, each with the place of its frame.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = (usize, Result<Entry<'_>, EncodingError>)> {
        self.frames.iter().skip(1).flat_map(|frame| {
            let body = self.bytes.get(frame.clone()).unwrap_or_default();
            entries(body).map(|entry| (frame.start, entry))
        })
    }

    /// The error for a segment that is not the one that its name says.
    pub(crate) fn misnamed(&self) -> WarehouseError {
        let reason = format!("it is segment {}, under the name of another", self.number);
        WarehouseError::Damaged {
            path: self.path.clone(),
            at: 0,
            reason,
        }
    }

    /// The error for bytes at `at` that passed their checksum and yet cannot be read.
    pub(crate) fn damaged(&self, at: usize, error: EncodingError) -> WarehouseError {
        WarehouseError::Damaged {
            path: self.path.clone(),
            at: at as u64,
            reason: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::sinks::parquet::test_support::{row, scratch};

    fn written(layout: &Layout, commits: u64) -> (PathBuf, Vec<u64>) {
        let mut ledger = Vec::new();
        Ledger::new(10).encode(&mut ledger);
        let snapshot = Snapshot {
            writer: 7,
            number: 3,
            ledger: &ledger,
        };
        let mut writer = SegmentWriter::create(layout, &snapshot).unwrap();
        let mut ends = vec![writer.len];
        for number in 1..=commits {
            let mut batch = Batch::default();
            batch.push_row(number, &row(number, "a/b", b"payload"));
            writer.append(batch.as_bytes(), 1).unwrap();
            ends.push(writer.len);
        }
        assert_eq!(fs::metadata(writer.path()).unwrap().len(), writer.len);
        (writer.path().to_owned(), ends)
    }

    #[test]
    fn a_segment_reads_back_as_it_was_written() {
        let (_dir, layout) = scratch();
        let (path, _) = written(&layout, 5);
        let segment = Segment::read(&path).unwrap();
        assert_eq!(
            (segment.writer(), segment.number(), segment.is_torn()),
            (7, 3, false)
        );
        assert_eq!(
            segment
                .entries()
                .filter(|(_, entry)| matches!(entry, Ok(Entry::Row(_))))
                .count(),
            5
        );
        assert_eq!(segment.ledger(10).unwrap().next_number(), 6);
    }

    #[test]
    fn a_torn_tail_is_cut_off_at_the_last_whole_commit_wherever_it_is_torn() {
        let (_dir, layout) = scratch();
        let (path, ends) = written(&layout, 3);
        let whole = fs::read(&path).unwrap();
        for len in ends[0] + 1..ends[3] {
            fs::write(&path, &whole[..len as usize]).unwrap();
            let mut segment = Segment::read(&path).unwrap();
            let kept = *ends.iter().rfind(|end| **end <= len).unwrap();
            assert_eq!(segment.is_torn(), kept != len, "{len}");
            segment.repair().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), kept, "{len}");
        }
    }

    #[test]
    fn a_flipped_byte_anywhere_is_an_error_that_names_file_and_place() {
        let (_dir, layout) = scratch();
        let (path, _) = written(&layout, 3);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            let error = Segment::read(&path).unwrap_err();
            assert!(
                matches!(error, WarehouseError::Damaged { .. }),
                "byte {at}: {error}"
            );
            assert!(
                error
                    .to_string()
                    .contains("segment-00000000000000000003.log is damaged at byte"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_journal_of_a_newer_version_is_refused_by_name() {
        let (_dir, layout) = scratch();
        let path = layout.segment(1);
        let mut body = MAGIC.to_vec();
        body.push(VERSION + 1);
        fs::write(&path, [frame::head(&body).as_slice(), &body].concat()).unwrap();
        assert!(matches!(
            Segment::read(&path).unwrap_err(),
            WarehouseError::Version {
                found: 3,
                known: 2,
                ..
            }
        ));
    }

    #[test]
    fn what_a_failed_write_has_left_is_cut_off_before_the_next_one() {
        let (_dir, layout) = scratch();
        let snapshot = Snapshot {
            writer: 7,
            number: 1,
            ledger: &[1, 0, 0, 0],
        };
        let mut writer = SegmentWriter::create(&layout, &snapshot).unwrap();
        let mut batch = Batch::default();
        batch.push_row(1, &row(1, "a", b"x"));
        writer.file.write_all(b"half a fra").unwrap();
        writer.cut().unwrap();
        writer.append(batch.as_bytes(), 1).unwrap();
        let segment = Segment::read(writer.path()).unwrap();
        assert_eq!((segment.entries().count(), segment.is_torn()), (1, false));
    }
}
