//! A table of fixed size: when it is full, what was not touched for long makes room.

use std::hash::Hash;

use indexmap::IndexMap;

use crate::hash::RandomState;

/// Entries looked at to find the one that makes room: the one of them that was touched longest ago. Close enough to the
/// oldest of all, at a fixed price.
const LOOKED_AT: usize = 8;

/// See [the module](self).
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    entries: IndexMap<K, Entry<V>, RandomState>,
    max: usize,
    /// Where is looked next.
    hand: usize,
}

#[derive(Debug)]
struct Entry<V> {
    touched: u64,
    value: V,
}

impl<K: Hash + Eq, V: Default> Bounded<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: IndexMap::default(),
            max,
            hand: 0,
        }
    }

    /// What is known, without touching it.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The entry of `key`, made if there is none; `now` rises.
    pub(super) fn touch(&mut self, key: K, now: u64) -> &mut V {
        if self.entries.len() >= self.max && !self.entries.contains_key(&key) {
            self.make_room();
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            touched: now,
            value: V::default(),
        });
        entry.touched = now;
        &mut entry.value
    }

    fn make_room(&mut self) {
        let len = self.entries.len();
        let looked_at = (0..LOOKED_AT).map(|step| (self.hand + step) % len.max(1));
        let oldest = looked_at
            .filter_map(|index| Some((self.entries.get_index(index)?.1.touched, index)))
            .min();
        if let Some((_, index)) = oldest {
            self.entries.swap_remove_index(index);
        }
        self.hand = (self.hand + LOOKED_AT) % len.max(1);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_grows_and_keeps_what_is_touched_often() {
        let mut table = Bounded::<u64, u64>::new(1_000);
        for now in 0..100_000 {
            *table.touch(now + 1_000_000, now) = now;
            *table.touch(7, now) += 1;
            assert!(table.len() <= 1_000);
        }
        assert_eq!(table.get(&7), Some(&100_000));
        let young = (99_000..100_000).filter(|now| table.get(&(now + 1_000_000)).is_some());
        assert!(young.count() > 500, "most of what is there is young");
    }
}
