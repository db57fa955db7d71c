//! MQTT 3.1, 3.1.1 and 5.0: packets, topic names and topic filters.
//!
//! This crate knows bytes and grammar and nothing else: no sockets, no runtime, no clock, no session.
//!
//! - [`peek_frame`] finds the end of the first packet in a read buffer and holds its size against a limit.
//! - [`decode`] turns that packet into a [`Packet`], which borrows from the buffer. It allocates nothing, and lets
//!   nothing through that the specifications forbid in the form of a packet; [`DecodeError::reason_code`] is what to
//!   answer. What depends on state (an identifier in use, a topic alias that is not known) is the session's.
//! - [`Packet::encode`] writes a packet; [`encode_publish_into`] says where the packet identifier is, so that one
//!   encoded PUBLISH serves many receivers.
//! - [`topic`] checks and matches.
//!
//! ```
//! use dunlin_protocol::{Packet, Publish, QoS, Sender, Version, decode, peek_frame};
//!
//! let mut buffer = Vec::new();
//! let publish = Publish { topic: "sensor/7", payload: b"21.5", ..Publish::default() };
//! Packet::Publish(publish).encode(Version::V5, &mut buffer)?;
//!
//! let header = peek_frame(&buffer, 1_048_576)?.expect("the packet is whole");
//! let packet = decode(&buffer[..header.total_len], Version::V5, Sender::Client)?;
//! assert_eq!(packet, Packet::Publish(publish));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Strictness
//!
//! Where the specification leaves a choice, or where MQTT 3.1 differs, this is what the codec does:
//!
//! - a remaining length must be in its shortest form in every version;
//! - packets that go one way only are refused from the other side;
//! - `$share/` has a meaning in MQTT 5 only: filters of older versions are checked by [`topic::check_plain_filter`];
//! - MQTT 3.1: PUBREL, SUBSCRIBE and UNSUBSCRIBE may have DUP set; the client identifier may have any length but 0.

mod error;
mod frame;
mod packet;
mod primitive;
mod property;
mod reason_code;
pub mod topic;
mod version;

pub use error::{DecodeError, EncodeError};
pub use frame::{FrameHeader, peek_frame};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, Publish, PublishLayout,
    RetainHandling, SubAck, Subscribe, SubscribeFilters, SubscribeFiltersBuf, SubscribeFiltersIter,
    SubscribeOptions, UnsubAck, Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersBuf,
    UnsubscribeFiltersIter, Will, copy_publish_into, decode, decode_publish, encode_publish_into,
};
pub use primitive::MAX_VARINT;
pub use property::{
    Properties, PropertiesBuf, Property, PropertyContext, PropertyId, PropertyIter, RawIter,
    RawProperty,
};
pub use reason_code::ReasonCode;
pub use version::{InvalidQoS, PacketId, QoS, Sender, Version};
