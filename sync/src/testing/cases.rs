//! What every store does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use dunlin_protocol::QoS;

use super::samples::{
    enqueue, enqueue_message, full_delivery, full_message, message, message_on, session,
};
use super::{Driver, LIMIT, Place};
use crate::{
    Appended, Batch, Committed, Delivery, Op, QueueState, SessionId, Store, StoreError, Ticket,
};

/// Large enough to be stored once for many queues, if a store does so.
const LARGE: usize = 20_000;

fn texts(pairs: &[(u64, &str)]) -> Vec<(u64, String)> {
    pairs
        .iter()
        .map(|(seq, text)| (*seq, (*text).to_owned()))
        .collect()
}

/// Positions begin at zero and rise.
pub fn positions_begin_at_zero_and_rise(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let one = driver.new_session("one");
    let two = driver.new_session("two");
    let appended = driver.commit(vec![
        enqueue(one, "a"),
        enqueue(two, "b"),
        enqueue(one, "c"),
    ]);
    let positions: Vec<_> = appended
        .iter()
        .map(|done| (done.session, done.seq))
        .collect();
    assert_eq!(positions, [(one, 0), (two, 0), (one, 1)]);
    assert_eq!(driver.enqueue(one, "d"), 2);
}

/// Entries are read in order with gaps where dequeued.
pub fn entries_are_read_in_order_with_gaps_where_dequeued(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    driver.commit((0..5).map(|n| enqueue(id, &n.to_string())).collect());
    driver.commit(vec![
        Op::Dequeue {
            session: id,
            seq: 0,
        },
        Op::Dequeue {
            session: id,
            seq: 3,
        },
        Op::Dequeue {
            session: id,
            seq: 77,
        },
    ]);
    assert_eq!(driver.texts(id), texts(&[(1, "1"), (2, "2"), (4, "4")]));
}

/// Reading begins at the given position.
pub fn reading_begins_at_the_given_position(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    driver.commit((0..300).map(|n| enqueue(id, &n.to_string())).collect());
    let read = driver.read(id, 258, usize::MAX, usize::MAX);
    let positions: Vec<_> = read.iter().map(|entry| entry.seq).collect();
    assert_eq!(positions, (258..300).collect::<Vec<_>>());
    assert!(driver.read(id, 300, 10, usize::MAX).is_empty());
    assert!(driver.read(id, u64::MAX, 10, usize::MAX).is_empty());
}

/// Reading ends at the number of entries.
pub fn reading_ends_at_the_number_of_entries(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    driver.commit((0..9).map(|n| enqueue(id, &n.to_string())).collect());
    assert_eq!(driver.read(id, 2, 3, usize::MAX).len(), 3);
    assert_eq!(driver.read(id, 2, 0, usize::MAX).len(), 0);
}

/// Reading ends at the number of bytes but gives one at least.
pub fn reading_ends_at_the_number_of_bytes_but_gives_one_at_least(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    driver.commit((0..9).map(|n| enqueue(id, &n.to_string())).collect());
    let size = message("0").size();
    assert_eq!(driver.read(id, 0, usize::MAX, 0).len(), 1);
    assert_eq!(driver.read(id, 0, usize::MAX, size).len(), 1);
    assert_eq!(driver.read(id, 0, usize::MAX, size + 1).len(), 2);
    assert_eq!(driver.read(id, 0, usize::MAX, 4 * size).len(), 4);
}

/// A released entry stays in its place without its message.
pub fn a_released_entry_stays_in_its_place_without_its_message(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    driver.commit((0..3).map(|n| enqueue(id, &n.to_string())).collect());
    driver.commit(vec![Op::Release {
        session: id,
        seq: 1,
    }]);
    assert_eq!(
        driver.texts(id),
        texts(&[(0, "0"), (1, "released"), (2, "2")])
    );
    let entry = &driver.read(id, 1, 1, 1)[0];
    assert_eq!(entry.state, QueueState::Released);
    assert_eq!(entry.delivery, Delivery::plain(QoS::ExactlyOnce));
    driver.commit(vec![Op::Dequeue {
        session: id,
        seq: 1,
    }]);
    assert_eq!(driver.texts(id), texts(&[(0, "0"), (2, "2")]));
    // What was never queued cannot be released.
    driver.commit(vec![Op::Release {
        session: id,
        seq: 3,
    }]);
    assert_eq!(driver.texts(id), texts(&[(0, "0"), (2, "2")]));
}

