//! HTTP beside MQTT: asking services of others, and serving those who administer and provision.

pub mod client;
pub mod server;

pub use client::{Answer, HttpClient, HttpError};

#[cfg(test)]
mod tests;
