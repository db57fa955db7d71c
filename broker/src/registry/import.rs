//! Many devices in few steps.

use bytes::Bytes;
use dunlin_sync::StoreError;
use dunlin_sync::records::{Expect, PutOutcome, Record, RecordPut};

use super::claims::index_key;
use super::device::{Device, DeviceKey};
use super::error::RegistryError;
use super::service::{Registry, read, record_key};

/// Records of an import that are put at once, and bytes of them; the store takes more.
const IMPORT_PART: usize = 1_000;
const IMPORT_PART_BYTES: usize = 4 << 20;

/// What an import does with a device that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// It stays, and the line is at fault if it differs.
    Keep,
    /// It becomes what the line says.
    Replace,
}

/// What became of one device of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is new.
    Created,
    /// It was there and is another now.
    Replaced,
    /// It was there, the same.
    Unchanged,
}

impl Registry {
    /// Makes many devices in few steps, one outcome for each, in order.
    ///
    /// # Errors
    /// The store; what was done by then stays, and the same import again finds it unchanged.
    pub async fn import(
        &self,
        devices: Vec<(DeviceKey, Device)>,
        existing: OnExisting,
        now: u64,
    ) -> Result<Vec<Result<Imported, RegistryError>>, RegistryError> {
        let mut outcomes: Vec<Option<Result<Imported, RegistryError>>> = devices
            .iter()
            .map(|(_, device)| device.check().err().map(|invalid| Err(invalid.into())))
            .collect();
        let mut places = Vec::new();
        let mut claims = Vec::new();
        for (index, (key, device)) in devices.iter().enumerate() {
            if outcomes.get(index).is_none_or(Option::is_some) {
                continue;
            }
            for name in device
                .credentials
                .iter()
                .filter_map(|credential| credential.shown.index())
            {
                places.push(index);
                claims.push(
                    RecordPut::set(index_key(&name), key.to_string()).expecting(Expect::Absent),
                );
            }
        }
        let claimed = if claims.is_empty() {
            Vec::new()
        } else {
            self.put_many(claims).await?
        };
        for (index, outcome) in places.into_iter().zip(claimed) {
            if let (PutOutcome::Conflict { .. }, Some((key, device)), Some(place @ None)) =
                (outcome, devices.get(index), outcomes.get_mut(index))
            {
                *place = self.claim(key, &device.credentials).await.err().map(Err);
            }
        }
        let fits: Vec<_> = (0..devices.len())
            .filter(|&index| outcomes.get(index).is_some_and(Option::is_none))
            .collect();
        let puts = fits
            .iter()
            .filter_map(|&index| devices.get(index))
            .map(|(key, device)| {
                RecordPut::set(record_key(key), device.encode()).expecting(Expect::Absent)
            });
        let done = self.put_many(puts.collect()).await?;
        for (&index, outcome) in fits.iter().zip(done) {
            let (Some((key, device)), Some(place)) = (devices.get(index), outcomes.get_mut(index))
            else {
                continue;
            };
            *place = Some(match outcome {
                PutOutcome::Done { .. } => Ok(Imported::Created),
                PutOutcome::Conflict { found } => {
                    self.import_existing(key, device, found, existing, now)
                        .await
                }
            });
        }
        Ok(outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or(Err(RegistryError::Busy)))
            .collect())
    }

    async fn import_existing(
        &self,
        key: &DeviceKey,
        wanted: &Device,
        found: Option<Record>,
        existing: OnExisting,
        now: u64,
    ) -> Result<Imported, RegistryError> {
        let found = read(key, &found.ok_or(RegistryError::Busy)?)?;
        if found.device.same_as(wanted) {
            return Ok(Imported::Unchanged);
        }
        if existing == OnExisting::Keep {
            return Err(RegistryError::Exists {
                revision: found.revision,
            });
        }
        let replace = |device: &mut Device| {
            *device = wanted.clone().with_times_of(device);
            Ok(())
        };
        self.change(key, None, now, replace).await?;
        Ok(Imported::Replaced)
    }

    /// In parts that the store takes at once.
    async fn put_many(&self, mut puts: Vec<RecordPut>) -> Result<Vec<PutOutcome>, StoreError> {
        let mut done = Vec::with_capacity(puts.len());
        while !puts.is_empty() {
            let mut bytes = 0;
            let size =
                |put: &RecordPut| put.key.key.len() + put.value.as_ref().map_or(0, Bytes::len);
            let within = puts.iter().take_while(|put| {
                bytes += size(put);
                bytes <= IMPORT_PART_BYTES
            });
            let part = within.take(IMPORT_PART).count().max(1);
            let rest = puts.split_off(part);
            done.extend(
                self.records()
                    .put(std::mem::replace(&mut puts, rest))
                    .await?,
            );
        }
        Ok(done)
    }
}
