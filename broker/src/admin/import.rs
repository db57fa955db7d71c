//! Many devices at once.

use std::collections::HashSet;

use axum::body::Body;
use axum::extract::State as From;
use axum::response::Response;
use hyper::StatusCode;
use serde::Serialize;

use super::json::DeviceJson;
use super::problem::Problem;
use super::request::{Caller, answer, bytes};
use super::{Admin, Shared, now};
use crate::registry::{Device, DeviceKey, Imported, OnExisting};

/// Bytes of one request.
const BODY_MAX: usize = 8 << 20;
/// Lines of one request.
const LINES_MAX: usize = 5_000;

/// What became of an import, or of a part of one.
#[derive(Debug, Default, Serialize)]
struct Done {
    created: usize,
    replaced: usize,
    unchanged: usize,
    /// Lines that were not taken.
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    /// From 1, in this request.
    line: usize,
    reason: String,
}

/// Devices as JSON, one a line. Lines that are not good are told, the others are taken; the same request again changes nothing.
pub(super) async fn devices(
    From(admin): Shared,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    caller.knows(&["existing"])?;
    let existing = match caller.parameter("existing") {
        None | Some("keep") => OnExisting::Keep,
        Some("replace") => OnExisting::Replace,
        Some(other) => {
            let words = format!("existing is {other:?}: must be \"keep\" or \"replace\"");
            return Err(Problem::invalid("existing", words));
        }
    };
    let body = bytes(body, BODY_MAX).await?;
    let now = now();
    // Thousands of keys: other requests are answered meanwhile.
    let (admin_too, caller_too) = (std::sync::Arc::clone(&admin), caller.clone());
    let parsed =
        tokio::task::spawn_blocking(move || parse(&body, &admin_too, &caller_too, now)).await;
    let parsed = parsed.map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "import",
            error.to_string(),
        )
    })??;
    let Parsed {
        places,
        devices,
        refused,
    } = parsed;
    let mut done = Done {
        refused,
        ..Done::default()
    };
    let outcomes = admin.registry.import(devices, existing, now).await?;
    for (line, outcome) in places.into_iter().zip(outcomes) {
        match outcome {
            Ok(Imported::Created) => done.created += 1,
            Ok(Imported::Replaced) => done.replaced += 1,
            Ok(Imported::Unchanged) => done.unchanged += 1,
            Err(error) => done.refused.push(Refused {
                line,
                reason: error.to_string(),
            }),
        }
    }
    done.refused.sort_by_key(|refused| refused.line);
    let what = format!("{} created, {} replaced", done.created, done.replaced);
    admin.did(&caller, "device.import", &what);
    Ok(answer(StatusCode::OK, None, &done))
}

/// The lines of an import.
struct Parsed {
    /// Where each device stands.
    places: Vec<usize>,
    devices: Vec<(DeviceKey, Device)>,
    refused: Vec<Refused>,
}

fn parse(body: &[u8], admin: &Admin, caller: &Caller, now: u64) -> Result<Parsed, Problem> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    let lines: Vec<_> = lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .collect();
    if lines.len() > LINES_MAX {
        let words = format!(
            "the body has {} lines: {LINES_MAX} at the most",
            lines.len()
        );
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            words,
        ));
    }
    let mut parsed = Parsed {
        places: Vec::with_capacity(lines.len()),
        devices: Vec::with_capacity(lines.len()),
        refused: Vec::new(),
    };
    let mut seen = HashSet::new();
    for (index, line) in lines {
        let number = index + 1;
        let device = serde_json::from_slice::<DeviceJson>(line).map_err(|error| error.to_string());
        let device = device.and_then(|mut wanted| {
            if wanted.tenant.is_none() {
                wanted.tenant = caller.tenant().map(str::to_owned);
            }
            caller
                .may_tenant(admin, wanted.tenant.as_deref())
                .map_err(|problem| problem.detail)?;
            wanted.device(now).map_err(|invalid| invalid.to_string())
        });
        match device {
            Ok((key, _)) if !seen.insert(key.to_string()) => parsed.refused.push(Refused {
                line: number,
                reason: format!("device {:?} stands in this part twice", key.id()),
            }),
            Ok(device) => {
                parsed.places.push(number);
                parsed.devices.push(device);
            }
            Err(reason) => parsed.refused.push(Refused {
                line: number,
                reason,
            }),
        }
    }
    Ok(parsed)
}
