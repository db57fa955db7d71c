//! Reads the storage engine's journals before the engine does.
//!
//! The engine (fjall 3) cuts a journal off at the first thing it cannot read. This check comes
//! before that: it walks over the same batches, verifies their checksums and the unbroken count of
//! our commits in them, and tells a torn end, which nobody was promised, from damage.
//!
//! Form of a batch: `1, item count u32, sequence number u64`, then per item `2, value type u8,
//! compression u8, table u64, key length u16, value length u32, stored length u32, key, value` (or
//! `4, table u64`), then `3, xxh3 of the items u64, "FJL\x03"`; all little-endian.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::acknowledged::Mark;
use super::keys;
use crate::StoreError;
use crate::codec::{CodecError, Reader};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// The engine counts little else than batches: a wider step between two is damage.
const SEQNO_STEP_MAX: u64 = 1 << 32;
const TRAILER: &[u8] = b"FJL\x03";

/// What the journals hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Last whole commit in them; `None` if they hold none (all of it is in the tables).
    pub(crate) last_commit: Option<u64>,
    /// Bytes of an unfinished commit at the end, which are dropped.
    pub(crate) torn_bytes: u64,
    /// The engine's number of the last batch.
    last_seqno: Option<u64>,
}

/// One whole batch.
struct BatchView {
    /// Bytes it takes.
    len: usize,
    /// The engine's number of it.
    seqno: u64,
    /// The commit number in it.
    commit: Option<u64>,
}

/// Walks over all journals in `data`, in order.
pub(crate) fn verify(data: &Path, mark: Option<&Mark>) -> Result<Summary, StoreError> {
    let files = list(data)?;
    let mut summary = Summary::default();
    let count = files.len();
    for (at, path) in files.iter().enumerate() {
        let bytes = std::fs::read(path).map_err(|error| StoreError::io("read", path, &error))?;
        let end = walk(path, &bytes, &mut summary)?;
        let Some((offset, reason)) = end else {
            continue;
        };
        let damage = Damage {
            path,
            offset,
            reason,
        };
        if at + 1 < count {
            return Err(damage.error("a journal that was completed does not end cleanly"));
        }
        judge_end(&damage, &bytes, &summary, mark)?;
        summary.torn_bytes = used_len(&bytes).saturating_sub(offset) as u64;
    }
    Ok(summary)
}

/// The journal files by number, without a gap.
fn list(data: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let io = |error: std::io::Error| StoreError::io("read", data, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<u64>().ok())
                .ok_or_else(|| {
                    StoreError::damaged(path.display().to_string(), "not the name of a journal")
                })?;
            files.push((number, path));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(StoreError::damaged(
            data.display().to_string(),
            "its journal (*.jnl) is missing",
        ));
    }
    if let Some(pair) = files.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0) {
        return Err(StoreError::damaged(
            data.display().to_string(),
            format!(
                "journals {} to {} are missing",
                pair[0].0 + 1,
                pair[1].0 - 1
            ),
        ));
    }
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Counts the commits of one journal into `summary`; returns where and why reading ended, unless
/// the rest is empty space.
fn walk(
    path: &Path,
    bytes: &[u8],
    summary: &mut Summary,
) -> Result<Option<(usize, String)>, StoreError> {
    let mut offset = 0;
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        match batch(rest) {
            Ok(view) => {
                count(path, offset, &view, summary)?;
                offset += view.len;
            }
            // Space is reserved ahead as zeros.
            Err(_) if rest.iter().all(|byte| *byte == 0) => return Ok(None),
            Err(reason) => return Ok(Some((offset, reason))),
        }
    }
}

fn count(
    path: &Path,
    offset: usize,
    view: &BatchView,
    summary: &mut Summary,
) -> Result<(), StoreError> {
    let place = || format!("{} byte {offset}", path.display());
    // The engine's checksum does not cover this number, and a wrong one hides the batch.
    if let Some(last) = summary.last_seqno
        && !(last + 1..last + SEQNO_STEP_MAX).contains(&view.seqno)
    {
        return Err(StoreError::damaged(
            place(),
            format!("sequence number {} follows {last}", view.seqno),
        ));
    }
    summary.last_seqno = Some(view.seqno);
    let Some(commit) = view.commit else {
        return Err(StoreError::damaged(
            place(),
            "a batch carries no commit number",
        ));
    };
    if let Some(last) = summary.last_commit
        && commit != last + 1
    {
        return Err(StoreError::damaged(
            place(),
            format!("commit {commit} follows commit {last}"),
        ));
    }
    summary.last_commit = Some(commit);
    Ok(())
}

struct Damage<'a> {
    path: &'a Path,
    offset: usize,
    reason: String,
}

impl Damage<'_> {
    fn place(&self) -> String {
        format!("{} byte {}", self.path.display(), self.offset)
    }

    fn error(&self, what: &str) -> StoreError {
        StoreError::damaged(self.place(), format!("{what}: {}", self.reason))
    }
}

