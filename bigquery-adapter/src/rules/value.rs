//! Column types and values, and how a value of a message becomes one of a column's type.
//!
//! A conversion either keeps what the publisher has said or refuses: a number that would lose its fraction, a text that is no
//! number, an object where a number should be. A refused value sends the row to the dead letters with the reason.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value as Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::row::UserProperties;

/// Type of a column, by BigQuery's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ColumnType {
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// 64-bit integer.
    Int64,
    /// Double.
    Float64,
    /// Truth value.
    Bool,
    /// Microseconds since 1970-01-01 UTC.
    Timestamp,
    /// Any JSON value.
    Json,
    /// `ARRAY<STRUCT<key STRING, value STRING>>`: only for user properties as a whole.
    Pairs,
}

impl ColumnType {
    /// BigQuery's name of the type; [`ColumnType::Pairs`] is a repeated `STRUCT`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "STRING",
            Self::Bytes => "BYTES",
            Self::Int64 => "INT64",
            Self::Float64 => "FLOAT64",
            Self::Bool => "BOOL",
            Self::Timestamp => "TIMESTAMP",
            Self::Json => "JSON",
            Self::Pairs => "STRUCT",
        }
    }
}

/// What a number means as a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TimeUnit {
    /// Seconds since 1970-01-01 UTC.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
}

impl TimeUnit {
    const fn micros(self) -> i64 {
        match self {
            Self::Seconds => 1_000_000,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1,
        }
    }
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// None.
    Null,
    /// For [`ColumnType::String`] and [`ColumnType::Json`].
    Text(Cow<'a, str>),
    /// For [`ColumnType::Bytes`].
    Bytes(&'a [u8]),
    /// For [`ColumnType::Int64`] and [`ColumnType::Timestamp`].
    Int(i64),
    /// For [`ColumnType::Float64`].
    Float(f64),
    /// For [`ColumnType::Bool`].
    Bool(bool),
    /// For [`ColumnType::Pairs`].
    Pairs(UserProperties<'a>),
}

/// Why a value does not fit its column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// Another kind of value.
    #[error("{found} is no {wanted}")]
    Kind {
        /// What there is, shortened.
        found: String,
        /// Type of the column.
        wanted: &'static str,
    },
    /// A number stands for a time, but nobody says in which unit.
    #[error("{0} is a time without a unit: set unit = \"s\", \"ms\" or \"us\" in the rule")]
    Unit(String),
    /// BigQuery's timestamps reach from year 1 to 9999.
    #[error("{0} is outside of the years 1 to 9999")]
    Year(String),
    /// The body or text is not UTF-8.
    #[error("the payload is not UTF-8")]
    NotText,
    /// The body is no JSON.
    #[error("the payload is no JSON: {0}")]
    NotJson(String),
}

/// Longest part of a value that an error quotes, in characters.
const QUOTED: usize = 80;

fn kind(found: impl std::fmt::Display, wanted: ColumnType) -> ConversionError {
    ConversionError::Kind {
        found: shortened(&found.to_string()),
        wanted: wanted.name(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A text (topic level, user property, body) as a value of a column.
///
/// # Errors
/// When it is none.
pub(super) fn from_text<'a>(
    text: &'a str,
    wanted: ColumnType,
    unit: Option<TimeUnit>,
) -> Result<Value<'a>, ConversionError> {
    let quoted = || format!("{text:?}");
    match wanted {
        ColumnType::String => Ok(Value::Text(Cow::Borrowed(text))),
        ColumnType::Bytes => Ok(Value::Bytes(text.as_bytes())),
        ColumnType::Int64 => {
            let parsed = text.parse().map(Value::Int);
            parsed.map_err(|_| kind(quoted(), wanted))
        }
        ColumnType::Float64 => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err(kind(quoted(), wanted)),
        },
        ColumnType::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(kind(quoted(), wanted)),
        },
        ColumnType::Timestamp => match text.parse::<f64>() {
            Ok(number) => time_of_number(text, number, unit),
            Err(_) => time_of_text(text),
        },
        ColumnType::Json => match crate::json::text(text.as_bytes()) {
            Some(text) => Ok(Value::Text(Cow::Borrowed(text))),
            None => Err(kind(quoted(), wanted)),
        },
        ColumnType::Pairs => Err(kind(quoted(), wanted)),
    }
}

/// A JSON value as a value of a column; `null` is none.
///
/// Texts that are numbers are taken as numbers, since many devices write them so; numbers and truth values have a text.
///
/// # Errors
/// When it is no such value.
pub(super) fn from_json(
    json: &Json,
    wanted: ColumnType,
    unit: Option<TimeUnit>,
) -> Result<Value<'_>, ConversionError> {
    match (json, wanted) {
        (Json::Null, _) => Ok(Value::Null),
        (json, ColumnType::Json) => Ok(Value::Text(Cow::Owned(json.to_string()))),
        (Json::String(text), wanted) => from_text(text, wanted, unit),
        (Json::Bool(value), ColumnType::Bool) => Ok(Value::Bool(*value)),
        (Json::Number(_) | Json::Bool(_), ColumnType::String) => {
            Ok(Value::Text(Cow::Owned(json.to_string())))
        }
        (Json::Number(number), ColumnType::Int64) => {
            let whole = number.as_i64().or_else(|| whole(number.as_f64()?));
            whole.map(Value::Int).ok_or_else(|| kind(number, wanted))
        }
        (Json::Number(number), ColumnType::Float64) => {
            let double = number.as_f64().filter(|double| double.is_finite());
            double.map(Value::Float).ok_or_else(|| kind(number, wanted))
        }
        (Json::Number(number), ColumnType::Timestamp) => {
            let text = number.to_string();
            time_of_number(&text, number.as_f64().unwrap_or(f64::NAN), unit)
        }
        (other, wanted) => Err(kind(other, wanted)),
    }
}

