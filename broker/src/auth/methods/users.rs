//! Name and password, looked up in the users file.

use std::sync::Arc;

use dunlin_protocol::ReasonCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{People, WRONG};
use crate::auth::checks::{Checks, NoAnswer};
use crate::auth::{Authenticator, Credential, Credentials, Method, Principal, Users, Verdict};

/// Accepts whom the users file has, with the right password.
#[derive(Debug)]
pub struct UsersMethod {
    users: Arc<Users>,
    checks: Arc<Checks>,
    people: Arc<People>,
}

impl UsersMethod {
    /// The checks are shared: they bound the processors' time, not the file's.
    #[must_use]
    pub fn new(users: Arc<Users>, checks: Arc<Checks>, people: Arc<People>) -> Self {
        Self {
            users,
            checks,
            people,
        }
    }

    async fn judge(&self, credentials: &Credentials) -> Verdict {
        let Some(name) = &credentials.username else {
            return Verdict::Skip;
        };
        let known = self.users.has(name);
        let Some(password) = credentials.password.clone() else {
            return match known {
                true => WRONG,
                false => Verdict::Skip,
            };
        };
        let (users, of) = (Arc::clone(&self.users), Arc::clone(name));
        // Also for a name that the file does not have, so that time does not tell which it has.
        match self
            .checks
            .run(credentials.known, move || users.verify(&of, &password))
            .await
        {
            Ok(true) => {
                let mut principal = Principal::new(Method::Users, Some(Arc::clone(name)));
                let print = self.users.print(name).unwrap_or_default();
                principal.credential = Some(Credential::Password { print });
                self.people.dress(&mut principal);
                Verdict::Accept(Arc::new(principal))
            }
            Ok(false) if known => WRONG,
            Ok(false) => Verdict::Skip,
            Err(NoAnswer::Busy) => Verdict::Refuse(
                ReasonCode::SERVER_BUSY,
                "too many passwords wait to be checked",
            ),
            Err(NoAnswer::Failed) => {
                Verdict::Refuse(ReasonCode::UNSPECIFIED_ERROR, "the check has failed")
            }
        }
    }
}

impl Authenticator for UsersMethod {
    fn method(&self) -> Method {
        Method::Users
    }

    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> BoxFuture<'a, Verdict> {
        self.judge(credentials).boxed()
    }
}
