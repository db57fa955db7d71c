//! Places for connections: the bounds `max_connections` of the broker and of one listener.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::metrics::gauge::Gauge;

/// A bounded number of places.
#[derive(Debug)]
pub struct Slots {
    taken: AtomicUsize,
    max: AtomicUsize,
    shown: Option<Gauge>,
}

impl Slots {
    /// `max` places.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            shown: None,
        })
    }

    /// `max` places, the taken ones shown by a gauge.
    #[must_use]
    pub fn shown(max: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            shown: Some(gauge),
        })
    }

    /// How many places there are.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Another number of places from now on. Fewer than are taken leaves those taken.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Places taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let max = self.max();
        let more = |taken: usize| (taken < max).then_some(taken + 1);
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok();
        if let Some(gauge) = self.shown.as_ref().filter(|_| taken) {
            gauge.inc();
        }
        taken
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        if let Some(gauge) = &self.shown {
            gauge.dec();
        }
    }
}

/// One place in each of several bounds; given back when dropped.
#[derive(Debug)]
pub struct Slot(Box<[Arc<Slots>]>);

impl Slot {
    /// Takes a place in every one of `bounds`; `None`, with none taken, when one of them is full.
    #[must_use]
    pub fn take(bounds: &[Arc<Slots>]) -> Option<Self> {
        for (index, slots) in bounds.iter().enumerate() {
            if !slots.take() {
                bounds[..index].iter().for_each(|taken| taken.give_back());
                return None;
            }
        }
        Some(Self(bounds.into()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.iter().for_each(|slots| slots.give_back());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bound_leaves_the_others_as_they_were() {
        let bounds = [Slots::new(3), Slots::new(1)];
        let first = Slot::take(&bounds).unwrap();
        assert!(Slot::take(&bounds).is_none(), "the second bound is full");
        assert_eq!([bounds[0].taken(), bounds[1].taken()], [1, 1]);
        let other = Slot::take(&bounds[..1]).unwrap();
        drop(first);
        assert_eq!([bounds[0].taken(), bounds[1].taken()], [1, 0]);
        assert!(Slot::take(&bounds).is_some());
        drop(other);
        assert_eq!(bounds[0].taken(), 0);
    }

    #[test]
    fn the_gauge_follows() {
        let gauge = Gauge::default();
        let bound = [Slots::shown(1, gauge.clone())];
        let slot = Slot::take(&bound).unwrap();
        assert!(Slot::take(&bound).is_none());
        assert_eq!(gauge.get(), 1);
        drop(slot);
        assert_eq!(gauge.get(), 0);
    }
}
