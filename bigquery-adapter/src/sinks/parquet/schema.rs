//! The columns of `messages`, and how each is written.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

/// A leaf of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    ReceivedAt,
    Topic,
    Payload,
    PayloadJson,
    Qos,
    Retain,
    ClientId,
    MessageId,
    ContentType,
    ResponseTopic,
    CorrelationData,
    UserPropertyKey,
    UserPropertyValue,
    Tenant,
    DeviceId,
}

impl Column {
    /// All leaves in the order of the schema.
    pub(super) const ALL: [Self; 15] = [
        Self::ReceivedAt,
        Self::Topic,
        Self::Payload,
        Self::PayloadJson,
        Self::Qos,
        Self::Retain,
        Self::ClientId,
        Self::MessageId,
        Self::ContentType,
        Self::ResponseTopic,
        Self::CorrelationData,
        Self::UserPropertyKey,
        Self::UserPropertyValue,
        Self::Tenant,
        Self::DeviceId,
    ];
}

// User properties are a list of pairs and no MAP: MQTT lets a name occur twice and keeps the order, a MAP does neither.
const SCHEMA: &str = "message messages {
    required int64 received_at (TIMESTAMP(MICROS, true));
    required binary topic (STRING);
    required binary payload;
    optional binary payload_json (STRING);
    required int32 qos;
    required boolean retain;
    optional binary client_id (STRING);
    required binary message_id (STRING);
    optional binary content_type (STRING);
    optional binary response_topic (STRING);
    optional binary correlation_data;
    required group user_properties (LIST) {
        repeated group list {
            required group element {
                required binary key (STRING);
                required binary value (STRING);
            }
        }
    }
    optional binary tenant (STRING);
    optional binary device_id (STRING);
}";

/// The schema of every part file.
pub(super) fn schema() -> parquet::errors::Result<TypePtr> {
    parse_message_type(SCHEMA).map(Arc::new)
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// Snappy.
    Snappy,
    /// LZ4 (`LZ4_RAW`).
    Lz4,
}

impl Codec {
    const fn compression(self) -> Compression {
        match self {
            Self::None => Compression::UNCOMPRESSED,
            Self::Snappy => Compression::SNAPPY,
            Self::Lz4 => Compression::LZ4_RAW,
        }
    }
}

/// Settings of a part file.
///
/// Columns that differ in every row get no dictionary: it would be filled, found too large and given up. Message ids
/// share their beginning with the one before, and times are close to each other: both are written as differences.
/// Bodies get no smallest and largest value: nobody asks for them, and they would lie in every footer.
pub(super) fn properties(codec: Codec, metadata: Vec<KeyValue>) -> WriterProperties {
    let path =
        |parts: &[&str]| ColumnPath::new(parts.iter().map(|part| (*part).to_owned()).collect());
    let plain = |builder: WriterPropertiesBuilder, parts: &[&str]| {
        builder
            .set_column_dictionary_enabled(path(parts), false)
            .set_column_statistics_enabled(path(parts), EnabledStatistics::None)
    };
    let builder = WriterProperties::builder()
        .set_created_by(
            concat!(
                "dunlin bigquery-adapter version ",
                env!("CARGO_PKG_VERSION")
            )
            .to_owned(),
        )
        .set_compression(codec.compression())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_key_value_metadata(Some(metadata))
        .set_column_dictionary_enabled(path(&["received_at"]), false)
        .set_column_encoding(path(&["received_at"]), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(path(&["message_id"]), false)
        .set_column_encoding(path(&["message_id"]), Encoding::DELTA_BYTE_ARRAY);
    let builder = plain(builder, &["payload"]);
    let builder = plain(builder, &["payload_json"]);
    let builder = plain(builder, &["correlation_data"]);
    builder.build()
}

#[cfg(test)]
mod tests {
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    #[test]
    fn the_schema_has_the_leaves_that_are_written() {
        let descriptor = SchemaDescriptor::new(schema().unwrap());
        let names: Vec<String> = descriptor
            .columns()
            .iter()
            .map(|column| column.path().string())
            .collect();
        assert_eq!(
            names,
            [
                "received_at",
                "topic",
                "payload",
                "payload_json",
                "qos",
                "retain",
                "client_id",
                "message_id",
                "content_type",
                "response_topic",
                "correlation_data",
                "user_properties.list.element.key",
                "user_properties.list.element.value",
                "tenant",
                "device_id",
            ]
        );
        assert_eq!(names.len(), Column::ALL.len());
    }
}
