//! The broker as a replica: its thread for the cluster, and what others see of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use dunlin_sync::cluster::engine::{ClusterStore, EngineOptions, OpenError};
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions, without_password};
use tokio::sync::oneshot;

use crate::config::RedisConfig;
use crate::config::limits::Limits;
use crate::ops::pulse::{Beats, beat};

/// Why the cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    #[error("cannot read redis.password_file {file}: {reason}")]
    Password { file: String, reason: String },
    #[error("{0}")]
    Redis(String),
    #[error("no thread for the cluster: {0}")]
    Thread(String),
}

/// The way of this broker to the cluster. The connections to Redis and what a replica does with them
/// live on a thread of their own.
pub(crate) struct Replica {
    pub(crate) backplane: Arc<RedisBackplane>,
    opening: tokio::task::JoinHandle<Result<ClusterStore, OpenError>>,
    /// What the thread's loop raises while it moves.
    pub(crate) beats: Beats,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Replica {
    /// Starts it; Redis need not answer yet.
    pub(crate) fn start(config: &RedisConfig, limits: &Limits) -> Result<Self, ReplicaError> {
        let options = redis_options(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ReplicaError::Thread(error.to_string()))?;
        let handle = runtime.handle().clone();
        let backplane = RedisBackplane::start(options, handle.clone())
            .map_err(|error| ReplicaError::Redis(error.to_string()))?;
        let backplane = Arc::new(backplane);
        let engine = EngineOptions {
            info: info(&Status::default()),
            seed: crate::random::number()
                .map_err(|error| ReplicaError::Thread(error.to_owned()))?,
            lease: Duration::from_millis(u64::from(config.lease_ms)),
            fence: Duration::from_millis(u64::from(config.lease_ms) * 2 / 3),
            renew_every: Duration::from_millis(u64::from(config.lease_ms) / 6),
            claim_timeout: Duration::from_millis(u64::from(config.claim_timeout_ms)),
            queue_max_messages: u64::from(limits.max_queued_messages),
            queue_max_bytes: limits.max_queued_bytes,
            lane_bytes: config.lane_bytes,
            ..EngineOptions::default()
        };
        let opening = handle.spawn(ClusterStore::open(
            backplane.clone(),
            engine,
            handle.clone(),
        ));
        let beats = Beats::default();
        handle.spawn(beat(Arc::clone(&beats), |_late| {}));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("cluster".into())
            .spawn(move || {
                // An error means that the replica was dropped: it is the end as well.
                let _dropped = runtime.block_on(stopped).is_err();
                runtime.shutdown_timeout(Duration::from_millis(500));
            })
            .map_err(|error| ReplicaError::Thread(error.to_string()))?;
        tracing::info!(redis = %without_password(&config.url), prefix = %config.prefix, "joining the cluster");
        Ok(Self {
            backplane,
            opening,
            beats,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Resolves when Redis has given this replica a number; once. Cancel safe.
    pub(crate) async fn opened(&mut self) -> Result<Arc<ClusterStore>, ReplicaError> {
        match (&mut self.opening).await {
            Ok(Ok(store)) => Ok(Arc::new(store)),
            Ok(Err(error)) => Err(ReplicaError::Redis(error.to_string())),
            Err(error) => Err(ReplicaError::Thread(error.to_string())),
        }
    }

    /// Ends the thread; what was not committed is given up.
    pub(crate) fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread has ended.
            let _ended = stop.send(()).is_err();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the cluster has panicked");
        }
    }
}

pub(crate) fn redis_options(config: &RedisConfig) -> Result<RedisOptions, ReplicaError> {
    let password = match &config.password_file {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| ReplicaError::Password {
                file: file.display().to_string(),
                reason: error.to_string(),
            })?;
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
    };
    Ok(RedisOptions {
        password,
        ca_file: config.ca_file.clone(),
        server_name: config.server_name.clone(),
        cert_file: config.cert_file.clone(),
        key_file: config.key_file.clone(),
        prefix: config.prefix.clone(),
        connect_timeout: Duration::from_millis(u64::from(config.connect_timeout_ms)),
        ring_bytes: config.ring_bytes,
        wait_replicas: (config.wait_replicas > 0)
            .then_some((config.wait_replicas, config.wait_timeout_ms)),
        ..RedisOptions::new(config.url.clone())
    })
}

/// What `cluster status` shows of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) connections: usize,
    pub(crate) sessions: usize,
    pub(crate) retained: usize,
    pub(crate) pending_bytes: usize,
}

/// The form in which the register keeps it: `name=value` in lines, so that newer replicas can say more.
pub(crate) fn info(status: &Status) -> Bytes {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let text = format!(
        "host={host}\npid={}\nversion={}\nconnections={}\nsessions={}\nretained={}\npending_bytes={}\n",
        std::process::id(),
        env!("CARGO_PKG_VERSION"),
        status.connections,
        status.sessions,
        status.retained,
        status.pending_bytes,
    );
    Bytes::from(text)
}
