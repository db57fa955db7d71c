//! Work that one replica does for all: ends sessions whose time has come, finds wills that are due, and
//! clears away what a dead replica has left.
//!
//! Each is a sequence of steps that may be cut off anywhere and done again by another: nothing is
//! forgotten before what follows from it is done.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::inbox::Position;
use crate::cluster::frame::{self, Body, Entry, Kind};
use crate::cluster::{
    Backplane, BackplaneError, Bucket, DueItem, Epoch, ReplicaId, Reply, Request, TakenWill,
};
use crate::embedded::values;
use crate::records::{RecordKey, Table};
use crate::{Message, SessionId};

/// Due items of a bucket that are taken at once.
const DUE_LIMIT: u32 = 256;
/// Clients that are listed at once.
const OWNED_LIMIT: u32 = 1024;
/// Buckets that are asked at once when much may come back.
const BUCKETS_AT_ONCE: usize = 32;
/// Frames of an inbox that are read at once.
const INBOX_LIMIT: u32 = 64;

/// What was due.
pub(super) struct Swept {
    pub(super) wills: Vec<(Bucket, Epoch, TakenWill)>,
    pub(super) expired: u64,
    /// There was more than is taken at once.
    pub(super) more: bool,
}

/// Looks through all buckets. `retained`: topics of retained messages that have expired.
pub(super) async fn sweep(
    backplane: Arc<dyn Backplane>,
    me: ReplicaId,
    retained: Vec<Arc<str>>,
) -> Swept {
    let asked = Bucket::all()
        .map(|bucket| Request::Due {
            bucket,
            limit: DUE_LIMIT,
        })
        .collect();
    let mut sessions = Vec::new();
    let mut wills = Vec::new();
    let mut over: Vec<_> = retained
        .into_iter()
        .map(|topic| Request::ExpireRetained {
            topic,
            head: frame::head(Kind::Table, me),
        })
        .collect();
    let mut more = false;
    for (bucket, answer) in Bucket::all().zip(backplane.execute(asked).await) {
        let Ok(Reply::Due(items)) = answer else {
            continue;
        };
        more |= items.len() >= DUE_LIMIT as usize;
        for item in items {
            match item {
                DueItem::Session(session) => sessions.push(session),
                DueItem::Will(epoch) => wills.push((bucket, epoch)),
                DueItem::Record { code, key } => {
                    // A table of a newer version is left to its replicas.
                    if let Some(table) = Table::of_code(code) {
                        over.push(Request::ExpireRecord {
                            key: RecordKey { table, key },
                            head: frame::head(Kind::Table, me),
                        });
                    }
                }
            }
        }
    }
    if !over.is_empty() {
        // What is not done now is done the next time.
        drop(backplane.execute(over).await);
    }
    Swept {
        expired: expire(&*backplane, me, sessions).await,
        wills: fetch_wills(&*backplane, wills).await,
        more,
    }
}

async fn expire(backplane: &dyn Backplane, me: ReplicaId, sessions: Vec<SessionId>) -> u64 {
    if sessions.is_empty() {
        return 0;
    }
    let requests = sessions
        .into_iter()
        .map(|session| Request::Expire {
            session,
            head: frame::head(Kind::Table, me),
        })
        .collect();
    let answers = backplane.execute(requests).await;
    let ended = |answer: &&Result<Reply, BackplaneError>| matches!(answer, Ok(Reply::Flag(true)));
    answers.iter().filter(ended).count() as u64
}

async fn fetch_wills(
    backplane: &dyn Backplane,
    due: Vec<(Bucket, Epoch)>,
) -> Vec<(Bucket, Epoch, TakenWill)> {
    if due.is_empty() {
        return Vec::new();
    }
    let requests = due
        .iter()
        .map(|(bucket, epoch)| Request::GetWill {
            bucket: *bucket,
            epoch: *epoch,
        })
        .collect();
    let answers = backplane.execute(requests).await;
    let mut wills = Vec::new();
    let mut unreadable = Vec::new();
    for ((bucket, epoch), answer) in due.into_iter().zip(answers) {
        match answer {
            Ok(Reply::Will(Some(body))) => match decode_will(epoch, &body) {
                Some(will) => wills.push((bucket, epoch, will)),
                None => unreadable.push(Request::DeleteWill { bucket, epoch }),
            },
            // It is not stored any more: the mark that it is due is not needed either.
            Ok(Reply::Will(None)) => unreadable.push(Request::DeleteWill { bucket, epoch }),
            _ => {}
        }
    }
    if !unreadable.is_empty() {
        drop(backplane.execute(unreadable).await);
    }
    wills
}

