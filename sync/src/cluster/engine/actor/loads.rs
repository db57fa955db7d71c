//! Loading what is stale, and telling others what has been applied here.

use super::super::lanes::ALL;
use super::super::outcome::{Answer, Outcome};
use super::super::tables::Loaded;
use super::Actor;

use crate::cluster::{BackplaneError, Bucket, ReplicaId, Reply, Request};

impl Actor {
    /// Asks for what is stale.
    pub(super) fn load(&mut self) {
        if self.events.is_none() || self.member.is_deaf() {
            return;
        }
        while self.loads < self.options.load_parallel
            && let Some(bucket) = self.tables.next_load()
        {
            self.loads += 1;
            self.ask(Request::LoadBucket { bucket }, move |answer| {
                Outcome::Loaded(bucket, answer)
            });
        }
        let wanting: Vec<ReplicaId> = self
            .peers
            .iter_mut()
            .filter_map(|(id, peer)| peer.routes.wants_load().then_some(id))
            .collect();
        for replica in wanting {
            self.ask(Request::LoadRoutes { replica }, move |answer| {
                Outcome::RoutesLoaded(replica, answer)
            });
        }
    }

    pub(super) fn loaded(&mut self, bucket: Bucket, answer: Answer) {
        self.loads = self.loads.saturating_sub(1);
        let Some(events) = self.events() else { return };
        match answer {
            Ok(Reply::Bucket {
                version,
                retained,
                sessions,
                owners,
            }) => {
                let loaded = Loaded {
                    bucket,
                    version,
                    retained,
                    sessions,
                    owners,
                };
                self.tables.loaded(loaded, &*events);
                let version = self.tables.version(bucket);
                self.commits.bucket_loaded(bucket, version);
                self.shared.counters.loads.add(1);
                if self.member.has_said_hello() {
                    self.ack(ALL, bucket, version);
                }
            }
            Err(BackplaneError::Closed) => {}
            Err(BackplaneError::Lost) => self.tables.not_loaded(bucket),
            other => {
                tracing::error!(bucket = bucket.0, answer = ?other.err(), "a bucket cannot be loaded");
                self.tables.not_loaded(bucket);
                self.member.try_later();
            }
        }
    }

    pub(super) fn routes_loaded(&mut self, replica: ReplicaId, answer: Answer) {
        let Some(events) = self.events() else { return };
        let Some(peer) = self.peers.get_mut(replica) else {
            return;
        };
        match answer {
            Ok(Reply::Routes { version, routes }) => {
                peer.routes.loaded(replica, version, routes, &*events);
                let version = peer.routes.version();
                self.shared.counters.loads.add(1);
                self.acks.entry(replica).or_default().routes = Some(version);
            }
            Err(BackplaneError::Closed) => {}
            _ => peer.routes.not_loaded(),
        }
    }

    /// A replica announced this, and it is applied here.
    pub(in super::super) fn ack(&mut self, to: ReplicaId, bucket: Bucket, version: u64) {
        let acks = self.acks.entry(to).or_default();
        let known = acks.buckets.entry(bucket.0).or_default();
        *known = version.max(*known);
    }

    pub(super) fn send_acks(&mut self) {
        if self.acks.is_empty() {
            return;
        }
        let mut lanes = self.shared.lanes.lock();
        for (to, acks) in std::mem::take(&mut self.acks) {
            lanes.control(to, |pack| {
                if !acks.buckets.is_empty() {
                    let pairs: Vec<_> = acks
                        .buckets
                        .iter()
                        .map(|(bucket, version)| (u64::from(*bucket), *version))
                        .collect();
                    pack.applied(pairs.into_iter());
                }
                if let Some(version) = acks.routes {
                    pack.applied_routes(version);
                }
            });
        }
    }
}
