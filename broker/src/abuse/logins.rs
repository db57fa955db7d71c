//! After wrong passwords the next attempts wait, and longer each time.
//!
//! Three things are counted: a name from an address (`login_failures` wrong ones are free, then each doubles the pause, from one
//! second up to `login_pause_max`), an address with whatever names, and a name from wherever (twenty times as many are free;
//! an address pauses for ten seconds at the most, as others may be behind it). Who asks during a pause is refused without its
//! password being looked at, and that is no failure: pauses end.
//!
//! A name that has logged in from an address within a day is known there: what others do from that address, or with that
//! name from elsewhere, is not held against it. So an attacker behind the same NAT does not keep out those who were there
//! before, and nobody's account is shut by wrong passwords from elsewhere. Who is new behind an address that sprays
//! names has to share its ten-second turns. Nobody can tell two people with one name behind one address apart: they share a pause.
//!
//! A token cannot be guessed, and many clients may send one user name with theirs: it counts for the client id.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bounded::Bounded;
use super::place_of;
use crate::hash::RandomState;

/// Entries of each of the three tables. About 6 MiB for each when all are used.
const ENTRIES: usize = 65_536;
/// Failures are forgotten when nothing was wrong for so long.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// For how long a name is known at an address.
const KNOWN: Duration = Duration::from_secs(24 * 3_600);
/// So many times as many failures are free for an address, and for a name.
const SHARED: u32 = 20;
/// Longest pause of an address.
const ADDRESS_PAUSE: Duration = Duration::from_secs(10);

/// See [the module](self).
#[derive(Debug)]
pub struct Logins {
    state: Mutex<State>,
    hasher: RandomState,
    began: Instant,
}

#[derive(Debug)]
struct State {
    free: u32,
    longest: Duration,
    pairs: Bounded<u64, Pair>,
    addresses: Bounded<IpAddr, Failures>,
    names: Bounded<u64, Failures>,
}

#[derive(Debug, Default)]
struct Pair {
    failures: Failures,
    /// When the right password last came, in milliseconds.
    known: Option<u64>,
}

/// In milliseconds since the start.
#[derive(Debug, Default, Clone, Copy)]
struct Failures {
    count: u32,
    last: u64,
    until: u64,
}

impl Failures {
    fn add(&mut self, free: u32, longest: Duration, now: u64) {
        if now.saturating_sub(self.last) > millis(FORGOTTEN) {
            *self = Self::default();
        }
        self.count = self.count.saturating_add(1);
        self.last = now;
        if let Some(over) = self.count.checked_sub(free.saturating_add(1)) {
            let pause = 1_000_u64.saturating_mul(1 << over.min(20));
            self.until = now + pause.min(millis(longest));
        }
    }

    fn pause(self, now: u64) -> Option<Duration> {
        let left = self.until.checked_sub(now)?;
        (left > 0).then(|| Duration::from_millis(left))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An attempt that may go on.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    pair: u64,
    name: u64,
    address: IpAddr,
    known: bool,
}

impl Attempt {
    /// Whether this name has logged in from this address lately.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }
}

impl Logins {
    pub(super) fn new(free: u32, longest_seconds: u32) -> Self {
        Self {
            state: Mutex::new(State {
                free,
                longest: Duration::from_secs(longest_seconds.into()),
                pairs: Bounded::new(ENTRIES),
                addresses: Bounded::new(ENTRIES),
                names: Bounded::new(ENTRIES),
            }),
            hasher: RandomState::default(),
            began: Instant::now(),
        }
    }

    pub(super) fn renew(&self, free: u32, longest_seconds: u32) {
        let mut state = self.state.lock();
        state.free = free;
        state.longest = Duration::from_secs(longest_seconds.into());
    }

