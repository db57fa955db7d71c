//! The last step: the registry knows the device by what it was given.

use std::collections::BTreeMap;

use super::{Provisioner, Refusal};
use crate::registry::{Credential, Device, DeviceKey, Imported, RegistryError, State};

impl Provisioner {
    /// Has the registry know the device by its credential.
    pub(super) async fn register(
        &self,
        key: &DeviceKey,
        credential: Credential,
        attributes: BTreeMap<String, String>,
        now: u64,
    ) -> Result<(), Refusal> {
        let mut device = Device::new(now);
        device.serial = Some(key.id().to_owned());
        device.credentials.push(credential.clone());
        device.attributes = attributes.clone();
        match self.registry.create(key, device).await {
            Ok((_, Imported::Created | Imported::Unchanged | Imported::Replaced)) => return Ok(()),
            Err(RegistryError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let add = |device: &mut Device| {
            if device.state == State::Blocked {
                return Ok(false);
            }
            device
                .credentials
                .retain(|other| other.id != credential.id || other.shown == credential.shown);
            if !device
                .credentials
                .iter()
                .any(|other| other.shown == credential.shown)
            {
                device.credentials.push(credential.clone());
            }
            device.serial = Some(key.id().to_owned());
            device.attributes.extend(attributes.clone());
            Ok(true)
        };
        let (_, active) = self.registry.change(key, None, now, add).await?;
        if active {
            Ok(())
        } else {
            Err(Refusal::Forbidden("the device is blocked"))
        }
    }
}
