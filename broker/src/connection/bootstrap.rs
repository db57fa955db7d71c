//! A client with a bootstrap credential: it may ask for an identity of its own, and for nothing else.
//!
//! It has no session. Its client id is not claimed, so it disturbs no other client of that id; nothing of it is stored, and nothing that it
//! sends goes through the hub. What it is answered is written to its own connection: there is no subscription by which somebody else
//! could read it, on this replica or another, and no message that somebody else could forge.
//!
//! One request is looked at after the other, and while one is, nothing is read.

mod packets;

use std::sync::Arc;
use std::time::Duration;

use dunlin_protocol::{
    ConnAck, Connect, Packet, PropertiesBuf, Property, QoS, ReasonCode, Sender, Version, decode,
    peek_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::audited;
use super::close::{Closing, disconnect, say_goodbye};
use super::handshake::keep_alive_limit;
use crate::auth::Principal;
use crate::hub::Hub;
use crate::hub::wake::CloseRequest;
use crate::net::{Accepted, Admission, ListenerInfo, Transport};
use crate::provisioning::{Bootstrap, Caller, Provisioner};
use crate::tenant::Place;

/// Where requests are published to.
const REQUEST: &str = "$provision/request";
/// Where answers come from, or from below it.
const RESPONSE: &str = "$provision/response";
/// Longest packet, in bytes.
const PACKET_MAX: u32 = 64 * 1024;
/// Longest client id, in bytes: it becomes a part of a topic.
const CLIENT_ID_MAX: usize = 1_024;
/// Subscriptions of one client.
const FILTERS_MAX: usize = 8;
/// Bytes that are read at a time.
const READ: usize = 4_096;
/// How often it is looked whether the broker is stopping.
const LOOK: Duration = Duration::from_millis(250);

/// A client that is let in.
pub(super) struct Newcomer {
    provisioner: Arc<Provisioner>,
    /// Its place among those that ask at a time.
    _place: OwnedSemaphorePermit,
    lifetime: Duration,
    version: Version,
    client_id: Arc<str>,
    principal: Arc<Principal>,
    /// Its place among its tenant's connections.
    _tenant: Option<Place>,
    keep_alive: Option<Duration>,
    max_packet: u32,
    problem_information: bool,
    connack: Vec<u8>,
}

impl Newcomer {
    /// Looks at a CONNECT that has shown a bootstrap credential.
    ///
    /// # Errors
    /// What the client is told, and why.
    pub(super) fn admit(
        hub: &Hub,
        connect: &Connect<'_>,
        (client_id, assigned): (Arc<str>, bool),
        (principal, tenant): (Arc<Principal>, Option<Place>),
    ) -> Result<Self, (ReasonCode, &'static str)> {
        if connect.will.is_some() {
            let why = "a bootstrap credential is not good for a will";
            return Err((ReasonCode::NOT_AUTHORIZED, why));
        }
        if client_id.len() > CLIENT_ID_MAX || client_id.contains(['+', '#']) {
            let why =
                "the client id becomes a part of a topic here: at most 1024 bytes, without + and #";
            return Err((ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why));
        }
        if hub.is_draining() {
            let why = "the broker is stopping: connect to another one";
            return Err((ReasonCode::USE_ANOTHER_SERVER, why));
        }
        let busy = "as many devices ask for an identity as may at a time";
        let provisioner = hub.provisioner.get();
        let entered = provisioner.and_then(|it| Some((Arc::clone(it), it.enter()?)));
        let Some((provisioner, (place, lifetime))) = entered else {
            return Err((ReasonCode::SERVER_BUSY, busy));
        };
        Ok(Self {
            provisioner,
            _place: place,
            lifetime,
            version: connect.version,
            connack: connack(hub, connect, &client_id, assigned),
            client_id,
            principal,
            _tenant: tenant,
            keep_alive: keep_alive_limit(connect.keep_alive),
            max_packet: connect.properties.maximum_packet_size().unwrap_or(u32::MAX),
            problem_information: connect
                .properties
                .request_problem_information()
                .unwrap_or(true),
        })
    }

    /// Serves it to its end. `rest` is what came behind CONNECT.
    pub(super) async fn serve(self, hub: Arc<Hub>, accepted: Accepted, rest: Vec<u8>) {
        let Accepted {
            transport,
            peer,
            listener,
            admission,
            ..
        } = accepted;
        let Admission {
            slot: _slot,
            here: _here,
            place,
            shaking,
        } = admission;
        // The handshake is over.
        drop((place, shaking));
        let here = hub.metrics.connection_opened(&listener.name, self.version);
        let mut conversation = Conversation {
            who: Bootstrap::of(&self.principal),
            transport,
            caller: (peer, listener),
            filters: Vec::new(),
            buffer: rest,
            out: self.connack.clone(),
            asking: None,
            strayed: false,
            hub,
            newcomer: self,
        };
        let closing = conversation.run().await;
        conversation.hub.metrics.connection_closed(&here);
        conversation.finish(closing).await;
    }
}

/// What the client gets of the broker.
fn connack(hub: &Hub, connect: &Connect<'_>, client_id: &str, assigned: bool) -> Vec<u8> {
    let mut properties = PropertiesBuf::default();
    let mut push = |property: Property<'_>| {
        if let Err(error) = properties.push(property) {
            tracing::error!(%error, "a CONNACK property could not be encoded");
        }
    };
    if connect.version.is_v5() {
        if connect.properties.session_expiry_interval().unwrap_or(0) > 0 {
            push(Property::SessionExpiryInterval(0));
        }
        push(Property::MaximumQoS(maximum_qos(hub)));
        push(Property::MaximumPacketSize(packet_max(hub)));
        push(Property::SubscriptionIdentifierAvailable(false));
        push(Property::SharedSubscriptionAvailable(false));
        if assigned {
            push(Property::AssignedClientIdentifier(client_id));
        }
        if connect.properties.request_response_information() == Some(true) {
            push(Property::ResponseInformation(&answers_of(client_id)));
        }
    }
    let packet = ConnAck {
        session_present: false,
        reason: ReasonCode::SUCCESS,
        properties: properties.as_properties(),
    };
    let mut out = Vec::new();
    if let Err(error) = Packet::ConnAck(packet).encode(connect.version, &mut out) {
        tracing::error!(%error, "a CONNACK could not be encoded");
    }
    out
}

