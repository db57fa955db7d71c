//! What a benchmark's payload carries: who sent it, as which message, and when it was due.

/// Bytes at the front of every payload.
pub(crate) const STAMP_BYTES: usize = 20;

/// The front of a payload; the rest is filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Number of the publisher.
    pub(crate) publisher: u32,
    /// Number of its message, from 0.
    pub(crate) sequence: u64,
    /// Nanoseconds since the engine began.
    pub(crate) due_ns: u64,
}

impl Stamp {
    pub(crate) fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        let (publisher, rest) = bytes.split_at_mut(4);
        let (sequence, due) = rest.split_at_mut(8);
        publisher.copy_from_slice(&self.publisher.to_le_bytes());
        sequence.copy_from_slice(&self.sequence.to_le_bytes());
        due.copy_from_slice(&self.due_ns.to_le_bytes());
        bytes
    }

    pub(crate) fn from_payload(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let due = rest.first_chunk::<8>()?;
        Some(Self {
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            due_ns: u64::from_le_bytes(*due),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_a_short_payload_has_none() {
        let stamp = Stamp {
            publisher: 7,
            sequence: 1 << 40,
            due_ns: u64::MAX,
        };
        let mut payload = stamp.to_bytes().to_vec();
        payload.push(b'x');
        assert_eq!(Stamp::from_payload(&payload), Some(stamp));
        assert_eq!(Stamp::from_payload(&payload[..19]), None);
    }
}
