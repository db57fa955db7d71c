//! What a store that outlives its process does when it is opened again.

use std::sync::Arc;

use super::samples::{
    enqueue, enqueue_message, full_message, message, message_on, session, subscription, will,
};
use super::{Driver, Place};
use crate::{Op, Recovered, RecoveredSession, SessionId, SubscriptionRecord};

fn reopen(place: &dyn Place) -> (Driver, Recovered) {
    let driver = Driver::new(place.open());
    let recovered = driver.store().recover().unwrap();
    (driver, recovered)
}

fn find(recovered: &Recovered, id: SessionId) -> &RecoveredSession {
    recovered
        .sessions
        .iter()
        .find(|found| found.record.id == id)
        .unwrap()
}

/// Everything put is found again.
pub fn everything_put_is_found_again(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let one = driver.store().next_session_id();
    let two = driver.store().next_session_id();
    let mut record = session(one, "eins/ü");
    record.expiry_interval = u32::MAX;
    record.disconnected_at = Some(1_700_000_000_001);
    record.epoch = u64::MAX;
    let mut with_id = subscription("$share/g/b/#", 0b0010_1101);
    with_id.identifier = Some(268_435_455);
    let retained = full_message("r/1", b"kept");
    driver.commit(vec![
        Op::PutSession(record.clone()),
        Op::PutSession(session(two, "two")),
        Op::PutSubscription(one, subscription("a/+", 1)),
        Op::PutSubscription(one, with_id.clone()),
        Op::PutSubscription(two, subscription("a/+", 2)),
        Op::PutInboundQos2 {
            session: one,
            packet_id: 65_535,
            count: 0,
        },
        Op::PutInboundQos2 {
            session: one,
            packet_id: 1,
            count: 0,
        },
        Op::PutRetained(Arc::clone(&retained)),
        Op::PutRetained(message_on("r/2", b"")),
        Op::PutWill(will("eins/ü", Some(one))),
        Op::PutWill(will("clean", None)),
    ]);
    driver.store().close().unwrap();
    drop(driver);
    let (_driver, recovered) = reopen(place);
    assert_eq!(recovered.sessions.len(), 2);
    let found = find(&recovered, one);
    assert_eq!(found.record, record);
    assert_eq!(found.subscriptions, [with_id, subscription("a/+", 1)]);
    assert_eq!(found.inbound_qos2, [1, 65_535]);
    assert_eq!(
        find(&recovered, two).subscriptions,
        [subscription("a/+", 2)]
    );
    assert_eq!(recovered.retained, [retained, message_on("r/2", b"")]);
    assert_eq!(
        recovered.wills,
        [will("clean", None), will("eins/ü", Some(one))]
    );
}

/// Replaced and deleted records stay so.
pub fn replaced_and_deleted_records_stay_so(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    driver.commit(vec![
        Op::PutSubscription(id, subscription("a", 0)),
        Op::PutSubscription(id, subscription("b", 0)),
        Op::PutInboundQos2 {
            session: id,
            packet_id: 5,
            count: 0,
        },
        Op::PutInboundQos2 {
            session: id,
            packet_id: 6,
            count: 0,
        },
        Op::PutRetained(message_on("r/1", b"old")),
        Op::PutRetained(message_on("r/2", b"old")),
        Op::PutWill(will("c", None)),
        Op::PutWill(will("d", None)),
    ]);
    let mut record = session(id, "c");
    record.epoch = 2;
    let unknown = SessionId(id.0 + 1_000_000);
    driver.commit(vec![
        Op::PutSession(record.clone()),
        Op::PutSubscription(id, subscription("a", 2)),
        Op::DeleteSubscription(id, "b".into()),
        Op::DeleteInboundQos2 {
            session: id,
            packet_id: 5,
        },
        Op::PutRetained(message_on("r/1", b"once")),
        Op::PutRetained(message_on("r/1", b"new")),
        Op::DeleteRetained("r/2".into()),
        Op::PutWill(will("c", Some(id))),
        Op::DeleteWill {
            client_id: Arc::from("d"),
        },
        // Of no session: nothing of it may stay.
        Op::PutSubscription(unknown, subscription("a", 2)),
        Op::PutInboundQos2 {
            session: unknown,
            packet_id: 5,
            count: 0,
        },
    ]);
    drop(driver);
    let (_driver, recovered) = reopen(place);
    assert_eq!(recovered.sessions.len(), 1);
    let found = find(&recovered, id);
    assert_eq!(found.record, record);
    assert_eq!(found.subscriptions, [subscription("a", 2)]);
    assert_eq!(found.inbound_qos2, [6]);
    assert_eq!(recovered.retained, [message_on("r/1", b"new")]);
    assert_eq!(recovered.wills, [will("c", Some(id))]);
}

