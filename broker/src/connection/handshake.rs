//! The first packet: CONNECT, what is wrong with it, and CONNACK.

mod asked;
mod connack;
mod refusal;

use std::sync::Arc;
use std::time::Duration;

use dunlin_protocol::{Connect, Packet, ReasonCode, Sender, Version, decode, peek_frame};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use self::asked::{check, client_id, max_packet, request, will};
use self::connack::{connack, server_keep_alive};
use self::refusal::{Refusal, refuse, refuse_malformed};
use super::audited;
use super::bootstrap::Newcomer;
use super::close::say_goodbye;
use super::exchange::{Failed, before_connack};
use super::login;
use super::run::{Connection, Established};
use crate::auth::rules::is_of_tenants;
use crate::auth::{Credentials, Method, Principal, Refused, scram};
use crate::core::mount;
use crate::hub::live::Peer;
use crate::hub::{Departure, Hub};
use crate::net::{Accepted, ClientCertificate, ListenerInfo, sniff};
use crate::tenant::Place;

/// Bytes read at a time before CONNECT is whole.
const READ: usize = 2048;

/// Who is let in.
enum Welcome {
    /// A client with a session, and its CONNACK.
    Client(Established, Vec<u8>),
    /// One that may do nothing but ask for an identity.
    Newcomer(Box<Newcomer>),
}

/// Reads CONNECT and answers it. `None`: the connection is over.
pub(super) async fn handshake(hub: &Arc<Hub>, mut accepted: Accepted) -> Option<Connection> {
    let timeout = Duration::from_millis(u64::from(hub.limits.connect_timeout_ms));
    let deadline = tokio::time::Instant::from_std(accepted.accepted_at) + timeout;
    let mut buffer = Vec::new();
    let frame_len = match tokio::time::timeout_at(
        deadline,
        read_connect(hub, &mut accepted, &mut buffer),
    )
    .await
    {
        Ok(Some(frame_len)) => frame_len,
        Ok(None) => return None,
        Err(_) => {
            hub.metrics.refused("timeout");
            audited::silent(
                hub,
                &accepted,
                "no whole CONNECT within the connect timeout",
            );
            if hub.guard.talk.may() {
                tracing::info!(peer = %accepted.peer, timeout_ms = hub.limits.connect_timeout_ms, "no whole CONNECT within the connect timeout");
            }
            return None;
        }
    };
    let mut rest = buffer.split_off(frame_len);
    match establish(hub, (&mut accepted, &mut rest, deadline), &buffer).await {
        Ok(Welcome::Newcomer(newcomer)) => {
            Box::pin(newcomer.serve(hub.clone(), accepted, rest)).await;
            None
        }
        Ok(Welcome::Client(established, connack)) => {
            audited::connected(hub, &accepted, &established);
            Some(Connection::new(
                hub.clone(),
                accepted,
                established,
                connack,
                rest,
            ))
        }
        Err(None) => None,
        Err(Some(refusal)) => {
            hub.metrics.refused(refusal.counted_as);
            audited::refused(hub, &accepted, &buffer, refusal.reason, &refusal.why);
            // In a storm there are thousands of those; the metric has them all.
            if refusal.reason == ReasonCode::SERVER_BUSY {
                tracing::debug!(peer = %accepted.peer, why = refusal.why, "connection refused: busy");
            } else if hub.guard.talk.may() {
                tracing::info!(
                    peer = %accepted.peer,
                    reason = %format_args!("{:#04x} {}", refusal.reason.0, refusal.reason.name()),
                    why = refusal.why,
                    "connection refused"
                );
            }
            let connack = refuse(&refusal);
            say_goodbye(&mut accepted.transport, &connack).await;
            None
        }
    }
}

