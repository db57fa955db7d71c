//! The dataset and the tables in it, by REST: made when missing, extended with new columns, never changed otherwise.

use std::time::Duration;

use async_trait::async_trait;
use gcp_bigquery_client::Client;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::{BQError, NestedResponseError, ResponseError};
use gcp_bigquery_client::model::clustering::Clustering;
use gcp_bigquery_client::model::query_request::QueryRequest;
use gcp_bigquery_client::model::table::Table as RestTable;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;

use super::schema::{compare, describe};
use super::token::Tokens;
use crate::error::Code;
use crate::rules::{Field, Table};

/// Calls are given up after this.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Milliseconds after which BigQuery says that a query has not finished: before the call is given up.
const QUERY_TIMEOUT_MS: i32 = 55_000;
/// How often columns are added anew because somebody else has changed the table meanwhile.
const ATTEMPTS: u32 = 10;

/// Google's own address.
pub const ENDPOINT: &str = "https://bigquery.googleapis.com/bigquery/v2";

/// What is wrong with dataset or table, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The dataset or the project.
    #[error(
        "dataset {project}:{dataset} was not found: check bigquery.project and bigquery.dataset, or make it with `bq mk --dataset {project}:{dataset}` or Terraform"
    )]
    NoDataset {
        /// Project.
        project: String,
        /// Dataset.
        dataset: String,
    },
    /// A permission.
    #[error(
        "no permission on {project}:{dataset}: the service account needs roles/bigquery.dataEditor on the dataset: {reason}"
    )]
    Permission {
        /// Project.
        project: String,
        /// Dataset.
        dataset: String,
        /// BigQuery's words.
        reason: String,
    },
    /// A column.
    #[error(
        "table {table} has column {column:?} as {found}, and the rules want {wanted}: name the column otherwise in the rules, or write to another table"
    )]
    Type {
        /// Table.
        table: String,
        /// Column.
        column: String,
        /// Type in the table.
        found: String,
        /// Type by the rules.
        wanted: String,
    },
    /// A column must have a value, and the rules know none.
    #[error(
        "table {table} requires a value in column {column:?}, and no rule gives one: relax it to NULLABLE, or add it to the rules"
    )]
    Required {
        /// Table.
        table: String,
        /// Column.
        column: String,
    },
    /// The request makes no sense to BigQuery.
    #[error(
        "BigQuery refuses to answer about {what}: {reason}; check bigquery.project, bigquery.dataset and the names in the rules"
    )]
    Refused {
        /// Dataset or table.
        what: String,
        /// What was said.
        reason: String,
    },
    /// Anything else, perhaps for the moment only.
    #[error("BigQuery cannot be asked about {what}: {reason}")]
    Unavailable {
        /// Dataset or table.
        what: String,
        /// What was said.
        reason: String,
    },
}

impl TableError {
    /// The code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NoDataset { .. } | Self::Refused { .. } => Code::DATASET,
            Self::Permission { .. } => Code::PERMISSION,
            Self::Type { .. } | Self::Required { .. } => Code::TABLE,
            Self::Unavailable { .. } => Code::BIGQUERY_UNAVAILABLE,
        }
    }

    /// Whether it may pass by itself.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Where tables are.
#[async_trait]
pub trait Catalog: Send + Sync + std::fmt::Debug {
    /// Name of a table as the Storage Write API has it.
    fn path(&self, table: &str) -> String;

    /// The table is there and has all columns: made, or extended, when that is missing. May be repeated, and done by several
    /// adapters at once.
    ///
    /// # Errors
    /// See [`TableError`].
    async fn prepare(&self, table: &Table) -> Result<(), TableError>;
}

/// Tables of a dataset of BigQuery.
pub struct Tables {
    client: Client,
    /// For what the client has no call for.
    http: reqwest::Client,
    tokens: Tokens,
    endpoint: String,
    project: String,
    dataset: String,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables")
            .field("project", &self.project)
            .field("dataset", &self.dataset)
            .finish_non_exhaustive()
    }
}

