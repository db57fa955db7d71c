//! Who is kept out.
//!
//! A ban is a record that all replicas share ([`dunlin_sync::records`], table `ban`); each keeps all of them in memory. Its key says
//! whom it is about, so that a replica acts on the announcement alone: before [`Bans::add`] resolves, every live replica refuses
//! the banned one and has told its live connections to end.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dunlin_sync::StoreError;
use dunlin_sync::records::{Record, RecordKey, RecordPut, Records, Table};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::target::{Net, Target};
use super::{BansConfig, following};
use crate::audit::{Event, Kind};
use crate::auth::{Credential, Principal};
use crate::hash::RandomState;
use crate::hub::Hub;
use crate::ops::Metrics;

/// Most bans at once. About 30 MiB with reasons of 100 bytes.
pub const BANS_MAX: usize = 100_000;
/// Longest reason, in bytes.
const REASON_MAX: usize = 256;

/// What is announced along with a ban that was added, and with one that was removed.
pub(super) const ADDED: u8 = 1;
pub(super) const REMOVED: u8 = 2;

/// What is known of a ban, beside whom it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Why, in the words of who added it.
    pub reason: String,
    /// Who added it.
    pub by: String,
    /// When, in Unix milliseconds.
    pub added_at_ms: u64,
    /// When it ends by itself, in Unix milliseconds; kept with the record.
    #[serde(skip)]
    pub until_ms: Option<u64>,
}

/// Why a ban was not added or removed.
#[derive(Debug, thiserror::Error)]
pub enum BanError {
    /// The reason is too long.
    #[error("the reason has {0} bytes: 256 are the most")]
    Reason(usize),
    /// It would be over when it begins.
    #[error(
        "the ban would end before it begins: its end must be in the future, in Unix milliseconds"
    )]
    Past,
    /// As many as may be are there.
    #[error(
        "there are {0} bans already, as many as may be: remove some, or ban a net instead of its addresses"
    )]
    Full(usize),
    /// The broker is not ready for it.
    #[error("the broker has not read its bans yet: try again")]
    NotReady,
    /// The store does not answer as it should.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// The bans, as this replica knows them.
pub struct Bans {
    list: RwLock<List>,
    /// How many there are: mostly none.
    len: AtomicUsize,
    metrics: Arc<Metrics>,
    automatic: [AtomicU32; 2],
    bound: OnceLock<Bound>,
}

struct Bound {
    records: Arc<dyn Records>,
    hub: Weak<Hub>,
}

#[derive(Debug, Default)]
struct List {
    addresses: HashMap<Net, Ban, RandomState>,
    /// How many nets have so many bits.
    lengths: BTreeMap<u8, usize>,
    others: HashMap<Target, Ban, RandomState>,
}

impl std::fmt::Debug for Bans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bans")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl List {
    fn len(&self) -> usize {
        self.addresses.len() + self.others.len()
    }

    fn insert(&mut self, target: Target, ban: Ban) {
        match target {
            Target::Address(net) => {
                if self.addresses.insert(net, ban).is_none() {
                    *self.lengths.entry(net.length()).or_default() += 1;
                }
            }
            other => {
                self.others.insert(other, ban);
            }
        }
    }

    fn remove(&mut self, target: &Target) {
        let Target::Address(net) = target else {
            self.others.remove(target);
            return;
        };
        if self.addresses.remove(net).is_some()
            && let Some(count) = self.lengths.get_mut(&net.length())
        {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&net.length());
            }
        }
    }

    fn holds_address(&self, address: IpAddr, now: u64) -> bool {
        let address = Net::of(address);
        let mut lengths = self.lengths.keys();
        lengths.any(|length| {
            let ban = self.addresses.get(&address.cut(*length));
            ban.is_some_and(|ban| ban.is_on(now))
        })
    }

    fn holds(&self, target: &Target, now: u64) -> bool {
        self.others.get(target).is_some_and(|ban| ban.is_on(now))
    }
}

impl Ban {
    fn is_on(&self, now: u64) -> bool {
        self.until_ms.is_none_or(|until| now < until)
    }

