//! PUBLISH (section 3.3): the packet that nearly all traffic consists of.

use crate::error::{DecodeError, EncodeError};
use crate::frame::FrameHeader;
use crate::packet::PacketType;
use crate::primitive::{Cursor, check_len, put_binary, put_varint, utf8, varint_len};
use crate::property::{Properties, PropertyContext};
use crate::topic::{self, TopicError};
use crate::version::{PacketId, QoS, Sender, Version};

const DUP: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

/// PUBLISH: a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publish<'a> {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is to be retained, or has been.
    pub retain: bool,
    /// Topic name, valid; may be `""` in MQTT 5 when there is a topic alias.
    pub topic: &'a str,
    /// There for QoS 1 and 2, and only then.
    pub packet_id: Option<PacketId>,
    /// Properties.
    pub properties: Properties<'a>,
    /// The message itself: any bytes.
    pub payload: &'a [u8],
}

/// Where [`encode_publish_into`] has put things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLayout {
    /// Offset of the packet in the buffer.
    pub start: usize,
    /// Offset of the two bytes of the packet identifier in the buffer, big-endian.
    pub packet_id_at: Option<usize>,
    /// Bytes of the packet.
    pub len: usize,
}

impl<'a> Publish<'a> {
    #[inline]
    pub(super) fn read(
        body: &'a [u8],
        flags: u8,
        version: Version,
        sender: Sender,
        known_topic: &'a str,
    ) -> Result<Self, DecodeError> {
        let qos = QoS::try_from(flags >> 1 & 0b11).map_err(|_| DecodeError::QosReserved {
            field: "publish qos",
        })?;
        let dup = flags & DUP != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::DupWithQosZero);
        }
        let mut cursor = Cursor::new(body);
        let name = cursor.binary("topic name")?;
        let known = !name.is_empty() && name == known_topic.as_bytes();
        let topic = match known {
            true => known_topic,
            false => utf8("topic name", name)?,
        };
        let packet_id = if qos == QoS::AtMostOnce {
            None
        } else {
            Some(super::read_packet_id(&mut cursor)?)
        };
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, PropertyContext::Publish, sender)?
        } else {
            Properties::EMPTY
        };
        if !known {
            check_topic(topic, version, properties)?;
        }
        let payload = cursor.rest();
        Ok(Self {
            dup,
            qos,
            retain: flags & RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload,
        })
    }

    pub(super) fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        self.body_len_with(version, self.payload.len())
    }

    fn body_len_with(&self, version: Version, payload_len: usize) -> Result<usize, EncodeError> {
        check_len("topic name", self.topic.as_bytes())?;
        match (self.qos, self.packet_id) {
            (QoS::AtMostOnce, Some(_)) => return Err(EncodeError::UnexpectedPacketId),
            (QoS::AtLeastOnce | QoS::ExactlyOnce, None) => {
                return Err(EncodeError::MissingPacketId);
            }
            _ => {}
        }
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        let properties = if version.is_v5() {
            self.properties.wire_len()
        } else {
            0
        };
        // The length is only told, so it may be anything.
        Ok((2 + self.topic.len() + packet_id + properties).saturating_add(payload_len))
    }

    /// Appends the packet to `out` and says where it is. One reservation, so at most one allocation.
    ///
    /// # Errors
    ///
    /// As of [`encode_publish_into`].
    pub fn encode(
        &self,
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<PublishLayout, EncodeError> {
        let layout = self.encode_header(version, self.payload.len(), self.payload.len(), out)?;
        out.extend_from_slice(self.payload);
        Ok(layout)
    }

    /// Appends all of the packet but its payload, which is `payload_len` bytes long and is sent from elsewhere.
    /// `self.payload` is not looked at, and the layout's `len` counts the payload.
    ///
    /// # Errors
    ///
    /// As of [`encode_publish_into`].
    pub fn encode_without_payload(
        &self,
        version: Version,
        payload_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<PublishLayout, EncodeError> {
        self.encode_header(version, payload_len, 0, out)
    }

    fn encode_header(
        &self,
        version: Version,
        payload_len: usize,
        payload_room: usize,
        out: &mut Vec<u8>,
    ) -> Result<PublishLayout, EncodeError> {
        let remaining = super::check_packet_len(self.body_len_with(version, payload_len)?)?;
        let start = out.len();
        let len = 1 + varint_len(remaining as usize) + remaining as usize;
        out.reserve(len - payload_len + payload_room);
        out.push(self.first_byte());
        put_varint(out, remaining);
        put_binary(out, self.topic.as_bytes());
        let packet_id_at = self.packet_id.map(|id| {
            let at = out.len();
            out.extend_from_slice(&id.get().to_be_bytes());
            at
        });
        if version.is_v5() {
            super::put_properties(out, self.properties.as_bytes());
        }
        Ok(PublishLayout {
            start,
            packet_id_at,
            len,
        })
    }

    fn first_byte(&self) -> u8 {
        let dup = if self.dup { DUP } else { 0 };
        PacketType::Publish.first_byte() | dup | (self.qos as u8) << 1 | u8::from(self.retain)
    }
}

/// Decodes a PUBLISH whose fixed header has been read ([`peek_frame`](crate::peek_frame)); `frame` is all of the packet.
///
/// `known_topic` is the topic of a PUBLISH that was decoded before, or `""`: if this one has the same, it is not checked again, and
/// the slice given back is `known_topic` itself, so that the address tells that they are the same.
///
/// # Errors
///
/// As of [`decode`](crate::decode).
#[inline]
pub fn decode_publish<'a>(
    header: FrameHeader,
    frame: &'a [u8],
    version: Version,
    sender: Sender,
    known_topic: &'a str,
) -> Result<Publish<'a>, DecodeError> {
    let body = super::body_of(header, frame)?;
    Publish::read(body, header.first_byte & 0x0F, version, sender, known_topic)
}

