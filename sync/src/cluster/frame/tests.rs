//! The bytes of frames: golden ones, damage, and what a newer replica may send.

use std::sync::Arc;

use dunlin_protocol::QoS;
use proptest::prelude::*;

use super::*;
use crate::cluster::{Epoch, SessionEntry};
use crate::{Delivery, Message, MessageParts, SubscriptionRecord};

const ORIGIN: ReplicaId = ReplicaId(0x0102);

fn message() -> Message {
    Message::new(MessageParts {
        topic: "a/b",
        properties: &[1, 1],
        payload: b"hi",
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at: Some(0x0a),
        received_at: 0x0b,
        publisher: Some(Arc::from("me")),
        id: 0x0c,
    })
}

/// A frame with one entry of every kind.
fn every_entry() -> Bytes {
    let message = message();
    let view = MessageView::of(&message);
    let delivery = Delivery {
        qos: QoS::ExactlyOnce,
        retain: false,
        subscription_ids: Box::new([7]),
        share: Some(Arc::from("$share/g/a")),
    };
    let mut pack = Pack::default();
    pack.message(None, &view).unwrap();
    pack.message(Some("$share/g/a"), &view).unwrap();
    pack.queued(SessionId(3), 4, &delivery, &view).unwrap();
    pack.hello(5, &[6; BUCKETS as usize], 7);
    pack.welcome(5, 7);
    pack.let_go("me", Epoch(9)).unwrap();
    pack.applied([(1, 2)].into_iter());
    pack.applied_routes(3);
    pack.ask([(1, 2), (3, 4)].into_iter());
    pack.ask_routes(5);
    pack.heartbeat([(0, 8)].into_iter());
    pack.grown(SessionId(3), 4);
    pack.leaving();
    pack.seal(ORIGIN, ReplicaId(3), 0x11)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn table(change: &[u8]) -> Vec<u8> {
    let mut frame = head(Kind::Table, ORIGIN).to_vec();
    frame.extend_from_slice(&[5, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(change);
    frame
}

fn entries(bytes: &[u8]) -> Vec<Result<Entry<'_>, FrameError>> {
    match decode(bytes).unwrap().body {
        Body::Lane { entries, .. } => entries.collect(),
        other => panic!("{other:?}"),
    }
}

/// Whoever changes these bytes changes the format: replicas of two versions run side by side.
#[test]
fn the_bytes_of_version_1_stay_what_they_are() {
    let mut pack = Pack::default();
    let message = message();
    pack.message(Some("$share/g/a"), &MessageView::of(&message))
        .unwrap();
    let expected = concat!(
        "444e01030201000000000000", // DN, version 1, messages, origin
        "0300000000000000",         // to
        "1100000000000000",         // sequence number
        "023a000000",               // shared message, 58 bytes
        "0a00247368617265",
        "2f672f61", // the group
        "1d",       // QoS 1, retain, expires, publisher
        "0b00000000000000",
        "0c00000000000000",
        "0a00000000000000", // times and id
        "02006d65",         // publisher
        "0300612f62",       // topic
        "020000000101",     // properties
        "020000006869",     // payload
    );
    assert_eq!(hex(&pack.seal(ORIGIN, ReplicaId(3), 0x11)), expected);

    let mut pack = Pack::default();
    pack.let_go("me", Epoch(9)).unwrap();
    pack.applied([(1, 2)].into_iter());
    pack.welcome(5, 7);
    pack.grown(SessionId(3), 4);
    pack.leaving();
    let expected = concat!(
        "444e01040201000000000000",
        "0000000000000000",
        "0100000000000000",
        "220c000000",
        "0900000000000000",
        "02006d65",
        "2314000000",
        "01000000",
        "0100000000000000",
        "0200000000000000",
        "2110000000",
        "0500000000000000",
        "0700000000000000",
        "2810000000",
        "0300000000000000",
        "0400000000000000",
        "2900000000",
    );
    assert_eq!(hex(&pack.seal(ORIGIN, ReplicaId(0), 1)), expected);
}

/// What lies in a tap is read by consumers of other versions, and a script finds the messages by their lengths.
#[test]
fn the_bytes_of_a_taps_frame_stay_what_they_are() {
    let mut frame = head(Kind::Tap, ORIGIN).to_vec();
    put_tapped(&mut frame, 9, &MessageView::of(&message())).unwrap();
    let expected = concat!(
        "444e01050201000000000000", // DN, version 1, tap, origin
        "0436000000",               // tapped message, 54 bytes
        "0900000000000000",         // number
        "1d",
        "0b00000000000000",
        "0c00000000000000",
        "0a00000000000000",
        "02006d65",
        "0300612f62",
        "020000000101",
        "020000006869",
    );
    assert_eq!(hex(&frame), expected);
    let Body::Tap { mut entries } = decode(&frame).unwrap().body else {
        panic!("not a tap's frame");
    };
    let Some(Ok(Entry::Tapped { number: 9, message })) = entries.next() else {
        panic!("not the message");
    };
    assert_eq!((message.topic, message.payload), ("a/b", &b"hi"[..]));
    assert!(
        describe(&frame).contains("number 9"),
        "{}",
        describe(&frame)
    );
}

/// The script of a claim looks at the second byte of a record, and everybody reads it.
#[test]
fn the_bytes_of_a_sessions_record_stay_what_they_are() {
    let mut entry = SessionEntry::new(SessionId(1), Arc::from("me"));
    entry.subscribe(SubscriptionRecord {
        filter: "b/#".into(),
        options: 1,
        identifier: None,
    });
    entry.subscribe(SubscriptionRecord {
        filter: "$share/g/a".into(),
        options: 2,
        identifier: Some(7),
    });
    let encoded = entry.encode(None).unwrap();
    let expected = concat!(
        "0101",
        "02006d65",
        "02000000",
        "0201",
        "07000000",
        "0a00247368617265",
        "2f672f61",
        "0100",
        "0300622f23",
    );
    assert_eq!(hex(&encoded), expected);
    let (back, left_at) = SessionEntry::decode(SessionId(1), &encoded).unwrap();
    assert_eq!((back, left_at), (entry, None));
}

#[test]
fn changes_of_tables_are_read_as_redis_writes_them() {
    let mut deleted = vec![4];
    deleted.extend_from_slice(&8_u64.to_le_bytes());
    let mut owner = vec![5];
    owner.extend_from_slice(&8_u64.to_le_bytes());
    owner.extend_from_slice(&2_u64.to_le_bytes());
    // As docs/frames.md has it: table, hint, revision, key.
    let records = b"\x06\x01\x03\x07\0\0\0\0\0\0\0\x02\0/a\x02\0\x08\0\0\0\0\0\0\0\x01\0f";
    let cases: [(&[u8], Change<'_>); 6] = [
        (records, Change::Records(&records[1..])),
        (b"\x01body", Change::RetainedSet(b"body")),
        (b"\x02a/b", Change::RetainedRemoved("a/b")),
        (&deleted, Change::SessionDeleted(SessionId(8))),
        (&owner, Change::Owner(SessionId(8), ReplicaId(2))),
        (b"\x09what", Change::Unknown(9)),
    ];
    for (bytes, expected) in cases {
        let frame = table(bytes);
        let decoded = decode(&frame).unwrap();
        assert_eq!(decoded.origin, ORIGIN);
        let Body::Table {
            bucket,
            version,
            change,
        } = decoded.body
        else {
            panic!("{decoded:?}")
        };
        assert_eq!((bucket, version, change), (Bucket(5), 9, expected));
    }
}

#[test]
fn changes_of_routes_are_read_as_redis_writes_them() {
    let mut frame = head(Kind::Routes, ORIGIN).to_vec();
    frame.extend_from_slice(&9_u64.to_le_bytes());
    frame.extend_from_slice(&[3, 2, 0, 3, 0, b'a', b'/', b'#', 0, 0, 0, 1, 0, b'b']);
    let Body::Routes { version, changes } = decode(&frame).unwrap().body else {
        panic!()
    };
    let changes: Vec<_> = changes.map(Result::unwrap).collect();
    let route = |flags, members| Route { flags, members };
    assert_eq!(version, 9);
    assert_eq!(changes, [("a/#", route(3, 2)), ("b", route(0, 0))]);
}

#[test]
fn every_entry_comes_back_and_is_described() {
    let frame = every_entry();
    let read = entries(&frame);
    assert_eq!(read.len(), 13);
    assert!(read.iter().all(Result::is_ok));
    let Some(Ok(Entry::Queued {
        session,
        seq,
        delivery,
        message: view,
    })) = read.get(2)
    else {
        panic!("{read:?}")
    };
    assert_eq!((*session, *seq), (SessionId(3), 4));
    assert_eq!(delivery.subscription_ids.as_ref(), [7]);
    assert_eq!(*view.to_message(), message());
    let text = describe(&frame);
    for expected in [
        "from 258 to 3 number 17",
        "\"a/b\" qos 1 retained from \"me\", 2 bytes: \"hi\"",
        "to one of \"$share/g/a\"",
        "queued for session 3 at 4",
        "let go of \"me\" claim 9",
        "applied [(1, 2)]",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert_eq!(text.lines().count(), 14);
}

#[test]
fn what_a_newer_replica_sends_is_skipped_and_the_rest_is_read() {
    let mut pack = Pack::default();
    pack.welcome(5, 7);
    let mut bytes = pack.seal(ORIGIN, ReplicaId(0), 1).to_vec();
    // An unknown entry, then a known one with a field at its end that is not known.
    bytes.extend_from_slice(&[200, 3, 0, 0, 0, 1, 2, 3]);
    bytes.extend_from_slice(&[36, 10, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 99, 99]);
    let read = entries(&bytes);
    assert!(matches!(read[0], Ok(Entry::Welcome { round: 5, .. })));
    assert!(matches!(read[1], Ok(Entry::Unknown(200))));
    assert!(matches!(read[2], Ok(Entry::AppliedRoutes(4))));
    assert_eq!(read.len(), 3);
}

#[test]
fn other_versions_kinds_and_foreign_bytes_are_told_apart() {
    let mut frame = every_entry().to_vec();
    assert_eq!(decode(b"hello").unwrap_err(), FrameError::Foreign);
    assert_eq!(decode(b"").unwrap_err(), FrameError::Foreign);
    assert!(!is_frame(&Bytes::from_static(b"nonce")));
    frame[3] = 9;
    assert_eq!(decode(&frame).unwrap_err(), FrameError::Kind(9));
    frame[2] = 2;
    assert_eq!(decode(&frame).unwrap_err(), FrameError::Version(2));
    let mut wrong = table(b"\x02a");
    wrong[12..14].copy_from_slice(&256_u16.to_le_bytes());
    assert!(matches!(decode(&wrong), Err(FrameError::Damaged(_))));
    assert!(describe(b"hello").contains("does not begin as a frame"));
}

#[test]
fn a_text_that_is_too_long_leaves_nothing_in_the_frame() {
    let mut pack = Pack::default();
    let long = "x".repeat(70_000);
    assert!(pack.let_go(&long, Epoch(1)).is_err());
    assert!(pack.is_empty());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
        for kind in 1..=4 {
            let mut frame = vec![b'D', b'N', 1, kind];
            frame.extend_from_slice(&bytes);
            read_all(&frame);
        }
        if let Ok((entry, left_at)) = SessionEntry::decode(SessionId(1), &bytes) {
            prop_assert!(entry.encode(left_at).is_ok());
        }
    }

    #[test]
    fn a_frame_that_was_cut_or_changed_never_panics(
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let frame = every_entry();
        read_all(&frame[..cut.index(frame.len())]);
        let mut changed = frame.to_vec();
        let at = at.index(changed.len());
        changed[at] = byte;
        read_all(&changed);
    }

    #[test]
    fn a_message_comes_back_as_it_was(
        topic in ".{0,40}",
        properties in proptest::collection::vec(any::<u8>(), 0..40),
        payload in proptest::collection::vec(any::<u8>(), 0..400),
        publisher in proptest::option::of("[a-z0-9]{0,30}"),
        qos in 0u8..3,
        retain in any::<bool>(),
        expires_at in proptest::option::of(any::<u64>()),
        numbers in any::<(u64, u64)>(),
    ) {
        let message = Message::new(MessageParts {
            topic: &topic,
            properties: &properties,
            payload: &payload,
            qos: QoS::try_from(qos).unwrap(),
            retain,
            expires_at,
            received_at: numbers.0,
            publisher: publisher.map(Arc::from),
            id: numbers.1,
        });
        let mut pack = Pack::default();
        pack.message(None, &MessageView::of(&message)).unwrap();
        let frame = pack.seal(ORIGIN, ReplicaId(0), 1);
        let read = entries(&frame);
        let Some(Ok(Entry::Message { share: None, message: view })) = read.first() else {
            panic!("{read:?}")
        };
        prop_assert_eq!(&*view.to_message(), &message);
    }
}

fn read_all(bytes: &[u8]) {
    let _text = describe(bytes);
    if let Ok(frame) = decode(bytes) {
        match frame.body {
            Body::Lane { entries, .. } | Body::Tap { entries } => drop(entries.count()),
            Body::Routes { changes, .. } => drop(changes.count()),
            Body::Table { .. } => {}
        }
    }
}

#[test]
fn changed_records_are_read_one_after_the_other_up_to_damage() {
    let changed = |code, hint, revision, key| ChangedRecord {
        code,
        hint,
        revision,
        key,
    };
    let bytes = b"\x01\x03\x07\0\0\0\0\0\0\0\x02\0/a\x02\0\x08\0\0\0\0\0\0\0\x01\0f";
    let read: Result<Vec<_>, _> = records(bytes).collect();
    assert_eq!(
        read,
        Ok(vec![changed(1, 3, 7, "/a"), changed(2, 0, 8, "f")])
    );
    for cut in 1..14 {
        let read: Vec<_> = records(&bytes[..14 + 13 - cut]).collect();
        assert_eq!(read.first(), Some(&Ok(changed(1, 3, 7, "/a"))));
        assert_eq!(read.get(1).is_some_and(Result::is_err), cut < 13, "{cut}");
    }
}
