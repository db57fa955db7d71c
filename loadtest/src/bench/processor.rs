//! Which processors processes run on.

use std::process::{Child, Command};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Starts a process on one processor: a child inherits the set of the thread that starts it.
pub(super) fn spawn_on(command: &mut Command, processor: Option<usize>) -> std::io::Result<Child> {
    let Some(processor) = processor else {
        return command.spawn();
    };
    let own = sched_getaffinity(None)?;
    pin_this_thread(processor)?;
    let child = command.spawn();
    sched_setaffinity(None, &own)?;
    child
}

/// Leaves one processor to the calling thread.
pub(crate) fn pin_this_thread(processor: usize) -> std::io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    Ok(sched_setaffinity(None, &only)?)
}

/// The processors that this process may use.
#[must_use]
pub fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU)
        .filter(|processor| allowed.is_set(*processor))
        .collect()
}
