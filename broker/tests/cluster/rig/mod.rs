//! A cluster on one machine, with a way to break each part of it.
//!
//! ```text
//! clients ── Balancer (round robin) ── replica 0 ── Proxy 0 ──┐
//!                                   └─ replica 1 ── Proxy 1 ──┴─ redis-server
//! ```

pub(crate) mod balancer;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod proxy;
pub(crate) mod redis;

pub(crate) use balancer::Balancer;
pub(crate) use cluster::{Cluster, connect_again};
pub(crate) use proxy::Proxy;
pub(crate) use redis::Redis;
