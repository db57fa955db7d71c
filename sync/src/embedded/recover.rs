//! Reads everything at opening: what the broker needs, what the writer needs, what is left over.
//!
//! Every block of every table is read and so has its checksum verified. The queue is walked for its
//! lengths and for the bodies it refers to; the messages in it are not kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use fjall::{Guard, Keyspace, Readable, Snapshot};

use super::keys;
use super::records::{self, RecordState};
use super::tables::{Tables, read_error};
use super::values::{self, StoredEntry};
use crate::{Message, Recovered, RecoveredSession, SessionId, StoreError};

/// A map by numbers that we have assigned ourselves.
pub(crate) type NumberMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What the writer keeps of a session.
#[derive(Debug, Default)]
pub(crate) struct LiveSession {
    /// Next sequence number.
    pub(crate) tail: u64,
    /// Sequence numbers from this one on have never been assigned, and the disk knows it.
    pub(crate) tail_limit: u64,
    /// Entries whose message is in `bodies`: sequence number to body.
    pub(crate) shared: NumberMap<u64, u64>,
}

/// What the writer needs to go on.
#[derive(Debug, Default)]
pub(crate) struct WriterState {
    pub(crate) commit: u64,
    pub(crate) session_limit: u64,
    pub(crate) sessions: NumberMap<SessionId, LiveSession>,
    /// How many entries refer to a body.
    pub(crate) bodies: NumberMap<u64, u32>,
    pub(crate) next_body: u64,
    /// Bodies that nothing refers to.
    pub(crate) orphan_bodies: Vec<u64>,
    /// Sessions that were deleted and have left something.
    pub(crate) orphan_sessions: BTreeSet<SessionId>,
    pub(crate) records: RecordState,
}

/// Number of the last commit in the tables.
pub(crate) fn last_commit(tables: &Tables) -> Result<u64, StoreError> {
    number(tables, keys::COMMIT)
}

/// Whether the table of records was made under another number than it has in every other store, and nothing is in it: the engine passes over
/// the number that it had begun to use when it was killed.
pub(crate) fn is_half_upgraded(tables: &Tables) -> Result<bool, StoreError> {
    let never_used = number(tables, keys::REVISION_LIMIT)? == 0;
    Ok(never_used && tables.records.id() != keys::TABLES.len() as u64)
}

/// Refuses a store that has lost a table, which is made anew when a store of an earlier version is opened.
pub(crate) fn check_upgrade(tables: &Tables, present: usize) -> Result<(), StoreError> {
    let records = keys::TABLES.len();
    if present < records && number(tables, keys::REVISION_LIMIT)? > 0 {
        return Err(StoreError::damaged(
            "table records",
            "its files are missing",
        ));
    }
    if tables.records.id() != records as u64 {
        let why = format!("it has number {}, not {records}", tables.records.id());
        return Err(StoreError::damaged("table records", why));
    }
    Ok(())
}

fn number(tables: &Tables, key: &[u8]) -> Result<u64, StoreError> {
    let value = tables
        .state
        .get(key)
        .map_err(|error| read_error("state", &error))?;
    match value {
        None => Ok(0),
        Some(value) => keys::number(&value).ok_or_else(|| {
            StoreError::damaged(
                "table state",
                format!("a counter has {} bytes", value.len()),
            )
        }),
    }
}

/// Reads all tables.
pub(crate) fn read_all(tables: &Tables) -> Result<(Recovered, WriterState), StoreError> {
    let mut scan = Scan {
        snapshot: tables.db.snapshot(),
        tables,
        sessions: BTreeMap::new(),
        writer: WriterState {
            commit: last_commit(tables)?,
            session_limit: number(tables, keys::SESSION_LIMIT)?.max(1),
            ..WriterState::default()
        },
    };
    scan.sessions()?;
    scan.tails()?;
    scan.subscriptions(keys::FILTER)?;
    scan.subscriptions(keys::LONG_FILTER)?;
    scan.inbound()?;
    scan.queue()?;
    scan.bodies()?;
    let retained = scan.messages("retained", &tables.retained)?;
    let wills = scan.wills()?;
    let limit = number(tables, keys::REVISION_LIMIT)?;
    scan.writer.records = records::recover(&scan.snapshot, tables, limit)?;
    let recovered = Recovered {
        sessions: scan.sessions.into_values().collect(),
        retained,
        wills,
    };
    Ok((recovered, scan.writer))
}

struct Scan<'a> {
    snapshot: Snapshot,
    tables: &'a Tables,
    sessions: BTreeMap<SessionId, RecoveredSession>,
    writer: WriterState,
}

