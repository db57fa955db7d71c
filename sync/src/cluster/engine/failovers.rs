//! Failovers of Redis, as the replicas count them together.
//!
//! After a failover each replica writes again what the new server may lack. Until all have done so, what
//! a claim reads of a session may be too little. So a replica that has done it greets the others, and they
//! answer when they have done it too. For that they need a number that all have: each counts the
//! failovers it has seen, beginning with what the others say when it joins.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Failovers {
    /// What the others had counted when this replica joined, less its own.
    base: u64,
    /// Own ones that were made good here.
    handled: u64,
    /// Not all are known to have made the last one good.
    open: bool,
    /// It has been ready before.
    settled: bool,
    /// Highest number that was heard.
    heard: u64,
    /// Since when somebody is ahead.
    behind_since: Option<Instant>,
}

impl Failovers {
    /// After how many failovers everything is written again here.
    pub(super) fn number(&self) -> u64 {
        self.base + self.handled
    }

    /// The backplane has seen so many, and has written again what it had.
    pub(super) fn handled(&mut self, seen: u64) {
        self.handled = seen.max(self.handled);
        self.open = true;
        self.behind_since = None;
    }

    /// Of the backplane's, so many were handled.
    pub(super) fn seen(&self) -> u64 {
        self.handled
    }

    /// Those that were seen before anything was read are none.
    pub(super) fn begin(&mut self, seen: u64) {
        self.handled = seen;
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the backplane has seen one of which nothing was heard here.
    pub(super) fn is_new(&self, seen: u64) -> bool {
        seen > self.handled
    }

    /// The number of a replica that answers.
    pub(super) fn hear(&mut self, number: u64) {
        self.heard = number.max(self.heard);
    }

    /// Whether this replica is as far as one that greets it. One that stays behind for `patience` has
    /// counted otherwise, and takes over the other's number.
    pub(super) fn covers(&mut self, number: u64, now: Instant, patience: Duration) -> bool {
        if number <= self.number() {
            self.behind_since = None;
            return true;
        }
        let since = *self.behind_since.get_or_insert(now);
        if self.settled && now < since + patience {
            return false;
        }
        if self.settled {
            self.base = number - self.handled;
            self.behind_since = None;
        }
        true
    }

    /// All live replicas have answered. Whether a failover is over with that.
    pub(super) fn settle(&mut self) -> bool {
        if !self.settled {
            self.settled = true;
            self.base = self.heard.saturating_sub(self.handled).max(self.base);
        }
        std::mem::take(&mut self.open)
    }

    /// Joined anew: nothing is to be written again.
    pub(super) fn forget(&mut self) {
        self.settled = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(6);

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_joins_counts_as_the_others_do() {
        let mut failovers = Failovers::default();
        failovers.hear(3);
        assert!(!failovers.settle());
        assert_eq!(failovers.number(), 3);
        failovers.handled(1);
        assert_eq!(failovers.number(), 4);
        assert!(failovers.settle());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_behind_answers_when_it_has_caught_up_or_after_its_patience() {
        let mut failovers = Failovers::default();
        failovers.settle();
        let start = Instant::now();
        assert!(failovers.covers(0, start, LEASE));
        assert!(!failovers.covers(1, start, LEASE));
        failovers.handled(1);
        assert!(failovers.covers(1, start, LEASE));
        assert!(!failovers.covers(2, start, LEASE));
        assert!(!failovers.covers(2, start + LEASE / 2, LEASE));
        assert!(failovers.covers(2, start + LEASE, LEASE));
        assert_eq!(failovers.number(), 2);
    }
}
