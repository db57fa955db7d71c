//! The layers of the configuration: file, environment, flags, each over the one before.
//!
//! The `config` crate merges them. The file is read with the TOML parser's own positions, so that a problem can name
//! its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config, Environment, Map, Source, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::Problem;
use crate::error::Code;

/// Beginning of the environment variables that count: `DUNLIN_ADAPTER__MQTT__URL` is `mqtt.url`.
pub const ENVIRONMENT_PREFIX: &str = "DUNLIN_ADAPTER";

/// Where values come from.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables, all there are.
    pub environment: Vec<(String, String)>,
    /// Flags as the user has written them, with key and values. One value may be a list in one text.
    pub flags: Vec<(String, String, Vec<String>)>,
}

/// A value and where it is from.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) value: ValueKind,
    /// Whether the layer knows no types: then a text may be a number.
    pub(super) is_text: bool,
    pub(super) origin: String,
}

impl Layers {
    /// All values by dotted key.
    pub(super) fn merge(&self, problems: &mut Vec<Problem>) -> BTreeMap<String, Found> {
        let file = self
            .file
            .as_deref()
            .map(|path| read_file(path, problems))
            .unwrap_or_default();
        let environment = Environment::with_prefix(ENVIRONMENT_PREFIX)
            .prefix_separator("__")
            .separator("__")
            .source(Some(self.environment.iter().cloned().collect()));
        let merged = Config::builder()
            .add_source(Tree(file))
            .add_source(environment)
            .add_source(Tree(self.flags()))
            .build()
            .and_then(|config| Source::collect(&config));
        let mut found = BTreeMap::new();
        match merged {
            Ok(values) => flatten(&values, "", &mut found),
            Err(error) => problems.push(Problem::new(Code::CONFIGURATION, "", error.to_string())),
        }
        found
    }

    fn flags(&self) -> Map<String, Value> {
        let value = |flag: &String, text: &String| {
            Value::new(Some(&format!("{FLAG}{flag}")), text.as_str())
        };
        let mut flags = Map::new();
        for (flag, key, texts) in &self.flags {
            let kind = match texts.as_slice() {
                [text] => ValueKind::String(text.clone()),
                texts => ValueKind::Array(texts.iter().map(|text| value(flag, text)).collect()),
            };
            flags.insert(
                key.clone(),
                Value::new(Some(&format!("{FLAG}{flag}")), kind),
            );
        }
        flags
    }
}

const FLAG: &str = "flag ";
const FROM_ENVIRONMENT: &str = "the environment";

#[derive(Debug, Clone)]
struct Tree(Map<String, Value>);

impl Source for Tree {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }
    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn flatten(values: &Map<String, Value>, prefix: &str, into: &mut BTreeMap<String, Found>) {
    for (name, value) in values {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        if let ValueKind::Table(table) = &value.kind {
            flatten(table, &key, into);
            continue;
        }
        let origin = value.origin().unwrap_or_default();
        let (is_text, origin) = if origin == FROM_ENVIRONMENT {
            (
                true,
                format!(
                    "{ENVIRONMENT_PREFIX}__{}",
                    key.replace('.', "__").to_uppercase()
                ),
            )
        } else {
            (origin.starts_with(FLAG), origin.to_owned())
        };
        into.insert(
            key,
            Found {
                value: value.kind.clone(),
                is_text,
                origin,
            },
        );
    }
}

fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Map<String, Value> {
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem::new(
                Code::CONFIGURATION_FILE,
                "",
                format!("{name} cannot be read: {error}"),
            ));
            return Map::new();
        }
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in &errors {
        let line = line_of(&text, error.span().map_or(0, |span| span.start));
        let words = error.message().replace('\n', ", ");
        problems.push(Problem::new(
            Code::CONFIGURATION,
            &format!("{name}:{line}"),
            words,
        ));
    }
    if errors.is_empty() {
        convert_table(table.get_ref(), &name, &text)
    } else {
        Map::new()
    }
}

fn convert_table(table: &DeTable<'_>, name: &str, text: &str) -> Map<String, Value> {
    table
        .iter()
        .map(|(key, value)| {
            let origin = format!("{name}:{}", line_of(text, key.span().start));
            (
                key.get_ref().to_string(),
                Value::new(Some(&origin), convert(value.get_ref(), name, text)),
            )
        })
        .collect()
}

fn convert(value: &DeValue<'_>, name: &str, text: &str) -> ValueKind {
    match value {
        DeValue::String(value) => ValueKind::String(value.to_string()),
        DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix())
            .map_or_else(|_| ValueKind::String(value.to_string()), ValueKind::I64),
        DeValue::Float(value) => value
            .as_str()
            .parse()
            .map_or(ValueKind::Nil, ValueKind::Float),
        DeValue::Boolean(value) => ValueKind::Boolean(*value),
        DeValue::Datetime(value) => ValueKind::String(value.to_string()),
        DeValue::Array(values) => {
            let convert = |value: &toml::Spanned<DeValue<'_>>| {
                Value::new(None, convert(value.get_ref(), name, text))
            };
            ValueKind::Array(values.iter().map(convert).collect())
        }
        DeValue::Table(table) => ValueKind::Table(convert_table(table, name, text)),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}
