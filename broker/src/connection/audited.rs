//! What the audit log is told of a client that comes, is refused, or leaves.

use std::net::SocketAddr;

use dunlin_protocol::{Packet, ReasonCode, Sender, Version, decode};

use super::close::Closing;
use super::run::{Connection, Established};
use crate::audit::{Event, Kind};
use crate::auth::Principal;
use crate::hub::Hub;
use crate::net::Accepted;

/// A client that was accepted.
pub(super) fn connected(hub: &Hub, accepted: &Accepted, established: &Established) {
    if !hub.audit.wants(Kind::Connected) {
        return;
    }
    let event = Event::new(Kind::Connected)
        .peer(accepted.peer)
        .listener(&accepted.listener.name)
        .client(&established.attached.session.client_id)
        .principal(&established.attached.wake.about.principal())
        .detail("version", version(established.version));
    hub.audit.record(event);
}

/// A client with a bootstrap credential that was accepted, or leaves. `(peer, listener, client id)`.
pub(super) fn newcomer(
    hub: &Hub,
    (peer, listener, client): (SocketAddr, &str, &str),
    principal: &Principal,
    closing: Option<&Closing>,
) {
    let kind = match closing {
        None => Kind::Connected,
        Some(_) => Kind::Disconnected,
    };
    if !hub.audit.wants(kind) {
        return;
    }
    let event = Event::new(kind)
        .peer(peer)
        .listener(listener)
        .client(client)
        .principal(principal);
    hub.audit.record(match closing {
        None => event,
        Some(closing) => left(event, closing),
    });
}

/// A client whose CONNECT was refused; `connect` is that packet. What it says of itself is not verified.
pub(super) fn refused(
    hub: &Hub,
    accepted: &Accepted,
    connect: &[u8],
    reason: ReasonCode,
    why: &str,
) {
    if !hub.audit.wants(Kind::Refused) {
        return;
    }
    let mut event = Event::new(Kind::Refused)
        .peer(accepted.peer)
        .listener(&accepted.listener.name)
        .reason(reason)
        .why(why);
    if let Ok(Packet::Connect(connect)) = decode(connect, Version::V311, Sender::Client) {
        event = event.client(connect.client_id);
        if let Some(name) = connect.username {
            event = event.user(Some(&name.into()));
        }
    }
    hub.audit.record(event);
}

/// A client that was refused before it had said who it is.
pub(super) fn silent(hub: &Hub, accepted: &Accepted, why: &str) {
    if hub.audit.wants(Kind::Refused) {
        let event = Event::new(Kind::Refused)
            .peer(accepted.peer)
            .listener(&accepted.listener.name)
            .why(why);
        hub.audit.record(event);
    }
}

/// A client that has authenticated again while it was connected, or could not.
pub(super) fn again(connection: &Connection, outcome: Result<(), &str>) {
    let audit = &connection.hub.audit;
    if !audit.wants(Kind::Reauthenticated) {
        return;
    }
    let event = Event::new(Kind::Reauthenticated)
        .peer(connection.wake.about.address())
        .client(&connection.session.client_id)
        .principal(&connection.wake.about.principal());
    audit.record(match outcome {
        Ok(()) => event,
        Err(why) => event.reason(ReasonCode::NOT_AUTHORIZED).why(why),
    });
}

/// A client that had been accepted, and leaves.
pub(super) fn disconnected(connection: &Connection, closing: &Closing) {
    let audit = &connection.hub.audit;
    if !audit.wants(Kind::Disconnected) {
        return;
    }
    let event = Event::new(Kind::Disconnected)
        .peer(connection.wake.about.address())
        .client(&connection.session.client_id)
        .principal(&connection.wake.about.principal());
    audit.record(left(event, closing));
}

fn left(mut event: Event, closing: &Closing) -> Event {
    if let Some(reason) = closing.reason_code() {
        event = event.reason(reason);
    }
    let why = match closing {
        Closing::Disconnected { .. } => "said goodbye",
        Closing::Lost(_) => "lost",
        Closing::KeepAlive => "silent",
        Closing::Violation(..) => "broke the protocol",
        Closing::Asked(_) => "closed by the broker",
    };
    event.why(why)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
}
