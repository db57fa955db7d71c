//! The administration of devices over HTTP, on a listener of its own.
//!
//! Whoever holds a token may look, and change things if the token says so; a token of a tenant is good for what is the tenant's.
//! Every change and every refusal for want of a right is in the audit log. The description of all of it is
//! `openapi.json`, which is served as `/v1/openapi.json`; a test holds it and the routes together.

mod bans;
mod clients;
mod credentials;
mod devices;
mod import;
mod json;
mod lists;
mod messages;
pub(crate) mod problem;
pub(crate) mod request;
mod serve;
mod status;
mod tenants;
#[cfg(test)]
mod tests;
pub mod tokens;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::{MethodRouter, delete, get, post, put};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;

use crate::audit::{Event, Kind};
use crate::hub::Hub;
use crate::registry::Registry;
use problem::Problem;
use request::Caller;
pub(crate) use serve::{Access, serve};
use tokens::Tokens;

/// Connections that are served at a time.
pub(crate) const CONNECTIONS: usize = 256;

/// What the handlers share.
pub(crate) struct Admin {
    pub(crate) hub: Arc<Hub>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) tokens: Arc<ArcSwap<Tokens>>,
}

type Shared = axum::extract::State<Arc<Admin>>;

const OPENAPI: &str = include_str!("openapi.json");

impl Admin {
    /// Tells the audit log what somebody did.
    pub(crate) fn did(&self, caller: &Caller, action: &str, target: &str) {
        self.record(caller.event(Kind::Admin).action(action).target(target));
    }

    pub(crate) fn record(&self, event: Event) {
        self.hub.audit.record(event);
    }
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Every route; a test asks each of them without a token.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<Admin>>)> {
    vec![
        ("/v1/openapi.json", get(openapi)),
        ("/v1/devices", get(devices::list).post(devices::create)),
        (
            "/v1/devices/{id}",
            get(devices::show)
                .patch(devices::change)
                .delete(devices::remove),
        ),
        ("/v1/devices/{id}/credentials", post(credentials::add)),
        (
            "/v1/devices/{id}/credentials/{credential}",
            delete(credentials::remove),
        ),
        ("/v1/devices/{id}/rotate", post(credentials::rotate)),
        (
            "/v1/devices/{id}/config",
            get(messages::config).put(messages::set_config),
        ),
        ("/v1/devices/{id}/states", get(messages::states)),
        ("/v1/devices/{id}/commands", post(messages::command)),
        ("/v1/import", post(import::devices)),
        ("/v1/bans", get(bans::list)),
        ("/v1/bans/{target}", put(bans::put).delete(bans::remove)),
        ("/v1/tenants", get(tenants::list)),
        ("/v1/tenants/{tenant}", get(tenants::show)),
        ("/v1/clients", get(clients::list)),
        ("/v1/clients/{client}", delete(clients::disconnect)),
        (
            "/v1/provisioning/{list}",
            get(lists::list).post(lists::import),
        ),
        (
            "/v1/provisioning/{list}/{serial}",
            get(lists::show).put(lists::put).delete(lists::remove),
        ),
    ]
}

/// The routes, ready to be served.
pub(crate) fn router(admin: Arc<Admin>) -> Router {
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        });
    router
        .fallback(|| async {
            Problem::missing("there is nothing at this path: see /v1/openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this path has other methods: see /v1/openapi.json",
            )
        })
        .with_state(admin)
}

async fn openapi() -> ([(hyper::header::HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}
