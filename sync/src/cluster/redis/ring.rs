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
    kept: VecDeque<Kept>,
    bytes: usize,
    bytes_max: usize,
    age_max: Duration,
}

impl Ring {
    pub(super) fn new(bytes_max: usize, age_max: Duration) -> Self {
        Self {
            kept: VecDeque::new(),
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
        self.kept.push_back(kept);
    }

    /// Forgets what is too old or too much.
    pub(super) fn trim(&mut self, now: Instant) {
        while let Some(first) = self.kept.front() {
            if self.bytes <= self.bytes_max && now.duration_since(first.at) <= self.age_max {
                return;
            }
            self.bytes -= first.size();
            self.kept.pop_front();
        }
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<Kept> {
        self.bytes = 0;
        std::mem::take(&mut self.kept).into()
    }

    /// Puts back what was taken out, in front of what is there.
    pub(super) fn restore(&mut self, kept: Vec<Kept>) {
        let newer = self.take();
        for kept in kept.into_iter().chain(newer) {
            self.put(kept);
        }
    }
}
