//! Scenarios of one session's delivery state, in virtual time and without a store or a socket.

use std::num::NonZeroU64;
use std::sync::Arc;

use dunlin_protocol::{Packet, PacketId, QoS, ReasonCode, Sender, Version, decode, peek_frame};
use dunlin_sync::{
    Appended, Delivery, Message, MessageParts, Op, QueueEntry, QueueState, SessionId,
};
use proptest::prelude::*;

use super::device_config;
use super::frames::{Forwarded, Frames, Incoming, Origin, Topic};
use super::link::{Link, LinkOptions};
use super::outbound::{Acked, Outbound, QueueBounds, Tally};
use super::session::{Delivering, Wanted};

const STORED: SessionId = SessionId(1);
const BOUNDS: QueueBounds = QueueBounds {
    messages: 1000,
    bytes: 1 << 20,
    drop_oldest: false,
    ready: 16,
};

/// A PUBLISH or PUBREL as the client sees it: packet id, payload, dup.
type Seen = (Option<u16>, Option<Vec<u8>>, bool);

fn link(version: Version, max_packet: u32, outbox_bytes: usize) -> Link {
    let options = LinkOptions {
        version,
        max_packet,
        outbox_bytes,
        aliases: 0,
    };
    Link::new(options, None)
}

fn connected(stored: bool, quota: u16) -> Delivering {
    let id = stored.then_some(STORED);
    let mut delivering = Delivering::new(Outbound::new(id));
    delivering.link = Some(link(Version::V5, u32::MAX, 1 << 20));
    delivering.outbound.attach(quota);
    delivering
}

fn message(payload: &[u8], expires_at: Option<u64>) -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic: "a/b",
        properties: &[],
        payload,
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at,
        received_at: 0,
        publisher: None,
        id: 0,
    }))
}

fn append(delivering: &mut Delivering, seq: u64, qos: QoS, payload: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let message = message(payload, None);
    assert!(delivering.outbound.admit(message.size(), &BOUNDS));
    let appended = Appended {
        session: STORED,
        seq,
        delivery: Delivery::plain(qos),
        message,
    };
    delivering.appended(appended, 0, &BOUNDS, &mut tally);
    tally
}

/// Takes what the client would read.
fn read(delivering: &mut Delivering) -> Vec<Seen> {
    let mut bytes = Vec::new();
    let out = &mut delivering.link.as_mut().unwrap().out;
    while !out.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let filled = out.io_slices(&mut slices);
        let chunk: Vec<u8> = slices[..filled]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        out.consume(chunk.len());
        bytes.extend(chunk);
    }
    let mut seen = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let len = peek_frame(rest, u32::MAX).unwrap().unwrap().total_len;
        match decode(&rest[..len], Version::V5, Sender::Server).unwrap() {
            Packet::Publish(publish) => seen.push((
                publish.packet_id.map(PacketId::get),
                Some(publish.payload.to_vec()),
                publish.dup,
            )),
            Packet::PubRel(ack) => seen.push((Some(ack.packet_id.get()), None, false)),
            other => panic!("unexpected {other:?}"),
        }
        rest = &rest[len..];
    }
    seen
}

fn run_of<'a>(payloads: &[&'a [u8]], qos: QoS) -> Vec<Incoming<'a>> {
    payloads
        .iter()
        .map(|payload| Incoming {
            topic: Topic::Borrowed("a/b"),
            qos,
            retain: false,
            properties: Forwarded::Borrowed(&[]),
            expiry: None,
            payload,
            once: None,
            held: None,
            received: None,
        })
        .collect()
}

fn deliver(delivering: &mut Delivering, payloads: &[&[u8]], qos: QoS, granted: QoS) -> Tally {
    let run = run_of(payloads, qos);
    let origin = Origin {
        received_at: 0,
        publisher: None,
    };
    let frames = Frames::new(&run, &origin);
    let mut tally = Tally::default();
    delivering.deliver_run(&frames, &wanted(granted), &BOUNDS, &mut tally);
    tally
}

