//! Topic patterns: MQTT topic filters whose levels may have names.
//!
//! `plant/{site}/+/telemetry` matches what the filter `plant/+/+/telemetry` matches, and gives the second level the name
//! `site`. `{rest...}` at the end stands for `#`, all remaining levels. As in MQTT, what begins with a wildcard does not match
//! topics that begin with `$` ([MQTT-4.7.2-1]).

use std::fmt;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is empty, too long or has a NUL in it.
    #[error("a pattern has 1 to 65,535 bytes and no NUL")]
    Length,
    /// A brace without its partner, or with other text in the same level.
    #[error("level {0:?} mixes a name in braces with other text: a name stands for a whole level")]
    Mixed(String),
    /// A name has other characters.
    #[error("the name {0:?} must be letters, digits and underscores, and not begin with a digit")]
    Name(String),
    /// A name is used twice.
    #[error("the name {0:?} stands for two levels")]
    Twice(String),
    /// Something follows what stands for all remaining levels.
    #[error("nothing may follow # or {{name...}}, which stand for all remaining levels")]
    Rest,
    /// A wildcard is part of a level.
    #[error("level {0:?} has a wildcard beside other text: + and # stand for whole levels")]
    Wildcard(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(String),
    /// One level: the number of its name, if it has one.
    One(Option<usize>),
    /// All remaining levels, also none.
    Rest(Option<usize>),
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    text: String,
    levels: Vec<Level>,
    names: Vec<String>,
}

/// The named parts of a topic that has matched, by the number that [`TopicPattern::name`] gives.
#[derive(Debug, Default)]
pub struct Captures<'t>(Vec<&'t str>);

impl<'t> Captures<'t> {
    /// The part with this number; empty when `{rest...}` stands for no level at all.
    #[must_use]
    pub fn get(&self, number: usize) -> &'t str {
        self.0.get(number).copied().unwrap_or_default()
    }
}

impl TopicPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > usize::from(u16::MAX) || text.contains('\0') {
            return Err(PatternError::Length);
        }
        let mut names: Vec<String> = Vec::new();
        let mut levels = Vec::new();
        for level in text.split('/') {
            if matches!(levels.last(), Some(Level::Rest(_))) {
                return Err(PatternError::Rest);
            }
            levels.push(match level {
                "+" => Level::One(None),
                "#" => Level::Rest(None),
                level => match level
                    .strip_prefix('{')
                    .and_then(|inner| inner.strip_suffix('}'))
                {
                    Some(inner) => {
                        let (name, rest) = match inner.strip_suffix("...") {
                            Some(name) => (name, true),
                            None => (inner, false),
                        };
                        let number = Some(add_name(&mut names, name)?);
                        if rest {
                            Level::Rest(number)
                        } else {
                            Level::One(number)
                        }
                    }
                    None if level.contains(['{', '}']) => {
                        return Err(PatternError::Mixed(level.to_owned()));
                    }
                    None if level.contains(['+', '#']) => {
                        return Err(PatternError::Wildcard(level.to_owned()));
                    }
                    None => Level::Literal(level.to_owned()),
                },
            });
        }
        Ok(Self {
            text: text.to_owned(),
            levels,
            names,
        })
    }

    /// The number of a name in [`Captures`].
    #[must_use]
    pub fn name(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// Names in the order of the levels.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The MQTT topic filter that matches the same topics.
    #[must_use]
    pub fn filter(&self) -> String {
        let levels: Vec<&str> = self
            .levels
            .iter()
            .map(|level| match level {
                Level::Literal(text) => text.as_str(),
                Level::One(_) => "+",
                Level::Rest(_) => "#",
            })
            .collect();
        levels.join("/")
    }

    /// The named parts of `topic`, if it matches.
    #[must_use]
    pub fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Literal(_))) {
            return None;
        }
        // What the names stand for is written only when everything has matched.
        let mut found = [None; 8];
        let mut more = Vec::new();
        let mut put = |number: Option<usize>, part: &'t str| {
            if let Some(number) = number {
                match found.get_mut(number) {
                    Some(place) => *place = Some(part),
                    None => more.push(part),
                }
            }
        };
        let mut rest = Some(topic);
        for level in &self.levels {
            match level {
                Level::Rest(number) => {
                    put(*number, rest.unwrap_or_default());
                    rest = None;
                    break;
                }
                Level::Literal(_) | Level::One(_) => {
                    let (first, after) = match rest?.split_once('/') {
                        Some((first, after)) => (first, Some(after)),
                        None => (rest?, None),
                    };
                    match level {
                        Level::Literal(text) if text != first => return None,
                        Level::One(number) => put(*number, first),
                        _ => {}
                    }
                    rest = after;
                }
            }
        }
        if rest.is_some() {
            return None;
        }
        let mut parts: Vec<&str> = found.into_iter().flatten().collect();
        parts.append(&mut more);
        Some(Captures(parts))
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn add_name(names: &mut Vec<String>, name: &str) -> Result<usize, PatternError> {
    let mut letters = name.chars();
    let begins = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if !begins || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
        return Err(PatternError::Name(name.to_owned()));
    }
    if names.iter().any(|known| known == name) {
        return Err(PatternError::Twice(name.to_owned()));
    }
    names.push(name.to_owned());
    Ok(names.len() - 1)
}

