//! Devices as they are made, changed and removed, each change by comparison with what was read.
//!
//! A device is one record of the table `device`. Its certificates are found by records of the table `credential`, which
//! name the device; they are written before it and removed after it, so that one may be left over, and what it names
//! is always asked whether it has that credential.

use std::sync::Arc;

use dunlin_sync::StoreError;
use dunlin_sync::records::{
    Cursor, Expect, PutOutcome, Record, RecordKey, RecordPut, Records, Table,
};

use super::claims::{has, index_key};
use super::credential::{Credential, Shown};
use super::device::{Device, DeviceKey, State};
use super::error::RegistryError;
use super::import::Imported;

/// Times that a change is tried when others change the same device meanwhile.
pub(super) const TRIES: usize = 16;

/// Bits that are told along with a change of a device, see [`RecordPut::hint`].
pub mod hint {
    /// Its live connections end now: it is blocked or removed. Of a credential that was taken away: those that came with it.
    pub const END: u8 = 1;
    /// What it may do or what is known of it is another, or a credential of its is gone: it is read again, and those of its
    /// connections end that came with that credential.
    pub const RENEW: u8 = 2;
}

/// A device as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub key: DeviceKey,
    /// What it is.
    pub device: Device,
    /// What a change of it can be bound to.
    pub revision: u64,
}

/// A part of the registry.
#[derive(Debug, Default)]
pub struct Page {
    /// In no order that means something.
    pub devices: Vec<Found>,
    /// From where to go on; `None`: that was all.
    pub next: Option<Cursor>,
}

/// All devices. Cheap to share.
pub struct Registry {
    records: Arc<dyn Records>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

pub(super) fn record_key(key: &DeviceKey) -> RecordKey {
    RecordKey::new(Table::Device, key.to_string())
}
pub(crate) fn read(key: &DeviceKey, record: &Record) -> Result<Found, RegistryError> {
    let device = Device::decode(&record.value).map_err(|why| RegistryError::Damaged {
        key: key.to_string(),
        why,
    })?;
    Ok(Found {
        key: key.clone(),
        device,
        revision: record.revision,
    })
}

/// What those who serve the device need to know of a change.
fn hint_of(old: &Device, new: &Device) -> u8 {
    let mut hint = 0;
    let kept = |credential: &Credential| new.credentials.contains(credential);
    if new.state == State::Blocked && old.state != State::Blocked {
        hint |= hint::END;
    }
    if old.policy != new.policy
        || old.attributes != new.attributes
        || !old.credentials.iter().all(kept)
    {
        hint |= hint::RENEW;
    }
    hint
}

impl Registry {
    /// The devices in these records.
    #[must_use]
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self { records }
    }

    /// Where the devices are kept.
    #[must_use]
    pub fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    /// Reads a device.
    ///
    /// # Errors
    /// The store, or what is in it.
    pub async fn get(&self, key: &DeviceKey) -> Result<Option<Found>, RegistryError> {
        let record = self.one(record_key(key)).await?;
        record.map(|record| read(key, &record)).transpose()
    }

    /// The device that has this certificate among its credentials (see [`Shown::of_certificate`], [`Shown::issued`]).
    ///
    /// # Errors
    /// The store, or what is in it.
    pub async fn of_certificate(&self, shown: &Shown) -> Result<Option<Found>, RegistryError> {
        let Some(index) = shown.index() else {
            return Ok(None);
        };
        let Some(record) = self.one(index_key(&index)).await? else {
            return Ok(None);
        };
        let key = std::str::from_utf8(&record.value).ok();
        let Some(key) = key.and_then(DeviceKey::parse) else {
            return Ok(None);
        };
        let found = self.get(&key).await?;
        Ok(found.filter(|found| has(&found.device, shown)))
    }

    /// Makes a device. One that is there and the same is success: who asks twice gets the same answer.
    ///
    /// # Errors
    /// [`RegistryError::Exists`] when another is there; bounds; a certificate of another device; the store.
    pub async fn create(
        &self,
        key: &DeviceKey,
        device: Device,
    ) -> Result<(Found, Imported), RegistryError> {
        device.check()?;
        self.claim(key, &device.credentials).await?;
        let put = RecordPut::set(record_key(key), device.encode()).expecting(Expect::Absent);
        match self.put_one(put, false).await? {
            PutOutcome::Done { revision } => Ok((
                Found {
                    key: key.clone(),
                    device,
                    revision,
                },
                Imported::Created,
            )),
            PutOutcome::Conflict { found } => {
                let found = read(key, &found.ok_or(RegistryError::Busy)?)?;
                if found.device.same_as(&device) {
                    Ok((found, Imported::Unchanged))
                } else {
                    Err(RegistryError::Exists {
                        revision: found.revision,
                    })
                }
            }
        }
    }

