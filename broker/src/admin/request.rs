//! What handlers read of a request.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH};
use hyper::{StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Admin;
use super::problem::Problem;
use super::tokens::Holder;
use crate::audit::{Event, Kind};
use crate::http::server::Peer;
use crate::registry::DeviceKey;
use crate::registry::device::{ID_MAX, TENANT_MAX, check_name};

/// Bytes of a body, but for an import.
pub(crate) const BODY_MAX: usize = 512 * 1024;

/// Who asks, by a token that is good.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    holder: Holder,
    peer: Option<SocketAddr>,
    query: Vec<(String, String)>,
    if_match: Option<String>,
}

impl FromRequestParts<Arc<Admin>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Problem> {
        let peer = parts
            .extensions
            .get::<ConnectInfo<Peer>>()
            .map(|peer| peer.0.address);
        let tokens = admin.tokens.load();
        let holder = bearer(&parts.headers).and_then(|token| tokens.holder(token));
        let Some(holder) = holder else {
            let mut event = Event::new(Kind::AdminRefused)
                .target(parts.uri.path())
                .why("no good token");
            if let Some(peer) = peer {
                event = event.peer(peer);
            }
            admin.record(event);
            return Err(Problem::unauthorized());
        };
        Ok(Self {
            holder: holder.clone(),
            peer,
            query: query(&parts.uri),
            if_match: parts
                .headers
                .get(IF_MATCH)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
        })
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn query(uri: &Uri) -> Vec<(String, String)> {
    let text = uri.query().unwrap_or_default();
    form_urlencoded::parse(text.as_bytes())
        .into_owned()
        .collect()
}

impl Caller {
    /// An event of the audit log about what this caller does.
    pub(crate) fn event(&self, kind: Kind) -> Event {
        let event = Event::new(kind).by(&self.holder.name);
        match self.peer {
            Some(peer) => event.peer(peer),
            None => event,
        }
    }

    /// The name of the token.
    pub(crate) fn name(&self) -> &str {
        &self.holder.name
    }

    /// The tenant that the token is bound to.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.holder.tenant.as_deref()
    }

    /// That this is a token that may change things.
    pub(crate) fn may_write(&self, admin: &Admin) -> Result<(), Problem> {
        if self.holder.write {
            return Ok(());
        }
        admin.record(self.event(Kind::AdminRefused).why("a token for reading"));
        Err(Problem::forbidden(format!(
            "the token {:?} is for reading only",
            self.holder.name
        )))
    }

    /// That this token is not one of a tenant.
    pub(crate) fn may_all(&self, admin: &Admin) -> Result<(), Problem> {
        let Some(tenant) = self.tenant() else {
            return Ok(());
        };
        admin.record(self.event(Kind::AdminRefused).why("a token of a tenant"));
        Err(Problem::forbidden(format!(
            "the token {:?} is for the devices of tenant {tenant:?} only",
            self.holder.name
        )))
    }

    /// That this token may have to do with a tenant's devices (`None`: those of no tenant).
    pub(crate) fn may_tenant(&self, admin: &Admin, tenant: Option<&str>) -> Result<(), Problem> {
        if self.tenant().is_none() || self.tenant() == tenant {
            return Ok(());
        }
        self.may_all(admin)
    }

    /// Refuses parameters that the path does not know: a filter that is misspelt would show everything.
    pub(crate) fn knows(&self, known: &[&str]) -> Result<(), Problem> {
        for (index, (name, _)) in self.query.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(Problem::invalid(
                    name,
                    format!("there is no parameter {name:?} here: {}", known.join(", ")),
                ));
            }
            if self
                .query
                .iter()
                .take(index)
                .any(|(other, _)| other == name)
            {
                return Err(Problem::invalid(
                    name,
                    format!("the parameter {name:?} is given twice"),
                ));
            }
        }
        // One that is misspelt would find nothing, and say nothing.
        if let Some(tenant) = self.parameter("tenant").filter(|tenant| !tenant.is_empty()) {
            check_name("tenant", tenant, TENANT_MAX)?;
        }
        if self
            .parameter("prefix")
            .is_some_and(|prefix| prefix.len() > ID_MAX)
        {
            return Err(Problem::invalid(
                "prefix",
                format!("{ID_MAX} bytes at the most"),
            ));
        }
        Ok(())
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn number(&self, name: &str, default: usize, max: usize) -> Result<usize, Problem> {
        let Some(text) = self.parameter(name) else {
            return Ok(default);
        };
        let number = text
            .parse()
            .ok()
            .filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| {
            Problem::invalid(
                name,
                format!("{name} is {text:?}: must be a number from 1 to {max}"),
            )
        })
    }

    /// The tenant that is meant: what the request says, else that of the token.
    pub(crate) fn tenant_meant(&self, admin: &Admin) -> Result<Option<String>, Problem> {
        let meant = self
            .parameter("tenant")
            .or(self.tenant())
            .filter(|tenant| !tenant.is_empty());
        self.may_tenant(admin, meant)?;
        Ok(meant.map(str::to_owned))
    }

    /// The device that the path and the parameter `tenant` name.
    pub(crate) fn device(&self, admin: &Admin, id: &str) -> Result<DeviceKey, Problem> {
        self.knows(&["tenant"])?;
        let tenant = self.tenant_meant(admin)?;
        Ok(DeviceKey::new(tenant.as_deref(), id)?)
    }

    /// What a change of a device is about: the device, the revision that it is bound to, and what is wanted.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        admin: &Admin,
        id: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(DeviceKey, Option<u64>, T), Problem> {
        self.may_write(admin)?;
        let key = self.device(admin, id)?;
        let only = self.only()?;
        Ok((key, only, json(headers, body).await?))
    }

    /// The revision that a change is bound to by `If-Match`.
    pub(crate) fn only(&self) -> Result<Option<u64>, Problem> {
        let Some(text) = self.if_match.as_deref().filter(|text| *text != "*") else {
            return Ok(None);
        };
        let number = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        let number = number.and_then(|number| number.parse().ok());
        let wrong = || {
            Problem::invalid(
                "If-Match",
                format!(
                    "If-Match is {text:?}: must be what ETag was, such as \"17\" with its quotation marks"
                ),
            )
        };
        number.map(Some).ok_or_else(wrong)
    }
}

/// Reads a body, whole and bounded.
pub(crate) async fn bytes(body: Body, max: usize) -> Result<Bytes, Problem> {
    to_bytes(body, max).await.map_err(|error| {
        use std::error::Error;
        let large = error
            .source()
            .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if large {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                format!("the body has over {max} bytes"),
            )
        } else {
            Problem::invalid("body", format!("the body cannot be read: {error}"))
        }
    })
}

/// Reads a body of JSON.
pub(crate) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !matches!(kind, "application/json" | "application/merge-patch+json") {
        let words = format!("the body is {kind}: must be application/json");
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            words,
        ));
    }
    let body = bytes(body, BODY_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| Problem::invalid("body", error.to_string()))
}

/// An answer with a body of JSON, and with the revision as its `ETag`.
pub(crate) fn answer(status: StatusCode, revision: Option<u64>, body: &impl Serialize) -> Response {
    let text = match serde_json::to_vec(body) {
        Ok(text) => text,
        Err(error) => {
            let words = format!("the answer cannot be written: {error}");
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "answer", words)
                .into_response();
        }
    };
    let mut response = (status, [(CONTENT_TYPE, "application/json")], text).into_response();
    if let Some(tag) = revision.and_then(|revision| format!("\"{revision}\"").parse().ok()) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
