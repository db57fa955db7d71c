//! Frames: how a commit lies in a segment.
//!
//! ```text
//! u32 length of the body | u32 CRC-32 of the body | u32 CRC-32 of the eight bytes before | body
//! ```
//!
//! The head has a checksum of its own for one reason: a frame that the file ends in the middle of is what a crash
//! leaves, was never acknowledged, and is dropped; a frame that is there in full and does not match its checksum is
//! damage to something that may have been acknowledged, and is never dropped silently. Without the head's checksum a
//! damaged length would look like the first and be the second.

/// Bytes before the body.
pub(super) const HEAD: usize = 12;

/// What begins at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A whole frame with this body.
    Frame(&'a [u8]),
    /// The end.
    End,
    /// The beginning of a frame whose writing did not finish.
    Torn,
    /// Bytes that no writing, finished or not, has left.
    Damaged(&'static str),
}

/// The head of a frame with this body.
pub(super) fn head(body: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..8].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let check = crc32fast::hash(&head[..8]);
    head[8..].copy_from_slice(&check.to_le_bytes());
    head
}

/// Reads what `rest`, the segment from some frame boundary to its end, begins with.
pub(super) fn read(rest: &[u8]) -> Found<'_> {
    if rest.is_empty() {
        return Found::End;
    }
    // A file system may make the file longer before the bytes are there: zeros to the end are unfinished writing.
    if rest.iter().all(|byte| *byte == 0) {
        return Found::Torn;
    }
    let Some((head, rest)) = rest.split_first_chunk::<HEAD>() else {
        return Found::Torn;
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3, h0, h1, h2, h3] = *head;
    let (len, body_check) = (
        u32::from_le_bytes([l0, l1, l2, l3]),
        u32::from_le_bytes([c0, c1, c2, c3]),
    );
    if crc32fast::hash(&head[..8]) != u32::from_le_bytes([h0, h1, h2, h3]) {
        return Found::Damaged("the checksum of a frame's head does not match");
    }
    let Some(body) = rest.get(..len as usize) else {
        return Found::Torn;
    };
    if crc32fast::hash(body) == body_check {
        Found::Frame(body)
    } else {
        Found::Damaged("the checksum of a frame does not match")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [head(body).as_slice(), body].concat()
    }

    #[test]
    fn every_cut_of_a_frame_is_torn_and_never_damage() {
        let bytes = frame(b"some body that is long enough");
        for end in 1..bytes.len() {
            assert_eq!(read(&bytes[..end]), Found::Torn, "{end}");
        }
        assert_eq!(read(&bytes), Found::Frame(b"some body that is long enough"));
        assert_eq!(read(&[]), Found::End);
        assert_eq!(read(&[0; 5000]), Found::Torn);
    }

    #[test]
    fn every_flipped_bit_is_damage_and_never_torn() {
        let bytes = frame(b"some body");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(read(&flipped), Found::Damaged(_)), "bit {bit}");
        }
    }
}
