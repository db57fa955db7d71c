//! Properties of MQTT 5.0 packets (section 2.2.2).
//!
//! A block of properties stays what it is on the wire: validated bytes. Reading one is a scan over at most a few dozen
//! bytes; forwarding a block is a copy. That costs no allocation at any number of user properties, and what was not
//! changed is sent on unaltered and in order, as [MQTT-3.3.2-17] and [MQTT-3.3.2-18] want.

mod buf;
mod getters;
mod ids;
mod iter;
mod validate;

pub use buf::PropertiesBuf;
pub use ids::{PropertyContext, PropertyId};
pub use iter::{PropertyIter, RawIter, RawProperty};

pub(crate) use ids::Kind;

use std::fmt;

use crate::error::DecodeError;
use crate::primitive::{Cursor, varint_len};
use crate::version::{QoS, Sender};

/// One property with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property<'a> {
    /// 0: bytes, 1: UTF-8 text.
    PayloadFormatIndicator(u8),
    /// Seconds.
    MessageExpiryInterval(u32),
    /// What the payload is, such as a MIME type.
    ContentType(&'a str),
    /// A topic name.
    ResponseTopic(&'a str),
    /// What the requester needs to tell which request an answer belongs to.
    CorrelationData(&'a [u8]),
    /// 1 to 268,435,455.
    SubscriptionIdentifier(u32),
    /// Seconds; `u32::MAX`: never.
    SessionExpiryInterval(u32),
    /// The client identifier that the server chose.
    AssignedClientIdentifier(&'a str),
    /// Seconds, in place of the client's own.
    ServerKeepAlive(u16),
    /// Name of the authentication method.
    AuthenticationMethod(&'a str),
    /// Data of the authentication method.
    AuthenticationData(&'a [u8]),
    /// Whether reason strings and user properties may be sent where nothing needs them.
    RequestProblemInformation(bool),
    /// Seconds.
    WillDelayInterval(u32),
    /// Whether the client wants response information.
    RequestResponseInformation(bool),
    /// Base of a response topic.
    ResponseInformation(&'a str),
    /// Another server to use.
    ServerReference(&'a str),
    /// Text for a human.
    ReasonString(&'a str),
    /// QoS 1 and 2 publishes that may be unacknowledged at a time, at least 1.
    ReceiveMaximum(u16),
    /// Highest topic alias that may be used; 0: none.
    TopicAliasMaximum(u16),
    /// 1 to 65,535.
    TopicAlias(u16),
    /// Highest QoS that the server supports, 0 or 1 (2 is said by leaving it out).
    MaximumQoS(QoS),
    /// Whether the server supports retained messages.
    RetainAvailable(bool),
    /// A name and a value, with no meaning to the protocol.
    UserProperty(&'a str, &'a str),
    /// Bytes, fixed header included, at least 1.
    MaximumPacketSize(u32),
    /// Whether the server supports wildcard subscriptions.
    WildcardSubscriptionAvailable(bool),
    /// Whether the server supports subscription identifiers.
    SubscriptionIdentifierAvailable(bool),
    /// Whether the server supports shared subscriptions.
    SharedSubscriptionAvailable(bool),
}

impl Property<'_> {
    /// Which property it is.
    #[must_use]
    pub const fn id(&self) -> PropertyId {
        match self {
            Self::PayloadFormatIndicator(_) => PropertyId::PayloadFormatIndicator,
            Self::MessageExpiryInterval(_) => PropertyId::MessageExpiryInterval,
            Self::ContentType(_) => PropertyId::ContentType,
            Self::ResponseTopic(_) => PropertyId::ResponseTopic,
            Self::CorrelationData(_) => PropertyId::CorrelationData,
            Self::SubscriptionIdentifier(_) => PropertyId::SubscriptionIdentifier,
            Self::SessionExpiryInterval(_) => PropertyId::SessionExpiryInterval,
            Self::AssignedClientIdentifier(_) => PropertyId::AssignedClientIdentifier,
            Self::ServerKeepAlive(_) => PropertyId::ServerKeepAlive,
            Self::AuthenticationMethod(_) => PropertyId::AuthenticationMethod,
            Self::AuthenticationData(_) => PropertyId::AuthenticationData,
            Self::RequestProblemInformation(_) => PropertyId::RequestProblemInformation,
            Self::WillDelayInterval(_) => PropertyId::WillDelayInterval,
            Self::RequestResponseInformation(_) => PropertyId::RequestResponseInformation,
            Self::ResponseInformation(_) => PropertyId::ResponseInformation,
            Self::ServerReference(_) => PropertyId::ServerReference,
            Self::ReasonString(_) => PropertyId::ReasonString,
            Self::ReceiveMaximum(_) => PropertyId::ReceiveMaximum,
            Self::TopicAliasMaximum(_) => PropertyId::TopicAliasMaximum,
            Self::TopicAlias(_) => PropertyId::TopicAlias,
            Self::MaximumQoS(_) => PropertyId::MaximumQoS,
            Self::RetainAvailable(_) => PropertyId::RetainAvailable,
            Self::UserProperty(..) => PropertyId::UserProperty,
            Self::MaximumPacketSize(_) => PropertyId::MaximumPacketSize,
            Self::WildcardSubscriptionAvailable(_) => PropertyId::WildcardSubscriptionAvailable,
            Self::SubscriptionIdentifierAvailable(_) => PropertyId::SubscriptionIdentifierAvailable,
            Self::SharedSubscriptionAvailable(_) => PropertyId::SharedSubscriptionAvailable,
        }
    }
}

/// A block of properties: bytes as on the wire, without the length in front.
///
/// Invariant of what [`Properties::parse`] and [`decode`](crate::decode) return: every property is whole, belongs where
/// it stands, has a value in its range, and is there once unless it may repeat. Whatever the bytes are, nothing here
/// panics: iteration ends at the first byte that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self(&[]);

    /// Validates a block of properties, without the length in front.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it, in `context` and sent by `sender`.
    pub fn parse(
        bytes: &'a [u8],
        context: PropertyContext,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        validate::validate(bytes, context, sender)?;
        Ok(Self(bytes))
    }

    /// Takes bytes that have been validated before, such as those of a stored message.
    #[must_use]
    pub const fn from_validated(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes, without the length in front.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no property.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes on the wire, the length in front included.
    pub(crate) const fn wire_len(self) -> usize {
        varint_len(self.0.len()) + self.0.len()
    }

    /// Reads the length and the block, and validates it.
    #[inline]
    pub(crate) fn read(
        cursor: &mut Cursor<'a>,
        context: PropertyContext,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        let len = cursor.varint("property length")?;
        if len == 0 {
            return Ok(Self::EMPTY);
        }
        Self::parse(cursor.take(len as usize, "properties")?, context, sender)
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
