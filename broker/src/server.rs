//! The broker as a process: from a checked configuration to a clean end.
//!
//! The order matters. Ports are bound before the store is opened, so that a port in use is noticed
//! before anything is touched, and clients that come early wait in the kernel's queue. Accepting
//! begins when the sessions are recovered. At the end it goes backwards: no new connections, the
//! open ones told and flushed, the store closed last.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use dunlin_sync::cluster::engine::ClusterStore;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::{Backplane, Cluster};
use dunlin_sync::{Durability, EmbeddedOptions, EmbeddedStore, MemoryStore, Store, StoreError};
use dunlin_telemetry::trace::{self, Tracer};
use tokio::signal::unix::SignalKind;

use crate::{
    abuse::Guard,
    admin,
    audit::{Audit, AuditError, Counts},
    auth::Auth,
    config::{self, Config, DrainConfig, ListenerConfig, Loaded, Sources, StoreConfig},
    connection,
    error::{Code, Exit},
    hub::{Backing, DrainPlan, Hub, HubConfig},
    logging, memory,
    net::{
        ListenerInfo, Serve,
        acceptor::Acceptor,
        gate::Gate,
        listener::{self, BindError, Bound},
        slots::Slots,
        tls,
    },
    ops::{self, Health, Metrics, pulse},
    provisioning::{self, BootstrapMethod, Provisioner},
    registry::RegistryMethod,
    reload::{Reloader, Running},
    replica::{self, Replica, ReplicaError},
    shutdown::Shutdown,
    workers::Workers,
};

/// What tasks that are not a session's may still take after the sessions have ended.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// How long Redis is waited for when the last writes are done and the lease is given back.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// How often it is said why the cluster is not joined yet.
const JOIN_REMINDER: Duration = Duration::from_secs(5);

/// Bytes that a WebSocket message may have beyond the largest packet: packets may share a message.
const WEBSOCKET_SLACK: usize = 64 * 1024;

