//! How much the log says of what clients do wrong: a flood of wrong packets must not become one of lines.
//!
//! The metrics have all of them, and the audit log has those who were refused, where that is wanted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Lines a second.
const LINES: u64 = 100;
/// The second is above this bit, the lines of it are below.
const SECOND_AT: u32 = 32;

/// See the module.
#[derive(Debug)]
pub struct Talk {
    now: AtomicU64,
    began: Instant,
}

impl Talk {
    pub(super) fn new() -> Self {
        Self {
            now: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// Whether one more line may be written. At the end of a second in which some might not, says how many.
    pub fn may(&self) -> bool {
        let (may, kept_quiet) = self.take(self.began.elapsed().as_secs());
        if let Some(lines) = kept_quiet {
            tracing::info!(
                lines,
                "so many more clients were refused or broke the protocol, within one second"
            );
        }
        may
    }

    fn take(&self, second: u64) -> (bool, Option<u64>) {
        let next = |now: u64| match now >> SECOND_AT == second {
            true => now + 1,
            false => second << SECOND_AT | 1,
        };
        let more = |now| Some(next(now));
        let before = self
            .now
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .unwrap_or_default();
        let lines = before & ((1 << SECOND_AT) - 1);
        if before >> SECOND_AT == second {
            return (lines < LINES, None);
        }
        (true, lines.checked_sub(LINES).filter(|lines| *lines > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines_and_the_next_says_how_many_more_there_were() {
        let talk = Talk::new();
        let said = (0..250).filter(|_| talk.take(5).0).count();
        assert_eq!(said, 100);
        assert_eq!(talk.take(9), (true, Some(150)));
        assert_eq!(talk.take(9), (true, None));
        assert_eq!(talk.take(10), (true, None));
    }
}
