//! The tables of which every replica has a full copy: retained messages and persistent sessions.
//!
//! A bucket is whole when it holds the state of Redis at its version. Announcements are applied one
//! by one in the order of versions; one that is not the next says that something was missed, and the
//! bucket is loaded anew: only what differs is told. While a bucket is loaded, announcements wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use tracing::warn;

use crate::cluster::frame::{self, Body, Change};
use crate::cluster::{BUCKETS, Bucket, ClusterEvents, OwnerEntry, ReplicaId, SessionEntry};
use crate::records::{self, Listeners, RecordChange, RecordKey};
use crate::{Message, SessionId};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Announcements of one bucket that may wait while it is loaded; beyond that it is loaded once more.
const AHEAD_MAX: usize = 4096;
/// Own retained messages that may wait for their announcement.
const OWN_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known, or something was missed.
    Stale,
    /// Asked for; `again`: what comes will be stale already.
    Loading {
        again: bool,
    },
    Whole,
}

#[derive(Debug)]
struct Table {
    state: State,
    version: u64,
    retained: Map<Arc<str>, Arc<Message>>,
    sessions: Map<SessionId, Arc<SessionEntry>>,
    /// Frames by version.
    ahead: BTreeMap<u64, Bytes>,
}

/// What an announcement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The bucket is at this version now, which is at least that of the announcement.
    Applied(u64),
    /// It waits for a load.
    Waits,
}

/// What came of a load.
pub(super) struct Loaded {
    pub(super) bucket: Bucket,
    pub(super) version: u64,
    pub(super) retained: Vec<(Arc<str>, Bytes)>,
    pub(super) sessions: Vec<(SessionId, Bytes)>,
    pub(super) owners: Vec<OwnerEntry>,
}

/// A retained message that was set here: its announcement need not be decoded.
struct Own {
    body: Bytes,
    message: Arc<Message>,
}

pub(super) struct Tables {
    tables: Vec<Table>,
    /// Changes that could not be read.
    pub(super) damaged: u64,
    /// Changes that were applied.
    pub(super) changes: u64,
    own: Map<Arc<str>, Own>,
    listeners: Arc<Listeners>,
}

impl Tables {
    pub(super) fn new(listeners: Arc<Listeners>) -> Self {
        let table = || Table {
            state: State::Stale,
            version: 0,
            retained: Map::default(),
            sessions: Map::default(),
            ahead: BTreeMap::new(),
        };
        Self {
            tables: (0..BUCKETS).map(|_| table()).collect(),
            damaged: 0,
            changes: 0,
            own: Map::default(),
            listeners,
        }
    }

    fn table(&self, bucket: Bucket) -> Option<&Table> {
        self.tables.get(usize::from(bucket.0))
    }

    fn table_mut(&mut self, bucket: Bucket) -> Option<&mut Table> {
        self.tables.get_mut(usize::from(bucket.0))
    }

    /// Version up to which a bucket is applied.
    pub(super) fn version(&self, bucket: Bucket) -> u64 {
        self.table(bucket).map_or(0, |table| table.version)
    }

    pub(super) fn versions(&self) -> Vec<u64> {
        self.tables.iter().map(|table| table.version).collect()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.tables.iter().all(|table| table.state == State::Whole)
    }

    /// Remembers a retained message that is being set from here.
    pub(super) fn own_retained(&mut self, topic: &Arc<str>, body: &Bytes, message: &Arc<Message>) {
        if self.own.len() >= OWN_MAX {
            self.own.clear();
        }
        let own = Own {
            body: body.clone(),
            message: Arc::clone(message),
        };
        self.own.insert(Arc::clone(topic), own);
    }

    /// Something was missed: a bucket is to be loaded, unless that is under way.
    pub(super) fn stale(&mut self, bucket: Bucket) {
        if let Some(table) = self.table_mut(bucket) {
            table.state = match table.state {
                State::Loading { .. } => State::Loading { again: true },
                State::Stale | State::Whole => State::Stale,
            };
        }
    }

    /// Redis has lost something: versions mean nothing any more.
    pub(super) fn forget_versions(&mut self) {
        for table in &mut self.tables {
            table.version = 0;
            table.ahead.clear();
            table.state = match table.state {
                State::Loading { .. } => State::Loading { again: true },
                State::Stale | State::Whole => State::Stale,
            };
        }
    }

    /// The next bucket that is to be loaded; it counts as being loaded from here on.
    pub(super) fn next_load(&mut self) -> Option<Bucket> {
        let at = self
            .tables
            .iter()
            .position(|table| table.state == State::Stale)?;
        if let Some(table) = self.tables.get_mut(at) {
            table.state = State::Loading { again: false };
        }
        Some(Bucket(at as u16))
    }

