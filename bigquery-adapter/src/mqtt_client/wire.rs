//! Packets out of a byte stream.

use std::io;

use dunlin_protocol::{DecodeError, Packet, Sender, Version, decode, peek_frame};
use tokio::io::AsyncReadExt;

use super::ReadHalf;
use crate::error::Code;

/// Bytes read at a time.
const READ: usize = 64 << 10;

/// Why no packet came.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The broker closed the connection.
    #[error("the broker closed the connection without a word")]
    Closed,
    /// A packet is larger than allowed.
    #[error("a packet of {size} bytes came, more than mqtt.max_packet_bytes allows ({limit})")]
    TooLarge {
        /// Bytes of the packet.
        size: usize,
        /// The limit.
        limit: u32,
    },
    /// Bytes that are no packet.
    #[error("the broker sent what is not MQTT: {0}")]
    Decode(#[from] DecodeError),
}

impl WireError {
    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            // What the TLS layer refuses, or is refused by the other side, comes as invalid data.
            Self::Io(error) if matches!(error.kind(), io::ErrorKind::InvalidData) => Code::TLS,
            Self::Io(_) | Self::Closed => Code::DISCONNECTED,
            Self::TooLarge { .. } => Code::PACKET_TOO_LARGE,
            Self::Decode(_) => Code::PROTOCOL,
        }
    }
}

/// Bytes that have been read and not yet taken apart. Grows to the size of the largest packet, at most
/// `max_packet` and one read.
#[derive(Debug)]
pub struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    max_packet: u32,
}

impl Inbox {
    /// An empty one.
    #[must_use]
    pub const fn new(max_packet: u32) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            max_packet,
        }
    }

    /// Reads more; returns how much. Cancel safe.
    ///
    /// # Errors
    /// When the connection has ended or breaks.
    pub(crate) async fn fill(&mut self, from: &mut ReadHalf) -> Result<usize, WireError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.capacity() > 4 * READ && self.buffer.len() < READ {
            self.buffer.shrink_to(2 * READ);
        }
        self.buffer.reserve(READ);
        match from.read_buf(&mut self.buffer).await? {
            0 => Err(WireError::Closed),
            read => Ok(read),
        }
    }

    /// The next whole packet; none when more must be read first.
    ///
    /// # Errors
    /// When what came is no packet, or one that is too large.
    pub fn next(&mut self, version: Version) -> Result<Option<Packet<'_>>, WireError> {
        Ok(self
            .next_frame()?
            .map(|frame| decode(frame, version, Sender::Server))
            .transpose()?)
    }

    /// The bytes of the next whole packet.
    pub(super) fn next_frame(&mut self) -> Result<Option<&[u8]>, WireError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some(header) = peek_frame(rest, u32::MAX)? else {
            return Ok(None);
        };
        let (size, limit) = (header.total_len, self.max_packet);
        if size > limit as usize {
            return Err(WireError::TooLarge { size, limit });
        }
        let Some(frame) = rest.get(..size) else {
            return Ok(None);
        };
        self.start += size;
        Ok(Some(frame))
    }
}
