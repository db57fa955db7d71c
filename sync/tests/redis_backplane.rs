//! The backplane over real servers.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "redis_backplane/cluster.rs"]
mod cluster;
#[path = "redis_backplane/failover.rs"]
mod failover;
#[path = "redis_backplane/figures.rs"]
mod figures;
#[path = "redis_backplane/outage.rs"]
mod outage;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "redis_backplane/requests.rs"]
mod requests;
#[path = "support/redis.rs"]
mod support;
#[path = "redis_backplane/tls.rs"]
mod tls;
#[path = "redis_backplane/traffic.rs"]
mod traffic;
