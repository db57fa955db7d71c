//! Dead letters: messages that fit no table, with the reason, in a table of their own; in files when even that is refused.
//!
//! They are written at least once: a crash right after the write repeats it, under the same message id and table.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::ProtoSchema;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tonic::Status;

use super::answer::{Verdict, judge_call};
use super::api::{MAX_REQUEST, WriteApi};
use super::encode;
use super::tables::{Catalog, TableError};
use super::window::{Append, Rows};
use super::writer::judge;
use crate::row::{Delivery, Row, UserPropertiesBuf};
use crate::rules::{ColumnType, Field, Table, Value};

/// Attempts at the table before a file takes the letters.
const ATTEMPTS: usize = 8;
/// Longest body that is kept in the table; the rest is cut off there, and whole in a file.
const MAX_PAYLOAD: usize = 8 << 20;

/// A message that has no place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// When the broker accepted it, in microseconds since 1970-01-01 UTC.
    pub received_at: i64,
    /// See [`crate::rules::From::MessageId`].
    pub message_id: String,
    /// The table that it was meant for.
    pub table: String,
    /// Why it has no place there.
    pub reason: String,
    /// Topic.
    pub topic: String,
    /// Body.
    #[serde(with = "hexadecimal", rename = "payload_hex")]
    pub payload: Vec<u8>,
    /// Publisher.
    pub client_id: Option<String>,
    /// QoS of the publish.
    pub qos: u8,
    /// The retain flag.
    pub retain: bool,
    /// Property of the message.
    pub content_type: Option<String>,
    /// Property of the message.
    pub response_topic: Option<String>,
    /// Property of the message.
    #[serde(with = "optional_hexadecimal", rename = "correlation_data_hex")]
    pub correlation_data: Option<Vec<u8>>,
    /// User properties in their order.
    pub user_properties: Vec<(String, String)>,
    /// Tenant of the publisher; files of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Device of the publisher; files of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

/// Bytes as hexadecimal digits.
mod hexadecimal {
    use data_encoding::HEXLOWER_PERMISSIVE;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER_PERMISSIVE.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        bytes.map_err(|error| D::Error::custom(format!("no hexadecimal digits: {error}")))
    }
}

/// The same, where there may be none.
mod optional_hexadecimal {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Hex(#[serde(with = "super::hexadecimal")] Vec<u8>);

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Hex).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Hex>::deserialize(from)?.map(|hex| hex.0))
    }
}

impl Letter {
    /// The letter of a message.
    #[must_use]
    pub fn new(row: &Row<'_>, message_id: &str, table: &str, reason: String) -> Self {
        Self {
            received_at: row.received_at,
            message_id: message_id.to_owned(),
            table: table.to_owned(),
            reason,
            topic: row.topic.to_owned(),
            payload: row.payload.to_vec(),
            client_id: row.client_id.map(str::to_owned),
            qos: row.delivery.qos(),
            retain: row.retain,
            content_type: row.content_type.map(str::to_owned),
            response_topic: row.response_topic.map(str::to_owned),
            correlation_data: row.correlation_data.map(<[u8]>::to_vec),
            user_properties: row
                .user_properties
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            tenant: row.tenant.map(str::to_owned),
            device_id: row.device_id.map(str::to_owned),
        }
    }

