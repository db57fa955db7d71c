//! What is found while a configuration is read: every problem, not only the first.

use std::{collections::HashMap, fmt};

use crate::error::Code;

/// One thing that is wrong, or worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The page in the error catalogue.
    pub code: Code,
    /// Where: `file:line:column`, an environment variable or a flag. `None` when it is nowhere
    /// in particular, such as a key that is missing.
    pub place: Option<String>,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "the configuration has 1 problem")?,
            n => writeln!(f, "the configuration has {n} problems")?,
        }
        for problem in &self.0 {
            writeln!(f, "  {problem}")?;
        }
        f.write_str("each code has a page in docs/errors; nothing was started")
    }
}

impl std::error::Error for Problems {}

/// Collects while the configuration is read and prepared.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    unknown: Vec<(String, Option<String>)>,
    known: Vec<String>,
    /// Where each value that was given was given.
    places: HashMap<String, String>,
}

impl Report {
    /// Notes a problem at a place.
    pub(crate) fn problem(&mut self, code: Code, place: Option<String>, text: impl Into<String>) {
        self.problems.push(Problem {
            code,
            place,
            text: text.into(),
        });
    }

    /// Notes a problem with the value of a key.
    pub(crate) fn problem_at(&mut self, code: Code, path: &str, text: impl Into<String>) {
        let place = self.place(path);
        self.problem(code, place, text);
    }

    /// Notes something that can be lived with.
    pub(crate) fn warning_at(&mut self, code: Code, path: &str, text: impl Into<String>) {
        let place = self.place(path);
        self.warnings.push(Problem {
            code,
            place,
            text: text.into(),
        });
    }

    /// Notes something that can be lived with, at a place.
    pub(crate) fn warning(&mut self, code: Code, place: Option<String>, text: impl Into<String>) {
        self.warnings.push(Problem {
            code,
            place,
            text: text.into(),
        });
    }

    /// Says that a key exists.
    pub(crate) fn know(&mut self, path: &str) {
        self.known.push(path.to_owned());
    }

    /// Every key that exists, array positions included.
    pub(crate) fn known(&self) -> &[String] {
        &self.known
    }

    /// Says that a key was given that nobody asked for.
    pub(crate) fn unknown(&mut self, path: String, place: Option<String>) {
        self.unknown.push((path, place));
    }

    /// Remembers where a value was given.
    pub(crate) fn put_place(&mut self, path: &str, place: String) {
        self.places.insert(path.to_owned(), place);
    }

    /// Where a value was given; of a table, or of a key in it that was not given, where the table is.
    pub(crate) fn place(&self, path: &str) -> Option<String> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place.clone());
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// Everything found: the warnings if it can be lived with.
    pub(crate) fn finish(mut self) -> Result<Vec<Problem>, Problems> {
        for (path, place) in std::mem::take(&mut self.unknown) {
            let text = match suggest(&path, &self.known) {
                Some(known) => format!("unknown key \"{path}\": did you mean \"{known}\"?"),
                None => format!("unknown key \"{path}\""),
            };
            self.problem(Code::UnknownKey, place, text);
        }
        if self.problems.is_empty() {
            return Ok(self.warnings);
        }
        self.problems
            .sort_by_key(|problem| line_of(problem.place.as_deref()));
        Err(Problems(self.problems))
    }
}

/// Problems of the file come in its order, then the others.
fn line_of(place: Option<&str>) -> (bool, u32, u32) {
    let mut parts = place.unwrap_or_default().rsplit(':');
    let column = parts.next().and_then(|n| n.parse().ok());
    let line = parts.next().and_then(|n| n.parse().ok());
    match (line, column) {
        (Some(line), Some(column)) => (false, line, column),
        _ => (true, 0, 0),
    }
}

/// The key that was probably meant: one that is spelt nearly so, or the same word elsewhere.
fn suggest<'a>(path: &str, known: &'a [String]) -> Option<&'a str> {
    let distance = |candidate: &String| strsim::damerau_levenshtein(path, candidate);
    let near = known.iter().min_by_key(|candidate| distance(candidate));
    let last = path.rsplit('.').next()?;
    let allowed = (last.len() / 3).clamp(1, 4);
    if let Some(near) = near.filter(|candidate| distance(candidate) <= allowed) {
        return Some(near);
    }
    known.iter().map(String::as_str).find(|candidate| {
        candidate
            .rsplit('.')
            .next()
            .is_some_and(|word| strsim::damerau_levenshtein(word, last) < 2)
    })
}
