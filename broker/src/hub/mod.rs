//! What all connections share: sessions, subscriptions, retained messages, the store.
//!
//! Locks: that of one session at a time, innermost; the maps' locks are held for a look-up; none
//! is held across an await. The publish path takes no lock that all publishers share but the read
//! lock of the subscriptions, and that only on a miss of the thread's cache.

mod attach;
pub(crate) mod clock;
pub(crate) mod cluster;
mod detach;
mod devices;
pub(crate) mod directory;
mod drain;
mod gate;
pub(crate) mod live;
mod moving;
mod place;
pub(crate) mod publish;
mod recovery;
mod relief;
mod retained_feed;
pub(crate) mod session;
mod share;
pub(crate) mod subscribe;
mod sweep;
mod tap;
pub(crate) mod timers;
pub(crate) mod wake;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::hash::RandomState;
use arc_swap::ArcSwap;
use dunlin_sync::cluster::Cluster;
use dunlin_sync::{SessionId, Store, StoreError};
use dunlin_telemetry::trace::Tracer;
use parking_lot::{Mutex, RwLock};

pub(crate) use attach::{Attached, ConnectRequest, WillRequest};
pub(crate) use detach::Departure;
pub use drain::DrainPlan;

use self::clock::Clock;
use self::directory::Directory;
use self::session::Session;
use self::timers::Timers;
use crate::abuse::{BansConfig, Guard};
use crate::audit::Audit;
use crate::auth::Auth;
use crate::config::features::Features;
use crate::config::limits::{Limits, QueueFull};
use crate::core::outbound::{QueueBounds, Tally};
use crate::core::retained::Retained;
use crate::ops::Health;
use crate::ops::metrics::Metrics;
use crate::provisioning::Provisioner;
use crate::registry::Registry;
use crate::tenant::Tenants;

/// Shards of the sessions by client id.
const SHARDS: usize = 256;

/// What a [`Hub`] is started with.
#[derive(Clone, Debug, Default)]
pub struct HubConfig {
    /// Bounds.
    pub limits: Limits,
    /// What clients may use.
    pub features: Features,
    /// What clients are told when the broker stops.
    pub farewell: Farewell,
    /// The tenants.
    pub tenants: Vec<crate::config::TenantConfig>,
    /// Decides which messages are traced; `None`: none.
    pub tracer: Option<Tracer>,
    /// Where is told who comes and what is changed; `None`: nowhere.
    pub audit: Option<Arc<Audit>>,
    /// Bounds by address, wrong logins, bans; `None`: of its own, from `limits`.
    pub guard: Option<Arc<Guard>>,
    /// What time it is, in Unix microseconds; `None`: the system is asked.
    pub started_at_us: Option<u64>,
    /// A defect for the simulation to find: publishers are acknowledged before the write.
    #[cfg(feature = "testing")]
    pub planted_early_acknowledgement: bool,
}

/// What an MQTT 5 client is told when the broker stops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Farewell {
    /// Where it may go instead; `None` leaves that to its own configuration, or to a balancer.
    pub reference: Option<String>,
    /// It is to go there from now on, and not for a while.
    pub moved: bool,
}

#[derive(Default)]
struct Shard {
    /// Held while a connection claims a client id of this shard, so that two claims of one id come
    /// one after the other.
    claim: tokio::sync::Mutex<()>,
    sessions: Mutex<HashMap<Arc<str>, Arc<Session>, RandomState>>,
}

/// Where a hub keeps what must outlive it.
#[derive(Clone)]
pub enum Backing {
    /// A store of this broker alone.
    Own(Arc<dyn Store>),
    /// A store that the replicas of a cluster share.
    Shared(Arc<dyn Cluster>),
}

impl Backing {
    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Own(store) => store.clone(),
            Self::Shared(cluster) => cluster.clone(),
        }
    }

    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(cluster) => Some(cluster.clone()),
        }
    }
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "Own",
            Self::Shared(_) => "Shared",
        })
    }
}