/// Every field of an entry comes back.
pub fn every_field_of_an_entry_comes_back(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let put = full_message("a/b/ä", &[0, 255, 10, 13]);
    let appended = driver.commit(vec![Op::Enqueue {
        session: id,
        delivery: full_delivery(),
        message: Arc::clone(&put),
        once: None,
    }]);
    assert_eq!(appended[0].delivery, full_delivery());
    assert!(Arc::ptr_eq(&appended[0].message, &put));
    let entry = &driver.read_all(id)[0];
    assert_eq!(entry.state, QueueState::Queued);
    assert_eq!(entry.delivery, full_delivery());
    assert_eq!(entry.message.as_deref(), Some(&*put));
    assert_eq!(entry.message.as_ref().unwrap().size(), put.size());
}

/// A large message in many queues is read from each until the last is done.
pub fn a_large_message_in_many_queues_is_read_from_each_until_the_last_is_done(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let ids: Vec<_> = (0..5).map(|n| driver.new_session(&n.to_string())).collect();
    let large = message_on("t", &vec![7; LARGE]);
    let ops = ids
        .iter()
        .map(|id| enqueue_message(*id, Arc::clone(&large)));
    driver.commit(ops.collect());
    driver.commit(vec![
        Op::Dequeue {
            session: ids[0],
            seq: 0,
        },
        // Twice the same must not count twice.
        Op::Dequeue {
            session: ids[0],
            seq: 0,
        },
        Op::Release {
            session: ids[1],
            seq: 0,
        },
        Op::DeleteSession(ids[2]),
    ]);
    for id in &ids[3..] {
        assert_eq!(driver.read_all(*id)[0].message.as_deref(), Some(&*large));
    }
    driver.commit(vec![Op::Dequeue {
        session: ids[3],
        seq: 0,
    }]);
    assert_eq!(driver.read_all(ids[4])[0].message.as_deref(), Some(&*large));
    driver.commit(vec![Op::Dequeue {
        session: ids[4],
        seq: 0,
    }]);
    assert!(driver.read_all(ids[4]).is_empty());
}

/// A message for an unknown session is dropped and said so.
pub fn a_message_for_an_unknown_session_is_dropped_and_said_so(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let unknown = SessionId(id.0 + 1_000_000);
    let appended = driver.commit(vec![enqueue(unknown, "x"), enqueue(id, "y")]);
    assert!(appended[0].is_dropped());
    assert_eq!(appended[0].seq, Appended::DROPPED);
    assert_eq!(appended[1].seq, 0);
    driver.commit(vec![
        Op::Dequeue {
            session: unknown,
            seq: 0,
        },
        Op::Release {
            session: unknown,
            seq: 0,
        },
        Op::DeleteSession(unknown),
    ]);
    assert!(driver.read_all(unknown).is_empty());
}

/// A deleted session has no queue and its neighbours keep theirs.
pub fn a_deleted_session_has_no_queue_and_its_neighbours_keep_theirs(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let ids: Vec<_> = (0..3).map(|n| driver.new_session(&n.to_string())).collect();
    for id in &ids {
        driver.commit((0..10).map(|n| enqueue(*id, &n.to_string())).collect());
    }
    driver.commit(vec![enqueue(ids[1], "late"), Op::DeleteSession(ids[1])]);
    assert!(driver.read_all(ids[1]).is_empty());
    assert!(driver.commit(vec![enqueue(ids[1], "x")])[0].is_dropped());
    assert_eq!(driver.read_all(ids[0]).len(), 10);
    assert_eq!(driver.read_all(ids[2]).len(), 10);
}

/// Changes of one batch apply in order.
pub fn changes_of_one_batch_apply_in_order(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.store().next_session_id();
    let appended = driver.commit(vec![
        enqueue(id, "before the session"),
        Op::PutSession(session(id, "c")),
        enqueue(id, "a"),
        enqueue(id, "b"),
        enqueue(id, "c"),
        Op::Release {
            session: id,
            seq: 0,
        },
        Op::Release {
            session: id,
            seq: 1,
        },
        Op::Dequeue {
            session: id,
            seq: 1,
        },
    ]);
    assert!(appended[0].is_dropped());
    assert_eq!(appended.len(), 4);
    assert_eq!(driver.texts(id), texts(&[(0, "released"), (2, "c")]));
}

