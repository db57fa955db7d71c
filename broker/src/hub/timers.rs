//! What is to happen to sessions without a connection: expiry, delayed wills.
//!
//! One ordered map, swept every [`TICK`]: these times are in whole seconds, so a tenth is exact
//! enough, and a sweep with nothing due costs one look at the first entry. Each session has at most
//! two timers and takes them out when its client returns, so the map is bounded by the sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::session::Session;

/// How often due timers are looked for.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// When (Unix milliseconds) and which.
pub(crate) type TimerKey = (u64, u64);

/// What is due.
#[derive(Clone, Debug)]
pub(crate) enum Timer {
    /// When a session without a connection has outlived its expiry interval.
    SessionExpiry(Arc<Session>),
    /// When the will delay of a lost connection has passed.
    Will(Arc<Session>),
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    entries: Mutex<BTreeMap<TimerKey, Timer>>,
    next: AtomicU64,
}

impl Timers {
    /// Arms a timer; the key disarms it.
    pub(crate) fn arm(&self, due_ms: u64, timer: Timer) -> TimerKey {
        let key = (due_ms, self.next.fetch_add(1, Ordering::Relaxed));
        self.entries.lock().insert(key, timer);
        key
    }

    /// Disarms; nothing happens if it has fired.
    pub(crate) fn disarm(&self, key: Option<TimerKey>) {
        if let Some(key) = key {
            self.entries.lock().remove(&key);
        }
    }

    /// Takes out what is due by `now_ms`.
    pub(crate) fn due(&self, now_ms: u64) -> Vec<Timer> {
        let mut entries = self.entries.lock();
        let later = entries.split_off(&(now_ms + 1, 0));
        std::mem::replace(&mut *entries, later)
            .into_values()
            .collect()
    }
}
