//! Records.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bucket::BucketState;
use super::state::Announcement;
use crate::cluster::{Head, Reply, Request};
use crate::records::judge::{Judged, judge, lives};
use crate::records::{PutOutcome, Record, RecordKey, RecordPut};

/// For how long the answer to a put is kept for its repetitions.
const ANSWER_MS: u64 = 60_000;

/// The records of a bucket.
#[derive(Clone, Default)]
pub(super) struct RecordTables {
    pub(super) records: BTreeMap<RecordKey, Record>,
    /// By name: until when, the version, and of each change whether it was made, if that was possible.
    answers: BTreeMap<u64, (u64, u64, Vec<Option<bool>>)>,
}

impl BucketState {
    pub(super) fn apply_records(
        &mut self,
        now: u64,
        request: &Request,
        out: &mut Vec<Announcement>,
    ) -> Reply {
        match request {
            Request::PutRecords {
                puts, name, head, ..
            } => self.put_records(now, puts, *name, head, out),
            Request::GetRecords { keys, .. } => {
                Reply::Records(keys.iter().map(|key| self.live(key, now)).collect())
            }
            Request::RecordKeys { table, .. } => {
                let keys = self.book.records.keys();
                let keys = keys.filter(|key| key.table == *table);
                Reply::RecordKeys(keys.map(|key| Arc::clone(&key.key)).collect())
            }
            Request::ExpireRecord { key, head } => {
                let found = self.book.records.get(key);
                if found.is_none_or(|record| lives(record.expires_at_ms, now)) {
                    return Reply::Flag(false);
                }
                self.book.records.remove(key);
                let revision = self.version + 1;
                self.announce_records(head, &[(key, 0, revision)], out);
                Reply::Flag(true)
            }
            _ => Reply::Done,
        }
    }

    fn live(&self, key: &RecordKey, now: u64) -> Option<Record> {
        let found = self.book.records.get(key).cloned();
        found.filter(|record| lives(record.expires_at_ms, now))
    }

    fn put_records(
        &mut self,
        now: u64,
        puts: &[RecordPut],
        name: u64,
        head: &Head,
        out: &mut Vec<Announcement>,
    ) -> Reply {
        self.book.answers.retain(|_, (until, ..)| *until > now);
        if let Some((_, version, made)) = self.book.answers.get(&name) {
            let outcomes = puts.iter().zip(made).map(|(put, made)| match made {
                Some(true) => PutOutcome::Done { revision: *version },
                Some(false) => PutOutcome::Done { revision: 0 },
                None => PutOutcome::Conflict {
                    found: self.live(&put.key, now),
                },
            });
            return Reply::RecordsPut {
                version: *version,
                outcomes: outcomes.collect(),
            };
        }
        let revision = self.version + 1;
        let mut outcomes = Vec::new();
        let mut changes = Vec::new();
        for put in puts {
            let found = self.book.records.get(&put.key).cloned();
            match judge(put, found, revision, now) {
                Judged::Answer(outcome) => {
                    outcomes.push(outcome);
                    continue;
                }
                Judged::Set(record) => {
                    self.book.records.insert(put.key.clone(), record);
                }
                Judged::Remove => {
                    self.book.records.remove(&put.key);
                }
            }
            self.note_written(&replayed_as(&put.key));
            outcomes.push(PutOutcome::Done { revision });
            changes.push((&put.key, put.hint, revision));
        }
        if changes.is_empty() {
            let version = 0;
            return Reply::RecordsPut { version, outcomes };
        }
        self.announce_records(head, &changes, out);
        let made = outcomes.iter().map(|outcome| match outcome {
            PutOutcome::Done { revision } => Some(*revision > 0),
            PutOutcome::Conflict { .. } => None,
        });
        let answer = (now + ANSWER_MS, revision, made.collect());
        self.book.answers.insert(name, answer);
        Reply::RecordsPut {
            version: revision,
            outcomes,
        }
    }

    fn announce_records(
        &mut self,
        head: &Head,
        changes: &[(&RecordKey, u8, u64)],
        out: &mut Vec<Announcement>,
    ) {
        let mut change = vec![6];
        for (key, hint, revision) in changes {
            change.extend_from_slice(&[key.table.code(), *hint]);
            change.extend_from_slice(&revision.to_le_bytes());
            change.extend_from_slice(&(key.key.len() as u16).to_le_bytes());
            change.extend_from_slice(key.key.as_bytes());
        }
        self.announce(head, &change, out);
    }

    /// What was answered before a failover: restored as far as it was lost.
    pub(super) fn put_records_again(
        &mut self,
        puts: &[RecordPut],
        head: &Head,
        (version, outcomes): (u64, &[PutOutcome]),
        out: &mut Vec<Announcement>,
    ) {
        if version <= self.base {
            return;
        }
        let mut changes = Vec::new();
        for (put, outcome) in puts.iter().zip(outcomes) {
            let made = outcome.revision().is_some_and(|revision| revision > 0);
            if !made || !self.replays_topic(&replayed_as(&put.key), version) {
                continue;
            }
            match &put.value {
                Some(value) => {
                    let record = Record {
                        revision: version,
                        value: value.clone(),
                        expires_at_ms: put.expires_at_ms.map(|end| end.max(1)),
                    };
                    self.book.records.insert(put.key.clone(), record);
                }
                None => {
                    self.book.records.remove(&put.key);
                }
            }
            changes.push((&put.key, put.hint, version));
        }
        if !changes.is_empty() {
            self.announce_records(head, &changes, out);
        }
    }
}

/// No topic begins with this byte.
fn replayed_as(key: &RecordKey) -> Arc<str> {
    format!("\u{1}{}:{}", key.table.code(), key.key).into()
}
