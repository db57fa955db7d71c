//! Who a client is, and what it may do.
//!
//! Several methods stand side by side, and are asked in order ([`Chain`]); without a name a client is anonymous, where that is
//! allowed. A name that was not verified is no name: it cannot match a rule.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use dunlin_protocol::{QoS, ReasonCode, topic};
use parking_lot::Mutex;

pub mod acl;
mod chain;
mod checks;
mod credentials;
pub mod enhanced;
pub mod jwt;
pub mod methods;
pub mod password;
pub mod principal;
pub mod rules;
pub mod scram;
pub mod users;

pub use acl::Acl;
pub use chain::{Authenticator, Chain, Refused, Verdict};
pub use checks::Checks;
pub use credentials::Credentials;
pub use principal::{Credential, Method, Principal};
pub use rules::{Decision, Rules, Who};
pub use users::Users;

use self::methods::Methods;
use crate::net::ClientCertificate;

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
    people: ArcSwap<methods::People>,
    /// The other methods of the configuration.
    configured: Mutex<Configured>,
    keys: ArcSwapOption<methods::Keys>,
    /// Certificates that the lists of some listener revoke: who has signed them, and their serial numbers.
    revoked: ArcSwap<HashMap<Box<str>, Arc<Revoked>>>,
    rules: ArcSwap<Rules>,
    /// Everything is allowed: there is nothing to look up.
    open: AtomicBool,
    generation: AtomicU64,
}

/// Who has signed a certificate, as DER, and its serial number, in hexadecimal digits.
pub type Revoked = HashSet<(Box<[u8]>, Box<str>)>;

/// Methods, and the configuration that they were made of.
#[derive(Default)]
struct Configured {
    of: Methods,
    methods: Vec<Arc<dyn Authenticator>>,
}

impl std::fmt::Debug for Configured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configured")
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}

/// Whether what is known of a name is in `[[auth.user]]`.
fn is_dressed(method: Method) -> bool {
    matches!(method, Method::Users | Method::Scram | Method::Certificate)
}

