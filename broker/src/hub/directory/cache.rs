//! What a thread remembers of the receivers of topics.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::routes::{Found, Routes};
use crate::hash::RandomState;

/// Topics whose receivers a thread remembers.
const TOPICS_MAX: usize = 16_384;
/// Of the topics that filled the cache so many must have been asked for again. Otherwise there are more topics than it
/// can hold, and keeping them costs more than it saves.
const HITS_MIN: usize = TOPICS_MAX / 4;
/// Topics that are not kept then, before it is tried again.
const PAUSE: usize = 8 * TOPICS_MAX;
/// Topics longer than this are not remembered, so that the cache's memory is bounded.
const TOPIC_LEN_MAX: usize = 256;
/// Receivers that a thread remembers over all its topics: 80 bytes each.
const RECEIVERS_MAX: usize = 1 << 18;

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache { directory: u64::MAX, ..Cache::default() });
}

#[derive(Default)]
pub(super) struct Cache {
    directory: u64,
    generation: u64,
    by_topic: HashMap<Box<str>, Rc<Routes>, RandomState>,
    /// One list for all topics with the same receivers, by what [`Found::sign`] says of them.
    by_signature: HashMap<Box<[u64]>, Rc<Routes>, RandomState>,
    receivers: usize,
    /// Since the topics were forgotten last.
    hits: usize,
    /// Topics that are still not to be kept.
    pause: usize,
    signature: Vec<u64>,
}

impl Cache {
    /// Hands this thread's cache to `look`; it is empty if anything has changed since the last time.
    pub(super) fn with<R>(directory: u64, generation: u64, look: impl FnOnce(&mut Self) -> R) -> R {
        CACHE.with_borrow_mut(|cache| {
            if cache.directory != directory || cache.generation != generation {
                cache.directory = directory;
                cache.generation = generation;
                cache.clear();
            }
            look(cache)
        })
    }

    pub(super) fn get(&mut self, topic: &str) -> Option<Rc<Routes>> {
        let known = self.by_topic.get(topic).cloned();
        self.hits += usize::from(known.is_some());
        known
    }

    /// What was found for `topic`: the list that other topics with the same receivers have, if there is one.
    pub(super) fn keep(&mut self, topic: &str, mut found: Found<'_>) -> Rc<Routes> {
        found.sort();
        self.signature.clear();
        found.sign(&mut self.signature);
        let routes = match self.by_signature.get(&*self.signature) {
            Some(known) => known.clone(),
            None => {
                let routes = Rc::new(found.into_routes());
                let weight = routes.weight();
                if weight > RECEIVERS_MAX {
                    self.signature = Vec::new();
                    return routes;
                }
                if self.receivers + weight > RECEIVERS_MAX {
                    self.clear();
                }
                self.receivers += weight;
                self.by_signature
                    .insert(Box::from(&*self.signature), routes.clone());
                routes
            }
        };
        if self.pause > 0 {
            self.pause -= 1;
        } else if topic.len() <= TOPIC_LEN_MAX {
            if self.by_topic.len() >= TOPICS_MAX {
                if self.hits < HITS_MIN {
                    self.pause = PAUSE;
                }
                self.hits = 0;
                self.by_topic.clear();
            }
            self.by_topic.insert(Box::from(topic), routes.clone());
        }
        routes
    }

    fn clear(&mut self) {
        self.by_topic.clear();
        self.by_signature.clear();
        self.receivers = 0;
        self.hits = 0;
        self.pause = 0;
    }
}
