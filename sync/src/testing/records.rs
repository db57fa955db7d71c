//! Cases about records, for every store.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Driver, LIMIT, Place};
use crate::StoreError;
use crate::records::{
    Cursor, Expect, PutOutcome, RECORD_KEY_MAX, RECORD_VALUE_MAX, RECORDS_AT_ONCE, Record,
    RecordChange, RecordKey, RecordListener, RecordPut, Records, Table,
};

/// A store's records with blocking calls.
struct Book {
    driver: Driver,
    records: Arc<dyn Records>,
}

impl Book {
    fn open(place: &dyn Place) -> Self {
        let driver = Driver::new(place.open());
        let records = driver.store().records();
        Self { driver, records }
    }

    fn put(&self, puts: Vec<RecordPut>) -> Result<Vec<PutOutcome>, StoreError> {
        self.driver.block_on(self.records.put(puts))
    }

    fn one(&self, put: RecordPut) -> PutOutcome {
        self.put(vec![put]).unwrap().remove(0)
    }

    fn done(&self, put: RecordPut) -> u64 {
        self.one(put).revision().unwrap()
    }

    fn get(&self, key: &RecordKey) -> Option<Record> {
        let got = self.driver.block_on(self.records.get(vec![key.clone()]));
        got.unwrap().remove(0)
    }

    fn text(&self, key: &RecordKey) -> Option<String> {
        let record = self.get(key)?;
        Some(String::from_utf8(record.value.to_vec()).unwrap())
    }

    fn all(&self, table: Table, limit: usize) -> Vec<(Arc<str>, Record)> {
        let mut all = Vec::new();
        let mut from: Option<Cursor> = None;
        loop {
            let page = self.driver.block_on(self.records.scan(table, from, limit));
            let page = page.unwrap();
            assert!(page.records.len() <= limit, "{}", page.records.len());
            all.extend(page.records);
            let Some(next) = page.next else {
                return all;
            };
            from = Some(Cursor::of_text(&next.to_text()).unwrap());
        }
    }
}

fn device(name: &str) -> RecordKey {
    RecordKey::new(Table::Device, name)
}

#[derive(Default)]
struct Heard(Mutex<Vec<RecordChange>>);

impl RecordListener for Heard {
    fn changed(&self, change: &RecordChange) {
        self.0.lock().push(change.clone());
    }
}

fn listening(book: &Book) -> Arc<Heard> {
    let heard = Arc::new(Heard::default());
    let listener: Arc<dyn RecordListener> = heard.clone();
    book.records.listen(&listener);
    heard
}

/// A record is what was put last.
pub fn a_record_is_what_was_put_last(place: &dyn Place) {
    let book = Book::open(place);
    assert_eq!(book.get(&device("a")), None);
    let first = book.done(RecordPut::set(device("a"), "1"));
    let second = book.done(RecordPut::set(device("a"), "2"));
    assert!(second > first && first > 0);
    let found = book.get(&device("a")).unwrap();
    assert_eq!((found.revision, &found.value[..]), (second, &b"2"[..]));
    // Another table is another record.
    assert_eq!(book.get(&RecordKey::new(Table::Ban, "a")), None);
}

/// A change is made only if what it expects is there.
pub fn a_record_changes_only_if_what_is_expected_is_there(place: &dyn Place) {
    let book = Book::open(place);
    let put = |text: &'static str, expect| RecordPut::set(device("a"), text).expecting(expect);
    let found = book.one(put("0", Expect::Revision(7)));
    assert_eq!(found, PutOutcome::Conflict { found: None });
    let first = book.done(put("1", Expect::Absent));
    let PutOutcome::Conflict { found: Some(found) } = book.one(put("2", Expect::Absent)) else {
        panic!("it is there");
    };
    assert_eq!((found.revision, &found.value[..]), (first, &b"1"[..]));
    let second = book.done(put("2", Expect::Revision(first)));
    assert!(
        book.one(put("3", Expect::Revision(first)))
            .revision()
            .is_none()
    );
    let gone = RecordPut::remove(device("a"));
    assert!(
        book.one(gone.clone().expecting(Expect::Revision(first)))
            .revision()
            .is_none()
    );
    assert_eq!(book.text(&device("a")).as_deref(), Some("2"));
    book.done(gone.clone().expecting(Expect::Revision(second)));
    assert_eq!(book.get(&device("a")), None);
    assert_eq!(book.one(gone), PutOutcome::Done { revision: 0 });
}

