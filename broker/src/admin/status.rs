//! What is noted of a device while it is served, as it is shown.

use serde::{Deserialize, Serialize};

use super::json::DeviceJson;
use super::problem::Problem;
use crate::registry::{ConfigStatus, Found, Registry, Seen, Status};

/// Devices whose notes are read at once.
const AT_ONCE: usize = 1_000;

/// How far a device is with its configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigJson {
    version: u64,
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acknowledged_version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acknowledged_at: Option<u64>,
}

/// When a device was seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeenJson {
    connected_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disconnected_at: Option<u64>,
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replica: Option<u64>,
}

impl ConfigJson {
    fn of(config: &ConfigStatus) -> Self {
        Self {
            version: config.version,
            at: config.at,
            acknowledged_version: config.acknowledged.map(|it| it.version),
            acknowledged_at: config.acknowledged.map(|it| it.at),
        }
    }
}

impl SeenJson {
    fn of(seen: Seen) -> Self {
        Self {
            connected_at: seen.connected_at_ms / 1_000,
            disconnected_at: seen.disconnected_at_ms.map(|at| at / 1_000),
            address: seen.address,
            replica: seen.replica,
        }
    }
}

impl DeviceJson {
    fn with(self, status: Status) -> Self {
        Self {
            config: status.config.as_ref().map(ConfigJson::of),
            last_seen: status.seen.map(SeenJson::of),
            ..self
        }
    }
}

/// The devices with what is noted of them.
pub(super) async fn with_status(
    registry: &Registry,
    found: &[Found],
) -> Result<Vec<DeviceJson>, Problem> {
    let mut devices = Vec::with_capacity(found.len());
    for part in found.chunks(AT_ONCE) {
        let keys: Vec<_> = part.iter().map(|found| found.key.clone()).collect();
        let statuses = registry.statuses(&keys).await?;
        let shown = part.iter().map(DeviceJson::of).zip(statuses);
        devices.extend(shown.map(|(device, status)| device.with(status)));
    }
    Ok(devices)
}
