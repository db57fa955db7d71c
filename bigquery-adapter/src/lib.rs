//! The adapter between MQTT and a warehouse: every message becomes a row, and a message is acknowledged only when its
//! row is durable.
//!
//! ```text
//! source ──▶ batches of rows ──▶ sink ──▶ position that is durable ──▶ source acknowledges up to it
//! ```
//!
//! - [`sources`] read messages and acknowledge them; [`sinks`] store batches; [`pipeline`] is between the two.
//! - [`ledger`] is what must be remembered beside the rows for deliveries that come again.
//! - [`mqtt_client`] speaks MQTT, and only that.
//! - [`config`], [`cli`], [`ops`], [`logging`] are for the people who run it.

pub mod batch;
pub mod cli;
pub mod commands;
pub mod config;
mod encoding;
pub mod error;
pub mod health;
mod json;
pub mod ledger;
pub mod logging;
pub mod mqtt_client;
pub mod ops;
pub mod pipeline;
pub mod row;
pub mod rules;
pub mod run;
pub mod sinks;
pub mod sources;
pub mod status;
