//! Changes that all replicas see, and messages for one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::super::own::Map;
use super::{Builder, CHUNK, Draft, Target, What, note};

use crate::Message;
use crate::cluster::frame::{MessageView, Pack};
use crate::cluster::{Bucket, ReplicaId, Request, Route};
use crate::records::RecordBatch;

/// Records that are changed in one request.
const CHUNK_RECORDS: usize = 512;

impl Builder<'_> {
    pub(super) fn relay(
        &mut self,
        batch: u32,
        to: ReplicaId,
        share: Option<Arc<str>>,
        message: Arc<Message>,
    ) {
        let known = self.inboxes.get(&to).copied();
        let at = known.unwrap_or_else(|| {
            self.then.push(Draft {
                what: What::Inbox {
                    pack: Pack::default(),
                },
                target: Target::Inbox {
                    to,
                    shared: Vec::new(),
                    batches: Vec::new(),
                },
            });
            self.inboxes.insert(to, self.then.len() - 1);
            self.then.len() - 1
        });
        if let Some(draft) = self.then.get_mut(at)
            && let What::Inbox { pack } = &mut draft.what
            && let Target::Inbox {
                shared, batches, ..
            } = &mut draft.target
        {
            if pack
                .message(share.as_deref(), &MessageView::of(&message))
                .is_ok()
            {
                note(batches, batch);
                if let Some(share) = share {
                    shared.push((share, message));
                }
            }
            if pack.len() >= self.options.round_bytes {
                self.inboxes.remove(&to);
            }
        }
    }

    pub(super) fn put_retained(&mut self, batch: u32, message: Arc<Message>) {
        let mut body = Vec::with_capacity(message.size());
        if message.encode_into(&mut body).is_err() {
            return;
        }
        let topic: Arc<str> = Arc::from(message.topic());
        let body = Bytes::from(body.into_boxed_slice());
        self.tables.own_retained(&topic, &body, &message);
        let request = Request::PutRetained {
            topic: Arc::clone(&topic),
            body,
            head: self.head(),
        };
        self.retained(batch, topic, request);
    }

    /// The last change of a topic is the one that counts.
    pub(super) fn retained(&mut self, batch: u32, topic: Arc<str>, request: Request) {
        if let Some(draft) = self
            .topics
            .get(&topic)
            .and_then(|at| self.then.get_mut(*at))
            && let Target::Table { batches, .. } = &mut draft.target
        {
            draft.what = What::Ready(Box::new(request));
            note(batches, batch);
            return;
        }
        let bucket = Bucket::of(&topic);
        self.topics.insert(topic, self.then.len());
        let batches = vec![batch];
        self.ready(request, Target::Table { bucket, batches });
    }

    /// Changes of records, by bucket. Of one key there is one change in a request: a repeated request finds what the first has done.
    pub(super) fn records(&mut self, batch: u32, records: &Arc<RecordBatch>) {
        let mut buckets: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (at, put) in records.puts().iter().enumerate() {
            buckets.entry(put.key.bucket().0).or_default().push(at);
        }
        for (bucket, places) in buckets {
            let mut places = places.into_iter().peekable();
            while places.peek().is_some() {
                let mut seen = BTreeSet::new();
                let mut taken = Vec::new();
                while let Some(at) = places.next_if(|at| {
                    let key = records.puts().get(*at).map(|put| &put.key);
                    taken.len() < CHUNK_RECORDS && seen.insert(key)
                }) {
                    taken.push(at);
                }
                self.put_records(batch, records, Bucket(bucket), taken);
            }
        }
    }

    fn put_records(
        &mut self,
        batch: u32,
        records: &Arc<RecordBatch>,
        bucket: Bucket,
        places: Vec<usize>,
    ) {
        let puts = places.iter().filter_map(|at| records.puts().get(*at));
        let request = Request::PutRecords {
            bucket,
            puts: puts.cloned().collect(),
            name: self.own.name_put(self.replica),
            head: self.head(),
        };
        let target = Target::Records {
            bucket,
            records: Arc::clone(records),
            places,
            batches: vec![batch],
        };
        self.ready(request, target);
    }

    pub(super) fn route(&mut self, batch: u32, filter: Arc<str>, route: Route, stamp: u64) {
        let new = self.own.is_new(&filter, stamp, route);
        let at = match self.routes {
            Some(at) => at,
            // What counts has been sent: it is to be waited for.
            None if !new => {
                let version = self.own.routes_version;
                if let Some(staged) = self.batches.get_mut(batch as usize) {
                    staged.needs.routes = version;
                }
                return;
            }
            None => {
                self.own.routes_version += 1;
                self.then.push(Draft {
                    what: What::Routes(Vec::new(), Map::default()),
                    target: Target::Routes {
                        version: self.own.routes_version,
                        batches: Vec::new(),
                    },
                });
                self.then.len() - 1
            }
        };
        self.routes = Some(at);
        if let Some(draft) = self.then.get_mut(at)
            && let What::Routes(changes, places) = &mut draft.what
            && let Target::Routes { batches, .. } = &mut draft.target
        {
            note(batches, batch);
            if new {
                match places.get(&filter).and_then(|at| changes.get_mut(*at)) {
                    Some(change) => change.1 = route,
                    None => {
                        places.insert(Arc::clone(&filter), changes.len());
                        changes.push((filter, route));
                    }
                }
            }
            if changes.len() >= CHUNK {
                self.routes = None;
            }
        }
    }
}
