//! The layers of the configuration: file, environment, flags, in that order.
//!
//! The `config` crate merges them. The file is parsed here, because only the TOML parser itself can
//! say on which line a key stands, and because it finds every syntax error and not only the first.

use std::path::{Path, PathBuf};

use config::{Config, Map, Source, Value, ValueKind};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::report::Report;
use crate::error::Code;

/// How the `config` crate names the layer of environment variables.
pub(super) const ENVIRONMENT: &str = "the environment";

/// Where the values come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file, if any.
    pub file: Option<PathBuf>,
    /// The environment: names and values. Only names that begin with `DUNLIN__` count.
    pub environment: Vec<(String, String)>,
    /// What the flags set, in order: the flag as the user wrote it, the key, the value as text.
    pub flags: Vec<Override>,
}

/// A key that a flag sets.
#[derive(Debug, Clone)]
pub struct Override {
    /// The flag as the user wrote it, such as `--listen :1883`.
    pub flag: String,
    /// The dotted key.
    pub key: String,
    /// The value as text, or several for a list.
    pub value: OverrideValue,
}

/// What a flag gives.
#[derive(Debug, Clone)]
pub enum OverrideValue {
    /// One value as text.
    Text(String),
    /// A list, one item per flag.
    List(Vec<String>),
}

/// Values that are already a tree.
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

/// Merges the layers. A file that cannot be read or parsed is a problem in the report, and the other
/// layers are still looked at.
pub(super) fn merge(sources: &Sources, report: &mut Report) -> Map<String, Value> {
    let file = sources
        .file
        .as_deref()
        .map(|path| read_file(path, report))
        .unwrap_or_default();
    // A position in brackets would have the merged list grown to it, however large it is.
    let bracket = |name: &str| name.contains('[');
    for Override { flag, .. } in sources.flags.iter().filter(|flag| bracket(&flag.key)) {
        let text = "a flag cannot reach into a list: give the whole list, or use the file";
        report.problem(Code::Override, Some(flag.clone()), text);
    }
    let named = sources
        .environment
        .iter()
        .filter(|(name, _)| !bracket(name))
        .cloned();
    let environment = config::Environment::with_prefix("DUNLIN")
        .prefix_separator("__")
        .separator("__")
        .source(Some(named.collect()));
    let merged = Config::builder()
        .add_source(Tree(file))
        .add_source(environment)
        .add_source(Tree(flags(&sources.flags)))
        .build()
        .and_then(|config| config.collect());
    match merged {
        Ok(values) => values,
        Err(error) => {
            report.problem(Code::Override, None, error.to_string());
            Map::new()
        }
    }
}

/// The values of the flags; a later flag wins over an earlier one.
fn flags(flags: &[Override]) -> Map<String, Value> {
    flags
        .iter()
        .filter(|flag| !flag.key.contains('['))
        .map(|Override { flag, key, value }| {
            let kind = match value {
                OverrideValue::Text(text) => ValueKind::String(text.clone()),
                OverrideValue::List(items) => ValueKind::Array(
                    items
                        .iter()
                        .map(|item| Value::new(Some(flag), item.as_str()))
                        .collect(),
                ),
            };
            (key.clone(), Value::new(Some(flag), kind))
        })
        .collect()
}

fn read_file(path: &Path, report: &mut Report) -> Map<String, Value> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let text = format!(
                "cannot read the configuration file {}: {error}",
                path.display()
            );
            report.problem(Code::ConfigFile, None, text);
            return Map::new();
        }
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    let mut file = File {
        name: path.display().to_string(),
        lines: Lines::new(&text),
        report,
    };
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        let place = file.place(at);
        file.report.problem(
            Code::ConfigSyntax,
            Some(place),
            error.message().replace('\n', ", "),
        );
    }
    if errors.is_empty() {
        file.table(table.get_ref(), "")
    } else {
        Map::new()
    }
}

/// A parsed file while it becomes a tree.
struct File<'a> {
    name: String,
    lines: Lines,
    report: &'a mut Report,
}

impl File<'_> {
    fn place(&self, at: usize) -> String {
        let (line, column) = self.lines.position(at);
        format!("{}:{line}:{column}", self.name)
    }

    fn table(&mut self, table: &DeTable<'_>, path: &str) -> Map<String, Value> {
        table
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref();
                let path = if path.is_empty() {
                    name.to_string()
                } else {
                    format!("{path}.{name}")
                };
                let place = self.place(key.span().start);
                self.report.put_place(&path, place);
                (name.to_string(), self.value(value, &path))
            })
            .collect()
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, path: &str) -> Value {
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Integer(integer) => {
                match i128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()) {
                    Ok(number) => ValueKind::I128(number),
                    Err(_) => ValueKind::String(integer.as_str().to_owned()),
                }
            }
            DeValue::Float(float) => float.as_str().parse().map_or_else(
                |_| ValueKind::String(float.as_str().to_owned()),
                ValueKind::Float,
            ),
            DeValue::Boolean(boolean) => ValueKind::Boolean(*boolean),
            DeValue::Datetime(datetime) => ValueKind::String(datetime.to_string()),
            DeValue::Array(items) => ValueKind::Array(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| {
                        let path = format!("{path}[{index}]");
                        let place = self.place(item.span().start);
                        self.report.put_place(&path, place);
                        self.value(item, &path)
                    })
                    .collect(),
            ),
            DeValue::Table(table) => ValueKind::Table(self.table(table, path)),
        };
        Value::new(Some(&self.name), kind)
    }
}

/// Turns byte offsets into lines and columns.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let after_newlines = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            starts: std::iter::once(0).chain(after_newlines).collect(),
        }
    }

    /// Line and column, both counted from 1; the column in bytes.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = line
            .checked_sub(1)
            .and_then(|line| self.starts.get(line))
            .copied()
            .unwrap_or(0);
        (line, at - start + 1)
    }
}
