//! Who a client is, and what it may do.
//!
//! Several methods stand side by side, and are asked in order ([`chain`]); without a name a client is anonymous, where that is
//! allowed. A name that was not verified is no name: it cannot match a rule.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use dunlin_protocol::QoS;
use parking_lot::Mutex;

mod chain;
mod checks;
mod credentials;
pub mod jwt;
pub mod methods;
pub mod password;
pub mod principal;
pub mod rules;
pub mod scram;
pub mod users;

pub use chain::{Authenticator, Chain, Refused, Verdict};
pub use checks::Checks;
pub use credentials::Credentials;
pub use principal::{Credential, Method, Principal};
pub use rules::Rules;
pub use users::Users;

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

/// Decides who may connect, and do what. Cheap to ask.
#[derive(Debug)]
pub struct Auth {
    /// The methods of the configuration, and those that others have added.
    chain: ArcSwap<Chain>,
    added: Mutex<Chain>,
    users: ArcSwapOption<Users>,
    checks: Arc<Checks>,
    rules: ArcSwap<Rules>,
    /// Everything is allowed: there is nothing to look up.
    open: AtomicBool,
}

impl Auth {
    /// `checks` password checks run at once; a client waits for its turn at most `patience`.
    #[must_use]
    pub fn new(users: Option<Users>, rules: Rules, checks: usize, patience: Duration) -> Self {
        let auth = Self {
            chain: ArcSwap::default(),
            added: Mutex::default(),
            users: ArcSwapOption::new(users.map(Arc::new)),
            checks: Checks::new(checks, patience),
            open: AtomicBool::new(rules.allow_all()),
            rules: ArcSwap::from_pointee(rules),
        };
        auth.renew_chain();
        auth
    }

    /// Adds a method that the configuration alone cannot make, such as the registry.
    pub fn add(&self, method: Arc<dyn Authenticator>) {
        self.added.lock().put(method);
        self.renew_chain();
    }

    fn renew_chain(&self) {
        // Held, so that two changes at once do not lose one.
        let added = self.added.lock();
        let mut chain = added.clone();
        chain.put(Arc::new(methods::Certificate));
        if let Some(users) = self.users.load_full() {
            let checks = Arc::clone(&self.checks);
            chain.put(Arc::new(methods::UsersMethod::new(users, checks)));
        }
        self.chain.store(Arc::new(chain));
    }

    /// From now on these hold. Who is connected stays; what it does next is judged by the new rules.
    pub fn renew(&self, users: Option<Users>, rules: Rules) {
        self.users.store(users.map(Arc::new));
        self.renew_chain();
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
        self.renew_chain();
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
    /// What the client is told: 0x86 for a wrong name or password, 0x87 where a name is needed, 0x89
    /// when so many checks wait that its own would come too late, 0x80 when the check itself failed.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Arc<Principal>, Refused> {
        let chain = self.chain.load_full();
        chain.ask(credentials).await
    }

    /// Whether what a client was let in with still holds, as far as that can be told without asking it again. Asked when
    /// something has been withdrawn while it was on its way in.
    #[must_use]
    pub fn holds(&self, _who: &Principal) -> bool {
        true
    }

    /// Whether everybody may do everything: there is nothing to look at.
    #[must_use]
    pub fn allows_all(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether a client may do something with a topic name, or with a topic filter as it was sent
    /// (`$share/…` included). Without rules this is one comparison.
    #[must_use]
    pub fn allows(&self, who: &Principal, client_id: &str, action: Action, topic: &str) -> bool {
        self.allows_all()
            || self
                .rules
                .load()
                .allow(who.username.as_deref(), client_id, action, topic)
    }
}
