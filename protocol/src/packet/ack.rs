//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7): one form for all.

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::primitive::Cursor;
use crate::property::{Properties, PropertyContext};
use crate::reason_code::ReasonCode;
use crate::version::{PacketId, Sender, Version};

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// How it went; before MQTT 5 always success.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    /// An acknowledgement without properties.
    #[must_use]
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            properties: Properties::EMPTY,
        }
    }

    pub(super) fn read(
        body: &'a [u8],
        packet: PacketType,
        version: Version,
        sender: Sender,
    ) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let packet_id = super::read_packet_id(&mut cursor)?;
        let mut ack = Self::new(packet_id, ReasonCode::SUCCESS);
        // Without reason code it is success; without property length there are no properties.
        if version.is_v5() && !cursor.is_empty() {
            ack.reason = read_reason(&mut cursor, packet, sender)?;
            if !cursor.is_empty() {
                ack.properties = Properties::read(&mut cursor, context(packet), sender)?;
            }
        }
        cursor.finish()?;
        Ok(ack)
    }

    pub(super) fn body_len(&self, version: Version) -> usize {
        2 + reason_len(self.reason, self.properties, version)
    }

    pub(super) fn write(&self, version: Version, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.packet_id.get().to_be_bytes());
        put_reason(self.reason, self.properties, version, out);
    }
}

fn context(packet: PacketType) -> PropertyContext {
    match packet {
        PacketType::PubRec => PropertyContext::PubRec,
        PacketType::PubRel => PropertyContext::PubRel,
        PacketType::PubComp => PropertyContext::PubComp,
        _ => PropertyContext::PubAck,
    }
}

/// Reads a reason code that `sender` may put into `packet`.
pub(super) fn read_reason(
    cursor: &mut Cursor<'_>,
    packet: PacketType,
    sender: Sender,
) -> Result<ReasonCode, DecodeError> {
    let reason = ReasonCode(cursor.u8("reason code")?);
    if !reason.is_allowed_in(packet, sender) {
        return Err(DecodeError::ReasonCode {
            packet,
            code: reason.0,
            sender,
        });
    }
    Ok(reason)
}

/// Bytes of a reason code and properties at the end of a packet: what says nothing is left out.
pub(super) fn reason_len(
    reason: ReasonCode,
    properties: Properties<'_>,
    version: Version,
) -> usize {
    match (version, reason, properties.is_empty()) {
        (Version::V31 | Version::V311, ..) | (_, ReasonCode::SUCCESS, true) => 0,
        (_, _, true) => 1,
        (_, _, false) => 1 + properties.wire_len(),
    }
}

/// Appends as many bytes as [`reason_len`] says.
pub(super) fn put_reason(
    reason: ReasonCode,
    properties: Properties<'_>,
    version: Version,
    out: &mut Vec<u8>,
) {
    match reason_len(reason, properties, version) {
        0 => {}
        1 => out.push(reason.0),
        _ => {
            out.push(reason.0);
            super::put_properties(out, properties.as_bytes());
        }
    }
}
