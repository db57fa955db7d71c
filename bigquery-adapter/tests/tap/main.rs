//! Brokers, Redis, adapters and a BigQuery in the test: whoever is killed and whatever fails, each message is one row.

#![allow(clippy::unwrap_used, reason = "a test")]

mod content;
mod default_stream;
#[path = "../emulator/emulator.rs"]
#[allow(dead_code, reason = "the emulator's own tests use the rest")]
mod emulator;
#[path = "../bigquery/fake.rs"]
#[allow(dead_code, reason = "the in-process tests use the rest")]
mod fake;
mod identity;
mod kills;
mod parquet;
mod rest;
mod starting;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod tenants;
mod topics;
mod walk_through;
mod world;