    /// What a record holds; what cannot be read bans nevertheless.
    pub(super) fn of(record: &Record) -> Self {
        let ban: Self = serde_json::from_slice(&record.value).unwrap_or_default();
        Self {
            until_ms: record.expires_at_ms,
            ..ban
        }
    }
}

/// The record of a ban.
fn key(target: &Target) -> RecordKey {
    RecordKey::new(Table::Ban, target.to_string())
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl Bans {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            list: RwLock::default(),
            len: AtomicUsize::new(0),
            metrics,
            automatic: Default::default(),
            bound: OnceLock::new(),
        })
    }

    pub(super) fn set_automatic(&self, config: &BansConfig) {
        let [failures, seconds] = &self.automatic;
        failures.store(config.after_failures, Ordering::Relaxed);
        seconds.store(config.seconds, Ordering::Relaxed);
    }

    /// Reads the bans, and follows what changes from now on. To be called once, before anybody is let in.
    pub(crate) async fn follow(self: &Arc<Self>, hub: &Arc<Hub>) {
        let bound = Bound {
            records: hub.store.records(),
            hub: Arc::downgrade(hub),
        };
        if self.bound.set(bound).is_ok() {
            following::start(self, hub.store.records()).await;
        }
    }

    /// Whether there is any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Whether an address is banned.
    #[must_use]
    pub fn holds_address(&self, address: IpAddr) -> bool {
        !self.is_empty() && self.list.read().holds_address(address, now_ms())
    }

    /// Whether somebody is banned who claims this client id and user name. Nobody else is to be heard under them either.
    #[must_use]
    pub fn holds_claim(&self, client_id: &str, username: Option<&str>) -> bool {
        if self.is_empty() {
            return false;
        }
        let (list, now) = (self.list.read(), now_ms());
        list.holds(&Target::Client(client_id.into()), now)
            || username.is_some_and(|name| list.holds(&Target::User(name.into()), now))
    }

    /// Whether a client is banned, by anything that is known of it.
    #[must_use]
    pub fn holds_client(&self, address: IpAddr, client_id: &str, who: &Principal) -> bool {
        if self.is_empty() {
            return false;
        }
        let (list, now) = (self.list.read(), now_ms());
        let tenant = who.tenant.as_deref();
        let user = who.username.as_deref().map(|name| match tenant {
            Some(tenant) => Target::User(format!("{tenant}/{name}").into()),
            None => Target::User(name.into()),
        });
        let device = who
            .device
            .as_deref()
            .map(|device| match device.contains('/') {
                true => Target::Device(device.into()),
                false => Target::Device(format!("{}/{device}", tenant.unwrap_or_default()).into()),
            });
        let tenant = tenant.map(|tenant| Target::Tenant(tenant.into()));
        let client = Some(Target::Client(client_id.into()));
        let shown = match &who.credential {
            Some(Credential::Token { id: Some(id), .. }) => Some(Target::Token(id.clone())),
            Some(Credential::Certificate { sha256, .. }) => {
                Some(Target::Certificate(crate::net::hex(sha256)))
            }
            _ => None,
        };
        list.holds_address(address, now)
            || [client, user, device, tenant, shown]
                .iter()
                .flatten()
                .any(|target| list.holds(target, now))
    }

    /// All bans that are on.
    #[must_use]
    pub fn list(&self) -> Vec<(Target, Ban)> {
        let (list, now) = (self.list.read(), now_ms());
        let addresses = list.addresses.iter();
        let addresses = addresses.map(|(net, ban)| (Target::Address(*net), ban.clone()));
        let others = list.others.iter();
        let others = others.map(|(target, ban)| (target.clone(), ban.clone()));
        let mut all: Vec<_> = addresses.chain(others).collect();
        all.retain(|(_, ban)| ban.is_on(now));
        all.sort_by_key(|(target, _)| target.to_string());
        all
    }

    /// Bans somebody, or changes a ban. Resolves when every live replica refuses him and has ended his connections.
    ///
    /// # Errors
    /// See [`BanError`]. After an error of the store it is not known whether the ban is there.
    pub async fn add(
        &self,
        target: Target,
        reason: &str,
        until_ms: Option<u64>,
        by: &str,
    ) -> Result<Ban, BanError> {
        let now = now_ms();
        if reason.len() > REASON_MAX {
            return Err(BanError::Reason(reason.len()));
        }
        if until_ms.is_some_and(|until| until <= now) {
            return Err(BanError::Past);
        }
        let len = self.len.load(Ordering::Relaxed);
        if len >= BANS_MAX {
            return Err(BanError::Full(len));
        }
        let bound = self.bound.get().ok_or(BanError::NotReady)?;
        let ban = Ban {
            reason: reason.to_owned(),
            by: by.to_owned(),
            added_at_ms: now,
            until_ms,
        };
        let value = serde_json::to_vec(&ban).unwrap_or_default();
        let put = RecordPut::set(key(&target), value);
        let put = put.until(until_ms).hinting(ADDED);
        bound.records.put_everywhere(vec![put]).await?;
        self.keep(target.clone(), ban.clone());
        self.tell(Kind::Banned, &target, by, |event| {
            let event = event.why(reason);
            match until_ms {
                Some(until) => event.detail("until_ms", until),
                None => event,
            }
        });
        Ok(ban)
    }

    /// Lets somebody in again; false if he was not banned. Resolves when every live replica does.
    ///
    /// # Errors
    /// See [`BanError`]. After an error of the store it is not known whether the ban is there.
    pub async fn remove(&self, target: &Target, by: &str) -> Result<bool, BanError> {
        let bound = self.bound.get().ok_or(BanError::NotReady)?;
        let there = bound.records.get(vec![key(target)]).await?;
        if there.iter().all(Option::is_none) {
            self.forget(target);
            return Ok(false);
        }
        let put = RecordPut::remove(key(target)).hinting(REMOVED);
        bound.records.put_everywhere(vec![put]).await?;
        self.forget(target);
        self.tell(Kind::Unbanned, target, by, |event| event);
        Ok(true)
    }

    fn tell(&self, kind: Kind, target: &Target, by: &str, more: impl FnOnce(Event) -> Event) {
        tracing::info!(%target, by, "{}", kind.as_str());
        if let Some(hub) = self.bound.get().and_then(|bound| bound.hub.upgrade()) {
            let event = Event::new(kind).by(by).target(&target.to_string());
            hub.audit.record(more(event));
        }
    }

    /// So many wrong logins came from an address. Bans it, where that is wanted.
    pub(crate) fn after_failures(self: &Arc<Self>, address: IpAddr, failures: u32) {
        let [wanted, seconds] = &self.automatic;
        let wanted = wanted.load(Ordering::Relaxed);
        // Once for each ban: the address is not heard any more.
        if wanted == 0 || failures < wanted || self.holds_address(address) {
            return;
        }
        let until = now_ms() + u64::from(seconds.load(Ordering::Relaxed)) * 1_000;
        let this = Arc::clone(self);
        let target = Target::Address(Net::of(address));
        let Some(hub) = self.bound.get().and_then(|bound| bound.hub.upgrade()) else {
            return;
        };
        hub.spawn(async move {
            let reason = "too many wrong logins";
            if let Err(error) = this.add(target, reason, Some(until), "broker").await {
                tracing::warn!(%address, %error, "an address could not be banned");
            }
        });
    }

    /// A ban is there.
    pub(super) fn keep(&self, target: Target, ban: Ban) {
        let mut list = self.list.write();
        if list.len() < BANS_MAX {
            list.insert(target, ban);
        }
        self.counted(&list);
    }

    /// A ban has been announced and is not known whole.
    pub(super) fn announced(&self, key: &str) {
        if let Ok(target) = Target::from_str(key) {
            self.keep(target.clone(), Ban::default());
            self.end(&target);
        }
    }

    /// A ban is gone.
    pub(super) fn forget(&self, target: &Target) {
        let mut list = self.list.write();
        list.remove(target);
        self.counted(&list);
    }

    /// These are all of them.
    pub(super) fn replace(&self, all: Vec<(Target, Ban)>) {
        let mut fresh = List::default();
        for (target, ban) in all.into_iter().take(BANS_MAX) {
            fresh.insert(target, ban);
        }
        let mut list = self.list.write();
        *list = fresh;
        self.counted(&list);
        drop(list);
        self.end_all();
    }

    fn counted(&self, list: &List) {
        self.len.store(list.len(), Ordering::SeqCst);
        self.metrics
            .bans
            .set(i64::try_from(list.len()).unwrap_or(i64::MAX));
    }

    fn end(&self, target: &Target) {
        let ended = self.end_where_banned();
        if ended > 0 {
            self.tell(Kind::Ended, target, "broker", |event| {
                event.why("banned").detail("connections", ended)
            });
        }
    }

    fn end_all(&self) {
        if !self.is_empty() {
            let ended = self.end_where_banned();
            if ended > 0 {
                tracing::info!(ended, "connections of who is banned were ended");
            }
        }
    }

    fn end_where_banned(&self) -> usize {
        let Some(hub) = self.bound.get().and_then(|bound| bound.hub.upgrade()) else {
            return 0;
        };
        hub.end_where(crate::hub::live::EndReason::Banned, |client| {
            self.holds_client(client.peer.ip(), &client.client_id, &client.principal)
        })
    }
}

