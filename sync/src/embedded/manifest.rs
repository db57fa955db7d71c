//! Verifies the lists of tables before the storage engine opens them.
//!
//! The engine (lsm-tree 3) writes a checksum of each list (`keyspaces/N/vM`) into the file that
//! names the newest (`keyspaces/N/current`: `M u64, xxh3 u128, kind u8`, little-endian), but does
//! not compare it when it opens. It deletes table files that the list does not name, so a flipped
//! bit there would cost data in silence.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use crate::StoreError;
use crate::codec::{CodecError, Reader};

/// Kind of checksum: xxh3 of 128 bits, the only one.
const KIND_XXH3: u8 = 0;

/// Verifies the lists of the engine's own table, 0, and of `tables` further ones.
pub(crate) fn verify(data: &Path, tables: usize) -> Result<(), StoreError> {
    (0..=tables).try_for_each(|table| verify_one(&data.join("keyspaces").join(table.to_string())))
}

fn verify_one(directory: &Path) -> Result<(), StoreError> {
    let current = directory.join("current");
    let (version, checksum) = parse(&read(&current)?)
        .map_err(|error| StoreError::damaged(current.display().to_string(), error))?;
    let list = directory.join(format!("v{version}"));
    let computed = xxh3_128(&read(&list)?);
    if computed == checksum {
        return Ok(());
    }
    Err(StoreError::damaged(
        list.display().to_string(),
        format!("its checksum is {computed:032x}, not {checksum:032x}"),
    ))
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            StoreError::damaged(path.display().to_string(), "the file is missing")
        }
        _ => StoreError::io("read", path, &error),
    })
}

fn parse(bytes: &[u8]) -> Result<(u64, u128), CodecError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u64("version")?;
    let checksum = reader.bytes(16, "checksum")?;
    let checksum = checksum.try_into().map_or(0, u128::from_le_bytes);
    let kind = reader.u8("kind of checksum")?;
    if kind != KIND_XXH3 {
        return Err(CodecError::Unknown {
            field: "kind of checksum",
            found: u64::from(kind),
        });
    }
    reader.end()?;
    Ok((version, checksum))
}
