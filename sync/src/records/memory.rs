//! Records in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::judge::{Judged, judge, lives, now_ms};
use super::{
    Cursor, Got, Listeners, Put, PutOutcome, RECORDS_AT_ONCE, Record, RecordBatch, RecordChange,
    RecordChanges, RecordKey, RecordListener, RecordPut, Records, ScanPage, Table, check_keys, put,
};
use crate::pipeline::{Next, Submitter};
use crate::{BoxFuture, StoreError};

/// Records cleared away in one go.
const SWEEP_MAX: usize = 1024;

/// What is there, and who is told of changes.
#[derive(Default)]
pub(crate) struct MemoryRecords {
    state: RwLock<State>,
    pub(crate) listeners: Listeners,
}

#[derive(Default)]
struct State {
    records: BTreeMap<RecordKey, Record>,
    expiring: BTreeSet<(u64, RecordKey)>,
    revision: u64,
    /// Not told yet.
    changes: Vec<RecordChange>,
}

impl State {
    fn put(&mut self, put: &RecordPut, now_ms: u64) -> PutOutcome {
        let revision = self.revision + 1;
        match judge(put, self.records.get(&put.key).cloned(), revision, now_ms) {
            Judged::Answer(outcome) => return outcome,
            Judged::Set(record) => {
                self.remove(&put.key);
                if let Some(end) = record.expires_at_ms {
                    self.expiring.insert((end, put.key.clone()));
                }
                self.records.insert(put.key.clone(), record);
            }
            Judged::Remove => self.remove(&put.key),
        }
        self.changed(&put.key, put.hint);
        PutOutcome::Done { revision }
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(old) = self.records.remove(key)
            && let Some(end) = old.expires_at_ms
        {
            self.expiring.remove(&(end, key.clone()));
        }
    }

    fn changed(&mut self, key: &RecordKey, hint: u8) {
        self.revision += 1;
        self.changes.push(RecordChange::Changed {
            key: key.clone(),
            revision: self.revision,
            hint,
        });
    }
}

impl MemoryRecords {
    /// On the writer thread.
    pub(crate) fn apply(&self, batch: &RecordBatch) {
        let now = now_ms();
        let mut state = self.state.write();
        for (at, put) in batch.puts().iter().enumerate() {
            batch.set(at, state.put(put, now));
        }
    }

    /// What has been applied counts: everybody is told.
    pub(crate) fn tell(&self) {
        let changes = std::mem::take(&mut self.state.write().changes);
        for change in changes {
            self.listeners.tell(change);
        }
    }

    /// Clears away what is over; when to come again.
    pub(crate) fn sweep(&self) -> Next {
        let now = now_ms();
        let mut state = self.state.write();
        for _ in 0..SWEEP_MAX {
            match state.expiring.first() {
                Some((end, key)) if *end <= now => {
                    let key = key.clone();
                    state.remove(&key);
                    state.changed(&key, 0);
                }
                _ => break,
            }
        }
        let next = state.expiring.first().map(|(end, _)| *end);
        drop(state);
        self.tell();
        next_sweep(next, now)
    }
}

/// When the record that ends first is to be cleared away.
pub(crate) fn next_sweep(end: Option<u64>, now_ms: u64) -> Next {
    /// The clock may be set: it is looked at again.
    const LOOK_AGAIN: Duration = Duration::from_secs(60);
    match end {
        None => Next::AfterCommit,
        Some(end) if end <= now_ms => Next::Now,
        Some(end) => Next::After(Duration::from_millis(end - now_ms).min(LOOK_AGAIN)),
    }
}

/// The handle of [`crate::MemoryStore`].
pub(crate) struct Handle {
    pub(crate) submitter: Submitter,
    pub(crate) records: Arc<MemoryRecords>,
}

impl Records for Handle {
    fn get(&self, keys: Vec<RecordKey>) -> Got {
        let now = now_ms();
        let state = self.records.state.read();
        let got = check_keys(&keys).map(|()| {
            keys.iter()
                .map(|key| {
                    let found = state.records.get(key).cloned();
                    found.filter(|record| lives(record.expires_at_ms, now))
                })
                .collect()
        });
        Box::pin(std::future::ready(got))
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
        let now = now_ms();
        let state = self.records.state.read();
        let from = match from.and_then(|cursor| cursor.after) {
            Some(after) => Bound::Excluded(RecordKey::new(table, after)),
            None => Bound::Included(RecordKey::new(table, "")),
        };
        let mut found = state
            .records
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.table == table);
        let mut page = ScanPage::default();
        for (key, record) in found.by_ref().take(limit) {
            page.next = Some(Cursor {
                bucket: 0,
                after: Some(Arc::clone(&key.key)),
            });
            if lives(record.expires_at_ms, now) {
                page.records.push((Arc::clone(&key.key), record.clone()));
            }
        }
        if found.next().is_none() {
            page.next = None;
        }
        Box::pin(std::future::ready(Ok(page)))
    }

    fn listen(&self, listener: &Arc<dyn RecordListener>) {
        self.records.listeners.add(listener);
    }

    fn subscribe(&self) -> RecordChanges {
        self.records.listeners.subscribe()
    }
}
