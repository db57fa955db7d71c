//! DISCONNECT (section 3.14) and AUTH (section 3.15): a reason code and properties, both of which may be left out.

use crate::error::{DecodeError, EncodeError};
use crate::packet::PacketType;
use crate::packet::ack::{put_reason, read_reason, reason_len};
use crate::primitive::Cursor;
use crate::property::{Properties, PropertyContext};
use crate::reason_code::ReasonCode;
use crate::version::{Sender, Version};

/// DISCONNECT: the last packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disconnect<'a> {
    /// Why; before MQTT 5 always a normal disconnection.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

/// AUTH: a step of an authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Auth<'a> {
    /// Which step.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    /// A DISCONNECT without properties.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            properties: Properties::EMPTY,
        }
    }

    pub(super) fn read(
        body: &'a [u8],
        version: Version,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        if !version.is_v5() {
            Cursor::new(body).finish()?;
            return Ok(Self::default());
        }
        let (reason, properties) = read(
            body,
            PacketType::Disconnect,
            PropertyContext::Disconnect,
            sender,
        )?;
        Ok(Self { reason, properties })
    }

    pub(super) fn body_len(&self, version: Version) -> usize {
        reason_len(self.reason, self.properties, version)
    }

    pub(super) fn write(&self, version: Version, out: &mut Vec<u8>) {
        put_reason(self.reason, self.properties, version, out);
    }
}

impl<'a> Auth<'a> {
    pub(super) fn read(body: &'a [u8], sender: Sender) -> Result<Self, DecodeError> {
        let (reason, properties) = read(body, PacketType::Auth, PropertyContext::Auth, sender)?;
        // Only a success may say nothing further.
        if reason != ReasonCode::SUCCESS && properties.is_empty() {
            return Err(DecodeError::AuthenticationMethodMissing {
                context: PropertyContext::Auth,
            });
        }
        Ok(Self { reason, properties })
    }

    pub(super) fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        if !version.is_v5() {
            return Err(EncodeError::NotInVersion {
                packet: PacketType::Auth,
                version,
            });
        }
        Ok(reason_len(self.reason, self.properties, version))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_reason(self.reason, self.properties, Version::V5, out);
    }
}

/// A missing reason code is `0x00`, a missing property length is 0.
fn read(
    body: &[u8],
    packet: PacketType,
    context: PropertyContext,
    sender: Sender,
) -> Result<(ReasonCode, Properties<'_>), DecodeError> {
    let mut cursor = Cursor::new(body);
    let reason = if cursor.is_empty() {
        check_omitted(packet, sender)?
    } else {
        read_reason(&mut cursor, packet, sender)?
    };
    let properties = if cursor.is_empty() {
        Properties::EMPTY
    } else {
        Properties::read(&mut cursor, context, sender)?
    };
    cursor.finish()?;
    Ok((reason, properties))
}

/// Leaving the reason code out says `0x00`, which not everybody may say.
fn check_omitted(packet: PacketType, sender: Sender) -> Result<ReasonCode, DecodeError> {
    if ReasonCode::SUCCESS.is_allowed_in(packet, sender) {
        return Ok(ReasonCode::SUCCESS);
    }
    Err(DecodeError::ReasonCode {
        packet,
        code: ReasonCode::SUCCESS.0,
        sender,
    })
}
