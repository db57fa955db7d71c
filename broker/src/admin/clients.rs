//! Clients that are connected to this replica.

use axum::extract::{Path, State as From};
use axum::response::{IntoResponse, Response};
use dunlin_protocol::Version;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::Shared;
use super::problem::Problem;
use super::request::{Caller, answer};
use crate::core::mount;
use crate::hub::live::{EndReason, LiveClient};

/// Clients in one answer.
const SHOWN_MAX: usize = 1_000;

#[derive(Debug, Serialize)]
struct ClientJson {
    client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    method: &'static str,
    peer: String,
    listener: String,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

impl ClientJson {
    fn of(client: &LiveClient) -> Self {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        let who = &client.principal;
        Self {
            client_id: mount::own(&client.client_id).to_owned(),
            username: text(&who.username),
            tenant: text(&who.tenant),
            device: text(&who.device),
            method: who.method.as_str(),
            peer: client.peer.to_string(),
            listener: client.listener.name.to_string(),
            version: match client.version {
                Version::V31 => "3.1",
                Version::V311 => "3.1.1",
                Version::V5 => "5.0",
            },
            expires_at: who.expires_at,
        }
    }
}

/// Some of them; how many there are in all is said.
pub(super) async fn list(From(admin): Shared, caller: Caller) -> Result<Response, Problem> {
    caller.knows(&["tenant", "prefix", "device", "limit"])?;
    let tenant = match caller.parameter("tenant") {
        Some(tenant) => Some(Some(tenant).filter(|tenant| !tenant.is_empty())),
        None => caller.tenant().map(Some),
    };
    if let Some(tenant) = tenant {
        caller.may_tenant(&admin, tenant)?;
    }
    let limit = caller.number("limit", 100, SHOWN_MAX)?;
    let prefix = caller.parameter("prefix").unwrap_or_default();
    let device = caller.parameter("device");
    let fits = |client: &LiveClient| {
        mount::own(&client.client_id).starts_with(prefix)
            && tenant.is_none_or(|tenant| client.principal.tenant.as_deref() == tenant)
            && device.is_none_or(|device| client.principal.device.as_deref() == Some(device))
    };
    let found = admin.hub.live_where(fits);
    let clients: Vec<_> = found.iter().take(limit).map(ClientJson::of).collect();
    Ok(answer(
        StatusCode::OK,
        None,
        &json!({ "clients": clients, "total": found.len() }),
    ))
}

/// Ends a client's connection to this replica. It may come again.
pub(super) async fn disconnect(
    From(admin): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    caller.knows(&["tenant"])?;
    let tenant = caller.tenant_meant(&admin)?;
    let ended = admin.hub.end_where(EndReason::Administrative, |client| {
        mount::own(&client.client_id) == id
            && client.principal.tenant.as_deref() == tenant.as_deref()
    });
    if ended == 0 {
        return Err(Problem::missing(format!(
            "no client {id:?} is connected to this replica"
        )));
    }
    admin.did(&caller, "client.disconnect", &id);
    Ok(StatusCode::NO_CONTENT.into_response())
}
