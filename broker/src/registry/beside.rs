//! What is kept beside a device: its configuration, what it has reported, what it was told.
//!
//! Records of their own, as they change at another pace: a report of a device must not come in the way of an administrator who
//! changes it. They are removed with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use dunlin_sync::records::{PutOutcome, Record, RecordKey, RecordPut, Table};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::device::{DeviceKey, Invalid};
use super::error::RegistryError;
use super::service::Registry;
use super::status::{Acknowledged, expected};

/// Longest configuration, report or command, in bytes, as with IoT Core.
pub const PAYLOAD_MAX: usize = 64 * 1024;
/// Reports that are kept of a device.
const STATES_MAX: usize = 10;
/// Commands of which it is kept that they were sent.
const COMMANDS_MAX: usize = 10;
/// Longest subfolder of a command, in bytes.
const SUBFOLDER_MAX: usize = 256;
/// Times that a change is tried when others make one meanwhile.
const TRIES: usize = 16;

/// A configuration of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Rises by one with each; the first is 1.
    pub version: u64,
    /// When it was set, in Unix seconds.
    pub at: u64,
    /// What the device gets.
    #[serde(with = "in_base64")]
    pub data: Vec<u8>,
}

/// What a device has reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// What.
    #[serde(with = "in_base64")]
    pub data: Vec<u8>,
}

/// A command that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Rises with each.
    pub id: u64,
    /// When, in Unix seconds.
    pub at: u64,
    /// Below `commands`; empty: that itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subfolder: String,
    /// Bytes of it.
    pub size: usize,
}

/// Bytes as text.
mod in_base64 {
    use super::{Base64, Encoding};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Base64::encode_string(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        Base64::decode_vec(&text).map_err(D::Error::custom)
    }
}

fn config_key(key: &str) -> RecordKey {
    RecordKey::new(Table::Config, key)
}

/// No id of a device has a `#`.
fn commands_key(key: &str) -> RecordKey {
    RecordKey::new(Table::State, format!("{key}#commands"))
}

fn states_key(key: &str) -> RecordKey {
    RecordKey::new(Table::State, key)
}

/// All that is beside a device.
pub(super) fn keys_of(key: &DeviceKey) -> [RecordKey; 5] {
    let text = key.to_string();
    [
        config_key(&text),
        states_key(&text),
        commands_key(&text),
        super::status::config_key(&text),
        super::status::seen_key(&text),
    ]
}

fn check_payload(field: &str, payload: &[u8]) -> Result<(), Invalid> {
    if payload.len() > PAYLOAD_MAX {
        let text = format!("{} bytes: {PAYLOAD_MAX} at the most", payload.len());
        return Err(Invalid::new(field, text));
    }
    Ok(())
}

