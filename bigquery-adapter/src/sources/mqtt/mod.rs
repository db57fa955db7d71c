//! x
pub mod session;