/// The broker's shared state.
pub struct Hub {
    pub(crate) limits: Limits,
    /// The bounds that can be changed while the broker runs; of `limits` they are what it started with.
    pub(crate) live: ArcSwap<Limits>,
    pub(crate) features: Features,
    pub(crate) farewell: ArcSwap<Farewell>,
    /// Decides which messages are traced.
    pub(crate) tracer: Option<Tracer>,
    pub(crate) auth: Arc<Auth>,
    /// Who comes and what is changed is told here.
    pub(crate) audit: Arc<Audit>,
    /// Bounds by address, wrong logins, bans.
    pub(crate) guard: Arc<Guard>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    /// The same, if it is shared by the replicas of a cluster.
    pub(crate) cluster: Option<Arc<dyn Cluster>>,
    pub(crate) known: cluster::Known,
    pub(crate) directory: Directory,
    pub(crate) taps: tap::Taps,
    pub(crate) retained: RwLock<Retained>,
    /// The broker's own retained messages, `$SYS`: neither stored nor counted.
    pub(crate) own_retained: RwLock<Retained>,
    pub(crate) timers: Timers,
    pub(crate) queue_bounds: QueueBounds,
    /// Outgoing bytes from which a connection counts as congested.
    pub(crate) congestion_bytes: usize,
    /// Congested connections: while there are any, publishers let others run before they read on.
    pub(crate) congested: AtomicUsize,
    /// Bytes of publishes that connections hold while this replica is cut off.
    pub(crate) held_bytes: AtomicUsize,
    /// New clients are refused for want of memory.
    crowded: AtomicBool,
    /// Publishers are held back for want of memory.
    short_of_memory: AtomicBool,
    shards: Box<[Shard]>,
    hasher: RandomState,
    stored: RwLock<HashMap<SessionId, Arc<Session>, RandomState>>,
    next_session: AtomicU64,
    sessions: AtomicUsize,
    /// Connections that hold a session, by the number of their session.
    connections: Mutex<HashMap<u64, Arc<wake::Wake>, RandomState>>,
    /// Those of them that end by themselves: when, in Unix seconds, and which.
    expiring: Mutex<std::collections::BTreeSet<(u64, u64)>>,
    changes: live::Changes,
    pub(crate) tenants: Tenants,
    pub(crate) devices: devices::Devices,
    /// Gives identities to clients with a bootstrap credential.
    pub(crate) provisioner: OnceLock<Arc<Provisioner>>,
    draining: AtomicBool,
    #[cfg(feature = "testing")]
    pub(crate) planted_early_acknowledgement: bool,
    /// For tasks that are not a connection's.
    runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Takes over what the store holds and starts the housekeeping.
    ///
    /// Must be called within a Tokio runtime that lives as long as the broker.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn start(
        config: HubConfig,
        store: Backing,
        auth: Arc<Auth>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Result<Arc<Self>, StoreError> {
        let limits = config.limits;
        let guard = config
            .guard
            .unwrap_or_else(|| Guard::new(&limits, &BansConfig::default(), Arc::clone(&metrics)));
        let of_tenants = metrics.clone();
        let registry = Registry::new(store.store().records());
        let hub = Arc::new(Self {
            queue_bounds: QueueBounds {
                messages: u64::from(limits.max_queued_messages),
                bytes: limits.max_queued_bytes,
                drop_oldest: limits.queue_full == QueueFull::DropOldest,
                ready: limits.session_ready_messages as usize,
            },
            congestion_bytes: limits.outbox_bytes as usize / 2,
            congested: AtomicUsize::new(0),
            live: ArcSwap::from_pointee(limits.clone()),
            limits,
            features: config.features,
            farewell: ArcSwap::from_pointee(config.farewell),
            tracer: config.tracer,
            auth,
            audit: config.audit.unwrap_or_else(Audit::off),
            guard,
            metrics,
            health,
            clock: Clock::start(config.started_at_us),
            cluster: store.cluster(),
            store: store.store(),
            known: cluster::Known::default(),
            directory: Directory::new(),
            taps: tap::Taps::default(),
            retained: RwLock::new(Retained::default()),
            own_retained: RwLock::new(Retained::default()),
            timers: Timers::default(),
            held_bytes: AtomicUsize::new(0),
            crowded: AtomicBool::new(false),
            short_of_memory: AtomicBool::new(false),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::default(),
            stored: RwLock::default(),
            next_session: AtomicU64::new(0),
            sessions: AtomicUsize::new(0),
            connections: Mutex::default(),
            expiring: Mutex::default(),
            changes: live::Changes::default(),
            tenants: Tenants::new(of_tenants),
            devices: devices::Devices::new(registry),
            provisioner: OnceLock::new(),
            draining: AtomicBool::new(false),
            #[cfg(feature = "testing")]
            planted_early_acknowledgement: config.planted_early_acknowledgement,
            runtime: tokio::runtime::Handle::current(),
        });
        hub.tenants.configure(&config.tenants);
        if hub.cluster.is_none() {
            hub.recover()?;
        }
        sweep::spawn(&hub);
        hub.watch_devices();
        Ok(hub)
    }

    /// Other bounds from now on, as far as they can be changed.
    pub(crate) fn set_limits(&self, limits: &Limits) {
        self.live.store(Arc::new(limits.clone()));
    }

    /// What clients are told when the broker stops.
    pub(crate) fn set_farewell(&self, farewell: Farewell) {
        self.farewell.store(Arc::new(farewell));
    }

    fn shard(&self, client_id: &str) -> &Shard {
        use std::hash::BuildHasher;
        let index = self.hasher.hash_one(client_id) as usize % SHARDS;
        &self.shards[index]
    }

