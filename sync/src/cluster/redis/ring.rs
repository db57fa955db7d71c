//! What was acknowledged lately, to be written again when a failover has lost it.
//!
//! Replication is asynchronous: a promoted replica may lack the last writes of the old master. Each
//! backplane keeps what it has had acknowledged, bounded in bytes and age, with what a repetition has
//! to know of the first answer (its memo). When another server is at the other end, everything kept is
//! sent again before anything new; the scripts find out what was lost and leave alone what was not.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::encode::Command;

/// Writes in a block of memory.
const BLOCK: usize = 256;

/// An acknowledged write.
pub(super) struct Kept {
    pub(super) command: Command,
    pub(super) memo: Bytes,
    at: Instant,
}

impl Kept {
    fn size(&self) -> usize {
        // The struct itself, roughly, beside what it points to.
        self.command.bytes.capacity() + self.memo.len() + 160
    }
}

/// Acknowledged writes, oldest first.
pub(super) struct Ring {
    /// In blocks, so that growing copies nothing.
    blocks: VecDeque<VecDeque<Kept>>,
    bytes: usize,
    bytes_max: usize,
    age_max: Duration,
}

impl Ring {
    pub(super) fn new(bytes_max: usize, age_max: Duration) -> Self {
        Self {
            blocks: VecDeque::new(),
            bytes: 0,
            bytes_max,
            age_max,
        }
    }

    /// Keeps a write that was acknowledged at `now`.
    pub(super) fn push(&mut self, now: Instant, command: Command, memo: Bytes) {
        if self.bytes_max == 0 {
            return;
        }
        self.put(Kept {
            command,
            memo,
            at: now,
        });
        self.trim(now);
    }

    fn put(&mut self, kept: Kept) {
        self.bytes += kept.size();
        if let Some(block) = self.blocks.back_mut()
            && block.len() < BLOCK
        {
            block.push_back(kept);
            return;
        }
        let mut block = VecDeque::with_capacity(BLOCK);
        block.push_back(kept);
        self.blocks.push_back(block);
    }

    /// Forgets what is too old or too much.
    pub(super) fn trim(&mut self, now: Instant) {
        while let Some(block) = self.blocks.front_mut() {
            let Some(first) = block.front() else {
                self.blocks.pop_front();
                continue;
            };
            if self.bytes <= self.bytes_max && now.duration_since(first.at) <= self.age_max {
                return;
            }
            self.bytes -= first.size();
            block.pop_front();
        }
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<Kept> {
        self.bytes = 0;
        std::mem::take(&mut self.blocks)
            .into_iter()
            .flatten()
            .collect()
    }

    /// Puts back what was taken out, in front of what is there.
    pub(super) fn restore(&mut self, kept: Vec<Kept>) {
        let newer = self.take();
        for kept in kept.into_iter().chain(newer) {
            self.put(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::Encoder;
    use super::super::names::Names;
    use super::*;
    use crate::cluster::Request;

    fn command(count: u64) -> Command {
        let names = Names::new("dunlin", false);
        Encoder(&names)
            .encode(&Request::Numbers { count })
            .remove(0)
    }

    fn memos(ring: &mut Ring) -> Vec<Bytes> {
        let kept = ring.take();
        let memos = kept.iter().map(|kept| kept.memo.clone()).collect();
        ring.restore(kept);
        memos
    }

    #[test]
    fn the_oldest_go_first_by_bytes_and_by_age() {
        let begin = Instant::now();
        let size = Kept {
            command: command(1),
            memo: Bytes::from_static(b"0"),
            at: begin,
        }
        .size();
        let mut ring = Ring::new(size * 600, Duration::from_secs(30));
        for n in 0..1000u64 {
            let second = Duration::from_secs(n / 100);
            ring.push(begin + second, command(1), Bytes::from(n.to_string()));
        }
        let left = memos(&mut ring);
        assert!((500..=600).contains(&left.len()), "{}", left.len());
        assert_eq!(left.last().map(|memo| &memo[..]), Some(&b"999"[..]));
        ring.trim(begin + Duration::from_secs(38));
        let left = memos(&mut ring);
        assert_eq!((left.len(), &left[0][..]), (200, &b"800"[..]));
        ring.trim(begin + Duration::from_secs(60));
        assert_eq!(memos(&mut ring).len(), 0);
        assert_eq!(ring.bytes, 0);
    }

    #[test]
    fn what_is_restored_is_older_than_what_is_there() {
        let mut ring = Ring::new(1 << 20, Duration::from_secs(30));
        let now = Instant::now();
        ring.push(now, command(1), Bytes::from_static(b"1"));
        let older = ring.take();
        ring.push(now, command(1), Bytes::from_static(b"2"));
        ring.restore(older);
        assert_eq!(memos(&mut ring), ["1", "2"]);
    }

    #[test]
    fn a_ring_without_bytes_keeps_nothing() {
        let mut ring = Ring::new(0, Duration::from_secs(30));
        ring.push(Instant::now(), command(1), Bytes::new());
        assert!(ring.take().is_empty());
    }
}