impl Tables {
    /// For a dataset. No server is asked yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub async fn new(
        endpoint: &str,
        tokens: Tokens,
        project: &str,
        dataset: &str,
    ) -> Result<Self, TableError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let unavailable = |reason: String| TableError::Unavailable {
            what: format!("{project}:{dataset}"),
            reason,
        };
        let http = reqwest::Client::builder().timeout(CALL_TIMEOUT).build();
        let http = http.map_err(|error| unavailable(error.to_string()))?;
        let client = ClientBuilder::new()
            .with_v2_base_url(endpoint.clone())
            .with_client(http.clone())
            .build_from_authenticator(std::sync::Arc::new(tokens.clone()))
            .await;
        Ok(Self {
            client: client.map_err(|error| unavailable(error.to_string()))?,
            http,
            tokens,
            endpoint,
            project: project.to_owned(),
            dataset: dataset.to_owned(),
        })
    }

    /// The dataset is there and may be read.
    ///
    /// # Errors
    /// See [`TableError`].
    pub async fn check_dataset(&self) -> Result<(), TableError> {
        match self
            .client
            .dataset()
            .get(&self.project, &self.dataset)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(&self.dataset, &error)),
        }
    }

    /// Rows of a query: cells as BigQuery's REST API has them.
    ///
    /// # Errors
    /// The query is refused, or takes about a minute or longer.
    pub async fn query(&self, sql: &str) -> Result<Vec<Vec<serde_json::Value>>, TableError> {
        let mut request = QueryRequest::new(sql);
        request.timeout_ms = Some(QUERY_TIMEOUT_MS);
        let answer = self.client.job().query(&self.project, request).await;
        let answer = answer.map_err(|error| self.explain("the query", &error))?;
        let errors = answer.errors.unwrap_or_default();
        if answer.job_complete == Some(false) || !errors.is_empty() {
            return Err(TableError::Unavailable {
                what: "a query".to_owned(),
                reason: format!("it has not finished: {errors:?}"),
            });
        }
        let rows = answer.rows.unwrap_or_default().into_iter();
        let cells = |row: gcp_bigquery_client::model::table_row::TableRow| {
            let cells = row.columns.unwrap_or_default().into_iter();
            cells.map(|cell| cell.value.unwrap_or_default()).collect()
        };
        Ok(rows.map(cells).collect())
    }

    /// Whether a table is there.
    ///
    /// # Errors
    /// That cannot be told.
    pub async fn exists(&self, table: &str) -> Result<bool, TableError> {
        let got = self
            .client
            .table()
            .get(&self.project, &self.dataset, table, None)
            .await;
        match got {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(self.explain(table, &error)),
        }
    }

    /// Name of a table as SQL has it.
    #[must_use]
    pub fn quoted(&self, table: &str) -> String {
        format!("`{}.{}.{table}`", self.project, self.dataset)
    }

    async fn create(&self, table: &Table) -> Result<(), BQError> {
        let fields = table.fields.iter().map(describe).collect();
        let mut rest = RestTable::new(
            &self.project,
            &self.dataset,
            &table.name,
            TableSchema::new(fields),
        )
        .time_partitioning(TimePartitioning::per_day().field(&table.partition_by));
        if !table.cluster_by.is_empty() {
            rest = rest.clustering(Clustering {
                fields: Some(table.cluster_by.clone()),
            });
        }
        tracing::info!(table = table.name, "the table is made");
        self.client.table().create(rest).await.map(drop)
    }

    fn explain(&self, what: &str, error: &BQError) -> TableError {
        let (project, dataset) = (self.project.clone(), self.dataset.clone());
        let reason = words(error);
        match status(error) {
            // A quota has the code of a permission.
            Some(403) if reason.contains("xceeded") => TableError::Unavailable {
                what: format!("{project}:{dataset}.{what}"),
                reason,
            },
            Some(404) => TableError::NoDataset { project, dataset },
            // Changed again and again by others.
            Some(412) => TableError::Unavailable {
                what: format!("{project}:{dataset}.{what}"),
                reason,
            },
            Some(401 | 403) => TableError::Permission {
                project,
                dataset,
                reason,
            },
            Some(code @ 400..500) if !matches!(code, 408 | 429) => TableError::Refused {
                what: format!("{project}:{dataset}.{what}"),
                reason,
            },
            _ => TableError::Unavailable {
                what: format!("{project}:{dataset}.{what}"),
                reason,
            },
        }
    }
}