/// The newest journal ends in something unreadable: an unfinished commit, or damage?
fn judge_end(
    damage: &Damage<'_>,
    bytes: &[u8],
    summary: &Summary,
    mark: Option<&Mark>,
) -> Result<(), StoreError> {
    // Commits in the tables are not seen here; they are counted once the engine has opened them.
    let found = summary.last_commit;
    if let (Some(mark), Some(found)) = (mark, found)
        && found < mark.required()
    {
        return Err(StoreError::AcknowledgedLost {
            path: damage.path.to_path_buf(),
            acknowledged: mark.required(),
            found,
            detail: format!(
                "; the journal is damaged at byte {}: {}",
                damage.offset, damage.reason
            ),
        });
    }
    // When commits are acknowledged before they are flushed, loss of power may leave any pattern
    // of written and unwritten blocks behind the last flush.
    let holes_are_normal = mark.is_some_and(|mark| !mark.always && !mark.same_boot());
    if !holes_are_normal && whole_batch_behind(bytes, damage.offset) {
        return Err(damage.error("a batch is damaged while later ones are whole"));
    }
    Ok(())
}

/// Whether a whole batch begins behind the damaged one, right after the end of some batch.
fn whole_batch_behind(bytes: &[u8], offset: usize) -> bool {
    let mut rest = bytes.get(offset..).unwrap_or_default();
    while let Some(at) = find(rest, TRAILER) {
        rest = rest.get(at + TRAILER.len()..).unwrap_or_default();
        if batch(rest).is_ok() {
            return true;
        }
    }
    false
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

/// Length without the zeros at the end.
fn used_len(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1)
}

fn batch(bytes: &[u8]) -> Result<BatchView, String> {
    parse_batch(bytes).map_err(|error| error.to_string())
}

fn parse_batch(bytes: &[u8]) -> Result<BatchView, CodecError> {
    let mut reader = Reader::new(bytes);
    expect_tag(&mut reader, START)?;
    let count = reader.u32("item count")?;
    let seqno = reader.u64("sequence number")?;
    let items_at = bytes.len() - reader.left();
    let mut commit = None;
    for _ in 0..count {
        commit = item(&mut reader)?.or(commit);
    }
    let items = bytes
        .get(items_at..bytes.len() - reader.left())
        .unwrap_or_default();
    expect_tag(&mut reader, END)?;
    let checksum = reader.u64("checksum")?;
    if reader.bytes(TRAILER.len(), "trailer")? != TRAILER {
        return Err(CodecError::Unknown {
            field: "trailer",
            found: 0,
        });
    }
    if checksum != xxh3_64(items) {
        return Err(CodecError::Unknown {
            field: "checksum",
            found: checksum,
        });
    }
    Ok(BatchView {
        len: bytes.len() - reader.left(),
        seqno,
        commit,
    })
}

fn expect_tag(reader: &mut Reader<'_>, tag: u8) -> Result<(), CodecError> {
    match reader.u8("tag")? {
        found if found == tag => Ok(()),
        found => Err(CodecError::Unknown {
            field: "tag",
            found: u64::from(found),
        }),
    }
}

