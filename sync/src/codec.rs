//! Checked reading and writing of the little-endian fields that records are made of.
//!
//! Every length is checked against what is left before anything is sliced, so that torn or foreign
//! bytes end in a [`CodecError`] with numbers, never in a panic or a large allocation.

use thiserror::Error;

/// Why bytes are not a record.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum CodecError {
    /// Fewer bytes than a field needs.
    #[error("{field} needs {needed} bytes but only {left} are left")]
    Short {
        field: &'static str,
        needed: usize,
        left: usize,
    },
    /// Bytes after the last field.
    #[error("{0} bytes follow the end of the record")]
    Trailing(usize),
    /// Text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A tag or version that this build does not know.
    #[error("{field} is {found}, which this version of the program does not know")]
    Unknown { field: &'static str, found: u64 },
    /// A value that does not fit its field when written.
    #[error("{field} has {len} bytes, more than {max}")]
    TooLong {
        field: &'static str,
        len: usize,
        max: usize,
    },
}

/// A cursor over the bytes of one record.
pub(crate) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) fn bytes(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], CodecError> {
        match self.left.split_at_checked(len) {
            Some((head, tail)) => {
                self.left = tail;
                Ok(head)
            }
            None => Err(CodecError::Short {
                field,
                needed: len,
                left: self.left.len(),
            }),
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CodecError> {
        match self.left.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.left = tail;
                Ok(*head)
            }
            None => Err(CodecError::Short {
                field,
                needed: N,
                left: self.left.len(),
            }),
        }
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, CodecError> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, CodecError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, CodecError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, CodecError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A `u32` length and as many bytes of UTF-8.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, CodecError> {
        let len = self.u32(field)? as usize;
        let bytes = self.bytes(len, field)?;
        std::str::from_utf8(bytes).map_err(|_| CodecError::NotUtf8(field))
    }

    /// The rest, to the end.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// Bytes not read yet.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing(self.left.len()))
        }
    }
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a length as `u32`; a longer value is an error, not a truncation.
pub(crate) fn put_len(
    out: &mut Vec<u8>,
    len: usize,
    field: &'static str,
) -> Result<(), CodecError> {
    let len32 = u32::try_from(len).map_err(|_| CodecError::TooLong {
        field,
        len,
        max: u32::MAX as usize,
    })?;
    put_u32(out, len32);
    Ok(())
}

pub(crate) fn put_text(
    out: &mut Vec<u8>,
    text: &str,
    field: &'static str,
) -> Result<(), CodecError> {
    put_len(out, text.len(), field)?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// An optional `u64` as a presence byte and the value.
pub(crate) fn put_opt_u64(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_u64(out, value);
    }
}

/// The counterpart of [`put_opt_u64`].
pub(crate) fn opt_u64(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Option<u64>, CodecError> {
    match reader.u8(field)? {
        0 => Ok(None),
        1 => reader.u64(field).map(Some),
        found => Err(CodecError::Unknown {
            field,
            found: u64::from(found),
        }),
    }
}
