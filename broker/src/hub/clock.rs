//! The broker's one clock: Unix time that never jumps.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Unix time as it was at start, carried on by the monotonic clock: a correction of the system's
/// clock while the broker runs neither expires messages nor keeps them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_unix_us: u64,
}

impl Clock {
    /// `unix_us`: what time it is, in Unix microseconds; else the system is asked.
    pub(crate) fn start(unix_us: Option<u64>) -> Self {
        let system = || {
            let unix = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            u64::try_from(unix.as_micros()).unwrap_or(u64::MAX)
        };
        Self {
            started: Instant::now(),
            started_unix_us: unix_us.unwrap_or_else(system),
        }
    }

    /// Unix time in microseconds.
    pub(crate) fn now_us(&self) -> u64 {
        self.started_unix_us + u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Unix time in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }

    /// Time since start.
    pub(crate) fn uptime(&self) -> std::time::Duration {
        self.started.elapsed()
    }
}
