//! Records on disk: a table of their own, keyed by the number of their table and their key.
//!
//! The table came later than the others: it is made when a store without it is opened. From the first record on a mark in `state`
//! says that it must be there.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{PersistMode, Readable};

use super::keys;
use super::tables::{Tables, read_error};
use super::writer::Writer;
use crate::codec::{CodecError, Reader, opt_u64, put_opt_u64, put_u64};
use crate::pipeline::{Next, Submitter};
use crate::records::judge::{Judged, judge, lives, now_ms};
use crate::records::memory::next_sweep;
use crate::records::{
    Cursor, Got, Listeners, Put, PutOutcome, RECORDS_AT_ONCE, Record, RecordBatch, RecordChange,
    RecordChanges, RecordKey, RecordListener, RecordPut, Records, ScanPage, Table, check_keys, put,
};
use crate::{BoxFuture, StoreError};

/// Version of the values.
const VERSION: u8 = 1;
/// Revisions are reserved in blocks of this size.
const REVISION_BLOCK: u64 = 1024;
/// Records cleared away in one go.
const SWEEP_MAX: usize = 512;

/// What the writer knows of records.
#[derive(Debug, Default)]
pub(crate) struct RecordState {
    /// The last one that was given.
    pub(crate) revision: u64,
    /// Those above were never given, and the disk knows it.
    pub(crate) limit: u64,
    pub(crate) expiring: BTreeSet<(u64, RecordKey)>,
    /// What the batch that gathers will have changed.
    staged: HashMap<RecordKey, Option<Record>, foldhash::fast::RandomState>,
    /// Not told yet.
    changes: Vec<RecordChange>,
}

fn key_of(key: &RecordKey) -> Vec<u8> {
    [&[key.table.code()], key.key.as_bytes()].concat()
}

/// `None`: of a table that this version does not know.
fn parse_key(key: &[u8]) -> Option<RecordKey> {
    let (code, text) = key.split_first()?;
    let text = std::str::from_utf8(text).ok()?;
    Some(RecordKey::new(Table::of_code(*code)?, text))
}

fn encode(record: &Record, out: &mut Vec<u8>) {
    out.clear();
    out.push(VERSION);
    put_u64(out, record.revision);
    put_opt_u64(out, record.expires_at_ms);
    out.extend_from_slice(&record.value);
}

fn decode(bytes: &[u8]) -> Result<Record, CodecError> {
    let mut reader = Reader::new(bytes);
    match reader.u8("record version")? {
        VERSION => {}
        found => {
            return Err(CodecError::Unknown {
                field: "record version",
                found: u64::from(found),
            });
        }
    }
    Ok(Record {
        revision: reader.u64("revision")?,
        expires_at_ms: opt_u64(&mut reader, "end")?,
        value: Bytes::copy_from_slice(reader.rest()),
    })
}

fn read(tables: &Tables, key: &RecordKey) -> Result<Option<Record>, StoreError> {
    let found = tables.records.get(key_of(key));
    let found = found.map_err(|error| read_error("records", &error))?;
    let decoded = found.map(|bytes| decode(&bytes)).transpose();
    decoded.map_err(|error| damaged(key, &error))
}

fn damaged(key: &RecordKey, error: &dyn std::fmt::Display) -> StoreError {
    let place = format!("table records, key {} of {}", key.key, key.table.name());
    StoreError::damaged(place, error)
}

/// Reads all records once: what is damaged is to be found at opening, and what ends is to be known.
pub(super) fn recover(
    snapshot: &fjall::Snapshot,
    tables: &Tables,
    limit: u64,
) -> Result<RecordState, StoreError> {
    let mut state = RecordState {
        revision: limit,
        limit,
        ..RecordState::default()
    };
    for guard in snapshot.iter(&tables.records) {
        let pair = guard.into_inner();
        let (key, value) = pair.map_err(|error| read_error("records", &error))?;
        let Some(key) = parse_key(&key) else {
            continue;
        };
        let record = decode(&value).map_err(|error| damaged(&key, &error))?;
        if record.revision > limit {
            let why = format!("its revision {} is above {limit}", record.revision);
            return Err(damaged(&key, &why));
        }
        if let Some(end) = record.expires_at_ms {
            state.expiring.insert((end, key));
        }
    }
    Ok(state)
}

impl Writer {
    pub(super) fn put_records(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        let now = now_ms();
        for (at, put) in batch.puts().iter().enumerate() {
            let outcome = self.put_record(put, now)?;
            batch.set(at, outcome);
        }
        Ok(())
    }

    fn put_record(&mut self, put: &RecordPut, now_ms: u64) -> Result<PutOutcome, StoreError> {
        let key = &put.key;
        let found = match self.state.records.staged.get(key) {
            Some(staged) => staged.clone(),
            None => read(&self.tables, key)?,
        };
        let before = found.as_ref().and_then(|record| record.expires_at_ms);
        let revision = self.state.records.revision + 1;
        let after = match judge(put, found, revision, now_ms) {
            Judged::Answer(outcome) => return Ok(outcome),
            Judged::Set(record) => Some(record),
            Judged::Remove => None,
        };
        if let Some(end) = before {
            self.state.records.expiring.remove(&(end, key.clone()));
        }
        if let Some(end) = after.as_ref().and_then(|record| record.expires_at_ms) {
            self.state.records.expiring.insert((end, key.clone()));
        }
        self.write_record(key, after, put.hint);
        Ok(PutOutcome::Done { revision })
    }

