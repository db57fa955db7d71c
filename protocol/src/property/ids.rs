//! The table of all properties: identifier, name, type, and the packets that may carry it (section 2.2.2.2).

use std::fmt;

use crate::version::Sender;

/// Where a block of properties stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PropertyContext {
    /// CONNECT, in its variable header.
    Connect,
    /// The will, in the payload of CONNECT.
    Will,
    /// CONNACK.
    ConnAck,
    /// PUBLISH.
    Publish,
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBREL.
    PubRel,
    /// PUBCOMP.
    PubComp,
    /// SUBSCRIBE.
    Subscribe,
    /// SUBACK.
    SubAck,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// UNSUBACK.
    UnsubAck,
    /// DISCONNECT.
    Disconnect,
    /// AUTH.
    Auth,
}

impl PropertyContext {
    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl fmt::Display for PropertyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "CONNECT",
            Self::Will => "the will properties",
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
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        })
    }
}

/// How the value of a property is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One byte.
    Byte,
    /// Two bytes, big-endian.
    U16,
    /// Four bytes, big-endian.
    U32,
    /// Variable byte integer.
    Varint,
    /// UTF-8 string.
    String,
    /// Binary data.
    Binary,
    /// Two UTF-8 strings.
    Pair,
}

const ACKS: &[PropertyContext] = {
    use PropertyContext::*;
    &[
        ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth,
    ]
};

const EVERYWHERE: &[PropertyContext] = {
    use PropertyContext::*;
    &[
        Connect,
        Will,
        ConnAck,
        Publish,
        PubAck,
        PubRec,
        PubRel,
        PubComp,
        Subscribe,
        SubAck,
        Unsubscribe,
        UnsubAck,
        Disconnect,
        Auth,
    ]
};

const fn mask(contexts: &[PropertyContext]) -> u16 {
    let mut mask = 0;
    let mut i = 0;
    while i < contexts.len() {
        mask |= contexts[i].bit();
        i += 1;
    }
    mask
}

/// One line for each property.
macro_rules! property_table {
    ($($id:literal $variant:ident $name:literal $kind:ident $contexts:expr;)+) => {
        /// A property identifier of MQTT 5.0.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $(
                #[doc = concat!("`", stringify!($id), "`: ", $name, ".")]
                $variant = $id,
            )+
        }

        impl PropertyId {
            /// Every property identifier, in rising order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// `None` for a byte that identifies no property.
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($id => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name, in the specification's words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            pub(crate) const fn kind(self) -> Kind {
                match self {
                    $(Self::$variant => Kind::$kind,)+
                }
            }

            const fn contexts(self) -> u16 {
                use PropertyContext::*;
                match self {
                    $(Self::$variant => const { mask($contexts) },)+
                }
            }
        }
    };
}

property_table! {
    0x01 PayloadFormatIndicator "payload format indicator" Byte &[Publish, Will];
    0x02 MessageExpiryInterval "message expiry interval" U32 &[Publish, Will];
    0x03 ContentType "content type" String &[Publish, Will];
    0x08 ResponseTopic "response topic" String &[Publish, Will];
    0x09 CorrelationData "correlation data" Binary &[Publish, Will];
    0x0B SubscriptionIdentifier "subscription identifier" Varint &[Publish, Subscribe];
    0x11 SessionExpiryInterval "session expiry interval" U32 &[Connect, ConnAck, Disconnect];
    0x12 AssignedClientIdentifier "assigned client identifier" String &[ConnAck];
    0x13 ServerKeepAlive "server keep alive" U16 &[ConnAck];
    0x15 AuthenticationMethod "authentication method" String &[Connect, ConnAck, Auth];
    0x16 AuthenticationData "authentication data" Binary &[Connect, ConnAck, Auth];
    0x17 RequestProblemInformation "request problem information" Byte &[Connect];
    0x18 WillDelayInterval "will delay interval" U32 &[Will];
    0x19 RequestResponseInformation "request response information" Byte &[Connect];
    0x1A ResponseInformation "response information" String &[ConnAck];
    0x1C ServerReference "server reference" String &[ConnAck, Disconnect];
    0x1F ReasonString "reason string" String ACKS;
    0x21 ReceiveMaximum "receive maximum" U16 &[Connect, ConnAck];
    0x22 TopicAliasMaximum "topic alias maximum" U16 &[Connect, ConnAck];
    0x23 TopicAlias "topic alias" U16 &[Publish];
    0x24 MaximumQoS "maximum qos" Byte &[ConnAck];
    0x25 RetainAvailable "retain available" Byte &[ConnAck];
    0x26 UserProperty "user property" Pair EVERYWHERE;
    0x27 MaximumPacketSize "maximum packet size" U32 &[Connect, ConnAck];
    0x28 WildcardSubscriptionAvailable "wildcard subscription available" Byte &[ConnAck];
    0x29 SubscriptionIdentifierAvailable "subscription identifier available" Byte &[ConnAck];
    0x2A SharedSubscriptionAvailable "shared subscription available" Byte &[ConnAck];
}

impl PropertyId {
    /// Whether the property may stand in `context`, whoever sends it.
    #[must_use]
    pub const fn belongs_in(self, context: PropertyContext) -> bool {
        self.contexts() & context.bit() != 0
    }

    /// Whether `sender` may put the property into `context`, where it belongs.
    ///
    /// Clients send no subscription identifier in PUBLISH [MQTT-3.3.4-6] and no server reference in DISCONNECT;
    /// servers send no session expiry interval in DISCONNECT [MQTT-3.14.2-2].
    #[must_use]
    pub const fn may_be_sent_by(self, sender: Sender, context: PropertyContext) -> bool {
        !matches!(
            (self, sender, context),
            (
                Self::SubscriptionIdentifier,
                Sender::Client,
                PropertyContext::Publish
            ) | (
                Self::ServerReference,
                Sender::Client,
                PropertyContext::Disconnect
            ) | (
                Self::SessionExpiryInterval,
                Sender::Server,
                PropertyContext::Disconnect
            )
        )
    }

    /// Whether the property may stand in `context` any number of times.
    #[must_use]
    pub const fn may_repeat_in(self, context: PropertyContext) -> bool {
        match self {
            Self::UserProperty => true,
            // One for each subscription that matched [MQTT-3.3.4-4].
            Self::SubscriptionIdentifier => matches!(context, PropertyContext::Publish),
            _ => false,
        }
    }

    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
