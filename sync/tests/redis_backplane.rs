//! The backplane over real servers.

#[path = "redis_backplane/requests.rs"]
mod requests;
#[path = "support/redis.rs"]
mod support;
