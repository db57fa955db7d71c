//! Reason codes: one byte that says how an operation ended (MQTT 5.0, section 2.4).

use std::fmt;

use crate::packet::PacketType;
use crate::version::Sender;

/// A reason code of MQTT 5.0. Any byte can be held; [`decode`](crate::decode) lets only those through that the
/// specification allows in the packet at hand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReasonCode(pub u8);

/// One line for each code: the constant, and its name in the specification.
macro_rules! reason_codes {
    ($($code:literal $constant:ident $name:literal,)+) => {
        impl ReasonCode {
            $(
                #[doc = concat!("`", stringify!($code), "`: ", $name, ".")]
                pub const $constant: Self = Self($code);
            )+

            /// The name that the specification gives it, or `Unknown reason code`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => $name,)+
                    _ => "Unknown reason code",
                }
            }
        }
    };
}

reason_codes! {
    0x00 SUCCESS "Success",
    0x01 GRANTED_QOS_1 "Granted QoS 1",
    0x02 GRANTED_QOS_2 "Granted QoS 2",
    0x04 DISCONNECT_WITH_WILL_MESSAGE "Disconnect with Will Message",
    0x10 NO_MATCHING_SUBSCRIBERS "No matching subscribers",
    0x11 NO_SUBSCRIPTION_EXISTED "No subscription existed",
    0x18 CONTINUE_AUTHENTICATION "Continue authentication",
    0x19 RE_AUTHENTICATE "Re-authenticate",
    0x80 UNSPECIFIED_ERROR "Unspecified error",
    0x81 MALFORMED_PACKET "Malformed Packet",
    0x82 PROTOCOL_ERROR "Protocol Error",
    0x83 IMPLEMENTATION_SPECIFIC_ERROR "Implementation specific error",
    0x84 UNSUPPORTED_PROTOCOL_VERSION "Unsupported Protocol Version",
    0x85 CLIENT_IDENTIFIER_NOT_VALID "Client Identifier not valid",
    0x86 BAD_USER_NAME_OR_PASSWORD "Bad User Name or Password",
    0x87 NOT_AUTHORIZED "Not authorized",
    0x88 SERVER_UNAVAILABLE "Server unavailable",
    0x89 SERVER_BUSY "Server busy",
    0x8A BANNED "Banned",
    0x8B SERVER_SHUTTING_DOWN "Server shutting down",
    0x8C BAD_AUTHENTICATION_METHOD "Bad authentication method",
    0x8D KEEP_ALIVE_TIMEOUT "Keep Alive timeout",
    0x8E SESSION_TAKEN_OVER "Session taken over",
    0x8F TOPIC_FILTER_INVALID "Topic Filter invalid",
    0x90 TOPIC_NAME_INVALID "Topic Name invalid",
    0x91 PACKET_IDENTIFIER_IN_USE "Packet Identifier in use",
    0x92 PACKET_IDENTIFIER_NOT_FOUND "Packet Identifier not found",
    0x93 RECEIVE_MAXIMUM_EXCEEDED "Receive Maximum exceeded",
    0x94 TOPIC_ALIAS_INVALID "Topic Alias invalid",
    0x95 PACKET_TOO_LARGE "Packet too large",
    0x96 MESSAGE_RATE_TOO_HIGH "Message rate too high",
    0x97 QUOTA_EXCEEDED "Quota exceeded",
    0x98 ADMINISTRATIVE_ACTION "Administrative action",
    0x99 PAYLOAD_FORMAT_INVALID "Payload format invalid",
    0x9A RETAIN_NOT_SUPPORTED "Retain not supported",
    0x9B QOS_NOT_SUPPORTED "QoS not supported",
    0x9C USE_ANOTHER_SERVER "Use another server",
    0x9D SERVER_MOVED "Server moved",
    0x9E SHARED_SUBSCRIPTIONS_NOT_SUPPORTED "Shared Subscriptions not supported",
    0x9F CONNECTION_RATE_EXCEEDED "Connection rate exceeded",
    0xA0 MAXIMUM_CONNECT_TIME "Maximum connect time",
    0xA1 SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED "Subscription Identifiers not supported",
    0xA2 WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED "Wildcard Subscriptions not supported",
}

impl ReasonCode {
    /// `0x00` in a DISCONNECT: Normal disconnection.
    pub const NORMAL_DISCONNECTION: Self = Self(0);
    /// `0x00` in a SUBACK: Granted QoS 0.
    pub const GRANTED_QOS_0: Self = Self(0);

    /// Codes from `0x80` upwards say that the operation failed.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The nearest CONNACK return code of MQTT 3.1 and 3.1.1, 0 to 5.
    ///
    /// What has no counterpart becomes 3 (server unavailable) when another attempt may succeed, else 5 (not
    /// authorised).
    #[must_use]
    pub const fn connack_v3(self) -> u8 {
        match self {
            Self::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Self::CLIENT_IDENTIFIER_NOT_VALID => 2,
            Self::BAD_USER_NAME_OR_PASSWORD => 4,
            Self::NOT_AUTHORIZED
            | Self::BANNED
            | Self::BAD_AUTHENTICATION_METHOD
            | Self::TOPIC_NAME_INVALID
            | Self::PACKET_TOO_LARGE
            | Self::PAYLOAD_FORMAT_INVALID
            | Self::RETAIN_NOT_SUPPORTED
            | Self::QOS_NOT_SUPPORTED => 5,
            other if other.is_error() => 3,
            _ => 0,
        }
    }

    /// Whether `sender` may put this code into `packet` of MQTT 5.0.
    ///
    /// `0x00` in a DISCONNECT of a server is let through: the table of section 3.14.2.1 gives it to clients only, yet
    /// the omitted form of the same code, which means the same, is open to both.
    #[must_use]
    pub const fn is_allowed_in(self, packet: PacketType, sender: Sender) -> bool {
        let code = self.0;
        match (packet, sender) {
            (PacketType::ConnAck, Sender::Server) => matches!(
                code,
                0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            (PacketType::PubAck | PacketType::PubRec, sender) => match code {
                0x10 => matches!(sender, Sender::Server),
                _ => matches!(code, 0 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99),
            },
            (PacketType::PubRel | PacketType::PubComp, _) => matches!(code, 0 | 0x92),
            (PacketType::SubAck, Sender::Server) => matches!(
                code,
                0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
            ),
            (PacketType::UnsubAck, Sender::Server) => {
                matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            (PacketType::Disconnect, Sender::Client) => matches!(
                code,
                0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99
            ),
            (PacketType::Disconnect, Sender::Server) => matches!(
                code,
                0 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
            ),
            (PacketType::Auth, Sender::Client) => matches!(code, 0x18 | 0x19),
            (PacketType::Auth, Sender::Server) => matches!(code, 0 | 0x18),
            _ => false,
        }
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReasonCode({:#04x})", self.0)
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} {}", self.0, self.name())
    }
}

impl From<u8> for ReasonCode {
    fn from(code: u8) -> Self {
        Self(code)
    }
}

impl From<ReasonCode> for u8 {
    fn from(code: ReasonCode) -> Self {
        code.0
    }
}
