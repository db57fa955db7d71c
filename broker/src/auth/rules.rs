//! Access rules: the first that fits decides.
//!
//! For a publish a rule fits when its pattern matches the topic. For a subscription it depends on
//! what the rule says: an *allow* fits when its pattern covers the filter, so that every topic the
//! filter can match is allowed; a *deny* fits when the two overlap, so that a wider filter does not
//! bring what a narrower one may not. `exact` rules compare texts instead.

use dunlin_protocol::topic;

use super::Action;
use crate::config::{AccessRule, Effect, RuleAction};

/// Compiled rules. The default allows everything.
#[derive(Debug)]
pub struct Rules {
    rules: Box<[Rule]>,
    default: Effect,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rules: Box::default(),
            default: Effect::Allow,
        }
    }
}

#[derive(Debug)]
struct Rule {
    effect: Effect,
    action: RuleAction,
    patterns: Box<[Pattern]>,
    users: Option<Box<[String]>>,
    clients: Option<Box<[String]>>,
}

#[derive(Debug)]
enum Pattern {
    Exact(Box<str>),
    Levels(Box<[Level]>),
}

#[derive(Debug)]
enum Level {
    Any,
    Rest,
    Text(Box<[Part]>),
}

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    ClientId,
    UserName,
}

/// The client that asks.
#[derive(Clone, Copy)]
struct Who<'a> {
    user: Option<&'a str>,
    client: &'a str,
}

impl Rules {
    /// Compiles rules; `default` holds where none fits.
    ///
    /// # Errors
    /// Every pattern that cannot be used: the number of its rule from 0, and why.
    pub fn compile(rules: &[AccessRule], default: Effect) -> Result<Self, Vec<(usize, String)>> {
        let mut compiled = Vec::with_capacity(rules.len());
        let mut faults = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let patterns: Result<Vec<_>, _> = rule
                .topics
                .iter()
                .map(|text| Pattern::compile(text, rule.exact))
                .collect();
            match patterns {
                Ok(patterns) => compiled.push(Rule {
                    effect: rule.effect,
                    action: rule.action,
                    patterns: patterns.into(),
                    users: rule.users.clone().map(Into::into),
                    clients: rule.clients.clone().map(Into::into),
                }),
                Err(fault) => faults.push((index, fault)),
            }
        }
        if faults.is_empty() {
            Ok(Self {
                rules: compiled.into(),
                default,
            })
        } else {
            Err(faults)
        }
    }

    /// Whether every client may do everything.
    #[must_use]
    pub fn allow_all(&self) -> bool {
        self.rules.is_empty() && self.default == Effect::Allow
    }

    /// Whether a client may do something.
    #[must_use]
    pub fn allow(&self, user: Option<&str>, client: &str, action: Action, topic: &str) -> bool {
        if self.rules.is_empty() {
            return self.default == Effect::Allow;
        }
        let who = Who { user, client };
        let topic = match action {
            Action::Subscribe { .. } => without_share(topic),
            Action::Publish { .. } => topic,
        };
        let first = self.rules.iter().find(|rule| rule.fits(who, action, topic));
        first.map_or(self.default, |rule| rule.effect) == Effect::Allow
    }
}

/// The filter inside `$share/group/filter`.
fn without_share(filter: &str) -> &str {
    match filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((_group, inner)) => inner,
        None => filter,
    }
}

impl Rule {
    fn fits(&self, who: Who<'_>, action: Action, topic: &str) -> bool {
        let subscribe = matches!(action, Action::Subscribe { .. });
        let about = match self.action {
            RuleAction::Any => true,
            RuleAction::Publish => !subscribe,
            RuleAction::Subscribe => subscribe,
        };
        let user = || match (&self.users, who.user) {
            (None, _) => true,
            (Some(users), Some(user)) => users.iter().any(|name| name == user),
            (Some(_), None) => false,
        };
        let client = || {
            self.clients
                .as_ref()
                .is_none_or(|ids| ids.iter().any(|id| id == who.client))
        };
        about
            && user()
            && client()
            && self
                .patterns
                .iter()
                .any(|pattern| match (pattern, subscribe, self.effect) {
                    (Pattern::Exact(text), _, _) => **text == *topic,
                    (Pattern::Levels(levels), true, Effect::Deny) => overlaps(levels, topic, who),
                    // A topic name is a filter without wildcards: covered means matched.
                    (Pattern::Levels(levels), _, _) => covers(levels, topic, who),
                })
    }
}