    /// Whether a login of `name` from `address` may be looked at.
    ///
    /// # Errors
    /// For how long not.
    pub fn ask(&self, address: IpAddr, name: &str) -> Result<Attempt, Duration> {
        self.ask_at(address, name, self.now())
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn ask_at(&self, address: IpAddr, name: &str, now: u64) -> Result<Attempt, Duration> {
        let address = place_of(address);
        let name = self.hasher.hash_one(name);
        let pair = self.hasher.hash_one((address, name));
        let state = self.state.lock();
        let of_pair = state.pairs.get(&pair);
        let known = of_pair
            .and_then(|pair| pair.known)
            .is_some_and(|known| now.saturating_sub(known) < millis(KNOWN));
        let attempt = Attempt {
            pair,
            name,
            address,
            known,
        };
        if state.free == 0 {
            return Ok(attempt);
        }
        let mut pause = of_pair.and_then(|pair| pair.failures.pause(now));
        if !known {
            let of_address = state.addresses.get(&address);
            let of_name = state.names.get(&name);
            let others = [of_address, of_name].into_iter().flatten();
            pause = others
                .filter_map(|failures| failures.pause(now))
                .chain(pause)
                .max();
        }
        pause.map_or(Ok(attempt), Err)
    }

    /// It was wrong. Gives back how many were, from this address.
    pub fn failed(&self, attempt: Attempt) -> u32 {
        self.failed_at(attempt, self.now())
    }

    fn failed_at(&self, attempt: Attempt, now: u64) -> u32 {
        let mut state = self.state.lock();
        let (free, longest) = (state.free, state.longest);
        if free == 0 {
            return 0;
        }
        let shared = free.saturating_mul(SHARED);
        let pair = state.pairs.touch(attempt.pair, now);
        pair.failures.add(free, longest, now);
        let name = state.names.touch(attempt.name, now);
        name.add(shared, longest, now);
        let address = state.addresses.touch(attempt.address, now);
        address.add(shared, longest.min(ADDRESS_PAUSE), now);
        address.count
    }

    /// It was right. What else came from that address, or with that name from elsewhere, stays as it is: an attacker may have
    /// an account of his own.
    pub fn succeeded(&self, attempt: Attempt) {
        self.succeeded_at(attempt, self.now());
    }

    fn succeeded_at(&self, attempt: Attempt, now: u64) {
        let mut state = self.state.lock();
        if state.free > 0 {
            *state.pairs.touch(attempt.pair, now) = Pair {
                failures: Failures::default(),
                known: Some(now),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "192.0.2.1";
    const ELSEWHERE: &str = "198.51.100.1";

    impl Logins {
        fn wrong(&self, address: &str, name: &str, now: u64) -> bool {
            let attempt = self.ask_at(address.parse().unwrap(), name, now);
            attempt.map(|attempt| self.failed_at(attempt, now)).is_ok()
        }

        fn right(&self, address: &str, name: &str, now: u64) -> bool {
            let attempt = self.ask_at(address.parse().unwrap(), name, now);
            attempt
                .map(|attempt| self.succeeded_at(attempt, now))
                .is_ok()
        }
    }

    #[test]
    fn pauses_double_and_have_an_end() {
        let logins = Logins::new(3, 60);
        let mut looked_at = Vec::new();
        for second in 0..600 {
            if logins.wrong(HOME, "ann", second * 1_000) {
                looked_at.push(second);
            }
        }
        let expected = [
            0, 1, 2, 3, 4, 6, 10, 18, 34, 66, 126, 186, 246, 306, 366, 426, 486, 546,
        ];
        assert_eq!(looked_at, expected);
    }

    #[test]
    fn the_right_password_is_good_after_the_pause_and_clears_it() {
        let logins = Logins::new(3, 60);
        for _ in 0..4 {
            assert!(logins.wrong(HOME, "ann", 0));
        }
        assert!(!logins.right(HOME, "ann", 900));
        assert!(logins.right(HOME, "ann", 1_000));
        assert!(logins.wrong(HOME, "ann", 1_001));
        assert!(logins.right(HOME, "ann", 1_002));
    }

    #[test]
    fn wrong_passwords_behind_a_nat_do_not_keep_out_who_was_there_before() {
        let logins = Logins::new(3, 60);
        assert!(logins.right(HOME, "ann", 0));
        let mut looked_at = 0;
        for name in 0..10_000 {
            looked_at += usize::from(logins.wrong(HOME, &format!("guess-{name}"), 1_000 + name));
        }
        assert!(looked_at < 70, "{looked_at} of a spray were looked at");
        assert!(logins.right(HOME, "ann", 12_000));
        assert!(!logins.right(HOME, "new", 12_000), "who is new waits");
        assert!(logins.right(HOME, "new", 22_000), "for ten seconds");
        assert!(logins.right(ELSEWHERE, "new", 12_000));
    }

    #[test]
    fn wrong_passwords_from_everywhere_do_not_shut_an_account_for_its_owner() {
        let logins = Logins::new(3, 60);
        assert!(logins.right(HOME, "ann", 0));
        let mut looked_at = 0;
        for n in 0..10_000_u32 {
            let address = IpAddr::from((0x0A00_0000 + n).to_be_bytes()).to_string();
            looked_at += usize::from(logins.wrong(&address, "ann", 1_000 + u64::from(n)));
        }
        assert!(looked_at < 70, "{looked_at} guesses were looked at");
        assert!(logins.right(HOME, "ann", 12_000));
        assert!(logins.right(ELSEWHERE, "bob", 12_000));
    }

    #[test]
    fn what_was_wrong_long_ago_is_forgotten_and_zero_switches_it_off() {
        let logins = Logins::new(3, 60);
        for _ in 0..3 {
            assert!(logins.wrong(HOME, "ann", 0));
        }
        let later = millis(FORGOTTEN) + 1;
        for _ in 0..3 {
            assert!(logins.wrong(HOME, "ann", later));
        }
        let off = Logins::new(0, 60);
        assert!((0..1_000).all(|_| off.wrong(HOME, "ann", 0)));
    }
}
