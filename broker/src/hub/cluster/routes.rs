//! What the sessions that are connected here want: told to the other replicas, so that what nobody
//! wants never leaves them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::hash::RandomState;
use dunlin_protocol::QoS;
use dunlin_sync::Op;
use dunlin_sync::cluster::Route;
use parking_lot::Mutex;

/// One subscription of a connected session, as far as routing is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) qos: QoS,
    /// The session outlives its connection: QoS 1 and 2 come through its queue.
    pub(crate) stored: bool,
    /// The filter is `$share/…`.
    pub(crate) shared: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    at_most_once: u32,
    acknowledged: u32,
    stored: u32,
    members: u32,
}

impl Counts {
    fn of(&mut self, interest: Interest) -> Option<&mut u32> {
        match interest {
            // Every replica knows persistent members, and where they are, from their sessions.
            Interest {
                shared: true,
                stored: true,
                ..
            } => None,
            Interest { shared: true, .. } => Some(&mut self.members),
            Interest {
                qos: QoS::AtMostOnce,
                ..
            } => Some(&mut self.at_most_once),
            Interest { stored: true, .. } => Some(&mut self.stored),
            _ => Some(&mut self.acknowledged),
        }
    }

    fn route(self) -> Route {
        let mut flags = 0;
        for (count, flag) in [
            (self.at_most_once, Route::AT_MOST_ONCE),
            (self.acknowledged, Route::ACKNOWLEDGED),
            (self.stored, Route::STORED),
            (self.members, Route::ACKNOWLEDGED),
        ] {
            if count > 0 {
                flags |= flag;
            }
        }
        Route {
            flags,
            members: u16::try_from(self.members).unwrap_or(u16::MAX),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    counts: HashMap<Arc<str>, Counts, RandomState>,
    stamp: u64,
}

/// The routes of this replica, counted.
#[derive(Debug, Default)]
pub(crate) struct OwnRoutes {
    known: Mutex<Known>,
}

impl OwnRoutes {
    /// Counts a subscription; gives back the change to be told, if any.
    pub(crate) fn add(&self, filter: &str, interest: Interest) -> Option<Op> {
        self.change(filter, interest, |count| *count += 1)
    }

    /// The opposite of [`Self::add`].
    pub(crate) fn remove(&self, filter: &str, interest: Interest) -> Option<Op> {
        self.change(filter, interest, |count| *count = count.saturating_sub(1))
    }

    fn change(
        &self,
        filter: &str,
        interest: Interest,
        change: impl FnOnce(&mut u32),
    ) -> Option<Op> {
        let mut known = self.known.lock();
        let before = known.counts.get(filter).copied().unwrap_or_default();
        let mut counts = before;
        change(counts.of(interest)?);
        let route = counts.route();
        let filter: Arc<str> = match known.counts.get_key_value(filter) {
            Some((filter, _)) => filter.clone(),
            None => Arc::from(filter),
        };
        if route.is_empty() {
            known.counts.remove(&filter);
        } else {
            known.counts.insert(filter.clone(), counts);
        }
        if route == before.route() {
            return None;
        }
        known.stamp += 1;
        Some(Op::PutRoute {
            filter,
            route,
            stamp: known.stamp,
        })
    }

    /// All routes anew, for a replica whose routes are gone.
    pub(crate) fn all(&self) -> Vec<Op> {
        let mut known = self.known.lock();
        let routes: Vec<_> = known
            .counts
            .iter()
            .map(|(filter, counts)| (filter.clone(), counts.route()))
            .collect();
        routes
            .into_iter()
            .map(|(filter, route)| {
                known.stamp += 1;
                Op::PutRoute {
                    filter,
                    route,
                    stamp: known.stamp,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(qos: QoS, stored: bool) -> Interest {
        Interest {
            qos,
            stored,
            shared: false,
        }
    }

    fn flags(op: Option<Op>) -> Option<u8> {
        match op {
            Some(Op::PutRoute { route, .. }) => Some(route.flags),
            _ => None,
        }
    }

    #[test]
    fn only_the_first_and_the_last_subscription_of_a_kind_are_told() {
        let routes = OwnRoutes::default();
        let clean = interest(QoS::AtLeastOnce, false);
        assert_eq!(flags(routes.add("a/+", clean)), Some(Route::ACKNOWLEDGED));
        assert_eq!(flags(routes.add("a/+", clean)), None);
        let stored = interest(QoS::ExactlyOnce, true);
        assert_eq!(
            flags(routes.add("a/+", stored)),
            Some(Route::ACKNOWLEDGED | Route::STORED)
        );
        assert_eq!(flags(routes.remove("a/+", clean)), None);
        assert_eq!(flags(routes.remove("a/+", clean)), Some(Route::STORED));
        assert_eq!(flags(routes.remove("a/+", stored)), Some(0));
        assert!(routes.all().is_empty());
    }

    #[test]
    fn members_of_a_shared_group_are_counted_and_persistent_ones_are_not() {
        let routes = OwnRoutes::default();
        let member = |stored| Interest {
            qos: QoS::AtLeastOnce,
            stored,
            shared: true,
        };
        let share = "$share/g/a";
        assert!(routes.add(share, member(true)).is_none());
        for expected in 1..=2 {
            let Some(Op::PutRoute { route, .. }) = routes.add(share, member(false)) else {
                panic!("every member is told")
            };
            assert_eq!(route.members, expected);
        }
    }
}
