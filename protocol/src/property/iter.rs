//! Walking over a block of properties.

use super::{Kind, Properties, Property, PropertyId};
use crate::primitive::{Cursor, Varint, read_varint};
use crate::version::QoS;

/// One property as bytes: what is needed to skip it, or to copy it into another block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawProperty<'a> {
    /// Which property it is.
    pub id: PropertyId,
    /// The whole property: identifier and value.
    pub bytes: &'a [u8],
}

impl<'a> RawProperty<'a> {
    /// The value. `None` when it is not one that the property may have.
    #[must_use]
    pub fn value(&self) -> Option<Property<'a>> {
        let mut cursor = Cursor::new(self.bytes.get(1..)?);
        value(self.id, &mut cursor)
    }
}

/// Iterator over the properties of a block as bytes: [`Properties::raw_iter`].
#[derive(Debug, Clone)]
pub struct RawIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RawIter<'a> {
    type Item = RawProperty<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawProperty<'a>> {
        let next = split_first(self.rest);
        match next {
            Some((property, rest)) => {
                self.rest = rest;
                Some(property)
            }
            None => {
                self.rest = &[];
                None
            }
        }
    }
}

impl std::iter::FusedIterator for RawIter<'_> {}

/// Iterator over the properties of a block: [`Properties::iter`].
#[derive(Debug, Clone)]
pub struct PropertyIter<'a> {
    raw: RawIter<'a>,
}

impl<'a> Iterator for PropertyIter<'a> {
    type Item = Property<'a>;

    #[inline]
    fn next(&mut self) -> Option<Property<'a>> {
        let value = self.raw.next()?.value();
        if value.is_none() {
            self.raw.rest = &[];
        }
        value
    }
}

impl std::iter::FusedIterator for PropertyIter<'_> {}

impl<'a> Properties<'a> {
    /// Every property, in order.
    #[must_use]
    pub const fn iter(&self) -> PropertyIter<'a> {
        PropertyIter {
            raw: self.raw_iter(),
        }
    }

    /// Every property as bytes, in order: for copying some of them into another block.
    #[must_use]
    pub const fn raw_iter(&self) -> RawIter<'a> {
        RawIter {
            rest: self.as_bytes(),
        }
    }
}

impl<'a> IntoIterator for Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = PropertyIter<'a>;

    fn into_iter(self) -> PropertyIter<'a> {
        self.iter()
    }
}

/// Splits the first property off.
fn split_first(bytes: &[u8]) -> Option<(RawProperty<'_>, &[u8])> {
    let (&first, value) = bytes.split_first()?;
    let id = PropertyId::from_byte(first)?;
    let len = match id.kind() {
        Kind::Byte => 1,
        Kind::U16 => 2,
        Kind::U32 => 4,
        Kind::Varint => match read_varint(value) {
            Varint::Value(_, len) => len,
            _ => return None,
        },
        Kind::String | Kind::Binary => prefixed_len(value)?,
        Kind::Pair => {
            let name = prefixed_len(value)?;
            name + prefixed_len(value.get(name..)?)?
        }
    };
    let (property, rest) = bytes.split_at_checked(1 + len)?;
    Some((
        RawProperty {
            id,
            bytes: property,
        },
        rest,
    ))
}

/// Bytes of a string or binary field, its length included.
fn prefixed_len(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk()?;
    Some(2 + usize::from(u16::from_be_bytes(*prefix)))
}

/// Reads the value of property `id`. `None` for what cannot be represented (QoS 3, a boolean of 2).
#[inline]
fn value<'a>(id: PropertyId, cursor: &mut Cursor<'a>) -> Option<Property<'a>> {
    let name = id.name();
    Some(match id {
        PropertyId::PayloadFormatIndicator => {
            Property::PayloadFormatIndicator(cursor.u8(name).ok()?)
        }
        PropertyId::MessageExpiryInterval => {
            Property::MessageExpiryInterval(cursor.u32(name).ok()?)
        }
        PropertyId::ContentType => Property::ContentType(cursor.utf8(name).ok()?),
        PropertyId::ResponseTopic => Property::ResponseTopic(cursor.utf8(name).ok()?),
        PropertyId::CorrelationData => Property::CorrelationData(cursor.binary(name).ok()?),
        PropertyId::SubscriptionIdentifier => {
            Property::SubscriptionIdentifier(cursor.varint(name).ok()?)
        }
        PropertyId::SessionExpiryInterval => {
            Property::SessionExpiryInterval(cursor.u32(name).ok()?)
        }
        PropertyId::AssignedClientIdentifier => {
            Property::AssignedClientIdentifier(cursor.utf8(name).ok()?)
        }
        PropertyId::ServerKeepAlive => Property::ServerKeepAlive(cursor.u16(name).ok()?),
        PropertyId::AuthenticationMethod => Property::AuthenticationMethod(cursor.utf8(name).ok()?),
        PropertyId::AuthenticationData => Property::AuthenticationData(cursor.binary(name).ok()?),
        PropertyId::RequestProblemInformation => {
            Property::RequestProblemInformation(flag(name, cursor)?)
        }
        PropertyId::WillDelayInterval => Property::WillDelayInterval(cursor.u32(name).ok()?),
        PropertyId::RequestResponseInformation => {
            Property::RequestResponseInformation(flag(name, cursor)?)
        }
        PropertyId::ResponseInformation => Property::ResponseInformation(cursor.utf8(name).ok()?),
        PropertyId::ServerReference => Property::ServerReference(cursor.utf8(name).ok()?),
        PropertyId::ReasonString => Property::ReasonString(cursor.utf8(name).ok()?),
        PropertyId::ReceiveMaximum => Property::ReceiveMaximum(cursor.u16(name).ok()?),
        PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(cursor.u16(name).ok()?),
        PropertyId::TopicAlias => Property::TopicAlias(cursor.u16(name).ok()?),
        PropertyId::MaximumQoS => Property::MaximumQoS(QoS::try_from(cursor.u8(name).ok()?).ok()?),
        PropertyId::RetainAvailable => Property::RetainAvailable(flag(name, cursor)?),
        PropertyId::UserProperty => {
            Property::UserProperty(cursor.utf8(name).ok()?, cursor.utf8(name).ok()?)
        }
        PropertyId::MaximumPacketSize => Property::MaximumPacketSize(cursor.u32(name).ok()?),
        PropertyId::WildcardSubscriptionAvailable => {
            Property::WildcardSubscriptionAvailable(flag(name, cursor)?)
        }
        PropertyId::SubscriptionIdentifierAvailable => {
            Property::SubscriptionIdentifierAvailable(flag(name, cursor)?)
        }
        PropertyId::SharedSubscriptionAvailable => {
            Property::SharedSubscriptionAvailable(flag(name, cursor)?)
        }
    })
}

fn flag(name: &'static str, cursor: &mut Cursor<'_>) -> Option<bool> {
    match cursor.u8(name).ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
