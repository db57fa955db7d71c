//! CONNACK (section 3.2).

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::primitive::Cursor;
use crate::property::{Properties, PropertyContext};
use crate::reason_code::ReasonCode;
use crate::version::{Sender, Version};

const SESSION_PRESENT: u8 = 0x01;
/// Return codes above this are reserved in MQTT 3.1 and 3.1.1.
const MAX_RETURN_CODE: u8 = 5;

/// CONNACK: the first packet of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnAck<'a> {
    /// Whether the server had a session. Written as `false` where the protocol wants that: with an error, and in
    /// MQTT 3.1, which does not have it.
    pub session_present: bool,
    /// Before MQTT 5: the return code, 0 to 5. When such a CONNACK is written, a reason code of MQTT 5 becomes
    /// [`ReasonCode::connack_v3`].
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl<'a> ConnAck<'a> {
    pub(super) fn read(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let session_present = read_flags(cursor.u8("connack flags")?, version)?;
        let reason = ReasonCode(cursor.u8("connack reason code")?);
        check_reason(reason, version)?;
        // [MQTT-3.2.2-6]; [MQTT-3.2.2-4] of MQTT 3.1.1.
        if session_present && reason != ReasonCode::SUCCESS {
            return Err(DecodeError::SessionPresentRefused);
        }
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, PropertyContext::ConnAck, Sender::Server)?
        } else {
            Properties::EMPTY
        };
        cursor.finish()?;
        Ok(Self {
            session_present,
            reason,
            properties,
        })
    }

    pub(super) fn body_len(&self, version: Version) -> usize {
        if version.is_v5() {
            2 + self.properties.wire_len()
        } else {
            2
        }
    }

    pub(super) fn write(&self, version: Version, out: &mut Vec<u8>) {
        let session_present =
            self.session_present && self.reason == ReasonCode::SUCCESS && version != Version::V31;
        out.push(u8::from(session_present));
        if version.is_v5() {
            out.push(self.reason.0);
            super::put_properties(out, self.properties.as_bytes());
        } else if self.reason.is_error() {
            out.push(self.reason.connack_v3());
        } else {
            out.push(self.reason.0);
        }
    }
}

/// Whether a session was there [MQTT-3.2.2-1]. MQTT 3.1 reserves the whole byte and gives it no meaning.
fn read_flags(flags: u8, version: Version) -> Result<bool, DecodeError> {
    match (version, flags) {
        (Version::V31, _) | (_, 0) => Ok(false),
        (_, SESSION_PRESENT) => Ok(true),
        _ => Err(DecodeError::ConnAckFlags { flags }),
    }
}

fn check_reason(reason: ReasonCode, version: Version) -> Result<(), DecodeError> {
    let (packet, sender) = (PacketType::ConnAck, Sender::Server);
    let allowed = if version.is_v5() {
        reason.is_allowed_in(packet, sender)
    } else {
        reason.0 <= MAX_RETURN_CODE
    };
    if allowed {
        Ok(())
    } else {
        Err(DecodeError::ReasonCode {
            packet,
            code: reason.0,
            sender,
        })
    }
}
