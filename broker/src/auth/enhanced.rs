//! Authentication by AUTH packets (MQTT 5.0, section 4.12), without input or output: what the client has sent goes in, what it is sent comes out.
//!
//! Two methods: `SCRAM-SHA-256`, for users with a verifier in the users file, and `JWT`, a token in one step; a device renews its token with it
//! while it stays connected. Whatever is wrong with what the client says, it is told 0x87 and nothing more.

use std::sync::Arc;

use dunlin_protocol::ReasonCode;
use zeroize::Zeroizing;

use super::scram::{self, METHOD as SCRAM};
use super::{Auth, Credential, Credentials, Method, Principal, Refused};

/// The method that takes a token.
pub const TOKEN: &str = "JWT";

/// An authentication that has begun.
#[derive(Debug)]
pub struct Exchange {
    credentials: Credentials,
    state: State,
}

#[derive(Debug)]
enum State {
    Token,
    /// The client's first message is awaited.
    First,
    /// And its last.
    Last {
        exchange: Box<scram::Exchange>,
        name: Arc<str>,
        print: u64,
    },
    Over,
}

/// What follows from what the client has sent.
#[derive(Debug)]
pub enum Step {
    /// It is sent this, and goes on.
    Continue(Vec<u8>),
    /// It is this one, and is sent this with the success.
    Done(Arc<Principal>, Vec<u8>),
}

impl Exchange {
    /// Of which client it is, without what it has shown.
    #[must_use]
    pub fn into_credentials(self) -> Credentials {
        self.credentials
    }
}

fn refused(why: &'static str) -> Refused {
    Refused {
        reason: ReasonCode::NOT_AUTHORIZED,
        why,
    }
}

fn fault(fault: scram::Fault) -> Refused {
    refused(match fault {
        scram::Fault::Form => "a message is not one of SCRAM",
        scram::Fault::Unsupported => "channel binding and other names are not offered",
        scram::Fault::Wrong => "the credentials were not accepted",
    })
}

impl Auth {
    /// Begins an authentication by the method that CONNECT names; `credentials` has no password.
    ///
    /// # Errors
    /// 0x8C when the method is not offered to this client.
    pub fn begin(&self, credentials: Credentials, method: &str) -> Result<Exchange, Refused> {
        let asked = |method: Method| credentials.listener.auth.contains(&method);
        let chain = self.chain();
        let offered = match method {
            SCRAM => asked(Method::Scram) && self.users().is_some_and(|users| users.has_scram()),
            TOKEN => {
                let takes = |method| asked(method) && chain.get(method).is_some();
                takes(Method::Jwt) || takes(Method::Registry)
            }
            _ => false,
        };
        if !offered {
            return Err(Refused {
                reason: ReasonCode::BAD_AUTHENTICATION_METHOD,
                why: "this authentication method is not offered here",
            });
        }
        let state = match method {
            SCRAM => State::First,
            _ => State::Token,
        };
        Ok(Exchange { credentials, state })
    }

    /// Takes what the client has sent. Not cancel safe: a dropped step ends the exchange.
    ///
    /// # Errors
    /// When the client is not let in; the exchange is then over.
    pub async fn step(
        &self,
        exchange: &mut Exchange,
        data: Option<&[u8]>,
    ) -> Result<Step, Refused> {
        match std::mem::replace(&mut exchange.state, State::Over) {
            State::Token => {
                let token = data.ok_or_else(|| refused("the token is missing"))?;
                let shown = Credentials {
                    username: None,
                    password: Some(Zeroizing::new(token.to_vec())),
                    tls_name: None,
                    ..exchange.credentials.clone()
                };
                let chain = self.chain();
                let principal = chain
                    .ask_some(&shown, &[Method::Registry, Method::Jwt])
                    .await;
                let principal = principal.map_err(|refusal| refused(refusal.why))?;
                let principal = self.checked(principal, &exchange.credentials)?;
                Ok(Step::Done(principal, Vec::new()))
            }
            // The server goes first where the client has said nothing yet.
            State::First if data.is_none() => {
                exchange.state = State::First;
                Ok(Step::Continue(Vec::new()))
            }
            State::First => {
                let first = data.unwrap_or_default();
                let name = scram::name_in(first).map_err(fault)?;
                let users = self.users().ok_or_else(|| refused("there are no users"))?;
                let found = users.scram(&name);
                let (verifier, known) = found.ok_or_else(|| refused("there are no users"))?;
                let random = scram::nonce().map_err(|error| {
                    tracing::error!(error, "no random numbers for an authentication");
                    refused("the check has failed")
                })?;
                let begun = scram::Exchange::begin(first, verifier, known, &random);
                let (scram, answer) = begun.map_err(fault)?;
                exchange.state = State::Last {
                    exchange: Box::new(scram),
                    print: users.print(&name).unwrap_or_default(),
                    name: name.into(),
                };
                Ok(Step::Continue(answer))
            }
            State::Last {
                exchange: scram,
                name,
                print,
            } => {
                let answer = scram.finish(data.unwrap_or_default()).map_err(fault)?;
                let mut principal = Principal::new(Method::Scram, Some(name));
                principal.credential = Some(Credential::Password { print });
                self.people().dress(&mut principal);
                let principal = self.checked(Arc::new(principal), &exchange.credentials)?;
                Ok(Step::Done(principal, answer))
            }
            State::Over => Err(refused("the authentication is over")),
        }
    }
}