pub(super) fn decode<T: DeserializeOwned>(
    key: &RecordKey,
    record: &Record,
) -> Result<T, RegistryError> {
    serde_json::from_slice(&record.value).map_err(|error| RegistryError::Damaged {
        key: key.key.to_string(),
        why: error.to_string(),
    })
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain values and lists: there is nothing that could fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// The topic of a device below `/devices/ID/`, as the hub knows it.
#[must_use]
pub(crate) fn topic_of(key: &DeviceKey, below: &str) -> String {
    let id = key.id();
    match key.tenant() {
        Some(tenant) => format!("$tenant/{tenant}//devices/{id}/{below}"),
        None => format!("/devices/{id}/{below}"),
    }
}

impl Registry {
    /// The configuration of a device, if it was ever given one.
    ///
    /// # Errors
    /// The store, or what is in it.
    pub async fn config(&self, key: &DeviceKey) -> Result<Option<DeviceConfig>, RegistryError> {
        self.beside(config_key(&key.to_string())).await
    }

    /// What a device has reported, the newest first.
    ///
    /// # Errors
    /// The store, or what is in it.
    pub async fn states(&self, key: &DeviceKey) -> Result<Vec<Reported>, RegistryError> {
        let states = self.beside(states_key(&key.to_string())).await?;
        Ok(states.unwrap_or_default())
    }

    /// The commands that were sent to a device last, the newest first.
    ///
    /// # Errors
    /// The store, or what is in it.
    pub async fn commands(&self, key: &DeviceKey) -> Result<Vec<Sent>, RegistryError> {
        let sent = self.beside(commands_key(&key.to_string())).await?;
        Ok(sent.unwrap_or_default())
    }

    /// Stores a configuration. With `only`, if the one that is there has that version (0: there is none). The device gets it by
    /// [`Hub::set_device_config`](crate::hub::Hub::set_device_config), which calls this.
    ///
    /// # Errors
    /// [`RegistryError::Missing`], [`RegistryError::Changed`] with the version that is there; bounds; the store.
    pub(crate) async fn store_config(
        &self,
        key: &DeviceKey,
        data: &[u8],
        only: Option<u64>,
        now: u64,
    ) -> Result<DeviceConfig, RegistryError> {
        check_payload("data", data)?;
        self.must_exist(key).await?;
        let stored = self.modify(config_key(&key.to_string()), |old: Option<DeviceConfig>| {
            let version = old.map_or(0, |old| old.version);
            if only.is_some_and(|only| only != version) {
                return Err(RegistryError::Changed { revision: version });
            }
            let config = DeviceConfig {
                version: version + 1,
                at: now,
                data: data.to_vec(),
            };
            Ok((config.clone(), config))
        });
        let config = stored.await?;
        self.note_config(key, &config).await?;
        Ok(config)
    }

    /// Notes that a command is being sent.
    pub(crate) async fn note_command(
        &self,
        key: &DeviceKey,
        subfolder: &str,
        data: &[u8],
        now: u64,
    ) -> Result<Sent, RegistryError> {
        check_payload("data", data)?;
        check_subfolder(subfolder)?;
        self.must_exist(key).await?;
        self.modify(commands_key(&key.to_string()), |old: Option<Vec<Sent>>| {
            let mut all = old.unwrap_or_default();
            let sent = Sent {
                id: all.first().map_or(1, |newest| newest.id + 1),
                at: now,
                subfolder: subfolder.to_owned(),
                size: data.len(),
            };
            all.insert(0, sent.clone());
            all.truncate(COMMANDS_MAX);
            Ok((all, sent))
        })
        .await
    }

    /// Keeps what a device has reported.
    pub(crate) async fn store_state(
        &self,
        key: &str,
        reported: &Reported,
    ) -> Result<(), RegistryError> {
        self.modify(states_key(key), |old: Option<Vec<Reported>>| {
            let mut all = old.unwrap_or_default();
            all.insert(0, reported.clone());
            all.truncate(STATES_MAX);
            Ok((all, ()))
        })
        .await
    }

    async fn must_exist(&self, key: &DeviceKey) -> Result<(), RegistryError> {
        let found = self.get(key).await?;
        found.map(|_| ()).ok_or(RegistryError::Missing)
    }

    async fn beside<T: DeserializeOwned>(
        &self,
        key: RecordKey,
    ) -> Result<Option<T>, RegistryError> {
        let record = self.one(key.clone()).await?;
        record.map(|record| decode(&key, &record)).transpose()
    }

    async fn modify<T, G>(
        &self,
        key: RecordKey,
        change: impl Fn(Option<T>) -> Result<(T, G), RegistryError>,
    ) -> Result<G, RegistryError>
    where
        T: Serialize + DeserializeOwned,
    {
        for _ in 0..TRIES {
            let old = self.one(key.clone()).await?;
            let expect = expected(old.as_ref());
            let old = old.map(|record| decode(&key, &record)).transpose()?;
            let (new, gives) = change(old)?;
            let put = RecordPut::set(key.clone(), encode(&new)).expecting(expect);
            if let PutOutcome::Done { .. } = self.put_one(put, false).await? {
                return Ok(gives);
            }
        }
        Err(RegistryError::Busy)
    }
}

fn check_subfolder(subfolder: &str) -> Result<(), Invalid> {
    if subfolder.len() > SUBFOLDER_MAX {
        let text = format!("{} bytes: {SUBFOLDER_MAX} at the most", subfolder.len());
        return Err(Invalid::new("subfolder", text));
    }
    let bad = |c: char| c.is_control() || "+#".contains(c);
    if subfolder.contains(bad) || subfolder.starts_with('/') || subfolder.ends_with('/') {
        let text =
            format!("{subfolder:?}: levels of a topic, without + and #, such as \"reboot/now\"");
        return Err(Invalid::new("subfolder", text));
    }
    Ok(())
}

/// What each device has said last, until it is written.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub(crate) states: BTreeMap<Arc<str>, Reported>,
    pub(crate) acknowledged: BTreeMap<Arc<str>, Acknowledged>,
}

