//! Devices as they are made, changed and removed, each change by comparison with what was read.
//!
//! A device is one record of the table `device`. Its certificates are found by records of the table `credential`, which
//! name the device; they are written before it and removed after it, so that one may be left over, and what it names
//! is always asked whether it has that credential.

use std::sync::Arc;

use bytes::Bytes;
use dunlin_sync::StoreError;
use dunlin_sync::records::{
    Cursor, Expect, PutOutcome, Record, RecordKey, RecordPut, Records, Table,
};

use super::credential::{Credential, Shown};
use super::device::{Device, DeviceKey, Invalid, State};

/// Times that a change is tried when others change the same device meanwhile.
const TRIES: usize = 16;

/// Records of an import that are put at once, and bytes of them; the store takes more.
const IMPORT_PART: usize = 1_000;
const IMPORT_PART_BYTES: usize = 4 << 20;

/// Bits that are told along with a change of a device, see [`RecordPut::hint`].
pub mod hint {
    /// Its live connections end now: it is blocked or removed.
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

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It would be out of bounds.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// There is one already, and it is another.
    #[error("the device exists, and differs")]
    Exists {
        /// Of the one that is there.
        revision: u64,
    },
    /// There is none.
    #[error("there is no such device")]
    Missing,
    /// Somebody has changed it meanwhile.
    #[error("the device has been changed meanwhile: it is of revision {revision} now")]
    Changed {
        /// Of the one that is there.
        revision: u64,
    },
    /// A certificate is another device's.
    #[error("the certificate of credential {id:?} is another device's")]
    Taken {
        /// Which credential.
        id: String,
    },
    /// What is stored cannot be read.
    #[error("the record of device {key} cannot be used: {why}")]
    Damaged {
        /// Which.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// So many change it at once that none of the attempts succeeded.
    #[error("the device is being changed by too many at once: try again")]
    Busy,
    /// The store does not answer as it should.
    #[error("{0}")]
    Store(#[from] StoreError),
}

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

fn record_key(key: &DeviceKey) -> RecordKey {
    RecordKey::new(Table::Device, key.to_string())
}

fn index_key(index: &str) -> RecordKey {
    RecordKey::new(Table::Credential, index)
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
    /// when this resolves.
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
            done.extend(self.records.put(std::mem::replace(&mut puts, rest)).await?);
        }
        Ok(done)
    }

    /// Has the certificates among `credentials` lead to this device.
    async fn claim(
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
    async fn release(
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
        let found = self.records.get(keys.clone()).await?;
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
            self.records.put(puts).await?;
        }
        Ok(())
    }
}

fn has(device: &Device, shown: &Shown) -> bool {
    device
        .credentials
        .iter()
        .any(|credential| credential.shown == *shown)
}

#[cfg(test)]
mod tests {
    use dunlin_sync::{MemoryStore, Store};

    use super::*;

    /// The store must be held, else it is closed.
    fn registry() -> (MemoryStore, Registry) {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        (store, registry)
    }

    fn key(id: &str) -> DeviceKey {
        DeviceKey::new(None, id).unwrap()
    }

    fn with_certificate(id: &str, digit: &str) -> Device {
        let mut device = Device::new(1);
        device.credentials.push(Credential {
            id: id.to_owned(),
            shown: Shown::fingerprint_from_hex(&digit.repeat(64)).unwrap(),
            not_before: None,
            expires_at: None,
        });
        device
    }

    #[tokio::test]
    async fn a_device_is_made_once_and_the_same_again_is_no_fault() {
        let (_store, registry) = registry();
        let (made, how) = registry.create(&key("a"), Device::new(1)).await.unwrap();
        assert_eq!(how, Imported::Created);
        let (again, how) = registry.create(&key("a"), Device::new(9)).await.unwrap();
        assert_eq!((again, how), (made.clone(), Imported::Unchanged));
        let other = with_certificate("c", "a");
        let refused = registry.create(&key("a"), other).await;
        assert!(
            matches!(refused, Err(RegistryError::Exists { revision }) if revision == made.revision)
        );
    }

