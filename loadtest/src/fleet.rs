//! A fleet: many devices that publish what they measure, on time, and count what became of it.
//!
//! Policy. The load is an *open loop*: when a message is due depends on the schedule alone, and latency is
//! counted from that moment to its acknowledgement, also when the broker was slow or away in between.
//! Nothing is dropped to keep up. Each device keeps a bounded number of messages in flight and an MQTT
//! session that outlives connections; after a break it connects again with backoff and sends the
//! unacknowledged again, in order, with DUP. A message counts as acknowledged once: at PUBACK, or at
//! PUBCOMP. Only `--as-fast-as-possible` is a closed loop; its latency is counted from when the message was
//! taken up, and the report says so.
//!
//! One thread runs all devices: a device costs a task and its buffers, and the broker has the other cores.

pub(crate) mod client;
mod deal;
mod device;
pub(crate) mod flight;
mod progress;
mod report;
mod run;
mod schedule;
mod tally;

pub use client::{Login, TlsFiles};
pub use report::{Report, StationReport};
pub use run::{Options, run};
pub use schedule::Speed;
pub use tally::Counts;
