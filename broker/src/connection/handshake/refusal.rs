//! A CONNECT that is refused.

use dunlin_protocol::{ConnAck, DecodeError, Packet, PropertiesBuf, Property, ReasonCode, Version};

/// A CONNECT that is refused: its answer, and the log's words.
pub(super) struct Refusal {
    pub(super) version: Version,
    pub(super) reason: ReasonCode,
    /// Its word in the metric.
    pub(super) counted_as: &'static str,
    pub(super) why: String,
}

impl Refusal {
    pub(super) fn new(version: Version, reason: ReasonCode, why: impl Into<String>) -> Self {
        Self {
            version,
            reason,
            counted_as: reason.name(),
            why: why.into(),
        }
    }

    pub(super) fn short_of_memory(version: Version) -> Self {
        Self {
            counted_as: "memory",
            ..Self::new(version, ReasonCode::SERVER_BUSY, "memory is short")
        }
    }

    pub(super) fn full(version: Version) -> Self {
        Self {
            counted_as: "full",
            ..Self::new(
                version,
                ReasonCode::SERVER_BUSY,
                "as many connections are open as may be",
            )
        }
    }
}

/// The CONNACK of a refusal. MQTT 3 has return codes for five reasons; the others close without one.
pub(super) fn refuse(refusal: &Refusal) -> Vec<u8> {
    let mut out = Vec::new();
    if !refusal.version.is_v5() {
        let code = refusal.reason.connack_v3();
        if code != 0
            && refusal.reason != ReasonCode::MALFORMED_PACKET
            && refusal.reason != ReasonCode::PROTOCOL_ERROR
        {
            out.extend_from_slice(&[0x20, 2, 0, code]);
        }
        return out;
    }
    let mut properties = PropertiesBuf::default();
    let with_text = !refusal.why.is_empty()
        && properties
            .push(Property::ReasonString(&refusal.why))
            .is_ok();
    let connack = ConnAck {
        session_present: false,
        reason: refusal.reason,
        properties: properties.as_properties(),
    };
    if !with_text
        || Packet::ConnAck(connack)
            .encode(Version::V5, &mut out)
            .is_err()
    {
        out = vec![0x20, 3, 0, refusal.reason.0, 0];
    }
    out
}

pub(super) fn refuse_malformed(claimed: Version, error: DecodeError) -> Refusal {
    Refusal::new(claimed, error.reason_code(), error.to_string())
}
