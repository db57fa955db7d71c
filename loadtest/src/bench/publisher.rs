//! One publisher's messages: the packet encoded once, the window, the packet ids. Pure.

use dunlin_protocol::{EncodeError, PacketId, QoS, Version, encode_publish_into};

use super::plan::digits;
use super::stamp::{STAMP_BYTES, Stamp};

/// State of a packet id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Free,
    /// PUBLISH sent.
    Sent,
    /// QoS 2: PUBREC came, PUBREL sent.
    Released,
}

/// Counts in deliveries: a message to `fanout` subscribers is done when it was delivered so often.
#[derive(Debug)]
pub(crate) struct Publisher {
    number: u32,
    qos: QoS,
    template: Vec<u8>,
    packet_id_at: usize,
    payload_at: usize,
    /// Where the digits of the topic are, if there are several topics.
    digits: Option<Digits>,
    window: u16,
    fanout: u64,
    quota: u64,
    sent: u64,
    delivered: u64,
    ids: Vec<Id>,
    /// When the message of each packet id was due.
    due_ns: Vec<u64>,
    free: Vec<u16>,
    /// Whether the window counts what is delivered, too.
    bound_by_delivery: bool,
}

/// The end of the topic, which says which of several it is.
#[derive(Debug, Clone, Copy)]
struct Digits {
    at: usize,
    width: usize,
    topics: u64,
}

impl Digits {
    fn write(self, packet: &mut [u8], number: u64) {
        let mut left = number % self.topics;
        let place = packet.get_mut(self.at..self.at + self.width);
        for digit in place.unwrap_or_default().iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
    }
}

/// What a publisher is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) number: u32,
    pub(crate) version: Version,
    pub(crate) qos: QoS,
    /// With several topics it ends with as many digits as tell them apart.
    pub(crate) topic: &'a str,
    pub(crate) topics: u64,
    pub(crate) retain: bool,
    /// Messages that it sends at most.
    pub(crate) quota: Option<u64>,
    pub(crate) payload_bytes: usize,
    pub(crate) window: u16,
    pub(crate) fanout: u64,
    pub(crate) bound_by_delivery: bool,
}

impl Publisher {
    pub(crate) fn new(setup: Setup<'_>) -> Result<Self, EncodeError> {
        let payload = vec![b'.'; setup.payload_bytes.max(STAMP_BYTES)];
        let mut template = Vec::new();
        let id = PacketId::new(1).filter(|_| setup.qos != QoS::AtMostOnce);
        let layout = encode_publish_into(
            &mut template,
            setup.version,
            false,
            setup.qos,
            setup.retain,
            setup.topic,
            id,
            &[],
            &payload,
        )?;
        let ids = if id.is_some() {
            usize::from(setup.window)
        } else {
            0
        };
        let header = 1 + length_bytes(&template);
        let width = digits(setup.topics);
        let several = setup.topics > 1;
        Ok(Self {
            digits: several.then_some(Digits {
                // Behind the two bytes of its length.
                at: header + 2 + setup.topic.len() - width,
                width,
                topics: setup.topics,
            }),
            quota: setup.quota.unwrap_or(u64::MAX),
            number: setup.number,
            qos: setup.qos,
            packet_id_at: layout.packet_id_at.unwrap_or(0),
            payload_at: template.len() - payload.len(),
            template,
            window: setup.window,
            fanout: setup.fanout,
            sent: 0,
            delivered: 0,
            ids: vec![Id::Free; ids],
            due_ns: vec![0; ids],
            // Taken from the end: the lowest first.
            free: (1..=setup.window).rev().take(ids).collect(),
            bound_by_delivery: setup.bound_by_delivery || setup.qos == QoS::AtMostOnce,
        })
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the window has room.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        let undelivered = (self.sent * self.fanout).saturating_sub(self.delivered);
        let bound = self.bound_by_delivery && self.fanout > 0;
        self.sent < self.quota
            && (!bound || undelivered < u64::from(self.window) * self.fanout)
            && (self.qos == QoS::AtMostOnce || !self.free.is_empty())
    }

    /// Whether everything sent is acknowledged and delivered.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.ids.len() && self.delivered >= self.sent * self.fanout
    }

    /// Whether it has sent all that it is to send.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.sent >= self.quota
    }

    /// Appends the next message. To be called only when there is room.
    #[inline]
    pub(crate) fn publish(&mut self, due_ns: u64, out: &mut Vec<u8>) {
        let stamp = Stamp {
            publisher: self.number,
            sequence: self.sent,
            due_ns,
        }
        .to_bytes();
        let start = out.len();
        out.extend_from_slice(&self.template);
        patch(out, start + self.payload_at, &stamp);
        if let Some(digits) = self.digits {
            digits.write(out.get_mut(start..).unwrap_or_default(), self.sent);
        }
        if let Some(id) = self.free.pop() {
            patch(out, start + self.packet_id_at, &id.to_be_bytes());
            self.set(id, Id::Sent);
            if let Some(due) = self.due_ns.get_mut(place(id)) {
                *due = due_ns;
            }
        }
        self.sent += 1;
    }

    /// A message of this publisher has reached one subscriber.
    #[inline]
    pub(crate) fn delivered(&mut self) {
        self.delivered += 1;
    }

    /// Lost messages must not close the window for ever.
    pub(crate) fn forgive(&mut self) {
        self.delivered = self.delivered.max(self.sent * self.fanout);
    }

    /// PUBACK or PUBREC; `None` when the packet id was not in use. The broker has the message now: with
    /// when it was due.
    #[inline]
    pub(crate) fn received(&mut self, id: PacketId) -> Option<u64> {
        if self.get(id.get()) != Some(Id::Sent) {
            return None;
        }
        let due = self.due_ns.get(place(id.get())).copied();
        if self.qos == QoS::ExactlyOnce {
            self.set(id.get(), Id::Released);
        } else {
            self.done(id.get());
        }
        due
    }

    /// PUBCOMP; `false` when the packet id was not released.
    #[inline]
    pub(crate) fn completed(&mut self, id: PacketId) -> bool {
        let good = self.get(id.get()) == Some(Id::Released);
        if good {
            self.done(id.get());
        }
        good
    }

    fn done(&mut self, id: u16) {
        self.set(id, Id::Free);
        self.free.push(id);
    }

    fn get(&self, id: u16) -> Option<Id> {
        self.ids.get(place(id)).copied()
    }

    fn set(&mut self, id: u16, state: Id) {
        if let Some(known) = self.ids.get_mut(place(id)) {
            *known = state;
        }
    }
}

