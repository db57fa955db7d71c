//! The dataset and the tables in it, by REST: made when missing, extended with new columns, never changed otherwise.

use async_trait::async_trait;
use gcp_bigquery_client::Client;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::clustering::Clustering;
use gcp_bigquery_client::model::field_type::FieldType;
use gcp_bigquery_client::model::query_request::QueryRequest;
use gcp_bigquery_client::model::table::Table as RestTable;
use gcp_bigquery_client::model::table_field_schema::TableFieldSchema;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;

use super::token::Tokens;
use crate::error::Code;
use crate::rules::{ColumnType, Field, Table};

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
        let client = ClientBuilder::new()
            .with_v2_base_url(endpoint.trim_end_matches('/').to_owned())
            .build_from_authenticator(std::sync::Arc::new(tokens))
            .await;
        let client = client.map_err(|error| TableError::Unavailable {
            what: format!("{project}:{dataset}"),
            reason: error.to_string(),
        })?;
        Ok(Self {
            client,
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
    /// The query is refused, or takes longer than a minute.
    pub async fn query(&self, sql: &str) -> Result<Vec<Vec<serde_json::Value>>, TableError> {
        let mut request = QueryRequest::new(sql);
        request.timeout_ms = Some(60_000);
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
        let there = self
            .client
            .table()
            .get(&self.project, &self.dataset, &table.name, None)
            .await;
        let there = match there {
            Ok(there) => there,
            Err(error) if status(&error) == Some(404) => match self.create(table).await {
                Err(error) if status(&error) != Some(409) => {
                    return Err(self.explain(&table.name, &error));
                }
                _ => self
                    .client
                    .table()
                    .get(&self.project, &self.dataset, &table.name, None)
                    .await
                    .map_err(|error| self.explain(&table.name, &error))?,
            },
            Err(error) => return Err(self.explain(&table.name, &error)),
        };
        let fields = there.schema.fields.clone().unwrap_or_default();
        let missing = compare(table, &fields)?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut extended = there;
        let mut fields = fields;
        fields.extend(missing.iter().map(describe));
        extended.schema = TableSchema::new(fields);
        let names: Vec<&str> = missing.iter().map(|field| field.name.as_str()).collect();
        tracing::info!(table = table.name, columns = ?names, "the table gets new columns");
        let patched = self
            .client
            .table()
            .patch(&self.project, &self.dataset, &table.name, extended)
            .await;
        patched
            .map(drop)
            .map_err(|error| self.explain(&table.name, &error))
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

fn describe(field: &Field) -> TableFieldSchema {
    let name = &field.name;
    match field.kind {
        ColumnType::String => TableFieldSchema::string(name),
        ColumnType::Bytes => TableFieldSchema::bytes(name),
        ColumnType::Int64 => TableFieldSchema::integer(name),
        ColumnType::Float64 => TableFieldSchema::float(name),
        ColumnType::Bool => TableFieldSchema::bool(name),
        ColumnType::Timestamp => TableFieldSchema::timestamp(name),
        ColumnType::Json => TableFieldSchema::json(name),
        ColumnType::Pairs => {
            let mut pairs = TableFieldSchema::record(
                name,
                vec![
                    TableFieldSchema::string("key"),
                    TableFieldSchema::string("value"),
                ],
            );
            pairs.mode = Some("REPEATED".to_owned());
            pairs
        }
    }
}

/// Columns that the table lacks.
fn compare(table: &Table, there: &[TableFieldSchema]) -> Result<Vec<Field>, TableError> {
    let mut missing = Vec::new();
    for field in &table.fields {
        let Some(known) = there
            .iter()
            .find(|known| known.name.eq_ignore_ascii_case(&field.name))
        else {
            missing.push(field.clone());
            continue;
        };
        let wanted = describe(field);
        let repeated = |mode: &Option<String>| mode.as_deref() == Some("REPEATED");
        if canonical(&known.r#type) != canonical(&wanted.r#type)
            || repeated(&known.mode) != repeated(&wanted.mode)
        {
            return Err(TableError::Type {
                table: table.name.clone(),
                column: field.name.clone(),
                found: format!(
                    "{} {:?}",
                    known.mode.as_deref().unwrap_or("NULLABLE"),
                    known.r#type
                ),
                wanted: format!(
                    "{} {:?}",
                    wanted.mode.as_deref().unwrap_or("NULLABLE"),
                    wanted.r#type
                ),
            });
        }
    }
    for known in there {
        let given = table
            .fields
            .iter()
            .any(|field| field.name.eq_ignore_ascii_case(&known.name));
        if known.mode.as_deref() == Some("REQUIRED") && !given {
            return Err(TableError::Required {
                table: table.name.clone(),
                column: known.name.clone(),
            });
        }
    }
    Ok(missing)
}

/// BigQuery has two names for some types, and answers with the older ones.
fn canonical(kind: &FieldType) -> std::mem::Discriminant<FieldType> {
    std::mem::discriminant(match kind {
        FieldType::Int64 => &FieldType::Integer,
        FieldType::Float64 => &FieldType::Float,
        FieldType::Bool => &FieldType::Boolean,
        FieldType::Struct => &FieldType::Record,
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let field = |name: &str, kind| Field {
            name: name.to_owned(),
            kind,
        };
        Table {
            name: "t".to_owned(),
            fields: vec![
                field("received_at", ColumnType::Timestamp),
                field("n", ColumnType::Int64),
                field("user_properties", ColumnType::Pairs),
            ],
            partition_by: "received_at".to_owned(),
            cluster_by: Vec::new(),
        }
    }

    #[test]
    fn columns_that_are_there_are_compared_and_the_others_told() {
        let mut there: Vec<TableFieldSchema> = table().fields.iter().map(describe).collect();
        assert_eq!(compare(&table(), &there).unwrap(), []);
        let last = there.pop().unwrap();
        let missing = compare(&table(), &there).unwrap();
        assert_eq!(
            missing
                .iter()
                .map(|field| field.name.as_str())
                .collect::<Vec<_>>(),
            ["user_properties"]
        );
        there.push(last);
        there.push(TableFieldSchema::string("by_hand"));
        assert_eq!(compare(&table(), &there).unwrap(), []);
    }

    #[test]
    fn a_column_of_another_type_or_one_that_nobody_fills_is_told() {
        let mut there: Vec<TableFieldSchema> = table().fields.iter().map(describe).collect();
        there[1] = TableFieldSchema::string("N");
        let error = compare(&table(), &there).unwrap_err().to_string();
        assert!(
            error.contains("table t has column \"n\" as NULLABLE String"),
            "{error}"
        );
        there[1] = TableFieldSchema::integer("n");
        let mut required = TableFieldSchema::string("site");
        required.mode = Some("REQUIRED".to_owned());
        there.push(required);
        let error = compare(&table(), &there).unwrap_err().to_string();
        assert!(
            error.contains("requires a value in column \"site\""),
            "{error}"
        );
    }
}