/// A refused batch changes nothing and the store goes on.
pub fn a_refused_batch_changes_nothing_and_the_store_goes_on(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let long = "x".repeat(65_536);
    let wrong = [
        Op::DeleteRetained("".into()),
        Op::DeleteRetained(long.as_str().into()),
        Op::PutRetained(message_on("", b"x")),
        Op::PutSession(session(id, &long)),
        Op::DeleteWill {
            client_id: Arc::from(""),
        },
        Op::DeleteSubscription(id, long.as_str().into()),
    ];
    for op in wrong {
        let text = format!("{op:.40?}");
        let outcome = driver.try_commit(vec![enqueue(id, "a"), op, enqueue(id, "b")]);
        assert!(
            matches!(outcome, Err(StoreError::InvalidOp { .. })),
            "{text}"
        );
    }
    assert!(driver.read_all(id).is_empty());
    driver.store().health().unwrap();
    assert_eq!(driver.enqueue(id, "c"), 0);
}

/// Callbacks come in the order of submission.
pub fn callbacks_come_in_the_order_of_submission(place: &dyn Place) {
    struct Note(usize, std::sync::mpsc::SyncSender<usize>);
    impl Committed for Note {
        fn committed(self: Box<Self>, _: Vec<Appended>) {
            self.1.send(self.0).unwrap();
        }
        fn failed(self: Box<Self>, _: &StoreError) {
            self.1.send(self.0).unwrap();
        }
    }
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let (sender, receiver) = sync_channel(1000);
    for n in 0..1000 {
        let op = match n % 3 {
            0 => Op::DeleteRetained("".into()), // refused
            _ => enqueue(id, "x"),
        };
        let note = Note(n, sender.clone());
        driver
            .store()
            .submit(Batch::with_callback(vec![op], Box::new(note)));
    }
    for n in 0..1000 {
        assert_eq!(receiver.recv_timeout(LIMIT).unwrap(), n);
    }
}

/// An empty batch is a barrier.
pub fn an_empty_batch_is_a_barrier(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    for _ in 0..100 {
        driver.store().submit(Batch::new(vec![enqueue(id, "x")]));
    }
    assert!(driver.commit(Vec::new()).is_empty());
    assert_eq!(driver.read_all(id).len(), 100);
}

/// The durable ticket rises and pending bytes fall to zero.
pub fn the_durable_ticket_rises_and_pending_bytes_fall_to_zero(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    assert!(driver.store().durable() >= Ticket(0));
    let mut last = Ticket(0);
    for _ in 0..100 {
        let (ticket, _) = driver.submit(vec![enqueue(id, "x")]);
        assert!(ticket > last);
        last = ticket;
    }
    driver.wait(last);
    assert_eq!(driver.store().durable(), last);
    assert_eq!(driver.store().pending_bytes(), 0);
    assert_eq!(*driver.store().watch().borrow(), last.0);
}

/// Session ids differ.
pub fn session_ids_differ(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let mut ids: Vec<_> = (0..3000)
        .map(|_| driver.store().next_session_id())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 3000);
    assert!(ids.is_sorted());
}

/// The state at opening is handed out once.
pub fn the_state_at_opening_is_handed_out_once(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let recovered = driver.store().recover().unwrap();
    assert!(recovered.sessions.is_empty());
    assert!(matches!(
        driver.store().recover(),
        Err(StoreError::AlreadyRecovered)
    ));
}

/// After close every batch is answered with closed.
pub fn after_close_every_batch_is_answered_with_closed(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    driver.store().close().unwrap();
    driver.store().close().unwrap();
    let (ticket, outcome) = driver.submit(vec![enqueue(id, "x")]);
    assert!(matches!(
        outcome.recv_timeout(LIMIT).unwrap(),
        Err(StoreError::Closed)
    ));
    driver.wait(ticket);
    assert_eq!(driver.store().pending_bytes(), 0);
    assert!(matches!(driver.store().health(), Err(StoreError::Closed)));
}

/// Closing commits what was submitted.
pub fn closing_commits_what_was_submitted(place: &dyn Place) {
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let outcomes: Vec<_> = (0..500)
        .map(|_| driver.submit(vec![enqueue(id, "x")]).1)
        .collect();
    driver.store().close().unwrap();
    for outcome in outcomes {
        outcome.recv_timeout(LIMIT).unwrap().unwrap();
    }
    assert_eq!(driver.read_all(id).len(), 500);
}

