//! Brokers, adapters and the connections between everything die under load: what is acknowledged is in BigQuery, exactly once.
//!
//! `CHAOS_SEED` (printed) repeats the choices of a run, `CHAOS_KILLS` says how many kills there are; `make chaos` makes more of them.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../support/mod.rs"]
mod adapter;
#[path = "../emulator/emulator.rs"]
#[allow(dead_code, reason = "the emulator's own tests use the rest")]
mod emulator;
#[path = "../bigquery/fake.rs"]
#[allow(dead_code, reason = "the in-process tests use the rest")]
mod fake;
mod kills;
mod oracle;
#[path = "../tap/rest.rs"]
#[allow(dead_code, reason = "the tap's tests use the rest")]
mod rest;
#[path = "../../../broker/tests/cluster/rig/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the cluster's tests use the rest")]
mod rig;
#[path = "../../../broker/tests/e2e/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the broker's tests use the rest")]
mod support;
mod warehouse;