/// One item; its commit number if it is the one that carries it.
fn item(reader: &mut Reader<'_>) -> Result<Option<u64>, CodecError> {
    match reader.u8("tag")? {
        ITEM => {}
        CLEAR => {
            reader.u64("table")?;
            return Ok(None);
        }
        found => {
            return Err(CodecError::Unknown {
                field: "tag",
                found: u64::from(found),
            });
        }
    }
    reader.bytes(2, "value type and compression")?;
    let table = reader.u64("table")?;
    let key_len = reader.u16("key length")?;
    reader.u32("value length")?;
    let stored_len = reader.u32("stored length")?;
    let key = reader.bytes(usize::from(key_len), "key")?;
    let value = reader.bytes(stored_len as usize, "value")?;
    if table == keys::STATE_TABLE_ID && key == keys::COMMIT {
        return Ok(keys::number(value));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::acknowledged::boot_id;
    use super::*;

    /// A batch that carries a commit number and something to make it longer.
    fn batch_bytes(commit: u64) -> Vec<u8> {
        let mut items = Vec::new();
        for (table, key, value) in [
            (2, &b"some queue entry"[..], &[7; 100][..]),
            (keys::STATE_TABLE_ID, keys::COMMIT, &commit.to_be_bytes()),
        ] {
            items.extend_from_slice(&[ITEM, 0, 0]);
            items.extend_from_slice(&u64::to_le_bytes(table));
            items.extend_from_slice(&(key.len() as u16).to_le_bytes());
            items.extend_from_slice(&(value.len() as u32).to_le_bytes());
            items.extend_from_slice(&(value.len() as u32).to_le_bytes());
            items.extend_from_slice(key);
            items.extend_from_slice(value);
        }
        let mut bytes = vec![START];
        bytes.extend_from_slice(&2_u32.to_le_bytes());
        bytes.extend_from_slice(&(10 + commit).to_le_bytes());
        bytes.extend_from_slice(&items);
        bytes.push(END);
        bytes.extend_from_slice(&xxh3_64(&items).to_le_bytes());
        bytes.extend_from_slice(TRAILER);
        bytes
    }

    struct Journals(tempfile::TempDir);

    impl Journals {
        /// Files `0.jnl` and so on, with reserved space behind what is given.
        fn new(files: &[Vec<u8>]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for (number, bytes) in files.iter().enumerate() {
                let mut bytes = bytes.clone();
                bytes.resize(bytes.len() + 1000, 0);
                std::fs::write(directory.path().join(format!("{number}.jnl")), bytes).unwrap();
            }
            Self(directory)
        }

        fn verify(&self, mark: Option<&Mark>) -> Result<Summary, StoreError> {
            verify(self.0.path(), mark)
        }
    }

    fn commits(range: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        range.flat_map(batch_bytes).collect()
    }

    fn after_power_loss(synced: u64, always: bool) -> Mark {
        Mark {
            boot: boot_id() ^ 1,
            committed: 100,
            synced,
            always,
        }
    }

    /// Commits 5 to 9, of which 7 is unreadable.
    fn hole() -> Vec<u8> {
        let mut bytes = commits(5..=6);
        bytes.extend(std::iter::repeat_n(0, batch_bytes(7).len()));
        bytes.extend(commits(8..=9));
        bytes
    }

    #[test]
    fn whole_journals_are_counted_through() {
        let journals = Journals::new(&[commits(5..=9), commits(10..=12), Vec::new()]);
        let summary = journals.verify(None).unwrap();
        assert_eq!(summary.last_commit, Some(12));
        assert_eq!(summary.torn_bytes, 0);
    }

    #[test]
    fn journals_without_commits_leave_the_count_to_the_tables() {
        let summary = Journals::new(&[Vec::new()]).verify(None).unwrap();
        assert_eq!(summary.last_commit, None);
    }

    #[test]
    fn a_commit_missing_between_two_is_damage() {
        let mut bytes = commits(5..=6);
        bytes.extend(commits(8..=9));
        let error = Journals::new(&[bytes]).verify(None).unwrap_err();
        assert!(
            error.to_string().contains("commit 8 follows commit 6"),
            "{error}"
        );
        let error = Journals::new(&[commits(5..=6), commits(8..=9)])
            .verify(None)
            .unwrap_err();
        assert!(error.to_string().contains("1.jnl byte 0"), "{error}");
    }

    #[test]
    fn a_missing_journal_is_damage() {
        let journals = Journals::new(&[commits(5..=6), commits(7..=8), commits(9..=10)]);
        std::fs::remove_file(journals.0.path().join("1.jnl")).unwrap();
        let error = journals.verify(None).unwrap_err();
        assert!(
            error.to_string().contains("journals 1 to 1 are missing"),
            "{error}"
        );
    }

    #[test]
    fn an_older_journal_that_does_not_end_cleanly_is_damage() {
        let mut torn = commits(5..=6);
        torn.extend_from_slice(&batch_bytes(7)[..50]);
        let error = Journals::new(&[torn, commits(7..=8)])
            .verify(None)
            .unwrap_err();
        assert_eq!(error.code(), "DUN-1007");
    }

    #[test]
    fn a_torn_end_is_what_a_crash_leaves() {
        let mut torn = commits(5..=6);
        torn.extend_from_slice(&batch_bytes(7)[..50]);
        let mark = Mark {
            boot: boot_id(),
            committed: 6,
            synced: 6,
            always: true,
        };
        let journals = Journals::new(&[torn]);
        assert_eq!(journals.verify(Some(&mark)).unwrap().last_commit, Some(6));
        let mark = Mark {
            committed: 7,
            ..mark
        };
        let error = journals.verify(Some(&mark)).unwrap_err();
        assert_eq!(error.code(), "DUN-1008");
    }

    #[test]
    fn whole_batches_behind_a_hole_are_damage_when_each_commit_was_flushed() {
        let journals = Journals::new(&[hole()]);
        let error = journals
            .verify(Some(&after_power_loss(6, true)))
            .unwrap_err();
        assert_eq!(error.code(), "DUN-1007");
        assert_eq!(journals.verify(None).unwrap_err().code(), "DUN-1007");
    }

    #[test]
    fn a_hole_after_power_loss_is_normal_behind_the_last_flush_only() {
        let journals = Journals::new(&[hole()]);
        let summary = journals.verify(Some(&after_power_loss(6, false))).unwrap();
        assert_eq!(summary.last_commit, Some(6));
        let error = journals
            .verify(Some(&after_power_loss(7, false)))
            .unwrap_err();
        assert_eq!(error.code(), "DUN-1008");
    }

    #[test]
    fn arbitrary_bytes_are_no_batch_and_no_panic() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..300))| {
            prop_assert!(batch(&bytes).is_err());
        });
        proptest!(|(at in 0..batch_bytes(5).len(), bit in 0..8)| {
            let mut bytes = batch_bytes(5);
            bytes[at] ^= 1_u8 << bit;
            // The engine's number is outside the checksum: bytes 5 to 12.
            prop_assert_eq!(batch(&bytes).is_ok(), (5..13).contains(&at));
        });
    }
}