    /// Versions as Redis has them: what differs is stale.
    pub(super) fn compare(&mut self, versions: &[u64], asked_at: &[u64]) -> u64 {
        let mut stale = 0;
        let known = versions.iter().zip(asked_at);
        for (table, (version, before)) in self.tables.iter_mut().zip(known) {
            // What has moved since the question shows that announcements come.
            if table.state == State::Whole && table.version == *before && version != before {
                table.state = State::Stale;
                stale += 1;
            }
        }
        stale
    }

    /// An announcement; `bytes` is the whole frame.
    pub(super) fn announced(
        &mut self,
        bytes: &Bytes,
        origin: ReplicaId,
        (bucket, version): (Bucket, u64),
        change: Change<'_>,
        events: &dyn ClusterEvents,
    ) -> Heard {
        let Some(table) = self.table_mut(bucket) else {
            return Heard::Waits;
        };
        match table.state {
            State::Whole if version <= table.version => Heard::Applied(table.version),
            State::Whole if version == table.version + 1 => {
                table.version = version;
                self.apply(bucket, origin, change, events);
                Heard::Applied(version)
            }
            state => {
                table.ahead.insert(version, bytes.clone());
                if table.ahead.len() > AHEAD_MAX {
                    table.ahead.clear();
                    self.stale(bucket);
                } else if state == State::Whole {
                    table.state = State::Stale;
                }
                Heard::Waits
            }
        }
    }

    fn apply(
        &mut self,
        bucket: Bucket,
        origin: ReplicaId,
        change: Change<'_>,
        events: &dyn ClusterEvents,
    ) {
        self.changes += 1;
        if let Change::RetainedSet(body) = change {
            match self.retained_of(body) {
                Some(message) => self.set_retained(bucket, message, events),
                None => self.damaged += 1,
            }
            return;
        }
        if let Change::Records(body) = change {
            return self.tell_records(body);
        }
        let Some(table) = self.tables.get_mut(usize::from(bucket.0)) else {
            return;
        };
        match change {
            Change::RetainedSet(_) | Change::Records(_) | Change::Unknown(_) => {}
            Change::RetainedRemoved(topic) => {
                if table.retained.remove(topic).is_some() {
                    events.retained_deleted(topic);
                }
            }
            Change::RecordSet(session, body) => match SessionEntry::decode(session, body) {
                Ok((mut entry, _)) => {
                    // Only the owner writes the record, so that whoever wrote it is the owner.
                    if entry.is_shared() {
                        entry.owner = origin;
                    }
                    table.set_session(entry, events);
                }
                Err(error) => {
                    warn!(session = session.0, %error, "the record of a session cannot be read");
                    self.damaged += 1;
                }
            },
            Change::SessionDeleted(session) => {
                if table.sessions.remove(&session).is_some() {
                    events.session_deleted(session);
                }
            }
            Change::Owner(session, owner) => {
                if let Some(entry) = table.sessions.get_mut(&session)
                    && entry.owner != owner
                {
                    Arc::make_mut(entry).owner = owner;
                    events.session_owned(session, owner);
                }
            }
        }
    }

    /// Records are not kept here: those who keep some are told.
    fn tell_records(&mut self, body: &[u8]) {
        for changed in frame::records(body) {
            match changed {
                Ok(changed) => {
                    if let Some(table) = records::Table::of_code(changed.code) {
                        self.listeners.tell(RecordChange::Changed {
                            key: RecordKey::new(table, changed.key),
                            revision: changed.revision,
                            hint: changed.hint,
                        });
                    }
                }
                Err(error) => {
                    warn!(%error, "a change of records cannot be read");
                    self.damaged += 1;
                    self.listeners.tell(RecordChange::Missed { bucket: None });
                }
            }
        }
    }

    /// The message of an announcement; if it was set here it need not be decoded.
    fn retained_of(&mut self, body: &[u8]) -> Option<Arc<Message>> {
        if let Some(topic) = Message::topic_of(body)
            && let Some(own) = self.own.get(topic)
            && own.body == body
        {
            let message = Arc::clone(&own.message);
            self.own.remove(topic);
            return Some(message);
        }
        match Message::decode(body) {
            Ok(message) => Some(Arc::new(message)),
            Err(error) => {
                warn!(%error, "a retained message cannot be read");
                None
            }
        }
    }

    fn set_retained(&mut self, bucket: Bucket, message: Arc<Message>, events: &dyn ClusterEvents) {
        if let Some(table) = self.table_mut(bucket) {
            let topic = Arc::from(message.topic());
            table.retained.insert(topic, Arc::clone(&message));
            events.retained_changed(message);
        }
    }

