//! The connections of devices of the registry: they end, or are renewed, when their devices change.
//!
//! A change is told with a hint ([`hint`]). That a device is blocked or removed, or that a credential was taken from it, ends its connections at once, in
//! the step in which the announcement is applied: when who has made that change is told that it is everywhere, they have been told to end. After any other change
//! it is read again by one task, some milliseconds later; and so is every device that is connected here when announcements were missed.
//!
//! What devices report goes the other way, by one task too: of each the newest, as far as the one before is not written yet.

mod noting;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dunlin_protocol::QoS;
use dunlin_sync::cluster::ReplicaId;
use dunlin_sync::records::{RecordChange, RecordKey, RecordListener, Table};
use dunlin_sync::wait_durable;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Hub;
use super::live::{About, EndReason, LiveClient};
use super::publish::{NOBODY, Outcome};
use crate::auth::Principal;
use crate::core::device_config;
use crate::core::frames::{Forwarded, Incoming, Origin, Topic};
use crate::hash::RandomState;
use crate::registry::{
    Acknowledged, DeviceConfig, DeviceKey, PAYLOAD_MAX, Registry, RegistryError, Reported, Reports,
    Seen, Sent, Withdrawn, hint, key_of, read_device, renewed, topic_of,
};

/// Devices that are read at once.
const READ_AT_ONCE: usize = 256;
/// Pause before they are read again when that has failed.
const PAUSE: Duration = Duration::from_millis(500);

/// The registry, and who of it is connected here.
pub(crate) struct Devices {
    pub(crate) registry: Arc<Registry>,
    /// Its connections. At most as many as there are.
    live: Mutex<HashMap<String, Vec<Here>, RandomState>>,
    /// To be read again. At most as many as are connected.
    pending: Mutex<BTreeSet<String>>,
    wake: Arc<Notify>,
    /// What devices have said, and is not written yet. Of each at most one report and one acknowledgement.
    reports: Mutex<Reports>,
    reported: Arc<Notify>,
    /// Who has come or gone, until that is written. At most as many as have done so within the pause, or since the store has answered.
    seen: Mutex<BTreeMap<Arc<str>, Seen>>,
    saw: Arc<Notify>,
    /// Held while they are written, so that who waits for the last of it waits for what is under way.
    noting: tokio::sync::Mutex<()>,
    /// Kept, as the store holds it weakly.
    listener: Mutex<Option<Arc<dyn RecordListener>>>,
}

impl Devices {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry: Arc::new(registry),
            live: Mutex::default(),
            pending: Mutex::default(),
            wake: Arc::default(),
            reports: Mutex::default(),
            reported: Arc::default(),
            seen: Mutex::default(),
            saw: Arc::default(),
            noting: tokio::sync::Mutex::default(),
            listener: Mutex::default(),
        }
    }

    pub(super) fn opened(&self, peer: &About, number: u64, replica: Option<ReplicaId>) {
        let Some(key) = key_of(&peer.principal()).map(|key| key.to_string()) else {
            return;
        };
        let since_ms = now_ms();
        let here = Here { number, since_ms };
        let mut live = self.live.lock();
        live.entry(key.clone()).or_default().push(here);
        drop(live);
        self.saw(&key, seen(peer, since_ms, None, replica));
    }

    /// It is there, or was until now.
    fn saw(&self, key: &str, seen: Seen) {
        let mut all = self.seen.lock();
        match all.get_mut(key) {
            Some(before) if *before >= seen => {}
            Some(before) => *before = seen,
            None => drop(all.insert(key.into(), seen)),
        }
        drop(all);
        self.saw.notify_one();
    }

    /// A device reports its state.
    pub(crate) fn report(&self, key: &str, at_ms: u64, data: &[u8]) {
        if data.len() > PAYLOAD_MAX {
            tracing::info!(
                device = key,
                bytes = data.len(),
                "a report of a device is not kept: {PAYLOAD_MAX} bytes are the most"
            );
            return;
        }
        let reported = Reported {
            at_ms,
            data: data.to_vec(),
        };
        self.reports.lock().states.insert(key.into(), reported);
        self.reported.notify_one();
    }

    /// A device has acknowledged a version of its configuration.
    pub(crate) fn acknowledged(&self, key: &str, version: NonZeroU64) {
        let version = version.get();
        self.acknowledged_at(
            key,
            Acknowledged {
                version,
                at: now_s(),
            },
        );
    }

    fn acknowledged_at(&self, key: &str, it: Acknowledged) {
        let mut reports = self.reports.lock();
        let newest = reports.acknowledged.entry(key.into()).or_default();
        if newest.version < it.version {
            *newest = it;
        }
        drop(reports);
        self.reported.notify_one();
    }

    pub(super) fn closed(&self, peer: &About, number: u64, replica: Option<ReplicaId>) {
        let Some(key) = key_of(&peer.principal()).map(|key| key.to_string()) else {
            return;
        };
        let mut live = self.live.lock();
        let Some(all) = live.get_mut(&key) else {
            return;
        };
        let place = all.iter().position(|here| here.number == number);
        let here = place.map(|place| all.swap_remove(place));
        if all.is_empty() {
            live.remove(&key);
        }
        drop(live);
        if let Some(Here { since_ms, .. }) = here {
            self.saw(&key, seen(peer, since_ms, Some(now_ms()), replica));
        }
    }

    /// Has those among the devices connected here read again of which `wanted` says so.
    fn look_at(&self, wanted: impl Fn(&str) -> bool) {
        let live = self.live.lock();
        let keys: Vec<_> = live.keys().filter(|key| wanted(key)).cloned().collect();
        drop(live);
        if !keys.is_empty() {
            self.pending.lock().extend(keys);
            self.wake.notify_one();
        }
    }

    /// Has a client's device read again: it may have changed while the client was on its way in.
    pub(crate) fn look_again(&self, principal: &Principal) {
        if let Some(key) = key_of(principal) {
            self.pending.lock().insert(key.to_string());
            self.wake.notify_one();
        }
    }
}

