//! Routes and inboxes: the keys that belong to one replica.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::state::Announcement;
use crate::cluster::{ReplicaId, Reply, Request, Route};

/// Position in an inbox.
pub(super) type Position = (u64, u64);

/// Keys of the tags `{<id>r}`.
#[derive(Clone, Default)]
pub(super) struct Lanes(BTreeMap<ReplicaId, Lane>);

#[derive(Clone, Default)]
struct Lane {
    routes: BTreeMap<Arc<str>, Route>,
    version: u64,
    inbox: BTreeMap<Position, Bytes>,
    /// Position of the last frame ever appended.
    last: Position,
}

impl Lanes {
    /// Makes the inbox of a replica that joins.
    pub(super) fn open(&mut self, replica: ReplicaId) {
        self.0.entry(replica).or_default();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn apply(
        &mut self,
        now: u64,
        request: &Request,
        out: &mut Vec<Announcement>,
    ) -> Reply {
        match request {
            Request::PutRoutes {
                replica,
                version,
                changes,
                head,
            } => match self.0.get_mut(replica) {
                None => Reply::Fenced,
                Some(lane) => {
                    if lane.put(*version, changes) {
                        out.push((None, announcement(head, *version, changes)));
                    }
                    Reply::Version(lane.version)
                }
            },
            Request::LoadRoutes { replica } => match self.0.get(replica) {
                None => Reply::Routes {
                    version: 0,
                    routes: Vec::new(),
                },
                Some(lane) => Reply::Routes {
                    version: lane.version,
                    routes: lane
                        .routes
                        .iter()
                        .map(|(filter, route)| (Arc::clone(filter), *route))
                        .collect(),
                },
            },
            Request::DropReplica { replica, from } => {
                let unread = |lane: &Lane| {
                    from.is_some_and(|from| lane.inbox.range(from..).next().is_some())
                };
                if self.0.get(replica).is_some_and(unread) {
                    return Reply::Flag(false);
                }
                self.0.remove(replica);
                Reply::Flag(true)
            }
            Request::Inbox { to, frame } => match self.0.get_mut(to) {
                None => Reply::Flag(false),
                Some(lane) => {
                    lane.append(now, frame);
                    Reply::Flag(true)
                }
            },
            Request::ReadInbox {
                replica,
                after,
                limit,
            } => Reply::Inbox(self.read(*replica, *after, *limit as usize)),
            Request::TrimInbox { replica, from } => {
                if let Some(lane) = self.0.get_mut(replica) {
                    lane.inbox = lane.inbox.split_off(from);
                }
                Reply::Done
            }
            _ => Reply::Done,
        }
    }

    pub(super) fn read(
        &self,
        replica: ReplicaId,
        after: Position,
        limit: usize,
    ) -> Vec<(Position, Bytes)> {
        let from = (after.0, after.1.saturating_add(1));
        self.0
            .get(&replica)
            .into_iter()
            .flat_map(|lane| lane.inbox.range(from..))
            .take(limit)
            .map(|(position, frame)| (*position, frame.clone()))
            .collect()
    }
}

impl Lane {
    /// Whether anything was new.
    fn put(&mut self, version: u64, changes: &[(Arc<str>, Route)]) -> bool {
        if version <= self.version {
            return false;
        }
        self.version = version;
        for (filter, route) in changes {
            if route.is_empty() {
                self.routes.remove(filter);
            } else {
                self.routes.insert(Arc::clone(filter), *route);
            }
        }
        true
    }

    /// As `XADD *`: never below the last position, whatever the clock does.
    fn append(&mut self, now: u64, frame: &Bytes) {
        self.last = match now > self.last.0 {
            true => (now, 0),
            false => (self.last.0, self.last.1 + 1),
        };
        self.inbox.insert(self.last, frame.clone());
    }
}

fn announcement(head: &[u8], version: u64, changes: &[(Arc<str>, Route)]) -> Bytes {
    let mut frame = head.to_vec();
    frame.extend_from_slice(&version.to_le_bytes());
    for (filter, route) in changes {
        frame.push(route.flags);
        frame.extend_from_slice(&route.members.to_le_bytes());
        let len = u16::try_from(filter.len()).unwrap_or(u16::MAX);
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(filter.as_bytes());
    }
    frame.into()
}