/// The topic of the answers to a client that does not name one.
fn answers_of(client_id: &str) -> String {
    format!("{RESPONSE}/{client_id}")
}

/// A request may come once more anyhow, so nobody needs QoS 2.
fn maximum_qos(hub: &Hub) -> QoS {
    match hub.features.maximum_qos {
        0 => QoS::AtMostOnce,
        _ => QoS::AtLeastOnce,
    }
}

fn packet_max(hub: &Hub) -> u32 {
    PACKET_MAX.min(hub.limits.max_packet_size)
}

/// What is going on with one client.
struct Conversation {
    hub: Arc<Hub>,
    newcomer: Newcomer,
    who: Bootstrap,
    transport: Transport,
    caller: (std::net::SocketAddr, Arc<ListenerInfo>),
    /// What it has subscribed to: each is `$provision/response` or below it.
    filters: Vec<Box<str>>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    /// The serial number whose request is being looked at.
    asking: Option<String>,
    /// It has tried something else, and the audit log knows.
    strayed: bool,
}

impl Conversation {
    async fn run(&mut self) -> Closing {
        let (peer, listener) = (self.caller.0, Arc::clone(&self.caller.1));
        audited::newcomer(
            &self.hub,
            (peer, &listener.name, &self.newcomer.client_id),
            &self.newcomer.principal,
            None,
        );
        let lifetime = match self.newcomer.principal.expires_at {
            Some(end) => self.newcomer.lifetime.min(Duration::from_secs(
                end.saturating_sub(self.hub.clock.now_ms() / 1_000),
            )),
            None => self.newcomer.lifetime,
        };
        let talked = tokio::time::timeout(lifetime, self.talk()).await;
        let closing = talked.unwrap_or(Closing::Asked(CloseRequest::Expired));
        if let Some(serial) = self.asking.take() {
            let why = "the time of the connection was over: ask again, with another nonce";
            self.refused(Some(&serial), why);
        }
        audited::newcomer(
            &self.hub,
            (peer, &listener.name, &self.newcomer.client_id),
            &self.newcomer.principal,
            Some(&closing),
        );
        closing
    }

