//! Benchmarks: what a message costs a broker, in CPU time, beside other brokers in the same run.
//!
//! The load generator is one thread over one epoll: it shares a machine with what it measures, so it must
//! cost little. It reads and writes in batches, encodes a publisher's packet once and patches sequence
//! number, time and packet id into copies, and reports its own CPU time beside the broker's.
//!
//! What is measured may be a broker of one process, or a cluster of several: each process has a role, and
//! publishers and subscribers may connect to different ones ([`BrokerSpec`]).
//!
//! What is measured: CPU time of the broker (all its threads and children, from `/proc`), by role, between two
//! moments of a steady state, divided by the messages delivered between them. Lost, repeated and reordered messages
//! are told by sequence numbers in the payload. Latency counts from when a message was due where there is a
//! rate, and from when it was made where the load is saturated (a closed loop: a figure of queueing, not of
//! service).

mod compare;
mod engine;
mod flows;
mod goal;
mod html;
mod identity;
mod idle;
mod machine;
mod measure;
mod plan;
mod processor;
mod publisher;
mod report;
mod run;
mod scenario;
mod spec;
mod stamp;
mod stored;
mod system;

pub use compare::{Comparison, Figure, Line, Ratio};
pub use goal::{Goal, Verdict};
pub use machine::Machine;
pub use measure::{Memory, Outcome, RoleCost};
pub use plan::{CostLimit, Filters, Load, Plan, Shape, Workload};
pub use processor::processors;
pub use report::{Quantiles, Report, Spread, Summary};
pub use run::{Step, run};
pub use scenario::BenchScenario;
pub use spec::{BrokerSpec, End, ProcessSpec};
pub use system::{Launch, Started, Target};
