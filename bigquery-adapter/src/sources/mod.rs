//! Sources: where messages come from.

pub mod mqtt;
pub mod tap;