/// Why the broker could not start, or not go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0} addresses could not be bound")]
    Bind(usize),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Replica(#[from] ReplicaError),
    #[error("the cluster cannot be joined: {0}")]
    Join(String),
    #[error("{0}")]
    Audit(#[from] AuditError),
    #[error("{0}")]
    Runtime(String),
}

/// Runs the broker until a signal; the log must have been started. `sources` are what is read again on SIGHUP.
#[must_use]
pub fn run(loaded: Loaded, sources: Sources) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Runtime(format!("no runtime: {error}"))),
    };
    let ended = runtime.block_on(serve(loaded, sources));
    // The store's last reference may be held by a task of the runtime.
    runtime.shutdown_timeout(LAST_GRACE);
    match ended {
        Ok(exit) => exit,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> Exit {
    match failure {
        // Each address has been logged where it failed.
        Failure::Bind(_) => Exit::Bind,
        Failure::Store(error) => {
            tracing::error!(code = error.code(), "{} {error}", error.code());
            Exit::Store
        }
        Failure::Replica(_) | Failure::Join(_) => {
            tracing::error!(code = %Code::Cluster, "{} {failure}", Code::Cluster);
            Exit::Store
        }
        Failure::Audit(error) => {
            tracing::error!(code = %Code::Audit, "{} {error}", Code::Audit);
            Exit::Usage
        }
        Failure::Runtime(text) => {
            tracing::error!(code = %Code::Runtime, "{text}");
            Exit::Runtime
        }
    }
}

async fn serve(loaded: Loaded, sources: Sources) -> Result<Exit, Failure> {
    let Loaded {
        config,
        effective,
        tls,
        admin: admin_files,
        provisioning_tls,
        provisioning: provisioning_files,
        users,
        methods,
        rules,
        ..
    } = loaded;
    let (config, memory_limit) = within_memory(config);
    let limits = &config.limits;
    let patience = Duration::from_millis(u64::from(limits.connect_timeout_ms));
    let auth = Arc::new(Auth::new(users, rules, limits.password_checks, patience));
    auth.set_methods(&methods)
        .map_err(|error| Failure::Runtime(format!("authentication: {error}")))?;
    for (listener, tls) in config.listeners.iter().zip(&tls) {
        if let Some(tls) = tls {
            auth.set_revoked(&listener.name, Arc::clone(&tls.revoked));
        }
    }
    let metrics = Arc::new(Metrics::default());
    let audit = Audit::start(
        &config.audit,
        Counts {
            recorded: metrics.audit_events.clone(),
            lost: metrics.audit_lost.clone(),
        },
    )?;
    let guard = Guard::new(&config.limits, &config.bans, Arc::clone(&metrics));
    let health = Arc::new(Health::default());
    let shutdown = Shutdown::default();
    raise_file_limit(config.limits.max_connections);

    // Before the ports: whoever sees the broker listen may already ask it to stop.
    let signals = shutdown
        .clone()
        .on_signals()
        .map_err(|error| Failure::Runtime(format!("signals cannot be received: {error}")))?;
    let signals = tokio::spawn(signals);
    // It would end the process otherwise.
    let hangup = tokio::signal::unix::signal(SignalKind::hangup())
        .map_err(|error| Failure::Runtime(format!("signals cannot be received: {error}")))?;
    let Doors {
        bound,
        ops: ops_socket,
        admin: admin_socket,
        provisioning: provisioning_socket,
        slots,
        gate,
    } = bind(&config, tls, (&metrics, &audit, &guard))?;
    let workers = Arc::new(
        Workers::start(config.workers, {
            let delay = metrics.worker_delay.clone();
            move |late| delay.observe(late.as_secs_f64())
        })
        .map_err(|error| Failure::Runtime(format!("no worker threads: {error}")))?,
    );
    let ended = Shutdown::default();
    let ops = ops_socket.map(|socket| {
        let stop = ended.clone();
        let stop = async move { stop.wait().await };
        tokio::spawn(ops::http::serve(
            socket,
            Arc::clone(&metrics),
            Arc::clone(&health),
            stop,
        ))
    });

    for (index, beats) in workers.beats().enumerate() {
        health.pulses().watch(format!("worker-{index}"), beats);
    }
    let observing = tokio::spawn(observe(Arc::clone(&health), Arc::clone(&slots)));

    let mut replica = match &config.store {
        StoreConfig::Redis(redis) => Some(Replica::start(redis, &config.limits)?),
        _ => None,
    };
    if let Some(replica) = &replica {
        health.pulses().watch("cluster", Arc::clone(&replica.beats));
    }
    let shared = match &mut replica {
        None => None,
        Some(replica) => {
            let backplane = replica.backplane.clone();
            tokio::select! {
                opened = reminded(&backplane, replica.opened()) => Some(opened?),
                () = shutdown.wait() => return Ok(Exit::Ok),
            }
        }
    };
    let tracer = start_tracer(&config, &metrics)?;
    let access = admin_files.map(admin::Access::new);
    let base = HubConfig {
        limits: config.limits.clone(),
        features: config.features.clone(),
        farewell: config.farewell(),
        tenants: config.tenants.clone(),
        tracer: tracer.clone(),
        audit: Some(Arc::clone(&audit)),
        guard: Some(Arc::clone(&guard)),
        ..HubConfig::default()
    };
    let hub = start_hub(&config, (shared.clone(), base), &auth, &metrics, &health).await?;
    RegistryMethod::arrange(&auth, hub.registry(), &config.auth);
    if let Some(replica) = &replica {
        let joined = tokio::select! {
            joined = reminded(&replica.backplane, hub.join()) => joined,
            () = shutdown.wait() => return Ok(Exit::Ok),
        };
        joined.map_err(|error| Failure::Join(error.to_string()))?;
        tracing::info!("joined the cluster: its tables are whole");
    }
    let keeping = tokio::spawn(keep_methods(Arc::clone(&hub), Arc::clone(&auth)));
    let telling = shared
        .clone()
        .map(|shared| tokio::spawn(tell_of_cluster(shared, hub.clone(), metrics.clone())));
    if let Some(limit) = memory_limit {
        tokio::spawn(memory::watch(Arc::clone(&hub), Arc::clone(&health), limit));
    }
    let provisioned = match config.provisioning.as_ref().zip(provisioning_files) {
        Some((provisioning, files)) => {
            let provisioner = start_provisioner(provisioning, files, &hub);
            let tls = provisioning_tls.map(|tls| tls.config);
            let stop = ended.clone();
            provisioning_socket
                .map(|socket| tokio::spawn(provisioning::serve(socket, tls, provisioner, stop)))
        }
        None => None,
    };
    let administered = admin_socket.zip(access.clone()).map(|(socket, access)| {
        let registry = Arc::clone(hub.registry());
        tokio::spawn(admin::serve(
            socket,
            access,
            Arc::clone(&hub),
            registry,
            ended.clone(),
        ))
    });
    let drain = Arc::new(ArcSwap::from_pointee(config.drain.clone()));
    let running = Running {
        sources,
        acceptors: bound
            .iter()
            .map(|bound| Arc::clone(&bound.acceptor))
            .collect(),
        auth,
        hub: Arc::clone(&hub),
        slots,
        gate,
        drain: Arc::clone(&drain),
        admin: access,
        metrics: Arc::clone(&metrics),
        memory_limit,
    };
    let reloading = tokio::spawn(Reloader::new(running, config, effective).run(hangup));
    guard.bans.follow(&hub).await;
    health.set_started();
    tracing::info!(
        workers = workers.len(),
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    let serving = Arc::clone(&hub);
    let serve: Serve =
        Arc::new(move |accepted| Box::pin(connection::serve(Arc::clone(&serving), accepted)));
    let close = Shutdown::default();
    tokio::spawn(become_unready(
        shutdown,
        Arc::clone(&health),
        Arc::clone(&drain),
        close.clone(),
    ));
    let listened = tokio::select! {
        listened = listener::run(bound, Arc::clone(&workers), close, serve) => listened,
        failed = signals => {
            return Err(Failure::Runtime(format!("signals cannot be received: {failed:?}")));
        }
    };

    health.set_draining();
    reloading.abort();
    let drain = drain.load_full();
    let plan = DrainPlan {
        time: drain.timeout,
        rate: drain.rate,
    };
    let drained = hub.drain(plan).await;
    if let Some(telling) = telling {
        telling.abort();
    }
    if let Some(replica) = replica {
        if let Some(shared) = &shared {
            shared.leave(LEAVE_PATIENCE).await;
        }
        // Joins a thread, which ends within half a second.
        if let Err(error) = tokio::task::spawn_blocking(move || replica.stop()).await {
            tracing::error!(%error, "the cluster's thread did not end well");
        }
    }
    keeping.abort();
    observing.abort();
    let cut_off = tokio::task::spawn_blocking(move || workers.stop(LAST_GRACE))
        .await
        .unwrap_or(0);
    if let Some(tracer) = tracer {
        tracer.flush(LAST_GRACE).await;
    }
    if let Err(error) = tokio::task::spawn_blocking(move || audit.flush()).await {
        tracing::error!(%error, "the audit log did not end well");
    }
    ended.trigger();
    if let Some(ops) = ops
        && let Ok(Ok(Err(error))) = tokio::time::timeout(LAST_GRACE, ops).await
    {
        tracing::warn!(%error, "the endpoint for health and metrics had failed");
    }
    if let Some(administered) = administered
        && let Ok(Ok(Err(error))) = tokio::time::timeout(LAST_GRACE, administered).await
    {
        tracing::warn!(%error, "the administration had failed");
    }
    if let Some(provisioned) = provisioned
        && let Ok(Ok(Err(error))) = tokio::time::timeout(LAST_GRACE, provisioned).await
    {
        tracing::warn!(%error, "provisioning had failed");
    }
    listened.map_err(|error| Failure::Runtime(format!("a listener has failed: {error}")))?;
    if drained {
        tracing::info!("stopped: every client was told and every write is done");
        return Ok(Exit::Ok);
    }
    tracing::warn!(
        code = %Code::DrainTimedOut,
        connections = cut_off,
        drain_timeout_ms = u64::try_from(drain.timeout.as_millis()).unwrap_or(u64::MAX),
        "stopped before every client had let go"
    );
    Ok(Exit::DrainTimedOut)
}

/// Lowers bounds that would not fit into the memory there is; tells how much that is.
fn within_memory(mut config: Config) -> (Config, Option<u64>) {
    let limit = memory::limit(config.limits.max_memory);
    if let Some(limit) = limit {
        let lowered = memory::lower(&mut config, limit);
        if !lowered.is_empty() {
            tracing::info!(
                memory = limit,
                lowered = lowered.join(", "),
                "bounds lowered to what fits into the memory"
            );
        }
    }
    (config, limit)
}

/// From the wish to stop on the broker is unready, and its listeners are closed when balancers have noticed. Until then new
/// clients are served as ever: a closed port is worse for them than a replica that sends them on in a moment.
async fn become_unready(
    shutdown: Shutdown,
    health: Arc<Health>,
    drain: Arc<ArcSwap<DrainConfig>>,
    close: Shutdown,
) {
    shutdown.wait().await;
    health.set_draining();
    let delay = drain.load().delay;
    if !delay.is_zero() {
        tracing::info!(
            delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "unready; clients are taken until balancers have noticed"
        );
    }
    tokio::time::sleep(delay).await;
    close.trigger();
}

/// Looks at what readiness depends on and nobody tells of.
async fn observe(health: Arc<Health>, slots: Arc<Slots>) {
    let mut full = false;
    let mut ticks = tokio::time::interval(pulse::BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        health.pulses().look();
        let (taken, max) = (slots.taken(), slots.max());
        // Not back and forth with every client that comes and goes.
        full = taken >= max || full && taken > max - max / 20;
        health.set_overloaded(full.then(|| format!("{taken} of {max} connections are open")));
    }
}

fn start_tracer(config: &Config, metrics: &Metrics) -> Result<Option<Tracer>, Failure> {
    let Some(endpoint) = config.trace.endpoint.clone() else {
        return Ok(None);
    };
    let settings = trace::Settings {
        endpoint,
        sample: config.trace.sample.get(),
    };
    let counters = trace::Counters {
        sent: metrics.trace_spans_sent.clone(),
        dropped: metrics.trace_spans_dropped.clone(),
    };
    match Tracer::start(&settings, logging::PROGRAM, counters) {
        Ok(tracer) => Ok(Some(tracer)),
        Err(error) => Err(Failure::Runtime(error.to_string())),
    }
}

/// Opens the store and recovers the sessions, on a thread of their own: a large store takes time, and
/// `/health/ready` must answer meanwhile.
async fn start_hub(
    config: &Config,
    (shared, hub): (Option<Arc<ClusterStore>>, HubConfig),
    auth: &Arc<Auth>,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
) -> Result<Arc<Hub>, Failure> {
    let store = config.store.clone();
    let (auth, metrics, health) = (Arc::clone(auth), Arc::clone(metrics), Arc::clone(health));
    let started = tokio::task::spawn_blocking(move || {
        let backing = match shared {
            Some(shared) => Backing::Shared(shared),
            None => Backing::Own(open_store(&store)?),
        };
        Hub::start(hub, backing, auth, metrics, health)
    });
    match started.await {
        Ok(hub) => Ok(hub?),
        Err(error) => Err(Failure::Runtime(format!(
            "the recovery of the sessions failed: {error}"
        ))),
    }
}

/// Makes what gives identities, and has the listeners know who may ask for one.
fn start_provisioner(
    config: &config::ProvisioningConfig,
    files: provisioning::Files,
    hub: &Arc<Hub>,
) -> Arc<Provisioner> {
    let registry = Arc::clone(hub.registry());
    let (audit, metrics) = (Arc::clone(&hub.audit), Arc::clone(&hub.metrics));
    let provisioner = Arc::new(Provisioner::new(config, files, registry, audit, metrics));
    if config.mqtt.is_some() {
        hub.auth
            .add(Arc::new(BootstrapMethod(Arc::clone(&provisioner))));
        let provisioner = Arc::clone(&provisioner);
        if hub.provisioner.set(provisioner).is_err() {
            tracing::error!("there is somebody who gives identities already");
        }
    }
    provisioner
}

/// Does what the methods of authentication need now and then.
async fn keep_methods(hub: Arc<Hub>, auth: Arc<Auth>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if auth.keep().await {
            hub.end_withdrawn();
        }
    }
}

/// Keeps the figures of the cluster up to date, and what others see of this replica.
async fn tell_of_cluster(shared: Arc<ClusterStore>, hub: Arc<Hub>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut told = None;
    loop {
        ticks.tick().await;
        metrics.set_cluster(&shared.figures(), &shared.status());
        let status = hub.status();
        if told != Some(status) {
            told = Some(status);
            shared.set_info(replica::info(&status));
        }
    }
}

/// Waits for what needs the cluster, and says now and then what is waited for.
async fn reminded<T>(backplane: &RedisBackplane, wanted: impl Future<Output = T>) -> T {
    let mut wanted = std::pin::pin!(wanted);
    let mut reminder = tokio::time::interval(JOIN_REMINDER);
    reminder.tick().await;
    loop {
        tokio::select! {
            got = &mut wanted => return got,
            _ = reminder.tick() => {
                let status = backplane.status();
                let why = status
                    .last_error
                    .unwrap_or_else(|| "the tables are being loaded".to_owned());
                tracing::warn!(code = %Code::Cluster, connected = status.connected, why, "the cluster is not joined yet");
            }
        }
    }
}

fn open_store(config: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    match config {
        // Never asked for: see `start_hub`.
        StoreConfig::Redis(_) => Err(StoreError::Closed),
        StoreConfig::Memory => {
            tracing::info!(
                "the store is in memory: sessions and retained messages end with the process"
            );
            Ok(Arc::new(MemoryStore::new()?))
        }
        StoreConfig::Embedded { path, durability } => {
            let durability = match durability {
                config::Durability::Always => Durability::Always,
                config::Durability::Interval(ms) => {
                    Durability::Interval(Duration::from_millis(u64::from(*ms)))
                }
                config::Durability::Os => Durability::Os,
            };
            let options = EmbeddedOptions {
                durability,
                ..EmbeddedOptions::default()
            };
            Ok(Arc::new(EmbeddedStore::open(path, &options)?))
        }
    }
}

type Tls = Vec<Option<tls::Loaded>>;

/// Where one comes in.
struct Doors {
    bound: Vec<Bound>,
    ops: Option<std::net::TcpListener>,
    admin: Option<std::net::TcpListener>,
    provisioning: Option<std::net::TcpListener>,
    /// The places of `max_connections`.
    slots: Arc<Slots>,
    gate: Arc<Gate>,
}

/// Binds every address, or tells of every one that fails.
/// What all listeners share.
type Shared<'a> = (&'a Arc<Metrics>, &'a Arc<Audit>, &'a Arc<Guard>);

