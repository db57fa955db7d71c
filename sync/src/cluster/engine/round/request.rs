//! The requests that a round's drafts become.

use super::super::options::EngineOptions;
use super::{Settle, Target, What};

use crate::SessionId;
use crate::cluster::frame::{Kind, head};
use crate::cluster::{Epoch, ReplicaId, Request};

pub(super) fn request(
    what: What,
    target: &Target,
    replica: ReplicaId,
    options: &EngineOptions,
    sequence: &mut impl FnMut(ReplicaId) -> u64,
) -> Option<Request> {
    Some(match (what, target) {
        (What::Ready(request), _) => *request,
        (What::Append { entries, .. }, Target::Append { session, .. }) => Request::Append {
            session: *session,
            origin: replica,
            max_messages: options.queue_max_messages,
            max_bytes: options.queue_max_bytes,
            entries,
        },
        (What::Settle(settle), Target::Settle { session, epoch, .. }) => {
            settle_request(settle, *session, *epoch)
        }
        (What::Routes(changes, _), Target::Routes { version, .. }) => Request::PutRoutes {
            replica,
            version: *version,
            changes,
            head: head(Kind::Routes, replica),
        },
        (What::Inbox { pack }, Target::Inbox { to, .. }) => Request::Inbox {
            to: *to,
            frame: pack.seal(replica, *to, sequence(*to)),
        },
        (What::Tap, Target::Tap(tapping)) => tapping.request(replica),
        // A record whose session was gone before it could be written.
        _ => return None,
    })
}

pub(super) fn settle_request(settle: Settle, session: SessionId, epoch: Option<Epoch>) -> Request {
    let Settle {
        mut dequeue,
        mut release,
        inbound,
    } = settle;
    dequeue.sort_unstable();
    dequeue.dedup();
    release.sort_unstable();
    release.dedup();
    // What is gone is not to come back without its message.
    release.retain(|seq| dequeue.binary_search(seq).is_err());
    Request::Settle {
        session,
        epoch,
        dequeue,
        release,
        inbound_put: inbound
            .iter()
            .filter_map(|(packet_id, count)| Some((*packet_id, (*count)?)))
            .collect(),
        inbound_delete: inbound
            .iter()
            .filter(|(_, count)| count.is_none())
            .map(|(packet_id, _)| *packet_id)
            .collect(),
    }
}
