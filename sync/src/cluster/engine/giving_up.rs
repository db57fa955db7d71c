//! Giving up what has no answer, and finding one's feet again.
//!
//! A replica that could not renew its lease in time must let nothing take effect later: whoever has waited
//! for an acknowledgement goes to another replica and writes newer things. So everything under way is
//! given up, its submitters are told that it failed, and so is whatever is handed in until the lease runs
//! again. Two things are owed nevertheless: the ends of connections, and what the sessions here want.
//!
//! Batches whose submitters have not gone elsewhere ([`Batch::keep`](crate::Batch::keep)) are parked instead,
//! and go out when the lease runs again, before everything else, with the numbers that their appends had: what
//! has taken effect is known by them. They count as pending all the time, which bounds them.
//!
//! When the lease runs again (and nobody has taken this replica for dead) it is not known what has taken
//! effect. So, before anything else: what is owed is written, claims that nobody holds here are given
//! free, connections whose claim is another's are closed, and the routes in Redis are made what they should
//! be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::actor::Actor;
use super::keeper::{one, owned};
use super::outcome::Outcome;
use super::round::{Round, Staged, release_request, unwanted};
use super::shared::{Job, Pending};
use crate::cluster::frame::{Kind, head};
use crate::cluster::{Backplane, BackplaneError, ClaimError, ReplicaId, Reply, Request, Route};
use crate::{Op, StoreError};

/// Changes of routes in one request.
const ROUTES_AT_ONCE: usize = 4096;
/// Clients that are given free at once.
const ORPHANS_AT_ONCE: usize = 4096;

/// What was found in Redis.
pub(super) struct Reconciled {
    /// Clients that are claimed from here.
    listed: BTreeSet<Arc<str>>,
    /// Version of the routes.
    routes_version: u64,
}

impl Actor {
    /// Everything that has no answer is given up.
    /// With `keep`, batches that are to be kept are not.
    pub(super) fn give_up(&mut self, why: &str, keep: bool) {
        self.backplane.abandon();
        let releases = self.commits.take_releases();
        self.owed.extend(releases);
        self.forget_split();
        self.give_up_jobs(why, keep);
    }

    /// What has been handed in fails at once, or is parked.
    pub(super) fn give_up_jobs(&mut self, why: &str, keep: bool) {
        let jobs = {
            let mut inbox = self.shared.inbox.lock();
            let count = inbox.jobs.len();
            inbox.take(count)
        };
        let error = StoreError::Cluster {
            reason: why.to_owned(),
        };
        let mut batches = Vec::new();
        let mut parked = std::mem::take(&mut self.parked);
        for job in jobs {
            match job {
                Job::Batch(mut pending) if pending.batch.keep => {
                    pending.kept = true;
                    parked.push(pending);
                }
                Job::Batch(pending) => batches.push(self.give_up_batch(pending, &error)),
                Job::Claim(claiming) => {
                    let unavailable = ClaimError::Unavailable(why.to_owned());
                    claiming.answer.send(Err(unavailable)).ok();
                }
                Job::Start(events, answer) => self.start(events, answer),
                Job::Adopt(sessions) => {
                    for (id, session) in sessions {
                        self.own.sessions.entry(id).or_insert(session);
                    }
                }
            }
        }
        if !batches.is_empty() {
            let id = self.next_round();
            self.commits.push(Round {
                id,
                batches,
                targets: Vec::new(),
                answered: false,
            });
        }
        self.commits.set_aside(&parked);
        parked.extend(self.fail_everything(&error, keep));
        parked.sort_unstable_by_key(|pending| pending.ticket);
        self.parked = parked;
        if !keep {
            self.fail_parked(&error);
        }
    }

    /// Nothing that was parked is written.
    pub(super) fn fail_parked(&mut self, error: &StoreError) {
        for pending in std::mem::take(&mut self.parked) {
            self.commits.fail_aside(&self.shared, pending, error);
        }
    }

    /// Fails what was parked for somebody who does not wait any more.
    pub(super) fn thin_out_parked(&mut self) {
        let gone = self.parked.extract_if(.., |pending| !pending.is_wanted());
        for pending in gone.collect::<Vec<_>>() {
            self.commits.fail_aside(&self.shared, pending, &unwanted());
        }
    }