#[cfg(test)]
mod tests {
    use dunlin_protocol::topic;
    use proptest::prelude::*;

    use super::*;

    fn parts(pattern: &str, topic: &str) -> Option<Vec<(String, String)>> {
        let pattern = TopicPattern::parse(pattern).unwrap();
        let captures = pattern.captures(topic)?;
        let pairs = pattern.names().iter().enumerate();
        Some(
            pairs
                .map(|(number, name)| (name.clone(), captures.get(number).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn names_stand_for_levels_and_for_the_rest() {
        let pairs = |expected: &[(&str, &str)]| {
            let expected = expected.iter();
            Some(
                expected
                    .map(|(name, part)| ((*name).to_owned(), (*part).to_owned()))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            parts("plant/{site}/+/{kind}", "plant/a/b/c"),
            pairs(&[("site", "a"), ("kind", "c")])
        );
        assert_eq!(
            parts("{a}/{more...}", "x/y/z"),
            pairs(&[("a", "x"), ("more", "y/z")])
        );
        assert_eq!(
            parts("{a}/{more...}", "x"),
            pairs(&[("a", "x"), ("more", "")])
        );
        assert_eq!(parts("{a}/x", "/x"), pairs(&[("a", "")]));
        assert_eq!(parts("a/{b}", "a"), None);
        assert_eq!(parts("a/{b}", "a/b/c"), None);
        assert_eq!(parts("{a}/#", "$SYS/x"), None);
        let many = "{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}/{j}";
        assert_eq!(
            parts(many, "0/1/2/3/4/5/6/7/8/9").unwrap().last(),
            Some(&("j".to_owned(), "9".to_owned()))
        );
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (text, expected) in [
            ("", PatternError::Length),
            ("a/{b}c", PatternError::Mixed("{b}c".to_owned())),
            ("a/{b", PatternError::Mixed("{b".to_owned())),
            ("a/{1b}", PatternError::Name("1b".to_owned())),
            ("a/{}", PatternError::Name(String::new())),
            ("{a}/{a}", PatternError::Twice("a".to_owned())),
            ("{a...}/b", PatternError::Rest),
            ("#/b", PatternError::Rest),
            ("a+/b", PatternError::Wildcard("a+".to_owned())),
        ] {
            assert_eq!(TopicPattern::parse(text), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_filter_matches(
            levels in proptest::collection::vec("(a|b||\\+|\\{NAME\\})", 1..5), rest in 0..3,
            topic in "(\\$)?(a|b|)(/(a|b|)){0,4}",
        ) {
            prop_assume!(!topic.is_empty());
            let mut levels: Vec<String> = levels
                .iter()
                .enumerate()
                .map(|(number, level)| level.replace("NAME", &format!("n{number}")))
                .collect();
            match rest {
                1 => levels.push("#".to_owned()),
                2 => levels.push("{rest...}".to_owned()),
                _ => {}
            }
            let text = levels.join("/");
            prop_assume!(!text.is_empty());
            let pattern = TopicPattern::parse(&text).unwrap();
            prop_assert_eq!(pattern.captures(&topic).is_some(), topic::matches(&pattern.filter(), &topic));
        }
    }
}
