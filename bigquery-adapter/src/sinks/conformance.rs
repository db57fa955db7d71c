//! What every [`Sink`] must do, as tests: the contract of the trait, clause by clause.
//!
//! A sink implements [`Subject`] in its tests, and calls [`conforms`].

use super::Sink;
use crate::batch::{Batch, StoredUpto};
use crate::ledger::Ledger;
use crate::row::{Delivery, Row, UserProperties, fingerprint};

/// A sink with its storage, which outlives it.
pub(crate) trait Subject {
    /// Opens the sink on the storage, as a new process would.
    fn open(&self) -> (Box<dyn Sink>, Ledger);

    /// Topics of all rows that readers see, in any order.
    fn topics(&self) -> Vec<String>;
}

/// Runs everything, each on a storage of its own.
pub(crate) fn conforms<S: Subject>(empty: impl Fn() -> S) {
    what_is_committed_survives_a_crash_once(&empty());
    the_ledger_comes_back_as_of_the_last_commit(&empty());
    what_has_no_rows_is_kept_too(&empty());
    closing_shows_everything_and_may_have_nothing_to_show(&empty());
    crashes_between_commits_neither_lose_nor_repeat(&empty());
}

fn row(number: u64, topic: &str, delivery: Delivery) -> Row<'_> {
    Row {
        received_at: 1_795_262_400_000_000 + number.cast_signed(),
        number,
        delivery,
        fingerprint: fingerprint(topic, b"body"),
        retain: false,
        topic,
        payload: b"body",
        client_id: None,
        tenant: None,
        device_id: None,
        content_type: None,
        response_topic: None,
        origin: None,
        correlation_data: None,
        user_properties: UserProperties::default(),
    }
}

/// Rows of a tap, and how far it is stored with them.
fn batch(numbers: std::ops::Range<u64>) -> Batch {
    let mut batch = Batch::default();
    for number in numbers.clone() {
        let topic = format!("t/{number}");
        batch.push_row(number, &row(number, &topic, Delivery::AtLeastOnce(1)));
    }
    let stored = StoredUpto {
        tap: "warehouse",
        partition: 3,
        position: numbers.end,
    };
    batch.push_stored(numbers.end, stored);
    batch
}

#[track_caller]
fn assert_once_each(subject: &impl Subject, numbers: std::ops::Range<u64>) {
    let mut found = subject.topics();
    found.sort_unstable();
    let mut expected: Vec<String> = numbers.map(|number| format!("t/{number}")).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

fn what_is_committed_survives_a_crash_once(subject: &impl Subject) {
    let (mut sink, _) = subject.open();
    sink.commit(&batch(1..4)).unwrap();
    // The process dies: nobody closes it.
    drop(sink);
    let (mut sink, ledger) = subject.open();
    assert_eq!(ledger.stored("warehouse", 3), Some(4));
    sink.commit(&batch(4..9)).unwrap();
    sink.close().unwrap();
    assert_once_each(subject, 1..9);
}

fn the_ledger_comes_back_as_of_the_last_commit(subject: &impl Subject) {
    let (mut sink, _) = subject.open();
    let mut first = Batch::default();
    first.push_subscribed(0, ["a/#", "b"].into_iter());
    first.push_row(1, &row(1, "t/1", Delivery::ExactlyOnce(7)));
    first.push_row(2, &row(2, "t/2", Delivery::ExactlyOnce(8)));
    sink.commit(&first).unwrap();
    let mut second = Batch::default();
    second.push_released(3, 7);
    second.push_row(3, &row(3, "t/3", Delivery::AtLeastOnce(9)));
    sink.commit(&second).unwrap();
    drop(sink);
    let (sink, ledger) = subject.open();
    assert_eq!(ledger.filters(), ["a/#", "b"]);
    assert_eq!(ledger.taken().keys().copied().collect::<Vec<_>>(), [8]);
    assert!(
        ledger
            .recent()
            .any(|(id, known)| (id, known.number) == (9, 3))
    );
    assert_eq!(ledger.next_number(), 4);
    sink.close().unwrap();
    assert_once_each(subject, 1..4);
}

fn what_has_no_rows_is_kept_too(subject: &impl Subject) {
    let (mut sink, _) = subject.open();
    sink.commit(&batch(5..5)).unwrap();
    drop(sink);
    let (sink, ledger) = subject.open();
    assert_eq!(ledger.stored("warehouse", 3), Some(5));
    sink.close().unwrap();
    let (_, ledger) = subject.open();
    assert_eq!(ledger.stored("warehouse", 3), Some(5), "after closing, too");
    assert_once_each(subject, 5..5);
}

fn closing_shows_everything_and_may_have_nothing_to_show(subject: &impl Subject) {
    let (mut sink, _) = subject.open();
    sink.tick().unwrap();
    sink.close().unwrap();
    assert_once_each(subject, 1..1);
    let (mut sink, _) = subject.open();
    sink.commit(&batch(1..3)).unwrap();
    sink.tick().unwrap();
    sink.close().unwrap();
    assert_once_each(subject, 1..3);
}

fn crashes_between_commits_neither_lose_nor_repeat(subject: &impl Subject) {
    let (mut state, mut next) = (1_u64, 1);
    let mut roll = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..30 {
        let (mut sink, ledger) = subject.open();
        assert_eq!(ledger.stored("warehouse", 3).unwrap_or(1), next);
        for _ in 0..roll(4) {
            let end = next + roll(50);
            sink.commit(&batch(next..end)).unwrap();
            next = end;
            if roll(3) == 0 {
                sink.tick().unwrap();
            }
        }
        if roll(4) == 0 {
            sink.close().unwrap();
        }
    }
    let (sink, _) = subject.open();
    sink.close().unwrap();
    assert_once_each(subject, 1..next);
}
