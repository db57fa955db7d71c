//! The sink as a whole, with a crash after every step.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::reader::ColumnReader;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;

use super::day::Day;
use super::journal::{SegmentWriter, Snapshot};
use super::layout::{self, Layout};
use super::test_support::{DAY, NOON, row};
use super::warehouse::PartSizes;
use super::*;
use crate::batch::Batch;
use crate::error::{Code, SinkError, WarehouseError};
use crate::health::Health;
use crate::ops::metrics::Metrics;
use crate::row::Row;
use crate::sinks::Sink;
use crate::sinks::conformance::{Subject, conforms};

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        roll_after: Duration::from_secs(3600),
        roll_bytes: 1 << 20,
        grow_rows: 1000,
        grow_bytes: 1 << 20,
        compact: false,
        compact_rows: 100_000,
        compact_bytes: 64 << 20,
        compression: Codec::Snappy,
        window: 100,
    }
}

fn open(settings: Settings) -> Result<Box<ParquetSink>, WarehouseError> {
    ParquetSink::open(
        settings,
        Arc::new(Health::default()),
        Arc::new(Metrics::default()),
    )
    .map(Box::new)
}

fn batch<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> Batch {
    let mut batch = Batch::default();
    for row in rows {
        batch.push_row(row.number, &row);
    }
    batch
}

fn parts(root: &Path) -> Vec<PathBuf> {
    let layout = Layout::new(root);
    let days = layout.days().unwrap();
    let mut parts: Vec<PathBuf> = days
        .iter()
        .flat_map(|day| {
            layout::names(&layout.day(*day))
                .unwrap()
                .into_iter()
                .map(|name| layout.day(*day).join(name))
        })
        .collect();
    parts.sort();
    parts
}

/// Values of a text column in all parts of a day, in their order.
fn texts(path: &Path, column: usize) -> Vec<Option<String>> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let mut found = Vec::new();
    for group in 0..reader.num_row_groups() {
        let ColumnReader::ByteArrayColumnReader(mut column) = reader
            .get_row_group(group)
            .unwrap()
            .get_column_reader(column)
            .unwrap()
        else {
            panic!("column {column} is not text");
        };
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let (_, _, levels) = column
            .read_records(
                usize::MAX,
                Some(&mut defined),
                Some(&mut repeated),
                &mut values,
            )
            .unwrap();
        if defined.is_empty() {
            defined = vec![1; levels];
        }
        let mut values = values.into_iter();
        found.extend(defined.iter().map(|defined| {
            (*defined > 0)
                .then(|| String::from_utf8(values.next().unwrap().data().to_vec()).unwrap())
        }));
    }
    found
}

/// How often each message id is in the warehouse.
fn message_ids(root: &Path) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for id in parts(root).iter().flat_map(|part| texts(part, 7)) {
        *ids.entry(id.unwrap()).or_default() += 1;
    }
    ids
}

fn assert_once_each(root: &Path, rows: u64) {
    let ids = message_ids(root);
    assert_eq!(ids.len() as u64, rows, "different messages");
    assert!(
        ids.values().all(|count| *count == 1),
        "some rows are there more than once: {ids:?}"
    );
}

struct Storage(tempfile::TempDir);

impl Subject for Storage {
    fn open(&self) -> (Box<dyn Sink>, crate::ledger::Ledger) {
        let sink = open(settings(self.0.path())).unwrap();
        let ledger = sink.ledger().clone();
        (sink, ledger)
    }

    fn topics(&self) -> Vec<String> {
        let parts = parts(self.0.path()).into_iter();
        parts.flat_map(|part| texts(&part, 1)).flatten().collect()
    }
}

#[test]
fn it_does_what_every_sink_must_do() {
    conforms(|| Storage(tempfile::tempdir().unwrap()));
}

