//! Walks the merged layers key by key and notes every fault on the way.

use config::{Map, Value, ValueKind};

use super::{
    layers::ENVIRONMENT,
    report::Report,
    setting::{Setting, Table},
};
use crate::error::Code;

/// One table of the configuration while it is read.
///
/// Every key that is asked for is thereby known; [`Section::end`] reports the rest as unknown.
pub(crate) struct Section<'a> {
    path: String,
    given: Option<&'a Map<String, Value>>,
    asked: Vec<&'static str>,
    /// The values in force, for `print-config`.
    effective: toml::Table,
    /// What has been found so far.
    pub(crate) report: &'a mut Report,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(crate) fn root(given: &'a Map<String, Value>, report: &'a mut Report) -> Self {
        Self {
            path: String::new(),
            given: Some(given),
            asked: Vec::new(),
            effective: toml::Table::new(),
            report,
        }
    }

    /// The full name of a key of this table.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Notes a problem with a key of this table.
    pub(crate) fn problem(&mut self, code: Code, key: &str, text: impl Into<String>) {
        let path = self.path(key);
        self.report.problem_at(code, &path, text);
    }

    /// Whether some layer gives the key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.given.is_some_and(|table| table.contains_key(key))
    }

    /// Whether some layer gives any key of this table.
    pub(crate) fn any(&self) -> bool {
        self.given.is_some_and(|table| !table.is_empty())
    }

    /// Reads a key that has a default.
    pub(crate) fn get<T: Setting>(
        &mut self,
        key: &'static str,
        default: T,
        bounds: &T::Bounds,
    ) -> T {
        let value = self.optional(key, bounds).unwrap_or(default);
        self.effective.insert(key.to_owned(), value.show());
        value
    }

    /// Reads a key that may be absent.
    pub(crate) fn optional<T: Setting>(
        &mut self,
        key: &'static str,
        bounds: &T::Bounds,
    ) -> Option<T> {
        let value = self.ask(key)?;
        let path = self.path(key);
        let text = is_text(value);
        match T::parse(&value.kind, text, bounds) {
            Ok(parsed) => {
                self.effective.insert(key.to_owned(), parsed.show());
                Some(parsed)
            }
            Err(expected) => {
                let fault = format!("{path} is {}: must be {expected}", describe(&value.kind));
                self.report.problem_at(Code::WrongValue, &path, fault);
                None
            }
        }
    }

    /// Reads a declared table.
    pub(crate) fn table<T: Table>(&mut self, key: &'static str) -> T {
        self.with_table(key, T::read)
    }

    /// Reads a table by hand.
    pub(crate) fn with_table<R>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> R,
    ) -> R {
        let path = self.path(key);
        let given = match self.ask(key) {
            None => None,
            Some(Value {
                kind: ValueKind::Table(table),
                ..
            }) => Some(table),
            Some(value) => {
                let fault = format!(
                    "{path} is {}: must be a table, [{path}]",
                    describe(&value.kind)
                );
                self.report.problem_at(Code::WrongValue, &path, fault);
                None
            }
        };
        let (result, effective) = read_section(path, given, self.report, read);
        if !effective.is_empty() {
            self.effective
                .insert(key.to_owned(), toml::Value::Table(effective));
        }
        result
    }

    /// Reads an array of tables; `None` when the key is absent.
    pub(crate) fn tables<R>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> R,
    ) -> Option<Vec<R>> {
        let path = self.path(key);
        let value = self.ask(key)?;
        let ValueKind::Array(values) = &value.kind else {
            let fault = format!(
                "{path} is {}: must be a list of tables, [[{path}]]",
                describe(&value.kind)
            );
            self.report.problem_at(Code::WrongValue, &path, fault);
            return None;
        };
        let mut results = Vec::with_capacity(values.len());
        let mut all = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let ValueKind::Table(table) = &value.kind else {
                let fault = format!("{path} is {}: must be a table", describe(&value.kind));
                self.report.problem_at(Code::WrongValue, &path, fault);
                continue;
            };
            let (result, effective) = read_section(path, Some(table), self.report, &mut read);
            results.push(result);
            all.push(toml::Value::Table(effective));
        }
        self.effective
            .insert(key.to_owned(), toml::Value::Array(all));
        Some(results)
    }

    /// Shows a value in the effective configuration that was not read from one key.
    pub(crate) fn show(&mut self, key: &str, value: toml::Value) {
        self.effective.insert(key.to_owned(), value);
    }

    /// Takes a value out of the effective configuration.
    pub(crate) fn hide(&mut self, key: &str) {
        self.effective.remove(key);
    }

    /// Ends the reading of this table: what was given and not asked for is unknown.
    pub(crate) fn end(self) -> toml::Table {
        let Some(given) = self.given else {
            return self.effective;
        };
        let mut unknown: Vec<_> = given
            .iter()
            .filter(|(key, _)| !self.asked.contains(&key.as_str()))
            .collect();
        unknown.sort_by_key(|(key, _)| *key);
        for (key, value) in unknown {
            let path = if self.path.is_empty() {
                key.clone()
            } else {
                format!("{}.{key}", self.path)
            };
            let place = place_of(value, &path, self.report);
            self.report.unknown(path, place);
        }
        self.effective
    }

    /// The value of a key, which becomes known.
    fn ask(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        let path = self.path(key);
        self.report.know(&path);
        let value = self.given?.get(key)?;
        if let Some(place) = place_of(value, &path, self.report) {
            self.report.put_place(&path, place);
        }
        Some(value)
    }
}

fn read_section<R>(
    path: String,
    given: Option<&Map<String, Value>>,
    report: &mut Report,
    read: impl FnOnce(&mut Section<'_>) -> R,
) -> (R, toml::Table) {
    let mut section = Section {
        path,
        given,
        asked: Vec::new(),
        effective: toml::Table::new(),
        report,
    };
    let result = read(&mut section);
    (result, section.end())
}

/// Whether the layer of the value has only text.
fn is_text(value: &Value) -> bool {
    value
        .origin()
        .is_some_and(|origin| origin == ENVIRONMENT || origin.starts_with("--"))
}

/// Where a value was given. A flag names itself, an environment variable follows from the path, and
/// the places of the file were noted when it was parsed.
fn place_of(value: &Value, path: &str, report: &Report) -> Option<String> {
    match value.origin() {
        Some(ENVIRONMENT) => Some(format!(
            "environment variable DUNLIN__{}",
            path.replace('.', "__").to_uppercase()
        )),
        Some(flag) if flag.starts_with("--") => Some(flag.to_owned()),
        _ => match (&value.kind, report.place(path)) {
            // A table that only an upper layer gives has no origin of its own: its first key has.
            (ValueKind::Table(table), None) => {
                let (key, value) = table.iter().min_by_key(|(key, _)| *key)?;
                place_of(value, &format!("{path}.{key}"), report)
            }
            (_, place) => place,
        },
    }
}

/// A value in the words of a message.
fn describe(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(values) => match values.first() {
            Some(Value {
                kind: ValueKind::Table(_),
                ..
            }) => "a list of tables".to_owned(),
            _ => "a list".to_owned(),
        },
        ValueKind::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}
