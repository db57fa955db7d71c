//! End-to-end tests: the `broker` binary as a process, spoken to by a client of bytes and by clients of others.
//!
//! A comment such as `[MQTT-3.1.2-3] v5` beside a test names the normative statement that the test holds the broker
//! to; `docs/conformance` lists them all, and `conformance_list.rs` holds the two together.

mod auth;
mod chaos_kill;
mod connect;
mod drain;
mod escape;
mod foreign_acl;
mod foreign_clients;
mod foreign_mosquitto;
mod forwarding;
mod inbound;
mod keep_alive;
mod limits;
mod malformed;
mod memory;
mod outbound;
mod policy;
mod quotas;
mod retained;
mod session;
mod shared;
mod stream;
mod subscribe;
mod support;
mod tenants;
mod websocket;
mod will;
mod wrong_input;