fn bind(config: &Config, tls: Tls, shared: Shared<'_>) -> Result<Doors, Failure> {
    let (metrics, ..) = shared;
    let mut failed = 0;
    let mut keep = |result: Result<std::net::TcpListener, BindError>| match result {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::error!(code = %error.code, "{error}");
            failed += 1;
            None
        }
    };
    let sockets: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| keep(listener::bind(&listener.name, listener.address)))
        .collect();
    let ops = config
        .ops
        .listen
        .and_then(|address| keep(listener::bind("health and metrics, ops.listen", address)));
    let admin = config.admin.as_ref();
    let admin =
        admin.and_then(|admin| keep(listener::bind("administration, admin.listen", admin.listen)));
    let provisioning = config
        .provisioning
        .as_ref()
        .and_then(|provisioning| provisioning.listen)
        .and_then(|address| keep(listener::bind("provisioning.listen", address)));
    if failed > 0 {
        return Err(Failure::Bind(failed));
    }
    // With port 0 the system has chosen.
    let address_of = |socket: &std::net::TcpListener| {
        socket
            .local_addr()
            .map_err(|error| Failure::Runtime(format!("a listener has no address: {error}")))
    };
    let mut addresses = Vec::new();
    for socket in sockets.iter().flatten() {
        addresses.push(address_of(socket)?);
    }
    let hint: Arc<str> = websocket_hint(&config.listeners, &addresses).into();
    let limits = &config.limits;
    let gate = Gate::new(
        limits.connect_rate,
        limits.connect_burst,
        limits.max_handshakes,
        Arc::clone(metrics),
    );
    let slots = Slots::shown(config.limits.max_connections, metrics.sockets_open.clone());
    let parts = config
        .listeners
        .iter()
        .zip(sockets.into_iter().flatten())
        .zip(addresses)
        .zip(tls);
    let bound = parts.map(|(((listener, socket), address), tls)| {
        tracing::info!(listener = listener.name, %address, kind = listener.kind.as_str(), "listening");
        let info = ListenerInfo {
            name: listener.name.as_str().into(),
            kind: listener.kind,
            address,
            anonymous: config.anonymous_allowed(listener),
            auth: config.methods_of(listener),
            websocket_hint: Arc::clone(&hint),
            tenant: listener.tenant.as_deref().map(Arc::from),
        };
        let own = listener.max_connections.map(Slots::new);
        Bound {
            socket,
            acceptor: Arc::new(acceptor(config, listener, info, tls, shared)),
            slots: std::iter::once(Arc::clone(&slots)).chain(own).collect(),
            gate: Arc::clone(&gate),
        }
    });
    let bound = bound.collect();
    if let Some(socket) = &ops {
        tracing::info!(address = %address_of(socket)?, "health and metrics");
    }
    if let Some(socket) = &admin {
        tracing::info!(address = %address_of(socket)?, "administration");
    }
    if let Some(socket) = &provisioning {
        tracing::info!(address = %address_of(socket)?, "provisioning");
    }
    Ok(Doors {
        bound,
        ops,
        admin,
        provisioning,
        slots,
        gate,
    })
}

