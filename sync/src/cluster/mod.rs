//! The state that all replicas of a cluster share, in Redis.
//!
//! Three layers, each with one job:
//!
//! - [`Backplane`]: executes [`Request`]s, each of which is one atomic step within one hash slot, and
//!   brings frames of the lanes. [`redis`] is the real one; `testing::ModelBackplane` is a model of Redis in
//!   memory with the same answers, for simulations.
//! - [`engine`]: what a replica does with it: batches, order, replicated tables, leases, barriers.
//!   [`ClusterStore`] is a [`Store`](crate::Store), and a [`Cluster`] besides.
//! - The broker, which implements [`ClusterEvents`].
//!
//! The keys are documented in `docs/redis.md`, the frames in `docs/frames.md`.

mod backplane;
pub mod engine;
mod events;
pub mod frame;
pub mod redis;
mod request;
pub mod tap;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod types;

pub use backplane::{Backplane, BackplaneError, BackplaneEvent, BackplaneStatus, Replies};
pub use engine::{ClusterStore, EngineOptions};
pub use events::{
    ClaimError, ClaimRequest, Claimed, Cluster, ClusterEvents, Held, Relayed, ReleaseRequest,
    TakenWill,
};
pub use request::{
    AppendFate, Appending, DueItem, Head, OwnerEntry, RegistryEntry, ReleaseEnd, Reply, Request,
    SessionFields, WillFate,
};
pub use types::{
    BUCKETS, Bucket, DELIVERED, Epoch, RELEASED_ENTRY, ReplicaId, Route, SENT_MARK, SessionEntry,
};