    fn write_record(&mut self, key: &RecordKey, record: Option<Record>, hint: u8) {
        match &record {
            Some(record) => {
                encode(record, &mut self.scratch);
                self.batch
                    .insert(&self.tables.records, key_of(key), &*self.scratch);
            }
            None => self.batch.remove(&self.tables.records, key_of(key)),
        }
        let state = &mut self.state.records;
        state.revision += 1;
        if state.revision > state.limit {
            state.limit = state.revision + REVISION_BLOCK;
            let limit = state.limit.to_be_bytes();
            self.batch
                .insert(&self.tables.state, keys::REVISION_LIMIT, limit);
        }
        state.staged.insert(key.clone(), record);
        state.changes.push(RecordChange::Changed {
            key: key.clone(),
            revision: state.revision,
            hint,
        });
    }

    /// The batch is committed.
    pub(super) fn tell_records(&mut self) {
        let state = &mut self.state.records;
        state.staged.clear();
        for change in std::mem::take(&mut state.changes) {
            self.listeners.tell(change);
        }
    }

    /// Clears away what is over; when to come again.
    pub(super) fn sweep_records(&mut self) -> Result<Next, StoreError> {
        let now = now_ms();
        for _ in 0..SWEEP_MAX {
            let Some((end, key)) = self.state.records.expiring.first().cloned() else {
                break;
            };
            if end > now {
                break;
            }
            self.state.records.expiring.pop_first();
            self.write_record(&key, None, 0);
        }
        self.commit_batch(PersistMode::Buffer)?;
        self.tell_records();
        let next = self.state.records.expiring.first().map(|(end, _)| *end);
        Ok(next_sweep(next, now))
    }
}

/// The handle of [`crate::EmbeddedStore`].
pub(super) struct Handle {
    pub(super) submitter: Submitter,
    pub(super) tables: Tables,
    pub(super) listeners: Arc<Listeners>,
}

impl Handle {
    fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tables) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<Result<T, StoreError>> {
        let tables = self.tables.clone();
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || read(&tables));
            reading.await.unwrap_or_else(|error| {
                Err(StoreError::ReadFailed {
                    reason: error.to_string(),
                })
            })
        })
    }
}

impl Records for Handle {
    fn get(&self, keys: Vec<RecordKey>) -> Got {
        self.reading(move |tables| {
            check_keys(&keys)?;
            let now = now_ms();
            let each = keys.iter().map(|key| {
                Ok(read(tables, key)?.filter(|record| lives(record.expires_at_ms, now)))
            });
            each.collect()
        })
    }

    fn put(&self, puts: Vec<RecordPut>) -> Put {
        put(|batch| self.submitter.submit(batch), puts, false)
    }

    fn put_everywhere(&self, puts: Vec<RecordPut>) -> Put {
        put(|batch| self.submitter.submit(batch), puts, true)
    }

    fn scan(
        &self,
        table: Table,
        from: Option<Cursor>,
        limit: usize,
    ) -> BoxFuture<Result<ScanPage, StoreError>> {
        let limit = limit.clamp(1, RECORDS_AT_ONCE);
        self.reading(move |tables| scan(tables, table, from, limit))
    }

    fn listen(&self, listener: &Arc<dyn RecordListener>) {
        self.listeners.add(listener);
    }

    fn subscribe(&self) -> RecordChanges {
        self.listeners.subscribe()
    }
}

fn scan(
    tables: &Tables,
    table: Table,
    from: Option<Cursor>,
    limit: usize,
) -> Result<ScanPage, StoreError> {
    let now = now_ms();
    let from = match from.and_then(|cursor| cursor.after) {
        Some(after) => Bound::Excluded(key_of(&RecordKey::new(table, after))),
        None => Bound::Included(vec![table.code()]),
    };
    let end = Bound::Excluded(vec![table.code() + 1]);
    let snapshot = tables.db.snapshot();
    let mut page = ScanPage::default();
    for (count, guard) in snapshot.range(&tables.records, (from, end)).enumerate() {
        if count == limit {
            return Ok(page);
        }
        let pair = guard.into_inner();
        let (key, value) = pair.map_err(|error| read_error("records", &error))?;
        let Some(key) = parse_key(&key) else {
            continue;
        };
        let record = decode(&value).map_err(|error| damaged(&key, &error))?;
        page.next = Some(Cursor {
            bucket: 0,
            after: Some(Arc::clone(&key.key)),
        });
        if lives(record.expires_at_ms, now) {
            page.records.push((key.key, record));
        }
    }
    page.next = None;
    Ok(page)
}
