//! The BigQuery sink against a strict server with faults: every message is stored once, whatever happens.

#![allow(clippy::unwrap_used, reason = "a test")]

mod catalog;
mod columns;
mod default_stream;
#[allow(dead_code, reason = "the tests with processes use the rest")]
mod fake;
#[path = "../tap/rest.rs"]
#[allow(dead_code, reason = "the tests with processes use the rest")]
mod rest;
mod runs;
mod silent;
