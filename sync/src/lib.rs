//! Durable state of a broker: retained messages, persistent sessions with their subscriptions and
//! queues, QoS 2 receiver state and wills, behind one trait, [`Store`].
//!
//! Callers hand in [`Batch`]es of [`Op`]s and are told when they are durable ([`Committed`]). Many
//! submitters share one writer thread that commits whatever has gathered since its last commit as
//! one round (group commit), so that the price of a disk flush is divided by the number of
//! submitters and a single one never waits for company.
//!
//! Two stores exist: [`EmbeddedStore`] on a directory of the local disk, and [`MemoryStore`], which
//! keeps nothing across a restart. Both run the conformance suite in the module
//! `testing` (feature `testing`).
//!
//! Deliberately absent: MQTT packet ids (the broker derives them from queue sequence numbers),
//! clocks (every time is passed in by the caller, in unix time) and any knowledge of topics beyond
//! their bytes.

pub mod cluster;
mod codec;
mod embedded;
mod error;
mod memory;
mod message;
mod op;
mod pipeline;
pub mod publisher;
mod record;
pub mod records;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use error::StoreError;
pub use memory::MemoryStore;
pub use message::{Message, MessageError, MessageParts};
pub use op::{Batch, Committed, Op};
pub use record::{
    Appended, Delivery, QueueEntry, QueueState, Recovered, RecoveredSession, SessionId,
    SessionRecord, SubscriptionRecord, WillRecord,
};
pub use store::{BoxFuture, Durability, Store, Ticket, wait_durable};
