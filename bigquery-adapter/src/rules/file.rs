//! The rules file: TOML in, checked rules out, or all problems at once.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::column::{Column, From};
use super::value::{ColumnType, TimeUnit};
use super::{
    DEFAULT_TABLE, Field, JsonPath, MAX_COLUMNS, MAX_RULES, Rule, Rules, Table, TopicPattern,
};

/// Columns by which BigQuery can cluster.
const MAX_CLUSTERING: usize = 4;
const RECEIVED_AT: &str = "received_at";
const MESSAGE_ID: &str = "message_id";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    default_table: Option<String>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    topic: String,
    table: String,
    columns: BTreeMap<String, RawColumn>,
    partition_by: Option<String>,
    cluster_by: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a column is a text such as \"topic.device\" or a table such as { from = \"$.t\", type = \"FLOAT64\" } with from, type, unit and required"
)]
enum RawColumn {
    Short(String),
    Long(RawLongColumn),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLongColumn {
    from: String,
    #[serde(rename = "type")]
    kind: Option<ColumnType>,
    unit: Option<TimeUnit>,
    #[serde(default)]
    required: bool,
}

pub(super) fn parse(text: &str) -> Result<Rules, Vec<String>> {
    let raw: RawFile = toml::from_str(text).map_err(|error| vec![toml_problem(text, &error)])?;
    let mut reading = Reading::default();
    if raw.rule.len() > MAX_RULES {
        let words = format!(
            "{} rules are too many: {MAX_RULES} at the most",
            raw.rule.len()
        );
        reading.problems.push(words);
    }
    let mut rules = Vec::new();
    for (index, rule) in raw.rule.into_iter().enumerate() {
        let place = format!("rule {} ({:?})", index + 1, rule.topic);
        rules.extend(reading.rule(&place, rule));
    }
    let name = raw.default_table.as_deref().unwrap_or(DEFAULT_TABLE);
    let rest = if name.is_empty() {
        None
    } else {
        reading.rest(name)
    };
    reading.check_tables();
    if reading.problems.is_empty() {
        Ok(Rules {
            rules,
            tables: reading.tables,
            rest,
            text: text.to_owned(),
        })
    } else {
        Err(reading.problems)
    }
}

fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let words = error.message().replace('\n', ", ");
    match before {
        Some(before) => format!("line {}: {words}", before.matches('\n').count() + 1),
        None => words,
    }
}

#[derive(Default)]
struct Reading {
    tables: Vec<Table>,
    by_name: HashMap<String, usize>,
    problems: Vec<String>,
}

impl Reading {
    fn rule(&mut self, place: &str, raw: RawRule) -> Option<Rule> {
        let pattern = match TopicPattern::parse(&raw.topic) {
            Ok(pattern) => pattern,
            Err(error) => {
                self.problems.push(format!("{place}: {error}"));
                return None;
            }
        };
        if let Err(words) = check_table_name(&raw.table) {
            self.problems.push(format!("{place}: {words}"));
            return None;
        }
        let mut columns = Vec::new();
        for (name, from) in [
            (RECEIVED_AT, From::ReceivedAt),
            (MESSAGE_ID, From::MessageId),
        ] {
            if !raw
                .columns
                .keys()
                .any(|known| known.eq_ignore_ascii_case(name))
            {
                columns.push(plain(name, from));
            }
        }
        for (name, column) in raw.columns {
            match read_column(&name, column, &pattern) {
                Ok(column) => columns.push(column),
                Err(words) => self
                    .problems
                    .push(format!("{place}: column {name:?}: {words}")),
            }
        }
        let parses = columns
            .iter()
            .any(|column| matches!(column.from, From::Path(_)));
        let table = self.table(&raw.table);
        let columns = self.place(place, table, columns);
        self.arrange(place, table, raw.partition_by, raw.cluster_by);
        Some(Rule {
            pattern,
            table,
            columns,
            parses,
        })
    }

