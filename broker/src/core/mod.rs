//! The pure core: no sockets, no clock, no tasks. Packets and messages in, bytes and operations out.
//!
//! Time and random numbers are handed in. Everything here can be driven by a plain test.

pub(crate) mod device_config;
pub(crate) mod frames;
pub(crate) mod inbound;
pub(crate) mod link;
pub(crate) mod mount;
pub(crate) mod out_buffer;
pub(crate) mod outbound;
pub(crate) mod retained;
#[cfg(test)]
mod scenarios;
pub(crate) mod session;
pub(crate) mod topic_index;