/// A revision is not used again, so that nobody takes a new record for an old one.
pub fn a_revision_of_a_record_is_not_used_again_after_it_was_removed(place: &dyn Place) {
    let book = Book::open(place);
    let first = book.done(RecordPut::set(device("a"), "1"));
    book.done(RecordPut::remove(device("a")));
    let second = book.done(RecordPut::set(device("a"), "1").expecting(Expect::Absent));
    assert!(second > first, "{second} after {first}");
}

/// Many changes in one call, each with an outcome of its own.
pub fn each_of_many_records_has_an_outcome_of_its_own(place: &dyn Place) {
    let book = Book::open(place);
    book.done(RecordPut::set(device("17"), "before"));
    let puts = (0..1000)
        .map(|n| RecordPut::set(device(&n.to_string()), n.to_string()).expecting(Expect::Absent));
    let outcomes = book.put(puts.collect()).unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.revision().is_none(), n == 17, "{n}");
    }
    let keys: Vec<_> = (0..1000).map(|n| device(&n.to_string())).collect();
    let got = book.driver.block_on(book.records.get(keys)).unwrap();
    for (n, record) in got.iter().enumerate() {
        let expected = if n == 17 {
            "before".to_owned()
        } else {
            n.to_string()
        };
        assert_eq!(record.as_ref().unwrap().value, expected);
    }
}

/// Changes of one record in one call are made in their order.
pub fn changes_of_one_record_in_one_call_are_made_in_order(place: &dyn Place) {
    let book = Book::open(place);
    let set = |text: &'static str| RecordPut::set(device("a"), text);
    let puts = vec![
        set("1").expecting(Expect::Absent),
        set("2").expecting(Expect::Absent),
        RecordPut::remove(device("a")),
        set("3").expecting(Expect::Absent),
        set("4"),
    ];
    let outcomes = book.put(puts).unwrap();
    let done: Vec<_> = outcomes.iter().map(|it| it.revision().is_some()).collect();
    assert_eq!(done, [true, false, true, true, true]);
    assert_eq!(book.text(&device("a")).as_deref(), Some("4"));
}

/// Two who expect the same: one of them.
pub fn of_two_who_make_the_same_record_one_succeeds(place: &dyn Place) {
    let book = Book::open(place);
    for round in 0..50 {
        let serial = RecordKey::new(Table::Serial, round.to_string());
        let put = |text: &'static str| {
            let put = RecordPut::set(serial.clone(), text).expecting(Expect::Absent);
            book.records.put(vec![put])
        };
        let (one, other) = (put("one"), put("other"));
        let outcomes = [one, other].map(|put| book.driver.block_on(put).unwrap().remove(0));
        let won = outcomes.iter().filter(|it| it.revision().is_some()).count();
        assert_eq!(won, 1, "{outcomes:?}");
    }
}

/// A scan gives each record once, whatever the length of its pages.
pub fn a_scan_gives_each_record_of_a_table_once(place: &dyn Place) {
    let book = Book::open(place);
    let puts = (0..700).map(|n| RecordPut::set(device(&format!("d{n}")), n.to_string()));
    book.put(puts.collect()).unwrap();
    book.done(RecordPut::set(RecordKey::new(Table::Credential, "d1"), "x"));
    for limit in [1, 7, 256, RECORDS_AT_ONCE] {
        let mut all: Vec<_> = book.all(Table::Device, limit);
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all.dedup_by(|one, other| one.0 == other.0);
        assert_eq!(all.len(), 700, "pages of {limit}");
        for (key, record) in all {
            assert_eq!(format!("d{}", String::from_utf8_lossy(&record.value)), *key);
        }
    }
    assert_eq!(book.all(Table::Credential, 10).len(), 1);
    assert_eq!(book.all(Table::Ban, 10).len(), 0);
}

/// A record that is over is not there, and another may take its place.
pub fn a_record_whose_time_is_over_is_not_there(place: &dyn Place) {
    let book = Book::open(place);
    let over = RecordPut::set(device("a"), "1").until(Some(place.now_ms() - 1000));
    book.done(over.clone());
    assert_eq!(book.get(&device("a")), None);
    assert_eq!(book.all(Table::Device, 10), []);
    book.done(over.expecting(Expect::Absent));
    let end = place.now_ms() + 3_600_000;
    book.done(
        RecordPut::set(device("a"), "2")
            .until(Some(end))
            .expecting(Expect::Absent),
    );
    assert_eq!(book.get(&device("a")).unwrap().expires_at_ms, Some(end));
    book.done(RecordPut::set(device("a"), "3"));
    assert_eq!(book.get(&device("a")).unwrap().expires_at_ms, None);
}

