//! What is around the broker's core: configuration, listeners, authentication, operations, and the
//! process as a whole.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "test code"
)]

mod abuse;
mod access;
mod audit;
mod catalogue;
mod certificates;
mod configuration;
mod flood;
mod import;
mod listeners;
mod misdirected;
mod ops;
mod passwords;
mod process;
mod proxy;
mod reload;
mod rig;
mod websocket;