    /// Changes a device as `change` says, which is called again with what is there when somebody else was faster.
    /// With `only`, it is changed if it has that revision. What matters to live connections has reached every live replica
    /// when this resolves: those of a device that is blocked, and of a credential that was taken away, have been told to end.
    ///
    /// # Errors
    /// Those of `change`; bounds; [`RegistryError::Changed`]; a certificate of another device; the store.
    pub async fn change<T>(
        &self,
        key: &DeviceKey,
        only: Option<u64>,
        now: u64,
        mut change: impl FnMut(&mut Device) -> Result<T, RegistryError>,
    ) -> Result<(Found, T), RegistryError> {
        for _ in 0..TRIES {
            let old = self.get(key).await?.ok_or(RegistryError::Missing)?;
            if only.is_some_and(|only| only != old.revision) {
                return Err(RegistryError::Changed {
                    revision: old.revision,
                });
            }
            let mut device = old.device.clone();
            let said = change(&mut device)?;
            device.check()?;
            if device == old.device {
                return Ok((old, said));
            }
            device.updated_at = now;
            self.claim(key, &device.credentials).await?;
            let hint = hint_of(&old.device, &device);
            let put = RecordPut::set(record_key(key), device.encode())
                .expecting(Expect::Revision(old.revision))
                .hinting(hint);
            if let PutOutcome::Done { revision } = self.put_one(put, hint != 0).await? {
                self.withdraw(key, &old.device, &device).await?;
                self.release(key, &old.device, Some(&device)).await?;
                let found = Found {
                    key: key.clone(),
                    device,
                    revision,
                };
                return Ok((found, said));
            }
        }
        Err(RegistryError::Busy)
    }

    /// Removes a device with its configuration and what it has reported; its connections have ended on every live replica when
    /// this resolves.
    ///
    /// # Errors
    /// [`RegistryError::Missing`], [`RegistryError::Changed`]; the store.
    pub async fn delete(&self, key: &DeviceKey, only: Option<u64>) -> Result<(), RegistryError> {
        for _ in 0..TRIES {
            // One that cannot be read must be removable.
            let record = self.one(record_key(key)).await?;
            let record = record.ok_or(RegistryError::Missing)?;
            if only.is_some_and(|only| only != record.revision) {
                return Err(RegistryError::Changed {
                    revision: record.revision,
                });
            }
            let own = RecordPut::remove(record_key(key))
                .expecting(Expect::Revision(record.revision))
                .hinting(hint::END);
            if self.put_one(own, true).await?.revision().is_none() {
                continue;
            }
            let beside = super::beside::keys_of(key).map(RecordPut::remove);
            self.records.put(beside.into()).await?;
            if let Ok(found) = read(key, &record) {
                self.release(key, &found.device, None).await?;
            }
            return Ok(());
        }
        Err(RegistryError::Busy)
    }

    /// Devices from a place on, at most `limit`. One whose record cannot be read is left out, and logged.
    ///
    /// # Errors
    /// The store.
    pub async fn list(&self, from: Option<Cursor>, limit: usize) -> Result<Page, RegistryError> {
        let page = self.records.scan(Table::Device, from, limit).await?;
        let mut devices = Vec::with_capacity(page.records.len());
        for (text, record) in page.records {
            let found = DeviceKey::parse(&text)
                .ok_or_else(|| RegistryError::Damaged {
                    key: text.to_string(),
                    why: "its key names no device".to_owned(),
                })
                .and_then(|key| read(&key, &record));
            match found {
                Ok(found) => devices.push(found),
                Err(error) => tracing::warn!(%error, "a device is left out of a list"),
            }
        }
        Ok(Page {
            devices,
            next: page.next,
        })
    }

    pub(super) async fn one(&self, key: RecordKey) -> Result<Option<Record>, StoreError> {
        Ok(self
            .records
            .get(vec![key])
            .await?
            .into_iter()
            .next()
            .flatten())
    }

    pub(super) async fn put_one(
        &self,
        put: RecordPut,
        everywhere: bool,
    ) -> Result<PutOutcome, RegistryError> {
        let done = if everywhere {
            self.records.put_everywhere(vec![put]).await?
        } else {
            self.records.put(vec![put]).await?
        };
        done.into_iter().next().ok_or(RegistryError::Busy)
    }
}
