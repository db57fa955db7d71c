//! What is noted of a device while it is served: which version of its configuration it has acknowledged, and when it was seen.
//!
//! Small records of their own: a list of devices has no need to read their configurations. They are written for many devices
//! in one step, and only where there is something new: a device that acknowledges the same version again costs a read.

use std::sync::Arc;

use dunlin_sync::records::{
    Expect, PutOutcome, RECORDS_AT_ONCE, Record, RecordKey, RecordPut, Table,
};
use serde::{Deserialize, Serialize};

use super::beside::{DeviceConfig, decode, encode};
use super::device::DeviceKey;
use super::error::RegistryError;
use super::service::{Registry, TRIES};

/// Which version a device has acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The version.
    pub version: u64,
    /// When, in Unix seconds.
    pub at: u64,
}

/// How far a device is with its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The version that it is to have.
    pub version: u64,
    /// When that was set, in Unix seconds.
    pub at: u64,
    /// The highest that it has acknowledged; `None`: none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
}

/// When a device was seen: of its connections the one that was made last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// When it connected, in Unix milliseconds.
    #[serde(rename = "c")]
    pub connected_at_ms: u64,
    /// When it left, in Unix milliseconds; `None`: nobody has seen it leave.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub disconnected_at_ms: Option<u64>,
    /// From where.
    #[serde(rename = "a")]
    pub address: String,
    /// The replica that it was connected to, in a cluster.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<u64>,
}

/// What is noted of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// How far it is with its configuration; `None`: it was never given one.
    pub config: Option<ConfigStatus>,
    /// When it was seen; `None`: never.
    pub seen: Option<Seen>,
}

/// No id of a device has a `#`.
pub(super) fn config_key(key: &str) -> RecordKey {
    RecordKey::new(Table::State, format!("{key}#config"))
}

pub(super) fn seen_key(key: &str) -> RecordKey {
    RecordKey::new(Table::State, format!("{key}#seen"))
}

/// What takes the place of `old` when a device acknowledges; `None`: nothing that is new, or nothing that was ever sent.
fn after_acknowledgement(old: &ConfigStatus, new: Acknowledged) -> Option<ConfigStatus> {
    let before = old.acknowledged.map_or(0, |before| before.version);
    (before < new.version && new.version <= old.version).then_some(ConfigStatus {
        acknowledged: Some(new),
        ..*old
    })
}

impl Registry {
    /// What is noted of devices, one answer for each, in order; at most [`RECORDS_AT_ONCE`] / 2 of them.
    ///
    /// # Errors
    /// The store.
    pub async fn statuses(&self, keys: &[DeviceKey]) -> Result<Vec<Status>, RegistryError> {
        let names = keys.iter().flat_map(|key| {
            let key = key.to_string();
            [config_key(&key), seen_key(&key)]
        });
        let names: Vec<_> = names.collect();
        let found = self.records().get(names.clone()).await?;
        let mut found = names.iter().zip(found);
        let mut statuses = Vec::with_capacity(keys.len());
        while let (Some((config_key, config)), Some((seen_key, seen))) =
            (found.next(), found.next())
        {
            // What cannot be read is no reason not to show the device; it is made anew when there is something to note.
            statuses.push(Status {
                config: config.and_then(|it| decode(config_key, &it).ok()),
                seen: seen.and_then(|it| decode(seen_key, &it).ok()),
            });
        }
        Ok(statuses)
    }

    /// Notes that a configuration was set, before the device can get it.
    pub(super) async fn note_config(
        &self,
        key: &DeviceKey,
        config: &DeviceConfig,
    ) -> Result<(), RegistryError> {
        let key = config_key(&key.to_string());
        for _ in 0..TRIES {
            let record = self.one(key.clone()).await?;
            let expect = expected(record.as_ref());
            let old: Option<ConfigStatus> = record.and_then(|it| decode(&key, &it).ok());
            // Somebody has set a newer one meanwhile.
            if old.is_some_and(|old| old.version >= config.version && old.at >= config.at) {
                return Ok(());
            }
            let status = ConfigStatus {
                version: config.version,
                at: config.at,
                // The first one has nothing before it: what is there is of a device that is gone.
                acknowledged: old
                    .filter(|_| config.version > 1)
                    .and_then(|old| old.acknowledged),
            };
            let put = RecordPut::set(key.clone(), encode(&status)).expecting(expect);
            if self.put_one(put, false).await?.revision().is_some() {
                return Ok(());
            }
        }
        Err(RegistryError::Busy)
    }

    /// Notes what devices have acknowledged, by the keys of their records. What is older than what is noted, and what was never
    /// sent, changes nothing.
    pub(crate) async fn note_acknowledged(
        &self,
        acknowledged: Vec<(Arc<str>, Acknowledged)>,
    ) -> Result<(), RegistryError> {
        let wanted = acknowledged.into_iter();
        let wanted = wanted.map(|(key, new)| (config_key(&key), new)).collect();
        self.note_all(wanted, |old: Option<ConfigStatus>, new| {
            after_acknowledgement(&old?, *new)
        })
        .await
    }