/// A queue is found with its head tail length and bytes.
pub fn a_queue_is_found_with_its_head_tail_length_and_bytes(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let empty = driver.new_session("empty");
    driver.commit((0..10).map(|n| enqueue(id, &n.to_string())).collect());
    driver.commit(vec![
        Op::Dequeue {
            session: id,
            seq: 0,
        },
        Op::Dequeue {
            session: id,
            seq: 1,
        },
        Op::Dequeue {
            session: id,
            seq: 5,
        },
        Op::Release {
            session: id,
            seq: 2,
        },
    ]);
    driver.store().close().unwrap();
    drop(driver);
    let (driver, recovered) = reopen(place);
    let found = find(&recovered, id);
    assert_eq!(found.queue_head, 2);
    assert_eq!(found.queue_tail, 10);
    assert_eq!(found.queue_len, 7);
    assert_eq!(found.queue_bytes, 6 * message("0").size() as u64);
    let found = find(&recovered, empty);
    assert_eq!((found.queue_head, found.queue_tail), (0, 0));
    assert_eq!((found.queue_len, found.queue_bytes), (0, 0));
    let positions: Vec<_> = driver.read_all(id).iter().map(|entry| entry.seq).collect();
    assert_eq!(positions, [2, 3, 4, 6, 7, 8, 9]);
    assert_eq!(driver.enqueue(id, "next"), 10);
}

/// Positions are never used twice even when the queue was empty.
pub fn positions_are_never_used_twice_even_when_the_queue_was_empty(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let mut last = driver.enqueue(id, "0");
    driver.commit(vec![Op::Dequeue {
        session: id,
        seq: last,
    }]);
    drop(driver);
    for round in 0..70 {
        let (driver, recovered) = reopen(place);
        let found = find(&recovered, id);
        assert!(found.queue_tail > last);
        assert_eq!(found.queue_head, found.queue_tail, "the queue is empty");
        for _ in 0..=(round % 3) {
            let seq = driver.enqueue(id, "x");
            assert!(seq > last, "{seq} after {last}");
            driver.commit(vec![Op::Dequeue { session: id, seq }]);
            last = seq;
        }
    }
}

/// Session ids are never used twice.
pub fn session_ids_are_never_used_twice(place: &dyn Place) {
    let mut last = SessionId(0);
    for _ in 0..3 {
        let (driver, _) = reopen(place);
        let ids: Vec<_> = (0..2000)
            .map(|_| driver.store().next_session_id())
            .collect();
        assert!(ids[0] > last);
        last = *ids.last().unwrap();
        driver.commit(vec![Op::PutSession(session(last, "c"))]);
        driver.commit(vec![Op::DeleteSession(last)]);
    }
}

/// A large message in many queues survives until the last is done.
pub fn a_large_message_in_many_queues_survives_until_the_last_is_done(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let ids: Vec<_> = (0..4).map(|n| driver.new_session(&n.to_string())).collect();
    let large = message_on("t", &vec![9; 20_000]);
    let ops = ids
        .iter()
        .map(|id| enqueue_message(*id, Arc::clone(&large)));
    driver.commit(ops.collect());
    driver.commit(vec![Op::Dequeue {
        session: ids[0],
        seq: 0,
    }]);
    drop(driver);
    let (driver, recovered) = reopen(place);
    assert_eq!(find(&recovered, ids[1]).queue_bytes, large.size() as u64);
    driver.commit(vec![
        Op::Dequeue {
            session: ids[1],
            seq: 0,
        },
        Op::Release {
            session: ids[2],
            seq: 0,
        },
    ]);
    assert_eq!(driver.read_all(ids[3])[0].message.as_deref(), Some(&*large));
    // A second message of the same kind must not take the place of the first.
    let other = message_on("t", &vec![8; 20_000]);
    let ops = ids[..2]
        .iter()
        .map(|id| enqueue_message(*id, Arc::clone(&other)));
    driver.commit(ops.collect());
    assert_eq!(driver.read_all(ids[3])[0].message.as_deref(), Some(&*large));
    drop(driver);
    let (driver, _) = reopen(place);
    assert_eq!(driver.read_all(ids[3])[0].message.as_deref(), Some(&*large));
    assert_eq!(driver.read_all(ids[0])[0].message.as_deref(), Some(&*other));
    driver.commit(vec![Op::DeleteSession(ids[3])]);
    assert_eq!(driver.read_all(ids[1])[0].message.as_deref(), Some(&*other));
}