impl Pattern {
    fn compile(text: &str, exact: bool) -> Result<Self, String> {
        topic::check_filter(text)
            .map_err(|error| format!("the pattern {text:?} is not a topic filter: {error}"))?;
        if text.starts_with("$share/") {
            return Err(format!(
                "the pattern {text:?} names a shared subscription: write the filter after the group only"
            ));
        }
        if exact {
            return Ok(Self::Exact(text.into()));
        }
        let levels = text.split('/').map(|level| match level {
            "+" => Level::Any,
            "#" => Level::Rest,
            text => Level::Text(parts(text)),
        });
        Ok(Self::Levels(levels.collect()))
    }
}

fn parts(mut text: &str) -> Box<[Part]> {
    let mut parts = Vec::new();
    while let Some(at) = [text.find("%c"), text.find("%u")]
        .into_iter()
        .flatten()
        .min()
    {
        let (before, rest) = text.split_at(at);
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        parts.push(if rest.starts_with("%c") {
            Part::ClientId
        } else {
            Part::UserName
        });
        text = &rest[2..];
    }
    if !text.is_empty() || parts.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    parts.into()
}

/// Whether a level is the text of a pattern's level, names filled in. A name that would change the
/// shape of the topic fits nothing.
fn is_text(parts: &[Part], mut level: &str, who: Who<'_>) -> bool {
    for part in parts {
        let text = match part {
            Part::Text(text) => text,
            Part::ClientId => who.client,
            Part::UserName => match who.user {
                Some(user) => user,
                None => return false,
            },
        };
        let shapeless =
            matches!(part, Part::Text(_)) || !(text.is_empty() || text.contains(['/', '+', '#']));
        match level.strip_prefix(text).filter(|_| shapeless) {
            Some(rest) => level = rest,
            None => return false,
        }
    }
    level.is_empty()
}

/// Wildcards at the first level do not reach topics that begin with `$`, in either direction.
fn dollar_apart(levels: &[Level], filter: &str, who: Who<'_>) -> bool {
    let first = filter.split('/').next().unwrap_or_default();
    match levels.first() {
        Some(Level::Any | Level::Rest) => first.starts_with('$'),
        Some(Level::Text(parts)) => {
            matches!(first, "+" | "#")
                && match parts.first() {
                    Some(Part::Text(text)) => text.starts_with('$'),
                    Some(Part::ClientId) => who.client.starts_with('$'),
                    Some(Part::UserName) => who.user.is_some_and(|user| user.starts_with('$')),
                    None => false,
                }
        }
        None => false,
    }
}

/// Whether the pattern matches every topic that the filter can match.
fn covers(levels: &[Level], filter: &str, who: Who<'_>) -> bool {
    if dollar_apart(levels, filter, who) {
        return false;
    }
    let mut wanted = filter.split('/');
    for level in levels {
        match (level, wanted.next()) {
            (Level::Rest, _) => return true,
            (Level::Any, Some(text)) if text != "#" => {}
            (Level::Text(parts), Some(text)) if is_text(parts, text, who) => {}
            _ => return false,
        }
    }
    wanted.next().is_none()
}

/// Whether some topic matches both the pattern and the filter.
fn overlaps(levels: &[Level], filter: &str, who: Who<'_>) -> bool {
    if dollar_apart(levels, filter, who) {
        return false;
    }
    let mut wanted = filter.split('/');
    for level in levels {
        match (level, wanted.next()) {
            (Level::Rest, _) | (_, Some("#")) => return true,
            (Level::Any, Some(_)) | (Level::Text(_), Some("+")) => {}
            (Level::Text(parts), Some(text)) if is_text(parts, text, who) => {}
            _ => return false,
        }
    }
    matches!(wanted.next(), None | Some("#"))
}
