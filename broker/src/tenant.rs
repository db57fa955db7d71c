//! Tenants: whose topics, client ids, shared groups and retained messages are apart from everybody else's, and bounds on what
//! all clients of one use together.
//!
//! Connections and rates are counted by each replica for itself: with clients spread evenly, the cluster lets through as many
//! times the bound as it has replicas. Stored sessions and retained messages are those of the whole cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dunlin_protocol::ReasonCode;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::config::{Quotas, TenantConfig};
use crate::core::mount::{Mount, check_name};
use crate::hash::RandomState;
use crate::ops::Metrics;

/// The name in the configuration of the tenants that have no entry of their own.
pub(crate) const OTHERS: &str = "*";
/// Tenants that may come up without an entry of their own.
const OTHERS_MAX: usize = 100_000;

/// All tenants that have been seen, by name.
pub(crate) struct Tenants {
    metrics: Arc<Metrics>,
    known: Mutex<HashMap<Arc<str>, Arc<Tenant>, RandomState>>,
    configured: ArcSwap<HashMap<Arc<str>, Quotas, RandomState>>,
}

/// One tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) mount: Arc<Mount>,
    quotas: ArcSwap<Quotas>,
    /// It has an entry of its own, and so its own line in metrics.
    named: bool,
    connections: AtomicUsize,
    /// Stored sessions.
    sessions: AtomicUsize,
    flow: Mutex<Flow>,
    counts: Counts,
    /// Bytes that wait in the queues of its sessions here, as they were counted last.
    queued: AtomicU64,
}

/// What a tenant's clients have done. Tenants without an entry of their own count together.
#[derive(Debug)]
struct Counts {
    publishes: Counter,
    publish_bytes: Counter,
    refused: Counter,
    slowed: Counter,
}

impl Counts {
    fn new(metrics: &Metrics, shown_as: &str) -> Self {
        let label = [("tenant", shown_as.to_owned())];
        Self {
            publishes: metrics.tenant_publishes.get_or_create_owned(&label),
            publish_bytes: metrics.tenant_publish_bytes.get_or_create_owned(&label),
            refused: metrics.tenant_refused.get_or_create_owned(&label),
            slowed: metrics.tenant_slowed.get_or_create_owned(&label),
        }
    }
}

/// Buckets that hold one second's worth of messages and bytes; negative after a read that brought more.
#[derive(Debug)]
struct Flow {
    messages: f64,
    bytes: f64,
    updated: Option<Instant>,
}

/// A client's place in its tenant; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Tenant>);

