//! Lost, repeated and reordered messages, by sequence numbers. Pure.
//!
//! A flow is what one subscriber gets from one publisher. MQTT promises its order, so the next number is
//! known: a higher one leaves a gap, a lower one fills a gap (reordered) or was seen before (repeated).

use std::collections::BTreeSet;

use super::plan::{Shape, Workload};

/// Gaps that are remembered per flow; beyond it a late message counts as repeated.
const MISSING_MAX: usize = 100_000;

#[derive(Debug, Default)]
struct Flow {
    next: u64,
    seen: u64,
    missing: BTreeSet<u64>,
}

/// What all subscribers have seen.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    flows: Vec<Flow>,
    duplicated: u64,
    reordered: u64,
}

impl Flows {
    pub(crate) fn new(count: usize) -> Self {
        let mut flows = Self::default();
        flows.flows.resize_with(count, Flow::default);
        flows
    }

    /// Counts a message; `false` when it had been seen, or the flow does not exist.
    #[inline]
    pub(crate) fn see(&mut self, flow: usize, sequence: u64) -> bool {
        let Some(flow) = self.flows.get_mut(flow) else {
            return false;
        };
        if sequence == flow.next {
            flow.next += 1;
        } else if sequence > flow.next {
            let room = MISSING_MAX.saturating_sub(flow.missing.len());
            flow.missing.extend((flow.next..sequence).take(room));
            flow.next = sequence + 1;
        } else if flow.missing.remove(&sequence) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
            return false;
        }
        flow.seen += 1;
        true
    }

    /// Counts the next message of a flow, whichever it is.
    #[inline]
    pub(crate) fn see_next(&mut self, flow: usize) {
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.next += 1;
            flow.seen += 1;
        }
    }

    /// Messages of a flow that have not arrived, of so many that were sent.
    pub(crate) fn lost(&self, flow: usize, sent: u64) -> u64 {
        self.flows
            .get(flow)
            .map_or(0, |flow| sent.saturating_sub(flow.seen))
    }

    pub(crate) fn duplicated(&self) -> u64 {
        self.duplicated
    }

    pub(crate) fn reordered(&self) -> u64 {
        self.reordered
    }
}

/// What one reader has got of messages that come in any order: a bit for each.
#[derive(Debug, Default)]
pub(crate) struct Once {
    /// By publisher.
    seen: Vec<Vec<bool>>,
    missing: u64,
    repeated: u64,
}

impl Once {
    /// Of retained messages that were stored; of nothing in other workloads.
    pub(crate) fn new(workload: &Workload) -> Self {
        if workload.shape != Shape::RetainRead {
            return Self::default();
        }
        let stored = Workload {
            shape: Shape::RetainStore,
            ..*workload
        };
        let (publishers, _) = stored.ends();
        let quotas = (0..publishers).filter_map(|publisher| stored.quota(publisher));
        let seen: Vec<Vec<bool>> = quotas.map(|quota| vec![false; quota as usize]).collect();
        Self {
            missing: seen.iter().map(|of| of.len() as u64).sum(),
            seen,
            repeated: 0,
        }
    }

    #[inline]
    pub(crate) fn see(&mut self, publisher: usize, sequence: u64) {
        let of = self.seen.get_mut(publisher);
        match of.and_then(|of| of.get_mut(sequence as usize)) {
            Some(seen) if !*seen => {
                *seen = true;
                self.missing -= 1;
            }
            _ => self.repeated += 1,
        }
    }

    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    pub(crate) fn repeated(&self) -> u64 {
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(sequences: &[u64], sent: u64) -> (u64, u64, u64) {
        let mut flows = Flows::new(1);
        for sequence in sequences {
            flows.see(0, *sequence);
        }
        (flows.lost(0, sent), flows.duplicated(), flows.reordered())
    }

    #[test]
    fn order_without_gaps_is_clean() {
        assert_eq!(see(&[0, 1, 2, 3], 4), (0, 0, 0));
    }

    #[test]
    fn a_gap_and_a_missing_end_are_lost() {
        assert_eq!(see(&[0, 3], 6), (4, 0, 0));
    }

    #[test]
    fn a_late_message_is_reordered_and_not_lost() {
        assert_eq!(see(&[0, 2, 1, 3], 4), (0, 0, 1));
    }

    #[test]
    fn a_second_one_is_a_duplicate_also_when_late() {
        assert_eq!(see(&[0, 2, 1, 1, 2], 3), (0, 2, 1));
    }

    #[test]
    fn retained_messages_may_come_in_any_order_but_once() {
        let mut once = Once::new(&Workload::new(Shape::RetainRead, 12, 0));
        for (publisher, sequence) in [(1, 1), (9, 0), (1, 0), (1, 1), (9, 1), (10, 0)] {
            once.see(publisher, sequence);
        }
        assert_eq!((once.missing(), once.repeated()), (9, 3));
    }

    #[test]
    fn a_number_from_nowhere_does_not_use_up_memory() {
        let mut flows = Flows::new(1);
        assert!(flows.see(0, u64::MAX - 1));
        assert_eq!(flows.flows.first().unwrap().missing.len(), MISSING_MAX);
        assert!(!flows.see(9, 0));
    }
}