fn wanted(qos: QoS) -> Wanted {
    Wanted {
        qos,
        retain_as_published: false,
        subscription_ids: Box::default(),
        share: None,
    }
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// [MQTT-3.3.4-9] v5
#[test]
fn no_more_is_in_flight_than_the_client_takes() {
    let mut delivering = connected(false, 2);
    deliver(
        &mut delivering,
        &[b"1", b"2", b"3", b"4"],
        QoS::AtLeastOnce,
        QoS::ExactlyOnce,
    );
    let seen = read(&mut delivering);
    assert_eq!(
        seen.iter().map(|seen| seen.0).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
    assert_eq!(delivering.puback(id(1)), Acked::Done);
    delivering.pump(0, &mut Tally::default());
    assert_eq!(
        read(&mut delivering),
        [(Some(3), Some(b"3".to_vec()), false)]
    );
}

#[test]
fn an_acknowledgement_tells_which_version_of_the_clients_configuration_it_is_about() {
    let version = NonZeroU64::new(7).unwrap();
    let properties = device_config::properties(7);
    let message = |topic: &'static str, publisher: Option<Arc<str>>| {
        Arc::new(Message::new(MessageParts {
            topic,
            properties: &properties,
            payload: b"x",
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
            received_at: 0,
            publisher,
            id: 0,
        }))
    };
    // What comes, and what its acknowledgement is about.
    let cases = [
        (message("config", None), Acked::Config(version)),
        (message("other", None), Acked::Done),
        // Somebody who may publish there writes the broker's property.
        (message("config", Some("client".into())), Acked::Done),
    ];
    for (message, expected) in cases {
        for (stored, kept) in [(false, false), (false, true), (true, true)] {
            let mut delivering = connected(stored, 10);
            if let Some(link) = &mut delivering.link {
                link.set_config_topic("config");
            }
            let mut tally = Tally::default();
            let delivery = Delivery::plain(QoS::AtLeastOnce);
            if stored {
                assert!(delivering.outbound.admit(message.size(), &BOUNDS));
                let appended = Appended {
                    session: STORED,
                    seq: 0,
                    message: message.clone(),
                    delivery,
                };
                delivering.appended(appended, 0, &BOUNDS, &mut tally);
            } else if kept {
                delivering.deliver_message(&message, delivery, 0, &BOUNDS, &mut tally);
            } else {
                let origin = Origin {
                    received_at: 0,
                    publisher: message.publisher().map(Arc::from),
                };
                let run = [Incoming::from_message(&message, None)];
                let frames = Frames::new(&run, &origin);
                let wanted = wanted(QoS::AtLeastOnce);
                delivering.deliver_run(&frames, &wanted, &BOUNDS, &mut tally);
            }
            assert_eq!(delivering.puback(id(1)), expected, "{stored} {kept}");
        }
    }
}

#[test]
fn qos_0_passes_a_full_window() {
    let mut delivering = connected(false, 1);
    deliver(
        &mut delivering,
        &[b"1", b"2"],
        QoS::AtLeastOnce,
        QoS::ExactlyOnce,
    );
    deliver(
        &mut delivering,
        &[b"now"],
        QoS::AtMostOnce,
        QoS::ExactlyOnce,
    );
    assert_eq!(
        read(&mut delivering).last().unwrap(),
        &(None, Some(b"now".to_vec()), false)
    );
}

#[test]
fn a_reader_that_is_too_slow_loses_qos_0_and_keeps_qos_1() {
    let mut delivering = connected(false, 100);
    delivering.link = Some(link(Version::V5, u32::MAX, 64));
    let payload = [7u8; 40];
    let tally = deliver(
        &mut delivering,
        &[&payload, &payload, &payload],
        QoS::AtMostOnce,
        QoS::AtMostOnce,
    );
    assert_eq!((tally.sent, tally.dropped_outbox), ([1, 0, 0], 2));
    let tally = deliver(
        &mut delivering,
        &[&payload],
        QoS::AtLeastOnce,
        QoS::AtLeastOnce,
    );
    assert_eq!((tally.sent, tally.dropped_queue), ([0; 3], 0));
    read(&mut delivering);
    delivering.pump(0, &mut Tally::default());
    assert_eq!(read(&mut delivering).len(), 1);
}

#[test]
fn the_queue_bound_drops_the_newest_or_the_oldest_as_configured() {
    for (drop_oldest, kept) in [(false, [b"1", b"2"]), (true, [b"2", b"3"])] {
        let bounds = QueueBounds {
            messages: 2,
            drop_oldest,
            ..BOUNDS
        };
        let mut outbound = Outbound::new(None);
        let mut tally = Tally::default();
        for payload in [b"1", b"2", b"3"] {
            outbound.wait(
                message(payload, None),
                Delivery::plain(QoS::AtLeastOnce),
                None,
                &bounds,
                &mut tally,
            );
        }
        assert_eq!(tally.dropped_queue, 1);
        let mut delivering = Delivering::new(outbound);
        delivering.link = Some(link(Version::V5, u32::MAX, 1 << 20));
        delivering.outbound.attach(10);
        delivering.pump(0, &mut tally);
        let seen: Vec<_> = read(&mut delivering)
            .into_iter()
            .filter_map(|seen| seen.1)
            .collect();
        assert_eq!(seen, kept.map(|payload| payload.to_vec()));
    }
}

/// [MQTT-3.1.2-24] v5, [MQTT-3.1.2-25] v5
#[test]
fn a_message_that_is_too_large_for_the_client_is_skipped_and_done_with() {
    let mut delivering = connected(true, 10);
    delivering.link = Some(link(Version::V5, 30, 1 << 20));
    assert_eq!(
        append(&mut delivering, 0, QoS::AtLeastOnce, &[1; 100]).too_large,
        1
    );
    append(&mut delivering, 1, QoS::AtLeastOnce, b"x");
    assert_eq!(
        read(&mut delivering),
        [(Some(2), Some(b"x".to_vec()), false)]
    );
    assert!(matches!(delivering.ops[..], [Op::Dequeue { seq: 0, .. }]));
}

/// [MQTT-3.3.2-5] v5
#[test]
fn a_message_that_expired_while_it_waited_is_not_sent() {
    let mut delivering = connected(false, 10);
    let mut tally = Tally::default();
    delivering.outbound.wait(
        message(b"old", Some(1_000)),
        Delivery::plain(QoS::AtLeastOnce),
        None,
        &BOUNDS,
        &mut tally,
    );
    delivering.outbound.wait(
        message(b"new", Some(3_000)),
        Delivery::plain(QoS::AtLeastOnce),
        None,
        &BOUNDS,
        &mut tally,
    );
    delivering.pump(2_000, &mut tally);
    assert_eq!(tally.expired, 1);
    assert_eq!(read(&mut delivering).len(), 1);
}

/// [MQTT-4.3.3-4] v5, [MQTT-4.4.0-1] v5, [MQTT-4.4.0-1] v311
#[test]
fn a_resumed_session_resends_under_the_same_ids_and_owes_pubrel_where_pubrec_came() {
    let mut delivering = connected(true, 10);
    append(&mut delivering, 0, QoS::AtLeastOnce, b"one");
    append(&mut delivering, 1, QoS::ExactlyOnce, b"two");
    append(&mut delivering, 2, QoS::ExactlyOnce, b"three");
    assert_eq!(read(&mut delivering).len(), 3);
    assert_eq!(
        delivering.pubrec(id(2), ReasonCode::SUCCESS),
        Acked::Release
    );

    delivering.link = None;
    delivering.outbound.detach();
    delivering.link = Some(link(Version::V5, u32::MAX, 1 << 20));
    delivering.outbound.attach(10);
    let (from, tail) = delivering.outbound.wants_refill(&BOUNDS).unwrap();
    assert_eq!((from, tail), (0, 3));
    let entry = |seq, state, payload: Option<&[u8]>| QueueEntry {
        seq,
        state,
        delivery: Delivery::plain(if seq == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        }),
        message: payload.map(|payload| message(payload, None)),
    };
    let entries = vec![
        entry(0, QueueState::Queued, Some(b"one")),
        entry(1, QueueState::Released, None),
        entry(2, QueueState::Queued, Some(b"three")),
    ];
    delivering.refill(entries, tail, true, 0, &mut Tally::default());
    assert_eq!(
        read(&mut delivering),
        [
            (Some(1), Some(b"one".to_vec()), true),
            (Some(2), None, false),
            (Some(3), Some(b"three".to_vec()), true)
        ]
    );
    assert_eq!(delivering.pubcomp(id(2)), Acked::Done);
    assert_eq!(delivering.puback(id(1)), Acked::Done);
    assert_eq!(
        delivering.pubrec(id(3), ReasonCode::SUCCESS),
        Acked::Release
    );
    assert_eq!(delivering.pubcomp(id(3)), Acked::Done);
    assert_eq!(delivering.outbound.queued(), (0, 0));
}

