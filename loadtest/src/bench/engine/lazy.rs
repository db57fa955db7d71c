//! Subscribers that do not keep up: whatever they cost is not to be felt by others.

use std::time::Duration;

use rustix::event::epoll;

use super::{Engine, Failure, Outcome, Role};

/// Time between two reads of one that is slow.
const PAUSE: Duration = Duration::from_millis(100);
/// What it reads then.
const BYTES: usize = 1024;

/// Those that read little, by number of the client.
#[derive(Debug, Default)]
pub(super) struct Lazy {
    slow: Vec<usize>,
    read_ns: u64,
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

    /// The slow ones read a little, when it is time; that the broker has closed one is its good right.
    pub(super) fn read_slowly(&mut self) {
        let passed = self.now_ns.saturating_sub(self.lazy.read_ns);
        if self.lazy.slow.is_empty() || Duration::from_nanos(passed) < PAUSE {
            return;
        }
        self.lazy.read_ns = self.now_ns;
        let mut some = [0; BYTES];
        for number in &self.lazy.slow {
            if let Some(client) = self.clients.get_mut(*number) {
                let _read_or_closed = client.connection.read(&mut some);
            }
        }
    }
}
