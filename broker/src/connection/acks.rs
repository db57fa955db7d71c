//! Acknowledgements on their way to a client.
//!
//! PUBACK and PUBREC leave in the order of the publishes [MQTT-4.6.0-2] [MQTT-4.6.0-3], and not before
//! what they promise is durable. Every read's worth of packets that has something to write makes one
//! submission; its acknowledgements carry its number and wait until that number is committed.

use std::collections::VecDeque;

use dunlin_protocol::{Ack, Packet, PacketId, ReasonCode, Version};

/// Which acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::enum_variant_names,
    reason = "they are the names of the packets"
)]
pub(super) enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

/// An acknowledgement that is not encoded yet.
#[derive(Debug)]
pub(super) enum Answer {
    Ack(AckKind, PacketId, ReasonCode),
    /// SUBACK, UNSUBACK.
    Encoded(Box<[u8]>),
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    answer: Answer,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Acks {
    waiting: VecDeque<Waiting>,
    /// PUBACKs and error PUBRECs that wait: publishes that count against the Receive Maximum.
    publishes: usize,
}

impl Acks {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// QoS 1 publishes whose PUBACK waits.
    pub(super) fn publishes(&self) -> usize {
        self.publishes
    }

    /// Packet ids of QoS 2 publishes whose PUBREC waits.
    pub(super) fn unrecorded(&self) -> impl Iterator<Item = PacketId> {
        self.waiting
            .iter()
            .filter_map(|waiting| match waiting.answer {
                Answer::Ack(AckKind::PubRec, id, _) => Some(id),
                _ => None,
            })
    }

    /// Appends an answer that waits for submission `number`.
    pub(super) fn push(&mut self, number: u64, answer: Answer) {
        if matches!(answer, Answer::Ack(AckKind::PubAck, ..)) {
            self.publishes += 1;
        }
        self.waiting.push_back(Waiting { number, answer });
    }

    /// Encodes what waits for `committed` or an earlier submission.
    pub(super) fn release(&mut self, committed: u64, version: Version, out: &mut Vec<u8>) -> u64 {
        let mut released = 0;
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.number <= committed)
        {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            released += 1;
            match waiting.answer {
                Answer::Ack(kind, id, reason) => {
                    if kind == AckKind::PubAck {
                        self.publishes -= 1;
                    }
                    encode(kind, id, reason, version, out);
                }
                Answer::Encoded(bytes) => out.extend_from_slice(&bytes),
            }
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 64 {
            self.waiting = VecDeque::new();
        }
        released
    }
}

/// Appends one acknowledgement.
pub(super) fn encode(
    kind: AckKind,
    id: PacketId,
    reason: ReasonCode,
    version: Version,
    out: &mut Vec<u8>,
) {
    if reason == ReasonCode::SUCCESS || !version.is_v5() {
        let first = match kind {
            AckKind::PubAck => 0x40,
            AckKind::PubRec => 0x50,
            AckKind::PubRel => 0x62,
            AckKind::PubComp => 0x70,
        };
        let [high, low] = id.get().to_be_bytes();
        out.extend_from_slice(&[first, 2, high, low]);
        return;
    }
    let ack = Ack::new(id, reason);
    let packet = match kind {
        AckKind::PubAck => Packet::PubAck(ack),
        AckKind::PubRec => Packet::PubRec(ack),
        AckKind::PubRel => Packet::PubRel(ack),
        AckKind::PubComp => Packet::PubComp(ack),
    };
    if let Err(error) = packet.encode(version, out) {
        tracing::error!(%error, "an acknowledgement could not be encoded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    /// [MQTT-4.6.0-2] v5, [MQTT-4.6.0-2] v311
    #[test]
    fn an_acknowledgement_that_is_ready_waits_for_the_one_before_it() {
        let mut acks = Acks::default();
        acks.push(1, Answer::Ack(AckKind::PubAck, id(7), ReasonCode::SUCCESS));
        acks.push(
            1,
            Answer::Ack(AckKind::PubRec, id(8), ReasonCode::NO_MATCHING_SUBSCRIBERS),
        );
        acks.push(2, Answer::Encoded(Box::from([0x90, 3, 0, 9, 0])));
        let mut out = Vec::new();
        assert_eq!(acks.release(0, Version::V5, &mut out), 0);
        assert_eq!(acks.publishes(), 1);
        assert_eq!(acks.release(1, Version::V5, &mut out), 2);
        assert_eq!(out, [0x40, 2, 0, 7, 0x50, 3, 0, 8, 0x10]);
        assert_eq!(acks.publishes(), 0);
        assert_eq!(acks.release(2, Version::V5, &mut out), 1);
        assert!(acks.is_empty());
    }
}