    /// The session of a client id.
    pub(crate) fn session(&self, client_id: &str) -> Option<Arc<Session>> {
        self.shard(client_id)
            .sessions
            .lock()
            .get(client_id)
            .cloned()
    }

    /// Whether a client is connected to this replica.
    pub(crate) fn is_connected_here(&self, client_id: &str) -> bool {
        let session = self.session(client_id);
        session.is_some_and(|session| session.lock().wake.is_some())
    }

    pub(crate) fn stored_session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.stored.read().get(&id).cloned()
    }

    fn insert_session(&self, session: &Arc<Session>) {
        self.shard(&session.client_id)
            .sessions
            .lock()
            .insert(session.client_id.clone(), session.clone());
        if let Some(id) = session.store_id {
            self.stored.write().insert(id, session.clone());
            if self.cluster.is_none() {
                self.tenants.session_stored(&session.client_id, true);
            }
        }
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    fn remove_session(&self, session: &Arc<Session>) {
        {
            let mut sessions = self.shard(&session.client_id).sessions.lock();
            if sessions
                .get(&session.client_id)
                .is_some_and(|now| Arc::ptr_eq(now, session))
            {
                sessions.remove(&session.client_id);
            }
        }
        if let Some(id) = session.store_id {
            let mut stored = self.stored.write();
            if stored.get(&id).is_some_and(|now| Arc::ptr_eq(now, session)) {
                stored.remove(&id);
                drop(stored);
                if self.cluster.is_none() {
                    self.tenants.session_stored(&session.client_id, false);
                }
            }
        }
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sessions, connected or not.
    pub(crate) fn sessions_len(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Clients that are connected.
    pub(crate) fn connected_len(&self) -> usize {
        self.connections.lock().len()
    }

    /// Stored sessions, connected or not; in a cluster those of the whole cluster.
    pub(crate) fn stored_len(&self) -> usize {
        if self.cluster.is_some() {
            return self.cluster_sessions_len();
        }
        self.stored.read().len()
    }

    /// Adds up what deliveries came to.
    pub(crate) fn count(&self, tally: Tally) {
        if tally != Tally::default() {
            self.metrics
                .delivered(tally.sent, tally.sent_bytes, tally.resent);
            self.metrics.dropped(
                tally.dropped_queue,
                tally.dropped_outbox,
                tally.expired,
                tally.too_large,
            );
            self.metrics.withheld(tally.withheld);
        }
    }

    /// What `cluster status` shows of this replica.
    pub(crate) fn status(&self) -> crate::replica::Status {
        crate::replica::Status {
            connections: self.connected_len(),
            sessions: self.stored.read().len(),
            retained: self.retained.read().len(),
            pending_bytes: self.pending_bytes(),
        }
    }

    /// Bytes that wait for the store, or for the cluster.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.store.pending_bytes() + self.held_bytes.load(Ordering::Relaxed)
    }

    /// The number of this replica in its cluster.
    fn replica(&self) -> Option<dunlin_sync::cluster::ReplicaId> {
        self.cluster.as_ref().map(|cluster| cluster.replica())
    }

    /// Whether others may have acknowledged subscriptions that this replica does not know of.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cluster
            .as_ref()
            .is_some_and(|cluster| self.known.is_suspended() || !cluster.lease_runs())
    }

    /// Joins the cluster, if the hub has one: resolves when its tables are whole, so that this replica
    /// can keep its promises.
    ///
    /// # Errors
    ///
    /// The cluster cannot be joined.
    pub async fn join(self: &Arc<Self>) -> Result<(), dunlin_sync::cluster::ClaimError> {
        match &self.cluster {
            Some(cluster) => {
                let events = Arc::new(cluster::Events(Arc::downgrade(self)));
                cluster.start(events).await
            }
            None => Ok(()),
        }
    }

    /// What connections are closed with whose writes were not taken.
    pub(crate) fn failed_request(&self) -> wake::CloseRequest {
        match self.cluster {
            Some(_) => wake::CloseRequest::Suspended,
            None => wake::CloseRequest::StoreFailed,
        }
    }

    /// A batch was not committed: those who wait for it are disconnected.
    pub(crate) fn commit_failed(&self, error: &StoreError) {
        if self.cluster.is_none() {
            self.store_failed(error);
        } else {
            tracing::warn!(%error, "what was not committed before this replica was cut off is given up: its clients have not been told that it is safe");
        }
    }

    /// The store has refused a write: readiness says so, and whoever waits is disconnected.
    pub(crate) fn store_failed(&self, error: &StoreError) {
        if self.health.set_store_failed(&error.to_string()) {
            tracing::error!(%error, "the store cannot be written: clients whose messages must be durable are disconnected");
        }
    }
}