impl std::ops::Deref for Place {
    type Target = Arc<Tenant>;
    fn deref(&self) -> &Arc<Tenant> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tenants {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            known: Mutex::default(),
            configured: ArcSwap::default(),
        }
    }

    /// From now on these are the tenants and their bounds. Whoever is connected stays.
    pub(crate) fn configure(&self, tenants: &[TenantConfig]) {
        let all = tenants
            .iter()
            .map(|tenant| (Arc::from(&*tenant.name), tenant.quotas));
        let all: HashMap<Arc<str>, Quotas, RandomState> = all.collect();
        for (name, tenant) in self.known.lock().iter() {
            if let Some(quotas) = all.get(name).or_else(|| all.get(OTHERS)) {
                tenant.quotas.store(Arc::new(*quotas));
            }
        }
        let named: Vec<_> = all
            .keys()
            .filter(|name| ***name != *OTHERS)
            .cloned()
            .collect();
        self.configured.store(Arc::new(all));
        for name in named {
            // Shown from the start, so that an alert has something to look at. A name that cannot be one was refused before.
            let Ok(tenant) = self.find(&name) else {
                continue;
            };
            self.metrics.tenant(&tenant.mount.name);
        }
    }

    /// The tenant of that name.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Tenant>, String> {
        check_name(name)?;
        let configured = self.configured.load();
        let own = configured.get(name);
        let Some(quotas) = own.or_else(|| configured.get(OTHERS)) else {
            return Err(format!(
                "there is no tenant {name:?}: add [[tenant]] with name = {name:?}, or with name = \"*\" for all that have no entry"
            ));
        };
        let mut known = self.known.lock();
        if let Some(tenant) = known.get(name) {
            return Ok(tenant.clone());
        }
        if own.is_none() && known.len() >= OTHERS_MAX {
            return Err(format!(
                "{OTHERS_MAX} tenants without an entry of their own are known already"
            ));
        }
        let name: Arc<str> = Arc::from(name);
        let tenant = Arc::new(Tenant {
            mount: Arc::new(Mount::new(name.clone())),
            quotas: ArcSwap::from_pointee(*quotas),
            named: own.is_some(),
            connections: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            flow: Mutex::new(Flow {
                messages: 0.0,
                bytes: 0.0,
                updated: None,
            }),
            counts: Counts::new(&self.metrics, if own.is_some() { &name } else { OTHERS }),
            queued: AtomicU64::new(0),
        });
        known.insert(name, tenant.clone());
        Ok(tenant)
    }

    /// The tenant of that name, if there has been anything of it here.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<Tenant>> {
        self.known.lock().get(name).cloned()
    }

    /// Whether the tenant has an entry of its own in the configuration.
    pub(crate) fn has_entry(&self, name: &str) -> bool {
        self.configured.load().contains_key(name)
    }

    /// The bounds of each of those that have no entry of their own; `None`: there can be none.
    pub(crate) fn quotas_of_others(&self) -> Option<Quotas> {
        self.configured.load().get(OTHERS).copied()
    }

    /// All that are known.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.known.lock().values().cloned().collect()
    }

    /// Whether any is known.
    pub(crate) fn are_there(&self) -> bool {
        !self.known.lock().is_empty()
    }

    /// Whether a tenant has a bound on what waits for its clients.
    pub(crate) fn count_queues(&self) -> bool {
        let configured = self.configured.load();
        configured
            .values()
            .any(|quotas| quotas.max_queued_bytes > 0)
    }

    /// Takes note of what waits for whom, and shows all figures. `retained`: number and bytes of a tenant's retained messages.
    pub(crate) fn show(
        &self,
        queued: &HashMap<Box<str>, u64, RandomState>,
        retained: impl Fn(&str) -> (usize, u64),
    ) {
        // Clients, sessions, retained messages and their bytes, queued bytes.
        let mut sums: HashMap<&str, [u64; 5], RandomState> = HashMap::default();
        let all = self.all();
        for tenant in &all {
            let name = &*tenant.mount.name;
            let waits = queued.get(name).copied().unwrap_or(0);
            tenant.queued.store(waits, Ordering::Relaxed);
            let (messages, bytes) = retained(name);
            let shown_as = if tenant.named { name } else { OTHERS };
            let now = [
                tenant.connections() as u64,
                tenant.sessions() as u64,
                messages as u64,
                bytes,
                waits,
            ];
            let sum = sums.entry(shown_as).or_default();
            for (sum, now) in sum.iter_mut().zip(now) {
                *sum += now;
            }
        }
        let families = [
            &self.metrics.tenant_clients,
            &self.metrics.tenant_sessions,
            &self.metrics.tenant_retained,
            &self.metrics.tenant_retained_bytes,
            &self.metrics.tenant_queued_bytes,
        ];
        for (tenant, figures) in sums {
            for (family, figure) in families.into_iter().zip(figures) {
                let gauge = family.get_or_create_owned(&[("tenant", tenant.to_owned())]);
                gauge.set(i64::try_from(figure).unwrap_or(i64::MAX));
            }
        }
    }

    /// Stored sessions of a tenant have come or gone. `client_id` is one as it is inside.
    pub(crate) fn session_stored(&self, client_id: &str, come: bool) {
        let Some((name, _)) = crate::core::mount::split(client_id) else {
            return;
        };
        // One whose entry is gone has no bounds any more.
        let Ok(tenant) = self.find(name) else { return };
        match come {
            true => tenant.sessions.fetch_add(1, Ordering::Relaxed),
            false => tenant
                .sessions
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sessions| {
                    Some(sessions.saturating_sub(1))
                })
                .unwrap_or_default(),
        };
    }
}

impl Tenant {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Publishes and their bytes that its clients have sent. Tenants without an entry of their own have no figures of their own.
    pub(crate) fn published_so_far(&self) -> [u64; 2] {
        match self.named {
            true => [self.counts.publishes.get(), self.counts.publish_bytes.get()],
            false => [0, 0],
        }
    }

    /// The same, with what was refused, and how often a client was not read from.
    pub(crate) fn totals(&self) -> Option<[u64; 4]> {
        let [publishes, bytes] = self.published_so_far();
        let [refused, slowed] = [self.counts.refused.get(), self.counts.slowed.get()];
        self.named.then_some([publishes, bytes, refused, slowed])
    }

    /// Bytes that wait in the queues of its sessions here, as they were counted last.
    pub(crate) fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// The bounds in force.
    pub(crate) fn quotas(&self) -> Quotas {
        **self.quotas.load()
    }

    /// A place for one more client, or for one that `takes_over` from an older connection, which then leaves.
    ///
    /// # Errors
    /// The bound is reached.
    pub(crate) fn enter(
        self: &Arc<Self>,
        takes_over: impl FnOnce() -> bool,
    ) -> Result<Place, ReasonCode> {
        let max = usize::try_from(self.quotas.load().max_connections).unwrap_or(usize::MAX);
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        if max > 0 && before >= max && !takes_over() {
            return Err(self.refuse());
        }
        Ok(place)
    }

