//! What a block of properties must be, in one pass.

use super::{Kind, PropertyContext, PropertyId};
use crate::error::DecodeError;
use crate::primitive::Cursor;
use crate::topic;
use crate::version::Sender;

pub(super) fn validate(
    bytes: &[u8],
    context: PropertyContext,
    sender: Sender,
) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let mut seen = 0u64;
    while !cursor.is_empty() {
        let byte = cursor.u8("property identifier")?;
        let property =
            PropertyId::from_byte(byte).ok_or(DecodeError::PropertyUnknown { id: byte })?;
        check_place(property, context, sender)?;
        if seen & property.bit() != 0 && !property.may_repeat_in(context) {
            return Err(DecodeError::PropertyRepeated { property });
        }
        seen |= property.bit();
        check_value(property, &mut cursor)?;
    }
    check_authentication(seen, context)
}

fn check_place(
    property: PropertyId,
    context: PropertyContext,
    sender: Sender,
) -> Result<(), DecodeError> {
    if !property.belongs_in(context) {
        return Err(DecodeError::PropertyMisplaced { property, context });
    }
    if !property.may_be_sent_by(sender, context) {
        return Err(DecodeError::PropertySender {
            property,
            context,
            sender,
        });
    }
    Ok(())
}

#[inline]
fn check_value(property: PropertyId, cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
    let name = property.name();
    match property.kind() {
        Kind::Byte => check_byte(property, cursor.u8(name)?),
        Kind::U16 => check_number(property, u32::from(cursor.u16(name)?)),
        Kind::U32 => check_number(property, cursor.u32(name)?),
        Kind::Varint => check_number(property, cursor.varint(name)?),
        Kind::Binary => cursor.binary(name).map(drop),
        Kind::Pair => {
            cursor.string(name)?;
            cursor.string(name).map(drop)
        }
        Kind::String => {
            let text = cursor.string(name)?;
            if property == PropertyId::ResponseTopic {
                topic::check_name(text).map_err(DecodeError::ResponseTopic)?;
            }
            Ok(())
        }
    }
}

/// Every property of one byte is 0 or 1.
fn check_byte(property: PropertyId, value: u8) -> Result<(), DecodeError> {
    if value > 1 {
        return Err(DecodeError::PropertyValue {
            property,
            value: u32::from(value),
        });
    }
    Ok(())
}

fn check_number(property: PropertyId, value: u32) -> Result<(), DecodeError> {
    match property {
        PropertyId::TopicAlias if value == 0 => Err(DecodeError::TopicAliasZero),
        PropertyId::ReceiveMaximum
        | PropertyId::MaximumPacketSize
        | PropertyId::SubscriptionIdentifier
            if value == 0 =>
        {
            Err(DecodeError::PropertyValue { property, value })
        }
        _ => Ok(()),
    }
}

/// Data without a method has no meaning; an AUTH packet with any property needs the method.
fn check_authentication(seen: u64, context: PropertyContext) -> Result<(), DecodeError> {
    let has = |property: PropertyId| seen & property.bit() != 0;
    let needed =
        has(PropertyId::AuthenticationData) || (context == PropertyContext::Auth && seen != 0);
    if needed && !has(PropertyId::AuthenticationMethod) {
        return Err(DecodeError::AuthenticationMethodMissing { context });
    }
    Ok(())
}
