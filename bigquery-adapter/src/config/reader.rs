//! Reads settings out of the merged layers: each read says the key, the default and what is allowed, and every problem
//! is kept. What has been read is what exists: the rest is unknown, and the effective configuration is the list of reads.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use config::ValueKind;

use super::Problem;
use super::layers::Found;
use crate::error::Code;

/// Shown in place of a secret.
const MASK: &str = "********";

#[derive(Debug)]
pub(super) struct Reader {
    found: BTreeMap<String, Found>,
    effective: Vec<(&'static str, toml::Value)>,
    pub(super) problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(found: BTreeMap<String, Found>, problems: Vec<Problem>) -> Self {
        Self {
            found,
            effective: Vec::new(),
            problems,
        }
    }

    /// An integer within a range.
    pub(super) fn integer<T>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: TryFrom<i64> + TryInto<i64> + PartialOrd + Display + Copy,
    {
        let value = self.found.remove(key).map(|found| {
            let number = match &found.value {
                ValueKind::I64(number) => Some(*number),
                ValueKind::String(text) if found.is_text => {
                    text.trim().replace('_', "").parse().ok()
                }
                _ => None,
            };
            let number = number
                .and_then(|number| T::try_from(number).ok())
                .filter(|number| range.contains(number));
            number.ok_or_else(|| {
                let words = format!(
                    "must be an integer from {} to {}, not {}",
                    range.start(),
                    range.end(),
                    shown(&found.value)
                );
                self.problem_at(key, &found.origin, words);
            })
        });
        let value = value.and_then(Result::ok).unwrap_or(default);
        self.effective.push((
            key,
            toml::Value::Integer(value.try_into().unwrap_or(i64::MAX)),
        ));
        value
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let value = self.found.remove(key).and_then(|found| match &found.value {
            ValueKind::Boolean(value) => Some(*value),
            ValueKind::String(text) if found.is_text && (text == "true" || text == "false") => {
                Some(text == "true")
            }
            other => {
                self.problem_at(
                    key,
                    &found.origin,
                    format!("must be true or false, not {}", shown(other)),
                );
                None
            }
        });
        let value = value.unwrap_or(default);
        self.effective.push((key, toml::Value::Boolean(value)));
        value
    }

    /// A text that `parse` understands. An empty text is no value.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, origin) = self.take_text(key, default)?;
        self.effective
            .push((key, toml::Value::String(text.clone())));
        match parse(&text) {
            Ok(value) => Some(value),
            Err(words) => {
                self.problem_at(key, &origin, format!("{text:?} cannot be used: {words}"));
                None
            }
        }
    }

    /// A text; empty: none.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let (text, _) = self.take_text(key, "")?;
        self.effective
            .push((key, toml::Value::String(text.clone())));
        (!text.is_empty()).then_some(text)
    }

    /// A text that is not shown.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<String> {
        let (text, _) = self.take_text(key, "")?;
        let shown = if text.is_empty() { "" } else { MASK };
        self.effective
            .push((key, toml::Value::String(shown.to_owned())));
        (!text.is_empty()).then_some(text)
    }

    /// A URL, shown without what `hide` hides; empty: none.
    pub(super) fn url(
        &mut self,
        key: &'static str,
        hide: impl Fn(&str) -> String,
    ) -> Option<String> {
        let (text, _) = self.take_text(key, "")?;
        self.effective.push((key, toml::Value::String(hide(&text))));
        (!text.is_empty()).then_some(text)
    }

    /// A list of texts; as one text, separated by commas.
    pub(super) fn list(&mut self, key: &'static str, default: &[&str]) -> (Vec<String>, String) {
        let (mut items, mut origin) = (
            default
                .iter()
                .map(|item| (*item).to_owned())
                .collect::<Vec<_>>(),
            String::new(),
        );
        if let Some(found) = self.found.remove(key) {
            origin.clone_from(&found.origin);
            match texts(&found) {
                Some(texts) => items = texts,
                None => self.problem_at(
                    key,
                    &found.origin,
                    format!("must be a list of texts, not {}", shown(&found.value)),
                ),
            }
        }
        self.effective.push((
            key,
            toml::Value::Array(items.iter().cloned().map(toml::Value::String).collect()),
        ));
        (items, origin)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        let Some(found) = self.found.remove(key) else {
            let name = words.first().map_or("", |(name, _)| name);
            self.effective
                .push((key, toml::Value::String(name.to_owned())));
            return default;
        };
        let text = text_of(&found);
        let value = words
            .iter()
            .find(|(name, _)| Some(*name) == text.as_deref());
        if value.is_none() {
            let names: Vec<String> = words.iter().map(|(name, _)| format!("{name:?}")).collect();
            let words = format!(
                "must be one of {}, not {}",
                names.join(", "),
                shown(&found.value)
            );
            self.problem_at(key, &found.origin, words);
        }
        self.effective
            .push((key, toml::Value::String(text.unwrap_or_default())));
        value.map_or(default, |(_, value)| *value)
    }

    /// Notes a problem with a key as a whole.
    pub(super) fn problem(&mut self, key: &str, words: impl Into<String>) {
        self.problems
            .push(Problem::new(Code::CONFIGURATION, key, words.into()));
    }

    fn problem_at(&mut self, key: &str, origin: &str, words: impl Display) {
        self.problems.push(Problem::new(
            Code::CONFIGURATION,
            origin,
            format!("{key} {words}"),
        ));
    }

    fn take_text(&mut self, key: &'static str, default: &str) -> Option<(String, String)> {
        let Some(found) = self.found.remove(key) else {
            return Some((default.to_owned(), key.to_owned()));
        };
        let text = text_of(&found);
        if text.is_none() {
            self.problem_at(
                key,
                &found.origin,
                format!("must be a text, not {}", shown(&found.value)),
            );
        }
        text.map(|text| (text, found.origin))
    }

    /// All settings have been read: what is left is unknown. Gives the effective configuration and the problems.
    pub(super) fn finish(mut self) -> (Vec<(&'static str, toml::Value)>, Vec<Problem>) {
        for (key, found) in std::mem::take(&mut self.found) {
            let near = self
                .effective
                .iter()
                .map(|(known, _)| (distance(&key, known), *known))
                .min();
            let hint = match near {
                Some((steps, known)) if steps <= 3 => format!("; did you mean {known}?"),
                _ => String::new(),
            };
            let words = format!("{key} is not a setting{hint}");
            self.problems
                .push(Problem::new(Code::CONFIGURATION, &found.origin, words));
        }
        (self.effective, self.problems)
    }
}

fn text_of(found: &Found) -> Option<String> {
    match &found.value {
        ValueKind::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn texts(found: &Found) -> Option<Vec<String>> {
    match &found.value {
        ValueKind::String(text) if found.is_text => {
            Some(text.split(',').map(|item| item.trim().to_owned()).collect())
        }
        ValueKind::Array(values) => values
            .iter()
            .map(|value| match &value.kind {
                ValueKind::String(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn shown(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::Table(_) => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Number of letters to put in, take out or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (other, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(letter != *other))
                .min(left + 1)
                .min(*above + 1);
            diagonal = *above;
            *above = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_count_single_letters() {
        for (a, b, steps) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("url", "ulr", 2),
        ] {
            assert_eq!(distance(a, b), steps, "{a} {b}");
        }
    }
}
