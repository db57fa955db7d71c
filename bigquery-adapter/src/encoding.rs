//! The few primitives that the journal's bytes are made of: little-endian numbers, LEB128 lengths, byte strings.

use crate::error::EncodingError;

/// Appends `value` as LEB128, at most ten bytes.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends an optional byte string: 0 for none, else its length plus one and the bytes.
pub(crate) fn put_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}

/// Reads from the front of a slice, and never past its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len: u64) -> Result<&'a [u8], EncodingError> {
        let short = EncodingError::Short {
            wanted: len,
            left: self.rest.len(),
        };
        let len = usize::try_from(len).map_err(|_| short)?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], EncodingError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(EncodingError::Short {
                wanted: N as u64,
                left: self.rest.len(),
            })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, EncodingError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(EncodingError::Length)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], EncodingError> {
        let len = self.varint()?;
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, EncodingError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| EncodingError::Text)
    }

    pub(crate) fn option(&mut self) -> Result<Option<&'a [u8]>, EncodingError> {
        match self.varint()? {
            0 => Ok(None),
            len => self.take(len - 1).map(Some),
        }
    }

    pub(crate) fn option_text(&mut self) -> Result<Option<&'a str>, EncodingError> {
        self.option()?
            .map(|bytes| std::str::from_utf8(bytes).map_err(|_| EncodingError::Text))
            .transpose()
    }

    pub(crate) fn end(&self) -> Result<(), EncodingError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(EncodingError::Trailing(self.rest.len()))
        }
    }
}
