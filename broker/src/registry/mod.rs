//! The registry of devices: who they are, what they show, what they may do.

pub mod credential;
pub mod device;
mod service;

pub use credential::{Algorithm, Credential, PublicKey, Shown};
pub use device::{Device, DeviceKey, Invalid, PolicyAction, PolicyEffect, PolicyRule, State};
pub use service::{Found, Imported, OnExisting, Page, Registry, RegistryError, hint};
