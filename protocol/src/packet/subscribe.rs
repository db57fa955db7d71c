//! SUBSCRIBE (section 3.8).

use crate::error::{DecodeError, EncodeError};
use crate::packet::PacketType;
use crate::primitive::{Cursor, check_len, put_binary};
use crate::property::{Properties, PropertyContext};
use crate::topic::{self, TopicError};
use crate::version::{PacketId, QoS, Sender, Version};

const QOS: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED: u8 = 0b1100_0000;

/// SUBSCRIBE: adds subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The identifier that the SUBACK will have.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// The topic filters, at least one.
    pub filters: SubscribeFilters<'a>,
}

/// How a subscription is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscribeOptions {
    /// The highest QoS that the client wants messages with.
    pub qos: QoS,
    /// Whether the client's own messages are kept from it.
    pub no_local: bool,
    /// Whether messages keep the retain flag that they were published with.
    pub retain_as_published: bool,
    /// Whether retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// Whether retained messages are sent when a subscription is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// With every SUBSCRIBE.
    #[default]
    Send = 0,
    /// When the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl SubscribeOptions {
    /// Options with this QoS, and all else as in MQTT 3.1.1.
    #[must_use]
    pub const fn new(qos: QoS) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The byte of MQTT 5.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        let mut byte = self.qos as u8 | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
        if self.no_local {
            byte |= NO_LOCAL;
        }
        if self.retain_as_published {
            byte |= RETAIN_AS_PUBLISHED;
        }
        byte
    }

    /// Reads the byte of MQTT 5.
    ///
    /// # Errors
    ///
    /// Reserved bits are set, or QoS or retain handling is 3.
    pub fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        // [MQTT-3.8.3-5].
        if byte & RESERVED != 0 {
            return Err(DecodeError::SubscriptionOptions { options: byte });
        }
        let retain_handling = match byte >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::RetainHandling),
        };
        Ok(Self {
            qos: QoS::try_from(byte & QOS).map_err(|_| DecodeError::SubscriptionQos)?,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }

    /// Reads the byte of MQTT 3.1.1, which has nothing but the QoS ([MQTT-3.8.3-4] of MQTT 3.1.1).
    fn from_byte_v3(byte: u8) -> Result<Self, DecodeError> {
        if byte & !QOS != 0 {
            return Err(DecodeError::SubscriptionOptions { options: byte });
        }
        Self::from_byte(byte)
    }
}

/// Topic filters with their options: bytes as on the wire. Whatever they are, nothing here panics.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscribeFilters<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> SubscribeFilters<'a> {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Each filter with its options, in order.
    #[must_use]
    pub const fn iter(&self) -> SubscribeFiltersIter<'a> {
        SubscribeFiltersIter {
            cursor: Cursor::new(self.bytes),
        }
    }

    fn read(bytes: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        let mut len = 0;
        while !cursor.is_empty() {
            let filter = cursor.utf8("topic filter")?;
            let options = cursor.u8("subscription options")?;
            check(filter, options, version)?;
            len += 1;
        }
        if len == 0 {
            return Err(DecodeError::EmptyPayload {
                packet: PacketType::Subscribe,
            });
        }
        Ok(Self { bytes, len })
    }
}

impl<'a> IntoIterator for SubscribeFilters<'a> {
    type Item = (&'a str, SubscribeOptions);
    type IntoIter = SubscribeFiltersIter<'a>;

    fn into_iter(self) -> SubscribeFiltersIter<'a> {
        self.iter()
    }
}

impl std::fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over topic filters and their options: [`SubscribeFilters::iter`].
#[derive(Debug, Clone)]
pub struct SubscribeFiltersIter<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for SubscribeFiltersIter<'a> {
    type Item = (&'a str, SubscribeOptions);

    fn next(&mut self) -> Option<Self::Item> {
        let filter = self.cursor.utf8("topic filter").ok()?;
        let options =
            SubscribeOptions::from_byte(self.cursor.u8("subscription options").ok()?).ok()?;
        Some((filter, options))
    }
}

/// Topic filters that are being put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscribeFiltersBuf {
    bytes: Vec<u8>,
    len: usize,
}

impl SubscribeFiltersBuf {
    /// No filters yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            len: 0,
        }
    }

    /// Appends a filter, which is taken to be valid.
    ///
    /// # Errors
    ///
    /// [`EncodeError::FieldTooLong`] above 65,535 bytes; nothing has been appended then.
    pub fn push(
        &mut self,
        filter: &str,
        options: SubscribeOptions,
    ) -> Result<&mut Self, EncodeError> {
        check_len("topic filter", filter.as_bytes())?;
        put_binary(&mut self.bytes, filter.as_bytes());
        self.bytes.push(options.to_byte());
        self.len += 1;
        Ok(self)
    }

    /// The filters, to put into a packet.
    #[must_use]
    pub fn as_filters(&self) -> SubscribeFilters<'_> {
        SubscribeFilters {
            bytes: &self.bytes,
            len: self.len,
        }
    }

    /// Removes everything and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }
}

impl<'a> Subscribe<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let packet_id = super::read_packet_id(&mut cursor)?;
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, PropertyContext::Subscribe, Sender::Client)?
        } else {
            Properties::EMPTY
        };
        let filters = SubscribeFilters::read(cursor.rest(), version)?;
        Ok(Self {
            packet_id,
            properties,
            filters,
        })
    }

    pub(super) fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::EmptyPayload {
                packet: PacketType::Subscribe,
            });
        }
        let properties = if version.is_v5() {
            self.properties.wire_len()
        } else {
            0
        };
        Ok(2 + properties + self.filters.bytes.len())
    }

    pub(super) fn write(&self, version: Version, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.packet_id.get().to_be_bytes());
        if version.is_v5() {
            super::put_properties(out, self.properties.as_bytes());
            out.extend_from_slice(self.filters.bytes);
            return;
        }
        for (filter, options) in self.filters {
            put_binary(out, filter.as_bytes());
            out.push(options.qos as u8);
        }
    }
}

fn check(filter: &str, options: u8, version: Version) -> Result<(), DecodeError> {
    if !version.is_v5() {
        SubscribeOptions::from_byte_v3(options)?;
        return topic::check_plain_filter(filter).map_err(filter_error);
    }
    let options = SubscribeOptions::from_byte(options)?;
    let shared = topic::parse_shared(filter).map_err(filter_error)?;
    // [MQTT-3.8.3-4].
    match shared {
        Some(_) if options.no_local => Err(DecodeError::NoLocalShared),
        Some(_) => Ok(()),
        None => topic::check_plain_filter(filter).map_err(filter_error),
    }
}

/// A null character makes any string malformed; the rest is about filters.
#[cold]
pub(super) fn filter_error(error: TopicError) -> DecodeError {
    match error {
        TopicError::NulCharacter => DecodeError::NulCharacter {
            field: "topic filter",
        },
        error => DecodeError::TopicFilter(error),
    }
}
