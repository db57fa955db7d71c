//! Whether a login is looked at, and what its outcome means for the next ones.

use std::sync::Arc;

use dunlin_protocol::ReasonCode;

use crate::abuse::logins::Attempt;
use crate::auth::{Credentials, Principal, Refused};
use crate::hub::Hub;

/// Asks before the credentials are looked at. Nobody is counted who shows none.
///
/// # Errors
/// What the client is told: it has to wait.
pub(super) fn ask(hub: &Hub, credentials: &Credentials) -> Result<Option<Attempt>, String> {
    let Some(name) = name(credentials) else {
        return Ok(None);
    };
    hub.guard
        .logins
        .ask(credentials.peer.ip(), name)
        .map(Some)
        .map_err(|pause| {
            hub.metrics.logins_throttled.inc();
            format!(
                "too many wrong logins: wait for {} seconds",
                pause.as_secs() + 1
            )
        })
}

/// Tells how it ended.
pub(super) fn told(
    hub: &Hub,
    attempt: Option<Attempt>,
    credentials: &Credentials,
    outcome: &Result<Arc<Principal>, Refused>,
) {
    let (Some(attempt), guard) = (attempt, &hub.guard) else {
        return;
    };
    match outcome {
        Ok(_) => guard.logins.succeeded(attempt),
        Err(refused) if is_wrong(refused.reason) => {
            let failures = guard.logins.failed(attempt);
            guard.bans.after_failures(credentials.peer.ip(), failures);
        }
        // Whoever was not looked at was not wrong.
        Err(_) => {}
    }
}

fn is_wrong(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::NOT_AUTHORIZED | ReasonCode::BANNED
    )
}

/// For what a login counts: the user name; the client id where there is none, or a token, as many clients may send one name
/// with theirs.
fn name(credentials: &Credentials) -> Option<&str> {
    let password = credentials.password.as_ref();
    if password.is_none() && credentials.username.is_none() {
        return None;
    }
    let token = password.is_some_and(|password| {
        password.starts_with(b"ey") && password.iter().filter(|byte| **byte == b'.').count() == 2
    });
    match &credentials.username {
        Some(name) if !token => Some(name),
        _ => Some(&credentials.client_id),
    }
}