/// Reads until the first packet is whole; gives back its length. `None`: this is no MQTT client.
async fn read_connect(hub: &Hub, accepted: &mut Accepted, buffer: &mut Vec<u8>) -> Option<usize> {
    loop {
        buffer.reserve(READ);
        match accepted.transport.read_buf(buffer).await {
            Ok(0) => {
                tracing::debug!(peer = %accepted.peer, bytes = buffer.len(), "closed before CONNECT");
                return None;
            }
            Err(error) => {
                tracing::debug!(peer = %accepted.peer, %error, "lost before CONNECT");
                return None;
            }
            Ok(_) => {}
        }
        if buffer.first() != Some(&0x10) {
            not_connect(hub, accepted, buffer).await;
            return None;
        }
        let bound = hub.limits.max_connect_size.min(hub.limits.max_packet_size);
        match peek_frame(buffer, bound) {
            Ok(Some(header)) if buffer.len() >= header.total_len => return Some(header.total_len),
            Ok(_) => {}
            Err(error) => {
                hub.metrics.refused(error.reason_code().name());
                audited::silent(hub, accepted, "the first packet is malformed");
                if hub.guard.talk.may() {
                    tracing::info!(peer = %accepted.peer, %error, "the first packet is malformed");
                }
                if let Some(version) = claimed_version(buffer).filter(|version| version.is_v5()) {
                    let refusal = Refusal::new(version, error.reason_code(), "");
                    say_goodbye(&mut accepted.transport, &refuse(&refusal)).await;
                }
                return None;
            }
        }
    }
}

/// [MQTT-3.1.0-1]: whatever is not CONNECT ends the connection; what a browser sent gets an answer
/// that a human can read.
async fn not_connect(hub: &Hub, accepted: &mut Accepted, buffer: &[u8]) {
    match sniff::not_mqtt(buffer) {
        Some(sniffed) => {
            hub.metrics.refused("not mqtt");
            audited::silent(hub, accepted, "not MQTT");
            if hub.guard.talk.may() {
                tracing::info!(peer = %accepted.peer, listener = %accepted.listener.name, "{}", sniffed.message(&accepted.listener));
            }
            say_goodbye(&mut accepted.transport, &sniffed.answer(&accepted.listener)).await;
        }
        None => {
            hub.metrics.refused("first packet is not connect");
            audited::silent(hub, accepted, "the first packet is not CONNECT");
            if hub.guard.talk.may() {
                tracing::info!(peer = %accepted.peer, first_byte = buffer.first().copied().unwrap_or(0), "the first packet is not CONNECT");
            }
        }
    }
}

/// The version that a CONNECT claims, if its header says one: it decides the form of the answer.
fn claimed_version(buffer: &[u8]) -> Option<Version> {
    let body_at = 1
        + buffer
            .get(1..5)?
            .iter()
            .take_while(|byte| **byte & 0x80 != 0)
            .count()
        + 1;
    let name_len = usize::from(u16::from_be_bytes([
        *buffer.get(body_at)?,
        *buffer.get(body_at + 1)?,
    ]));
    match buffer.get(body_at + 2 + name_len)? {
        0..=4 => Some(Version::V311),
        _ => Some(Version::V5),
    }
}

