//! Taps over a real Redis, and the model of them against it.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "taps/consuming.rs"]
mod consuming;
#[path = "taps/differential.rs"]
mod differential;
#[path = "taps/failover.rs"]
mod failover;
#[path = "support/proxy.rs"]
#[allow(dead_code)]
mod proxy;
#[path = "taps/rig.rs"]
mod rig;
#[path = "support/redis.rs"]
#[allow(dead_code)]
mod support;
