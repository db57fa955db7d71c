//! The Dunlin MQTT broker.
//!
//! - [`cli`]: the command line. [`config`]: layers, checks, limits. [`server`]: the process.
//! - [`net`]: listeners and what is below MQTT. [`workers`]: the threads that serve connections.
//! - [`hub`]: what all connections share: sessions, subscriptions, retained messages, the store.
//! - [`connection`]: one client's task. `core`: the state machines below both, without I/O or clock.
//! - [`auth`]: who a client is and what it may do. [`registry`]: the devices.
//! - [`abuse`]: bounds by address, wrong logins, bans.
//! - [`audit`]: who connected, who was refused and why, what was changed by whom.
//! - [`ops`]: metrics, health, `$SYS`. [`logging`], [`shutdown`], [`error`]: what their names say.

pub mod abuse;
pub mod admin;
mod admin_cli;
pub mod audit;
pub mod auth;
pub mod cli;
mod cluster_cli;
pub mod config;
pub mod connection;
mod core;
pub mod error;
mod hash;
mod health_cli;
pub mod http;
pub mod hub;
pub mod logging;
mod memory;
pub mod net;
pub mod ops;
mod provisioning;
mod random;
pub mod registry;
mod reload;
mod replica;
pub mod server;
pub mod shutdown;
mod tenant;
#[cfg(feature = "testing")]
pub mod testing;
pub mod workers;
