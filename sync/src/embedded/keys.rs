//! Keys of the tables. Numbers are big-endian, so that the order of bytes is the order of numbers.

use crate::SessionId;

/// Names of the tables, in the order in which they are created: their numbers on disk follow from it.
pub(crate) const TABLES: [&str; 6] = ["state", "queue", "bodies", "retained", "wills", "records"];
/// So many of them every store has had from its beginning; the others are made when it is opened.
pub(crate) const FIRST_TABLES: usize = 5;
/// Number of the `state` table on disk, by the order above.
pub(crate) const STATE_TABLE_ID: u64 = 1;

/// In `state`: number of the last commit, part of every commit.
pub(crate) const COMMIT: &[u8] = b"\0commit";
/// In `state`: session ids from this one on were never stored.
pub(crate) const SESSION_LIMIT: &[u8] = b"\0session";

/// In `state`: revisions of records above this one were never given. There from the first record on.
pub(crate) const REVISION_LIMIT: &[u8] = b"\0revision";

/// In `state`: first byte of a key.
pub(crate) const SESSION: u8 = b's';
pub(crate) const TAIL: u8 = b't';
pub(crate) const INBOUND: u8 = b'i';
pub(crate) const FILTER: u8 = b'f';
/// A subscription whose filter is too long to be part of a key: a hash of it is.
pub(crate) const LONG_FILTER: u8 = b'F';

/// A filter longer than this does not fit a key (65,535 bytes) with what stands before it.
const FILTER_MAX: usize = 65_000;

pub(crate) fn of_session(kind: u8, session: SessionId) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&session.0.to_be_bytes());
    key
}

pub(crate) fn inbound(session: SessionId, packet_id: u16) -> [u8; 11] {
    let mut key = [INBOUND; 11];
    key[1..9].copy_from_slice(&session.0.to_be_bytes());
    key[9..].copy_from_slice(&packet_id.to_be_bytes());
    key
}

pub(crate) fn filter(session: SessionId, filter: &str, out: &mut Vec<u8>) {
    out.clear();
    if filter.len() <= FILTER_MAX {
        out.extend_from_slice(&of_session(FILTER, session));
        out.extend_from_slice(filter.as_bytes());
    } else {
        // Two filters of the same client with the same hash would share a place: only a client that
        // looks for such a pair finds one, and it harms nobody but itself.
        let hash = xxhash_rust::xxh3::xxh3_128(filter.as_bytes());
        out.extend_from_slice(&of_session(LONG_FILTER, session));
        out.extend_from_slice(&hash.to_be_bytes());
    }
}

pub(crate) fn entry(session: SessionId, seq: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&session.0.to_be_bytes());
    key[8..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// Session and sequence number of an entry's key.
pub(crate) fn parse_entry(key: &[u8]) -> Option<(SessionId, u64)> {
    let (session, seq) = key.split_at_checked(8)?;
    Some((SessionId(number(session)?), number(seq)?))
}

/// Session of a key made by [`of_session`], and what follows it.
pub(crate) fn parse_of_session(key: &[u8]) -> Option<(SessionId, &[u8])> {
    let (session, rest) = key.get(1..)?.split_at_checked(8)?;
    Some((SessionId(number(session)?), rest))
}

pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}