impl Drop for Devices {
    /// The task that reads them again ends.
    fn drop(&mut self) {
        self.wake.notify_one();
        self.reported.notify_one();
        self.saw.notify_one();
    }
}

/// A connection of a device.
#[derive(Clone, Copy)]
struct Here {
    number: u64,
    since_ms: u64,
}

fn seen(
    peer: &About,
    connected_at_ms: u64,
    disconnected_at_ms: Option<u64>,
    replica: Option<ReplicaId>,
) -> Seen {
    Seen {
        connected_at_ms,
        disconnected_at_ms,
        address: peer.address().to_string(),
        replica: replica.map(|replica| replica.0),
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn now_s() -> u64 {
    now_ms() / 1_000
}

struct Listener(Weak<Hub>);

impl RecordListener for Listener {
    fn changed(&self, change: &RecordChange) {
        let Some(hub) = self.0.upgrade() else {
            return;
        };
        match change {
            RecordChange::Changed { key, hint, .. } if key.table == Table::Device => {
                if hint & hint::END != 0 {
                    hub.end_device(&key.key);
                } else if hub.devices.live.lock().contains_key(&*key.key) {
                    hub.devices.pending.lock().insert(key.key.to_string());
                    hub.devices.wake.notify_one();
                }
            }
            RecordChange::Changed { key, hint, .. }
                if key.table == Table::Revoked && hint & hint::END != 0 =>
            {
                if let Some(withdrawn) = Withdrawn::parse(&key.key) {
                    hub.end_withdrawn_of(withdrawn);
                }
            }
            RecordChange::Changed { .. } => {}
            RecordChange::Missed { .. } => hub
                .devices
                .look_at(|key| change.concerns(&RecordKey::new(Table::Device, key))),
        }
    }
}

impl Hub {
    /// From now on devices are looked after.
    pub(super) fn watch_devices(self: &Arc<Self>) {
        let listener: Arc<dyn RecordListener> = Arc::new(Listener(Arc::downgrade(self)));
        self.devices.registry.records().listen(&listener);
        *self.devices.listener.lock() = Some(listener);
        let hub = Arc::downgrade(self);
        self.spawn(read_again(hub.clone()));
        self.spawn(noting::write_reports(hub.clone()));
        self.spawn(noting::write_seen(hub));
    }

    /// Gives a device a configuration: it is stored, and delivered as a retained message on its topic. With `only`, if the one that is there has
    /// that version (0: there is none).
    ///
    /// # Errors
    /// [`RegistryError::Missing`], [`RegistryError::Changed`] with the version that is there; bounds; the store.
    pub async fn set_device_config(
        self: &Arc<Self>,
        key: &DeviceKey,
        data: &[u8],
        only: Option<u64>,
    ) -> Result<DeviceConfig, RegistryError> {
        let registry = &self.devices.registry;
        let config = registry.store_config(key, data, only, now_s()).await?;
        let topic = topic_of(key, "config");
        let mut newest = config.clone();
        loop {
            let properties = device_config::properties(newest.version);
            self.publish_to_device(&topic, &properties, &newest.data, true)
                .await;
            // Somebody may have set a newer one meanwhile, and have been faster here: the newest must be the last.
            match registry.config(key).await {
                Ok(Some(found)) if found.version > newest.version => newest = found,
                _ => return Ok(config),
            }
        }
    }

    /// Sends a command to a device, at QoS 1. `false`: nobody waits for it there, connected or with a session that outlives the connection; it is not
    /// kept.
    ///
    /// # Errors
    /// [`RegistryError::Missing`]; bounds; the store.
    pub async fn send_device_command(
        self: &Arc<Self>,
        key: &DeviceKey,
        subfolder: &str,
        data: &[u8],
    ) -> Result<(Sent, bool), RegistryError> {
        let registry = &self.devices.registry;
        let sent = registry.note_command(key, subfolder, data, now_s()).await?;
        let below = match subfolder {
            "" => "commands".to_owned(),
            subfolder => format!("commands/{subfolder}"),
        };
        let wanted = self
            .publish_to_device(&topic_of(key, &below), &[], data, false)
            .await;
        Ok((sent, wanted))
    }

    /// Publishes at QoS 1 in the whole cluster; resolves when that is durable. Gives back whether anybody wanted it.
    async fn publish_to_device(
        self: &Arc<Self>,
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        retain: bool,
    ) -> bool {
        let (wanted, ticket) = {
            let origin = Origin {
                received_at: self.clock.now_us(),
                publisher: None,
            };
            let publish = Incoming {
                topic: Topic::Borrowed(topic),
                qos: QoS::AtLeastOnce,
                retain,
                properties: Forwarded::Borrowed(properties),
                expiry: None,
                payload,
                once: None,
                held: None,
                received: None,
            };
            let routes = self.directory.routes(topic);
            let mut outcome = Outcome::default();
            let wanted = self.publish_run(NOBODY, &[publish], &origin, &routes, &mut outcome);
            self.count(outcome.tally);
            (wanted, self.submit(outcome.ops))
        };
        // What comes of it is in the store's health.
        let _is_open = wait_durable(&*self.store, ticket).await;
        wanted
    }

    /// The devices of the registry.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.devices.registry
    }

    fn clients_of(&self, key: &str) -> Vec<LiveClient> {
        let live = self.devices.live.lock();
        let here = live.get(key).into_iter().flatten();
        let numbers: Vec<_> = here.map(|here| here.number).collect();
        drop(live);
        self.clients_of_numbers(&numbers)
    }

    fn end_device(&self, key: &str) {
        self.end_those_of(key, "its device was blocked or removed", |_| true);
    }

    fn end_withdrawn_of(&self, withdrawn: Withdrawn<'_>) {
        let why = "its credential was taken from its device";
        self.end_those_of(withdrawn.device, why, |who| withdrawn.let_in(who));
    }

    fn end_those_of(&self, key: &str, why: &str, which: impl Fn(&Principal) -> bool) {
        self.note_change();
        for client in self.clients_of(key) {
            if client.wake.close_request().is_none() && which(&client.principal) {
                tracing::info!(client = %client.client_id, device = key, "{why}: the connection ends");
                client.wake.close(EndReason::Revoked.into());
            }
        }
    }

    /// Reads devices again; `false`: that has failed.
    async fn read_devices(self: &Arc<Self>, keys: &[String]) -> bool {
        let asked = keys
            .iter()
            .map(|key| RecordKey::new(Table::Device, key.as_str()));
        let records = match self.devices.registry.records().get(asked.collect()).await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, devices = keys.len(), "devices that may have changed cannot be read: it is tried again");
                return false;
            }
        };
        self.note_change();
        for (text, record) in keys.iter().zip(records) {
            let found = match (DeviceKey::parse(text), record) {
                (Some(key), Some(record)) => match read_device(&key, &record) {
                    Ok(found) => Some(found),
                    Err(error) => {
                        tracing::warn!(%error, "a device that is connected cannot be read");
                        continue;
                    }
                },
                _ => None,
            };
            for client in self.clients_of(text) {
                match renewed(&client.principal, found.as_ref()) {
                    Some(principal) => self.renew_client(&client, principal),
                    None if client.wake.close_request().is_none() => {
                        tracing::info!(client = %client.client_id, device = %text, "its device or credential is no longer good: the connection ends");
                        client.wake.close(EndReason::Revoked.into());
                    }
                    None => {}
                }
            }
        }
        true
    }
}

async fn read_again(hub: Weak<Hub>) {
    while let Some(held) = hub.upgrade() {
        let wake = Arc::clone(&held.devices.wake);
        let keys: Vec<_> = {
            let mut pending = held.devices.pending.lock();
            let taken = pending
                .iter()
                .take(READ_AT_ONCE)
                .cloned()
                .collect::<Vec<_>>();
            for key in &taken {
                pending.remove(key);
            }
            taken
        };
        if keys.is_empty() {
            drop(held);
            wake.notified().await;
        } else if !held.read_devices(&keys).await {
            held.devices.pending.lock().extend(keys);
            drop(held);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