#[async_trait]
impl Catalog for Tables {
    fn path(&self, table: &str) -> String {
        format!(
            "projects/{}/datasets/{}/tables/{table}",
            self.project, self.dataset
        )
    }

    async fn prepare(&self, table: &Table) -> Result<(), TableError> {
        let failed = |error: BQError| self.explain(&table.name, &error);
        for attempt in 1.. {
            let there = match self.get(table).await {
                Ok(there) => there,
                Err(error) if status(&error) == Some(404) => match self.create(table).await {
                    Err(error) if status(&error) != Some(409) => return Err(failed(error)),
                    _ => self.get(table).await.map_err(failed)?,
                },
                Err(error) => return Err(failed(error)),
            };
            let fields = there.schema.fields.as_deref().unwrap_or_default();
            let missing = compare(table, fields)?;
            if missing.is_empty() {
                return Ok(());
            }
            match self.add_columns(table, &there, &missing).await {
                Ok(()) => return Ok(()),
                // Somebody else was quicker: the table is looked at anew, or their columns would be lost.
                Err(error) if status(&error) == Some(412) && attempt < ATTEMPTS => {
                    tracing::info!(table = table.name, "the table has been changed meanwhile");
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

impl Tables {
    async fn get(&self, table: &Table) -> Result<RestTable, BQError> {
        let (project, dataset) = (&self.project, &self.dataset);
        let tables = self.client.table();
        tables.get(project, dataset, &table.name, None).await
    }

    /// Puts columns behind those that are there, if the table is still what it was. A table's columns are sent as a whole, so of two
    /// adapters that add different ones the second one would take away what the first has added.
    async fn add_columns(
        &self,
        table: &Table,
        there: &RestTable,
        missing: &[Field],
    ) -> Result<(), BQError> {
        let names: Vec<&str> = missing.iter().map(|field| field.name.as_str()).collect();
        tracing::info!(table = table.name, columns = ?names, "the table gets new columns");
        let mut fields = there.schema.fields.clone().unwrap_or_default();
        fields.extend(missing.iter().map(describe));
        let url = format!(
            "{}/projects/{}/datasets/{}/tables/{}",
            self.endpoint, self.project, self.dataset, table.name
        );
        let schema = serde_json::json!({ "schema": TableSchema::new(fields) });
        let mut request = self.http.patch(url).json(&schema);
        if let Some(etag) = &there.etag {
            request = request.header("If-Match", etag);
        }
        match self.tokens.token().await {
            Ok(Some(token)) => request = request.bearer_auth(token),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("{error}");
                return Err(BQError::NoToken);
            }
        }
        let answer = request.send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = answer.text().await?;
        let error = serde_json::from_str(&text).unwrap_or_else(|_| ResponseError {
            error: NestedResponseError {
                code: i64::from(status.as_u16()),
                errors: Vec::new(),
                message: text,
                status: String::new(),
            },
        });
        Err(BQError::ResponseError { error })
    }
}

fn words(error: &BQError) -> String {
    match error {
        BQError::ResponseError { error } => error.error.message.clone(),
        BQError::NoToken => "there is no token, see above".to_owned(),
        other => other.to_string(),
    }
}

fn status(error: &BQError) -> Option<i64> {
    match error {
        BQError::ResponseError { error } => Some(error.error.code),
        _ => None,
    }
}
