//! The load tester: fleets of simulated devices and benchmarks, for any MQTT broker.

pub mod data;
pub mod error;
pub mod expected;
pub mod generate;
pub mod latency;
pub mod proc;
pub mod scenario;
