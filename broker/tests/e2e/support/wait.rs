//! Waiting for a condition, with a limit: no test sleeps a fixed time and hopes.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for something that must happen. Generous: the limit only bounds a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
/// After [`LIMIT`], with `what`.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
