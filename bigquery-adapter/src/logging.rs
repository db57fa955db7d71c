//! The log: on standard error, for people on a terminal, as JSON otherwise, or as Cloud Logging reads it.

use dunlin_telemetry::log::{self, Program};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What this program is called in logs and traces.
pub const PROGRAM: Program = Program {
    name: "bigquery-adapter",
    version: env!("CARGO_PKG_VERSION"),
};

/// Starts logging. `RUST_LOG`, where it is set and valid, goes over `filter`. Does nothing when logging has begun already.
pub fn start(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    // A test may have begun before us.
    drop(log::start(filter, format, PROGRAM));
}