/// Values and keys of any length within the bounds come back.
pub fn the_longest_record_is_kept_and_a_longer_one_is_refused(place: &dyn Place) {
    let book = Book::open(place);
    let key = device(&"k".repeat(RECORD_KEY_MAX));
    let value: Vec<u8> = (0..RECORD_VALUE_MAX).map(|n| n as u8).collect();
    book.done(RecordPut::set(key.clone(), value.clone()));
    assert_eq!(book.get(&key).unwrap().value, value);
    book.done(RecordPut::set(device("empty"), ""));
    assert_eq!(book.text(&device("empty")).as_deref(), Some(""));
    let refused = [
        vec![RecordPut::set(device(""), "x")],
        vec![RecordPut::set(device(&"k".repeat(RECORD_KEY_MAX + 1)), "x")],
        vec![RecordPut::set(device("a"), vec![0; RECORD_VALUE_MAX + 1])],
        vec![RecordPut::set(device("a"), "x").until(Some(1 << 53))],
        vec![RecordPut::set(device("a"), "x"); RECORDS_AT_ONCE + 1],
    ];
    for puts in refused {
        let refused = book.put(puts);
        assert!(
            matches!(refused, Err(StoreError::InvalidOp { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(book.get(&device("a")), None);
}

/// Whoever listens is told before the put resolves, in order, with the hint.
pub fn listeners_are_told_of_changes_before_a_put_everywhere_resolves(place: &dyn Place) {
    let book = Book::open(place);
    let heard = listening(&book);
    let mut stream = book.records.subscribe();
    let everywhere = |put: RecordPut| {
        let put = book.records.put_everywhere(vec![put]);
        book.driver.block_on(put).unwrap().remove(0).revision()
    };
    let first = everywhere(RecordPut::set(device("a"), "1").hinting(3)).unwrap();
    let second = everywhere(RecordPut::remove(device("a"))).unwrap();
    assert_eq!(
        everywhere(RecordPut::set(device("b"), "1").expecting(Expect::Revision(1))),
        None
    );
    let changed = |revision, hint| RecordChange::Changed {
        key: device("a"),
        revision,
        hint,
    };
    let expected = [changed(first, 3), changed(second, 0)];
    let told: Vec<_> = heard.0.lock().drain(..).collect();
    assert_eq!(told, expected);
    for expected in expected {
        let next = book
            .driver
            .block_on(async { tokio::time::timeout(LIMIT, stream.next()).await.unwrap() });
        assert_eq!(next, Some(expected));
    }
}

/// A record is cleared away when its time is over, and that is told.
pub fn the_end_of_a_records_time_is_told(place: &dyn Place) {
    let book = Book::open(place);
    let heard = listening(&book);
    book.done(RecordPut::set(device("a"), "1").until(Some(place.now_ms() + 300)));
    let begin = std::time::Instant::now();
    while heard.0.lock().len() < 2 {
        assert!(begin.elapsed() < LIMIT, "{:?}", heard.0.lock());
        std::thread::yield_now();
    }
    assert_eq!(book.get(&device("a")), None);
    assert!(
        heard
            .0
            .lock()
            .iter()
            .all(|change| change.concerns(&device("a")))
    );
}

/// After a restart everything is there, and revisions go on.
pub fn records_are_found_again(place: &dyn Place) {
    let (first, second);
    let end = place.now_ms() + 3_600_000;
    {
        let book = Book::open(place);
        first = book.done(RecordPut::set(device("a"), "1"));
        second = book.done(RecordPut::set(device("b"), "2").until(Some(end)));
        book.done(RecordPut::set(device("c"), "3"));
        book.done(RecordPut::remove(device("c")));
        book.driver.store().close().unwrap();
    }
    let book = Book::open(place);
    let a = book.get(&device("a")).unwrap();
    assert_eq!(
        (a.revision, &a.value[..], a.expires_at_ms),
        (first, &b"1"[..], None)
    );
    let b = book.get(&device("b")).unwrap();
    assert_eq!(
        (b.revision, &b.value[..], b.expires_at_ms),
        (second, &b"2"[..], Some(end))
    );
    assert_eq!(book.get(&device("c")), None);
    assert_eq!(book.all(Table::Device, 10).len(), 2);
    let last = first.max(second);
    let next = book.done(RecordPut::set(device("a"), "4").expecting(Expect::Revision(first)));
    assert!(next > last, "{next} after {last}");
}