    /// Everything there is, for the messages that no rule matches.
    fn rest(&mut self, name: &str) -> Option<Rule> {
        let place = "default_table";
        if let Err(words) = check_table_name(name) {
            self.problems.push(format!("{place}: {words}"));
            return None;
        }
        let columns = [
            (RECEIVED_AT, From::ReceivedAt),
            ("topic", From::Topic),
            ("payload", From::Payload),
            ("payload_json", From::PayloadJson),
            ("qos", From::Qos),
            ("retain", From::Retain),
            ("client_id", From::ClientId),
            (MESSAGE_ID, From::MessageId),
            ("content_type", From::ContentType),
            ("response_topic", From::ResponseTopic),
            ("correlation_data", From::CorrelationData),
            ("user_properties", From::UserProperties),
            // Behind what was there before them: columns that are added stand at the end of tables, too.
            ("tenant", From::Tenant),
            ("device_id", From::DeviceId),
        ];
        let columns = columns.map(|(name, from)| plain(name, from)).to_vec();
        let new = !self.by_name.contains_key(&name.to_ascii_lowercase());
        let table = self.table(name);
        let columns = self.place(place, table, columns);
        if new {
            self.arrange(place, table, None, Some(vec!["topic".to_owned()]));
        }
        let pattern = TopicPattern::parse("#").ok()?;
        Some(Rule {
            pattern,
            table,
            columns,
            parses: false,
        })
    }

    /// The table of this name; BigQuery's names differ by case, but two that differ in nothing else are a mistake.
    fn table(&mut self, name: &str) -> usize {
        let next = self.tables.len();
        let number = *self
            .by_name
            .entry(name.to_ascii_lowercase())
            .or_insert(next);
        match self.tables.get(number) {
            Some(known) if known.name != name => self.problems.push(format!(
                "the tables {:?} and {name:?} differ by case only",
                known.name
            )),
            Some(_) => {}
            None => self.tables.push(Table {
                name: name.to_owned(),
                fields: Vec::new(),
                partition_by: RECEIVED_AT.to_owned(),
                cluster_by: Vec::new(),
            }),
        }
        number
    }

    /// Gives each column its place in the table; rules of one table share columns of one name.
    fn place(&mut self, place: &str, table: usize, columns: Vec<Column>) -> Vec<(usize, Column)> {
        let Some(table) = self.tables.get_mut(table) else {
            return Vec::new();
        };
        let mut placed = Vec::with_capacity(columns.len());
        for column in columns {
            let known = table
                .fields
                .iter()
                .position(|field| field.name.eq_ignore_ascii_case(&column.name));
            let number = known.unwrap_or(table.fields.len());
            match table.fields.get(number) {
                Some(field) if field.name != column.name || field.kind != column.kind => {
                    self.problems.push(format!(
                        "{place}: column {:?} of type {} is {:?} of type {} in another rule of table {:?}",
                        column.name,
                        column.kind.name(),
                        field.name,
                        field.kind.name(),
                        table.name
                    ));
                }
                Some(_) => {}
                None => table.fields.push(Field {
                    name: column.name.clone(),
                    kind: column.kind,
                }),
            }
            placed.push((number, column));
        }
        placed
    }

    fn arrange(
        &mut self,
        place: &str,
        table: usize,
        partition_by: Option<String>,
        cluster_by: Option<Vec<String>>,
    ) {
        let Some(table) = self.tables.get_mut(table) else {
            return;
        };
        let mut differs = |what: &str| {
            let words = format!(
                "{place}: another rule of table {:?} has another {what}",
                table.name
            );
            self.problems.push(words);
        };
        if let Some(column) = partition_by {
            if table.partition_by != RECEIVED_AT && table.partition_by != column {
                differs("partition_by");
            }
            table.partition_by = column;
        }
        if let Some(columns) = cluster_by {
            if !table.cluster_by.is_empty() && table.cluster_by != columns {
                differs("cluster_by");
            }
            table.cluster_by = columns;
        }
    }

    fn check_tables(&mut self) {
        for table in &self.tables {
            let name = &table.name;
            let kind = |column: &String| {
                let mut fields = table.fields.iter();
                fields
                    .find(|field| field.name == *column)
                    .map(|field| field.kind)
            };
            if table.fields.len() > MAX_COLUMNS {
                let columns = table.fields.len();
                self.problems.push(format!(
                    "table {name:?} has {columns} columns: {MAX_COLUMNS} at the most"
                ));
            }
            if kind(&table.partition_by) != Some(ColumnType::Timestamp) {
                let column = &table.partition_by;
                self.problems.push(format!(
                    "table {name:?}: partition_by = {column:?} must name a TIMESTAMP column of the table"
                ));
            }
            if table.cluster_by.len() > MAX_CLUSTERING {
                self.problems.push(format!(
                    "table {name:?}: cluster_by names more than {MAX_CLUSTERING} columns"
                ));
            }
            for column in &table.cluster_by {
                use ColumnType::{Bool, Int64, String, Timestamp};
                if !matches!(kind(column), Some(String | Int64 | Bool | Timestamp)) {
                    self.problems.push(format!(
                        "table {name:?}: cluster_by names {column:?}, which must be a column of type STRING, INT64, BOOL or TIMESTAMP"
                    ));
                }
            }
        }
    }
}