async fn establish(
    hub: &Arc<Hub>,
    (accepted, rest, deadline): (&mut Accepted, &mut Vec<u8>, tokio::time::Instant),
    frame: &[u8],
) -> Result<Welcome, Option<Refusal>> {
    let claimed = claimed_version(frame).unwrap_or(Version::V311);
    let connect = match decode(frame, Version::V311, Sender::Client) {
        Ok(Packet::Connect(connect)) => connect,
        Ok(_) => {
            let why = "the first packet is not CONNECT";
            return Err(Some(Refusal::new(claimed, ReasonCode::PROTOCOL_ERROR, why)));
        }
        Err(error) => return Err(Some(refuse_malformed(claimed, error))),
    };
    let version = connect.version;
    if accepted.admission.slot.is_none() {
        return Err(Some(Refusal::full(version)));
    }
    if hub.is_crowded() {
        return Err(Some(Refusal::short_of_memory(version)));
    }
    check(hub, &connect)?;
    let (client_id, assigned) = client_id(hub, &connect)?;
    let mut credentials = Credentials {
        client_id: client_id.clone(),
        username: connect.username.map(Arc::from),
        password: connect
            .password
            .map(|password| Zeroizing::new(password.to_vec())),
        tls_name: accepted.tls_name.clone(),
        certificate: accepted.certificate.clone(),
        sni: accepted.sni.clone(),
        version,
        known: false,
        peer: accepted.peer,
        listener: accepted.listener.clone(),
    };
    let changes = hub.changes();
    let guard = &hub.guard;
    // Where there are tenants it is not known yet whose client this is: another tenant's may have the same id.
    if !hub.tenants.are_there()
        && guard
            .bans
            .holds_claim(&client_id, credentials.username.as_deref())
    {
        return Err(Some(Refusal::new(version, ReasonCode::BANNED, "banned")));
    }
    let told = |refused: Refused| Refusal::new(version, refused.reason, refused.why);
    let counted = counted(&connect, &credentials);
    let attempt = login::ask(hub, &counted)
        .map_err(|why| Refusal::new(version, ReasonCode::CONNECTION_RATE_EXCEEDED, why))?;
    credentials.known = attempt.is_some_and(|attempt| attempt.is_known());
    let (principal, enhanced, proof) = match connect.properties.authentication_method() {
        None => {
            let principal = hub.auth.authenticate(&credentials).await;
            login::told(hub, attempt, &counted, &principal);
            (principal.map_err(told)?, None, Vec::new())
        }
        Some(method) => {
            let shown = Credentials {
                password: None,
                ..credentials
            };
            let first = connect.properties.authentication_data();
            let asked = (shown, method, first);
            let begun = before_connack(hub, accepted, rest, deadline, asked);
            let outcome = Box::pin(begun).await;
            let known = match &outcome {
                Ok((principal, ..)) => Ok(Arc::clone(principal)),
                Err(Failed::Refused(refused)) => Err(*refused),
                // It has not said what it was asked for.
                Err(Failed::Gone(why)) => Err(Refused {
                    reason: ReasonCode::NOT_AUTHORIZED,
                    why,
                }),
            };
            login::told(hub, attempt, &counted, &known);
            match outcome {
                Ok((principal, enhanced, proof)) => (principal, Some(enhanced), proof),
                Err(Failed::Refused(refused)) => return Err(Some(told(refused))),
                Err(Failed::Gone(why)) => {
                    hub.metrics.refused("closed");
                    audited::silent(hub, accepted, why);
                    tracing::info!(peer = %accepted.peer, why, "connection refused");
                    return Err(None);
                }
            }
        }
    };
    let (principal, client_id, tenant) = tenant(hub, version, principal, client_id, accepted)?;
    if principal.method == Method::Provisioning {
        let ids = (Arc::from(mount::own(&client_id)), assigned);
        let newcomer = Newcomer::admit(hub, &connect, ids, (principal, tenant))
            .map_err(|(reason, why)| Refusal::new(version, reason, why))?;
        return Ok(Welcome::Newcomer(Box::new(newcomer)));
    }
    let will = will(hub, &connect, &client_id, &principal, tenant.as_ref())?;
    let peer = Peer {
        principal,
        address: accepted.peer,
        listener: accepted.listener.clone(),
        certificate: accepted
            .certificate
            .take()
            .map(|certificate| Arc::new(certificate.slim())),
        tenant: tenant.map(Arc::new),
    };
    let request = request(hub, &connect, client_id, will, peer);
    let expiry_interval = request.expiry_interval;
    let attached = hub
        .attach(request)
        .await
        .map_err(|error| Refusal::new(version, error.reason_code(), error.to_string()))?;
    look_again(hub, &attached, changes).map_err(|(reason, why)| {
        hub.detach(&attached.session, &attached.wake, UNTOLD);
        Refusal::new(version, reason, why)
    })?;

    let server_keep_alive = server_keep_alive(hub, &connect);
    let connack = connack(
        hub,
        &connect,
        &attached,
        assigned,
        expiry_interval,
        server_keep_alive,
        enhanced
            .as_deref()
            .map(|enhanced| (enhanced.method(), &*proof)),
    );
    let established = Established {
        attached,
        version,
        keep_alive_seconds: server_keep_alive.unwrap_or(connect.keep_alive),
        max_packet: max_packet(&connect),
        problem_information: connect
            .properties
            .request_problem_information()
            .unwrap_or(true),
        expiry_interval,
        enhanced,
    };
    Ok(Welcome::Client(established, connack))
}

/// Who has shown no tenant is of that in its certificate, or of the listener's. No two of the three may differ.
///
/// # Errors
/// Which two do.
pub(super) fn belonging(
    mut principal: Arc<Principal>,
    certificate: Option<&ClientCertificate>,
    listener: &ListenerInfo,
) -> Result<Arc<Principal>, String> {
    let of_certificate = certificate.and_then(|certificate| certificate.tenant.as_ref());
    for (tenant, whose) in [
        (of_certificate, "its certificate"),
        (listener.tenant.as_ref(), "the listener"),
    ] {
        let Some(tenant) = tenant else { continue };
        match &principal.tenant {
            Some(own) if own == tenant => {}
            Some(own) => return Err(format!("of tenant {own:?}, and {whose} is {tenant:?}'s")),
            // It would be another device: there may be one of its name in that tenant.
            None if principal.device.is_some() => {
                return Err(format!(
                    "a device of no tenant, and {whose} is {tenant:?}'s"
                ));
            }
            None => {
                principal = Arc::new(Principal {
                    tenant: Some(tenant.clone()),
                    ..Principal::clone(&principal)
                });
            }
        }
    }
    Ok(principal)
}

