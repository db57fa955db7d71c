//! Which subscriptions match a topic: a trie over topic levels.
//!
//! Nodes lie in one slab; the edges of all nodes lie in one hash table keyed by (parent, level), so
//! that a node without subscriptions costs about a hundred bytes and a step costs one probe. A
//! topic of n levels visits at most 2 children per matched node (the level itself and `+`), and a
//! `#` is read in passing, so the cost of a match grows with the matches and the depth, not with
//! the number of subscriptions.

use std::hash::{BuildHasher, Hash};

use crate::hash::RandomState;
use hashbrown::HashTable;
use indexmap::IndexMap;
use slab::Slab;

const ROOT: usize = 0;

/// Subscriptions by filter. `K` names a subscriber: a filter holds one `V` for each.
#[derive(Debug)]
pub(crate) struct TopicIndex<K, V> {
    nodes: Slab<Node<K, V>>,
    edges: HashTable<usize>,
    hasher: RandomState,
    len: usize,
}

#[derive(Debug)]
struct Node<K, V> {
    parent: usize,
    level: Box<str>,
    plus: Option<usize>,
    /// Children in `edges`, `plus` not counted.
    children: u32,
    /// Subscriptions that end here.
    exact: Entries<K, V>,
    /// Subscriptions that end in `/#` below here; they match here too (4.7.1.2).
    multi: Entries<K, V>,
}

/// Most filters have one subscriber; some have a million.
#[derive(Debug)]
enum Entries<K, V> {
    None,
    One(K, V),
    Many(Box<IndexMap<K, V, RandomState>>),
}

impl<K: Copy + Eq + Hash, V> Entries<K, V> {
    fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::One(old, slot) if *old == key => return Some(std::mem::replace(slot, value)),
            Self::Many(map) => return map.insert(key, value),
            Self::None | Self::One(..) => {}
        }
        *self = match std::mem::replace(self, Self::None) {
            Self::One(old_key, old_value) => {
                let mut map = IndexMap::with_capacity_and_hasher(2, RandomState::default());
                map.insert(old_key, old_value);
                map.insert(key, value);
                Self::Many(Box::new(map))
            }
            _ => Self::One(key, value),
        };
        None
    }

    fn remove(&mut self, key: K) -> Option<V> {
        match self {
            Self::Many(map) => {
                let removed = map.swap_remove(&key);
                if map.is_empty() {
                    *self = Self::None;
                } else if map.len() * 4 < map.capacity() {
                    map.shrink_to(map.len() * 2);
                }
                removed
            }
            Self::One(old, _) if *old == key => match std::mem::replace(self, Self::None) {
                Self::One(_, value) => Some(value),
                _ => None,
            },
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    fn for_each<'s>(&'s self, visit: &mut impl FnMut(&'s K, &'s V)) {
        match self {
            Self::None => {}
            Self::One(key, value) => visit(key, value),
            Self::Many(map) => map.iter().for_each(|(key, value)| visit(key, value)),
        }
    }
}

impl<K, V> Node<K, V> {
    fn new(parent: usize, level: &str) -> Self {
        Self {
            parent,
            level: Box::from(level),
            plus: None,
            children: 0,
            exact: Entries::None,
            multi: Entries::None,
        }
    }
}

impl<K: Copy + Eq + Hash, V> TopicIndex<K, V> {
    pub(crate) fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(usize::MAX, ""));
        Self {
            nodes,
            edges: HashTable::new(),
            hasher: RandomState::default(),
            len: 0,
        }
    }

    /// Number of (filter, subscriber) pairs.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds or replaces; gives back what was replaced.
    pub(crate) fn insert(&mut self, filter: &str, key: K, value: V) -> Option<V> {
        let (path, multi) = split_filter(filter);
        let mut at = ROOT;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            at = self.child_or_new(at, level);
        }
        let node = &mut self.nodes[at];
        let entries = if multi {
            &mut node.multi
        } else {
            &mut node.exact
        };
        let replaced = entries.insert(key, value);
        if replaced.is_none() {
            self.len += 1;
        }
        replaced
    }

    /// Removes, and forgets levels that nobody needs any more.
    pub(crate) fn remove(&mut self, filter: &str, key: K) -> Option<V> {
        let (at, multi) = self.find(filter)?;
        let node = &mut self.nodes[at];
        let removed = if multi {
            node.multi.remove(key)
        } else {
            node.exact.remove(key)
        };
        if removed.is_some() {
            self.len -= 1;
            self.prune(at);
        }
        removed
    }

    /// Calls `visit` for every subscription that matches `topic`. A subscriber with several
    /// matching filters is visited once for each.
    ///
    /// [MQTT-4.7.2-1]: wildcards at the first level do not match topics that begin with `$`.
    pub(crate) fn matches<'s>(&'s self, topic: &str, mut visit: impl FnMut(&'s K, &'s V)) {
        self.visit(ROOT, Some(topic), topic.starts_with('$'), &mut visit);
    }

    fn visit<'s>(
        &'s self,
        at: usize,
        rest: Option<&str>,
        dollar: bool,
        visit: &mut impl FnMut(&'s K, &'s V),
    ) {
        let node = &self.nodes[at];
        if !dollar {
            node.multi.for_each(visit);
        }
        let Some(rest) = rest else {
            node.exact.for_each(visit);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if node.children > 0
            && let Some(child) = self.child(at, level)
        {
            self.visit(child, rest, false, visit);
        }
        if !dollar && let Some(child) = node.plus {
            self.visit(child, rest, false, visit);
        }
    }

    fn find(&self, filter: &str) -> Option<(usize, bool)> {
        let (path, multi) = split_filter(filter);
        let mut at = ROOT;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            at = match level {
                "+" => self.nodes[at].plus?,
                _ => self.child(at, level)?,
            };
        }
        Some((at, multi))
    }

    fn hash(&self, parent: usize, level: &str) -> u64 {
        self.hasher.hash_one((parent, level))
    }

    fn child(&self, parent: usize, level: &str) -> Option<usize> {
        let same = |at: &usize| {
            let node = &self.nodes[*at];
            node.parent == parent && *node.level == *level
        };
        self.edges.find(self.hash(parent, level), same).copied()
    }

    fn child_or_new(&mut self, parent: usize, level: &str) -> usize {
        if level == "+" {
            if let Some(child) = self.nodes[parent].plus {
                return child;
            }
            let child = self.nodes.insert(Node::new(parent, level));
            self.nodes[parent].plus = Some(child);
            return child;
        }
        if let Some(child) = self.child(parent, level) {
            return child;
        }
        let child = self.nodes.insert(Node::new(parent, level));
        self.nodes[parent].children += 1;
        let hash = self.hash(parent, level);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.edges.insert_unique(hash, child, |at| {
            let node = &nodes[*at];
            hasher.hash_one((node.parent, &*node.level))
        });
        child
    }

    fn prune(&mut self, mut at: usize) {
        while at != ROOT {
            let node = &self.nodes[at];
            let needed = node.children > 0
                || node.plus.is_some()
                || !node.exact.is_empty()
                || !node.multi.is_empty();
            if needed {
                return;
            }
            let parent = node.parent;
            if self.nodes[parent].plus == Some(at) {
                self.nodes[parent].plus = None;
            } else {
                let hash = self.hash(parent, &self.nodes[at].level);
                if let Ok(edge) = self.edges.find_entry(hash, |other| *other == at) {
                    edge.remove();
                }
                self.nodes[parent].children -= 1;
            }
            self.nodes.remove(at);
            at = parent;
        }
    }
}