/// A deleted session leaves nothing however much it had.
pub fn a_deleted_session_leaves_nothing_however_much_it_had(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("big");
    let neighbour = driver.new_session("small");
    for part in 0..4 {
        let mut ops: Vec<_> = (0..500).map(|n| enqueue(id, &n.to_string())).collect();
        ops.extend(
            (0..500).map(|n| Op::PutSubscription(id, subscription(&format!("{part}/{n}"), 1))),
        );
        driver.commit(ops);
    }
    driver.commit(vec![
        enqueue(neighbour, "x"),
        Op::PutSubscription(neighbour, subscription("a", 1)),
    ]);
    driver.commit(
        (1..=65_535)
            .map(|packet_id| Op::PutInboundQos2 {
                session: id,
                packet_id,
                count: 0,
            })
            .collect(),
    );
    driver.commit(vec![Op::DeleteSession(id)]);
    drop(driver);
    // Some of it may still be there at one opening and the next, none of it may be seen.
    for _ in 0..3 {
        let (driver, recovered) = reopen(place);
        assert_eq!(recovered.sessions.len(), 1);
        let found = find(&recovered, neighbour);
        assert_eq!(found.subscriptions, [subscription("a", 1)]);
        assert_eq!(found.queue_len, 1);
        assert!(driver.read_all(id).is_empty());
    }
}

/// The longest texts are kept.
pub fn the_longest_texts_are_kept(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let long = "x".repeat(65_535);
    let other = format!("{}y", "x".repeat(65_534));
    let id = driver.new_session(&long);
    driver.commit(vec![
        Op::PutSubscription(id, subscription(&long, 1)),
        Op::PutSubscription(id, subscription(&other, 2)),
        Op::PutSubscription(id, subscription(&other, 0)),
        Op::PutRetained(message_on(&long, b"1")),
        Op::PutRetained(message_on(&other, b"2")),
        Op::PutWill(will(&long, Some(id))),
        enqueue_message(id, message_on(&long, b"3")),
    ]);
    drop(driver);
    let (driver, recovered) = reopen(place);
    let mut found = find(&recovered, id).subscriptions.clone();
    found.sort_by_key(|record: &SubscriptionRecord| record.options);
    assert_eq!(found, [subscription(&other, 0), subscription(&long, 1)]);
    assert_eq!(find(&recovered, id).record.client_id.len(), 65_535);
    assert_eq!(
        recovered.retained,
        [message_on(&long, b"1"), message_on(&other, b"2")]
    );
    assert_eq!(recovered.wills, [will(&long, Some(id))]);
    assert_eq!(
        driver.read_all(id)[0].message,
        Some(message_on(&long, b"3"))
    );
    driver.commit(vec![Op::DeleteSubscription(id, long.as_str().into())]);
    drop(driver);
    let (_driver, recovered) = reopen(place);
    assert_eq!(
        find(&recovered, id).subscriptions,
        [subscription(&other, 0)]
    );
}

/// A store that was dropped without close has everything.
pub fn a_store_that_was_dropped_without_close_has_everything(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    for n in 0..100 {
        driver.submit(vec![enqueue(id, &n.to_string())]);
    }
    drop(driver);
    let (_driver, recovered) = reopen(place);
    assert_eq!(find(&recovered, id).queue_len, 100);
}
