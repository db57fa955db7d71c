//! A client whose name is settled, and what is known of it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::Rules;

/// How a client has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Not at all.
    Anonymous,
    /// By the name in its certificate.
    Certificate,
    /// By a signed token.
    Jwt,
    /// By a password of the users file.
    Users,
    /// A service of somebody else's was asked.
    Http,
    /// By SCRAM, without showing its password.
    Scram,
    /// By a key or certificate of the device registry.
    Registry,
    /// By a credential that is good for asking for another one, and for nothing else.
    Provisioning,
}

impl Method {
    /// Those that can be asked, in the order in which they are if nothing else is said: what needs no password first, what leaves
    /// this process last.
    pub const ASKED: [Self; 7] = [
        Self::Provisioning,
        Self::Certificate,
        Self::Registry,
        Self::Jwt,
        Self::Scram,
        Self::Users,
        Self::Http,
    ];

    /// The method of a word; `None`: there is none, or it cannot be asked.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let mut asked = Self::ASKED.into_iter();
        asked.find(|method| method.as_str() == word)
    }

    /// The word used in the configuration, in logs and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::Users => "users",
            Self::Http => "http",
            Self::Scram => "scram",
            Self::Registry => "registry",
            Self::Provisioning => "provisioning",
        }
    }
}

/// What a client has shown, as far as it can be withdrawn alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A client certificate.
    Certificate {
        /// Of its DER form.
        sha256: [u8; 32],
        /// As its authority numbered it, in hexadecimal digits.
        serial: Box<str>,
    },
    /// A token.
    Token {
        /// Its `jti`.
        id: Option<Box<str>>,
        /// The `kid` of the key that signed it.
        key: Option<Box<str>>,
    },
    /// A credential of the registry, by its id there.
    Key {
        /// Unique among those of its device.
        id: Box<str>,
        /// Tells what is shown by it from what was shown under this id before.
        print: u64,
    },
    /// The password of its user.
    Password {
        /// Tells the line of the users file from another; 0: there is none.
        print: u64,
    },
}

/// Who a client is. What was not verified is not in it: it cannot match a rule.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The verified name; `None` is anonymous.
    pub username: Option<Arc<str>>,
    /// Whose topics, client ids and quotas it has; `None`: those that belong to no tenant.
    pub tenant: Option<Arc<str>>,
    /// Its id in the device registry.
    pub device: Option<Arc<str>>,
    /// Roles that rules can name.
    pub roles: Box<[Arc<str>]>,
    /// What rules can fill in.
    pub attributes: BTreeMap<Box<str>, Box<str>>,
    /// Rules for this client alone, asked before those of the configuration.
    pub policy: Option<Arc<Rules>>,
    /// How it was verified.
    pub method: Method,
    /// With what.
    pub credential: Option<Credential>,
    /// Unix time in seconds from which what it has shown is no longer good.
    pub expires_at: Option<u64>,
}

static ANONYMOUS: LazyLock<Arc<Principal>> =
    LazyLock::new(|| Arc::new(Principal::new(Method::Anonymous, None)));

impl Principal {
    /// One of whom nothing is known but the name.
    #[must_use]
    pub fn new(method: Method, username: Option<Arc<str>>) -> Self {
        Self {
            username,
            tenant: None,
            device: None,
            roles: Box::default(),
            attributes: BTreeMap::new(),
            policy: None,
            method,
            credential: None,
            expires_at: None,
        }
    }

    /// Somebody; all of them share one.
    #[must_use]
    pub fn anonymous() -> Arc<Self> {
        Arc::clone(&ANONYMOUS)
    }
}