#[test]
fn acknowledgements_of_the_wrong_kind_are_told_apart_from_unknown_ones() {
    let mut delivering = connected(false, 10);
    deliver(&mut delivering, &[b"1"], QoS::ExactlyOnce, QoS::ExactlyOnce);
    assert_eq!(delivering.puback(id(1)), Acked::WrongKind);
    assert_eq!(delivering.pubcomp(id(1)), Acked::WrongKind);
    assert_eq!(delivering.puback(id(9)), Acked::Unknown);
    assert_eq!(
        delivering.pubrec(id(1), ReasonCode::SUCCESS),
        Acked::Release
    );
    assert_eq!(
        delivering.pubrec(id(1), ReasonCode::SUCCESS),
        Acked::Release
    );
    assert_eq!(delivering.pubcomp(id(1)), Acked::Done);
}

/// [MQTT-4.3.3-4] v5
#[test]
fn a_refused_qos_2_message_is_done_with_at_its_pubrec() {
    let mut delivering = connected(true, 10);
    append(&mut delivering, 0, QoS::ExactlyOnce, b"x");
    assert_eq!(
        delivering.pubrec(id(1), ReasonCode::UNSPECIFIED_ERROR),
        Acked::Done
    );
    assert!(matches!(delivering.ops[..], [Op::Dequeue { seq: 0, .. }]));
    assert_eq!(delivering.outbound.queued(), (0, 0));
}

