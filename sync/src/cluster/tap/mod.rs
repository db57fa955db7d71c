//! Taps: durable logs of everything that matches some filters, for a program outside the brokers.
//!
//! Replicas append ([`Op::Tap`](crate::Op::Tap)), [`Consumer`]s read. How nothing is lost or repeated is in
//! `docs/adr/0011-taps.md`.

mod consumer;
mod definition;
mod request;
mod rows;
mod state;

pub use consumer::{CheckpointTooLong, Consumer, ConsumerOptions, Event, Held};
pub use definition::{Definition, DefinitionError, WhenFull, define, known, name_of, undefine};
pub use request::{CHECKPOINT_MAX, TapBound, TapLevel, TapPartition, TapReply, TapRequest};
pub use rows::{Batch, Row};
pub use state::{PartitionState, TapState, look};
