//! What goes to a device and comes from it: its configuration, what it reports, commands.

use axum::body::Body;
use axum::extract::{Path, State as From};
use axum::response::Response;
use base64ct::{Base64, Encoding};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::no_device;
use super::problem::Problem;
use super::request::{Caller, answer, json as read};
use super::{Admin, Shared};
use crate::registry::{Acknowledged, DeviceConfig, DeviceKey, RegistryError};

/// Bytes for a device: as text, or in base64.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    data: Option<String>,
    /// Of a command: where below `commands`.
    #[serde(default)]
    subfolder: String,
}

impl Payload {
    fn bytes(&self) -> Result<Vec<u8>, Problem> {
        match (&self.text, &self.data) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(data)) => {
                let bytes = Base64::decode_vec(data);
                bytes.map_err(|error| Problem::invalid("data", format!("no base64: {error}")))
            }
            _ => Err(Problem::invalid(
                "body",
                "must have exactly one of text and data (base64)",
            )),
        }
    }
}

/// Bytes of a device, as text where they are that.
fn payload(data: &[u8]) -> Value {
    match std::str::from_utf8(data) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "data": Base64::encode_string(data) }),
    }
}

fn with(mut value: Value, data: &[u8]) -> Value {
    if let (Some(fields), Value::Object(payload)) = (value.as_object_mut(), payload(data)) {
        fields.extend(payload);
    }
    value
}

fn config_json(config: &DeviceConfig, acknowledged: Option<Acknowledged>) -> Value {
    let mut fields = json!({
        "version": config.version,
        "at": config.at,
    });
    if let Some(Acknowledged { version, at }) = acknowledged {
        fields["acknowledged_version"] = version.into();
        fields["acknowledged_at"] = at.into();
    }
    with(fields, &config.data)
}

/// What the device has acknowledged so far.
async fn acknowledged(
    admin: &Admin,
    key: &DeviceKey,
) -> Result<Option<Acknowledged>, RegistryError> {
    let found = admin.registry.statuses(std::slice::from_ref(key)).await?;
    let config = found.into_iter().next().and_then(|status| status.config);
    Ok(config.and_then(|config| config.acknowledged))
}

pub(super) async fn config(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let key = caller.device(&admin, &id)?;
    let found = admin.hub.registry().config(&key).await?;
    let found = found
        .ok_or_else(|| Problem::missing(format!("device {:?} has no configuration", key.id())))?;
    Ok(answer(
        StatusCode::OK,
        Some(found.version),
        &config_json(&found, acknowledged(&admin, &key).await?),
    ))
}

/// `If-Match` is the version that it takes the place of.
pub(super) async fn set_config(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (key, only, wanted) = caller
        .change::<Payload>(&admin, &id, &headers, body)
        .await?;
    if !wanted.subfolder.is_empty() {
        return Err(Problem::invalid("subfolder", "only commands have one"));
    }
    let config = admin
        .hub
        .set_device_config(&key, &wanted.bytes()?, only)
        .await?;
    admin.did(
        &caller,
        "device.config",
        &format!("{key} version {}", config.version),
    );
    Ok(answer(
        StatusCode::OK,
        Some(config.version),
        &config_json(&config, acknowledged(&admin, &key).await?),
    ))
}

pub(super) async fn states(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let key = caller.device(&admin, &id)?;
    let registry = admin.hub.registry();
    registry.get(&key).await?.ok_or_else(|| no_device(&key))?;
    let states = registry.states(&key).await?;
    let states: Vec<_> = states
        .iter()
        .map(|state| with(json!({ "at": state.at_ms / 1_000 }), &state.data))
        .collect();
    Ok(answer(StatusCode::OK, None, &json!({ "states": states })))
}

/// Says whether anybody waits for it: a command is not kept for a device that is away without a session.
pub(super) async fn command(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    let key = caller.device(&admin, &id)?;
    let wanted: Payload = read(&headers, body).await?;
    let (sent, delivered) = admin
        .hub
        .send_device_command(&key, &wanted.subfolder, &wanted.bytes()?)
        .await?;
    admin.did(&caller, "device.command", &format!("{key} {}", sent.id));
    Ok(answer(
        StatusCode::OK,
        None,
        &json!({ "id": sent.id, "at": sent.at, "delivered": delivered }),
    ))
}