    #[tokio::test]
    async fn a_change_is_bound_to_what_was_read() {
        let (_store, registry) = registry();
        let (made, _) = registry.create(&key("a"), Device::new(1)).await.unwrap();
        let block = |device: &mut Device| {
            device.state = State::Blocked;
            Ok(())
        };
        let (blocked, ()) = registry
            .change(&key("a"), Some(made.revision), 2, block)
            .await
            .unwrap();
        assert!(blocked.revision > made.revision && blocked.device.updated_at == 2);
        let late = registry
            .change(&key("a"), Some(made.revision), 3, block)
            .await;
        assert!(
            matches!(late, Err(RegistryError::Changed { revision }) if revision == blocked.revision)
        );
        let (same, ()) = registry.change(&key("a"), None, 3, block).await.unwrap();
        assert_eq!(same, blocked, "nothing was to be changed");
        let late = registry.delete(&key("a"), Some(made.revision)).await;
        assert!(matches!(late, Err(RegistryError::Changed { .. })));
        registry
            .delete(&key("a"), Some(blocked.revision))
            .await
            .unwrap();
        assert!(matches!(
            registry.delete(&key("a"), None).await,
            Err(RegistryError::Missing)
        ));
    }

    #[tokio::test]
    async fn a_certificate_leads_to_one_device_and_to_another_when_that_has_given_it_up() {
        let (_store, registry) = registry();
        let device = with_certificate("c", "a");
        let shown = device.credentials[0].shown.clone();
        registry.create(&key("a"), device.clone()).await.unwrap();
        let found = registry.of_certificate(&shown).await.unwrap().unwrap();
        assert_eq!(found.key, key("a"));
        let taken = registry.create(&key("b"), device.clone()).await;
        assert!(matches!(taken, Err(RegistryError::Taken { id }) if id == "c"));
        let remove = |device: &mut Device| {
            device.credentials.clear();
            Ok(())
        };
        registry.change(&key("a"), None, 2, remove).await.unwrap();
        assert_eq!(registry.of_certificate(&shown).await.unwrap(), None);
        registry.create(&key("b"), device.clone()).await.unwrap();
        assert_eq!(
            registry.of_certificate(&shown).await.unwrap().unwrap().key,
            key("b")
        );
        registry.delete(&key("b"), None).await.unwrap();
        assert_eq!(registry.of_certificate(&shown).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_index_that_was_left_over_names_nobody_and_is_taken_over() {
        let (_store, registry) = registry();
        let device = with_certificate("c", "b");
        let shown = device.credentials[0].shown.clone();
        registry
            .claim(&key("gone"), &device.credentials)
            .await
            .unwrap();
        assert_eq!(registry.of_certificate(&shown).await.unwrap(), None);
        registry.create(&key("a"), device).await.unwrap();
        assert_eq!(
            registry.of_certificate(&shown).await.unwrap().unwrap().key,
            key("a")
        );
    }

    #[tokio::test]
    async fn an_import_that_is_repeated_changes_nothing() {
        let (_store, registry) = registry();
        let devices: Vec<_> = (0..2_500)
            .map(|n| {
                (
                    key(&format!("d{n}")),
                    with_certificate("c", "c").with_times_of(&Device::new(n)),
                )
            })
            .map(|(key, mut device)| {
                let digits = format!("{:064x}", device.created_at);
                device.credentials[0].shown = Shown::fingerprint_from_hex(&digits).unwrap();
                (key, device)
            })
            .collect();
        for expected in [Imported::Created, Imported::Unchanged] {
            let done = registry
                .import(devices.clone(), OnExisting::Keep, 1)
                .await
                .unwrap();
            assert!(
                done.len() == devices.len()
                    && done
                        .iter()
                        .all(|one| matches!(one, Ok(one) if *one == expected))
            );
        }
        let mut one = devices[7].clone();
        one.1.attributes.insert("site".to_owned(), "b".to_owned());
        let kept = registry
            .import(vec![one.clone()], OnExisting::Keep, 1)
            .await
            .unwrap();
        assert!(matches!(kept[..], [Err(RegistryError::Exists { .. })]));
        let done = registry
            .import(vec![one.clone()], OnExisting::Replace, 1)
            .await
            .unwrap();
        assert!(matches!(done[..], [Ok(Imported::Replaced)]));
        // Somebody else's certificate, a wrong device and a good one.
        let mut stolen = one.clone();
        stolen.0 = key("thief");
        let mut wrong = (key("wrong"), Device::new(1));
        wrong.1.attributes.insert(String::new(), String::new());
        let mixed = vec![stolen, wrong, (key("good"), Device::new(1))];
        let done = registry.import(mixed, OnExisting::Keep, 1).await.unwrap();
        assert!(
            matches!(
                done[..],
                [
                    Err(RegistryError::Taken { .. }),
                    Err(RegistryError::Invalid(_)),
                    Ok(Imported::Created)
                ]
            ),
            "{done:?}"
        );
        let mut seen = 0;
        let mut from = None;
        loop {
            let page = registry.list(from, 1_000).await.unwrap();
            seen += page.devices.len();
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!(seen, devices.len() + 1);
    }
}