fn acceptor(
    config: &Config,
    listener: &ListenerConfig,
    info: ListenerInfo,
    tls: Option<tls::Loaded>,
    (metrics, audit, guard): Shared<'_>,
) -> Acceptor {
    if let Some(tls) = &tls {
        metrics.certificate(&info.name, tls.not_after);
    }
    Acceptor {
        info: ArcSwap::from_pointee(info),
        tls: tls.map(|tls| ArcSwap::from_pointee(tls.into())),
        name_from: listener.tls.as_ref().and_then(|tls| tls.name_from),
        tenant_from: listener.tls.as_ref().and_then(|tls| tls.tenant_from),
        proxy: listener.proxy_protocol,
        path: listener.path.clone(),
        connect_timeout: Duration::from_millis(u64::from(config.limits.connect_timeout_ms)),
        max_message: (config.limits.max_packet_size as usize).saturating_add(WEBSOCKET_SLACK),
        metrics: Arc::clone(metrics),
        audit: Arc::clone(audit),
        guard: Arc::clone(guard),
    }
}

/// Tells a browser on the wrong port which one is right.
fn websocket_hint(listeners: &[ListenerConfig], addresses: &[SocketAddr]) -> String {
    let places: Vec<_> = listeners
        .iter()
        .zip(addresses)
        .filter(|(listener, _)| listener.kind.is_websocket())
        .map(|(listener, address)| {
            format!("{}://{address}{}", listener.kind.as_str(), listener.path)
        })
        .collect();
    if places.is_empty() {
        String::new()
    } else {
        format!("MQTT over WebSocket is at {}.", places.join(", "))
    }
}

/// Takes as many files as the system gives: the usual soft limit of 1,024 is a habit, not a need.
fn raise_file_limit(max_connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files cannot be raised");
    }
    let files = getrlimit(Resource::Nofile).current;
    if let Some(files) = files.filter(|files| *files < max_connections as u64) {
        tracing::info!(
            files,
            max_connections,
            "fewer files may be open than connections are allowed: the files are the bound"
        );
    }
}
