//! Opening a warehouse: what an earlier process has left is finished before anything new is taken.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use super::journal::{Segment, SegmentWriter, Snapshot};
use super::layout::{self, Layout};
use super::schema::Codec;
use super::warehouse::{PartSizes, Warehouse};
use crate::error::WarehouseError;
use crate::ledger::Ledger;

/// A warehouse that is ready.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) warehouse: Warehouse,
    pub(super) writer: u32,
    pub(super) ledger: Ledger,
    pub(super) segment: SegmentWriter,
    /// Rows that an earlier process had acknowledged and not brought into part files.
    pub(super) rows: u64,
}

/// Makes the directories, takes the lock and clears away unfinished files.
pub(super) fn prepare(root: &Path, layout: &Layout) -> Result<File, WarehouseError> {
    fs::create_dir_all(root).map_err(WarehouseError::path("creating", root))?;
    let path = layout.lock();
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = open.map_err(WarehouseError::path("opening", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(WarehouseError::Locked(root.to_owned())),
        Err(TryLockError::Error(error)) => {
            return Err(WarehouseError::path("locking", &path)(error));
        }
    }
    for dir in [layout.messages(), layout.journal(), layout.tmp()] {
        layout::create_dir(&dir).map_err(WarehouseError::path("creating", &dir))?;
    }
    let tmp = layout.tmp();
    layout::empty_dir(&tmp).map_err(WarehouseError::path("emptying", &tmp))?;
    Ok(lock)
}

/// Brings every row of the journal into part files, and begins a new segment.
///
/// The new segment comes first: at no moment is there none, so numbers go on and the ledger is never lost.
pub(super) fn recover(
    layout: &Layout,
    codec: Codec,
    sizes: PartSizes,
    window: u16,
) -> Result<Recovered, WarehouseError> {
    let journal = layout.journal();
    let old = layout
        .segments()
        .map_err(WarehouseError::path("listing", &journal))?;
    let (writer, ledger, last) = match old.last() {
        None => (random(), Ledger::new(window), 0),
        Some(last) => newest(layout, *last, window)?,
    };
    let sealed = old.split_last().map_or(&[][..], |(_, sealed)| sealed);
    for number in sealed {
        check_sealed(layout, *number, writer)?;
    }
    let mut state = Vec::new();
    ledger.encode(&mut state);
    let snapshot = Snapshot {
        writer,
        number: last + 1,
        ledger: &state,
    };
    let segment = SegmentWriter::create(layout, &snapshot)
        .map_err(WarehouseError::path("beginning", &layout.segment(last + 1)))?;
    let mut warehouse = Warehouse::new(layout.clone(), codec, sizes, writer);
    let mut rows = 0;
    for number in old {
        rows += warehouse.store(number)?.rows;
    }
    if rows > 0 {
        tracing::info!(rows, "rows left in the journal are now in parquet files");
    }
    Ok(Recovered {
        warehouse,
        writer,
        ledger,
        segment,
        rows,
    })
}

/// Reads the segment that was being written. Its last commit may be unfinished: it was never acknowledged.
fn newest(layout: &Layout, number: u64, window: u16) -> Result<(u32, Ledger, u64), WarehouseError> {
    let path = layout.segment(number);
    let mut segment = Segment::read(&path)?;
    check_number(&segment, number)?;
    let ledger = segment.ledger(window)?;
    if segment.is_torn() {
        tracing::warn!(
            segment = number,
            "the last commit before the adapter ended was unfinished; it was not acknowledged and is dropped"
        );
        segment
            .repair()
            .map_err(WarehouseError::path("repairing", &path))?;
    }
    Ok((segment.writer(), ledger, number))
}

/// A segment that has a successor was complete before that was created.
fn check_sealed(layout: &Layout, number: u64, writer: u32) -> Result<(), WarehouseError> {
    let path = layout.segment(number);
    let segment = Segment::read(&path)?;
    check_number(&segment, number)?;
    let damaged = |reason: String| WarehouseError::Damaged {
        path: path.clone(),
        at: segment.bytes().len() as u64,
        reason,
    };
    if segment.is_torn() {
        return Err(damaged(
            "it ends in the middle of a commit, although it was complete once".to_owned(),
        ));
    }
    if segment.writer() != writer {
        let (found, wanted) = (segment.writer(), writer);
        return Err(damaged(format!(
            "it belongs to the journal {found:08x}, the others to {wanted:08x}"
        )));
    }
    Ok(())
}

fn check_number(segment: &Segment, number: u64) -> Result<(), WarehouseError> {
    if segment.number() == number {
        return Ok(());
    }
    Err(segment.misnamed())
}

/// Not secret, only different from other journals.
fn random() -> u32 {
    (RandomState::new().build_hasher().finish() >> 16) as u32
}
