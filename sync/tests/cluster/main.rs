//! Several replicas over one model of Redis, in one thread and in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has to stop"
)]

mod failures;
mod lanes;
mod leases;
mod records;
mod sessions;
mod support;
mod tables;
