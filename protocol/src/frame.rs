//! The fixed header: where a packet ends, before anything of it has been read or any memory been spent on it.

use crate::error::DecodeError;
use crate::primitive::{Varint, read_varint};

/// What the fixed header of a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Packet type (upper four bits) and flags, not yet checked.
    pub first_byte: u8,
    /// Bytes of the fixed header, 2 to 5.
    pub header_len: usize,
    /// Bytes of the whole packet, fixed header included.
    pub total_len: usize,
}

/// Reads the fixed header at the start of `buf`. `None`: more bytes are needed to tell.
///
/// The packet itself need not be in `buf` yet: its declared length is checked against `max_packet_size` (bytes, fixed
/// header included) before anybody makes room for it. Never allocates.
///
/// # Errors
///
/// [`DecodeError::RemainingLengthTooLong`] and [`DecodeError::RemainingLengthNotMinimal`] for a length in the wrong
/// form, [`DecodeError::PacketTooLarge`] for one above the limit.
#[inline]
pub fn peek_frame(buf: &[u8], max_packet_size: u32) -> Result<Option<FrameHeader>, DecodeError> {
    let Some((&first_byte, rest)) = buf.split_first() else {
        return Ok(None);
    };
    let (remaining, len) = match read_varint(rest) {
        Varint::Value(value, len) => (value as usize, len),
        Varint::Incomplete => return Ok(None),
        Varint::TooLong => return Err(DecodeError::RemainingLengthTooLong),
        Varint::NotMinimal(value) => return Err(DecodeError::RemainingLengthNotMinimal { value }),
    };
    let header_len = 1 + len;
    let total_len = header_len + remaining;
    if total_len > max_packet_size as usize {
        return Err(DecodeError::PacketTooLarge {
            size: total_len,
            limit: max_packet_size,
        });
    }
    Ok(Some(FrameHeader {
        first_byte,
        header_len,
        total_len,
    }))
}