/// `3.0` is an integer, `3.5` is not, and neither is what a double no longer tells apart.
fn whole(double: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (double.fract() == 0.0 && double.abs() <= EXACT).then_some(double as i64)
}

fn time_of_text<'a>(text: &str) -> Result<Value<'a>, ConversionError> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| kind(format!("{text:?}"), ColumnType::Timestamp))?;
    let micros = time.unix_timestamp_nanos().div_euclid(1_000);
    in_range(text, i64::try_from(micros).ok())
}

fn time_of_number<'a>(
    text: &str,
    number: f64,
    unit: Option<TimeUnit>,
) -> Result<Value<'a>, ConversionError> {
    let unit = unit.ok_or_else(|| ConversionError::Unit(shortened(text)))?;
    // Integers are multiplied exactly: a double has 53 bits, and microseconds of today need 51.
    let micros = match text.parse::<i64>() {
        Ok(whole) => whole.checked_mul(unit.micros()),
        Err(_) => {
            let micros = (number * unit.micros() as f64).round();
            (micros.abs() < 9.0e18).then_some(micros as i64)
        }
    };
    in_range(text, micros)
}

fn in_range<'a>(text: &str, micros: Option<i64>) -> Result<Value<'a>, ConversionError> {
    /// 0001-01-01 00:00:00 and 9999-12-31 23:59:59.999999 UTC.
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
    match micros {
        Some(micros) if YEARS.contains(&micros) => Ok(Value::Int(micros)),
        _ => Err(ConversionError::Year(shortened(text))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(text: &str) -> Value<'_> {
        Value::Text(Cow::Borrowed(text))
    }

    #[test]
    fn json_values_that_mean_the_columns_type_are_taken() {
        use ColumnType::{Bool, Float64, Int64, Json, String, Timestamp};
        for (json, wanted, unit, expected) in [
            (json!(null), Int64, None, Value::Null),
            (json!(3), Int64, None, Value::Int(3)),
            (json!(3.0), Int64, None, Value::Int(3)),
            (json!("-7"), Int64, None, Value::Int(-7)),
            (json!(3), Float64, None, Value::Float(3.0)),
            (json!("21.5"), Float64, None, Value::Float(21.5)),
            (json!(true), Bool, None, Value::Bool(true)),
            (json!("false"), Bool, None, Value::Bool(false)),
            (json!("x"), String, None, text("x")),
            (json!(1.5), String, None, text("1.5")),
            (json!({"a": [1]}), Json, None, text(r#"{"a":[1]}"#)),
            (json!("x"), Json, None, text(r#""x""#)),
            (
                json!("1970-01-01T00:00:01.5Z"),
                Timestamp,
                None,
                Value::Int(1_500_000),
            ),
            (
                json!("1970-01-01T01:00:00+01:00"),
                Timestamp,
                None,
                Value::Int(0),
            ),
            (
                json!(1.5),
                Timestamp,
                Some(TimeUnit::Seconds),
                Value::Int(1_500_000),
            ),
            (
                json!(2),
                Timestamp,
                Some(TimeUnit::Milliseconds),
                Value::Int(2_000),
            ),
            (
                json!(1_763_683_200_123_457_i64),
                Timestamp,
                Some(TimeUnit::Microseconds),
                Value::Int(1_763_683_200_123_457),
            ),
            (
                json!("7"),
                Timestamp,
                Some(TimeUnit::Seconds),
                Value::Int(7_000_000),
            ),
        ] {
            assert_eq!(
                from_json(&json, wanted, unit),
                Ok(expected),
                "{json} {wanted:?}"
            );
        }
    }

    #[test]
    fn what_would_change_the_value_is_refused_with_the_value_in_the_reason() {
        use ColumnType::{Bool, Float64, Int64, String, Timestamp};
        for (json, wanted, words) in [
            (json!(3.5), Int64, "3.5 is no INT64"),
            (json!(u64::MAX), Int64, "18446744073709551615 is no INT64"),
            (json!("3.5"), Int64, "\"3.5\" is no INT64"),
            (json!(true), Int64, "true is no INT64"),
            (json!("NaN"), Float64, "\"NaN\" is no FLOAT64"),
            (json!({}), Float64, "{} is no FLOAT64"),
            (json!(1), Bool, "1 is no BOOL"),
            (json!([1]), String, "[1] is no STRING"),
            (
                json!("yesterday"),
                Timestamp,
                "\"yesterday\" is no TIMESTAMP",
            ),
            (
                json!(5),
                Timestamp,
                "5 is a time without a unit: set unit = \"s\", \"ms\" or \"us\" in the rule",
            ),
        ] {
            let error = from_json(&json, wanted, None).unwrap_err();
            assert_eq!(error.to_string(), words);
        }
        let far = from_json(&json!(1e12), Timestamp, Some(TimeUnit::Seconds)).unwrap_err();
        assert!(matches!(far, ConversionError::Year(_)), "{far}");
        let long = from_json(&json!("ä".repeat(500)), Int64, None)
            .unwrap_err()
            .to_string();
        assert!(long.chars().count() < 120, "{long}");
    }
}