    /// Notes when devices were seen, by the keys of their records; those that are not in the registry are left out.
    pub(crate) async fn note_seen(&self, seen: Vec<(Arc<str>, Seen)>) -> Result<(), RegistryError> {
        let mut seen = seen.into_iter();
        loop {
            let part: Vec<_> = seen.by_ref().take(RECORDS_AT_ONCE).collect();
            if part.is_empty() {
                return Ok(());
            }
            // One that was removed ends its connections, and must not be left with a record because of that.
            let devices = part.iter();
            let devices = devices.map(|(key, _)| RecordKey::new(Table::Device, Arc::clone(key)));
            let devices = self.records().get(devices.collect()).await?;
            let there = part.into_iter().zip(devices);
            let there = there.filter_map(|(one, device)| device.map(|_| one));
            let wanted = there.map(|(key, new)| (seen_key(&key), new)).collect();
            self.note_all(wanted, |old: Option<Seen>, new| {
                old.is_none_or(|old| old < *new).then(|| new.clone())
            })
            .await?;
        }
    }

    /// Changes many records, each by comparison. `change` says what takes the place of what is there; `None`: it stays.
    async fn note_all<T, N>(
        &self,
        mut wanted: Vec<(RecordKey, N)>,
        change: impl Fn(Option<T>, &N) -> Option<T>,
    ) -> Result<(), RegistryError>
    where
        T: Serialize + serde::de::DeserializeOwned,
    {
        let mut part = wanted.split_off(wanted.len().saturating_sub(RECORDS_AT_ONCE / 4));
        let mut tries = 0;
        while !part.is_empty() {
            let keys = part.iter().map(|(key, _)| key.clone()).collect();
            let found = self.records().get(keys).await?;
            let mut puts = Vec::new();
            let mut put = Vec::new();
            for ((key, new), record) in part.into_iter().zip(found) {
                let expect = expected(record.as_ref());
                // One that cannot be read is made anew.
                let old = record.and_then(|record| decode(&key, &record).ok());
                if let Some(value) = change(old, &new) {
                    puts.push(RecordPut::set(key.clone(), encode(&value)).expecting(expect));
                    put.push((key, new));
                }
            }
            part = Vec::new();
            if !puts.is_empty() {
                let outcomes = self.records().put(puts).await?;
                let again = put.into_iter().zip(outcomes);
                part = again
                    .filter(|(_, outcome)| matches!(outcome, PutOutcome::Conflict { .. }))
                    .map(|(one, _)| one)
                    .collect();
            }
            tries += 1;
            if tries >= TRIES && !part.is_empty() {
                return Err(RegistryError::Busy);
            }
            if part.is_empty() {
                part = wanted.split_off(wanted.len().saturating_sub(RECORDS_AT_ONCE / 4));
                tries = 0;
            }
        }
        Ok(())
    }
}

/// What must be there for a change of what was read.
pub(super) fn expected(record: Option<&Record>) -> Expect {
    record.map_or(Expect::Absent, |record| Expect::Revision(record.revision))
}

#[cfg(test)]
mod tests {
    use dunlin_sync::{MemoryStore, Store};

    use super::*;
    use crate::registry::Device;

    async fn status(registry: &Registry, key: &DeviceKey) -> Status {
        let found = registry.statuses(std::slice::from_ref(key)).await;
        found.unwrap().remove(0)
    }

    #[tokio::test]
    async fn the_highest_version_that_was_acknowledged_is_noted_and_none_that_was_never_sent() {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        let key = DeviceKey::new(Some("plant"), "pump").unwrap();
        let text: Arc<str> = key.to_string().into();
        let tell = |version, at| vec![(Arc::clone(&text), Acknowledged { version, at })];
        registry.note_acknowledged(tell(1, 5)).await.unwrap();
        assert_eq!(status(&registry, &key).await, Status::default());
        registry.create(&key, Device::new(1)).await.unwrap();
        for n in 1..=3 {
            registry.store_config(&key, b"x", None, n).await.unwrap();
        }
        let acknowledged = async || status(&registry, &key).await.config.unwrap().acknowledged;
        assert_eq!(acknowledged().await, None);
        // What the device says, and what is noted then.
        for (version, at, noted) in [
            (2, 7, (2, 7)),
            (2, 8, (2, 7)),
            (1, 9, (2, 7)),
            (4, 9, (2, 7)),
        ] {
            registry.note_acknowledged(tell(version, at)).await.unwrap();
            let found = acknowledged().await.unwrap();
            assert_eq!((found.version, found.at), noted, "{version}");
        }
        registry.store_config(&key, b"y", None, 10).await.unwrap();
        let config = status(&registry, &key).await.config.unwrap();
        assert_eq!((config.version, config.at), (4, 10));
        assert_eq!(config.acknowledged.map(|it| it.version), Some(2));
        registry.delete(&key, None).await.unwrap();
        registry.note_acknowledged(tell(4, 11)).await.unwrap();
        assert_eq!(status(&registry, &key).await, Status::default());
    }

