//! The type of a packet, and what the type alone decides: its flags and its direction.

use std::fmt;

use crate::version::{Sender, Version};

/// The type of a packet: the upper four bits of its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// Opens a connection.
    Connect = 1,
    /// Answers CONNECT.
    ConnAck = 2,
    /// A message.
    Publish = 3,
    /// Answers a PUBLISH of QoS 1.
    PubAck = 4,
    /// Answers a PUBLISH of QoS 2.
    PubRec = 5,
    /// Answers PUBREC.
    PubRel = 6,
    /// Answers PUBREL.
    PubComp = 7,
    /// Adds subscriptions.
    Subscribe = 8,
    /// Answers SUBSCRIBE.
    SubAck = 9,
    /// Removes subscriptions.
    Unsubscribe = 10,
    /// Answers UNSUBSCRIBE.
    UnsubAck = 11,
    /// Asks for a PINGRESP.
    PingReq = 12,
    /// Answers PINGREQ.
    PingResp = 13,
    /// Ends a connection.
    Disconnect = 14,
    /// Carries on an authentication (MQTT 5 only).
    Auth = 15,
}

impl PacketType {
    /// The type that the first byte of a packet names; `None` for 0, which is reserved.
    #[must_use]
    pub const fn from_first_byte(byte: u8) -> Option<Self> {
        Self::from_nibble(byte >> 4)
    }

    /// The name that the specification gives it, such as `PUBLISH`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    pub(super) const fn from_nibble(nibble: u8) -> Option<Self> {
        Some(match nibble {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte on the wire; of a PUBLISH: with all flags 0.
    pub(super) const fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.flags()
    }

    /// The lower four bits that [MQTT-2.1.3-1] fixes for the type.
    const fn flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// Whether `flags` may stand in the fixed header. Not for PUBLISH, where all have a meaning.
    pub(super) const fn flags_allowed(self, flags: u8, version: Version) -> bool {
        // MQTT 3.1 takes the fixed flags for a QoS of 1, and allows DUP beside it.
        let dup = matches!(version, Version::V31) && self.flags() != 0;
        flags == self.flags() || (dup && flags == self.flags() | 0b1000)
    }

    pub(super) const fn exists_in(self, version: Version) -> bool {
        !matches!(self, Self::Auth) || version.is_v5()
    }

    pub(super) const fn may_be_sent_by(self, sender: Sender, version: Version) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => {
                matches!(sender, Sender::Client)
            }
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => {
                matches!(sender, Sender::Server)
            }
            Self::Disconnect => matches!(sender, Sender::Client) || version.is_v5(),
            Self::Publish
            | Self::PubAck
            | Self::PubRec
            | Self::PubRel
            | Self::PubComp
            | Self::Auth => true,
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
