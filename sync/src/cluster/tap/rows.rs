//! What a consumer is given.

use std::ops::Range;

use bytes::Bytes;

use crate::MessageParts;
use crate::cluster::ReplicaId;
use crate::cluster::frame::{self, Body, Entry};
use dunlin_protocol::QoS;

/// Messages of one partition, at positions that leave nothing out.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Of which partition.
    pub partition: u16,
    /// Under which lease.
    pub epoch: u64,
    /// Positions of the messages.
    pub positions: Range<u64>,
    /// Positions before it that no message has: a failover, or messages that were dropped at the bound. Empty: none.
    pub gap: Range<u64>,
    /// (Position of the last message, frame).
    frames: Vec<(u64, Bytes)>,
}

/// A message of a tap; its texts are borrowed from the batch.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Position in the partition.
    pub position: u64,
    /// The replica that accepted it, and its number there: what the message is known by for ever.
    pub identity: (ReplicaId, u64),
    /// Who has published it, see [`publisher`](crate::publisher); `None`: the broker's own message.
    pub publisher: Option<&'a str>,
    /// Topic.
    pub topic: &'a str,
    /// MQTT 5 properties as they came, without their length.
    pub properties: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// Quality of service that it was published with.
    pub qos: QoS,
    /// Whether it was published with the retain flag.
    pub retain: bool,
    /// Unix time in milliseconds after which nobody is to get it any more.
    pub expires_at: Option<u64>,
    /// Unix time in microseconds at which the broker accepted it.
    pub received_at: u64,
}

impl<'a> Row<'a> {
    /// As a message.
    #[must_use]
    pub fn parts(&self) -> MessageParts<'a> {
        MessageParts {
            topic: self.topic,
            properties: self.properties,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
            received_at: self.received_at,
            publisher: self.publisher.map(std::sync::Arc::from),
            id: self.identity.1,
        }
    }
}

impl Batch {
    /// The messages in order. Damaged entries are left out and logged.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let positions = self.positions.clone();
        self.frames
            .iter()
            .flat_map(|(last, frame)| rows_of(*last, frame))
            .filter(move |row| positions.contains(&row.position))
    }

    /// Bytes of its frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.iter().map(|(_, frame)| frame.len()).sum()
    }
}

fn rows_of(last: u64, frame: &Bytes) -> impl Iterator<Item = Row<'_>> {
    let first = first_of(last, frame);
    let frame = frame::decode(frame)
        .inspect_err(
            |error| tracing::error!(position = last, %error, "a frame of a tap cannot be read"),
        )
        .ok();
    let (origin, entries) = match frame.map(|frame| (frame.origin, frame.body)) {
        Some((origin, Body::Tap { entries })) => (origin, Some(entries)),
        _ => (ReplicaId(0), None),
    };
    entries
        .into_iter()
        .flatten()
        .zip(first..)
        .filter_map(move |(entry, position)| match entry {
            Ok(Entry::Tapped { number, message }) => Some(Row {
                position,
                identity: (origin, number),
                publisher: message.publisher,
                topic: message.topic,
                properties: message.properties,
                payload: message.payload,
                qos: message.qos,
                retain: message.retain,
                expires_at: message.expires_at,
                received_at: message.received_at,
            }),
            Ok(_) => None,
            Err(error) => {
                tracing::error!(position, %error, "a message of a tap cannot be read");
                None
            }
        })
}

/// Position of the first message of a frame.
fn first_of(last: u64, frame: &[u8]) -> u64 {
    let mut left = frame.get(12..).unwrap_or_default();
    let mut count: u64 = 0;
    while let Some((head, rest)) = left.split_at_checked(5) {
        let len = head.get(1..).and_then(|len| len.try_into().ok());
        let len = u32::from_le_bytes(len.unwrap_or_default()) as usize;
        count += 1;
        left = rest.get(len..).unwrap_or_default();
    }
    (last + 1).saturating_sub(count)
}

/// Cuts what was read from `from` on into batches without gaps.
pub(super) fn batches(
    (partition, epoch): (u16, u64),
    from: u64,
    frames: Vec<(u64, Bytes)>,
) -> Vec<Batch> {
    let mut next = from;
    let mut batches: Vec<Batch> = Vec::new();
    for (last, frame) in frames {
        if last < next {
            continue;
        }
        let first = first_of(last, &frame).max(next);
        match batches.last_mut() {
            Some(batch) if first == next => {
                batch.positions.end = last + 1;
                batch.frames.push((last, frame));
            }
            _ => batches.push(Batch {
                partition,
                epoch,
                positions: first..last + 1,
                gap: next..first,
                frames: vec![(last, frame)],
            }),
        }
        next = last + 1;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use crate::cluster::frame::{Kind, MessageView, head, put_tapped};

    fn frame_of(numbers: &[u64]) -> Bytes {
        let mut frame = head(Kind::Tap, ReplicaId(7)).to_vec();
        for number in numbers {
            let message = Message::new(MessageParts {
                topic: "a/b",
                properties: b"\x01\x01",
                payload: &number.to_le_bytes(),
                qos: QoS::ExactlyOnce,
                retain: true,
                expires_at: Some(5),
                received_at: 6,
                publisher: Some("me".into()),
                id: 0,
            });
            put_tapped(&mut frame, *number, &MessageView::of(&message)).unwrap();
        }
        frame.into()
    }

    #[test]
    fn rows_have_positions_and_identities() {
        let read = batches(
            (3, 9),
            5,
            vec![(6, frame_of(&[40, 41, 42])), (7, frame_of(&[50]))],
        );
        let [batch] = read.as_slice() else {
            panic!("one batch, not {read:?}");
        };
        assert_eq!((batch.positions.clone(), batch.gap.clone()), (5..8, 5..5));
        let rows: Vec<_> = batch.rows().collect();
        let known: Vec<_> = rows
            .iter()
            .map(|row| (row.position, row.identity.1))
            .collect();
        assert_eq!(known, [(5, 41), (6, 42), (7, 50)]);
        let row = &rows[0];
        assert_eq!(
            (row.topic, row.publisher, row.retain),
            ("a/b", Some("me"), true)
        );
        assert_eq!((row.expires_at, row.received_at), (Some(5), 6));
        assert_eq!(row.properties, b"\x01\x01");
    }

    #[test]
    fn a_gap_begins_another_batch_and_is_told() {
        let read = batches(
            (0, 1),
            1,
            vec![(2, frame_of(&[1, 2])), (9, frame_of(&[3, 4]))],
        );
        let told: Vec<_> = read
            .iter()
            .map(|batch| (batch.gap.clone(), batch.positions.clone()))
            .collect();
        assert_eq!(told, [(1..1, 1..3), (3..8, 8..10)]);
    }

    #[test]
    fn what_was_read_before_is_left_out() {
        assert!(batches((0, 1), 9, vec![(8, frame_of(&[1]))]).is_empty());
    }

    #[test]
    fn damage_is_left_out_and_does_no_harm() {
        for cut in 0..40 {
            let frame = frame_of(&[1]).slice(..cut);
            for batch in batches((0, 1), 1, vec![(3, frame)]) {
                assert_eq!(batch.rows().count(), 0);
            }
        }
    }
}