#[test]
fn rows_are_in_the_file_of_their_day_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(settings(dir.path())).unwrap();
    let tomorrow = Row {
        received_at: NOON + DAY,
        ..row(3, "t/3", b"hello")
    };
    sink.commit(&batch([
        row(1, "t/1", b"{\"a\":1}"),
        row(2, "t/2", b"\xff"),
        tomorrow,
    ]))
    .unwrap();
    sink.close().unwrap();
    let parts = parts(dir.path());
    let days: Vec<_> = parts
        .iter()
        .map(|part| part.parent().unwrap().file_name().unwrap().to_owned())
        .collect();
    assert_eq!(days, ["day=2026-11-21", "day=2026-11-22"]);
    assert_eq!(
        texts(&parts[0], 1),
        [Some("t/1".to_owned()), Some("t/2".to_owned())]
    );
    assert_eq!(texts(&parts[0], 3), [Some("{\"a\":1}".to_owned()), None]);
    assert_eq!(texts(&parts[1], 3), [None]);
    assert_once_each(dir.path(), 3);
}

#[test]
fn a_process_that_dies_after_a_commit_leaves_its_rows_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut number = 0;
    for _ in 0..5 {
        let mut sink = open(settings(dir.path())).unwrap();
        assert_eq!(sink.ledger().next_number(), number + 1);
        for _ in 0..3 {
            number += 1;
            sink.commit(&batch([row(number, "t", b"x")])).unwrap();
        }
        // The lock goes, the journal stays: as after a kill.
        drop(sink);
    }
    open(settings(dir.path())).unwrap().close().unwrap();
    assert_once_each(dir.path(), 15);
    assert_eq!(
        parts(dir.path()).len(),
        1,
        "a small part grows instead of getting company"
    );
}

#[test]
fn a_crash_between_the_rename_and_the_removal_of_the_segment_repeats_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let saved = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    for round in 1..=4 {
        let mut sink = open(settings(dir.path())).unwrap();
        // Two days in one segment: the crash may be after the first file too.
        let other_day = Row {
            received_at: NOON - DAY,
            ..row(round * 10 + 1, "t", b"x")
        };
        sink.commit(&batch([row(round * 10, "t", b"x"), other_day]))
            .unwrap();
        drop(sink);
        let segments = layout.segments().unwrap();
        for number in &segments {
            fs::copy(
                layout.segment(*number),
                saved.path().join(number.to_string()),
            )
            .unwrap();
        }
        drop(open(settings(dir.path())).unwrap());
        for number in &segments {
            fs::copy(
                saved.path().join(number.to_string()),
                layout.segment(*number),
            )
            .unwrap();
        }
    }
    open(settings(dir.path())).unwrap().close().unwrap();
    assert_once_each(dir.path(), 8);
}

#[test]
fn a_crash_while_a_part_is_written_leaves_the_old_part_and_the_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(settings(dir.path())).unwrap();
    sink.commit(&batch([row(1, "t", b"x")])).unwrap();
    drop(sink);
    fs::write(dir.path().join("tmp/part.tmp"), b"PAR1 and then nothing").unwrap();
    open(settings(dir.path())).unwrap().close().unwrap();
    assert_once_each(dir.path(), 1);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn the_ledger_survives_rolling_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(Settings {
        roll_bytes: 60,
        ..settings(dir.path())
    })
    .unwrap();
    for number in 1..=5 {
        let mut one = Batch::default();
        let row = Row {
            delivery: crate::row::Delivery::ExactlyOnce(number as u16),
            ..row(number, "t", b"x")
        };
        one.push_row(number, &row);
        loop {
            match sink.commit(&one) {
                Ok(()) => break,
                Err(SinkError::Retry { .. }) => std::thread::yield_now(),
                Err(fatal) => panic!("{fatal}"),
            }
        }
    }
    let mut release = Batch::default();
    release.push_released(6, 2);
    while sink.commit(&release).is_err() {
        std::thread::yield_now();
    }
    let before = sink.ledger().clone();
    drop(sink);
    let sink = open(settings(dir.path())).unwrap();
    assert_eq!(sink.ledger(), &before);
    assert_eq!(
        sink.ledger().taken().keys().copied().collect::<Vec<_>>(),
        [1, 3, 4, 5]
    );
    sink.close().unwrap();
    assert_once_each(dir.path(), 5);
}

