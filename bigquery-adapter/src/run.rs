//! The adapter as a whole: opened from the sink towards the source, closed from the source towards the sink.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::publisher::TENANT_PREFIX;
use dunlin_telemetry::trace::{self, TraceError, Tracer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::{Config, Path, RulesFile};
use crate::error::{Code, SinkError, WarehouseError};
use crate::health::{Health, Part};
use crate::logging;
use crate::ops::http;
use crate::ops::metrics::Metrics;
use crate::pipeline;
use crate::pipeline::Committer;
use crate::sinks::bigquery::writer::Kind;
use crate::sinks::bigquery::{self, open};
use crate::sinks::parquet::ParquetSink;
use crate::sources::mqtt::MqttSource;
use crate::sources::tap::feed::TapFeed;
use crate::sources::tap::store::{StoreError, Storing};
use crate::sources::tap::{self, Tap, TapError};

/// Why the adapter ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address for health and metrics.
    #[error(
        "{address} cannot be bound for health and metrics: {error}; choose another ops.listen, or \"off\""
    )]
    Ops {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The warehouse.
    #[error(transparent)]
    Warehouse(#[from] WarehouseError),
    /// The sink stopped.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// BigQuery is not as it must be.
    #[error(transparent)]
    Open(#[from] open::OpenError),
    /// A partition of the tap cannot be written to BigQuery.
    #[error(transparent)]
    BigQuery(#[from] bigquery::run::RunError),
    /// The shutdown took too long.
    #[error(
        "not finished within {0} s; what is stored stays stored, the rest comes again from the broker"
    )]
    Drain(u64),
    /// Traces cannot be sent.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The system gives no thread.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

impl RunError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Ops { .. } => Code::OPS_ADDRESS,
            Self::Warehouse(error) => error.code(),
            Self::Sink(error) => error.code(),
            Self::Tap(error) => error.code(),
            Self::Open(error) => error.code(),
            Self::BigQuery(error) => error.code(),
            Self::Drain(_) => Code::DRAIN,
            Self::Trace(_) => Code::CONFIGURATION,
            Self::Thread(_) => Code::SINK_STOPPED,
        }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Trace(_) => 2,
            Self::Ops { .. } => 3,
            Self::Warehouse(_) => 4,
            Self::Tap(_) => 5,
            Self::Open(_) => 6,
            Self::Sink(_) | Self::BigQuery(_) | Self::Drain(_) | Self::Thread(_) => 1,
        })
    }
}

/// What the last traces may take.
const LAST_TRACES: Duration = Duration::from_millis(500);

/// How long a partition that another adapter should have is worked off before it is handed over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// What the process is told from outside.
#[derive(Debug, Clone)]
pub struct Told {
    /// Becomes true: everything is to be finished.
    pub shutdown: watch::Receiver<bool>,
    /// Changes: the rules are to be read again.
    pub reload: watch::Receiver<u64>,
}

/// Health and metrics, which everything has a share of.
#[derive(Debug, Clone, Default)]
struct Seen {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    tracer: Option<Tracer>,
}

/// Runs until `shutdown` becomes true and everything is finished, or something fails for good.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, told: Told) -> Result<(), RunError> {
    let mut seen = Seen::default();
    if let Some(endpoint) = config.trace_endpoint.clone() {
        let settings = trace::Settings {
            endpoint,
            sample: 0.0,
        };
        let counters = seen.metrics.trace_counters();
        seen.tracer = Some(Tracer::start(&settings, logging::PROGRAM, counters)?);
    }
    let tracer = seen.tracer.clone();
    // Whoever asks from the first moment on must not take it for ready.
    let starting = Some("starting".to_owned());
    seen.health.set(Part::Source, starting);
    let ops = bind_ops(&config).await?;
    let serving = serve_ops(ops, seen.clone());
    let mut stopping = told.shutdown.clone();
    let (limit, health) = (config.shutdown_timeout, Arc::clone(&seen.health));
    let draining = async {
        // The sender lives as long as the process listens for signals.
        drop(stopping.wait_for(|stop| *stop).await);
        health.set(Part::Running, Some("shutting down".to_owned()));
        tracing::info!("shutting down: storing and acknowledging what has been read");
        sleep(limit).await;
    };
    let finished = tokio::select! {
        finished = work(config, told, seen) => finished,
        () = draining => Err(RunError::Drain(limit.as_secs())),
        () = serving => Ok(()),
    };
    if let Some(tracer) = tracer {
        tracer.flush(LAST_TRACES).await;
    }
    finished
}

async fn work(config: Config, told: Told, seen: Seen) -> Result<(), RunError> {
    let mut shutdown = told.shutdown.clone();
    let stopped = async move { drop(shutdown.wait_for(|stop| *stop).await) };
    match &config.path {
        Path::MqttToParquet => mqtt_to_parquet(config, told, seen).await,
        Path::TapToParquet(tap) => {
            let mut tap = (**tap).clone();
            if tap.filters.is_empty() {
                tap.filters = vec!["#".to_owned(), format!("{TENANT_PREFIX}+/#")];
            }
            tokio::select! {
                opened = open_tap(tap, &seen) => tap_to_parquet(config, opened?, told, seen).await,
                () = stopped => Ok(()),
            }
        }
        Path::TapToBigQuery(tap, bigquery) => {
            let (mut tap, bigquery) = ((**tap).clone(), (**bigquery).clone());
            let follows = tap.filters.is_empty();
            if follows {
                tap.filters = config.rules.rules.tap_filters();
            }
            let (health, metrics) = (Arc::clone(&seen.health), Arc::clone(&seen.metrics));
            let opening = async {
                let shared = open::open(&bigquery, &config.rules.rules, health, metrics).await?;
                Ok::<_, RunError>((shared, open_tap(tap, &seen).await?))
            };
            let (shared, tap) = tokio::select! {
                opened = opening => opened?,
                () = stopped => return Ok(()),
            };
            tap_to_bigquery(config, shared, tap, follows, told, seen).await
        }
    }
}

