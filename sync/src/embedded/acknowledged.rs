//! The number of the last acknowledged commit, beside the data it counts.
//!
//! The storage engine takes the first batch that it cannot read for the end of its journal. After a
//! crash that is right for the one commit that was under way, and wrong for a flipped bit in the
//! middle: everything behind it would vanish without a word. So each commit carries a number, and
//! the last one that was acknowledged is also written here, by overwriting one small block, without
//! a flush. After the death of the process this number is exact. After loss of power it may be older
//! than the truth, never newer, as it is written after the flush of what it counts; for the modes
//! that acknowledge before a flush, `synced` says what is certain, and a change of the kernel's boot
//! id tells the two cases apart.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::StoreError;
use crate::codec::{CodecError, Reader};

const MAGIC: &[u8; 8] = b"DUNACK\0\x01";
const CHECKED_LEN: usize = 8 + 16 + 8 + 8 + 1;
const LEN: usize = CHECKED_LEN + 8;

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Identifies the boot of the machine in which this was written; 0 if unknown.
    pub(crate) boot: u128,
    /// Last commit that was acknowledged.
    pub(crate) committed: u64,
    /// Last commit that was on disk by a flush.
    pub(crate) synced: u64,
    /// Commits were acknowledged only after a flush.
    pub(crate) always: bool,
}

impl Mark {
    /// Whether only the process has died since the mark was written, and not the machine.
    pub(crate) fn same_boot(&self) -> bool {
        self.boot != 0 && self.boot == boot_id()
    }

    /// The commit that must be there.
    pub(crate) fn required(&self) -> u64 {
        if self.same_boot() {
            self.committed
        } else {
            self.synced
        }
    }

    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.boot.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.committed.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.synced.to_le_bytes());
        bytes[40] = u8::from(self.always);
        let checksum = xxh3_64(&bytes[..CHECKED_LEN]);
        bytes[CHECKED_LEN..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let read = || -> Result<(Self, u64, bool), CodecError> {
            let mut reader = Reader::new(bytes);
            let magic = reader.bytes(8, "magic")? == MAGIC;
            let boot = reader.bytes(16, "boot id")?;
            let mark = Self {
                boot: boot.try_into().map_or(0, u128::from_le_bytes),
                committed: reader.u64("committed")?,
                synced: reader.u64("synced")?,
                always: reader.u8("mode")? != 0,
            };
            let checksum = reader.u64("checksum")?;
            reader.end()?;
            Ok((mark, checksum, magic))
        };
        let (mark, checksum, magic) = read().map_err(|error| error.to_string())?;
        let computed = xxh3_64(bytes.get(..CHECKED_LEN).unwrap_or_default());
        if !magic || checksum != computed {
            return Err(format!(
                "its checksum is {checksum:016x}, not {computed:016x}"
            ));
        }
        Ok(mark)
    }
}

/// The open file.
pub(crate) struct Acknowledged {
    file: File,
    path: PathBuf,
    mark: Mark,
}

impl Acknowledged {
    /// What the last run wrote; `None` if the file does not exist.
    pub(crate) fn read(path: &Path) -> Result<Option<Mark>, StoreError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path, &error)),
        };
        Mark::decode(&bytes)
            .map(Some)
            .map_err(|reason| StoreError::damaged(path.display().to_string(), reason))
    }

    /// Opens or creates the file and states that everything up to `commit` is on disk.
    pub(crate) fn open(path: &Path, commit: u64, always: bool) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|error| StoreError::io("open", path, &error))?;
        let mark = Mark {
            boot: boot_id(),
            committed: commit,
            synced: commit,
            always,
        };
        let this = Self {
            file,
            path: path.to_path_buf(),
            mark,
        };
        this.write()?;
        this.file
            .sync_all()
            .map_err(|error| StoreError::io("flush", path, &error))?;
        Ok(this)
    }

    /// States that `commit` is acknowledged, and on disk if `synced`.
    pub(crate) fn advance(&mut self, commit: u64, synced: bool) -> Result<(), StoreError> {
        self.mark.committed = commit;
        if synced {
            self.mark.synced = commit;
        }
        self.write()
    }

    /// States that all that was acknowledged is on disk.
    pub(crate) fn synced(&mut self) -> Result<(), StoreError> {
        self.advance(self.mark.committed, true)
    }

    fn write(&self) -> Result<(), StoreError> {
        self.file
            .write_all_at(&self.mark.encode(), 0)
            .map_err(|error| StoreError::io("write", &self.path, &error))
    }
}

pub(crate) fn boot_id() -> u128 {
    std::fs::read("/proc/sys/kernel/random/boot_id")
        .map(|text| xxh3_128(&text))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_any_flipped_bit_is_noticed() {
        let mark = Mark {
            boot: 7,
            committed: 9,
            synced: 8,
            always: true,
        };
        let bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Ok(mark));
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[at / 8] ^= 1 << (at % 8);
            assert!(Mark::decode(&bad).is_err(), "bit {at}");
        }
    }

    #[test]
    fn after_another_boot_only_what_was_flushed_is_required() {
        let mark = Mark {
            boot: boot_id() ^ 1,
            committed: 9,
            synced: 4,
            always: false,
        };
        assert_eq!(mark.required(), 4);
        let mark = Mark {
            boot: boot_id(),
            ..mark
        };
        assert_eq!(mark.required(), 9);
    }
}
