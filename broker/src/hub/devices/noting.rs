//! What devices have said, and when they were seen, is written down, by one task each.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Hub, PAUSE, Reports};

/// Pause between two writings of what devices have reported, so that those that come together are written together.
const GATHER: Duration = Duration::from_millis(100);
/// Pause between two writings of when devices were seen: one that comes and goes all the time is written once in it.
const SEEN_EVERY: Duration = Duration::from_secs(1);

impl Hub {
    /// Writes what devices have said. `false`: something must be tried again, after a pause.
    async fn note_reports(&self) -> bool {
        let _one_at_a_time = self.devices.noting.lock().await;
        let Reports {
            states,
            acknowledged,
        } = std::mem::take(&mut *self.devices.reports.lock());
        let registry = &self.devices.registry;
        for (key, state) in states {
            if let Err(error) = registry.store_state(&key, &state).await {
                tracing::warn!(device = %key, %error, "what a device has reported is not kept");
            }
        }
        let acknowledged: Vec<_> = acknowledged.into_iter().collect();
        let noted = registry.note_acknowledged(acknowledged.clone()).await;
        if let Err(error) = &noted {
            tracing::warn!(%error, devices = acknowledged.len(), "what devices have acknowledged cannot be noted: it is tried again");
            for (key, it) in acknowledged {
                self.devices.acknowledged_at(&key, it);
            }
        }
        noted.is_ok()
    }

    /// Writes when devices were seen.
    async fn note_seen(&self) {
        let _one_at_a_time = self.devices.noting.lock().await;
        let seen = std::mem::take(&mut *self.devices.seen.lock());
        let seen = seen.into_iter().collect();
        if let Err(error) = self.devices.registry.note_seen(seen).await {
            tracing::warn!(%error, "when devices were seen is not noted");
        }
    }

    /// Writes all of it without a pause: the broker stops.
    pub(in crate::hub) async fn note_last(&self) {
        let _is_done = self.note_reports().await;
        self.note_seen().await;
    }
}

pub(super) async fn write_reports(hub: Weak<Hub>) {
    while let Some(held) = hub.upgrade() {
        if held.devices.reports.lock().is_empty() {
            let reported = Arc::clone(&held.devices.reported);
            drop(held);
            reported.notified().await;
            tokio::time::sleep(GATHER).await;
        } else if !held.note_reports().await {
            drop(held);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

pub(super) async fn write_seen(hub: Weak<Hub>) {
    while let Some(held) = hub.upgrade() {
        if held.devices.seen.lock().is_empty() {
            let saw = Arc::clone(&held.devices.saw);
            drop(held);
            saw.notified().await;
        } else {
            held.note_seen().await;
            drop(held);
        }
        tokio::time::sleep(SEEN_EVERY).await;
    }
}
