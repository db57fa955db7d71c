//! Credentials of a device: added, removed, exchanged.

use axum::body::Body;
use axum::extract::{Path, State as From};
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;

use super::devices::shown;
use super::json::CredentialJson;
use super::problem::Problem;
use super::request::Caller;
use super::{Shared, now};
use crate::registry::{Device, Invalid, RegistryError};

/// Longest time that the credentials before may go on, in seconds: a month.
const GRACE_MAX: u64 = 31 * 24 * 3_600;

/// Adds one. The same again is success; another one of the same id is not.
pub(super) async fn add(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (key, only, wanted) = caller
        .change::<CredentialJson>(&admin, &id, &headers, body)
        .await?;
    let credential = wanted.credential("credential")?;
    let add = |device: &mut Device| match device
        .credentials
        .iter()
        .find(|other| other.id == credential.id)
    {
        Some(other) if *other == credential => Ok(false),
        Some(_) => {
            let text = format!(
                "the device has another credential of id {:?}: remove it, or give another id",
                credential.id
            );
            Err(RegistryError::Invalid(Invalid::new("id", text)))
        }
        None => {
            device.credentials.push(credential.clone());
            Ok(true)
        }
    };
    let (found, new) = admin.registry.change(&key, only, now(), add).await?;
    if new {
        admin.did(
            &caller,
            "credential.add",
            &format!("{key} {}", credential.id),
        );
    }
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(shown(status, &found))
}

/// Removes one; who is connected by it is ended on every replica when this answers.
pub(super) async fn remove(
    From(admin): Shared,
    caller: Caller,
    Path((id, credential)): Path<(String, String)>,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    let key = caller.device(&admin, &id)?;
    let remove = |device: &mut Device| {
        let before = device.credentials.len();
        device.credentials.retain(|other| other.id != credential);
        Ok(device.credentials.len() < before)
    };
    let (found, was) = admin
        .registry
        .change(&key, caller.only()?, now(), remove)
        .await?;
    if !was {
        return Err(Problem::missing(format!(
            "device {:?} has no credential {credential:?}",
            key.id()
        )));
    }
    admin.did(&caller, "credential.remove", &format!("{key} {credential}"));
    Ok(shown(StatusCode::OK, &found))
}

/// A new credential in place of those that there are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    credential: CredentialJson,
    /// Seconds for which those before stay good; 0: they are removed at once.
    #[serde(default)]
    grace_s: u64,
}

pub(super) async fn rotate(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (key, only, wanted) = caller
        .change::<Rotation>(&admin, &id, &headers, body)
        .await?;
    if wanted.grace_s > GRACE_MAX {
        let words = format!(
            "grace_s is {}: must be from 0 to {GRACE_MAX}",
            wanted.grace_s
        );
        return Err(Problem::invalid("grace_s", words));
    }
    let credential = wanted.credential.credential("credential")?;
    let now = now();
    let until = now + wanted.grace_s;
    let rotate = |device: &mut Device| {
        if let Some(other) = device
            .credentials
            .iter()
            .find(|other| other.id == credential.id)
            && other.shown != credential.shown
        {
            let text = format!(
                "the device has another credential of id {:?}: give another id",
                credential.id
            );
            return Err(RegistryError::Invalid(Invalid::new("credential.id", text)));
        }
        device.credentials.retain(|other| other.id != credential.id);
        if wanted.grace_s == 0 {
            device.credentials.clear();
        }
        for old in &mut device.credentials {
            // One that begins later would begin after its end.
            if old.not_before.is_none_or(|from| from < until) {
                old.expires_at = Some(old.expires_at.map_or(until, |at| at.min(until)));
            }
        }
        device.credentials.push(credential.clone());
        Ok(())
    };
    let (found, ()) = admin.registry.change(&key, only, now, rotate).await?;
    admin.did(
        &caller,
        "credential.rotate",
        &format!("{key} {}", credential.id),
    );
    Ok(shown(StatusCode::OK, &found))
}
