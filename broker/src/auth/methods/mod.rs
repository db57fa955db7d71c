//! The methods that say who a client is.

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

mod certificate;
mod hook;
mod jwt;
mod users;

pub use certificate::Certificate;
pub use hook::Hook;
pub use jwt::{Jwt, Keys};
pub use users::UsersMethod;

use super::jwt::Key;
use super::{Principal, now};
use crate::config::{HookConfig, JwtConfig, UserConfig};

/// What the methods beside the users file go by, with the files that the configuration names.
#[derive(Debug, Clone, Default)]
pub struct Methods {
    /// What is known of names.
    pub people: Vec<UserConfig>,
    /// Tokens, and the keys of files.
    pub jwt: Option<(JwtConfig, Vec<Key>)>,
    /// A web service, and the token that it is shown.
    pub http: Option<(HookConfig, Option<Zeroizing<String>>)>,
}

/// What is known of names that this broker has verified itself.
#[derive(Debug, Default)]
pub struct People(HashMap<Box<str>, Person>);

#[derive(Debug)]
struct Person {
    tenant: Option<Arc<str>>,
    roles: Box<[Arc<str>]>,
}

impl People {
    /// Of those in the configuration.
    #[must_use]
    pub fn new(people: &[UserConfig]) -> Self {
        let person = |user: &UserConfig| Person {
            tenant: user.tenant.as_deref().map(Arc::from),
            roles: user
                .roles
                .iter()
                .map(|role| Arc::from(role.as_str()))
                .collect(),
        };
        let people = people
            .iter()
            .map(|user| (user.name.as_str().into(), person(user)));
        Self(people.collect())
    }

    /// Whether a name is of another tenant than the client was when it came.
    pub(super) fn is_moved(&self, who: &Principal) -> bool {
        let tenant = self.of(who).and_then(|person| person.tenant.as_ref());
        tenant.is_some_and(|tenant| who.tenant.as_ref() != Some(tenant))
    }

    /// The roles of a name.
    pub(super) fn roles(&self, who: &Principal) -> Box<[Arc<str>]> {
        self.of(who)
            .map(|person| person.roles.clone())
            .unwrap_or_default()
    }

    fn of(&self, who: &Principal) -> Option<&Person> {
        self.0.get(&**who.username.as_ref()?)
    }

    /// Adds what is known of the name.
    pub(super) fn dress(&self, principal: &mut Principal) {
        let Some(person) = principal
            .username
            .as_ref()
            .and_then(|name| self.0.get(&**name))
        else {
            return;
        };
        principal.tenant.clone_from(&person.tenant);
        principal.roles.clone_from(&person.roles);
    }
}

/// What is verified but not good here.
fn not_authorized(why: &'static str) -> super::Verdict {
    super::Verdict::Refuse(dunlin_protocol::ReasonCode::NOT_AUTHORIZED, why)
}

/// The same words whatever is wrong: who does not know the password does not learn which names there are.
const WRONG: super::Verdict = super::Verdict::Refuse(
    dunlin_protocol::ReasonCode::BAD_USER_NAME_OR_PASSWORD,
    "the credentials were not accepted",
);
