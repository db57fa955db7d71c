//! What is around the broker's core: configuration, listeners, authentication, operations, and the
//! process as a whole.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "test code")]

mod certificates;
mod listeners;
mod misdirected;
mod proxy;
mod rig;
mod websocket;
