//! Reading queues, and everything there is.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::own::OwnSession;
use super::reads::Reads;
use crate::cluster::{
    BUCKETS, Backplane, BackplaneError, Bucket, Reply, Request, SessionEntry, SessionFields,
};
use crate::embedded::values::{self, StoredEntry};
use crate::{
    Message, QueueEntry, QueueState, Recovered, RecoveredSession, SessionId, SessionRecord,
    StoreError,
};

/// Entries that are read at once.
const PAGE: usize = 256;
/// Numbers are exact up to here in Redis' scripts.
const SEQ_MAX: u64 = 1 << 53;

/// The session with this number, of whatever bucket: numbers rise, and buckets follow each other.
pub(super) fn spread(n: u64) -> SessionId {
    Bucket((n % u64::from(BUCKETS)) as u16).session(n)
}

/// See [`Store::read_queue`](crate::Store::read_queue).
pub(super) async fn queue(
    backplane: Arc<dyn Backplane>,
    reads: &Mutex<Reads>,
    session: SessionId,
    from_seq: u64,
    max_entries: usize,
    max_bytes: usize,
) -> Result<Vec<QueueEntry>, StoreError> {
    let mut from = from_seq;
    let mut bytes: usize = 0;
    let mut entries = Vec::new();
    while entries.len() < max_entries && from < SEQ_MAX {
        let limit = (max_entries - entries.len()).min(PAGE);
        let page = page(&*backplane, session, from, limit as u32).await?;
        let last = page.len() < limit;
        reads.lock().note(Instant::now(), session, &page);
        for (seq, body) in page {
            if bytes > 0 && bytes >= max_bytes {
                return Ok(entries);
            }
            let entry = entry(session, seq, &body)?;
            bytes += entry.message.as_ref().map_or(1, |message| message.size());
            entries.push(entry);
            from = seq + 1;
        }
        if last {
            break;
        }
    }
    Ok(entries)
}

async fn page(
    backplane: &dyn Backplane,
    session: SessionId,
    from: u64,
    limit: u32,
) -> Result<Vec<(u64, bytes::Bytes)>, StoreError> {
    let request = Request::ReadQueue {
        session,
        from,
        limit,
    };
    match one(backplane, request).await? {
        Reply::Queue(page) => Ok(page),
        other => Err(nonsense("a queue", &other)),
    }
}

fn entry(session: SessionId, seq: u64, body: &[u8]) -> Result<QueueEntry, StoreError> {
    let place = || format!("queue of session {}, entry {seq}", session.0);
    let stored = values::entry(body).map_err(|error| StoreError::damaged(place(), error))?;
    Ok(match stored {
        StoredEntry::Inline {
            delivery, message, ..
        } => QueueEntry {
            seq,
            state: QueueState::Queued,
            delivery,
            message: Some(Arc::new(
                Message::decode(message).map_err(|error| StoreError::damaged(place(), error))?,
            )),
        },
        StoredEntry::Released => QueueEntry {
            seq,
            state: QueueState::Released,
            delivery: crate::Delivery::plain(dunlin_protocol::QoS::ExactlyOnce),
            message: None,
        },
        StoredEntry::Shared { .. } => {
            return Err(StoreError::damaged(place(), "its message is elsewhere"));
        }
    })
}

async fn one(backplane: &dyn Backplane, request: Request) -> Result<Reply, StoreError> {
    let answers = backplane.execute(vec![request]).await;
    let answer = answers
        .into_iter()
        .next()
        .unwrap_or(Err(BackplaneError::Closed));
    answer.map_err(|error| StoreError::ReadFailed {
        reason: error.to_string(),
    })
}

fn nonsense(what: &str, reply: &Reply) -> StoreError {
    StoreError::ReadFailed {
        reason: format!("asked for {what}, Redis answered {reply:.60?}"),
    }
}

/// What a store that is alone finds.
pub(super) struct Everything {
    pub(super) recovered: Recovered,
    pub(super) sessions: Vec<(SessionId, OwnSession)>,
}