/// Bytes of the remaining length of a packet.
fn length_bytes(packet: &[u8]) -> usize {
    let more = packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0);
    more.count() + 1
}

/// Packet ids begin with 1; 0 has no place.
fn place(id: u16) -> usize {
    usize::from(id).wrapping_sub(1)
}

fn patch(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_protocol::{Packet, Sender, decode};

    fn publisher(qos: QoS, window: u16, fanout: u64) -> Publisher {
        Publisher::new(Setup {
            number: 3,
            version: Version::V5,
            qos,
            topic: "bench/3",
            topics: 1,
            retain: false,
            quota: None,
            payload_bytes: 64,
            window,
            fanout,
            bound_by_delivery: false,
        })
        .unwrap()
    }

    #[test]
    fn several_topics_are_taken_in_turns_and_a_quota_is_the_end() {
        for (payload_bytes, version) in [(20, Version::V311), (70_000, Version::V5)] {
            let mut publisher = Publisher::new(Setup {
                number: 3,
                version,
                qos: QoS::AtLeastOnce,
                topic: "bench/3/00",
                topics: 12,
                retain: true,
                quota: Some(13),
                payload_bytes,
                window: 20,
                fanout: 1,
                bound_by_delivery: false,
            })
            .unwrap();
            let mut topics = Vec::new();
            while publisher.has_room() {
                let mut out = Vec::new();
                publisher.publish(77, &mut out);
                let Packet::Publish(publish) = decode(&out, version, Sender::Client).unwrap()
                else {
                    panic!("no PUBLISH")
                };
                assert!(publish.retain);
                topics.push(publish.topic.to_owned());
            }
            assert!(publisher.has_sent_all());
            let expected: Vec<_> = (0..13).map(|n| format!("bench/3/{:02}", n % 12)).collect();
            assert_eq!(topics, expected);
        }
    }

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn packets_are_well_formed_and_count_up() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut publisher = publisher(qos, 10, 1);
            for sequence in 0..3 {
                let mut out = Vec::new();
                publisher.publish(77, &mut out);
                let Packet::Publish(publish) = decode(&out, Version::V5, Sender::Client).unwrap()
                else {
                    panic!("no PUBLISH")
                };
                assert_eq!(
                    (publish.topic, publish.qos, publish.payload.len()),
                    ("bench/3", qos, 64)
                );
                assert_eq!(
                    Stamp::from_payload(publish.payload),
                    Some(Stamp {
                        publisher: 3,
                        sequence,
                        due_ns: 77
                    })
                );
                let expected = u16::try_from(sequence + 1).unwrap();
                assert!(qos == QoS::AtMostOnce || publish.packet_id == PacketId::new(expected));
            }
        }
    }

    #[test]
    fn at_qos_0_the_window_counts_deliveries() {
        let mut publisher = publisher(QoS::AtMostOnce, 2, 3);
        let mut out = Vec::new();
        publisher.publish(0, &mut out);
        publisher.publish(0, &mut out);
        assert!(!publisher.has_room());
        publisher.delivered();
        assert!(publisher.has_room());
        publisher.forgive();
        assert!(publisher.is_idle());
    }

    #[test]
    fn at_qos_1_the_window_counts_acknowledgements() {
        let mut publisher = publisher(QoS::AtLeastOnce, 1, 1);
        publisher.publish(55, &mut Vec::new());
        publisher.delivered();
        assert!(!publisher.has_room());
        assert_eq!(publisher.received(id(1)), Some(55));
        assert!(publisher.has_room() && publisher.is_idle());
        assert_eq!(
            (publisher.received(id(1)), publisher.received(id(2))),
            (None, None)
        );
        assert!(!publisher.completed(id(1)));
    }

    #[test]
    fn at_qos_2_a_packet_id_is_free_after_pubcomp_only() {
        let mut publisher = publisher(QoS::ExactlyOnce, 1, 1);
        publisher.publish(0, &mut Vec::new());
        assert!(!publisher.completed(id(1)));
        assert_eq!(publisher.received(id(1)), Some(0));
        assert!(!publisher.has_room());
        assert!(publisher.completed(id(1)));
        assert!(publisher.has_room());
    }
}
