//! Subscribers that do not keep up: whatever they cost is not to be felt by others.

use std::time::Duration;

use rustix::event::epoll;

use super::{Engine, Failure, Outcome, Role};

/// Time between two reads of each that is slow.
const PAUSE: Duration = Duration::from_millis(100);
/// What it reads then.
const BYTES: usize = 1024;

/// Those that read little, by number of the client.
#[derive(Debug, Default)]
pub(super) struct Lazy {
    slow: Vec<usize>,
    /// Reads that were made in all, one after the other.
    reads: u64,
    /// Since when.
    since_ns: Option<u64>,
}

impl Engine {
    /// Who they are: first those that read nothing.
    pub(super) fn lazy_roles(&self) -> Vec<Role> {
        let (_, subscribers) = self.workload.ends();
        let (deaf, slow) = (self.workload.deaf, self.workload.slow);
        (0..deaf + slow)
            .map(|number| Role::Lazy {
                subscriber: number % subscribers.max(1),
                reads: number >= deaf,
            })
            .collect()
    }

    /// One has subscribed: from now on nobody looks whether it has something to read.
    pub(super) fn fall_asleep(&mut self, number: usize, reads: bool) -> Outcome<()> {
        if let Some(client) = self.clients.get(number) {
            epoll::delete(&self.epoll, &client.connection)
                .map_err(|error| Failure::Io("epoll", error.into()))?;
        }
        if reads {
            self.lazy.slow.push(number);
        }
        self.on_ready(number);
        Ok(())
    }

    /// The slow ones read a little, evenly over time; that the broker has closed one is its good right.
    pub(super) fn read_slowly(&mut self) {
        let count = self.lazy.slow.len() as u64;
        if count == 0 {
            return;
        }
        let since = *self.lazy.since_ns.get_or_insert(self.now_ns);
        let passed = u128::from(self.now_ns.saturating_sub(since));
        let due = u64::try_from(passed * u128::from(count) / PAUSE.as_nanos()).unwrap_or(u64::MAX);
        // What was missed while this process was away is not caught up with.
        self.lazy.reads = self.lazy.reads.max(due.saturating_sub(count));
        let mut some = [0; BYTES];
        while self.lazy.reads < due {
            let turn = (self.lazy.reads % count) as usize;
            self.lazy.reads += 1;
            let client = self.lazy.slow.get(turn);
            if let Some(client) = client.and_then(|number| self.clients.get_mut(*number)) {
                let _read_or_closed = client.connection.read(&mut some);
            }
        }
    }
}