/// A stored will, with the claim that it belongs to.
pub(super) fn decode_will(epoch: Epoch, body: &[u8]) -> Option<TakenWill> {
    match values::will(body) {
        Ok(mut record) => {
            record.epoch = epoch.0;
            record.due_at = None;
            Some(TakenWill { record })
        }
        Err(error) => {
            warn!(epoch = epoch.0, %error, "a will cannot be read");
            None
        }
    }
}

/// Key of the line that says after whom a replica is clearing away.
const REAPING: &str = "reaping=";

/// What is shown of a replica, with those that it is clearing away after: should it die, others go on.
pub(super) fn info(shown: &[u8], reaping: impl Iterator<Item = ReplicaId>) -> Bytes {
    let ids: Vec<String> = reaping.map(|id| id.0.to_string()).collect();
    let mut info = shown.to_vec();
    if !ids.is_empty() {
        info.extend_from_slice(b"\n");
        info.extend_from_slice(REAPING.as_bytes());
        info.extend_from_slice(ids.join(",").as_bytes());
    }
    Bytes::from(info)
}

/// Those that a dead replica was clearing away after.
pub(super) async fn inherited(backplane: Arc<dyn Backplane>, dead: ReplicaId) -> Vec<ReplicaId> {
    let Ok(Reply::Registry(entries)) = one(&*backplane, Request::Registry).await else {
        return Vec::new();
    };
    let entry = entries.iter().find(|entry| entry.replica == dead);
    entry.map_or_else(Vec::new, |entry| reaping(&entry.info))
}

fn reaping(info: &[u8]) -> Vec<ReplicaId> {
    let text = String::from_utf8_lossy(info);
    text.lines()
        .filter_map(|line| line.strip_prefix(REAPING))
        .flat_map(|ids| ids.split(','))
        .filter_map(|id| id.parse().ok().map(ReplicaId))
        .collect()
}

/// What came of taking a dead replica off the register.
pub(super) struct Reaped {
    pub(super) replica: ReplicaId,
    /// It was dead indeed, and everything is cleared away but its routes and its inbox.
    pub(super) done: bool,
    /// It could not be done, or only in part: it is to be tried again.
    pub(super) again: bool,
    /// Messages for shared subscriptions that nobody has acknowledged there.
    pub(super) redeliver: Vec<(Arc<str>, Arc<Message>)>,
    /// Up to where its inbox was read.
    pub(super) read_to: Position,
}

/// Takes a dead replica off the register and gives its clients free. Its inbox is read from behind `after` on.
pub(super) async fn reap(
    backplane: Arc<dyn Backplane>,
    me: ReplicaId,
    replica: ReplicaId,
    known_dead: bool,
    after: Position,
) -> Reaped {
    let mut reaped = Reaped {
        replica,
        done: false,
        again: false,
        redeliver: Vec::new(),
        read_to: after,
    };
    if !known_dead {
        let request = Request::Reap {
            replica,
            force: false,
        };
        match one(&*backplane, request).await {
            Ok(Reply::Flag(true)) => {}
            answer => {
                // Whether it is off the register is not known if there was no answer.
                reaped.again = answer.is_err();
                return reaped;
            }
        }
    }
    reaped.again = true;
    if orphan_all(&*backplane, me, replica).await
        && let Some((messages, read_to)) = shared_in_inbox(&*backplane, replica, after).await
    {
        reaped.redeliver = messages;
        reaped.read_to = read_to;
        reaped.done = true;
        reaped.again = false;
    }
    reaped
}

