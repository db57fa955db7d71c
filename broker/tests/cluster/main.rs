//! Tests of a cluster: real replicas over a real Redis, each promise of the cluster broken on purpose.
//!
//! A name with `chaos` in it is a run of random faults: `CHAOS_SEED` (printed) repeats its choices, `CHAOS_KILLS` says
//! how many faults there are; `make chaos` makes more of them.

#[allow(
    dead_code,
    unused_imports,
    reason = "what the end-to-end tests use is not all used here"
)]
#[path = "../e2e/support/mod.rs"]
mod support;

mod access;
mod barrier;
mod delivery;
mod exactly_once;
mod expiry;
mod failover;
mod fencing;
mod outage;
mod provisioning;
mod registry;
mod retained;
mod rig;
mod shards;
mod sharing;
mod takeover;
mod tap;
mod tenants;
mod will;