    /// A bucket as Redis has it: what differs is told, then what was announced meanwhile.
    pub(super) fn loaded(&mut self, loaded: Loaded, events: &dyn ClusterEvents) {
        let bucket = loaded.bucket;
        let version = loaded.version;
        let Some(table) = self.tables.get_mut(usize::from(bucket.0)) else {
            return;
        };
        let again = table.state == State::Loading { again: true };
        table.version = version;
        table.state = if again { State::Stale } else { State::Whole };
        let mut damaged = table.retained_loaded(loaded.retained, events);
        damaged += table.sessions_loaded(loaded.sessions, &loaded.owners, events);
        self.damaged += damaged;
        self.listeners.tell(RecordChange::Missed {
            bucket: Some(bucket),
        });
        self.catch_up(bucket, events);
    }

    /// Applies what was announced while the bucket was loaded.
    fn catch_up(&mut self, bucket: Bucket, events: &dyn ClusterEvents) {
        loop {
            let Some(table) = self.table_mut(bucket) else {
                return;
            };
            let version = table.version;
            while let Some(first) = table.ahead.first_entry()
                && *first.key() <= version
            {
                first.remove();
            }
            let Some(bytes) = table.ahead.remove(&(version + 1)) else {
                if !table.ahead.is_empty() {
                    self.stale(bucket);
                }
                return;
            };
            table.version += 1;
            if let Ok(frame) = frame::decode(&bytes)
                && let Body::Table { change, .. } = frame.body
            {
                self.apply(bucket, frame.origin, change, events);
            }
        }
    }

    /// Everything that a load did not come to (the answer made no sense): it is tried again.
    pub(super) fn not_loaded(&mut self, bucket: Bucket) {
        if let Some(table) = self.table_mut(bucket) {
            table.state = State::Stale;
        }
    }
}

impl Table {
    fn set_session(&mut self, entry: SessionEntry, events: &dyn ClusterEvents) {
        let same = self
            .sessions
            .get(&entry.id)
            .is_some_and(|known| **known == entry);
        if !same {
            let entry = Arc::new(entry);
            self.sessions.insert(entry.id, Arc::clone(&entry));
            events.session_changed(&entry);
        }
    }

    fn retained_loaded(
        &mut self,
        retained: Vec<(Arc<str>, Bytes)>,
        events: &dyn ClusterEvents,
    ) -> u64 {
        let mut damaged = 0;
        let mut old = std::mem::take(&mut self.retained);
        self.retained.reserve(retained.len());
        for (topic, body) in retained {
            let known = old.remove(&topic);
            match (Message::decode(&body), known) {
                (Ok(message), Some(known)) if *known == message => {
                    self.retained.insert(topic, known);
                }
                (Ok(message), _) => {
                    let message = Arc::new(message);
                    self.retained.insert(topic, Arc::clone(&message));
                    events.retained_changed(message);
                }
                (Err(error), known) => {
                    warn!(topic = &*topic, %error, "a retained message cannot be read");
                    damaged += 1;
                    if known.is_some() {
                        events.retained_deleted(&topic);
                    }
                }
            }
        }
        let mut gone: Vec<_> = old.into_keys().collect();
        gone.sort_unstable();
        for topic in gone {
            events.retained_deleted(&topic);
        }
        damaged
    }

    fn sessions_loaded(
        &mut self,
        sessions: Vec<(SessionId, Bytes)>,
        owners: &[OwnerEntry],
        events: &dyn ClusterEvents,
    ) -> u64 {
        let owners: Map<SessionId, ReplicaId> = owners
            .iter()
            .filter_map(|owner| Some((owner.session?, owner.replica)))
            .collect();
        let mut damaged = 0;
        let mut old = std::mem::take(&mut self.sessions);
        self.sessions.reserve(sessions.len());
        for (session, body) in sessions {
            let known = old.remove(&session);
            match SessionEntry::decode(session, &body) {
                Ok((mut entry, _)) => {
                    if entry.is_shared() {
                        entry.owner = owners.get(&session).copied().unwrap_or_default();
                    }
                    if let Some(known) = known {
                        self.sessions.insert(session, known);
                    }
                    self.set_session(entry, events);
                }
                Err(error) => {
                    warn!(session = session.0, %error, "the record of a session cannot be read");
                    damaged += 1;
                    if known.is_some() {
                        events.session_deleted(session);
                    }
                }
            }
        }
        let mut gone: Vec<_> = old.into_keys().collect();
        gone.sort_unstable();
        for session in gone {
            events.session_deleted(session);
        }
        damaged
    }
}
