//! Authentication by AUTH packets: before CONNACK, and again while the client is connected.
//!
//! While a connected client authenticates again everything else goes on. It must come out as the same client; if it does not, or fails, the
//! connection ends with 0x87 ([MQTT-4.12.1-2]).

use std::sync::Arc;
use std::task::{Context, Poll};

use dunlin_protocol::{
    Auth as AuthPacket, Packet, PropertiesBuf, Property, ReasonCode, Sender, Version, decode,
    peek_frame,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::audited;
use super::close::Closing;
use super::handshake::belonging;
use super::run::Connection;
use crate::auth::Refused;
use crate::auth::enhanced::{Exchange, Step};
use crate::auth::{Credentials, Principal};
use crate::hub::Hub;
use crate::hub::wake::CloseRequest;
use crate::net::Accepted;

/// Longest AUTH packet, in bytes: nothing that is in one is longer than a token.
const MAX_AUTH: u32 = 64 * 1024;
/// AUTH packets of a client before its CONNACK.
const MAX_STEPS: usize = 8;

/// A client that has authenticated so, and may again.
pub(super) struct Enhanced {
    method: Box<str>,
    /// What it was asked with, without what it has shown.
    credentials: Credentials,
    state: State,
}

enum State {
    /// It has been told that all is well.
    Done,
    /// Its next AUTH is awaited.
    Awaiting(Exchange),
    /// What it has sent is being looked at.
    Looking(BoxFuture<'static, (Exchange, Result<Step, Refused>)>),
}

/// Why there is no principal.
pub(super) enum Failed {
    /// The client is told.
    Refused(Refused),
    /// Nobody is there to be told.
    Gone(&'static str),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

fn protocol_error(why: &'static str) -> Failed {
    Failed::Refused(Refused {
        reason: ReasonCode::PROTOCOL_ERROR,
        why,
    })
}

/// Who the client is, how it may show that again, and what CONNACK has for it.
pub(super) type Identified = (Arc<Principal>, Box<Enhanced>, Vec<u8>);

/// Goes on from CONNECT until the client is known or refused. `rest` is what came behind CONNECT, and afterwards behind the last AUTH.
pub(super) async fn before_connack(
    hub: &Hub,
    accepted: &mut Accepted,
    rest: &mut Vec<u8>,
    deadline: Instant,
    (credentials, method, first): (Credentials, &str, Option<&[u8]>),
) -> Result<Identified, Failed> {
    let mut exchange = hub.auth.begin(credentials, method)?;
    let mut data = first.map(<[u8]>::to_vec);
    for _ in 0..MAX_STEPS {
        match hub.auth.step(&mut exchange, data.as_deref()).await? {
            Step::Done(principal, answer) => {
                let mut credentials = exchange.into_credentials();
                let certificate = credentials.certificate.take();
                credentials.certificate = certificate.map(|known| Arc::new(known.slim()));
                let enhanced = Enhanced {
                    method: method.into(),
                    credentials,
                    state: State::Done,
                };
                return Ok((principal, Box::new(enhanced), answer));
            }
            Step::Continue(answer) => {
                let packet = auth_packet(ReasonCode::CONTINUE_AUTHENTICATION, method, &answer);
                let next = async {
                    let sent = accepted.transport.write_all(&packet).await;
                    let sent = match sent {
                        Ok(()) => accepted.transport.flush().await,
                        failed => failed,
                    };
                    sent.map_err(|_| Failed::Gone("lost while it authenticated"))?;
                    next_auth(accepted, rest, method).await
                };
                let next = tokio::time::timeout_at(deadline, next).await;
                data = next
                    .map_err(|_| Failed::Gone("not authenticated within the connect timeout"))??;
            }
        }
    }
    Err(protocol_error("the authentication does not end"))
}

/// The data of the client's next packet, which must be AUTH.
async fn next_auth(
    accepted: &mut Accepted,
    rest: &mut Vec<u8>,
    method: &str,
) -> Result<Option<Vec<u8>>, Failed> {
    let total = loop {
        match peek_frame(rest, MAX_AUTH) {
            Ok(Some(header)) if header.total_len <= rest.len() => break header.total_len,
            Ok(_) => {}
            Err(error) => {
                return Err(Failed::Refused(Refused {
                    reason: error.reason_code(),
                    why: "a packet is malformed",
                }));
            }
        }
        match accepted.transport.read_buf(rest).await {
            Ok(0) | Err(_) => return Err(Failed::Gone("closed while it authenticated")),
            Ok(_) => {}
        }
    };
    let behind = rest.split_off(total);
    let frame = std::mem::replace(rest, behind);
    // [MQTT-3.1.2-30]: nothing but AUTH and DISCONNECT before CONNACK.
    match decode(&frame, Version::V5, Sender::Client) {
        Ok(Packet::Auth(auth)) if auth.reason != ReasonCode::CONTINUE_AUTHENTICATION => {
            Err(protocol_error("an AUTH that does not go on"))
        }
        Ok(Packet::Auth(auth)) if auth.properties.authentication_method() != Some(method) => Err(
            protocol_error("an AUTH of another method than that of CONNECT"),
        ),
        Ok(Packet::Auth(auth)) => Ok(auth.properties.authentication_data().map(<[u8]>::to_vec)),
        Ok(Packet::Disconnect(_)) => Err(Failed::Gone("gave up while it authenticated")),
        Ok(_) => Err(protocol_error("a packet other than AUTH before CONNACK")),
        Err(error) => Err(Failed::Refused(Refused {
            reason: error.reason_code(),
            why: "a packet is malformed",
        })),
    }
}

/// [MQTT-4.12.0-5]: the method of CONNECT is in every AUTH.
fn auth_packet(reason: ReasonCode, method: &str, data: &[u8]) -> Vec<u8> {
    let mut properties = PropertiesBuf::default();
    let mut out = Vec::new();
    let pushed = properties
        .push(Property::AuthenticationMethod(method))
        .is_ok()
        && (data.is_empty() || properties.push(Property::AuthenticationData(data)).is_ok());
    let packet = Packet::Auth(AuthPacket {
        reason,
        properties: properties.as_properties(),
    });
    let encoded = pushed && packet.encode(Version::V5, &mut out).is_ok();
    if !encoded {
        tracing::error!(method, "an AUTH could not be encoded");
    }
    out
}

impl Enhanced {
    /// The method of CONNECT.
    pub(super) fn method(&self) -> &str {
        &self.method
    }
}

impl Connection {
    /// AUTH of a connected client.
    pub(super) fn auth(&mut self, auth: &AuthPacket<'_>) -> Result<(), Closing> {
        let violation = |why: &str| Closing::Violation(ReasonCode::PROTOCOL_ERROR, why.to_owned());
        let Some(enhanced) = &mut self.enhanced else {
            return Err(violation(
                "AUTH without an authentication method in CONNECT",
            ));
        };
        // [MQTT-4.12.1-1]
        if auth.properties.authentication_method() != Some(&*enhanced.method) {
            return Err(violation("AUTH of another method than that of CONNECT"));
        }
        let exchange = match std::mem::replace(&mut enhanced.state, State::Done) {
            State::Done if auth.reason == ReasonCode::RE_AUTHENTICATE => {
                let begun = self
                    .hub
                    .auth
                    .begin(enhanced.credentials.clone(), &enhanced.method);
                begun.map_err(|_| Closing::Asked(CloseRequest::NotAuthorized))?
            }
            State::Awaiting(exchange) if auth.reason == ReasonCode::CONTINUE_AUTHENTICATION => {
                exchange
            }
            _ => return Err(violation("AUTH out of turn")),
        };
        let data = auth.properties.authentication_data().map(<[u8]>::to_vec);
        enhanced.state = State::Looking(look(Arc::clone(&self.hub), exchange, data));
        // It is asked for the first time when the task runs next.
        self.wake.wake();
        Ok(())
    }

    /// Looks whether an authentication has come further.
    pub(super) fn poll_enhanced(&mut self, cx: &mut Context<'_>) -> Result<(), Closing> {
        let Some(enhanced) = &mut self.enhanced else {
            return Ok(());
        };
        let State::Looking(future) = &mut enhanced.state else {
            return Ok(());
        };
        let Poll::Ready((exchange, step)) = future.poll_unpin(cx) else {
            return Ok(());
        };
        let (reason, data) = match step {
            Ok(Step::Continue(data)) => {
                enhanced.state = State::Awaiting(exchange);
                (ReasonCode::CONTINUE_AUTHENTICATION, data)
            }
            Ok(Step::Done(principal, data)) => {
                enhanced.state = State::Done;
                let same = self.become_again(principal);
                audited::again(
                    self,
                    if same {
                        Ok(())
                    } else {
                        Err("it is not the same client, or banned")
                    },
                );
                if !same {
                    return Err(Closing::Asked(CloseRequest::NotAuthorized));
                }
                (ReasonCode::SUCCESS, data)
            }
            Err(refused) => {
                tracing::info!(client = %self.session.client_id, why = refused.why, "a client could not authenticate again");
                audited::again(self, Err(refused.why));
                return Err(Closing::Asked(CloseRequest::NotAuthorized));
            }
        };
        if let Some(enhanced) = &self.enhanced {
            self.local
                .extend(&auth_packet(reason, &enhanced.method, &data));
        }
        Ok(())
    }

    /// The client has shown anew who it is; false when that is somebody else.
    fn become_again(&mut self, principal: Arc<Principal>) -> bool {
        let about = &self.wake.about;
        let Ok(principal) = belonging(principal, about.certificate(), about.listener()) else {
            tracing::info!(client = %self.session.client_id, "a client has authenticated again as one of another tenant");
            return false;
        };
        let same = {
            let before = self.wake.about.principal();
            before.username == principal.username
                && before.tenant == principal.tenant
                && before.device == principal.device
        };
        if !same {
            tracing::info!(client = %self.session.client_id, "a client has authenticated again as somebody else");
            return false;
        }
        let hub = Arc::clone(&self.hub);
        let address = self.wake.about.address().ip();
        let bans = &hub.guard.bans;
        if bans.holds_client(address, &self.session.client_id, &principal) {
            return false;
        }
        hub.renew_principal(&self.wake, Arc::clone(&principal));
        let holds = hub.auth.holds(&principal, self.wake.about.certificate());
        tracing::debug!(client = %self.session.client_id, until = principal.expires_at, "a client has authenticated again");
        hub.recheck(&self.wake);
        holds
    }
}

fn look(
    hub: Arc<Hub>,
    mut exchange: Exchange,
    data: Option<Vec<u8>>,
) -> BoxFuture<'static, (Exchange, Result<Step, Refused>)> {
    async move {
        let step = hub.auth.step(&mut exchange, data.as_deref()).await;
        (exchange, step)
    }
    .boxed()
}