async fn mqtt_to_parquet(config: Config, told: Told, seen: Seen) -> Result<(), RunError> {
    let Seen {
        health, metrics, ..
    } = seen;
    let sink = ParquetSink::open(config.parquet, Arc::clone(&health), Arc::clone(&metrics))?;
    let ledger = sink.ledger().clone();
    let (intake, committer) = pipeline::start(Box::new(sink), config.batch, Arc::clone(&metrics))
        .map_err(RunError::Thread)?;
    let source = MqttSource::new(config.mqtt, &ledger, intake, health, metrics);
    // A sink that has stopped says why when it is joined.
    if let Err(error) = source.run(told.shutdown).await {
        tracing::debug!("{error}");
    }
    finish(committer, config.shutdown_timeout).await
}

async fn open_tap(settings: tap::Settings, seen: &Seen) -> Result<Arc<Tap>, TapError> {
    let filters = settings.filters.clone();
    tracing::info!(
        redis = settings.shown_url,
        tap = settings.name,
        ?filters,
        "opening the tap"
    );
    let tap = tap::open(settings, &filters, &seen.health).await?;
    Ok(Arc::new(tap.traced(seen.tracer.clone())))
}

async fn tap_to_parquet(
    config: Config,
    tap: Arc<Tap>,
    told: Told,
    seen: Seen,
) -> Result<(), RunError> {
    let Seen {
        health, metrics, ..
    } = seen;
    let sink = ParquetSink::open(config.parquet, Arc::clone(&health), Arc::clone(&metrics))?;
    let ledger = sink.ledger().clone();
    let (intake, committer) = pipeline::start(Box::new(sink), config.batch, Arc::clone(&metrics))
        .map_err(RunError::Thread)?;
    // Another warehouse cannot know what this one has: what has been given is stored here, and acknowledged.
    let consumer = tap.join(Duration::MAX).await?;
    let room = config.mqtt.buffer_bytes;
    let storing = Storing::new(tap, consumer, &ledger, intake, room, health, metrics);
    let stored = storing.run(told.shutdown).await;
    let finished = finish(committer, config.shutdown_timeout).await;
    match stored {
        Ok(()) | Err(StoreError::Sink(_)) => finished,
        Err(StoreError::Tap(error)) => Err(error.into()),
    }
}

async fn tap_to_bigquery(
    config: Config,
    shared: bigquery::partition::Shared,
    tap: Arc<Tap>,
    follows: bool,
    told: Told,
    seen: Seen,
) -> Result<(), RunError> {
    let hand_over = match shared.settings.stream {
        // Whoever has it next learns what is stored.
        Kind::Committed => HAND_OVER,
        Kind::Default => Duration::MAX,
    };
    let consumer = tap.join(hand_over).await?;
    let Seen {
        health, metrics, ..
    } = seen;
    let counting = Arc::clone(&metrics);
    let feed = TapFeed::new(Arc::clone(&tap), consumer, Arc::clone(&health), metrics);
    let (change, rules) = watch::channel(Arc::new(config.rules.rules.clone()));
    let reloading = async {
        let mut reload = told.reload.clone();
        while reload.changed().await.is_ok() {
            let read = RulesFile::read(config.rules.path.clone());
            let new = match read {
                Ok(new) => new.rules,
                Err(problems) => {
                    for problem in problems {
                        tracing::error!(code = Code::RULES.as_str(), "{problem}");
                    }
                    tracing::error!(code = Code::RULES.as_str(), "the rules stay as they were");
                    counting.rules_read(false);
                    continue;
                }
            };
            // First the columns, then the messages that fill them.
            change.send_replace(Arc::new(new.clone()));
            if follows && let Err(error) = tap.define(&new.tap_filters(), &health).await {
                tracing::error!(code = error.code().as_str(), "{error}");
            }
            counting.rules_read(true);
            tracing::info!("the rules have been read again");
        }
        std::future::pending::<()>().await;
    };
    // A margin for giving the partitions back.
    let drain = config.shutdown_timeout.mul_f32(0.9);
    tokio::select! {
        finished = bigquery::run::run(feed, shared, rules, told.shutdown.clone(), drain) => finished?,
        () = reloading => {}
    }
    tracing::info!("everything that was read is stored, or given back to the tap");
    Ok(())
}

async fn bind_ops(config: &Config) -> Result<Option<TcpListener>, RunError> {
    let Some(address) = config.ops else {
        return Ok(None);
    };
    let listener = http::bind(address)
        .await
        .map_err(|error| RunError::Ops { address, error })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "health and metrics");
    }
    Ok(Some(listener))
}

/// Never ends.
async fn serve_ops(listener: Option<TcpListener>, seen: Seen) {
    let Seen {
        health, metrics, ..
    } = seen;
    if let Some(listener) = listener
        && let Err(error) = http::serve(listener, health, metrics).await
    {
        tracing::error!(
            code = Code::OPS_ADDRESS.as_str(),
            "health and metrics are no longer served: {error}"
        );
    }
    std::future::pending().await
}

/// The source has ended: waits for the sink.
async fn finish(committer: Committer, limit: Duration) -> Result<(), RunError> {
    let deadline = Instant::now() + limit;
    while !committer.is_finished() {
        if Instant::now() >= deadline {
            committer.give_up();
            return Err(RunError::Drain(limit.as_secs()));
        }
        sleep(Duration::from_millis(5)).await;
    }
    let finished = committer.join();
    if finished.is_ok() {
        tracing::info!("everything is stored");
    }
    Ok(finished?)
}
