//! The retained messages: a trie over topic levels that answers which topics a filter matches.
//!
//! Children of a node are kept in a map of their own (not in one table as in the topic index),
//! because a wildcard must walk them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::mount;
use crate::hash::RandomState;
use dunlin_sync::Message;

#[derive(Default)]
struct Node {
    message: Option<Arc<Message>>,
    #[expect(
        clippy::box_collection,
        reason = "eight bytes in every node, and most are leaves"
    )]
    children: Option<Box<HashMap<Box<str>, Node, RandomState>>>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.message.is_none() && self.children.is_none()
    }
}

/// Retained messages by topic.
#[derive(Default)]
pub(crate) struct Retained {
    root: Node,
    len: usize,
    bytes: u64,
    /// Of these, how many and how much each tenant has.
    tenants: HashMap<Box<str>, (usize, u64), RandomState>,
    /// Of these, when those that expire do so.
    expiring: BTreeSet<(u64, Box<str>)>,
}

impl Retained {
    /// Number and bytes of a tenant's retained messages.
    pub(crate) fn of_tenant(&self, name: &str) -> (usize, u64) {
        self.tenants.get(name).copied().unwrap_or_default()
    }

    fn count(&mut self, topic: &str, messages: isize, bytes: i64) {
        if !topic.starts_with('$') {
            return;
        }
        let Some((name, _)) = mount::split(topic) else {
            return;
        };
        if !self.tenants.contains_key(name) {
            self.tenants.insert(name.into(), (0, 0));
        }
        if let Some((len, weight)) = self.tenants.get_mut(name) {
            *len = len.saturating_add_signed(messages);
            *weight = weight.saturating_add_signed(bytes);
            if *len == 0 {
                self.tenants.remove(name);
            }
        }
    }

    /// Number of topics that have a retained message.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What the retained messages weigh in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The retained message of a topic.
    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        let mut node = &self.root;
        for level in topic.split('/') {
            node = node.children.as_ref()?.get(level)?;
        }
        node.message.as_ref()
    }

    /// Sets the message of its topic; gives back the one it replaces. [MQTT-3.3.1-5]
    pub(crate) fn set(&mut self, message: Arc<Message>) -> Option<Arc<Message>> {
        let mut node = &mut self.root;
        for level in message.topic().split('/') {
            let children = node.children.get_or_insert_default();
            if !children.contains_key(level) {
                children.insert(Box::from(level), Node::default());
            }
            node = children.get_mut(level)?;
        }
        let size = message.size() as u64;
        self.bytes += size;
        let old = node.message.replace(message.clone());
        let before = match &old {
            Some(old) => old.size() as u64,
            None => 0,
        };
        self.bytes -= before;
        self.len += usize::from(old.is_none());
        if let Some(at) = old.as_ref().and_then(|old| old.expires_at()) {
            self.expiring.remove(&(at, message.topic().into()));
        }
        if let Some(at) = message.expires_at() {
            self.expiring.insert((at, message.topic().into()));
        }
        let change = size.cast_signed() - before.cast_signed();
        self.count(message.topic(), isize::from(old.is_none()), change);
        old
    }

    /// Removes the message of a topic. [MQTT-3.3.1-6]
    pub(crate) fn remove(&mut self, topic: &str) -> Option<Arc<Message>> {
        let removed = remove_below(&mut self.root, Some(topic))?;
        if let Some(at) = removed.expires_at() {
            self.expiring.remove(&(at, topic.into()));
        }
        self.len -= 1;
        self.bytes -= removed.size() as u64;
        self.count(topic, -1, -(removed.size() as u64).cast_signed());
        Some(removed)
    }

    /// The topics of messages that nobody may get any more at `now_ms`.
    pub(crate) fn expired(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        let all = self.expiring.iter();
        all.take_while(move |(at, _)| *at <= now_ms)
            .map(|(_, topic)| &**topic)
    }

    /// Calls `visit` for each retained message whose topic `filter` matches.
    pub(crate) fn matching<'s>(&'s self, filter: &str, mut visit: impl FnMut(&'s Arc<Message>)) {
        walk(&self.root, Some(filter), true, &mut visit);
    }
}

