//! Columns: as the rules want them, as BigQuery has them.

use gcp_bigquery_client::model::field_type::FieldType;
use gcp_bigquery_client::model::table_field_schema::TableFieldSchema;

use super::tables::TableError;
use crate::rules::{ColumnType, Field, Table};

/// The column as REST has it.
pub(super) fn describe(field: &Field) -> TableFieldSchema {
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
///
/// # Errors
/// One is there with another type, or must have a value that nobody gives.
pub(super) fn compare(table: &Table, there: &[TableFieldSchema]) -> Result<Vec<Field>, TableError> {
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
    use super::super::dead;
    use super::*;
    use crate::rules::Rules;

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

    /// Terraform makes these tables before the adapter comes (terraform/modules/bigquery). `UPDATE_GOLDEN=1` writes the file anew.
    #[test]
    fn the_file_that_terraform_reads_has_the_tables_as_they_are_made_here() {
        let without_rules = Rules::parse("").unwrap();
        let dead_letters = dead::table("dead_letters");
        let described: Vec<serde_json::Value> = without_rules
            .tables()
            .iter()
            .chain([&dead_letters])
            .map(|table| {
                serde_json::json!({
                    "name": table.name,
                    "partition_by": table.partition_by,
                    "clustering": table.cluster_by,
                    "schema": table.fields.iter().map(describe).collect::<Vec<_>>(),
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&described).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/tables.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written, text, "{path}: run this test with UPDATE_GOLDEN=1");
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
