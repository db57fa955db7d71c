//! What was read of queues lately: it may be with clients already, though nobody knows yet whether the
//! append that made it is done.
//!
//! An append is answered to its origin, but an entry is there for its reader before that. Should Redis fail over in
//! between and lose it, the origin sends its append again and the message gets another number: its receiver
//! would get it twice, and at QoS 2 under another packet id. So the reader writes back what it has read.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::SessionId;
use crate::cluster::Request;

/// Answers take less, or their connection is lost.
const AGE_MAX: Duration = Duration::from_secs(3);
/// Bytes that are kept, roughly.
const BYTES_MAX: usize = 4 << 20;
/// Entries in one request.
const AT_ONCE: usize = 256;

struct Entry {
    at: Instant,
    session: SessionId,
    seq: u64,
    body: Bytes,
}

impl Entry {
    fn size(&self) -> usize {
        self.body.len() + size_of::<Self>()
    }
}

/// Entries that were read lately, oldest first.
#[derive(Default)]
pub(super) struct Reads {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Reads {
    pub(super) fn note(&mut self, now: Instant, session: SessionId, page: &[(u64, Bytes)]) {
        for (seq, body) in page {
            let entry = Entry {
                at: now,
                session,
                seq: *seq,
                body: body.clone(),
            };
            self.bytes += entry.size();
            self.entries.push_back(entry);
        }
        while let Some(first) = self.entries.front()
            && (self.bytes > BYTES_MAX || now >= first.at + AGE_MAX)
        {
            self.bytes -= first.size();
            self.entries.pop_front();
        }
    }

    /// Everything, to be written back.
    pub(super) fn take(&mut self) -> Vec<Request> {
        self.bytes = 0;
        let mut by_session: BTreeMap<u64, Vec<(u64, Bytes)>> = BTreeMap::new();
        for entry in std::mem::take(&mut self.entries) {
            let entries = by_session.entry(entry.session.0).or_default();
            entries.push((entry.seq, entry.body));
        }
        let mut requests = Vec::new();
        for (session, mut entries) in by_session {
            // Of an entry that was read again after its release the first reading counts.
            entries.sort_by_key(|(seq, _)| *seq);
            entries.dedup_by_key(|(seq, _)| *seq);
            for part in entries.chunks(AT_ONCE) {
                requests.push(Request::Restore {
                    session: SessionId(session),
                    entries: part.to_vec(),
                });
            }
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seqs: std::ops::Range<u64>) -> Vec<(u64, Bytes)> {
        seqs.map(|seq| (seq, Bytes::from(vec![0; 1000]))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_lately_is_written_back_once_and_by_session() {
        let mut reads = Reads::default();
        let begin = Instant::now();
        reads.note(begin, SessionId(7), &page(0..10));
        let later = begin + AGE_MAX;
        reads.note(later, SessionId(9), &page(5..6));
        reads.note(later, SessionId(8), &page(0..300));
        reads.note(later, SessionId(8), &page(299..301));
        let taken = reads.take();
        let lens: Vec<_> = taken
            .iter()
            .map(|request| match request {
                Request::Restore { session, entries } => (session.0, entries.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lens, [(8, 256), (8, 45), (9, 1)]);
        assert!(reads.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_kept_than_the_bound_says() {
        let mut reads = Reads::default();
        for n in 0..20 {
            reads.note(
                Instant::now(),
                SessionId(1),
                &page(n * 1000..(n + 1) * 1000),
            );
            assert!(reads.bytes <= BYTES_MAX);
        }
        let left: usize = reads.entries.iter().map(Entry::size).sum();
        assert_eq!(reads.bytes, left);
    }
}
