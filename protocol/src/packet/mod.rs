//! The packets, each in a module with its reading and its writing side by side.

mod ack;
mod connack;
mod connect;
mod disconnect;
mod packet_type;
mod publish;
mod suback;
mod subscribe;
mod unsubscribe;

pub use ack::Ack;
pub use connack::ConnAck;
pub use connect::{Connect, Will};
pub use disconnect::{Auth, Disconnect};
pub use packet_type::PacketType;
pub use publish::{Publish, PublishLayout, copy_publish_into, decode_publish, encode_publish_into};
pub use suback::{SubAck, UnsubAck};
pub use subscribe::{
    RetainHandling, Subscribe, SubscribeFilters, SubscribeFiltersBuf, SubscribeFiltersIter,
    SubscribeOptions,
};
pub use unsubscribe::{
    Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersBuf, UnsubscribeFiltersIter,
};

use crate::error::{DecodeError, EncodeError};
use crate::frame::{FrameHeader, peek_frame};
use crate::primitive::{Cursor, MAX_VARINT, put_varint, varint_len};
use crate::version::{PacketId, Sender, Version};

/// A packet. What it holds borrows from the bytes that it was decoded from, or from whoever builds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Opens a connection.
    Connect(Connect<'a>),
    /// Answers CONNECT.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// Answers a PUBLISH of QoS 1.
    PubAck(Ack<'a>),
    /// Answers a PUBLISH of QoS 2.
    PubRec(Ack<'a>),
    /// Answers PUBREC.
    PubRel(Ack<'a>),
    /// Answers PUBREL.
    PubComp(Ack<'a>),
    /// Adds subscriptions.
    Subscribe(Subscribe<'a>),
    /// Answers SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Removes subscriptions.
    Unsubscribe(Unsubscribe<'a>),
    /// Answers UNSUBSCRIBE.
    UnsubAck(UnsubAck<'a>),
    /// Asks for a PINGRESP.
    PingReq,
    /// Answers PINGREQ.
    PingResp,
    /// Ends a connection.
    Disconnect(Disconnect<'a>),
    /// Carries on an authentication (MQTT 5 only).
    Auth(Auth<'a>),
}

/// Decodes `frame`, which is exactly one packet with its fixed header (see [`peek_frame`](crate::peek_frame)).
///
/// `version` is that of the connection; a CONNECT carries its own and ignores it. Nothing is allocated.
///
/// # Errors
///
/// The first thing found that the specification of that version forbids `sender` to send.
pub fn decode(frame: &[u8], version: Version, sender: Sender) -> Result<Packet<'_>, DecodeError> {
    let (first_byte, body) = split_header(frame)?;
    let (nibble, flags) = (first_byte >> 4, first_byte & 0x0F);
    // PUBLISH first: nearly every packet is one, and all its flags have a meaning.
    if nibble == PacketType::Publish as u8 {
        return Publish::read(body, flags, version, sender, "").map(Packet::Publish);
    }
    let packet_type = PacketType::from_nibble(nibble)
        .filter(|packet_type| packet_type.exists_in(version))
        .ok_or(DecodeError::PacketTypeReserved {
            packet_type: nibble,
            version,
        })?;
    if !packet_type.flags_allowed(flags, version) {
        return Err(DecodeError::HeaderFlags {
            packet: packet_type,
            flags,
        });
    }
    if !packet_type.may_be_sent_by(sender, version) {
        return Err(DecodeError::WrongDirection {
            packet: packet_type,
            sender,
        });
    }
    read_body(packet_type, body, version, sender)
}

/// Splits exactly one packet into its first byte and what follows the fixed header.
#[inline]
fn split_header(frame: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let header = peek_frame(frame, u32::MAX)?.ok_or(DecodeError::FrameLength {
        declared: 0,
        actual: frame.len(),
    })?;
    Ok((header.first_byte, body_of(header, frame)?))
}

/// What follows the fixed header of exactly one packet.
#[inline]
fn body_of(header: FrameHeader, frame: &[u8]) -> Result<&[u8], DecodeError> {
    if header.total_len != frame.len() {
        return Err(DecodeError::FrameLength {
            declared: header.total_len,
            actual: frame.len(),
        });
    }
    Ok(frame.get(header.header_len..).unwrap_or_default())
}

fn read_body(
    packet_type: PacketType,
    body: &[u8],
    version: Version,
    sender: Sender,
) -> Result<Packet<'_>, DecodeError> {
    let ack = |packet_type| Ack::read(body, packet_type, version, sender);
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(Connect::read(body)?),
        PacketType::ConnAck => Packet::ConnAck(ConnAck::read(body, version)?),
        PacketType::Publish => Packet::Publish(Publish::read(body, 0, version, sender, "")?),
        PacketType::PubAck => Packet::PubAck(ack(packet_type)?),
        PacketType::PubRec => Packet::PubRec(ack(packet_type)?),
        PacketType::PubRel => Packet::PubRel(ack(packet_type)?),
        PacketType::PubComp => Packet::PubComp(ack(packet_type)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::read(body, version)?),
        PacketType::SubAck => Packet::SubAck(SubAck::read(body, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::read(body, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::read(body, version)?),
        PacketType::PingReq => empty(body, Packet::PingReq)?,
        PacketType::PingResp => empty(body, Packet::PingResp)?,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::read(body, version, sender)?),
        PacketType::Auth => Packet::Auth(Auth::read(body, sender)?),
    })
}

fn empty<'a>(body: &[u8], packet: Packet<'a>) -> Result<Packet<'a>, DecodeError> {
    Cursor::new(body).finish()?;
    Ok(packet)
}

/// Reads a packet identifier, which is not 0 [MQTT-2.2.1-3].
#[inline]
fn read_packet_id(cursor: &mut Cursor<'_>) -> Result<PacketId, DecodeError> {
    PacketId::new(cursor.u16("packet identifier")?).ok_or(DecodeError::PacketIdZero)
}

impl Packet<'_> {
    /// Which packet it is.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet to `out`, in the form of `version` (a CONNECT: in that of its own).
    ///
    /// Properties and reason codes that the version does not have are left out; a reason code in a CONNACK or SUBACK
    /// of an older version becomes the nearest return code. Topics and filters are taken to be valid.
    ///
    /// # Errors
    ///
    /// A field or the packet is longer than the protocol allows, or the version has no such packet. Nothing has been
    /// appended then.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let first_byte = match self {
            Self::Publish(publish) => return publish.encode(version, out).map(drop),
            other => other.packet_type().first_byte(),
        };
        let remaining = check_packet_len(self.body_len(version)?)?;
        out.reserve(1 + varint_len(remaining as usize) + remaining as usize);
        out.push(first_byte);
        put_varint(out, remaining);
        self.write_body(version, out);
        Ok(())
    }

    /// Bytes that [`encode`](Self::encode) will append: to hold against the receiver's maximum packet size.
    ///
    /// # Errors
    ///
    /// As of [`encode`](Self::encode).
    pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
        let remaining = check_packet_len(self.body_len(version)?)? as usize;
        Ok(1 + varint_len(remaining) + remaining)
    }

    /// Bytes after the fixed header, once everything that could be too long has been checked.
    fn body_len(&self, version: Version) -> Result<usize, EncodeError> {
        match self {
            Self::Connect(connect) => connect.body_len(),
            Self::ConnAck(connack) => Ok(connack.body_len(version)),
            Self::Publish(publish) => publish.body_len(version),
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                Ok(ack.body_len(version))
            }
            Self::Subscribe(subscribe) => subscribe.body_len(version),
            Self::SubAck(suback) => suback.body_len(version),
            Self::Unsubscribe(unsubscribe) => unsubscribe.body_len(version),
            Self::UnsubAck(unsuback) => unsuback.body_len(version),
            Self::PingReq | Self::PingResp => Ok(0),
            Self::Disconnect(disconnect) => Ok(disconnect.body_len(version)),
            Self::Auth(auth) => auth.body_len(version),
        }
    }

    /// Appends what follows the fixed header: as many bytes as `body_len` said.
    fn write_body(&self, version: Version, out: &mut Vec<u8>) {
        match self {
            Self::Connect(connect) => connect.write(out),
            Self::ConnAck(connack) => connack.write(version, out),
            // Written by its own `encode`.
            Self::Publish(_) => {}
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                ack.write(version, out)
            }
            Self::Subscribe(subscribe) => subscribe.write(version, out),
            Self::SubAck(suback) => suback.write(version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.write(version, out),
            Self::UnsubAck(unsuback) => unsuback.write(version, out),
            Self::PingReq | Self::PingResp => {}
            Self::Disconnect(disconnect) => disconnect.write(version, out),
            Self::Auth(auth) => auth.write(out),
        }
    }
}

/// A remaining length that can be written down.
#[inline]
fn check_packet_len(len: usize) -> Result<u32, EncodeError> {
    match u32::try_from(len) {
        Ok(remaining) if remaining <= MAX_VARINT => Ok(remaining),
        _ => Err(EncodeError::PacketTooLong { len }),
    }
}

/// Appends a block of properties with its length in front.
fn put_properties(out: &mut Vec<u8>, properties: &[u8]) {
    // The whole packet has been held against the limit, so its parts are below it.
    put_varint(out, properties.len() as u32);
    out.extend_from_slice(properties);
}
