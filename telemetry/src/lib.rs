//! What the broker and the adapter tell an operator, in one way.
//!
//! - [`log`]: for people, as JSON, or as Cloud Logging reads it; its level can change while it runs.
//! - [`process`]: figures of the process, under the names that Prometheus' own clients have.
//! - [`trace`]: OpenTelemetry traces of messages, by switch.
//! - [`catalogue`]: the table of metrics in `docs/metrics.md`, made from what is scraped.

pub mod catalogue;
pub mod log;
pub mod process;
pub mod trace;