impl Scan<'_> {
    fn state(
        &self,
        kind: u8,
        mut each: impl FnMut(SessionId, &[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for guard in self.snapshot.prefix(&self.tables.state, [kind]) {
            let (key, value) = pair("state", guard)?;
            let (session, rest) =
                keys::parse_of_session(&key).ok_or_else(|| bad_key("state", &key))?;
            each(session, rest, &value)?;
        }
        Ok(())
    }

    fn sessions(&mut self) -> Result<(), StoreError> {
        let mut sessions = BTreeMap::new();
        self.state(keys::SESSION, |id, _, value| {
            let record = values::session(id, value).map_err(|error| damaged_session(id, &error))?;
            let found = RecoveredSession {
                record,
                subscriptions: Vec::new(),
                inbound_qos2: Vec::new(),
                queue_head: 0,
                queue_tail: 0,
                queue_len: 0,
                queue_bytes: 0,
            };
            sessions.insert(id, found);
            Ok(())
        })?;
        self.writer.sessions = sessions
            .keys()
            .map(|id| (*id, LiveSession::default()))
            .collect();
        self.sessions = sessions;
        Ok(())
    }

    fn tails(&mut self) -> Result<(), StoreError> {
        let mut limits = Vec::new();
        self.state(keys::TAIL, |id, _, value| {
            let limit = keys::number(value)
                .ok_or_else(|| damaged_session(id, &"its queue position is not a number"))?;
            limits.push((id, limit));
            Ok(())
        })?;
        for (id, limit) in limits {
            let (Some(live), Some(found)) = (
                self.writer.sessions.get_mut(&id),
                self.sessions.get_mut(&id),
            ) else {
                self.writer.orphan_sessions.insert(id);
                continue;
            };
            // Which of the reserved numbers were used is not known after a crash: skip them all.
            live.tail = limit;
            live.tail_limit = limit;
            found.queue_head = limit;
            found.queue_tail = limit;
        }
        Ok(())
    }

    fn subscriptions(&mut self, kind: u8) -> Result<(), StoreError> {
        let mut found = Vec::new();
        self.state(kind, |id, _, value| {
            let record =
                values::subscription(value).map_err(|error| damaged_session(id, &error))?;
            found.push((id, record));
            Ok(())
        })?;
        for (id, record) in found {
            match self.sessions.get_mut(&id) {
                Some(session) => session.subscriptions.push(record),
                None => {
                    self.writer.orphan_sessions.insert(id);
                }
            }
        }
        Ok(())
    }

    fn inbound(&mut self) -> Result<(), StoreError> {
        let mut found = Vec::new();
        self.state(keys::INBOUND, |id, rest, _| {
            let packet_id = rest
                .try_into()
                .map(u16::from_be_bytes)
                .map_err(|_| damaged_session(id, &"a packet id has not 2 bytes"))?;
            found.push((id, packet_id));
            Ok(())
        })?;
        for (id, packet_id) in found {
            match self.sessions.get_mut(&id) {
                Some(session) => session.inbound_qos2.push(packet_id),
                None => {
                    self.writer.orphan_sessions.insert(id);
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self) -> Result<(), StoreError> {
        for guard in self.snapshot.iter(&self.tables.queue) {
            let (key, value) = pair("queue", guard)?;
            let (id, seq) = keys::parse_entry(&key).ok_or_else(|| bad_key("queue", &key))?;
            let entry = values::entry(&value).map_err(|error| damaged_entry(id, seq, &error))?;
            self.count_entry(id, seq, &entry);
        }
        Ok(())
    }

    fn count_entry(&mut self, id: SessionId, seq: u64, entry: &StoredEntry<'_>) {
        let (Some(live), Some(found)) = (
            self.writer.sessions.get_mut(&id),
            self.sessions.get_mut(&id),
        ) else {
            self.writer.orphan_sessions.insert(id);
            return;
        };
        if found.queue_len == 0 {
            found.queue_head = seq;
        }
        found.queue_len += 1;
        found.queue_bytes += u64::from(entry.weight());
        live.tail = live.tail.max(seq + 1);
        found.queue_tail = live.tail;
        if let StoredEntry::Shared { body, .. } = entry {
            live.shared.insert(seq, *body);
            *self.writer.bodies.entry(*body).or_default() += 1;
        }
    }

    fn bodies(&mut self) -> Result<(), StoreError> {
        let mut present = 0;
        for guard in self.snapshot.iter(&self.tables.bodies) {
            let key = guard.key().map_err(|error| read_error("bodies", &error))?;
            let body = keys::number(&key).ok_or_else(|| bad_key("bodies", &key))?;
            self.writer.next_body = body + 1;
            if self.writer.bodies.contains_key(&body) {
                present += 1;
            } else {
                self.writer.orphan_bodies.push(body);
            }
        }
        let referred = self.writer.bodies.len();
        if present == referred {
            return Ok(());
        }
        Err(StoreError::damaged(
            "table bodies",
            format!(
                "{} of {referred} messages that queues refer to are missing",
                referred - present
            ),
        ))
    }

    fn messages(&self, name: &str, table: &Keyspace) -> Result<Vec<Arc<Message>>, StoreError> {
        self.snapshot
            .iter(table)
            .map(|guard| {
                let (key, value) = pair(name, guard)?;
                Message::decode(&value)
                    .map(Arc::new)
                    .map_err(|error| StoreError::damaged(place(name, &key), error))
            })
            .collect()
    }

    fn wills(&self) -> Result<Vec<crate::WillRecord>, StoreError> {
        self.snapshot
            .iter(&self.tables.wills)
            .map(|guard| {
                let (key, value) = pair("wills", guard)?;
                values::will(&value)
                    .map_err(|error| StoreError::damaged(place("wills", &key), error))
            })
            .collect()
    }
}

fn pair(table: &str, guard: Guard) -> Result<fjall::KvPair, StoreError> {
    guard
        .into_inner()
        .map_err(|error| read_error(table, &error))
}

fn place(table: &str, key: &[u8]) -> String {
    format!("table {table}, key {}", key.escape_ascii())
}

fn bad_key(table: &str, key: &[u8]) -> StoreError {
    StoreError::damaged(place(table, key), "the key has an unknown form")
}

fn damaged_session(id: SessionId, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::damaged(format!("table state, session {}", id.0), reason)
}

pub(crate) fn damaged_entry(id: SessionId, seq: u64, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::damaged(
        format!("table queue, session {}, entry {seq}", id.0),
        reason,
    )
}

/// Reads the tables with the engine's panics on damaged data turned into errors.
pub(crate) fn read_all_guarded(
    tables: &Tables,
    path: &Path,
) -> Result<(Recovered, WriterState), StoreError> {
    crate::pipeline::guarded(|| read_all(tables)).map_err(|error| match error {
        StoreError::Panicked { reason } => StoreError::damaged(path.display().to_string(), reason),
        other => other,
    })
}
