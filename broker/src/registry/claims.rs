//! Which certificate leads to which device: records of the table `credential`, which name the device.

use bytes::Bytes;
use dunlin_sync::records::{Expect, PutOutcome, RecordKey, RecordPut, Table};

use super::credential::{Credential, Shown};
use super::device::{Device, DeviceKey};
use super::error::RegistryError;
use super::service::{Registry, TRIES};

pub(super) fn index_key(index: &str) -> RecordKey {
    RecordKey::new(Table::Credential, index)
}

impl Registry {
    /// Has the certificates among `credentials` lead to this device.
    pub(super) async fn claim(
        &self,
        key: &DeviceKey,
        credentials: &[Credential],
    ) -> Result<(), RegistryError> {
        let text: Bytes = key.to_string().into();
        for credential in credentials {
            let Some(index) = credential.shown.index() else {
                continue;
            };
            let mut expect = Expect::Absent;
            for tried in 0..=TRIES {
                let put = RecordPut::set(index_key(&index), text.clone()).expecting(expect);
                let PutOutcome::Conflict { found } = self.put_one(put, false).await? else {
                    break;
                };
                if tried == TRIES {
                    return Err(RegistryError::Busy);
                }
                let Some(found) = found else {
                    expect = Expect::Absent;
                    continue;
                };
                if found.value == text {
                    break;
                }
                if self.is_anothers(&found.value, &credential.shown).await? {
                    return Err(RegistryError::Taken {
                        id: credential.id.clone(),
                    });
                }
                expect = Expect::Revision(found.revision);
            }
        }
        Ok(())
    }

    /// Whether the device that an index names has that credential indeed.
    async fn is_anothers(&self, named: &[u8], shown: &Shown) -> Result<bool, RegistryError> {
        let named = std::str::from_utf8(named).ok().and_then(DeviceKey::parse);
        let Some(named) = named else {
            return Ok(false);
        };
        match self.get(&named).await {
            Ok(found) => Ok(found.is_some_and(|found| has(&found.device, shown))),
            // Nobody can say, so it is kept.
            Err(RegistryError::Damaged { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Forgets the certificates that a device has no longer.
    pub(super) async fn release(
        &self,
        key: &DeviceKey,
        old: &Device,
        new: Option<&Device>,
    ) -> Result<(), RegistryError> {
        let gone = old
            .credentials
            .iter()
            .map(|credential| &credential.shown)
            .filter(|shown| !new.is_some_and(|new| has(new, shown)));
        let keys: Vec<_> = gone
            .filter_map(Shown::index)
            .map(|index| index_key(&index))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let text = key.to_string();
        let found = self.records().get(keys.clone()).await?;
        let puts: Vec<_> = keys
            .into_iter()
            .zip(found)
            .filter_map(|(key, record)| Some((key, record?)))
            .filter(|(_, record)| record.value == text.as_bytes())
            .map(|(key, record)| {
                RecordPut::remove(key).expecting(Expect::Revision(record.revision))
            })
            .collect();
        if !puts.is_empty() {
            self.records().put(puts).await?;
        }
        Ok(())
    }
}

pub(super) fn has(device: &Device, shown: &Shown) -> bool {
    device
        .credentials
        .iter()
        .any(|credential| credential.shown == *shown)
}