    #[tokio::test]
    async fn what_cannot_be_read_hides_no_device_and_is_made_anew() {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        let key = DeviceKey::new(None, "pump").unwrap();
        registry.create(&key, Device::new(1)).await.unwrap();
        let text = key.to_string();
        let damaged = [config_key(&text), seen_key(&text)];
        let damaged = damaged.map(|key| RecordPut::set(key, r#"{"at":1}"#));
        registry.records().put(damaged.into()).await.unwrap();
        assert_eq!(status(&registry, &key).await, Status::default());
        registry.store_config(&key, b"x", None, 2).await.unwrap();
        let seen = Seen {
            connected_at_ms: 1,
            disconnected_at_ms: None,
            address: "192.0.2.7:1".to_owned(),
            replica: None,
        };
        let told = vec![(text.into(), seen.clone())];
        registry.note_seen(told).await.unwrap();
        let noted = status(&registry, &key).await;
        assert_eq!(noted.config.map(|config| config.version), Some(1));
        assert_eq!(noted.seen, Some(seen));
    }

    #[tokio::test]
    async fn a_configuration_that_is_noted_late_does_not_hide_a_newer_one() {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        let key = DeviceKey::new(None, "pump").unwrap();
        let config = |version, at| DeviceConfig {
            version,
            at,
            data: Vec::new(),
        };
        for (told, noted) in [
            (config(2, 5), (2, 5)),
            (config(1, 5), (2, 5)),
            // Of the device that was here before, and is gone.
            (config(1, 6), (1, 6)),
        ] {
            registry.note_config(&key, &told).await.unwrap();
            let found = status(&registry, &key).await.config.unwrap();
            assert_eq!((found.version, found.at), noted);
        }
    }

    #[tokio::test]
    async fn what_is_noted_already_is_not_written_again() {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        let key = DeviceKey::new(None, "pump").unwrap();
        registry.create(&key, Device::new(1)).await.unwrap();
        registry.store_config(&key, b"x", None, 1).await.unwrap();
        let text: Arc<str> = key.to_string().into();
        let revision = async || {
            let found = registry.one(config_key(&text)).await.unwrap();
            found.unwrap().revision
        };
        let acknowledge = async |at| {
            let told = Acknowledged { version: 1, at };
            let told = vec![(Arc::clone(&text), told)];
            registry.note_acknowledged(told).await.unwrap();
        };
        acknowledge(2).await;
        let first = revision().await;
        for at in 0..1_000 {
            acknowledge(at).await;
        }
        assert_eq!(revision().await, first);
    }

    #[tokio::test]
    async fn the_connection_that_was_made_last_says_when_a_device_was_seen() {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        let key = DeviceKey::new(None, "pump").unwrap();
        let text: Arc<str> = key.to_string().into();
        let seen = |connected_at_ms, disconnected_at_ms, replica| Seen {
            connected_at_ms,
            disconnected_at_ms,
            address: "192.0.2.7:1".to_owned(),
            replica: Some(replica),
        };
        let note = async |one: Seen| registry.note_seen(vec![(Arc::clone(&text), one)]).await;
        note(seen(1, None, 1)).await.unwrap();
        assert_eq!(status(&registry, &key).await.seen, None, "no such device");
        registry.create(&key, Device::new(1)).await.unwrap();
        for (told, noted) in [
            (seen(1, None, 1), seen(1, None, 1)),
            (seen(5, None, 2), seen(5, None, 2)),
            // It was taken over: the older connection ends later.
            (seen(1, Some(6), 1), seen(5, None, 2)),
            (seen(5, Some(9), 2), seen(5, Some(9), 2)),
            (seen(5, None, 2), seen(5, Some(9), 2)),
        ] {
            note(told).await.unwrap();
            assert_eq!(status(&registry, &key).await.seen, Some(noted));
        }
        // Many at once, in several parts.
        let mut many = Vec::new();
        for n in 0..(RECORDS_AT_ONCE / 2) {
            let key = DeviceKey::new(None, &format!("d{n}")).unwrap();
            registry.create(&key, Device::new(1)).await.unwrap();
            many.push((key.to_string().into(), seen(3, None, 1)));
        }
        registry.note_seen(many).await.unwrap();
        for n in [0, 1_500, RECORDS_AT_ONCE / 2 - 1] {
            let key = DeviceKey::new(None, &format!("d{n}")).unwrap();
            assert!(status(&registry, &key).await.seen.is_some(), "{n}");
        }
        registry.delete(&key, None).await.unwrap();
        note(seen(5, Some(10), 2)).await.unwrap();
        assert_eq!(status(&registry, &key).await.seen, None);
    }
}