    async fn talk(&mut self) -> Closing {
        let mut read = Instant::now();
        loop {
            if let Err(closing) = self.packets().await {
                return closing;
            }
            if let Err(error) = self.flush().await {
                return Closing::Lost(error.to_string());
            }
            if self.hub.is_draining() {
                return Closing::Asked(CloseRequest::ServerShutdown);
            }
            self.buffer.reserve(READ);
            let reading = self.transport.read_buf(&mut self.buffer);
            match tokio::time::timeout(LOOK, reading).await {
                Ok(Ok(0)) => return Closing::Lost("closed".to_owned()),
                Ok(Ok(_)) => read = Instant::now(),
                Ok(Err(error)) => return Closing::Lost(error.to_string()),
                Err(_) => {
                    let silent = self.newcomer.keep_alive;
                    if silent.is_some_and(|limit| read.elapsed() >= limit) {
                        return Closing::KeepAlive;
                    }
                }
            }
        }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        if !self.out.is_empty() {
            self.transport.write_all(&self.out).await?;
            self.transport.flush().await?;
            self.hub.metrics.written(self.out.len() as u64);
            self.out.clear();
        }
        Ok(())
    }

    /// Handles all whole packets that were read.
    async fn packets(&mut self) -> Result<(), Closing> {
        loop {
            let header = match peek_frame(&self.buffer, packet_max(&self.hub))? {
                Some(header) if header.total_len <= self.buffer.len() => header,
                _ => return Ok(()),
            };
            let rest = self.buffer.split_off(header.total_len);
            let frame = std::mem::replace(&mut self.buffer, rest);
            let packet = decode(&frame, self.newcomer.version, Sender::Client)?;
            self.count(&packet, frame.len());
            self.packet(&packet).await?;
        }
    }

    fn count(&self, packet: &Packet<'_>, len: usize) {
        let (mut publishes, mut bytes) = ([0; 3], 0);
        if let Packet::Publish(publish) = packet {
            publishes[publish.qos as usize] = 1;
            bytes = publish.payload.len() as u64;
        }
        self.hub.metrics.received(1, len as u64, publishes, bytes);
    }

    async fn finish(mut self, closing: Closing) {
        if let Some(reason) = closing.reason_code()
            && self.newcomer.version.is_v5()
        {
            let text = match &closing {
                Closing::Violation(_, text) if self.newcomer.problem_information => text,
                _ => "",
            };
            let last = disconnect(reason, text, self.newcomer.max_packet);
            self.out.extend_from_slice(&last);
        }
        if let Closing::Violation(reason, why) = &closing {
            self.hub.metrics.protocol_error(*reason);
            if self.hub.guard.talk.may() {
                tracing::info!(client = %self.newcomer.client_id, peer = %self.caller.0, why, "a client with a bootstrap credential broke the protocol");
            }
        }
        say_goodbye(&mut self.transport, &self.out).await;
    }

    /// Has the audit log know of a request that came to nothing.
    fn refused(&self, serial: Option<&str>, why: &str) {
        let provisioner = &self.newcomer.provisioner;
        provisioner.refused(&self.who, self.caller(), serial, why);
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            peer: self.caller.0,
            client: Some((&self.caller.1.name, &self.newcomer.client_id)),
        }
    }
}
