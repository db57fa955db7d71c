//! What can be wrong with bytes that were received, or with a packet that is to be sent.

use thiserror::Error;

use crate::packet::PacketType;
use crate::property::{PropertyContext, PropertyId};
use crate::reason_code::ReasonCode;
use crate::topic::TopicError;
use crate::version::{Sender, Version};

/// Why bytes are no MQTT packet that may be sent here. After any of these the connection is closed [MQTT-4.13.1-1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The remaining length takes more than four bytes.
    #[error("remaining length takes more than four bytes")]
    RemainingLengthTooLong,
    /// The remaining length has superfluous bytes.
    #[error("remaining length {value} is written with more bytes than it needs")]
    RemainingLengthNotMinimal {
        /// The length that was meant.
        value: u32,
    },
    /// The whole packet, fixed header included, is larger than the receiver allows.
    #[error("packet of {size} bytes is above the limit of {limit} bytes")]
    PacketTooLarge {
        /// Bytes of the packet.
        size: usize,
        /// Bytes allowed.
        limit: u32,
    },
    /// `decode` was given more or fewer bytes than one packet.
    #[error(
        "frame of {actual} bytes does not hold exactly one packet, its header declares {declared} bytes"
    )]
    FrameLength {
        /// Bytes that the fixed header declares, itself included; 0 when there is no whole fixed header.
        declared: usize,
        /// Bytes given.
        actual: usize,
    },
    /// The packet type does not exist in this version.
    #[error("packet type {packet_type} does not exist in mqtt {version}")]
    PacketTypeReserved {
        /// The upper four bits of the first byte.
        packet_type: u8,
        /// The version of the connection.
        version: Version,
    },
    /// A packet that only the other side may send.
    #[error("a {sender} must not send {packet}")]
    WrongDirection {
        /// The packet.
        packet: PacketType,
        /// Who sent it.
        sender: Sender,
    },
    /// Reserved bits of the first byte are not as they must be.
    #[error("fixed header flags of {packet} are {flags:#06b}, which is not allowed")]
    HeaderFlags {
        /// The packet.
        packet: PacketType,
        /// The lower four bits of the first byte.
        flags: u8,
    },
    /// The packet, or a block inside it, ends before this field does.
    #[error("{field} is cut off")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
    },
    /// Bytes are left after the last field.
    #[error("{count} bytes too many after the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A string that is not well-formed UTF-8.
    #[error("{field} is not well-formed utf-8")]
    NotUtf8 {
        /// The string.
        field: &'static str,
    },
    /// A string with U+0000.
    #[error("{field} contains the null character")]
    NulCharacter {
        /// The string.
        field: &'static str,
    },
    /// A variable byte integer of more than four bytes.
    #[error("{field} takes more than four bytes")]
    VarintTooLong {
        /// The integer.
        field: &'static str,
    },
    /// A variable byte integer with superfluous bytes.
    #[error("{field} {value} is written with more bytes than it needs")]
    VarintNotMinimal {
        /// The integer.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// Packet identifier 0.
    #[error("packet identifier is 0")]
    PacketIdZero,
    /// QoS 3.
    #[error("{field} is 3, it must be 0, 1 or 2")]
    QosReserved {
        /// Which QoS.
        field: &'static str,
    },
    /// QoS 3 in subscription options.
    #[error("maximum qos of a subscription is 3, it must be 0, 1 or 2")]
    SubscriptionQos,
    /// DUP in a QoS 0 PUBLISH.
    #[error("dup is set in a publish of qos 0")]
    DupWithQosZero,
    /// The protocol name is neither `MQTT` nor `MQIsdp`.
    #[error("protocol name is neither \"MQTT\" nor \"MQIsdp\"")]
    ProtocolName,
    /// The protocol level is not one of this crate's. Well-formed, but of no version that we speak.
    #[error(
        "protocol level {level} is not supported, supported are 3 (mqtt 3.1), 4 (3.1.1) and 5 (5.0)"
    )]
    UnsupportedVersion {
        /// The level that was asked for.
        level: u8,
    },
    /// The reserved bit of the connect flags is set.
    #[error("connect flags are {flags:#010b}, the lowest bit must be 0")]
    ConnectFlags {
        /// The flags.
        flags: u8,
    },
    /// Will QoS or will retain without a will.
    #[error("connect flags are {flags:#010b}: will qos and will retain must be 0 without a will")]
    WillFlags {
        /// The flags.
        flags: u8,
    },
    /// A password without a user name (not allowed before MQTT 5).
    #[error("password without a user name")]
    PasswordWithoutUsername,
    /// An empty client identifier where the version or the session asks for one.
    #[error("client identifier is empty, mqtt {version} wants one here")]
    ClientIdEmpty {
        /// The version of the connection.
        version: Version,
    },
    /// Reserved bits of the CONNACK flags.
    #[error("connack flags are {flags:#010b}, the upper seven bits must be 0")]
    ConnAckFlags {
        /// The flags.
        flags: u8,
    },
    /// Session present although the connection was refused.
    #[error("session present is set in a connack that refuses the connection")]
    SessionPresentRefused,
    /// A topic name that breaks the grammar.
    #[error("{field} is not a valid topic name: {error}")]
    TopicName {
        /// Which topic name.
        field: &'static str,
        /// What is wrong with it.
        error: TopicError,
    },
    /// A response topic that breaks the grammar.
    #[error("response topic is not a valid topic name: {0}")]
    ResponseTopic(TopicError),
    /// An empty topic name without a topic alias.
    #[error("topic name is empty and there is no topic alias")]
    TopicMissing,
    /// A topic filter that breaks the grammar.
    #[error("topic filter is not valid: {0}")]
    TopicFilter(TopicError),
    /// Reserved bits of the subscription options.
    #[error("subscription options are {options:#010b}, which has reserved bits set")]
    SubscriptionOptions {
        /// The options.
        options: u8,
    },
    /// Retain handling 3.
    #[error("retain handling is 3, it must be 0, 1 or 2")]
    RetainHandling,
    /// No local on a shared subscription.
    #[error("no local is set on a shared subscription")]
    NoLocalShared,
    /// SUBSCRIBE, UNSUBSCRIBE, SUBACK or UNSUBACK with an empty payload.
    #[error("{packet} has no payload")]
    EmptyPayload {
        /// The packet.
        packet: PacketType,
    },
    /// A reason or return code that this sender must not put into this packet.
    #[error("a {sender} must not send {packet} with code {code:#04x}")]
    ReasonCode {
        /// The packet.
        packet: PacketType,
        /// The code.
        code: u8,
        /// Who sent it.
        sender: Sender,
    },
    /// A property identifier that does not exist.
    #[error("property {id:#04x} does not exist")]
    PropertyUnknown {
        /// The identifier's first byte.
        id: u8,
    },
    /// A property that does not belong into this packet.
    #[error("{property} does not belong into {context}")]
    PropertyMisplaced {
        /// The property.
        property: PropertyId,
        /// Where it was.
        context: PropertyContext,
    },
    /// A property that this sender must not put into this packet.
    #[error("a {sender} must not send {property} in {context}")]
    PropertySender {
        /// The property.
        property: PropertyId,
        /// Where it was.
        context: PropertyContext,
        /// Who sent it.
        sender: Sender,
    },
    /// A property twice that may be there once.
    #[error("{property} appears more than once")]
    PropertyRepeated {
        /// The property.
        property: PropertyId,
    },
    /// A property value out of its range.
    #[error("{property} must not be {value}")]
    PropertyValue {
        /// The property.
        property: PropertyId,
        /// The value.
        value: u32,
    },
    /// Topic alias 0.
    #[error("topic alias must not be 0")]
    TopicAliasZero,
    /// Authentication data, or an AUTH packet with content, without an authentication method.
    #[error("{context} has no authentication method")]
    AuthenticationMethodMissing {
        /// Where it should be.
        context: PropertyContext,
    },
}

