//! The registry of devices: who they are, what they show, what they may do.

mod beside;
mod claims;
pub mod credential;
pub mod device;
mod error;
mod import;
mod method;
mod policy;
mod service;
mod status;
#[cfg(test)]
mod tests;
mod withdrawn;

pub use beside::{DeviceConfig, PAYLOAD_MAX, Reported, Sent};
pub(crate) use beside::{Reports, topic_of};
pub use credential::{Algorithm, Credential, PublicKey, Shown};
pub use device::{Device, DeviceKey, Invalid, PolicyAction, PolicyEffect, PolicyRule, State};
pub use error::RegistryError;
pub use import::{Imported, OnExisting};
pub use method::RegistryMethod;
pub(crate) use method::{key_of, renewed};
pub(crate) use service::read as read_device;
pub use service::{Found, Page, Registry, hint};
pub use status::{Acknowledged, ConfigStatus, Seen, Status};
pub(crate) use withdrawn::Withdrawn;
