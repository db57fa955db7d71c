//! Serial numbers of provisioning: those that may ask (`allow`), those that may not (`block`), and the identities that
//! were given (`serials`), which can be forgotten so that a device that has lost its key may ask again.

use axum::body::Body;
use axum::extract::{Path, State as From};
use axum::response::{IntoResponse, Response};
use dunlin_sync::records::{Cursor, RecordKey, RecordPut, Table};
use hyper::StatusCode;
use serde_json::json;

use super::problem::Problem;
use super::request::{Caller, answer, bytes};
use super::{Admin, Shared};
use crate::registry::device::{ID_MAX, check_name};

/// Serial numbers on one page.
const PAGE_MAX: usize = 1_000;
/// Bytes of one import.
const BODY_MAX: usize = 1 << 20;
/// Serial numbers of one import.
const LINES_MAX: usize = 4_000;

fn table(admin: &Admin, caller: &Caller, list: &str) -> Result<Table, Problem> {
    caller.may_all(admin)?;
    match list {
        "allow" => Ok(Table::Allow),
        "block" => Ok(Table::Block),
        "serials" => Ok(Table::Serial),
        _ => Err(Problem::missing(format!(
            "there is no list {list:?}: allow, block, serials"
        ))),
    }
}

/// One that is written by people: identities are only written by provisioning.
fn written(table: Table) -> Result<Table, Problem> {
    match table {
        Table::Serial => Err(Problem::forbidden(
            "identities are given by provisioning: they can be looked at and removed",
        )),
        other => Ok(other),
    }
}

fn key(table: Table, serial: &str) -> Result<RecordKey, Problem> {
    check_name("serial", serial, ID_MAX)?;
    Ok(RecordKey::new(table, serial))
}

/// What is known of a serial number: for an identity the device that it is.
fn shown(table: Table, serial: &str, value: &[u8]) -> serde_json::Value {
    let identity = (table == Table::Serial)
        .then(|| serde_json::from_slice(value).ok())
        .flatten();
    match identity {
        Some(serde_json::Value::Object(mut identity)) => {
            identity.insert("serial".to_owned(), serial.into());
            identity.into()
        }
        _ => json!({ "serial": serial }),
    }
}

pub(super) async fn list(
    From(admin): Shared,
    caller: Caller,
    Path(list): Path<String>,
) -> Result<Response, Problem> {
    let table = table(&admin, &caller, &list)?;
    caller.knows(&["limit", "cursor"])?;
    let limit = caller.number("limit", 100, PAGE_MAX)?;
    let from = match caller.parameter("cursor") {
        None => None,
        Some(text) => Some(
            Cursor::of_text(text).ok_or_else(|| Problem::invalid("cursor", "this is no cursor"))?,
        ),
    };
    let page = admin.registry.records().scan(table, from, limit).await?;
    let serials: Vec<_> = page
        .records
        .iter()
        .map(|(serial, record)| shown(table, serial, &record.value))
        .collect();
    let next = page.next.map(|cursor| cursor.to_text());
    Ok(answer(
        StatusCode::OK,
        None,
        &json!({ "serials": serials, "next": next }),
    ))
}

pub(super) async fn show(
    From(admin): Shared,
    caller: Caller,
    Path((list, serial)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let table = table(&admin, &caller, &list)?;
    caller.knows(&[])?;
    let found = admin
        .registry
        .records()
        .get(vec![key(table, &serial)?])
        .await?;
    let found = found.into_iter().next().flatten();
    let found =
        found.ok_or_else(|| Problem::missing(format!("{serial:?} is not on the list {list:?}")))?;
    Ok(answer(
        StatusCode::OK,
        None,
        &shown(table, &serial, &found.value),
    ))
}

pub(super) async fn put(
    From(admin): Shared,
    caller: Caller,
    Path((list, serial)): Path<(String, String)>,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    caller.knows(&[])?;
    let table = written(table(&admin, &caller, &list)?)?;
    let put = RecordPut::set(key(table, &serial)?, &b"{}"[..]);
    admin.registry.records().put_everywhere(vec![put]).await?;
    admin.did(
        &caller,
        "provisioning.list.add",
        &format!("{list} {serial}"),
    );
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn remove(
    From(admin): Shared,
    caller: Caller,
    Path((list, serial)): Path<(String, String)>,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    caller.knows(&[])?;
    let key = key(table(&admin, &caller, &list)?, &serial)?;
    let done = admin
        .registry
        .records()
        .put_everywhere(vec![RecordPut::remove(key)])
        .await?;
    let was = done
        .first()
        .and_then(dunlin_sync::records::PutOutcome::revision)
        != Some(0);
    if !was {
        return Err(Problem::missing(format!(
            "{serial:?} is not on the list {list:?}"
        )));
    }
    admin.did(
        &caller,
        "provisioning.list.remove",
        &format!("{list} {serial}"),
    );
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Serial numbers, one a line; all or, when one is no serial number, none.
pub(super) async fn import(
    From(admin): Shared,
    caller: Caller,
    Path(list): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_write(&admin)?;
    caller.knows(&[])?;
    let table = written(table(&admin, &caller, &list)?)?;
    let body = bytes(body, BODY_MAX).await?;
    let text = std::str::from_utf8(&body)
        .map_err(|error| Problem::invalid("body", format!("no UTF-8: {error}")))?;
    let mut puts = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let serial = line.trim();
        if serial.is_empty() {
            continue;
        }
        let key = key(table, serial);
        let key =
            key.map_err(|problem| Problem::invalid(format!("line {}", index + 1), problem.detail))?;
        puts.push(RecordPut::set(key, &b"{}"[..]));
    }
    if puts.len() > LINES_MAX {
        let words = format!(
            "the body has {} serial numbers: {LINES_MAX} at the most",
            puts.len()
        );
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            words,
        ));
    }
    let count = puts.len();
    if count > 0 {
        admin.registry.records().put_everywhere(puts).await?;
    }
    admin.did(
        &caller,
        "provisioning.list.import",
        &format!("{list} {count}"),
    );
    Ok(answer(StatusCode::OK, None, &json!({ "added": count })))
}
