//! Rules: which message becomes a row of which table, with which columns.
//!
//! A rule is a topic pattern, a table and its columns. Every rule that matches a message makes a row of it; the first one counts
//! where several have the same table. What no rule matches goes to the default table with everything there is. A message
//! that does not fit a rule (no JSON, a text where a number should be) makes a refusal with the reason instead of a
//! row, and the rest goes on.
//!
//! Pure and deterministic: the same message and the same rules always make the same rows. The exactly-once sinks rely
//! on it: after a crash they make the rows again.

mod column;
mod file;
mod path;
mod pattern;
#[cfg(test)]
mod tests;
mod value;

pub use column::{Column, From};
pub use file::check_table_name;
pub use path::{JsonPath, PathError};
pub use pattern::{Captures, PatternError, TopicPattern};
pub use value::{ColumnType, ConversionError, TimeUnit, Value};

use crate::row::Row;
use column::Body;
use dunlin_sync::publisher::{TENANT_DOLLAR_PREFIX, TENANT_PREFIX};

/// Table of the messages that no rule matches, unless the file says otherwise.
pub const DEFAULT_TABLE: &str = "messages";
/// Columns of a table at the most; BigQuery's own limit is 10,000.
pub const MAX_COLUMNS: usize = 1_000;
/// Rules at the most. Each message is compared with each.
pub const MAX_RULES: usize = 256;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name.
    pub name: String,
    /// Type. NULLABLE, or for [`ColumnType::Pairs`] REPEATED.
    pub kind: ColumnType,
}

/// A table, as all rules together want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Name within the dataset.
    pub name: String,
    /// Columns; values come in this order.
    pub fields: Vec<Field>,
    /// The TIMESTAMP column by whose day the table is partitioned.
    pub partition_by: String,
    /// Columns by which a partition is clustered, four at the most.
    pub cluster_by: Vec<String>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: TopicPattern,
    table: usize,
    /// Columns with their place in the table.
    columns: Vec<(usize, Column)>,
    /// Whether a column needs the body parsed.
    parses: bool,
}

/// All rules.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: Vec<Rule>,
    tables: Vec<Table>,
    /// Place of the default table, and its columns.
    rest: Option<Rule>,
    text: String,
}

/// A message does not fit a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {pattern:?}, column {column:?}: {reason}")]
pub struct Refusal {
    /// Pattern of the rule.
    pub pattern: String,
    /// Column.
    pub column: String,
    /// What is wrong.
    pub reason: RefusalReason,
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// The column is required.
    #[error("the rule requires a value, and the message has none")]
    Missing,
    /// Another type.
    #[error(transparent)]
    Conversion(#[from] ConversionError),
}

impl Rules {
    /// Reads the text of a rules file. An empty text: everything goes to [`DEFAULT_TABLE`].
    ///
    /// # Errors
    /// Every problem that there is, with its place.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        file::parse(text)
    }

    /// The text they were read from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All tables that rows can go to.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The same for a tap, where the topics of a tenant stand below the tenant's name.
    #[must_use]
    pub fn tap_filters(&self) -> Vec<String> {
        let mut filters = self.filters();
        let of_tenants: Vec<_> = filters
            .iter()
            .map(|filter| match filter.starts_with('$') {
                true => format!("{TENANT_DOLLAR_PREFIX}+/{filter}"),
                false => format!("{TENANT_PREFIX}+/{filter}"),
            })
            .collect();
        filters.extend(of_tenants);
        filters
    }

    /// Topic filters of all that the rules want.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        let mut filters: Vec<String> = self
            .rules
            .iter()
            .map(|rule| rule.pattern.filter())
            .collect();
        if self.rest.is_some() {
            // All but what begins with a `$`.
            filters.retain(|filter| filter.starts_with('$'));
            filters.insert(0, "#".to_owned());
        }
        filters.dedup();
        filters
    }

    /// Makes the rows of a message: for each, `take` gets the number of the table in [`Rules::tables`] and the values in the
    /// order of its fields, or why there is no row. Returns how many times it was called: 0 when the message is not wanted.
    pub fn apply(
        &self,
        row: &Row<'_>,
        message_id: &str,
        mut take: impl FnMut(usize, Result<&[Value<'_>], Refusal>),
    ) -> usize {
        let mut body = Body::default();
        let mut made: Vec<usize> = Vec::new();
        let matching: Vec<(&Rule, Captures<'_>)> = self
            .rules
            .iter()
            .filter_map(|rule| Some((rule, rule.pattern.captures(row.topic)?)))
            .collect();
        if matching.iter().any(|(rule, _)| rule.parses) {
            body.parse(row.payload);
        }
        let rest = self.rest.as_ref().filter(|_| matching.is_empty());
        let rest = rest.map(|rule| (rule, Captures::default()));
        for (rule, captures) in matching.iter().chain(rest.iter()) {
            if made.contains(&rule.table) {
                continue;
            }
            made.push(rule.table);
            let width = self
                .tables
                .get(rule.table)
                .map_or(0, |table| table.fields.len());
            let mut values = vec![Value::Null; width];
            let filled = rule.fill(&mut values, row, message_id, captures, &body);
            take(rule.table, filled.map(|()| values.as_slice()));
        }
        made.len()
    }
}

impl Rule {
    fn fill<'a>(
        &self,
        values: &mut [Value<'a>],
        row: &Row<'a>,
        message_id: &'a str,
        captures: &Captures<'a>,
        body: &'a Body,
    ) -> Result<(), Refusal> {
        for (place, column) in &self.columns {
            let refusal = |reason| Refusal {
                pattern: self.pattern.to_string(),
                column: column.name.clone(),
                reason,
            };
            let value = column
                .value(row, message_id, captures, body)
                .map_err(|error| refusal(error.into()))?;
            if column.required && value == Value::Null {
                return Err(refusal(RefusalReason::Missing));
            }
            if let Some(to) = values.get_mut(*place) {
                *to = value;
            }
        }
        Ok(())
    }
}