/// What a client acknowledges, and in which order.
#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    /// Acknowledges the nth packet it has not finished.
    Acknowledge(prop::sample::Index),
    Reconnect,
}

proptest! {
    /// A stored session against a model of its store: everything arrives, in order, and no packet id
    /// is ever used for two messages at a time.
    #[test]
    fn nothing_is_lost_or_reordered_whatever_is_acknowledged_when(
        quota in 1u16..6,
        start in prop_oneof![Just(0u64), 65_530u64..65_540, 131_060u64..131_080],
        steps in prop::collection::vec(prop_oneof![
            3 => (1u8..3).prop_map(Step::Publish),
            4 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
            1 => Just(Step::Reconnect),
        ], 1..120),
    ) {
        let outbound = Outbound::recovered(STORED, start, start, 0, 0, 0);
        let mut delivering = Delivering::new(outbound);
        delivering.link = Some(link(Version::V5, u32::MAX, 1 << 20));
        delivering.outbound.attach(quota);
        let mut store: std::collections::BTreeMap<u64, (u8, bool)> = std::collections::BTreeMap::new();
        let mut tail = start;
        // What the client has open: packet id, sequence number, released.
        let mut open: Vec<(u16, u64, bool)> = Vec::new();
        let mut arrived: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Publish(qos) => {
                    store.insert(tail, (qos, false));
                    append(&mut delivering, tail, QoS::try_from(qos).unwrap(), &tail.to_be_bytes());
                    tail += 1;
                }
                Step::Acknowledge(index) if !open.is_empty() => {
                    let (packet_id, seq, released) = open.remove(index.index(open.len()));
                    match (store[&seq].0, released) {
                        (1, _) => prop_assert_eq!(delivering.puback(id(packet_id)), Acked::Done),
                        (_, false) => {
                            prop_assert_eq!(delivering.pubrec(id(packet_id), ReasonCode::SUCCESS), Acked::Release);
                            open.push((packet_id, seq, true));
                        }
                        (_, true) => prop_assert_eq!(delivering.pubcomp(id(packet_id)), Acked::Done),
                    }
                    delivering.pump(0, &mut Tally::default());
                }
                Step::Acknowledge(_) => {}
                Step::Reconnect => {
                    delivering.link = Some(link(Version::V5, u32::MAX, 1 << 20));
                    delivering.outbound.detach();
                    delivering.outbound.attach(quota);
                }
            }
            for op in delivering.ops.drain(..) {
                match op {
                    Op::Dequeue { seq, .. } => prop_assert!(store.remove(&seq).is_some()),
                    Op::Release { seq, .. } => store.get_mut(&seq).unwrap().1 = true,
                    other => panic!("unexpected {other:?}"),
                }
            }
            while let Some((from, known)) = delivering.outbound.wants_refill(&BOUNDS) {
                let entries: Vec<QueueEntry> = store.range(from..).take(3).map(|(seq, (qos, released))| QueueEntry {
                    seq: *seq,
                    state: if *released { QueueState::Released } else { QueueState::Queued },
                    delivery: Delivery::plain(QoS::try_from(*qos).unwrap()),
                    message: (!released).then(|| message(&seq.to_be_bytes(), None)),
                }).collect();
                let exhausted = entries.is_empty();
                delivering.refill(entries, known, exhausted, 0, &mut Tally::default());
            }
            for (packet_id, payload, dup) in read(&mut delivering) {
                let packet_id = packet_id.unwrap();
                match payload {
                    Some(payload) => {
                        let seq = u64::from_be_bytes(payload.try_into().unwrap());
                        match open.iter().find(|(other, ..)| *other == packet_id) {
                            Some((_, same, _)) => {
                                prop_assert!(dup && *same == seq, "packet id {packet_id} is in use for another message");
                            }
                            None => {
                                prop_assert!(!dup || arrived.contains(&seq));
                                open.push((packet_id, seq, false));
                                if !arrived.contains(&seq) {
                                    arrived.push(seq);
                                }
                            }
                        }
                    }
                    None => prop_assert!(open.iter().any(|(other, ..)| *other == packet_id)),
                }
            }
            prop_assert!(open.len() <= usize::from(quota));
        }
        prop_assert!(arrived.is_sorted(), "{arrived:?}");
        let unsent = tail - start - arrived.len() as u64;
        prop_assert!(unsent == 0 || open.len() == usize::from(quota), "{unsent} wait although there is room");
    }
}
