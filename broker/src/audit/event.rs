//! What can happen that is worth a line.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use dunlin_protocol::ReasonCode;
use serde_json::{Map, Value};

use super::Scope;
use crate::auth::Principal;

/// Longest text of one field, in bytes; what is longer is cut off.
const TEXT_MAX: usize = 256;
/// Fields of its own that an event may have.
const DETAILS_MAX: usize = 8;

/// Kinds of events. Each is a word in the field `event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client was accepted.
    Connected,
    /// A client was refused, at CONNECT or before.
    Refused,
    /// A client that had been accepted is gone.
    Disconnected,
    /// A live connection got a new principal by re-authentication.
    Reauthenticated,
    /// A live connection was ended because it may no longer be: ban, revocation, expiry, a change of rules.
    Ended,
    /// Somebody changed something by the admin API or the command line.
    Admin,
    /// An admin request was refused.
    AdminRefused,
    /// A step of provisioning.
    Provisioning,
    /// A ban was added, or has come into force by itself.
    Banned,
    /// A ban was removed.
    Unbanned,
    /// A credential was revoked.
    Revoked,
    /// The configuration was read again.
    Reloaded,
    /// Events were lost: the queue was full, or the file could not be written.
    Lost,
}

impl Kind {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
            Self::Reauthenticated => "reauthenticated",
            Self::Ended => "ended",
            Self::Admin => "admin",
            Self::AdminRefused => "admin_refused",
            Self::Provisioning => "provisioning",
            Self::Banned => "banned",
            Self::Unbanned => "unbanned",
            Self::Revoked => "revoked",
            Self::Reloaded => "reloaded",
            Self::Lost => "lost",
        }
    }

    /// With which `audit.events` it is recorded, and with every wider one.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Connected | Self::Disconnected | Self::Reauthenticated => Scope::All,
            Self::Refused | Self::AdminRefused => Scope::Refused,
            _ => Scope::Changes,
        }
    }
}

/// Something that happened. Made by [`Event::new`]; the fields that are known are added one by one.
#[derive(Debug, Clone)]
pub struct Event {
    kind: Kind,
    peer: Option<SocketAddr>,
    fields: Vec<(&'static str, Box<str>)>,
}

impl Event {
    /// An event of which only the kind is known.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            peer: None,
            fields: Vec::new(),
        }
    }

    /// What kind it is of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address that it came from.
    #[must_use]
    pub fn peer(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The listener that it came in by.
    #[must_use]
    pub fn listener(self, name: &str) -> Self {
        self.with("listener", name)
    }

    /// The client id.
    #[must_use]
    pub fn client(self, id: &str) -> Self {
        self.with("client", id)
    }

    /// The user name: the verified one of who was accepted, the claimed one of who was refused.
    #[must_use]
    pub fn user(self, name: Option<&Arc<str>>) -> Self {
        self.maybe("user", name.map(|name| &**name))
    }

    /// What is known of a client.
    #[must_use]
    pub fn principal(self, principal: &Principal) -> Self {
        self.user(principal.username.as_ref())
            .tenant(principal.tenant.as_ref())
            .device(principal.device.as_ref())
            .method(principal.method.as_str())
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(self, name: Option<&Arc<str>>) -> Self {
        self.maybe("tenant", name.map(|name| &**name))
    }

    /// The device's id in the registry.
    #[must_use]
    pub fn device(self, id: Option<&Arc<str>>) -> Self {
        self.maybe("device", id.map(|id| &**id))
    }

    /// How the client proved who it is.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        self.with("method", method)
    }

    /// The reason code that the client was given.
    #[must_use]
    pub fn reason(self, reason: ReasonCode) -> Self {
        let text = format!("{:#04x}", reason.0);
        self.with("reason", &text)
    }

    /// Why, in words.
    #[must_use]
    pub fn why(self, why: &str) -> Self {
        self.with("why", why)
    }

    /// Who did it: the name of an admin token, `"cli"`, `"broker"` for what the broker did by itself.
    #[must_use]
    pub fn by(self, actor: &str) -> Self {
        self.with("by", actor)
    }

    /// What was done, as a verb and its object: `"device.block"`.
    #[must_use]
    pub fn action(self, action: &str) -> Self {
        self.with("action", action)
    }

    /// What it was done to.
    #[must_use]
    pub fn target(self, target: &str) -> Self {
        self.with("target", target)
    }

    /// A field of its own; at most eight. Never for what is secret.
    #[must_use]
    pub fn detail(self, key: &'static str, value: impl std::fmt::Display) -> Self {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _infallible = write!(text, "{value}").is_ok();
        self.with(key, &text)
    }

    fn maybe(self, key: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn with(mut self, key: &'static str, value: &str) -> Self {
        // The fields that have a method of their own, and details.
        if self.fields.len() < 12 + DETAILS_MAX {
            self.fields.push((key, cut(value).into()));
        }
        self
    }

    /// The line, without its end.
    pub(super) fn line(&self, time: &str) -> String {
        let mut line = Map::new();
        let text = |text: &str| Value::String(text.to_owned());
        line.insert("time".to_owned(), text(time));
        line.insert("event".to_owned(), text(self.kind.as_str()));
        if let Some(peer) = self.peer {
            line.insert("peer".to_owned(), text(&peer.to_string()));
        }
        for (key, value) in &self.fields {
            line.insert((*key).to_owned(), text(value));
        }
        Value::Object(line).to_string()
    }

    /// The fields as `key=value`, for the broker's own log.
    pub(super) fn words(&self) -> String {
        let mut words = String::new();
        let mut add = |key: &str, value: &dyn std::fmt::Display| {
            let space = if words.is_empty() { "" } else { " " };
            let _infallible = write!(words, "{space}{key}={value}").is_ok();
        };
        if let Some(peer) = self.peer {
            add("peer", &peer);
        }
        for (key, value) in &self.fields {
            add(key, &format_args!("{value:?}"));
        }
        words
    }
}

fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(TEXT_MAX);
    text.get(..end).unwrap_or_default()
}
