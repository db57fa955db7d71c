//! The data representations of section 1.5: integers, strings, binary data, and a cursor that reads them.

use crate::error::{DecodeError, EncodeError};

/// The highest value of a variable byte integer, and so the longest remaining length.
pub const MAX_VARINT: u32 = 268_435_455;

/// Bytes of the variable byte integer that holds `value`; above [`MAX_VARINT`] still 4.
pub(crate) const fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends `value`, which the caller has checked against [`MAX_VARINT`].
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a string or binary field that the caller has checked with [`check_len`].
pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Refuses what does not fit a two-byte length.
pub(crate) fn check_len(field: &'static str, bytes: &[u8]) -> Result<(), EncodeError> {
    if bytes.len() > usize::from(u16::MAX) {
        return Err(EncodeError::FieldTooLong {
            field,
            len: bytes.len(),
        });
    }
    Ok(())
}

/// What the first bytes of a slice say when read as a variable byte integer.
pub(crate) enum Varint {
    /// A value, and how many bytes it takes.
    Value(u32, usize),
    /// A value that fewer bytes would have held.
    NotMinimal(u32),
    /// A fifth byte would follow.
    TooLong,
    /// All bytes say that another follows.
    Incomplete,
}

/// Reads a variable byte integer from the start of `bytes`.
#[inline]
pub(crate) fn read_varint(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            // A last byte of zero adds nothing: one byte fewer would have done.
            if byte == 0 && i > 0 {
                return Varint::NotMinimal(value);
            }
            return Varint::Value(value, i + 1);
        }
    }
    if bytes.len() >= 4 {
        Varint::TooLong
    } else {
        Varint::Incomplete
    }
}

/// [MQTT-1.5.4-1]: a string is well-formed UTF-8.
#[inline]
pub(crate) fn utf8<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { field })
}

/// Reads fields from the front of a slice. Every method either takes a whole field or fails; none allocates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn take(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn take_array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.take_array(field).map(u8::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.take_array(field).map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.take_array(field).map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn varint(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        match read_varint(self.rest) {
            Varint::Value(value, len) => {
                self.take(len, field)?;
                Ok(value)
            }
            Varint::NotMinimal(value) => Err(DecodeError::VarintNotMinimal { field, value }),
            Varint::TooLong => Err(DecodeError::VarintTooLong { field }),
            Varint::Incomplete => Err(DecodeError::Truncated { field }),
        }
    }

    /// Binary data: a two-byte length, then that many bytes.
    #[inline]
    pub(crate) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    /// A string: [MQTT-1.5.4-1] well-formed UTF-8 (which has no surrogates), [MQTT-1.5.4-2] without U+0000. A byte
    /// order mark is an ordinary character [MQTT-1.5.4-3].
    #[inline]
    pub(crate) fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let text = self.utf8(field)?;
        if text.as_bytes().contains(&0) {
            return Err(DecodeError::NulCharacter { field });
        }
        Ok(text)
    }

    /// A string whose characters the caller goes on to check.
    #[inline]
    pub(crate) fn utf8(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        utf8(field, self.binary(field)?)
    }

    /// Fails unless everything has been read.
    #[inline]
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::TrailingBytes {
            count: self.rest.len(),
        })
    }
}
