//! Who is kept out.

use std::str::FromStr;

use axum::body::Body;
use axum::extract::{Path, State as From};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::request::{Caller, answer, json as read};
use super::{Shared, now};
use crate::abuse::{Ban, BanError, Target};

/// Bans in one answer.
const SHOWN_MAX: usize = 1_000;
/// Longest ban with an end, in seconds: some ten years.
const SECONDS_MAX: u64 = 10 * 366 * 24 * 3_600;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    reason: String,
    /// For how long; without it until it is removed.
    #[serde(default)]
    seconds: Option<u64>,
}

fn shown(target: &Target, ban: &Ban) -> Value {
    json!({
        "target": target.to_string(),
        "reason": ban.reason,
        "by": ban.by,
        "added_at": ban.added_at_ms / 1_000,
        "until": ban.until_ms.map(|until| until / 1_000),
    })
}

fn target(text: &str) -> Result<Target, Problem> {
    Target::from_str(text).map_err(|error| Problem::invalid("target", error.to_string()))
}

impl std::convert::From<BanError> for Problem {
    fn from(error: BanError) -> Self {
        let detail = error.to_string();
        match error {
            BanError::Reason(_) => Self::invalid("reason", detail),
            BanError::Past => Self::invalid("seconds", detail),
            BanError::Full(_) => Self::conflict(detail),
            _ => Self::unavailable(detail),
        }
    }
}

pub(super) async fn list(From(admin): Shared, caller: Caller) -> Result<Response, Problem> {
    caller.may_all(&admin)?;
    caller.knows(&["limit", "after"])?;
    let limit = caller.number("limit", 100, SHOWN_MAX)?;
    let mut all: Vec<_> = admin.hub.guard.bans.list();
    all.sort_by_cached_key(|(target, _)| target.to_string());
    let total = all.len();
    let after = caller.parameter("after").unwrap_or_default();
    let bans = all
        .iter()
        .filter(|(target, _)| *target.to_string() > *after);
    let bans: Vec<_> = bans
        .take(limit)
        .map(|(target, ban)| shown(target, ban))
        .collect();
    Ok(answer(
        StatusCode::OK,
        None,
        &json!({ "bans": bans, "total": total }),
    ))
}

/// When this answers, every live replica refuses the target and has ended its connections.
pub(super) async fn put(
    From(admin): Shared,
    caller: Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    caller.may_all(&admin)?;
    caller.knows(&[])?;
    let target = target(&text)?;
    let wanted: Wanted = read(&headers, body).await?;
    if wanted.reason.contains(char::is_control) {
        return Err(Problem::invalid(
            "reason",
            "control characters are not allowed",
        ));
    }
    let until = match wanted.seconds {
        None => None,
        Some(seconds @ 1..=SECONDS_MAX) => Some((now() + seconds) * 1_000),
        Some(seconds) => {
            let words = format!("seconds is {seconds}: must be from 1 to {SECONDS_MAX}");
            return Err(Problem::invalid("seconds", words));
        }
    };
    let bans = &admin.hub.guard.bans;
    let ban = bans
        .add(target.clone(), &wanted.reason, until, caller.name())
        .await?;
    Ok(answer(StatusCode::OK, None, &shown(&target, &ban)))
}

pub(super) async fn remove(
    From(admin): Shared,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    caller.may_all(&admin)?;
    caller.knows(&[])?;
    let target = target(&text)?;
    if admin.hub.guard.bans.remove(&target, caller.name()).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Problem::missing(format!("{text:?} is not banned")))
    }
}