/// The last handle of a store may be dropped by a callback.
pub fn the_last_handle_of_a_store_may_be_dropped_by_a_callback(place: &dyn Place) {
    struct Holder(Option<Arc<dyn Store>>, std::sync::mpsc::SyncSender<()>);
    impl Committed for Holder {
        fn committed(mut self: Box<Self>, _: Vec<Appended>) {
            drop(self.0.take());
            self.1.send(()).unwrap();
        }
        fn failed(self: Box<Self>, _: &StoreError) {}
    }
    let store = place.open();
    let (sender, receiver) = sync_channel(1);
    // Keeps the thread busy until the other handle is gone.
    let gate = Arc::new(std::sync::Barrier::new(2));
    struct Gate(Arc<std::sync::Barrier>);
    impl Committed for Gate {
        fn committed(self: Box<Self>, _: Vec<Appended>) {
            self.0.wait();
        }
        fn failed(self: Box<Self>, _: &StoreError) {}
    }
    store.submit(Batch::with_callback(
        Vec::new(),
        Box::new(Gate(Arc::clone(&gate))),
    ));
    let holder = Holder(Some(Arc::clone(&store)), sender);
    store.submit(Batch::with_callback(Vec::new(), Box::new(holder)));
    drop(store);
    gate.wait();
    receiver.recv_timeout(LIMIT).unwrap();
}

/// A panic in a callback stops the store but not reading.
pub fn a_panic_in_a_callback_stops_the_store_but_not_reading(place: &dyn Place) {
    struct Trip;
    impl Committed for Trip {
        fn committed(self: Box<Self>, _: Vec<Appended>) {
            panic!("tripped on purpose");
        }
        fn failed(self: Box<Self>, _: &StoreError) {}
    }
    let driver = Driver::new(place.open());
    let id = driver.new_session("c");
    let trip = Batch::with_callback(vec![enqueue(id, "x")], Box::new(Trip));
    let ticket = driver.store().submit(trip);
    driver.wait(ticket);
    let outcome = driver.try_commit(vec![enqueue(id, "y")]);
    assert!(
        matches!(outcome, Err(StoreError::Panicked { .. })),
        "{outcome:?}"
    );
    let health = driver.store().health().unwrap_err();
    assert!(
        health.to_string().contains("tripped on purpose"),
        "{health}"
    );
    assert_eq!(driver.texts(id), texts(&[(0, "x")]));
}

/// Many submitters keep their own order.
pub fn many_submitters_keep_their_own_order(place: &dyn Place) {
    const SUBMITTERS: usize = 16;
    const EACH: usize = 200;
    struct Count(Arc<AtomicUsize>);
    impl Committed for Count {
        fn committed(self: Box<Self>, appended: Vec<Appended>) {
            self.0.fetch_add(appended.len(), Ordering::Relaxed);
        }
        fn failed(self: Box<Self>, _: &StoreError) {}
    }
    let driver = Driver::new(place.open());
    let ids: Vec<_> = (0..SUBMITTERS)
        .map(|n| driver.new_session(&n.to_string()))
        .collect();
    let common = driver.new_session("common");
    let count = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| {
                for n in 0..EACH {
                    let text = format!("{}:{n}", id.0);
                    let ops = vec![enqueue(*id, &text), enqueue(common, &text)];
                    let done = Count(Arc::clone(&count));
                    driver
                        .store()
                        .submit(Batch::with_callback(ops, Box::new(done)));
                }
            });
        }
    });
    driver.commit(Vec::new());
    assert_eq!(count.load(Ordering::Relaxed), 2 * SUBMITTERS * EACH);
    let all = driver.texts(common);
    assert_eq!(all.len(), SUBMITTERS * EACH);
    for id in &ids {
        let prefix = format!("{}:", id.0);
        let expected: Vec<_> = (0..EACH).map(|n| format!("{prefix}{n}")).collect();
        let own: Vec<_> = driver
            .texts(*id)
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(own, expected);
        let in_common = all.iter().filter(|(_, text)| text.starts_with(&prefix));
        assert_eq!(
            in_common.map(|(_, text)| text.clone()).collect::<Vec<_>>(),
            expected
        );
    }
}