    /// Whether one more stored session is within the bound.
    pub(crate) fn may_store_session(&self) -> bool {
        let max = self.quotas.load().max_sessions;
        let has_place = max == 0 || self.sessions() < max as usize;
        if !has_place {
            self.refuse();
        }
        has_place
    }

    /// Whether so much waits for its clients that no more is taken for them.
    pub(crate) fn is_full(&self) -> bool {
        let max = self.quotas.load().max_queued_bytes;
        max > 0 && self.queued.load(Ordering::Relaxed) >= max
    }

    /// Counts a refusal.
    pub(crate) fn refuse(&self) -> ReasonCode {
        self.counts.refused.inc();
        ReasonCode::QUOTA_EXCEEDED
    }

    /// Counts what one read of a client brought; gives back for how long nothing is to be read from it.
    pub(crate) fn published(&self, messages: u64, bytes: u64, now: Instant) -> Option<Duration> {
        self.counts.publishes.inc_by(messages);
        self.counts.publish_bytes.inc_by(bytes);
        let quotas = self.quotas.load();
        if quotas.messages_per_second == 0 && quotas.bytes_per_second == 0 {
            return None;
        }
        let pause = self.flow.lock().take(&quotas, messages, bytes, now);
        if pause.is_some() {
            self.counts.slowed.inc();
        }
        pause
    }
}

impl Flow {
    #[expect(
        clippy::cast_precision_loss,
        reason = "what one read brings, far below 2^52"
    )]
    fn take(
        &mut self,
        quotas: &Quotas,
        messages: u64,
        bytes: u64,
        now: Instant,
    ) -> Option<Duration> {
        let rates = [
            f64::from(quotas.messages_per_second),
            quotas.bytes_per_second as f64,
        ];
        let passed = self.updated.replace(now).map_or(f64::INFINITY, |then| {
            now.saturating_duration_since(then).as_secs_f64()
        });
        let mut wait: f64 = 0.0;
        for ((tokens, rate), taken) in [&mut self.messages, &mut self.bytes]
            .into_iter()
            .zip(rates)
            .zip([messages as f64, bytes as f64])
        {
            if rate > 0.0 {
                let filled = (*tokens + (passed * rate).min(2.0 * rate)).min(rate);
                // What many clients sent at once is waited for by each of them; more than a minute of it is not remembered.
                *tokens = (filled - taken).max(-60.0 * rate);
                wait = wait.max(-*tokens / rate);
            }
        }
        (wait > 0.0).then(|| Duration::from_secs_f64(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(quotas: Quotas) -> Tenants {
        let tenants = Tenants::new(Arc::default());
        tenants.configure(&[TenantConfig {
            name: "acme".to_owned(),
            quotas,
        }]);
        tenants
    }

    #[test]
    fn a_tenant_without_an_entry_is_refused_unless_the_others_have_one() {
        let tenants = tenants(Quotas::default());
        assert!(tenants.find("acme").is_ok());
        assert!(tenants.find("nobody").is_err());
        tenants.configure(&[TenantConfig {
            name: OTHERS.to_owned(),
            quotas: Quotas::default(),
        }]);
        assert!(tenants.find("nobody").is_ok());
        assert!(tenants.find("a/b").is_err());
        assert!(tenants.find("*").is_err());
    }

    #[test]
    fn places_are_given_back() {
        let tenants = tenants(Quotas {
            max_connections: 1,
            ..Quotas::default()
        });
        let tenant = tenants.find("acme").unwrap();
        let place = tenant.enter(|| false).unwrap();
        let refused = tenant.enter(|| false).unwrap_err();
        assert_eq!(refused, ReasonCode::QUOTA_EXCEEDED);
        let newer = tenant.enter(|| true).unwrap();
        drop(place);
        assert!(tenant.enter(|| false).is_err());
        drop(newer);
        assert!(tenant.enter(|| false).is_ok());
        assert_eq!(tenant.connections(), 0);
    }

    #[test]
    fn a_second_of_messages_or_bytes_passes_and_what_is_above_waits() {
        let quotas = Quotas {
            messages_per_second: 100,
            bytes_per_second: 1000,
            ..Quotas::default()
        };
        let tenants = tenants(quotas);
        let tenant = tenants.find("acme").unwrap();
        let start = Instant::now();
        assert_eq!(tenant.published(100, 500, start), None);
        assert_eq!(
            tenant.published(50, 0, start),
            Some(Duration::from_millis(500))
        );
        let later = start + Duration::from_secs(2);
        assert_eq!(
            tenant.published(1, 2_000, later),
            Some(Duration::from_secs(1))
        );
        tenants.configure(&[]);
        // Its entry is gone: the bounds it had stay for those who are connected.
        assert!(tenant.published(1_000, 0, later).is_some());
    }
}
