//! A packet as it came from the broker.

use std::fmt;

use dunlin_protocol::{ConnAck, Packet, Properties, Publish, ReasonCode, Sender, Version, decode};

/// One packet's bytes, kept.
pub(crate) struct Received {
    frame: Vec<u8>,
    version: Version,
}

impl Received {
    /// Takes exactly one packet; what the broker sends must be well formed.
    pub(crate) fn new(frame: Vec<u8>, version: Version) -> Self {
        if let Err(error) = decode(&frame, version, Sender::Server) {
            panic!("the broker sent a malformed packet: {error}: {frame:02x?}");
        }
        Self { frame, version }
    }

    /// The packet.
    pub(crate) fn packet(&self) -> Packet<'_> {
        decode(&self.frame, self.version, Sender::Server).expect("checked when it came")
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.frame
    }

    /// It has to be a PUBLISH.
    pub(crate) fn publish(&self) -> Publish<'_> {
        match self.packet() {
            Packet::Publish(publish) => publish,
            other => panic!("a PUBLISH was expected, not {other:?}"),
        }
    }

    /// It has to be a CONNACK.
    pub(crate) fn connack(&self) -> ConnAck<'_> {
        match self.packet() {
            Packet::ConnAck(connack) => connack,
            other => panic!("a CONNACK was expected, not {other:?}"),
        }
    }

    /// The reason code of whatever packet it is.
    pub(crate) fn reason(&self) -> ReasonCode {
        match self.packet() {
            Packet::ConnAck(packet) => packet.reason,
            Packet::PubAck(ack)
            | Packet::PubRec(ack)
            | Packet::PubRel(ack)
            | Packet::PubComp(ack) => ack.reason,
            Packet::Disconnect(packet) => packet.reason,
            Packet::Auth(packet) => packet.reason,
            other => panic!("a packet with a reason code was expected, not {other:?}"),
        }
    }

    /// The properties of whatever packet it is.
    pub(crate) fn properties(&self) -> Properties<'_> {
        match self.packet() {
            Packet::ConnAck(packet) => packet.properties,
            Packet::Publish(packet) => packet.properties,
            Packet::PubAck(ack)
            | Packet::PubRec(ack)
            | Packet::PubRel(ack)
            | Packet::PubComp(ack) => ack.properties,
            Packet::SubAck(packet) => packet.properties,
            Packet::UnsubAck(packet) => packet.properties,
            Packet::Disconnect(packet) => packet.properties,
            Packet::Auth(packet) => packet.properties,
            other => panic!("a packet with properties was expected, not {other:?}"),
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.packet().fmt(f)
    }
}