fn plain(name: &str, from: From) -> Column {
    Column {
        name: name.to_owned(),
        kind: from.default_type(),
        from,
        unit: None,
        required: false,
    }
}

fn read_column(name: &str, raw: RawColumn, pattern: &TopicPattern) -> Result<Column, String> {
    check_column_name(name)?;
    let raw = match raw {
        RawColumn::Short(from) => RawLongColumn {
            from,
            kind: None,
            unit: None,
            required: false,
        },
        RawColumn::Long(raw) => raw,
    };
    let from = read_from(&raw.from, pattern)?;
    let kind = raw.kind.unwrap_or_else(|| from.default_type());
    if !from.can_be(kind) {
        return Err(format!("{:?} cannot be of type {}", raw.from, kind.name()));
    }
    if raw.unit.is_some() && kind != ColumnType::Timestamp {
        return Err(
            "unit says what a number means as a time: it goes with type = \"TIMESTAMP\"".to_owned(),
        );
    }
    Ok(Column {
        name: name.to_owned(),
        from,
        kind,
        unit: raw.unit,
        required: raw.required,
    })
}

fn read_from(text: &str, pattern: &TopicPattern) -> Result<From, String> {
    Ok(match text {
        "topic" => From::Topic,
        "payload" => From::Payload,
        "payload_json" => From::PayloadJson,
        "user_properties" => From::UserProperties,
        "client_id" => From::ClientId,
        "tenant" => From::Tenant,
        "device_id" => From::DeviceId,
        "received_at" => From::ReceivedAt,
        "qos" => From::Qos,
        "retain" => From::Retain,
        "message_id" => From::MessageId,
        "content_type" => From::ContentType,
        "response_topic" => From::ResponseTopic,
        "correlation_data" => From::CorrelationData,
        text => {
            if let Some(level) = text.strip_prefix("topic.") {
                let number = pattern.name(level).ok_or_else(|| {
                    format!(
                        "the pattern {:?} has no level {{{level}}}",
                        pattern.to_string()
                    )
                })?;
                From::Level(number)
            } else if let Some(name) = text.strip_prefix("user_property.") {
                From::UserProperty(name.to_owned())
            } else if text.starts_with('$') {
                let path = JsonPath::parse(text).map_err(|error| format!("{text:?}: {error}"))?;
                From::Path(path)
            } else {
                return Err(format!(
                    "{text:?} is no source of a value: there are topic, topic.NAME, payload, payload_json, $.json.path, user_property.NAME, user_properties, client_id, tenant, device_id, received_at, qos, retain, message_id, content_type, response_topic and correlation_data"
                ));
            }
        }
    })
}

/// BigQuery's rules for names of columns.
fn check_column_name(name: &str) -> Result<(), String> {
    const RESERVED: [&str; 6] = [
        "_table_",
        "_file_",
        "_partition",
        "_row_timestamp",
        "__root__",
        "_colidentifier",
    ];
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty()
        || name.len() > 300
        || !letters
        || name.as_bytes().first().is_some_and(u8::is_ascii_digit)
    {
        return Err(
            "a name of a column has 1 to 300 letters, digits and underscores, and does not begin with a digit".to_owned(),
        );
    }
    let lower = name.to_ascii_lowercase();
    match RESERVED.iter().find(|prefix| lower.starts_with(*prefix)) {
        Some(prefix) => Err(format!("names that begin with {prefix} are BigQuery's own")),
        None => Ok(()),
    }
}

/// Whether it can be a table's name.
///
/// # Errors
/// Why not.
pub fn check_table_name(name: &str) -> Result<(), String> {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if name.is_empty() || name.len() > 1024 || !letters {
        return Err(format!(
            "{name:?} is no name of a table: 1 to 1,024 letters, digits, underscores and dashes"
        ));
    }
    Ok(())
}
