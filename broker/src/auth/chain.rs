//! The methods that are asked who a client is, in order.
//!
//! Each may accept, refuse, or skip what is no credential of its kind or names nobody it knows; the first that does not skip decides.
//! Who is skipped by all is anonymous where the listener takes such clients and nothing was shown that a method could have verified:
//! a wrong name is not saved by anonymous access.
//!
//! Whether it is a bootstrap credential is asked before everything else, wherever that stands in the list, and where it does not: one is good for
//! asking for an identity, and whoever else would take it must not.

use std::sync::Arc;

use dunlin_protocol::ReasonCode;
use futures_util::future::BoxFuture;

use super::{Credentials, Method, Principal};

/// What a method says of a client.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is this one.
    Accept(Arc<Principal>),
    /// It is not let in: the reason for CONNACK, and the words for it.
    Refuse(ReasonCode, &'static str),
    /// Not a credential of this kind, or nobody that this method knows.
    Skip,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// For CONNACK.
    pub reason: ReasonCode,
    /// For the log, and for clients that take words.
    pub why: &'static str,
}

/// A method that says who a client is.
pub trait Authenticator: Send + Sync {
    /// Which one.
    fn method(&self) -> Method;

    /// Whether it could do anything with a password that comes without a user name.
    fn takes_bare_passwords(&self) -> bool {
        false
    }

    /// Says who a client is. Cancel safe; what takes long is bounded by the method itself.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials) -> BoxFuture<'a, Verdict>;
}

/// The methods there are.
#[derive(Clone, Default)]
pub struct Chain {
    methods: Vec<Arc<dyn Authenticator>>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let methods = self.methods.iter().map(|method| method.method());
        f.debug_list().entries(methods).finish()
    }
}

impl Chain {
    /// Puts a method in place of the one of its kind.
    pub fn put(&mut self, method: Arc<dyn Authenticator>) {
        self.methods
            .retain(|other| other.method() != method.method());
        self.methods.push(method);
    }

    /// Takes the method of a kind out.
    pub fn remove(&mut self, method: Method) {
        self.methods.retain(|other| other.method() != method);
    }

    /// The method of a kind.
    #[must_use]
    pub fn get(&self, method: Method) -> Option<&Arc<dyn Authenticator>> {
        self.methods.iter().find(|other| other.method() == method)
    }

    /// Asks the methods of the client's listener. Cancel safe.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn ask(&self, credentials: &Credentials) -> Result<Arc<Principal>, Refused> {
        self.ask_some(credentials, &Method::ASKED).await
    }

    /// The same, of some methods alone.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn ask_some(
        &self,
        credentials: &Credentials,
        some: &[Method],
    ) -> Result<Arc<Principal>, Refused> {
        if let Some(bootstrap) = self.get(Method::Provisioning) {
            let here = some.contains(&Method::Provisioning)
                && credentials.listener.auth.contains(&Method::Provisioning);
            match bootstrap.authenticate(credentials).await {
                Verdict::Accept(principal) if here => return Ok(principal),
                Verdict::Accept(_) => {
                    return Err(Refused {
                        reason: ReasonCode::NOT_AUTHORIZED,
                        why: "a bootstrap credential, which is good for nothing here",
                    });
                }
                Verdict::Refuse(reason, why) => return Err(Refused { reason, why }),
                Verdict::Skip => {}
            }
        }
        let mut verifies_names = false;
        let mut takes_bare_passwords = false;
        for method in credentials.listener.auth.iter() {
            let Some(method) = self.get(*method).filter(|_| some.contains(method)) else {
                continue;
            };
            if method.method() != Method::Provisioning {
                match method.authenticate(credentials).await {
                    Verdict::Accept(principal) => return Ok(principal),
                    Verdict::Refuse(reason, why) => return Err(Refused { reason, why }),
                    Verdict::Skip => {}
                }
            }
            verifies_names |= method.method() != Method::Certificate;
            takes_bare_passwords |= method.takes_bare_passwords();
        }
        let named = credentials.username.is_some();
        let bare_password = credentials.password.is_some() && takes_bare_passwords;
        // Where nobody can verify a name it is none.
        let came = verifies_names && (named || bare_password);
        if credentials.listener.anonymous && !came {
            return Ok(Principal::anonymous());
        }
        if named || bare_password {
            return Err(Refused {
                reason: ReasonCode::BAD_USER_NAME_OR_PASSWORD,
                why: "the credentials were not accepted",
            });
        }
        Err(Refused {
            reason: ReasonCode::NOT_AUTHORIZED,
            why: "credentials are needed here",
        })
    }
}