impl DecodeError {
    /// The reason code for the CONNACK or DISCONNECT that tells the sender.
    ///
    /// `0x84` stands for a CONNECT of a protocol that we do not speak: it was not understood further, so the answer is
    /// to be in a form that its sender understands (CONNACK with return code 1 for MQTT 3).
    #[must_use]
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
            Self::ProtocolName | Self::UnsupportedVersion { .. } => {
                ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
            }
            Self::ClientIdEmpty { .. } => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::TopicName { .. } => ReasonCode::TOPIC_NAME_INVALID,
            Self::TopicFilter(_) => ReasonCode::TOPIC_FILTER_INVALID,
            Self::TopicAliasZero => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::WrongDirection { .. }
            | Self::SessionPresentRefused
            | Self::ResponseTopic(_)
            | Self::TopicMissing
            | Self::RetainHandling
            | Self::SubscriptionQos
            | Self::NoLocalShared
            | Self::EmptyPayload { .. }
            | Self::ReasonCode { .. }
            | Self::PropertySender { .. }
            | Self::PropertyRepeated { .. }
            | Self::PropertyValue { .. }
            | Self::AuthenticationMethodMissing { .. } => ReasonCode::PROTOCOL_ERROR,
            _ => ReasonCode::MALFORMED_PACKET,
        }
    }
}

/// Why a packet cannot be written. Nothing has been appended to the buffer then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field above 65,535 bytes.
    #[error("{field} of {len} bytes is above 65535 bytes")]
    FieldTooLong {
        /// The field.
        field: &'static str,
        /// Its bytes.
        len: usize,
    },
    /// A remaining length above 268,435,455 bytes.
    #[error("packet of {len} bytes is above 268435455 bytes")]
    PacketTooLong {
        /// Bytes after the fixed header.
        len: usize,
    },
    /// A number that does not fit a variable byte integer, or a subscription identifier of 0.
    #[error("{property} {value} is not between 1 and 268435455")]
    PropertyValue {
        /// The property.
        property: PropertyId,
        /// Its value.
        value: u32,
    },
    /// A PUBLISH of QoS 1 or 2 without a packet identifier.
    #[error("publish of qos 1 or 2 without a packet identifier")]
    MissingPacketId,
    /// A PUBLISH of QoS 0 with a packet identifier.
    #[error("publish of qos 0 with a packet identifier")]
    UnexpectedPacketId,
    /// A packet that the version does not have.
    #[error("mqtt {version} has no {packet} packet")]
    NotInVersion {
        /// The packet.
        packet: PacketType,
        /// The version.
        version: Version,
    },
    /// A password without a user name (not allowed before MQTT 5).
    #[error("password without a user name")]
    PasswordWithoutUsername,
    /// SUBSCRIBE, UNSUBSCRIBE, SUBACK or UNSUBACK that would have an empty payload.
    #[error("{packet} has no payload")]
    EmptyPayload {
        /// The packet.
        packet: PacketType,
    },
}