    /// What was parked goes before everything else.
    pub(super) fn unpark(&mut self) {
        if !self.parked.is_empty() {
            let parked = std::mem::take(&mut self.parked);
            self.shared.inbox.lock().put_first(parked);
        }
    }

    fn give_up_batch(&mut self, mut pending: Pending, error: &StoreError) -> Staged {
        for op in std::mem::take(&mut pending.batch.ops) {
            match op {
                Op::ReleaseClaim(release) => {
                    let request = release_request(&mut self.own, self.replica, release);
                    self.owed.push(request);
                }
                Op::PutRoute {
                    filter,
                    route,
                    stamp,
                } => {
                    // Whether it is written now or later: it is what is wanted.
                    let _wanted = self.own.is_new(&filter, stamp, route);
                }
                _ => {}
            }
        }
        Staged::failed(pending, error)
    }

    /// Begins to find out what has taken effect.
    pub(super) fn reconcile(&mut self) {
        let mark = self.own.marks;
        let reconciled = reconcile(
            Arc::clone(&self.backplane),
            self.replica,
            self.owed.clone(),
            self.own.claims.keys().cloned().collect(),
            self.own.routes(),
        );
        self.expect(async move { Outcome::Reconciled(mark, reconciled.await) });
    }

    pub(super) fn reconciled(&mut self, mark: u64, found: Option<Reconciled>) {
        if !self.member.set_reconciled(found.is_some()) {
            return;
        }
        if let Some(found) = found {
            self.owed.clear();
            self.own.routes_version = found.routes_version;
            self.verified(mark, Some(found.listed));
        }
    }
}

/// `None`: it could not be done, as it was given up again or the backplane was closed.
async fn reconcile(
    backplane: Arc<dyn Backplane>,
    me: ReplicaId,
    owed: Vec<Request>,
    claims: BTreeSet<Arc<str>>,
    routes: BTreeMap<Arc<str>, Route>,
) -> Option<Reconciled> {
    execute(&*backplane, owed).await?;
    let listed = owned(Arc::clone(&backplane), me).await?;
    // Claims that have taken effect though nobody was told, and connections that ended meanwhile.
    let ghosts: Vec<Request> = listed
        .difference(&claims)
        .map(|client_id| Request::Orphan {
            client_id: Arc::clone(client_id),
            replica: me,
            head: head(Kind::Table, me),
        })
        .collect();
    for part in ghosts.chunks(ORPHANS_AT_ONCE) {
        execute(&*backplane, part.to_vec()).await?;
    }
    Some(Reconciled {
        listed,
        routes_version: restore_routes(&*backplane, me, routes).await?,
    })
}

/// Makes the routes in Redis what they should be; their version.
async fn restore_routes(
    backplane: &dyn Backplane,
    me: ReplicaId,
    mut wanted: BTreeMap<Arc<str>, Route>,
) -> Option<u64> {
    let answer = one(backplane, Request::LoadRoutes { replica: me }).await;
    let Ok(Reply::Routes {
        mut version,
        routes,
    }) = answer
    else {
        return None;
    };
    let mut changes = Vec::new();
    for (filter, route) in routes {
        match wanted.remove(&filter) {
            Some(want) if want == route => {}
            Some(want) => changes.push((filter, want)),
            None => changes.push((filter, Route::default())),
        }
    }
    changes.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    changes.extend(wanted);
    for part in changes.chunks(ROUTES_AT_ONCE) {
        version += 1;
        let request = Request::PutRoutes {
            replica: me,
            version,
            changes: part.to_vec(),
            head: head(Kind::Routes, me),
        };
        // If it is fenced this replica was taken for dead, as the next renewal says.
        one(backplane, request).await.ok()?;
    }
    Some(version)
}

async fn execute(backplane: &dyn Backplane, requests: Vec<Request>) -> Option<()> {
    if requests.is_empty() {
        return Some(());
    }
    let given_up = |answer: &Result<Reply, BackplaneError>| {
        matches!(answer, Err(BackplaneError::Lost | BackplaneError::Closed))
    };
    let answers = backplane.execute(requests).await;
    (!answers.iter().any(given_up)).then_some(())
}