fn remove_below(node: &mut Node, rest: Option<&str>) -> Option<Arc<Message>> {
    let Some(rest) = rest else {
        return node.message.take();
    };
    let (level, rest) = split_level(rest);
    let children = node.children.as_mut()?;
    let child = children.get_mut(level)?;
    let removed = remove_below(child, rest);
    if child.is_empty() {
        children.remove(level);
        if children.is_empty() {
            node.children = None;
        } else if children.len() * 4 < children.capacity() {
            children.shrink_to(children.len() * 2);
        }
    }
    removed
}

fn walk<'s>(
    node: &'s Node,
    rest: Option<&str>,
    first: bool,
    visit: &mut impl FnMut(&'s Arc<Message>),
) {
    let Some(rest) = rest else {
        if let Some(message) = &node.message {
            visit(message);
        }
        return;
    };
    let (level, rest) = split_level(rest);
    match level {
        "#" => walk_all(node, first, visit),
        "+" => {
            for (name, child) in node.children.iter().flat_map(|children| children.iter()) {
                if !(first && name.starts_with('$')) {
                    walk(child, rest, false, visit);
                }
            }
        }
        _ => {
            if let Some(child) = node
                .children
                .as_ref()
                .and_then(|children| children.get(level))
            {
                walk(child, rest, false, visit);
            }
        }
    }
}

fn walk_all<'s>(node: &'s Node, first: bool, visit: &mut impl FnMut(&'s Arc<Message>)) {
    if let Some(message) = &node.message {
        visit(message);
    }
    for (name, child) in node.children.iter().flat_map(|children| children.iter()) {
        if !(first && name.starts_with('$')) {
            walk_all(child, false, visit);
        }
    }
}

fn split_level(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use dunlin_protocol::{QoS, topic};
    use dunlin_sync::MessageParts;
    use proptest::prelude::*;

    use super::*;

    fn message(topic: &str, payload: &[u8], expires_at: Option<u64>) -> Arc<Message> {
        Arc::new(Message::new(MessageParts {
            topic,
            properties: &[],
            payload,
            qos: QoS::AtMostOnce,
            retain: true,
            expires_at,
            received_at: 0,
            publisher: None,
            id: 0,
        }))
    }

    fn levels() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just(""), Just("a"), Just("b"), Just("$c"), Just("ü")];
        prop::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filters() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just(""), Just("a"), Just("b"), Just("$c"), Just("+")];
        (prop::collection::vec(level, 1..4), any::<bool>())
            .prop_map(|(levels, multi)| levels.join("/") + if multi { "/#" } else { "" })
    }

    proptest! {
        #[test]
        fn filters_find_what_matching_each_topic_finds(
            steps in prop::collection::vec((levels(), any::<bool>(), prop::option::of(0..9_u64)), 0..60),
            filters in prop::collection::vec(prop_oneof![filters(), Just("#".to_owned())], 1..20),
        ) {
            let mut retained = Retained::default();
            let mut model = BTreeMap::new();
            for (topic, add, expires_at) in steps.into_iter().filter(|(topic, ..)| !topic.is_empty()) {
                if add {
                    let message = message(&topic, topic.as_bytes(), expires_at);
                    prop_assert_eq!(retained.set(message.clone()), model.insert(topic, message));
                } else {
                    prop_assert_eq!(retained.remove(&topic), model.remove(&topic));
                }
            }
            prop_assert_eq!(retained.len(), model.len());
            prop_assert_eq!(retained.bytes(), model.values().map(|message| message.size() as u64).sum::<u64>());
            for filter in filters.into_iter().filter(|filter| topic::check_filter(filter).is_ok()) {
                let mut found = BTreeSet::new();
                retained.matching(&filter, |message| assert!(found.insert(message.topic().to_owned())));
                let expected: BTreeSet<String> = model.keys().filter(|topic| topic::matches(&filter, topic)).cloned().collect();
                prop_assert_eq!(found, expected, "filter {}", filter);
            }
            let expired: Vec<_> = retained.expired(4).map(str::to_owned).collect();
            for topic in expired {
                prop_assert_eq!(retained.remove(&topic), model.remove(&topic));
            }
            prop_assert!(model.values().all(|message| message.expires_at().is_none_or(|at| at > 4)));
            for topic in model.keys() {
                prop_assert!(retained.get(topic).is_some());
                retained.remove(topic);
            }
            prop_assert!(retained.root.is_empty() && retained.expiring.is_empty());
            prop_assert_eq!(retained.bytes(), 0);
        }
    }
}
