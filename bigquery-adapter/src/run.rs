//! The adapter as a whole: opened from the sink towards the source, closed from the source towards the sink.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::error::{Code, SinkError, WarehouseError};
use crate::health::{Health, Part};
use crate::ops::http;
use crate::ops::metrics::Metrics;
use crate::pipeline;
use crate::pipeline::Committer;
use crate::sinks::parquet::ParquetSink;
use crate::sources::mqtt::MqttSource;

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
    /// The shutdown took too long.
    #[error(
        "not finished within {0} s; what is stored stays stored, the rest comes again from the broker"
    )]
    Drain(u64),
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
            Self::Drain(_) => Code::DRAIN,
            Self::Thread(_) => Code::SINK_STOPPED,
        }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Ops { .. } => 3,
            Self::Warehouse(_) => 4,
            Self::Sink(_) | Self::Drain(_) | Self::Thread(_) => 1,
        })
    }
}

/// Runs until `shutdown` becomes true and everything is finished, or something fails for good.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, shutdown: watch::Receiver<bool>) -> Result<(), RunError> {
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::default());
    let ops = bind_ops(&config).await?;
    let sink = ParquetSink::open(config.parquet, Arc::clone(&health), Arc::clone(&metrics))?;
    let ledger = sink.ledger().clone();
    let (intake, committer) = pipeline::start(Box::new(sink), config.batch, Arc::clone(&metrics))
        .map_err(RunError::Thread)?;
    let source = MqttSource::new(
        config.mqtt,
        &ledger,
        intake,
        Arc::clone(&health),
        Arc::clone(&metrics),
    );
    let serving = serve_ops(ops, Arc::clone(&health), metrics);
    let mut stopping = shutdown.clone();
    let draining = async {
        // The sender lives as long as the process listens for signals.
        drop(stopping.wait_for(|stop| *stop).await);
        health.set(Part::Running, Some("shutting down".to_owned()));
        tracing::info!("shutting down: storing and acknowledging what has been read");
        sleep(config.shutdown_timeout).await;
    };
    let working = async {
        let ended = source.run(shutdown).await;
        (ended, finish(committer, config.shutdown_timeout).await)
    };
    tokio::select! {
        (_, finished) = working => finished,
        () = draining => Err(RunError::Drain(config.shutdown_timeout.as_secs())),
        () = serving => Ok(()),
    }
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
async fn serve_ops(listener: Option<TcpListener>, health: Arc<Health>, metrics: Arc<Metrics>) {
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