/// Who a client is, its id as it is inside, and its place in its tenant.
type Belonging = (Arc<Principal>, Arc<str>, Option<Place>);

/// A place in the tenant that the client belongs to by what it has shown, or by where it came in, and its id as it is inside: one
/// that would look like a tenant's belongs to nobody.
fn tenant(
    hub: &Hub,
    version: Version,
    principal: Arc<Principal>,
    client_id: Arc<str>,
    accepted: &Accepted,
) -> Result<Belonging, Refusal> {
    let refused = |reason, why| Err(Refusal::new(version, reason, why));
    let bad_id = |why: &str| Refusal::new(version, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why);
    let certificate = accepted.certificate.as_deref();
    let principal = match belonging(principal, certificate, &accepted.listener) {
        Ok(principal) => principal,
        Err(why) => return refused(ReasonCode::NOT_AUTHORIZED, why),
    };
    let Some(name) = &principal.tenant else {
        return match is_of_tenants(&client_id) {
            true => Err(bad_id("a client id that begins with $tenant")),
            false => Ok((principal, client_id, None)),
        };
    };
    let tenant = match hub.tenants.find(name) {
        Ok(tenant) => tenant,
        Err(why) => return refused(ReasonCode::NOT_AUTHORIZED, why),
    };
    let inside = tenant.mount.client_id(&client_id);
    let inside = inside.map_err(|_| bad_id("the client id is too long for a tenant's client"))?;
    // Who comes back before its lost connection was noticed takes the place of that. A bootstrap credential takes nothing over.
    let claims = principal.method != Method::Provisioning;
    match tenant.enter(|| claims && hub.is_connected_here(&inside)) {
        Ok(place) => Ok((principal, inside, Some(place))),
        Err(reason) => {
            let why = format!("tenant {name:?} has as many connections as it may");
            refused(reason, why)
        }
    }
}

/// The same credentials as wrong logins are counted for: SCRAM has its name in a message of its own.
fn counted(connect: &Connect<'_>, credentials: &Credentials) -> Credentials {
    let mut counted = credentials.clone();
    if connect.properties.authentication_method().is_some() {
        let first = connect.properties.authentication_data();
        let name = first.and_then(|first| scram::name_in(first).ok());
        let name = name.map_or_else(|| credentials.client_id.clone(), Arc::from);
        counted.username = Some(name);
        counted.password = None;
    }
    counted
}

/// How a session is let go of whose client has got no CONNACK.
const UNTOLD: Departure = Departure {
    will: false,
    expiry_interval: None,
    claimed_elsewhere: false,
};

/// What the client may do is looked at once more now that it can be found: its rights may have changed since its session was
/// last used, or since it was asked who it is.
fn look_again(
    hub: &Arc<Hub>,
    attached: &crate::hub::Attached,
    changes: u64,
) -> Result<(), (ReasonCode, &'static str)> {
    let principal = attached.wake.about.principal();
    let (address, client_id) = (attached.wake.about.address(), &attached.session.client_id);
    if hub
        .guard
        .bans
        .holds_client(address.ip(), client_id, &principal)
    {
        return Err((ReasonCode::BANNED, "banned"));
    }
    if changes != hub.changes()
        && !hub
            .auth
            .holds(&principal, attached.wake.about.certificate())
    {
        return Err((
            ReasonCode::NOT_AUTHORIZED,
            "the credentials were withdrawn while they were checked",
        ));
    }
    if changes != hub.changes() {
        hub.devices.look_again(&principal);
    }
    if attached.present || changes != hub.changes() {
        hub.take_away(&attached.session, &principal);
    }
    Ok(())
}

/// When a connection that was accepted at `now` is idle for too long.
pub(super) fn keep_alive_limit(seconds: u16) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_millis(u64::from(seconds) * 1500))
}