/// How long to wait before the bans are read again after an error.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn bans(all: &[(&str, Option<u64>)]) -> Arc<Bans> {
        let bans = Bans::new(Arc::default());
        let parsed = all.iter().map(|(target, until_ms)| {
            let ban = Ban {
                until_ms: *until_ms,
                ..Ban::default()
            };
            (target.parse().unwrap(), ban)
        });
        bans.replace(parsed.collect());
        bans
    }

    fn somebody() -> Principal {
        Principal {
            tenant: Some("acme".into()),
            device: Some("pump".into()),
            ..Principal::new(crate::auth::Method::Users, Some("ann".into()))
        }
    }

    #[test]
    fn somebody_is_banned_by_each_thing_that_is_known_of_him() {
        let address = IpAddr::from([192, 0, 2, 7]);
        for (target, banned) in [
            ("address:192.0.2.7", true),
            ("address:192.0.2.0/25", true),
            ("address:192.0.2.128/25", false),
            ("client:$tenant/acme/one", true),
            ("client:one", false),
            ("user:acme/ann", true),
            ("user:ann", false),
            ("device:acme/pump", true),
            ("device:/pump", false),
            ("tenant:acme", true),
            ("tenant:other", false),
        ] {
            let bans = bans(&[(target, None)]);
            assert_eq!(
                bans.holds_client(address, "$tenant/acme/one", &somebody()),
                banned,
                "{target}"
            );
        }
    }

    #[test]
    fn one_token_or_certificate_is_banned_alone() {
        let address = IpAddr::from([192, 0, 2, 7]);
        let token = |id: &str| Credential::Token {
            id: Some(id.into()),
            key: None,
        };
        let certificate = |byte| Credential::Certificate {
            sha256: [byte; 32],
            serial: "01".into(),
        };
        let print = format!("certificate:{}", "0a".repeat(32));
        for (target, credential, banned) in [
            ("token:t-1", token("t-1"), true),
            ("token:t-1", token("t-2"), false),
            ("token:t-1", Credential::Password { print: 0 }, false),
            (&*print, certificate(10), true),
            (&*print, certificate(11), false),
        ] {
            let who = Principal {
                credential: Some(credential),
                ..somebody()
            };
            let bans = bans(&[(target, None)]);
            assert_eq!(bans.holds_client(address, "one", &who), banned, "{target}");
        }
    }

    #[test]
    fn a_ban_that_is_over_holds_no_more_and_one_that_is_removed_neither() {
        let address = IpAddr::from([192, 0, 2, 7]);
        let bans = bans(&[
            ("address:192.0.2.7", Some(1)),
            ("address:192.0.2.0/24", None),
        ]);
        assert!(bans.holds_address(address));
        assert_eq!(bans.list().len(), 1);
        bans.forget(&"address:192.0.2.0/24".parse().unwrap());
        assert!(!bans.holds_address(address));
        bans.forget(&"address:192.0.2.7".parse().unwrap());
        assert!(bans.is_empty());
    }
}