    /// Gives the message as a row again.
    pub fn with_row<T>(&self, use_it: impl FnOnce(&Row<'_>) -> T) -> T {
        let mut pairs = UserPropertiesBuf::default();
        for (key, value) in &self.user_properties {
            pairs.push(key, value);
        }
        use_it(&Row {
            received_at: self.received_at,
            origin: None,
            number: 0,
            delivery: match self.qos {
                0 => Delivery::AtMostOnce,
                1 => Delivery::AtLeastOnce(0),
                _ => Delivery::ExactlyOnce(0),
            },
            fingerprint: 0,
            retain: self.retain,
            topic: &self.topic,
            payload: &self.payload,
            client_id: self.client_id.as_deref(),
            tenant: self.tenant.as_deref(),
            device_id: self.device_id.as_deref(),
            content_type: self.content_type.as_deref(),
            response_topic: self.response_topic.as_deref(),
            correlation_data: self.correlation_data.as_deref(),
            user_properties: pairs.as_properties(),
        })
    }

    fn encode(&self, failed_at: i64) -> Vec<u8> {
        let payload = self.payload.get(..MAX_PAYLOAD).unwrap_or(&self.payload);
        let text = |text: &'_ str| Value::Text(text.to_owned().into());
        let mut pairs = UserPropertiesBuf::default();
        for (key, value) in &self.user_properties {
            pairs.push(key, value);
        }
        let values = [
            Value::Int(failed_at),
            Value::Int(self.received_at),
            text(&self.message_id),
            text(&self.table),
            text(&self.reason),
            text(&self.topic),
            Value::Bytes(payload),
            self.client_id.as_deref().map_or(Value::Null, text),
            Value::Int(i64::from(self.qos)),
            Value::Bool(self.retain),
            self.content_type.as_deref().map_or(Value::Null, text),
            self.response_topic.as_deref().map_or(Value::Null, text),
            self.correlation_data
                .as_deref()
                .map_or(Value::Null, Value::Bytes),
            Value::Pairs(pairs.as_properties()),
            Value::Int(i64::try_from(self.payload.len()).unwrap_or(i64::MAX)),
            self.tenant.as_deref().map_or(Value::Null, text),
            self.device_id.as_deref().map_or(Value::Null, text),
        ];
        let mut out = Vec::new();
        encode::encode(&values, &mut out);
        out
    }
}

/// The table of dead letters.
#[must_use]
pub fn table(name: &str) -> Table {
    let field = |name: &str, kind| Field {
        name: name.to_owned(),
        kind,
    };
    Table {
        name: name.to_owned(),
        fields: vec![
            field("failed_at", ColumnType::Timestamp),
            field("received_at", ColumnType::Timestamp),
            field("message_id", ColumnType::String),
            field("table_name", ColumnType::String),
            field("reason", ColumnType::String),
            field("topic", ColumnType::String),
            field("payload", ColumnType::Bytes),
            field("client_id", ColumnType::String),
            field("qos", ColumnType::Int64),
            field("retain", ColumnType::Bool),
            field("content_type", ColumnType::String),
            field("response_topic", ColumnType::String),
            field("correlation_data", ColumnType::Bytes),
            field("user_properties", ColumnType::Pairs),
            field("payload_bytes", ColumnType::Int64),
            field("tenant", ColumnType::String),
            field("device_id", ColumnType::String),
        ],
        partition_by: "failed_at".to_owned(),
        cluster_by: vec!["table_name".to_owned()],
    }
}

/// Where dead letters go.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    api: WriteApi,
    tables: Arc<dyn Catalog>,
    table: Arc<Table>,
    schema: Arc<ProtoSchema>,
    directory: PathBuf,
}

/// Where some letters went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filed {
    /// Into the table.
    Table,
    /// Into a file.
    File,
}

impl DeadLetters {
    /// For a table of this name, and a directory for what the table does not take.
    #[must_use]
    pub fn new(api: WriteApi, tables: Arc<dyn Catalog>, name: &str, directory: PathBuf) -> Self {
        let table = table(name);
        let schema = Arc::new(ProtoSchema {
            proto_descriptor: Some(encode::descriptor(&table)),
        });
        Self {
            api,
            tables,
            table: Arc::new(table),
            schema,
            directory,
        }
    }

