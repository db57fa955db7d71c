//! JSON paths: the part of JSONPath that names one value. `$`, `$.a.b`, `$.list[0]`, `$["a name.with dots"]`.

use serde_json::Value;

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `$`.
    #[error("a path begins with $, as in $.temperature")]
    Root,
    /// A name is empty or has other characters than a path without quotes may have.
    #[error("a name after a dot has letters, digits, _ and -; write others as [\"name\"]")]
    Name,
    /// What follows is neither a dot nor a bracket, or a bracket stays open.
    #[error("after a step comes .name, [number] or [\"name\"]")]
    Step,
    /// Too many steps.
    #[error("a path has at most {MAX_STEPS} steps")]
    Long,
}

/// Steps of a path at the most.
const MAX_STEPS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
}

/// A path to one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut rest = text.strip_prefix('$').ok_or(PathError::Root)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == MAX_STEPS {
                return Err(PathError::Long);
            }
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let (name, after) = after.split_at_checked(end).ok_or(PathError::Step)?;
                let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
                if name.is_empty() || !name.chars().all(plain) {
                    return Err(PathError::Name);
                }
                steps.push(Step::Name(name.to_owned()));
                rest = after;
            } else if let Some(after) = rest.strip_prefix('[') {
                let (step, after) = bracket(after)?;
                steps.push(step);
                rest = after;
            } else {
                return Err(PathError::Step);
            }
        }
        Ok(Self(steps))
    }

    /// Whether it names the whole document.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The value it names in `document`.
    #[must_use]
    pub fn find<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(document, |value, step| match step {
            Step::Name(name) => value.as_object()?.get(name),
            Step::Index(index) => value.as_array()?.get(*index),
        })
    }
}

fn bracket(text: &str) -> Result<(Step, &str), PathError> {
    let quote = text
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\''));
    if let Some(quote) = quote {
        let inner = text.strip_prefix(quote).ok_or(PathError::Step)?;
        let (name, after) = inner.split_once(quote).ok_or(PathError::Step)?;
        let after = after.strip_prefix(']').ok_or(PathError::Step)?;
        return Ok((Step::Name(name.to_owned()), after));
    }
    let (digits, after) = text.split_once(']').ok_or(PathError::Step)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PathError::Step);
    }
    let index = digits.parse().map_err(|_| PathError::Step)?;
    Ok((Step::Index(index), after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_finds_its_value() {
        let document = json!({"a": {"b-c": [1, {"x y": 2}]}, "": 3, "é": 4});
        for (path, expected) in [
            ("$.a.b-c[0]", Some(json!(1))),
            ("$.a['b-c'][1][\"x y\"]", Some(json!(2))),
            ("$['']", Some(json!(3))),
            ("$.é", Some(json!(4))),
            ("$.a.b-c[2]", None),
            ("$.a.b-c.x", None),
            ("$.missing.b", None),
        ] {
            let found = JsonPath::parse(path).unwrap().find(&document).cloned();
            assert_eq!(found, expected, "{path}");
        }
        assert!(JsonPath::parse("$").unwrap().is_root());
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("${}", ".a".repeat(MAX_STEPS + 1));
        for (path, error) in [
            ("", PathError::Root),
            ("a.b", PathError::Root),
            ("$.", PathError::Name),
            ("$..a", PathError::Name),
            ("$.a b", PathError::Name),
            ("$.*", PathError::Name),
            ("$a", PathError::Step),
            ("$[", PathError::Step),
            ("$[-1]", PathError::Step),
            ("$['a]", PathError::Step),
            ("$[99999999999999999999999]", PathError::Step),
            (long.as_str(), PathError::Long),
        ] {
            assert_eq!(JsonPath::parse(path), Err(error), "{path}");
        }
    }
}