pub(super) async fn one(
    backplane: &dyn Backplane,
    request: Request,
) -> Result<Reply, BackplaneError> {
    let answers = backplane.execute(vec![request]).await;
    answers
        .into_iter()
        .next()
        .unwrap_or(Err(BackplaneError::Closed))
}

/// Releases every client of a dead replica; `false` if there was no answer.
async fn orphan_all(backplane: &dyn Backplane, me: ReplicaId, dead: ReplicaId) -> bool {
    let mut buckets: Vec<Bucket> = Bucket::all().collect();
    while !buckets.is_empty() {
        let rest = buckets.split_off(buckets.len().saturating_sub(BUCKETS_AT_ONCE));
        let asked = rest
            .iter()
            .map(|bucket| Request::Owned {
                bucket: *bucket,
                replica: dead,
                limit: OWNED_LIMIT,
            })
            .collect();
        let mut orphans = Vec::new();
        for (bucket, answer) in rest.into_iter().zip(backplane.execute(asked).await) {
            let clients = match answer {
                Ok(Reply::Clients(clients)) => clients,
                Err(BackplaneError::Closed | BackplaneError::Lost) => return false,
                other => {
                    warn!(?other, "clients of a dead replica cannot be listed");
                    continue;
                }
            };
            if clients.len() >= OWNED_LIMIT as usize {
                buckets.push(bucket);
            }
            orphans.extend(clients.into_iter().map(|client_id| Request::Orphan {
                client_id,
                replica: dead,
                head: frame::head(Kind::Table, me),
            }));
        }
        if !orphans.is_empty() {
            let answers = backplane.execute(orphans).await;
            if answers.contains(&Err(BackplaneError::Closed))
                || answers.contains(&Err(BackplaneError::Lost))
            {
                return false;
            }
        }
    }
    true
}

/// Shared messages in the inbox of a dead replica behind a position, and the position of the last frame;
/// `None` if there was no answer.
async fn shared_in_inbox(
    backplane: &dyn Backplane,
    replica: ReplicaId,
    mut after: Position,
) -> Option<(Vec<(Arc<str>, Arc<Message>)>, Position)> {
    let mut found = Vec::new();
    loop {
        let request = Request::ReadInbox {
            replica,
            after,
            limit: INBOX_LIMIT,
        };
        let frames = match one(backplane, request).await {
            Ok(Reply::Inbox(frames)) => frames,
            Err(BackplaneError::Closed | BackplaneError::Lost) => return None,
            _ => return Some((found, after)),
        };
        let Some((last, _)) = frames.last() else {
            return Some((found, after));
        };
        after = *last;
        for (_, bytes) in &frames {
            let Ok(frame) = frame::decode(bytes) else {
                continue;
            };
            let Body::Lane { entries, .. } = frame.body else {
                continue;
            };
            for entry in entries.map_while(Result::ok) {
                if let Entry::Message {
                    share: Some(share),
                    message,
                } = entry
                {
                    found.push((Arc::from(share), message.to_message()));
                }
            }
        }
    }
}

/// Client ids that are claimed from here, as Redis has it; `None` if it cannot be told.
pub(super) async fn owned(
    backplane: Arc<dyn Backplane>,
    me: ReplicaId,
) -> Option<BTreeSet<Arc<str>>> {
    let mut all = BTreeSet::new();
    let buckets: Vec<Bucket> = Bucket::all().collect();
    for part in buckets.chunks(BUCKETS_AT_ONCE) {
        let asked = part
            .iter()
            .map(|bucket| Request::Owned {
                bucket: *bucket,
                replica: me,
                limit: u32::MAX,
            })
            .collect();
        for answer in backplane.execute(asked).await {
            match answer {
                Ok(Reply::Clients(clients)) => all.extend(clients),
                _ => return None,
            }
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_cleared_away_after_are_read_from_what_is_shown() {
        let ids = [ReplicaId(7), ReplicaId(u64::MAX)];
        let shown = info(b"host=a\npid=1", ids.into_iter());
        assert_eq!(reaping(&shown), ids);
        assert_eq!(reaping(&info(b"host=a", [].into_iter())), []);
        assert_eq!(reaping(b"\xff\nreaping=x,3\n"), [ReplicaId(3)]);
    }
}
