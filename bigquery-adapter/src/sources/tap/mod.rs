//! The tap: what the brokers have put into Redis for the adapter. Any number of adapters share its partitions.
//!
//! [`open`] waits until Redis answers, defines the tap and waits until every replica knows it; then the messages go either
//! to [partitions of BigQuery](feed) or into [a sink of batches](store).

pub mod feed;
mod lag;
mod rows;
pub mod store;
mod traces;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::cluster::redis::{RedisBackplane, RedisError, RedisOptions};
use dunlin_sync::cluster::tap::{
    Consumer, ConsumerOptions, Definition, DefinitionError, WhenFull, define, known,
};
use dunlin_sync::cluster::{Backplane, BackplaneError};
use dunlin_telemetry::trace::Tracer;
use tokio::time::interval;

pub use rows::TapMessages;

use crate::error::Code;
use crate::health::{Health, Part};
use crate::ops::metrics::Metrics;
use crate::status::adapter_name;
use lag::Lag;
use traces::Traces;

/// How long replicas may take to say that they know a new definition.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the lag and the connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two reminders that Redis does not answer.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// Settings of the tap.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where Redis is.
    pub redis: RedisOptions,
    /// The same without its password.
    pub shown_url: String,
    /// Name of the tap.
    pub name: String,
    /// What goes in; empty: what the rules want.
    pub filters: Vec<String>,
    /// Number of partitions.
    pub partitions: u16,
    /// What happens at the bound.
    pub when_full: WhenFull,
    /// Bound of a partition: messages.
    pub max_messages: u64,
    /// Bound of a partition: bytes.
    pub max_bytes: u64,
    /// How long a dead adapter's partitions wait.
    pub lease: Duration,
    /// Bytes of a partition that are read ahead of the acknowledgements.
    pub ahead_bytes: u64,
}

/// Why the tap cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The settings of Redis.
    #[error("{0}; check redis.url and the files of [redis]")]
    Redis(#[from] RedisError),
    /// The definition.
    #[error("{0}; check [tap]")]
    Definition(#[from] DefinitionError),
    /// The connection has been closed from here.
    #[error("the connection to the tap has ended: {0}")]
    Closed(#[from] BackplaneError),
}

impl TapError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Redis(_) | Self::Closed(_) => Code::TAP_REDIS,
            Self::Definition(_) => Code::TAP_DEFINITION,
        }
    }
}

/// A tap that is defined.
pub struct Tap {
    backplane: Arc<RedisBackplane>,
    settings: Settings,
    tracer: Option<Tracer>,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap")
            .field("name", &self.settings.name)
            .finish_non_exhaustive()
    }
}

/// Connects, and defines the tap with these filters unless it is already as wanted. Waits as long as Redis does not answer. Cancel safe, but for a definition
/// that may have been written.
///
/// # Errors
/// The settings make no sense, or the definition is refused.
pub async fn open(
    settings: Settings,
    filters: &[String],
    health: &Health,
) -> Result<Tap, TapError> {
    let handle = tokio::runtime::Handle::current();
    let backplane = Arc::new(RedisBackplane::start(settings.redis.clone(), handle)?);
    let tap = Tap {
        backplane,
        settings,
        tracer: None,
    };
    health.set(Part::Source, Some("Redis has not answered yet".to_owned()));
    tap.define(filters, health).await?;
    health.set(Part::Source, None);
    Ok(tap)
}

impl Tap {
    /// What its publisher has sampled is traced on its way.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    fn traces(&self) -> Traces {
        Traces::new(self.tracer.clone())
    }

    /// Changes what goes into the tap.
    ///
    /// # Errors
    /// The definition is refused.
    pub async fn define(&self, filters: &[String], health: &Health) -> Result<(), TapError> {
        let wanted = self.wanted(filters);
        let defining = async {
            let there = known(&*self.backplane, &wanted.name).await?;
            if let Some(there) = there
                && (Definition {
                    revision: wanted.revision,
                    ..there
                }) == wanted
            {
                return Ok(());
            }
            define(&*self.backplane, &wanted, wanted.revision, PATIENCE).await
        };
        let mut defining = std::pin::pin!(defining);
        let mut reminder = interval(REMIND_EVERY);
        reminder.tick().await;
        let defined = loop {
            tokio::select! {
                defined = &mut defining => break defined,
                _ = reminder.tick() => self.remind(health),
            }
        };
        match defined {
            Err(error @ DefinitionError::Unknown { .. }) => {
                tracing::warn!(code = Code::TAP_DEFINITION.as_str(), "{error}; going on");
                Ok(())
            }
            defined => Ok(defined?),
        }
    }

    fn remind(&self, health: &Health) {
        // With Redis there, the replicas are waited for; that has an end of its own.
        let Some(problem) = self.problem() else {
            return;
        };
        let code = Code::TAP_REDIS.as_str();
        tracing::warn!(code, "the tap is waited for: {problem}");
        health.set(Part::Source, Some(problem));
    }

    /// Tells metrics and health how far this reader is, and what is wrong.
    fn look(&self, consumer: &Consumer, lag: &Lag, metrics: &Metrics, health: &Health) {
        lag.tell(consumer.held(), metrics);
        let configured = i64::from(self.settings.partitions);
        metrics.tap_partitions_configured.set(configured);
        let problem = self.problem();
        metrics.connected.set(i64::from(problem.is_none()));
        health.set(Part::Source, problem);
    }

    fn wanted(&self, filters: &[String]) -> Definition {
        let settings = &self.settings;
        let filters = filters.iter().map(String::as_str);
        let mut wanted = Definition::new(&settings.name, filters);
        wanted.partitions = settings.partitions;
        wanted.when_full = settings.when_full;
        wanted.max_messages = settings.max_messages;
        wanted.max_bytes = settings.max_bytes;
        // The same definition has the same revision, so that adapters that start together wait for the same.
        let text = format!("{wanted:?}");
        let (low, high) = (
            crc32fast::hash(text.as_bytes()),
            crc32fast::hash(format!("{text} ").as_bytes()),
        );
        wanted.revision = (u64::from(high) << 32 | u64::from(low)).max(1);
        wanted
    }

    /// A reader of it. `hand_over`: see [`ConsumerOptions::hand_over`].
    ///
    /// # Errors
    /// When the definition cannot be read.
    pub async fn join(&self, hand_over: Duration) -> Result<Consumer, TapError> {
        let options = ConsumerOptions {
            hand_over,
            lease: self.settings.lease,
            ahead_bytes: self.settings.ahead_bytes,
            ..ConsumerOptions::default()
        };
        // Drawn by the system for each hasher.
        let number = RandomState::new().build_hasher().finish();
        tracing::info!(
            adapter = adapter_name(number),
            "joining the readers of the tap"
        );
        let backplane: Arc<dyn Backplane> = self.backplane.clone();
        Ok(Consumer::join(backplane, &self.settings.name, number, options).await?)
    }

    /// Name of the tap.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What is wrong with the connection at the moment.
    fn problem(&self) -> Option<String> {
        let status = self.backplane.status();
        let reason = || {
            status
                .last_error
                .clone()
                .unwrap_or_else(|| "no answer".to_owned())
        };
        (!status.connected).then(|| format!("Redis at {}: {}", self.settings.shown_url, reason()))
    }

    /// Ends the connection.
    pub async fn close(&self) {
        self.backplane.close().await;
    }
}
