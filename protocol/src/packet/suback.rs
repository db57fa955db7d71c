//! SUBACK (section 3.9) and UNSUBACK (section 3.11): a code for each topic filter.

use crate::error::{DecodeError, EncodeError};
use crate::packet::PacketType;
use crate::primitive::Cursor;
use crate::property::{Properties, PropertyContext};
use crate::reason_code::ReasonCode;
use crate::version::{PacketId, Sender, Version};

/// The one code of a SUBACK before MQTT 5 that says that a subscription was refused.
const FAILURE_V3: u8 = 0x80;

/// SUBACK: answers SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// One for each topic filter, in order. Written before MQTT 5, every error becomes `0x80`.
    pub reason_codes: &'a [u8],
}

/// UNSUBACK: answers UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// The identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// One for each topic filter, in order; before MQTT 5 there are none.
    pub reason_codes: &'a [u8],
}

impl<'a> SubAck<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let packet_id = super::read_packet_id(&mut cursor)?;
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, PropertyContext::SubAck, Sender::Server)?
        } else {
            Properties::EMPTY
        };
        let reason_codes = cursor.rest();
        let allowed = |code: u8| {
            if version.is_v5() {
                ReasonCode(code).is_allowed_in(PacketType::SubAck, Sender::Server)
            } else {
                matches!(code, 0..=2 | FAILURE_V3)
            }
        };
        check_codes(reason_codes, PacketType::SubAck, allowed)?;
        Ok(Self {
            packet_id,
            properties,
            reason_codes,
        })
    }

    pub(super) fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        let properties = if version.is_v5() {
            self.properties.wire_len()
        } else {
            0
        };
        check_not_empty(self.reason_codes, PacketType::SubAck)?;
        Ok(2 + properties + self.reason_codes.len())
    }

    pub(super) fn write(&self, version: Version, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.packet_id.get().to_be_bytes());
        if version.is_v5() {
            super::put_properties(out, self.properties.as_bytes());
            out.extend_from_slice(self.reason_codes);
        } else {
            out.extend(self.reason_codes.iter().map(|&code| code.min(FAILURE_V3)));
        }
    }
}

impl<'a> UnsubAck<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let packet_id = super::read_packet_id(&mut cursor)?;
        if !version.is_v5() {
            cursor.finish()?;
            return Ok(Self {
                packet_id,
                properties: Properties::EMPTY,
                reason_codes: &[],
            });
        }
        let properties = Properties::read(&mut cursor, PropertyContext::UnsubAck, Sender::Server)?;
        let reason_codes = cursor.rest();
        let allowed =
            |code: u8| ReasonCode(code).is_allowed_in(PacketType::UnsubAck, Sender::Server);
        check_codes(reason_codes, PacketType::UnsubAck, allowed)?;
        Ok(Self {
            packet_id,
            properties,
            reason_codes,
        })
    }

    pub(super) fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        if !version.is_v5() {
            return Ok(2);
        }
        check_not_empty(self.reason_codes, PacketType::UnsubAck)?;
        Ok(2 + self.properties.wire_len() + self.reason_codes.len())
    }

    pub(super) fn write(&self, version: Version, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.packet_id.get().to_be_bytes());
        if version.is_v5() {
            super::put_properties(out, self.properties.as_bytes());
            out.extend_from_slice(self.reason_codes);
        }
    }
}

/// A SUBSCRIBE or UNSUBSCRIBE has at least one filter, so its answer has at least one code.
fn check_codes(
    codes: &[u8],
    packet: PacketType,
    allowed: impl Fn(u8) -> bool,
) -> Result<(), DecodeError> {
    if codes.is_empty() {
        return Err(DecodeError::EmptyPayload { packet });
    }
    match codes.iter().find(|&&code| !allowed(code)) {
        Some(&code) => Err(DecodeError::ReasonCode {
            packet,
            code,
            sender: Sender::Server,
        }),
        None => Ok(()),
    }
}

fn check_not_empty(codes: &[u8], packet: PacketType) -> Result<(), EncodeError> {
    if codes.is_empty() {
        Err(EncodeError::EmptyPayload { packet })
    } else {
        Ok(())
    }
}