#[test]
fn large_parts_stop_growing_and_past_days_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let today = Day::of_micros(NOON);
    let mut number = 0;
    for _ in 0..7 {
        let mut sink = open(Settings {
            grow_rows: 4,
            ..settings(dir.path())
        })
        .unwrap();
        let rows: Vec<_> = (0..2)
            .map(|_| {
                number += 1;
                Row {
                    received_at: NOON - DAY,
                    ..row(number, "t", b"{}")
                }
            })
            .collect();
        sink.commit(&batch(rows)).unwrap();
        sink.close().unwrap();
    }
    assert_eq!(parts(dir.path()).len(), 4, "{:?}", parts(dir.path()));
    let foreign = Layout::new(dir.path())
        .day(Day::of_micros(NOON - DAY))
        .join("notes.txt");
    fs::write(&foreign, "of somebody else").unwrap();
    let mut compacting = open(settings(dir.path())).unwrap();
    compacting.segment = SegmentWriter::create(
        &compacting.layout,
        &Snapshot {
            writer: compacting.writer,
            number: compacting.segment.number() + 1,
            ledger: &[1, 0, 0, 0],
        },
    )
    .unwrap();
    let sizes = PartSizes {
        grow_rows: 4,
        grow_bytes: 1 << 20,
        compact_rows: 8,
        compact_bytes: 1 << 20,
    };
    let mut warehouse = warehouse::Warehouse::new(
        Layout::new(dir.path()),
        Codec::Snappy,
        sizes,
        compacting.writer,
    );
    let (day, done) = warehouse.compact_one(today).unwrap().unwrap();
    assert_eq!(
        (day.to_string().as_str(), done.merged, done.into),
        ("2026-11-20", 4, 2)
    );
    assert_eq!(
        warehouse.compact_one(today).unwrap(),
        None,
        "a compacted day is left alone"
    );
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "of somebody else");
    fs::remove_file(&foreign).unwrap();
    assert_eq!(parts(dir.path()).len(), 2);
    assert_once_each(dir.path(), 14);
    assert_eq!(
        texts(&parts(dir.path())[0], 3),
        vec![Some("{}".to_owned()); 8]
    );
}

#[test]
fn a_second_adapter_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(settings(dir.path())).unwrap();
    let error = open(settings(dir.path())).unwrap_err();
    assert_eq!(error.code(), Code::WAREHOUSE_LOCKED);
    drop(first);
    open(settings(dir.path())).unwrap().close().unwrap();
}

#[test]
fn a_damaged_sealed_segment_stops_the_start_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open(settings(dir.path())).unwrap();
    sink.commit(&batch([row(1, "t", b"x")])).unwrap();
    drop(sink);
    let layout = Layout::new(dir.path());
    let path = layout.segment(layout.segments().unwrap()[0]);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = open(settings(dir.path())).unwrap_err();
    assert_eq!(error.code(), Code::JOURNAL_DAMAGED);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(parts(dir.path()).is_empty());
    // The way out that the message names.
    fs::remove_file(&path).unwrap();
    open(settings(dir.path())).unwrap().close().unwrap();
}

#[test]
fn a_part_that_somebody_has_removed_does_not_stop_anything() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=2 {
        let mut sink = open(settings(dir.path())).unwrap();
        sink.commit(&batch([row(number, "t", b"x")])).unwrap();
        sink.close().unwrap();
        if number == 1 {
            fs::remove_dir_all(Layout::new(dir.path()).day(Day::of_micros(NOON))).unwrap();
        }
    }
    assert_once_each(dir.path(), 1);
}
