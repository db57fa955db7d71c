//! Rows in the protocol buffer format that the Storage Write API takes, and the descriptor that explains them.
//!
//! The field number of a column is its place in the table plus one. What has no value is left out, which BigQuery takes for NULL.
//! TIMESTAMP is an int64 of microseconds, JSON a string.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

use crate::rules::{ColumnType, Field, Table, Value};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
/// Name of the nested message of user properties.
const PAIR: &str = "Pair";

/// The descriptor of a table's rows.
#[must_use]
pub fn descriptor(table: &Table) -> DescriptorProto {
    let has_pairs = table
        .fields
        .iter()
        .any(|field| field.kind == ColumnType::Pairs);
    let fields = table.fields.iter().zip(1..);
    DescriptorProto {
        name: Some("Row".to_owned()),
        field: fields
            .map(|(field, number)| describe(field, number))
            .collect(),
        nested_type: if has_pairs { vec![pair()] } else { Vec::new() },
        ..DescriptorProto::default()
    }
}

fn describe(field: &Field, number: i32) -> FieldDescriptorProto {
    let kind = match field.kind {
        ColumnType::String | ColumnType::Json => Type::String,
        ColumnType::Bytes => Type::Bytes,
        ColumnType::Int64 | ColumnType::Timestamp => Type::Int64,
        ColumnType::Float64 => Type::Double,
        ColumnType::Bool => Type::Bool,
        ColumnType::Pairs => Type::Message,
    };
    let repeated = field.kind == ColumnType::Pairs;
    FieldDescriptorProto {
        name: Some(field.name.clone()),
        number: Some(number),
        label: Some(if repeated {
            Label::Repeated
        } else {
            Label::Optional
        } as i32),
        r#type: Some(kind as i32),
        type_name: repeated.then(|| PAIR.to_owned()),
        ..FieldDescriptorProto::default()
    }
}

fn pair() -> DescriptorProto {
    let text = |name: &str, number| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional as i32),
        r#type: Some(Type::String as i32),
        ..FieldDescriptorProto::default()
    };
    DescriptorProto {
        name: Some(PAIR.to_owned()),
        field: vec![text("key", 1), text("value", 2)],
        ..DescriptorProto::default()
    }
}

/// Appends one row; `values` in the order of the table's fields.
pub fn encode(values: &[Value<'_>], out: &mut Vec<u8>) {
    for (value, number) in values.iter().zip(1_u64..) {
        match value {
            Value::Null => {}
            Value::Text(text) => put_bytes(out, number, text.as_bytes()),
            Value::Bytes(bytes) => put_bytes(out, number, bytes),
            Value::Int(value) => {
                put_key(out, number, VARINT);
                put_varint(out, value.cast_unsigned());
            }
            Value::Float(value) => {
                put_key(out, number, FIXED64);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Value::Bool(value) => {
                put_key(out, number, VARINT);
                out.push(u8::from(*value));
            }
            Value::Pairs(pairs) => {
                for (key, value) in pairs.iter() {
                    let len = len_bytes(key.len()) + len_bytes(value.len());
                    put_key(out, number, BYTES);
                    put_varint(out, len as u64);
                    put_bytes(out, 1, key.as_bytes());
                    put_bytes(out, 2, value.as_bytes());
                }
            }
        }
    }
}

use crate::encoding::put_varint;

fn put_key(out: &mut Vec<u8>, number: u64, wire_type: u64) {
    put_varint(out, (number << 3) | wire_type);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_key(out, number, BYTES);
    crate::encoding::put_bytes(out, bytes);
}

/// Bytes that [`put_bytes`] writes for a field with a number below 16.
const fn len_bytes(len: usize) -> usize {
    let bits = usize::BITS - (len | 1).leading_zeros();
    1 + bits.div_ceil(7) as usize + len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::row::UserPropertiesBuf;

    /// The same message, written by the library.
    #[derive(Clone, PartialEq, Message)]
    struct Row {
        #[prost(string, optional, tag = "1")]
        text: Option<String>,
        #[prost(bytes = "vec", optional, tag = "2")]
        bytes: Option<Vec<u8>>,
        #[prost(int64, optional, tag = "3")]
        int: Option<i64>,
        #[prost(double, optional, tag = "4")]
        float: Option<f64>,
        #[prost(bool, optional, tag = "5")]
        bool: Option<bool>,
        #[prost(message, repeated, tag = "6")]
        pairs: Vec<Pair>,
        #[prost(string, optional, tag = "17")]
        far: Option<String>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Pair {
        #[prost(string, optional, tag = "1")]
        key: Option<String>,
        #[prost(string, optional, tag = "2")]
        value: Option<String>,
    }

    proptest! {
        #[test]
        fn the_library_reads_what_is_written(
            text in proptest::option::of(".{0,200}"), bytes in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
            int in proptest::option::of(any::<i64>()), float in proptest::option::of(-1e300_f64..1e300), truth in any::<Option<bool>>(),
            pairs in proptest::collection::vec((".{0,200}", ".{0,20}"), 0..4),
        ) {
            let mut properties = UserPropertiesBuf::default();
            for (key, value) in &pairs {
                properties.push(key, value);
            }
            let mut values = vec![
                text.as_deref().map_or(Value::Null, |text| Value::Text(text.into())),
                bytes.as_deref().map_or(Value::Null, Value::Bytes),
                int.map_or(Value::Null, Value::Int),
                float.map_or(Value::Null, Value::Float),
                truth.map_or(Value::Null, Value::Bool),
                Value::Pairs(properties.as_properties()),
            ];
            values.resize(16, Value::Null);
            values.push(Value::Text("far".into()));
            let mut written = Vec::new();
            encode(&values, &mut written);
            let read = Row::decode(written.as_slice()).unwrap();
            let pairs = pairs.into_iter().map(|(key, value)| Pair { key: Some(key), value: Some(value) }).collect();
            prop_assert_eq!(read, Row { text, bytes, int, float, bool: truth, pairs, far: Some("far".to_owned()) });
        }
    }

    #[test]
    fn the_descriptor_names_every_column_by_its_number() {
        let kinds = [
            ("s", ColumnType::String, Type::String),
            ("b", ColumnType::Bytes, Type::Bytes),
            ("i", ColumnType::Int64, Type::Int64),
            ("f", ColumnType::Float64, Type::Double),
            ("o", ColumnType::Bool, Type::Bool),
            ("t", ColumnType::Timestamp, Type::Int64),
            ("j", ColumnType::Json, Type::String),
            ("p", ColumnType::Pairs, Type::Message),
        ];
        let fields = kinds.map(|(name, kind, _)| Field {
            name: name.to_owned(),
            kind,
        });
        let described = descriptor(&Table {
            name: "t".to_owned(),
            fields: fields.to_vec(),
            partition_by: String::new(),
            cluster_by: Vec::new(),
        });
        for ((name, _, kind), (field, number)) in kinds.iter().zip(described.field.iter().zip(1..))
        {
            assert_eq!(
                (field.name(), field.number(), field.r#type()),
                (*name, number, *kind)
            );
        }
        assert_eq!(described.nested_type.len(), 1);
        assert_eq!(described.field[7].label(), Label::Repeated);
    }
}
