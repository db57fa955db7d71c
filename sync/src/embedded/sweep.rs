//! Removes what deleted sessions have left.
//!
//! A session is gone for everybody with its record; its queue, subscriptions and packet ids may be
//! a hundred thousand keys, which must not hold up the commits of others. They are removed in small
//! portions between commits. A crash in between loses nothing: opening finds keys without a session
//! and goes on. Session numbers are never used again, so leftovers belong to nobody.

use fjall::{PersistMode, Readable};

use super::keys;
use super::tables::read_error;
use super::writer::Writer;
use crate::{SessionId, StoreError};

/// Keys of a deleted session, or bodies without a reference, removed in one go.
const SWEEP_KEYS: usize = 512;

/// Kinds of keys in `state` of which a session has many.
const SWEPT_KINDS: [u8; 3] = [keys::FILTER, keys::LONG_FILTER, keys::INBOUND];

/// A deleted session whose keys are still there.
pub(super) struct Sweep {
    session: SessionId,
    /// Tables that are done: `state` with its kinds of keys, then `queue`.
    stage: usize,
    /// Sequence number to go on from in `queue`, so that removed keys are not walked again.
    from_seq: u64,
}

impl Sweep {
    pub(super) fn new(session: SessionId) -> Self {
        Self {
            session,
            stage: 0,
            from_seq: 0,
        }
    }
}

impl Writer {
    /// Removes some of what deleted sessions have left; whether there is more.
    pub(super) fn sweep(&mut self) -> Result<bool, StoreError> {
        let bodies_left = self.state.orphan_bodies.len().saturating_sub(SWEEP_KEYS);
        for body in self.state.orphan_bodies.split_off(bodies_left) {
            self.batch.remove(&self.tables.bodies, body.to_be_bytes());
        }
        if let Some(mut sweep) = self.sweep.pop_front() {
            let done = self.sweep_session(&mut sweep)?;
            if !done {
                self.sweep.push_front(sweep);
            }
        }
        self.commit_batch(PersistMode::Buffer)?;
        Ok(!self.sweep.is_empty() || !self.state.orphan_bodies.is_empty())
    }

    fn sweep_session(&mut self, sweep: &mut Sweep) -> Result<bool, StoreError> {
        let snapshot = self.tables.db.snapshot();
        let mut left = SWEEP_KEYS;
        while let Some(kind) = SWEPT_KINDS.get(sweep.stage) {
            let prefix = keys::of_session(*kind, sweep.session);
            for guard in snapshot.prefix(&self.tables.state, prefix).take(left) {
                let key = guard.key().map_err(|error| read_error("state", &error))?;
                self.batch.remove(&self.tables.state, key);
                left -= 1;
            }
            if left == 0 {
                return Ok(false);
            }
            sweep.stage += 1;
        }
        let range =
            keys::entry(sweep.session, sweep.from_seq)..=keys::entry(sweep.session, u64::MAX);
        for guard in snapshot.range(&self.tables.queue, range).take(left) {
            let key = guard.key().map_err(|error| read_error("queue", &error))?;
            if let Some((_, seq)) = keys::parse_entry(&key) {
                sweep.from_seq = seq + 1;
            }
            self.batch.remove(&self.tables.queue, key);
            left -= 1;
        }
        Ok(left > 0)
    }
}
