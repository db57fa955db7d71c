//! Devices: listed, made, shown, changed, removed.

use axum::body::Body;
use axum::extract::{Path, State as From};
use axum::response::{IntoResponse, Response};
use dunlin_sync::records::Cursor;
use hyper::StatusCode;
use hyper::header::{HeaderMap, LOCATION};
use serde_json::json;

use super::json::{DeviceJson, DevicePatch};
use super::problem::Problem;
use super::request::{Caller, answer, json as read};
use super::status::with_status;
use super::{Shared, now};
use crate::registry::{Found, Imported, State};

/// Devices on one page.
const PAGE_MAX: usize = 1_000;
/// Records that are looked at for one page, of which filters may leave few.
const LOOKED_AT_MAX: usize = 20_000;

/// Which devices are listed.
struct Filter {
    tenant: Option<Option<String>>,
    prefix: String,
    state: Option<State>,
    attribute: Option<(String, Option<String>)>,
}

impl Filter {
    fn read(caller: &Caller) -> Result<Self, Problem> {
        let state = match caller.parameter("state") {
            None => None,
            Some("active") => Some(State::Active),
            Some("blocked") => Some(State::Blocked),
            Some(other) => {
                let words = format!("state is {other:?}: must be \"active\" or \"blocked\"");
                return Err(Problem::invalid("state", words));
            }
        };
        let attribute = caller
            .parameter("attribute")
            .map(|text| match text.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (text.to_owned(), None),
            });
        let asked = caller.parameter("tenant").or(caller.tenant());
        Ok(Self {
            tenant: asked.map(|tenant| Some(tenant.to_owned()).filter(|tenant| !tenant.is_empty())),
            prefix: caller.parameter("prefix").unwrap_or_default().to_owned(),
            state,
            attribute,
        })
    }

    fn fits(&self, found: &Found) -> bool {
        let attribute = self.attribute.as_ref().is_none_or(|(name, value)| {
            let has = found.device.attributes.get(name);
            has.is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
        });
        attribute
            && self.state.is_none_or(|state| state == found.device.state)
            && self
                .tenant
                .as_ref()
                .is_none_or(|tenant| tenant.as_deref() == found.key.tenant())
            && found.key.id().starts_with(&self.prefix)
    }
}

/// A page of devices. In no order; with filters a page may be short or empty and not the last.
pub(super) async fn list(From(admin): Shared, caller: Caller) -> Result<Response, Problem> {
    caller.knows(&[
        "tenant",
        "prefix",
        "state",
        "attribute",
        "limit",
        "cursor",
        "status",
    ])?;
    if let Some(tenant) = caller.parameter("tenant") {
        caller.may_tenant(&admin, Some(tenant).filter(|tenant| !tenant.is_empty()))?;
    }
    let filter = Filter::read(&caller)?;
    let limit = caller.number("limit", 100, PAGE_MAX)?;
    let status = match caller.parameter("status") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let words = format!("status is {other:?}: must be \"true\" or \"false\"");
            return Err(Problem::invalid("status", words));
        }
    };
    let mut from = match caller.parameter("cursor") {
        None => None,
        Some(text) => {
            let cursor = Cursor::of_text(text);
            let wrong = || {
                Problem::invalid(
                    "cursor",
                    "this is no cursor: give what the page before has as \"next\"",
                )
            };
            Some(cursor.ok_or_else(wrong)?)
        }
    };
    let mut found = Vec::new();
    let mut looked_at = 0;
    loop {
        // Never more than fit on the page: a cursor is at the end of what was looked at.
        let page = admin.registry.list(from, limit - found.len()).await?;
        looked_at += limit - found.len();
        let fits = page.devices.into_iter().filter(|found| filter.fits(found));
        found.extend(fits);
        from = page.next;
        if from.is_none() || found.len() >= limit || looked_at >= LOOKED_AT_MAX {
            break;
        }
    }
    let next = from.map(|cursor| cursor.to_text());
    let devices = match status {
        true => with_status(&admin.registry, &found).await?,
        false => found.iter().map(DeviceJson::of).collect(),
    };
    Ok(answer(
        StatusCode::OK,
        None,
        &json!({ "devices": devices, "next": next }),
    ))
}

pub(super) async fn create(
    From(admin): Shared,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.knows(&[])?;
    caller.may_write(&admin)?;
    let mut wanted: DeviceJson = read(&headers, body).await?;
    if wanted.tenant.is_none() {
        wanted.tenant = caller.tenant().map(str::to_owned);
    }
    caller.may_tenant(&admin, wanted.tenant.as_deref())?;
    let (key, device) = wanted.device(now())?;
    let (found, how) = admin.registry.create(&key, device).await?;
    let status = match how {
        Imported::Created => {
            admin.did(&caller, "device.create", &key.to_string());
            StatusCode::CREATED
        }
        Imported::Replaced | Imported::Unchanged => StatusCode::OK,
    };
    let mut response = shown(status, &found);
    if status == StatusCode::CREATED {
        let query = key
            .tenant()
            .map(|tenant| format!("?tenant={tenant}"))
            .unwrap_or_default();
        if let Ok(place) = format!("/v1/devices/{}{query}", key.id()).parse() {
            response.headers_mut().insert(LOCATION, place);
        }
    }
    Ok(response)
}

pub(super) async fn show(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let key = caller.device(&admin, &id)?;
    let found = admin.registry.get(&key).await?;
    let found = found.ok_or_else(|| no_device(&key))?;
    let revision = Some(found.revision);
    let shown = with_status(&admin.registry, &[found]).await?;
    Ok(answer(StatusCode::OK, revision, &shown.first()))
}

pub(super) async fn change(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (key, only, patch) = caller
        .change::<DevicePatch>(&admin, &id, &headers, body)
        .await?;
    let apply = |device: &mut crate::registry::Device| {
        patch.apply(device);
        Ok(())
    };
    let (found, ()) = admin.registry.change(&key, only, now(), apply).await?;
    let action = match patch.state {
        Some(State::Blocked) => "device.block",
        Some(State::Active) => "device.unblock",
        None => "device.change",
    };
    admin.did(&caller, action, &key.to_string());
    Ok(shown(StatusCode::OK, &found))
}

pub(super) async fn remove(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    let key = caller.device(&admin, &id)?;
    admin.registry.delete(&key, caller.only()?).await?;
    admin.did(&caller, "device.remove", &key.to_string());
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) fn no_device(key: &crate::registry::DeviceKey) -> Problem {
    let whose = key
        .tenant()
        .map(|tenant| format!(" of tenant {tenant:?}"))
        .unwrap_or_default();
    Problem::missing(format!("there is no device {:?}{whose}", key.id()))
}

pub(super) fn shown(status: StatusCode, found: &Found) -> Response {
    answer(status, Some(found.revision), &DeviceJson::of(found))
}
