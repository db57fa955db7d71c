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