    /// Stores letters durably. Returns only when they are: in the table, else in a file.
    ///
    /// # Errors
    /// When a file cannot be written either; then it is worth another attempt, and nothing is acknowledged meanwhile.
    pub async fn store(&self, letters: &[Letter]) -> Result<Filed, std::io::Error> {
        // What is longer than a row may be is whole in a file only.
        let long: Vec<Letter> = letters
            .iter()
            .filter(|letter| letter.payload.len() > MAX_PAYLOAD)
            .cloned()
            .collect();
        if !long.is_empty() {
            self.write_file(&long).await?;
        }
        let now = crate::sinks::parquet::micros(std::time::SystemTime::now());
        let mut pauses = backon::ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_max_times(ATTEMPTS)
            .with_jitter()
            .build();
        loop {
            let (verdict, reason) = match self.append(letters, now).await {
                Ok(()) => return Ok(Filed::Table),
                Err(failed) => failed,
            };
            let hopeless = matches!(verdict, Verdict::RowsRefused(_) | Verdict::RequestRefused);
            let Some(pause) = pauses.next().filter(|_| !hopeless) else {
                tracing::error!(
                    code = crate::error::Code::DEAD_LETTERS.as_str(),
                    letters = letters.len(),
                    directory = %self.directory.display(),
                    "the table of dead letters takes nothing, they go to a file: {reason}"
                );
                return self.write_file(letters).await.map(|()| Filed::File);
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn append(&self, letters: &[Letter], now: i64) -> Result<(), (Verdict, String)> {
        self.tables
            .prepare(&self.table)
            .await
            .map_err(|error: TableError| (Verdict::Schema, error.to_string()))?;
        let stream = format!("{}/streams/_default", self.tables.path(&self.table.name));
        let mut rest = letters;
        let mut connection = self.api.connect(&stream, Arc::clone(&self.schema), 1);
        while !rest.is_empty() {
            let (mut rows, mut taken) = (Rows::default(), 0);
            for letter in rest {
                let row = letter.encode(now);
                if taken > 0 && rows.bytes() + row.len() > MAX_REQUEST {
                    break;
                }
                rows.push(0, row.into());
                taken += 1;
            }
            let append = Append { offset: -1, rows };
            connection.send(&append).map_err(|status| told(&status))?;
            let answer = connection.next().await.map_err(|status| told(&status))?;
            let (verdict, status) = judge(answer);
            if verdict != Verdict::Done {
                return Err((verdict, status.message().to_owned()));
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    async fn write_file(&self, letters: &[Letter]) -> Result<(), std::io::Error> {
        tokio::fs::create_dir_all(&self.directory).await?;
        let mut text = Vec::new();
        for letter in letters {
            serde_json::to_writer(&mut text, letter)?;
            text.push(b'\n');
        }
        let day = crate::sinks::parquet::micros(std::time::SystemTime::now()) / 86_400_000_000;
        let path = self
            .directory
            .join(format!("day-{day}-{}.jsonl", std::process::id()));
        let mut file = tokio::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .await?;
        file.write_all(&text).await?;
        file.sync_all().await
    }
}

fn told(status: &Status) -> (Verdict, String) {
    (judge_call(status), status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_one_line_of_json() {
        let letter = Letter {
            received_at: 5,
            message_id: "1-2".to_owned(),
            table: "t".to_owned(),
            reason: "\"warm\" is no FLOAT64".to_owned(),
            topic: "a/b".to_owned(),
            payload: vec![0, 255],
            client_id: None,
            qos: 1,
            retain: false,
            content_type: Some("x".to_owned()),
            response_topic: None,
            correlation_data: Some(vec![1]),
            user_properties: vec![("k".to_owned(), "v".to_owned())],
            tenant: None,
            device_id: None,
        };
        let text = serde_json::to_string(&letter).unwrap();
        assert_eq!(
            text,
            r#"{"received_at":5,"message_id":"1-2","table":"t","reason":"\"warm\" is no FLOAT64","topic":"a/b","payload_hex":"00ff","client_id":null,"qos":1,"retain":false,"content_type":"x","response_topic":null,"correlation_data_hex":"01","user_properties":[["k","v"]]}"#
        );
        assert_eq!(serde_json::from_str::<Letter>(&text).unwrap(), letter);
        assert!(serde_json::from_str::<Letter>(&text.replace("00ff", "0")).is_err());
        letter.with_row(|row| {
            assert_eq!(Letter::new(row, "1-2", "t", letter.reason.clone()), letter)
        });
    }
}