/// Appends a PUBLISH that was decoded from `frame`, whose fixed header has `header_len` bytes, as it came: with the same topic,
/// properties, packet identifier and payload, and with DUP clear. What is given back is as of [`encode_publish_into`], which would
/// append the same bytes.
#[inline]
pub fn copy_publish_into(
    out: &mut Vec<u8>,
    frame: &[u8],
    header_len: usize,
    qos: QoS,
    retain: bool,
    topic: &str,
) -> PublishLayout {
    let start = out.len();
    out.extend_from_slice(frame);
    if let Some(first) = out.get_mut(start) {
        *first = PacketType::Publish.first_byte() | (qos as u8) << 1 | u8::from(retain);
    }
    PublishLayout {
        start,
        packet_id_at: (qos != QoS::AtMostOnce).then_some(start + header_len + 2 + topic.len()),
        len: frame.len(),
    }
}

/// Appends a PUBLISH to `out` and says where its packet identifier is, so that the same bytes, with the two patched,
/// serve every receiver of the same version and QoS.
///
/// `properties` are raw bytes without the length in front, and are left out before MQTT 5.
///
/// # Errors
///
/// The topic or the packet is too long, or the packet identifier does not fit the QoS. Nothing has been appended then.
#[expect(
    clippy::too_many_arguments,
    reason = "they are the fields of one packet"
)]
pub fn encode_publish_into(
    out: &mut Vec<u8>,
    version: Version,
    dup: bool,
    qos: QoS,
    retain: bool,
    topic: &str,
    packet_id: Option<PacketId>,
    properties: &[u8],
    payload: &[u8],
) -> Result<PublishLayout, EncodeError> {
    let properties = Properties::from_validated(properties);
    Publish {
        dup,
        qos,
        retain,
        topic,
        packet_id,
        properties,
        payload,
    }
    .encode(version, out)
}

#[inline]
fn check_topic(
    topic: &str,
    version: Version,
    properties: Properties<'_>,
) -> Result<(), DecodeError> {
    if topic.is_empty() && version.is_v5() {
        return match properties.topic_alias() {
            Some(_) => Ok(()),
            None => Err(DecodeError::TopicMissing),
        };
    }
    topic::check_name(topic).map_err(|error| topic_error("topic name", error))
}

/// A null character makes any string malformed; the rest is about topics.
#[cold]
pub(super) fn topic_error(field: &'static str, error: TopicError) -> DecodeError {
    match error {
        TopicError::NulCharacter => DecodeError::NulCharacter { field },
        error => DecodeError::TopicName { field, error },
    }
}
