//! UNSUBSCRIBE (section 3.10).

use crate::error::{DecodeError, EncodeError};
use crate::packet::PacketType;
use crate::packet::subscribe::filter_error;
use crate::primitive::{Cursor, check_len, put_binary};
use crate::property::{Properties, PropertyContext};
use crate::topic;
use crate::version::{PacketId, Sender, Version};

/// UNSUBSCRIBE: removes subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The identifier that the UNSUBACK will have.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// The topic filters, at least one.
    pub filters: UnsubscribeFilters<'a>,
}

/// Topic filters: bytes as on the wire. Whatever they are, nothing here panics.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct UnsubscribeFilters<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> UnsubscribeFilters<'a> {
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

    /// Each filter, in order.
    #[must_use]
    pub const fn iter(&self) -> UnsubscribeFiltersIter<'a> {
        UnsubscribeFiltersIter {
            cursor: Cursor::new(self.bytes),
        }
    }

    fn read(bytes: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let check = if version.is_v5() {
            topic::check_filter
        } else {
            topic::check_plain_filter
        };
        let mut cursor = Cursor::new(bytes);
        let mut len = 0;
        while !cursor.is_empty() {
            check(cursor.utf8("topic filter")?).map_err(filter_error)?;
            len += 1;
        }
        if len == 0 {
            return Err(DecodeError::EmptyPayload {
                packet: PacketType::Unsubscribe,
            });
        }
        Ok(Self { bytes, len })
    }
}

impl<'a> IntoIterator for UnsubscribeFilters<'a> {
    type Item = &'a str;
    type IntoIter = UnsubscribeFiltersIter<'a>;

    fn into_iter(self) -> UnsubscribeFiltersIter<'a> {
        self.iter()
    }
}

impl std::fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over topic filters: [`UnsubscribeFilters::iter`].
#[derive(Debug, Clone)]
pub struct UnsubscribeFiltersIter<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for UnsubscribeFiltersIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.cursor.utf8("topic filter").ok()
    }
}

/// Topic filters that are being put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnsubscribeFiltersBuf {
    bytes: Vec<u8>,
    len: usize,
}

impl UnsubscribeFiltersBuf {
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
    pub fn push(&mut self, filter: &str) -> Result<&mut Self, EncodeError> {
        check_len("topic filter", filter.as_bytes())?;
        put_binary(&mut self.bytes, filter.as_bytes());
        self.len += 1;
        Ok(self)
    }

    /// The filters, to put into a packet.
    #[must_use]
    pub fn as_filters(&self) -> UnsubscribeFilters<'_> {
        UnsubscribeFilters {
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

impl<'a> Unsubscribe<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let packet_id = super::read_packet_id(&mut cursor)?;
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, PropertyContext::Unsubscribe, Sender::Client)?
        } else {
            Properties::EMPTY
        };
        let filters = UnsubscribeFilters::read(cursor.rest(), version)?;
        Ok(Self {
            packet_id,
            properties,
            filters,
        })
    }

    pub(super) fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::EmptyPayload {
                packet: PacketType::Unsubscribe,
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
        }
        out.extend_from_slice(self.filters.bytes);
    }
}
