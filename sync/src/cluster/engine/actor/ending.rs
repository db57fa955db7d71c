//! The end of a replica: everything is told, the lease is given back.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::member::leave;
use super::super::outcome::Outcome;
use super::super::shared::Job;
use super::Actor;

use crate::StoreError;
use crate::cluster::ClaimError;

impl Actor {
    pub(in super::super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    pub(super) fn end_if_closed(&mut self) {
        let asked = self.shared.inbox.lock().closing;
        let Some(patience) = asked else { return };
        let now = Instant::now();
        let until = now + patience;
        let until = *self.closing.get_or_insert(until);
        let idle = self.shared.inbox.lock().jobs.is_empty()
            && self.parked.is_empty()
            && self.commits.is_empty();
        if now >= until || self.member.is_joining() {
            self.left = true;
        } else if idle && !self.leaving && self.shared.lanes.lock().is_idle() {
            self.leaving = true;
            self.leave();
        }
    }

    /// Gives the lease back, and whatever is still claimed.
    pub(super) fn leave(&mut self) {
        let me = self.replica;
        let mut clients: Vec<Arc<str>> = self.own.claims.keys().cloned().collect();
        clients.sort_unstable();
        let goodbye = self.shared.lanes.lock().goodbye(me);
        let backplane = Arc::clone(&self.backplane);
        let unread = self.inbox.keep();
        self.shared.set_ready(false);
        self.expect(async move {
            leave(backplane, me, clients, unread, goodbye).await;
            Outcome::Left
        });
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let late = self.shared.end();
        let error = self.shared.failure().unwrap_or(StoreError::Closed);
        self.fail_parked(&error);
        self.fail_everything(&error, false);
        for job in late {
            match job {
                Job::Batch(pending) => {
                    if let Some(callback) = pending.batch.on_commit {
                        callback.failed(&error);
                    }
                    self.shared.unload(pending.weight);
                    self.shared.raise(pending.ticket);
                }
                Job::Claim(claiming) => {
                    let closed = ClaimError::Unavailable("this replica is leaving".to_owned());
                    claiming.answer.send(Err(closed)).ok();
                }
                Job::Start(..) | Job::Adopt(_) => {}
            }
        }
        self.shared.ended();
    }
}
