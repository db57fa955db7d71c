//! Who is let in, by what, and for how long: every method of authentication against every version and kind of listener.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "test code"
)]

mod authority;
mod broker;
mod client;
mod enhanced;
mod live;
mod matrix;
mod plant;
mod provisioning;
mod service;
mod tenants;
mod tokens;
mod walk_through;
mod world;
