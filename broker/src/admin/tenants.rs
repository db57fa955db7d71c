//! Tenants: their bounds, and what they use of this replica.

use axum::extract::{Path, State as From};
use axum::response::Response;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::problem::Problem;
use super::request::{Caller, answer};
use super::{Admin, Shared};
use crate::config::Quotas;
use crate::core::mount;
use crate::registry::device::{TENANT_MAX, check_name};
use crate::tenant::Tenant;

/// Tenants in one answer.
const SHOWN_MAX: usize = 1_000;

#[derive(Debug, Serialize)]
struct TenantJson {
    name: String,
    /// It has an entry of its own in the configuration.
    configured: bool,
    mount: String,
    quotas: QuotasJson,
    connections: usize,
    sessions: usize,
    retained: usize,
    retained_bytes: u64,
    queued_bytes: u64,
    /// What its clients have done since the replica was started; those without an entry of their own are counted together.
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<TotalsJson>,
}

#[derive(Debug, Serialize)]
struct TotalsJson {
    publishes: u64,
    publish_bytes: u64,
    refused: u64,
    slowed: u64,
}

/// 0 is no bound.
#[derive(Debug, Serialize)]
struct QuotasJson {
    max_connections: u32,
    messages_per_second: u32,
    bytes_per_second: u64,
    max_sessions: u32,
    max_retained: u32,
    max_retained_bytes: u64,
    max_queued_bytes: u64,
}

impl QuotasJson {
    fn of(quotas: &Quotas) -> Self {
        Self {
            max_connections: quotas.max_connections,
            messages_per_second: quotas.messages_per_second,
            bytes_per_second: quotas.bytes_per_second,
            max_sessions: quotas.max_sessions,
            max_retained: quotas.max_retained,
            max_retained_bytes: quotas.max_retained_bytes,
            max_queued_bytes: quotas.max_queued_bytes,
        }
    }
}

impl TenantJson {
    fn of(admin: &Admin, tenant: &Tenant) -> Self {
        let name = &*tenant.mount.name;
        let (retained, retained_bytes) = admin.hub.retained.read().of_tenant(name);
        let totals = tenant.totals();
        Self {
            name: name.to_owned(),
            configured: admin.hub.tenants.has_entry(name),
            mount: format!("{}{name}/", mount::TOPICS),
            quotas: QuotasJson::of(&tenant.quotas()),
            connections: tenant.connections(),
            sessions: tenant.sessions(),
            retained,
            retained_bytes,
            queued_bytes: tenant.queued(),
            totals: totals.map(|[publishes, publish_bytes, refused, slowed]| TotalsJson {
                publishes,
                publish_bytes,
                refused,
                slowed,
            }),
        }
    }
}

/// Those that are known to this replica, in the order of their names; how many there are in all is said.
pub(super) async fn list(From(admin): Shared, caller: Caller) -> Result<Response, Problem> {
    caller.knows(&["prefix", "limit", "after"])?;
    let limit = caller.number("limit", 100, SHOWN_MAX)?;
    let prefix = caller.parameter("prefix").unwrap_or_default();
    let mut all = admin.hub.tenants.all();
    all.retain(|tenant| {
        let name = &*tenant.mount.name;
        caller.tenant().is_none_or(|own| own == name) && name.starts_with(prefix)
    });
    all.sort_by(|one, other| one.mount.name.cmp(&other.mount.name));
    let after = caller.parameter("after").unwrap_or_default();
    let shown = all.iter().filter(|tenant| *tenant.mount.name > *after);
    let shown: Vec<_> = shown
        .take(limit)
        .map(|tenant| TenantJson::of(&admin, tenant))
        .collect();
    // Of the tenants beside it a token of one sees nothing.
    let others = match caller.tenant() {
        None => admin.hub.tenants.quotas_of_others(),
        Some(_) => None,
    };
    Ok(answer(
        StatusCode::OK,
        None,
        &json!({
            "tenants": shown,
            "total": all.len(),
            "others": others.as_ref().map(QuotasJson::of),
        }),
    ))
}

pub(super) async fn show(
    From(admin): Shared,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    caller.knows(&[])?;
    check_name("tenant", &name, TENANT_MAX)?;
    caller.may_tenant(&admin, Some(&name))?;
    let tenant = admin.hub.tenants.known(&name).ok_or_else(|| {
        let words = format!(
            "no tenant {name:?}: it has no entry in the configuration, and no client of it has come to this replica"
        );
        Problem::missing(words)
    })?;
    Ok(answer(
        StatusCode::OK,
        None,
        &TenantJson::of(&admin, &tenant),
    ))
}
