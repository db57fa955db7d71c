//! A model of Redis in memory, for tests and simulations: same requests, same answers, no process, no
//! socket and no clock but Tokio's, so that a whole cluster runs in one thread in virtual time.
//!
//! [`ModelRedis`] is the server, with faults as named knobs; [`ModelBackplane`] is the way of one replica
//! to it. Everything random comes from seeds, and nothing depends on the order of a hash map: the same
//! seed gives the same run.
//!
//! What it does not model: a Redis Cluster of several masters (it is one), memory (full is a knob) and
//! the bytes of the protocol. `tests/backplane_differential.rs` holds it against the real Redis.

mod backplane;
mod bucket;
mod claims;
mod delivery;
mod lanes;
mod link;
mod queue;
mod records;
mod register;
mod replay;
mod rng;
mod server;
mod state;
mod tables;
mod taps;
#[cfg(test)]
mod tests;

pub use backplane::ModelBackplane;
pub use server::{Census, ModelRedis};
