//! What one address may have at once: connections, handshakes under way, new connections per second.
//!
//! All three are off by default: behind a balancer that hides the clients' addresses they would hold for all of them together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::bounded::Bounded;
use super::place_of;
use crate::config::limits::Limits;
use crate::hash::RandomState;

/// Addresses whose pace is known. About 5 MiB when all of them are used.
const PACES: usize = 65_536;

/// What is counted by address. Nothing is, while there is no bound.
#[derive(Debug)]
pub struct Sources {
    on: AtomicBool,
    state: Mutex<State>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    /// Of addresses that have anything open: no more than there are sockets.
    open: HashMap<IpAddr, Open, RandomState>,
    paces: Bounded<IpAddr, Pace>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    connections: u32,
    handshakes: u32,
    rate: u32,
}

impl Bounds {
    fn of(limits: &Limits) -> Self {
        Self {
            connections: limits.connections_per_address,
            handshakes: limits.handshakes_per_address,
            rate: limits.connect_rate_per_address,
        }
    }

    fn any(self) -> bool {
        self.connections > 0 || self.handshakes > 0 || self.rate > 0
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Open {
    connections: u32,
    handshakes: u32,
}

/// When the next connection of an address would be due if they came evenly, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    due: u64,
}

impl Pace {
    /// Takes one of `rate` a second, a second's worth at once at the most; false if that is too many.
    fn take(&mut self, rate: u32, now: u64) -> bool {
        let gap = 1_000_000 / u64::from(rate.max(1));
        let due = self.due.max(now);
        let early = due - now;
        if early + gap > 1_000_000.max(gap) {
            return false;
        }
        self.due = due + gap;
        true
    }
}

/// A connection's place among those of its address; given back when dropped.
#[derive(Debug)]
pub struct Here {
    _counted: Counted,
}

/// The same for its handshake.
#[derive(Debug)]
pub struct Shaking {
    _counted: Counted,
}

#[derive(Debug)]
struct Counted {
    sources: Arc<Sources>,
    address: IpAddr,
    handshake: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.sources.state.lock();
        let Some(open) = state.open.get_mut(&self.address) else {
            return;
        };
        let count = match self.handshake {
            true => &mut open.handshakes,
            false => &mut open.connections,
        };
        *count = count.saturating_sub(1);
        if open.connections == 0 && open.handshakes == 0 {
            state.open.remove(&self.address);
        }
    }
}

impl Sources {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let bounds = Bounds::of(limits);
        Arc::new(Self {
            on: AtomicBool::new(bounds.any()),
            state: Mutex::new(State {
                bounds,
                open: HashMap::default(),
                paces: Bounded::new(PACES),
            }),
            began: Instant::now(),
        })
    }

    pub(super) fn renew(&self, limits: &Limits) {
        let bounds = Bounds::of(limits);
        self.state.lock().bounds = bounds;
        self.on.store(bounds.any(), Ordering::Relaxed);
    }

    /// Lets a new connection of `address` in; nothing to hold while there is no bound.
    ///
    /// # Errors
    /// Which bound it is over, as a word.
    pub fn enter(
        self: &Arc<Self>,
        address: IpAddr,
    ) -> Result<Option<(Box<Here>, Shaking)>, &'static str> {
        if !self.on.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let address = place_of(address);
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        let bounds = state.bounds;
        let open = state.open.get(&address).copied().unwrap_or_default();
        let full = |count: u32, max: u32| max > 0 && count >= max;
        if full(open.connections, bounds.connections) {
            return Err("connections_per_address");
        }
        if full(open.handshakes, bounds.handshakes) {
            return Err("handshakes_per_address");
        }
        if bounds.rate > 0 && !state.paces.touch(address, now).take(bounds.rate, now) {
            return Err("connect_rate_per_address");
        }
        let open = state.open.entry(address).or_default();
        open.connections += 1;
        open.handshakes += 1;
        drop(state);
        let counted = |handshake| Counted {
            sources: Arc::clone(self),
            address,
            handshake,
        };
        Ok(Some((
            Box::new(Here {
                _counted: counted(false),
            }),
            Shaking {
                _counted: counted(true),
            },
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(connections: u32, handshakes: u32, rate: u32) -> Arc<Sources> {
        Sources::new(&Limits {
            connections_per_address: connections,
            handshakes_per_address: handshakes,
            connect_rate_per_address: rate,
            ..Limits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_others_are_not_concerned() {
        let sources = sources(2, 0, 0);
        let first = sources.enter(ip("192.0.2.1")).unwrap();
        let _second = sources.enter(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(
            sources.enter(ip("192.0.2.1")).unwrap_err(),
            "connections_per_address"
        );
        let _other = sources.enter(ip("192.0.2.2")).unwrap();
        drop(first);
        assert!(sources.enter(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn a_handshake_that_is_done_makes_room_for_the_next() {
        let sources = sources(0, 1, 0);
        let (_here, shaking) = sources.enter(ip("2001:db8::1")).unwrap().unwrap();
        assert_eq!(
            sources.enter(ip("2001:db8::2")).unwrap_err(),
            "handshakes_per_address",
            "one /64 is one address"
        );
        drop(shaking);
        assert!(sources.enter(ip("2001:db8::2")).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_who_has_nothing_open() {
        let sources = sources(5, 5, 0);
        let all: Vec<_> = (0..200)
            .map(|n| sources.enter(IpAddr::from([10, 0, 0, n])).unwrap())
            .collect();
        assert_eq!(sources.state.lock().open.len(), 200);
        drop(all);
        assert!(sources.state.lock().open.is_empty());
    }

    #[test]
    fn a_rate_holds_with_a_second_of_it_at_once() {
        let mut pace = Pace::default();
        let burst = (0..100).filter(|_| pace.take(10, 0)).count();
        assert_eq!(burst, 10);
        let later = (1..=1_000).filter(|ms| pace.take(10, ms * 1_000)).count();
        assert_eq!(later, 10);
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let sources = sources(0, 0, 0);
        assert!(sources.enter(ip("192.0.2.1")).unwrap().is_none());
    }
}
