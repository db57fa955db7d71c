//! Who a client is, and what it may do.
//!
//! The name comes from the client's certificate where the listener takes it from there, else from the
//! users file; without a name a client is anonymous, where that is allowed. A name that was not
//! verified is no name: it cannot match a rule.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dunlin_protocol::{QoS, ReasonCode};
use tokio::sync::Semaphore;

pub mod password;
pub mod rules;
pub mod users;

use crate::net::ListenerInfo;
pub use rules::Rules;
pub use users::Users;

/// What a client shows of itself.
#[derive(Clone)]
pub struct Credentials {
    /// The client id, given or assigned.
    pub client_id: Arc<str>,
    /// The user name of CONNECT.
    pub username: Option<Arc<str>>,
    /// The password of CONNECT.
    pub password: Option<Vec<u8>>,
    /// The name in the client's certificate.
    pub tls_name: Option<Arc<str>>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Where it came in.
    pub listener: Arc<ListenerInfo>,
}

/// A client whose name is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The verified name; `None` is anonymous.
    pub username: Option<Arc<str>>,
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Publish to a topic, or have a will there.
    Publish {
        /// At which QoS.
        qos: QoS,
        /// Whether it is to be retained.
        retain: bool,
    },
    /// Subscribe to a filter.
    Subscribe {
        /// At which QoS.
        qos: QoS,
    },
}

/// Decides who may connect, and do what. Cheap to ask.
#[derive(Debug)]
pub struct Auth {
    users: Option<Arc<Users>>,
    rules: Rules,
    checks: Semaphore,
    patience: Duration,
}

impl Auth {
    /// `checks` password checks run at once; a client waits for its turn at most `patience`.
    #[must_use]
    pub fn new(users: Option<Users>, rules: Rules, checks: usize, patience: Duration) -> Self {
        Self {
            users: users.map(Arc::new),
            rules,
            checks: Semaphore::new(checks.max(1)),
            patience,
        }
    }

    /// Lets everybody in and allows everything, for tests.
    #[must_use]
    pub fn open() -> Self {
        Self::new(None, Rules::default(), 1, Duration::from_secs(10))
    }

    /// Settles who a client is. Cancel safe: a check that has begun goes on by itself.
    ///
    /// # Errors
    /// The reason for CONNACK: 0x86 for a wrong name or password, 0x87 where a name is needed, 0x89
    /// when too many checks are waiting, 0x80 when the check itself failed.
    pub async fn authenticate(&self, credentials: Credentials) -> Result<Principal, ReasonCode> {
        if let Some(name) = credentials.tls_name {
            return Ok(Principal {
                username: Some(name),
            });
        }
        let anonymous = credentials.listener.anonymous;
        match (credentials.username, &self.users) {
            (Some(name), Some(users)) => {
                let password = credentials
                    .password
                    .ok_or(ReasonCode::BAD_USER_NAME_OR_PASSWORD)?;
                self.check(Arc::clone(users), Arc::clone(&name), password)
                    .await?;
                Ok(Principal {
                    username: Some(name),
                })
            }
            // Nobody can verify the name, so it is none.
            (Some(_), None) if anonymous => Ok(Principal { username: None }),
            (Some(_), None) => Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            (None, _) if anonymous => Ok(Principal { username: None }),
            (None, _) => Err(ReasonCode::NOT_AUTHORIZED),
        }
    }

    async fn check(
        &self,
        users: Arc<Users>,
        name: Arc<str>,
        password: Vec<u8>,
    ) -> Result<(), ReasonCode> {
        let turn = tokio::time::timeout(self.patience, self.checks.acquire());
        let _turn = turn
            .await
            .map_err(|_| ReasonCode::SERVER_BUSY)?
            .map_err(|_| ReasonCode::SERVER_BUSY)?;
        let verified = tokio::task::spawn_blocking(move || users.verify(&name, &password)).await;
        match verified {
            Ok(true) => Ok(()),
            Ok(false) => Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            Err(error) => {
                tracing::error!(%error, "a password check failed to run");
                Err(ReasonCode::UNSPECIFIED_ERROR)
            }
        }
    }

    /// Whether a client may do something with a topic name, or with a topic filter as it was sent
    /// (`$share/…` included). Without rules this is one comparison.
    #[must_use]
    pub fn allows(&self, who: &Principal, client_id: &str, action: Action, topic: &str) -> bool {
        self.rules
            .allow(who.username.as_deref(), client_id, action, topic)
    }
}