/// The time, in Unix seconds.
fn now() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_secs())
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
            people: ArcSwap::default(),
            configured: Mutex::default(),
            keys: ArcSwapOption::default(),
            revoked: ArcSwap::default(),
            open: AtomicBool::new(rules.allow_all()),
            rules: ArcSwap::from_pointee(rules),
            generation: AtomicU64::new(0),
        };
        auth.renew_chain();
        auth
    }

    /// Adds a method that the configuration alone cannot make, such as the registry.
    pub fn add(&self, method: Arc<dyn Authenticator>) {
        self.added.lock().put(method);
        self.renew_chain();
    }

    /// Takes out what was added.
    pub fn remove(&self, method: Method) {
        self.added.lock().remove(method);
        self.renew_chain();
    }

    fn renew_chain(&self) {
        // Held, so that two changes at once do not lose one.
        let added = self.added.lock();
        let mut chain = added.clone();
        let people = self.people.load_full();
        chain.put(Arc::new(methods::Certificate(Arc::clone(&people))));
        if let Some(users) = self.users.load_full() {
            let checks = Arc::clone(&self.checks);
            chain.put(Arc::new(methods::UsersMethod::new(users, checks, people)));
        }
        let configured = self.configured.lock();
        for method in configured.methods.iter().cloned() {
            chain.put(method);
        }
        drop(configured);
        self.chain.store(Arc::new(chain));
    }

    /// From now on these are the methods beside the users file. What one of them has found out stays where its part of the configuration is
    /// the same.
    ///
    /// # Errors
    /// When one of them cannot be made; then nothing has changed.
    pub fn set_methods(&self, new: &Methods) -> Result<(), String> {
        let mut configured = self.configured.lock();
        let mut made: Vec<Arc<dyn Authenticator>> = Vec::new();
        let mut keys = None;
        if let Some((config, own)) = &new.jwt {
            let same = configured.of.jwt == new.jwt;
            let known = self.keys.load_full().filter(|_| same);
            let these = match known {
                Some(known) => known,
                None => Arc::new(methods::Keys::new(config, own.clone())?),
            };
            keys = Some(Arc::clone(&these));
            made.push(Arc::new(methods::Jwt::new(config.clone(), these)));
        }
        if let Some((config, token)) = &new.http {
            let known = configured.of.http == new.http;
            let known = configured
                .methods
                .iter()
                .find(|method| known && method.method() == Method::Http);
            made.push(match known {
                Some(known) => Arc::clone(known),
                None => Arc::new(methods::Hook::new(config.clone(), token.as_ref())?),
            });
        }
        configured.of = new.clone();
        configured.methods = made;
        drop(configured);
        self.keys.store(keys);
        self.people
            .store(Arc::new(methods::People::new(&new.people)));
        self.renew_chain();
        Ok(())
    }

    /// Does what the methods need done now and then; true when some of what clients were let in with is no longer good. Cancel safe.
    pub async fn keep(&self) -> bool {
        match self.keys.load_full() {
            Some(keys) => keys.keep().await,
            None => false,
        }
    }

    /// From now on the lists of a listener revoke these; false when they did already.
    pub fn set_revoked(&self, listener: &str, revoked: Arc<Revoked>) -> bool {
        let known = self.revoked.load();
        let before = known.get(listener);
        if before == Some(&revoked) || before.is_none() && revoked.is_empty() {
            return false;
        }
        let mut all = HashMap::clone(&known);
        all.insert(listener.into(), revoked);
        self.revoked.store(Arc::new(all));
        true
    }

    fn chain(&self) -> Arc<Chain> {
        self.chain.load_full()
    }

    fn users(&self) -> Option<Arc<Users>> {
        self.users.load_full()
    }

    fn people(&self) -> Arc<methods::People> {
        self.people.load_full()
    }

    /// From now on these hold. Who is connected stays; what it does next is judged by the new rules.
    pub fn renew(&self, users: Option<Users>, rules: Rules) {
        self.users.store(users.map(Arc::new));
        self.renew_chain();
        self.renew_rules(rules);
    }

    /// From now on these are the rules. Whoever is connected is to be looked at again
    /// (`Hub::recheck_all`).
    pub fn renew_rules(&self, rules: Rules) {
        // Never open for a moment in between.
        self.open.store(false, Ordering::Relaxed);
        let open = rules.allow_all();
        self.rules.store(Arc::new(rules));
        self.open.store(open, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::AcqRel);
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
        let principal = self.chain().ask(credentials).await?;
        self.checked(principal, credentials)
    }

    /// A certificate binds its owner also where somebody else has said who that is: a handshake that resumes an older one does not look
    /// again whether it has expired or was revoked.
    fn checked(
        &self,
        principal: Arc<Principal>,
        credentials: &Credentials,
    ) -> Result<Arc<Principal>, Refused> {
        let Some(certificate) = &credentials.certificate else {
            return Ok(principal);
        };
        let refused = |why| Refused {
            reason: ReasonCode::NOT_AUTHORIZED,
            why,
        };
        if self.is_revoked(certificate) {
            return Err(refused("the certificate was revoked"));
        }
        let end = u64::try_from(certificate.not_after).unwrap_or_default();
        if end <= now() {
            return Err(refused("the certificate has expired"));
        }
        if principal.expires_at.is_some_and(|sooner| sooner <= end) {
            return Ok(principal);
        }
        let mut principal = Principal::clone(&principal);
        principal.expires_at = Some(end);
        Ok(Arc::new(principal))
    }

    fn is_revoked(&self, certificate: &ClientCertificate) -> bool {
        let all = self.revoked.load();
        let key = (certificate.issuer.clone(), certificate.serial.clone());
        all.values().any(|revoked| revoked.contains(&key))
    }

    /// Whether what a client was let in with still holds, as far as that can be told without asking it again. Asked when
    /// something has been withdrawn, also while the client was on its way in.
    #[must_use]
    pub fn holds(&self, who: &Principal, certificate: Option<&ClientCertificate>) -> bool {
        if certificate.is_some_and(|certificate| self.is_revoked(certificate))
            || who.expires_at.is_some_and(|end| end <= now())
        {
            return false;
        }
        let name = who.username.as_deref().unwrap_or_default();
        if is_dressed(who.method) && self.people.load().is_moved(who) {
            return false;
        }
        match (who.method, &who.credential) {
            (Method::Users | Method::Scram, Some(Credential::Password { print })) => {
                let users = self.users.load();
                users.as_ref().and_then(|users| users.print(name)) == Some(*print)
            }
            (Method::Jwt, Some(Credential::Token { key: Some(key), .. })) => {
                let keys = self.keys.load();
                keys.as_ref().is_some_and(|keys| keys.has(key))
            }
            _ => true,
        }
    }

    /// The same client with the roles that its name has now; `None`: they are the same.
    #[must_use]
    pub fn renewed(&self, who: &Principal) -> Option<Arc<Principal>> {
        if !is_dressed(who.method) {
            return None;
        }
        let roles = self.people.load().roles(who);
        (roles != who.roles).then(|| {
            let mut renewed = who.clone();
            renewed.roles = roles;
            Arc::new(renewed)
        })
    }

    /// Whether everybody may do everything: there is nothing to look at.
    #[must_use]
    pub fn allows_all(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether a client may do something with a topic name, or with a topic filter as it was sent (`$share/…` included), both
    /// without what stands for its tenant.
    #[must_use]
    pub fn decide(&self, who: Who<'_>, action: Action, topic: &str) -> Decision {
        if self.allows_all() && who.principal.policy.is_none() {
            let (Action::Subscribe { qos } | Action::Publish { qos, .. }) = action;
            let reserved = who.principal.tenant.is_none() && rules::is_of_tenants(plain(topic));
            return match reserved {
                true => Decision::Denied,
                false => Decision::Granted(qos),
            };
        }
        self.rules.load().decide(who, action, topic)
    }

    /// Rises whenever rules change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// The filter inside a shared subscription.
fn plain(filter: &str) -> &str {
    match topic::parse_shared(filter) {
        Ok(Some(shared)) => shared.filter,
        _ => filter,
    }
}
