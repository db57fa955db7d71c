//! The load tester: fleets of simulated devices and benchmarks, for any MQTT broker.
//!
//! `loadtest fleet` replays real measurements as telemetry ([`fleet`]); `loadtest expected` computes what a
//! query over them must answer ([`expected`]); `loadtest bench` measures what a broker costs ([`mod@bench`]),
//! and `loadtest relay` what any broker must cost ([`relay`]); `loadtest stay` counts what a rollout does to
//! clients that stay ([`stay`]).

pub mod bench;
pub mod cli;
pub mod data;
pub mod error;
pub mod expected;
pub mod fleet;
pub mod generate;
pub mod latency;
pub mod limits;
pub mod proc;
pub mod relay;
pub mod scenario;
mod socket;
pub mod stay;