impl Reports {
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.acknowledged.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use dunlin_sync::{MemoryStore, Store};

    use super::*;
    use crate::registry::Device;

    #[tokio::test]
    async fn configurations_are_counted_and_bound_to_the_one_before() {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        let key = DeviceKey::new(Some("plant"), "pump").unwrap();
        let early = registry.store_config(&key, b"x", None, 1).await;
        assert!(matches!(early, Err(RegistryError::Missing)), "{early:?}");
        registry.create(&key, Device::new(1)).await.unwrap();
        assert_eq!(registry.config(&key).await.unwrap(), None);
        let first = registry
            .store_config(&key, b"one", Some(0), 2)
            .await
            .unwrap();
        assert_eq!(first.version, 1);
        let late = registry.store_config(&key, b"two", Some(0), 2).await;
        assert!(matches!(late, Err(RegistryError::Changed { revision: 1 })));
        let second = registry
            .store_config(&key, b"\0\xff", None, 3)
            .await
            .unwrap();
        assert_eq!(registry.config(&key).await.unwrap(), Some(second));
        let long = vec![0; PAYLOAD_MAX + 1];
        let long = registry.store_config(&key, &long, None, 3).await;
        assert!(matches!(long, Err(RegistryError::Invalid(_))));
        registry.delete(&key, None).await.unwrap();
        assert_eq!(registry.config(&key).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_newest_reports_and_commands_are_kept() {
        let store = MemoryStore::new().unwrap();
        let registry = Registry::new(store.records());
        let key = DeviceKey::new(None, "pump").unwrap();
        registry.create(&key, Device::new(1)).await.unwrap();
        for n in 0..15_u8 {
            let reported = Reported {
                at_ms: u64::from(n),
                data: vec![n],
            };
            registry.store_state("/pump", &reported).await.unwrap();
            let sent = registry
                .note_command(&key, "reboot", &[n], 7)
                .await
                .unwrap();
            assert_eq!(sent.id, u64::from(n) + 1);
        }
        let states = registry.states(&key).await.unwrap();
        let newest: Vec<_> = states.iter().map(|state| state.at_ms).collect();
        assert_eq!(newest, (5..15).rev().collect::<Vec<_>>());
        assert_eq!(registry.commands(&key).await.unwrap().len(), COMMANDS_MAX);
        for wrong in ["/a", "a/", "a/+", "#", "a\0"] {
            let refused = registry.note_command(&key, wrong, b"", 7).await;
            assert!(matches!(refused, Err(RegistryError::Invalid(_))), "{wrong}");
        }
        registry.delete(&key, None).await.unwrap();
        assert!(registry.states(&key).await.unwrap().is_empty());
    }

    #[test]
    fn topics_of_a_tenants_device_are_below_its_mount_point() {
        let of = |tenant| DeviceKey::new(tenant, "pump").unwrap();
        assert_eq!(topic_of(&of(None), "config"), "/devices/pump/config");
        let mounted = topic_of(&of(Some("plant")), "commands/x");
        assert_eq!(mounted, "$tenant/plant//devices/pump/commands/x");
    }
}
