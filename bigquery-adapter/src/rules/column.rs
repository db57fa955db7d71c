//! A column of a rule: where its value comes from, and its type.

use serde_json::Value as Json;

use super::path::JsonPath;
use super::pattern::Captures;
use super::value::{ColumnType, ConversionError, TimeUnit, Value, from_json, from_text};
use crate::row::Row;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The topic as a whole.
    Topic,
    /// A named level of the topic, by its number in the pattern.
    Level(usize),
    /// The body.
    Payload,
    /// The body where it is one JSON value, and nothing where it is not.
    PayloadJson,
    /// A value in the body, which is JSON.
    Path(JsonPath),
    /// The first user property of this name.
    UserProperty(String),
    /// All user properties.
    UserProperties,
    /// The publisher, as the broker knows it.
    ClientId,
    /// Its tenant, as the broker knows it.
    Tenant,
    /// Its device, as the broker's registry knows it.
    DeviceId,
    /// See [`Row::received_at`].
    ReceivedAt,
    /// QoS of the publish.
    Qos,
    /// The retain flag.
    Retain,
    /// Unique for each message.
    MessageId,
    /// Property of the message.
    ContentType,
    /// Property of the message.
    ResponseTopic,
    /// Property of the message.
    CorrelationData,
}

impl From {
    /// The type that a column has when the rule names none.
    #[must_use]
    pub const fn default_type(&self) -> ColumnType {
        match self {
            Self::Payload | Self::CorrelationData => ColumnType::Bytes,
            Self::Path(_) | Self::PayloadJson => ColumnType::Json,
            Self::UserProperties => ColumnType::Pairs,
            Self::ReceivedAt => ColumnType::Timestamp,
            Self::Qos => ColumnType::Int64,
            Self::Retain => ColumnType::Bool,
            _ => ColumnType::String,
        }
    }

    /// Whether a value from here can be one of this type.
    #[must_use]
    pub const fn can_be(&self, wanted: ColumnType) -> bool {
        use ColumnType::{Bool, Bytes, Int64, Json, Pairs, String, Timestamp};
        match self {
            Self::Topic | Self::ClientId | Self::MessageId => matches!(wanted, String),
            Self::Tenant | Self::DeviceId => matches!(wanted, String),
            Self::ContentType | Self::ResponseTopic => matches!(wanted, String),
            Self::Level(_) | Self::UserProperty(_) => !matches!(wanted, Pairs | Json | Bytes),
            Self::Payload => !matches!(wanted, Pairs),
            Self::PayloadJson => matches!(wanted, Json | String),
            Self::Path(_) => !matches!(wanted, Pairs | Bytes),
            Self::UserProperties => matches!(wanted, Pairs | Json),
            Self::ReceivedAt => matches!(wanted, Timestamp),
            Self::Qos => matches!(wanted, Int64),
            Self::Retain => matches!(wanted, Bool),
            Self::CorrelationData => matches!(wanted, Bytes | String),
        }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name, as in the table.
    pub name: String,
    /// Where its value comes from.
    pub from: From,
    /// Type.
    pub kind: ColumnType,
    /// What a number means as a time.
    pub unit: Option<TimeUnit>,
    /// Whether a row without a value is refused. The column is NULLABLE in the table nevertheless, so that rules can change.
    pub required: bool,
}

/// The body of one message, parsed at most once for all columns.
#[derive(Debug, Default)]
pub(super) struct Body(Option<Result<Json, ConversionError>>);

impl Body {
    /// Parses now, if that has not been done.
    pub(super) fn parse(&mut self, payload: &[u8]) {
        if self.0.is_none() {
            let parsed = serde_json::from_slice(payload);
            self.0 = Some(parsed.map_err(|error| ConversionError::NotJson(error.to_string())));
        }
    }

    fn get(&self) -> Result<&Json, ConversionError> {
        match &self.0 {
            Some(Ok(json)) => Ok(json),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ConversionError::NotJson("not parsed".to_owned())),
        }
    }
}

impl Column {
    /// The column's value of a message. `body` has been parsed if a column of the rule needs it.
    pub(super) fn value<'a>(
        &self,
        row: &Row<'a>,
        message_id: &'a str,
        captures: &Captures<'a>,
        body: &'a Body,
    ) -> Result<Value<'a>, ConversionError> {
        let text = |text: Option<&'a str>| match text {
            Some(text) => from_text(text, self.kind, self.unit),
            None => Ok(Value::Null),
        };
        match &self.from {
            From::Topic => text(Some(row.topic)),
            From::Level(number) => text(Some(captures.get(*number))),
            From::Payload if self.kind == ColumnType::Bytes => Ok(Value::Bytes(row.payload)),
            From::Payload if self.kind == ColumnType::Json => crate::json::text(row.payload)
                .map_or_else(
                    || Err(ConversionError::NotJson("not one JSON value".to_owned())),
                    |text| Ok(Value::Text(text.into())),
                ),
            From::Payload => text(Some(utf8(row.payload)?)),
            From::PayloadJson => {
                Ok(crate::json::text(row.payload)
                    .map_or(Value::Null, |text| Value::Text(text.into())))
            }
            From::Path(path) => match path.find(body.get()?) {
                Some(json) => from_json(json, self.kind, self.unit),
                None => Ok(Value::Null),
            },
            From::UserProperty(name) => {
                let mut pairs = row.user_properties.iter();
                text(pairs.find(|(key, _)| key == name).map(|(_, value)| value))
            }
            From::UserProperties if self.kind == ColumnType::Json => {
                let pairs: Vec<_> = row.user_properties.iter().collect();
                let json: Json = pairs
                    .into_iter()
                    .map(|(key, value)| serde_json::json!({"key": key, "value": value}))
                    .collect();
                Ok(Value::Text(json.to_string().into()))
            }
            From::UserProperties => Ok(Value::Pairs(row.user_properties)),
            From::ClientId => text(row.client_id),
            From::Tenant => text(row.tenant),
            From::DeviceId => text(row.device_id),
            From::ReceivedAt => Ok(Value::Int(row.received_at)),
            From::Qos => Ok(Value::Int(i64::from(row.delivery.qos()))),
            From::Retain => Ok(Value::Bool(row.retain)),
            From::MessageId => text(Some(message_id)),
            From::ContentType => text(row.content_type),
            From::ResponseTopic => text(row.response_topic),
            From::CorrelationData => match row.correlation_data {
                None => Ok(Value::Null),
                Some(bytes) if self.kind == ColumnType::Bytes => Ok(Value::Bytes(bytes)),
                Some(bytes) => text(Some(utf8(bytes)?)),
            },
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, ConversionError> {
    std::str::from_utf8(bytes).map_err(|_| ConversionError::NotText)
}
