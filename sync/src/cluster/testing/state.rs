//! What the modelled Redis holds, and what a request does to it: a pure function of the two and the time.

use std::sync::Arc;

use bytes::Bytes;

use super::bucket::BucketState;
use super::lanes::Lanes;
use super::register::Register;
use super::taps::Taps;
use crate::SessionId;
use crate::cluster::tap::TapRequest;
use crate::cluster::{BUCKETS, Bucket, ReplicaId, Reply, Request};

/// A frame that a step publishes, and to whom (`None`: on `sync`).
pub(super) type Announcement = (Option<ReplicaId>, Bytes);

/// Everything in Redis. Cheap to clone: the parts are shared until one of the copies changes.
#[derive(Clone)]
pub(super) struct State {
    pub(super) register: Arc<Register>,
    pub(super) buckets: Vec<Arc<BucketState>>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) taps: Arc<Taps>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            register: Arc::default(),
            buckets: Bucket::all()
                .map(|bucket| Arc::new(BucketState::new(bucket)))
                .collect(),
            lanes: Arc::default(),
            taps: Arc::default(),
        }
    }
}

impl State {
    /// Executes a request at `now` (Unix time in milliseconds).
    pub(super) fn apply(
        &mut self,
        now: u64,
        request: &Request,
        out: &mut Vec<Announcement>,
    ) -> Reply {
        match request {
            Request::Join { .. }
            | Request::Renew { .. }
            | Request::Reap { .. }
            | Request::Lead { .. }
            | Request::Registry
            | Request::Numbers { .. } => self.apply_register(now, request),
            Request::PutRoutes { .. }
            | Request::LoadRoutes { .. }
            | Request::DropReplica { .. }
            | Request::Inbox { .. }
            | Request::ReadInbox { .. }
            | Request::TrimInbox { .. } => Arc::make_mut(&mut self.lanes).apply(now, request, out),
            Request::Tap(request) => Arc::make_mut(&mut self.taps).apply(now, request),
            Request::Publish { to, frame } => {
                out.push((*to, frame.clone()));
                Reply::Done
            }
            Request::Versions => {
                Reply::Versions(self.buckets.iter().map(|bucket| bucket.version()).collect())
            }
            _ => self.apply_bucket(now, request, out),
        }
    }

    fn apply_register(&mut self, now: u64, request: &Request) -> Reply {
        let reply = Arc::make_mut(&mut self.register).apply(now, request);
        if let Reply::Joined { replica } = reply {
            Arc::make_mut(&mut self.lanes).open(replica);
        }
        reply
    }

    fn apply_bucket(&mut self, now: u64, request: &Request, out: &mut Vec<Announcement>) -> Reply {
        match bucket_of(request).and_then(|bucket| self.bucket_mut(bucket)) {
            Some(state) => state.apply(now, request, out),
            None => Reply::Done,
        }
    }

    pub(super) fn bucket_mut(&mut self, bucket: Bucket) -> Option<&mut BucketState> {
        self.buckets
            .get_mut(usize::from(bucket.0))
            .map(Arc::make_mut)
    }

    /// Another server holds the data now and may lack the newest of it: numbers drawn from here on are
    /// above all that may have been drawn before.
    pub(super) fn begin_anew(&mut self, now: u64) {
        Arc::make_mut(&mut self.taps).begin_anew(now);
        Arc::make_mut(&mut self.register).begin_anew(now);
        for bucket in Bucket::all() {
            if let Some(state) = self.bucket_mut(bucket) {
                state.begin_anew();
            }
        }
    }
}

/// The bucket whose keys a request touches; `None` for those of the register and of the lanes.
pub(super) fn bucket_of(request: &Request) -> Option<Bucket> {
    match request {
        Request::Claim { client_id, .. }
        | Request::Release { client_id, .. }
        | Request::Orphan { client_id, .. } => Some(Bucket::of(client_id)),
        Request::Owned { bucket, .. }
        | Request::Due { bucket, .. }
        | Request::GetWill { bucket, .. }
        | Request::PutWill { bucket, .. }
        | Request::Wills { bucket }
        | Request::DeleteWill { bucket, .. }
        | Request::PutRecords { bucket, .. }
        | Request::GetRecords { bucket, .. }
        | Request::RecordKeys { bucket, .. }
        | Request::LoadBucket { bucket } => (bucket.0 < BUCKETS).then_some(*bucket),
        Request::Expire { session, .. }
        | Request::PutSession { session, .. }
        | Request::PutRecord { session, .. }
        | Request::DeleteSession { session, .. }
        | Request::Append { session, .. }
        | Request::Settle { session, .. }
        | Request::ReadQueue { session, .. }
        | Request::Restore { session, .. }
        | Request::GetSession { session } => Some(of_session(*session)),
        Request::ExpireRecord { key, .. } => Some(key.bucket()),
        Request::PutRetained { topic, .. }
        | Request::DeleteRetained { topic, .. }
        | Request::ExpireRetained { topic, .. } => Some(Bucket::of(topic)),
        _ => None,
    }
}

fn of_session(session: SessionId) -> Bucket {
    Bucket::of_session(session)
}

/// Whether a request needs memory: Redis refuses it while it is full.
pub(super) fn grows(request: &Request) -> bool {
    if let Request::PutRecords { puts, .. } = request {
        return puts.iter().any(|put| put.value.is_some());
    }
    matches!(
        request,
        Request::Join { .. }
            | Request::Claim { .. }
            | Request::PutWill { .. }
            | Request::PutSession { .. }
            | Request::PutRecord { .. }
            | Request::Append { .. }
            | Request::PutRetained { .. }
            | Request::PutRoutes { .. }
            | Request::Inbox { .. }
            | Request::Tap(TapRequest::Append { .. })
    )
}

/// Whether a request changes anything that a failover could lose.
pub(super) fn writes(request: &Request) -> bool {
    !matches!(
        request,
        Request::Registry
            | Request::Owned { .. }
            | Request::Due { .. }
            | Request::GetRecords { .. }
            | Request::RecordKeys { .. }
            | Request::GetWill { .. }
            | Request::Wills { .. }
            | Request::ReadQueue { .. }
            | Request::GetSession { .. }
            | Request::Versions
            | Request::LoadBucket { .. }
            | Request::LoadRoutes { .. }
            | Request::ReadInbox { .. }
            | Request::Publish { .. }
            | Request::Tap(
                TapRequest::Read { .. } | TapRequest::Look { .. } | TapRequest::WhoKnows { .. }
            )
    )
}
