//! How often one bootstrap credential, or one address, may ask.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Who is counted at a time; when there are more, counting begins anew for all: that happens to a flood from many addresses,
/// which the bound by credential stops.
const COUNTED_MAX: usize = 10_000;

/// Whether one more is within the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Yes,
    /// It is not, and is the first in this minute that is not.
    NoMore,
    No,
}

/// Counts by minutes.
#[derive(Debug)]
pub(crate) struct Rate {
    per_minute: AtomicU64,
    counts: Mutex<(u64, HashMap<String, u64>)>,
}

impl Rate {
    pub(crate) fn new(per_minute: u64) -> Self {
        Self {
            per_minute: AtomicU64::new(per_minute),
            counts: Mutex::default(),
        }
    }

    /// Whether one more is within the bound; `now` in Unix seconds.
    pub(crate) fn takes(&self, who: &str, now: u64) -> Takes {
        let minute = now / 60;
        let mut counts = self.counts.lock();
        if counts.0 != minute || counts.1.len() >= COUNTED_MAX && !counts.1.contains_key(who) {
            *counts = (minute, HashMap::new());
        }
        let count = counts.1.entry(who.to_owned()).or_default();
        *count += 1;
        let max = self.per_minute.load(Ordering::Relaxed);
        match *count {
            it if it <= max => Takes::Yes,
            it if it == max + 1 => Takes::NoMore,
            _ => Takes::No,
        }
    }
}
