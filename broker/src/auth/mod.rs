//! Who a client is, and what it may do.
//!
//! The name comes from the client's certificate where the listener takes it from there, else from the
//! users file; without a name a client is anonymous, where that is allowed. A name that was not
//! verified is no name: it cannot match a rule.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use dunlin_protocol::{QoS, ReasonCode};
use tokio::sync::{Semaphore, SemaphorePermit};

pub mod password;
pub mod principal;
pub mod rules;
pub mod users;

use crate::net::ListenerInfo;
pub use principal::{Credential, Method, Principal};
pub use rules::Rules;
pub use users::Users;

/// What a client shows of itself.
#[derive(Clone)]
pub struct Credentials {
    /// The client id, given or assigned.
    pub client_id: Arc<str>,
    /// The user name of CONNECT.
    pub username: Option<Arc<str>>,
    /// The password of CONNECT.
    pub password: Option<Vec<u8>>,
    /// The name in the client's certificate.
    pub tls_name: Option<Arc<str>>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Where it came in.
    pub listener: Arc<ListenerInfo>,
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Publish to a topic, or have a will there.
    Publish {
        /// At which QoS.
        qos: QoS,
        /// Whether it is to be retained.
        retain: bool,
    },
    /// Subscribe to a filter.
    Subscribe {
        /// At which QoS.
        qos: QoS,
    },
}

/// Counts one that waits.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        let ahead = count.fetch_add(1, Ordering::Relaxed);
        Self { count, ahead }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Decides who may connect, and do what. Cheap to ask.
#[derive(Debug)]
pub struct Auth {
    users: ArcSwapOption<Users>,
    rules: ArcSwap<Rules>,
    /// Everything is allowed: there is nothing to look up.
    open: AtomicBool,
    checks: Semaphore,
    checks_max: usize,
    /// Checks that wait for their turn.
    waiting: AtomicUsize,
    /// What one takes, in microseconds: seven parts of what was known, one of the newest.
    takes_us: AtomicU64,
    patience: Duration,
}

impl Auth {
    /// `checks` password checks run at once; a client waits for its turn at most `patience`.
    #[must_use]
    pub fn new(users: Option<Users>, rules: Rules, checks: usize, patience: Duration) -> Self {
        Self {
            users: ArcSwapOption::new(users.map(Arc::new)),
            open: AtomicBool::new(rules.allow_all()),
            rules: ArcSwap::from_pointee(rules),
            checks: Semaphore::new(checks.max(1)),
            checks_max: checks.max(1),
            waiting: AtomicUsize::new(0),
            takes_us: AtomicU64::new(0),
            patience,
        }
    }

    /// From now on these hold. Who is connected stays; what it does next is judged by the new rules.
    pub fn renew(&self, users: Option<Users>, rules: Rules) {
        self.users.store(users.map(Arc::new));
        // Never open for a moment in between.
        self.open.store(false, Ordering::Relaxed);
        let open = rules.allow_all();
        self.rules.store(Arc::new(rules));
        self.open.store(open, Ordering::Relaxed);
    }

    /// From now on these are the users; false when they are the same.
    pub fn renew_users(&self, users: Users) -> bool {
        if self.users.load().as_deref() == Some(&users) {
            return false;
        }
        self.users.store(Some(Arc::new(users)));
        true
    }

    /// Lets everybody in and allows everything, for tests.
    #[must_use]
    pub fn open() -> Self {
        Self::new(None, Rules::default(), 1, Duration::from_secs(10))
    }

    /// Settles who a client is. Cancel safe: a check that has begun goes on by itself.
    ///
    /// # Errors
    /// The reason for CONNACK: 0x86 for a wrong name or password, 0x87 where a name is needed, 0x89
    /// when so many checks wait that its own would come too late, 0x80 when the check itself failed.
    pub async fn authenticate(
        &self,
        credentials: Credentials,
    ) -> Result<Arc<Principal>, ReasonCode> {
        if let Some(name) = credentials.tls_name {
            return Ok(Arc::new(Principal::new(Method::Certificate, Some(name))));
        }
        let anonymous = credentials.listener.anonymous;
        match (credentials.username, self.users.load_full()) {
            (Some(name), Some(users)) => {
                let password = credentials
                    .password
                    .ok_or(ReasonCode::BAD_USER_NAME_OR_PASSWORD)?;
                self.check(users, Arc::clone(&name), password).await?;
                Ok(Arc::new(Principal::new(Method::Users, Some(name))))
            }
            // Nobody can verify the name, so it is none.
            (Some(_), None) if anonymous => Ok(Principal::anonymous()),
            (Some(_), None) => Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            (None, _) if anonymous => Ok(Principal::anonymous()),
            (None, _) => Err(ReasonCode::NOT_AUTHORIZED),
        }
    }

    async fn check(
        &self,
        users: Arc<Users>,
        name: Arc<str>,
        password: Vec<u8>,
    ) -> Result<(), ReasonCode> {
        let _turn = self.turn().await.ok_or(ReasonCode::SERVER_BUSY)?;
        let began = Instant::now();
        let verified = tokio::task::spawn_blocking(move || users.verify(&name, &password)).await;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let known = self.takes_us.load(Ordering::Relaxed);
        let newer = if known == 0 {
            took
        } else {
            known / 8 * 7 + took / 8
        };
        self.takes_us.store(newer, Ordering::Relaxed);
        match verified {
            Ok(true) => Ok(()),
            Ok(false) => Err(ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            Err(error) => {
                tracing::error!(%error, "a password check failed to run");
                Err(ReasonCode::UNSPECIFIED_ERROR)
            }
        }
    }

    /// The permission to check; `None` when it would come too late. Who would wait for longer than half the patience is
    /// refused at once, and knows it: in a storm the others are checked in time, instead of all just too late.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.checks.try_acquire() {
            return Some(permit);
        }
        let waiting = Waiting::new(&self.waiting);
        let ahead = u64::try_from(waiting.ahead / self.checks_max).unwrap_or(u64::MAX);
        let wait = ahead.saturating_mul(self.takes_us.load(Ordering::Relaxed));
        if Duration::from_micros(wait) > self.patience / 2 {
            return None;
        }
        let turn = tokio::time::timeout(self.patience, self.checks.acquire());
        turn.await.ok()?.ok()
    }

    /// Whether a client may do something with a topic name, or with a topic filter as it was sent
    /// (`$share/…` included). Without rules this is one comparison.
    #[must_use]
    pub fn allows(&self, who: &Principal, client_id: &str, action: Action, topic: &str) -> bool {
        self.open.load(Ordering::Relaxed)
            || self
                .rules
                .load()
                .allow(who.username.as_deref(), client_id, action, topic)
    }
}