/// Reads all buckets, one after the other.
pub(super) async fn everything(backplane: &dyn Backplane) -> Result<Everything, StoreError> {
    let mut found = Everything {
        recovered: Recovered::default(),
        sessions: Vec::new(),
    };
    for bucket in Bucket::all() {
        let Reply::Bucket {
            retained, sessions, ..
        } = one(backplane, Request::LoadBucket { bucket }).await?
        else {
            continue;
        };
        for (topic, body) in retained {
            let message = Message::decode(&body).map_err(|error| {
                StoreError::damaged(format!("retained message of {topic:.80}"), error)
            })?;
            found.recovered.retained.push(Arc::new(message));
        }
        for (id, body) in sessions {
            read_session(backplane, id, &body, &mut found).await?;
        }
        if let Reply::Wills(wills) = one(backplane, Request::Wills { bucket }).await? {
            for (epoch, body) in wills {
                let will = values::will(&body).map_err(|error| {
                    StoreError::damaged(format!("will of claim {}", epoch.0), error)
                })?;
                found.recovered.wills.push(will);
            }
        }
    }
    let recovered = &mut found.recovered;
    recovered
        .retained
        .sort_by(|one, other| one.topic().cmp(other.topic()));
    recovered.sessions.sort_by_key(|session| session.record.id);
    recovered
        .wills
        .sort_by(|one, other| one.client_id.cmp(&other.client_id));
    Ok(found)
}

async fn read_session(
    backplane: &dyn Backplane,
    id: SessionId,
    body: &[u8],
    found: &mut Everything,
) -> Result<(), StoreError> {
    let (entry, left_at) = SessionEntry::decode(id, body)
        .map_err(|error| StoreError::damaged(format!("record of session {}", id.0), error))?;
    let Reply::Session(Some(fields)) = one(backplane, Request::GetSession { session: id }).await?
    else {
        return Ok(());
    };
    let queue_bytes = weight(backplane, id, fields.head).await?;
    if fields.owner.0 == 0 {
        let own = OwnSession {
            entry: Arc::new(entry.clone()),
            epoch: fields.epoch,
            unclaimed: true,
            left_at,
            tail: fields.tail,
            released: None,
            made_in: 0,
        };
        found.sessions.push((id, own));
    }
    found
        .recovered
        .sessions
        .push(recovered(entry, left_at, &fields, queue_bytes));
    Ok(())
}

fn recovered(
    entry: SessionEntry,
    left_at: Option<u64>,
    fields: &SessionFields,
    queue_bytes: u64,
) -> RecoveredSession {
    let mut inbound_qos2: Vec<u16> = fields.inbound.iter().map(|(id, _)| *id).collect();
    inbound_qos2.sort_unstable();
    RecoveredSession {
        record: SessionRecord {
            id: entry.id,
            client_id: entry.client_id,
            expiry_interval: fields.expiry_interval,
            disconnected_at: left_at,
            epoch: fields.epoch.0,
        },
        subscriptions: entry.subscriptions,
        inbound_qos2,
        queue_head: fields.head,
        queue_tail: fields.tail,
        queue_len: fields.len,
        queue_bytes,
    }
}

/// What the messages of a queue weigh in memory.
async fn weight(
    backplane: &dyn Backplane,
    session: SessionId,
    head: u64,
) -> Result<u64, StoreError> {
    let mut bytes = 0;
    let mut from = head;
    loop {
        let page = page(backplane, session, from, PAGE as u32).await?;
        let Some((last, _)) = page.last() else {
            return Ok(bytes);
        };
        from = last + 1;
        for (seq, body) in &page {
            let stored = values::entry(body).map_err(|error| {
                StoreError::damaged(
                    format!("queue of session {}, entry {seq}", session.0),
                    error,
                )
            })?;
            bytes += u64::from(stored.weight());
        }
    }
}
