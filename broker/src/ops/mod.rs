//! What an operator looks at: metrics, health, `$SYS`, and the HTTP endpoint that shows them.

pub mod health;
pub mod http;
pub mod metrics;
pub mod pulse;
pub mod sys;

pub use health::Health;
pub use metrics::Metrics;
