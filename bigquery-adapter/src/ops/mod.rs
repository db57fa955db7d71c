//! Health and metrics for operators, over HTTP on a port of their own.

pub mod http;
pub mod metrics;
