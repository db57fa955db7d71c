//! Who asks for too much: bounds by address, wrong logins, bans.
//!
//! - [`sources`]: connections, handshakes under way and new connections per second of one address.
//! - [`logins`]: after wrong passwords the next attempts wait.
//! - [`bans`]: who is kept out, on every replica.
//!
//! Every table here is of fixed size. Addresses of IPv4 count one by one, those of IPv6 by their /64: whoever has one
//! address there has all of them.

pub mod bans;
mod bounded;
mod following;
pub mod logins;
pub mod sources;
mod talk;
pub mod target;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

pub use bans::{Ban, BanError, Bans};
pub use logins::Logins;
pub use sources::{Here, Shaking, Sources};
pub use talk::Talk;
pub use target::Target;

use crate::config::limits::Limits;
use crate::ops::Metrics;

/// What `[bans]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BansConfig {
    /// Wrong logins from one address within a quarter of an hour after which it is banned; 0: never.
    pub after_failures: u32,
    /// For how long, in seconds.
    pub seconds: u32,
}

impl Default for BansConfig {
    fn default() -> Self {
        Self {
            after_failures: 0,
            seconds: 3_600,
        }
    }
}

/// All of it, shared by listeners and connections.
#[derive(Debug)]
pub struct Guard {
    /// By address.
    pub sources: Arc<Sources>,
    /// Wrong logins.
    pub logins: Logins,
    /// Who is kept out.
    pub bans: Arc<Bans>,
    /// How much the log says of it.
    pub talk: Talk,
}

impl Guard {
    /// With these bounds.
    #[must_use]
    pub fn new(limits: &Limits, bans: &BansConfig, metrics: Arc<Metrics>) -> Arc<Self> {
        let guard = Self {
            sources: Sources::new(limits),
            logins: Logins::new(limits.login_failures, limits.login_pause_max),
            bans: Bans::new(metrics),
            talk: Talk::new(),
        };
        guard.bans.set_automatic(bans);
        Arc::new(guard)
    }

    /// Other bounds from now on.
    pub fn renew(&self, limits: &Limits, bans: &BansConfig) {
        self.sources.renew(limits);
        self.logins
            .renew(limits.login_failures, limits.login_pause_max);
        self.bans.set_automatic(bans);
    }
}

/// What counts as one address.
fn place_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
