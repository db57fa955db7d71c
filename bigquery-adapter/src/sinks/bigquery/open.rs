//! Looks at everything that must be right before the first row: credentials, dataset, tables. What is wrong is told with what to do;
//! what may pass by itself is waited for.

use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;

use super::Settings;
use super::api::{EndpointError, WriteApi};
use super::dead::{self, DeadLetters};
use super::partition::Shared;
use super::tables::{Catalog, TableError, Tables};
use super::token::{TokenError, Tokens};
use crate::error::Code;
use crate::health::{Health, Part};
use crate::ops::metrics::Metrics;
use crate::rules::Rules;

/// Why the adapter cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Credentials.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// An address.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Dataset or table.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl OpenError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Token(_) => Code::CREDENTIALS,
            Self::Endpoint(_) => Code::DATASET,
            Self::Table(error) => error.code(),
        }
    }
}

/// Looks at everything, and makes the tables that are missing. Waits while BigQuery cannot be reached. Cancel safe.
///
/// # Errors
/// What only a person can mend.
pub async fn open(
    settings: &Settings,
    rules: &Rules,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> Result<Shared, OpenError> {
    let tokens = Tokens::open(&settings.credentials).await?;
    tokens.token().await?;
    let api = WriteApi::new(&settings.endpoint, tokens.clone())?;
    let tables = Tables::new(
        &settings.rest_endpoint,
        tokens,
        &settings.project,
        &settings.dataset,
    )
    .await?;
    let mut pauses = backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(30))
        .without_max_times()
        .with_jitter()
        .build();
    while let Err(error) = check(&tables, rules, &settings.dead_letter_table).await {
        if !error.may_pass() {
            return Err(error.into());
        }
        tracing::warn!(code = error.code().as_str(), "{error}; trying again");
        health.set(Part::BigQuery, Some(error.to_string()));
        tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(30))).await;
    }
    health.set(Part::BigQuery, None);
    let tables: Arc<dyn Catalog> = Arc::new(tables);
    let dead = DeadLetters::new(
        api.clone(),
        Arc::clone(&tables),
        &settings.dead_letter_table,
        settings.dead_letter_directory.clone(),
    );
    Ok(Shared {
        api,
        tables,
        dead,
        settings: Arc::new(settings.partition.clone()),
        metrics,
        health,
    })
}

async fn check(tables: &Tables, rules: &Rules, dead_letters: &str) -> Result<(), TableError> {
    tables.check_dataset().await?;
    for table in rules.tables() {
        tables.prepare(table).await?;
    }
    tables.prepare(&dead::table(dead_letters)).await
}