/// The levels before a final `#`, and whether there is one. `#` alone has no levels.
fn split_filter(filter: &str) -> (Option<&str>, bool) {
    if filter == "#" {
        return (None, true);
    }
    match filter.strip_suffix("/#") {
        Some(path) => (Some(path), true),
        None => (Some(filter), false),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dunlin_protocol::topic;
    use proptest::prelude::*;

    use super::*;

    fn matching(index: &TopicIndex<u32, ()>, topic: &str) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        index.matches(topic, |key, ()| {
            assert!(found.insert(*key), "visited twice")
        });
        found
    }

    /// [MQTT-4.7.1-2] v311, [MQTT-4.7.1-3] v311, [MQTT-4.7.1-2] v5, [MQTT-4.7.2-1] v5, [MQTT-4.7.2-1] v311
    #[test]
    fn the_examples_of_the_specification_hold() {
        let mut index = TopicIndex::new();
        for (key, filter) in [
            "sport/tennis/player1/#",
            "sport/#",
            "#",
            "+",
            "+/tennis/#",
            "sport/+",
            "/+",
            "+/+",
            "$SYS/#",
            "$SYS/monitor/+",
        ]
        .into_iter()
        .enumerate()
        {
            index.insert(filter, key as u32, ());
        }
        assert_eq!(
            matching(&index, "sport/tennis/player1"),
            BTreeSet::from([0, 1, 2, 4])
        );
        assert_eq!(matching(&index, "sport"), BTreeSet::from([1, 2, 3]));
        assert_eq!(matching(&index, "sport/"), BTreeSet::from([1, 2, 5, 7]));
        assert_eq!(matching(&index, "/finance"), BTreeSet::from([2, 6, 7]));
        assert_eq!(
            matching(&index, "$SYS/monitor/Clients"),
            BTreeSet::from([8, 9])
        );
        assert_eq!(matching(&index, "$SYS"), BTreeSet::from([8]));
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("a".into()),
            Just("b".into()),
            Just("$x".into()),
            Just("é".into())
        ]
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels =
            prop::collection::vec(prop_oneof![4 => level(), 1 => Just("+".to_owned())], 1..5);
        (levels, any::<bool>()).prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#".into());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_matching_every_filter(
            steps in prop::collection::vec((filter(), 0u32..6, any::<bool>()), 0..60),
            topics in prop::collection::vec(prop::collection::vec(level(), 1..5), 1..20),
        ) {
            let mut index = TopicIndex::new();
            let mut model = std::collections::BTreeMap::new();
            // One key for each (filter, subscriber), so that visits can be told apart.
            let mut keys = std::collections::BTreeMap::new();
            for (filter, who, add) in steps.into_iter().filter(|(filter, ..)| topic::check_filter(filter).is_ok()) {
                let fresh = keys.len() as u32;
                let key = *keys.entry((filter.clone(), who)).or_insert(fresh);
                if add {
                    prop_assert_eq!(index.insert(&filter, key, ()).is_some(), model.insert((filter, key), ()).is_some());
                } else {
                    prop_assert_eq!(index.remove(&filter, key).is_some(), model.remove(&(filter, key)).is_some());
                }
            }
            prop_assert_eq!(index.len(), model.len());
            for topic in topics.into_iter().map(|levels| levels.join("/")).filter(|topic| !topic.is_empty()) {
                let expected: BTreeSet<u32> = model.keys().filter(|(filter, _)| topic::matches(filter, &topic)).map(|(_, key)| *key).collect();
                prop_assert_eq!(matching(&index, &topic), expected);
            }
            for ((filter, key), ()) in &model {
                index.remove(filter, *key);
            }
            prop_assert_eq!(index.nodes.len(), 1);
            prop_assert!(index.edges.is_empty() && index.len() == 0);
        }
    }
}
