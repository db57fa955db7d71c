//! Who has how many partitions.
//!
//! Every consumer counts for itself, from the list of consumers that Redis gives: the shares differ by one at most, and those with the smaller
//! numbers have the larger ones. While the lists of two consumers differ, their shares may not fit together: then a partition waits, or somebody
//! has one too few, until both have asked again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Consumer, Lease};

/// How many of `partitions` are `consumer`'s. `members` rises.
fn fair(partitions: usize, members: &[u64], consumer: u64) -> usize {
    let count = members.len().max(1);
    let larger = partitions % count;
    let rank = members.iter().position(|member| *member == consumer);
    // Whoever is not in the list has been away for long: it will be told.
    partitions / count + usize::from(rank.unwrap_or(count) < larger)
}

impl Lease {
    /// Another one should have it, and what was given of it is acknowledged, or was waited for long enough.
    pub(super) fn is_due_back(&self, now: Instant, patience: Duration) -> bool {
        self.surplus.is_some_and(|since| {
            self.ahead.is_empty() || now.saturating_duration_since(since) >= patience
        })
    }
}

impl Consumer {
    /// Takes no more, and gives back what is more than a fair share.
    pub(super) fn share(&mut self, now: Instant) {
        let fair = fair(self.partitions.len(), &self.members, self.consumer);
        let asking = self
            .partitions
            .values()
            .filter(|state| state.asking)
            .count();
        let leases = self
            .partitions
            .values_mut()
            .rev()
            .filter(|state| !state.asking)
            .filter_map(|state| state.lease.as_mut());
        let mut leases: Vec<&mut Lease> = leases.collect();
        // The same ones again, as long as there are too many: they are being worked off.
        leases.sort_by_key(|lease| lease.surplus.is_none());
        let more = (asking + leases.len()).saturating_sub(fair);
        let kept = leases.len().saturating_sub(more);
        for (number, lease) in leases.into_iter().enumerate() {
            if number < more {
                lease.surplus.get_or_insert(now);
            } else {
                lease.surplus = None;
            }
        }
        self.take(fair.saturating_sub(asking + kept), now);
    }

    /// Tries to take so many more.
    fn take(&mut self, mut room: usize, now: Instant) {
        // Consumers that come at the same time begin at different places.
        let turn = self.consumer as usize % self.partitions.len().max(1);
        let order: Vec<u16> = self.partitions.keys().copied().collect();
        let (before, after) = order.split_at(turn.min(order.len()));
        for partition in after.iter().chain(before) {
            if let Some(state) = self.partitions.get_mut(partition)
                && room > 0
                && state.lease.is_none()
                && !state.asking
                && state.try_at.is_none_or(|at| now >= at)
            {
                state.asking = true;
                room -= 1;
                self.lease(*partition, 0, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_make_up_the_tap_and_differ_by_one_at_most() {
        let members: Vec<u64> = (1..40).map(|number| number * 7).collect();
        for partitions in 1..70 {
            for count in 1..members.len() {
                let members = &members[..count];
                let shares: Vec<usize> = members
                    .iter()
                    .map(|member| fair(partitions, members, *member))
                    .collect();
                assert_eq!(shares.iter().sum::<usize>(), partitions);
                let (least, most) = (shares.iter().min(), shares.iter().max());
                assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
            }
        }
        assert_eq!(fair(4, &[3, 5, 9], 3), 2);
        assert_eq!(fair(4, &[3, 5, 9], 9), 1);
        assert_eq!(fair(4, &[3, 5, 9], 1), 1, "not told yet");
    }
}
