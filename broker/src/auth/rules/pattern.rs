//! Topic patterns: MQTT filters with names to fill in, and how they compare with what a client asks for.

use dunlin_protocol::topic;

use super::Who;

/// A pattern of a rule.
#[derive(Debug)]
pub(in crate::auth) enum Pattern {
    /// The same text, wildcards without meaning.
    Exact(Box<str>),
    Levels(Box<[Level]>),
}

#[derive(Debug)]
pub(in crate::auth) enum Level {
    Any,
    Rest,
    Text(Box<[Part]>),
}

#[derive(Debug)]
pub(in crate::auth) enum Part {
    Text(Box<str>),
    Name(Name),
}

/// What is filled in.
#[derive(Debug)]
pub(in crate::auth) enum Name {
    /// `%c`
    Client,
    /// `%u`
    User,
    /// `%t`
    Tenant,
    /// `%d`
    Device,
    /// `%{…}`
    Attribute(Box<str>),
}

/// Which names a pattern may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum Names {
    /// All of ours.
    All,
    /// `%c` and `%u`, as mosquitto has them in lines that begin with `pattern`.
    Mosquitto,
    /// None: a per cent sign is one.
    None,
}

impl Name {
    fn of<'w>(&self, who: Who<'w>) -> Option<&'w str> {
        let principal = who.principal;
        match self {
            Self::Client => Some(who.client_id),
            Self::User => principal.username.as_deref(),
            Self::Tenant => principal.tenant.as_deref(),
            Self::Device => principal.device.as_deref(),
            Self::Attribute(name) => principal.attributes.get(name).map(|value| &**value),
        }
    }
}

impl Pattern {
    pub(in crate::auth) fn compile(text: &str, exact: bool, names: Names) -> Result<Self, String> {
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
            "+" => Ok(Level::Any),
            "#" => Ok(Level::Rest),
            level => parts(level, names).map(Level::Text),
        });
        let levels: Result<_, String> = levels.collect();
        levels
            .map(Self::Levels)
            .map_err(|fault| format!("the pattern {text:?} {fault}"))
    }

    /// Whether the pattern begins with `$` as it is written.
    pub(in crate::auth) fn is_reserved(&self) -> bool {
        match self {
            Self::Exact(text) => text.starts_with('$'),
            Self::Levels(levels) => match levels.first() {
                Some(Level::Text(parts)) => {
                    matches!(parts.first(), Some(Part::Text(text)) if text.starts_with('$'))
                }
                _ => false,
            },
        }
    }

    /// Whether it matches every topic that the filter can match; a topic name is a filter without wildcards.
    pub(in crate::auth) fn covers(&self, filter: &str, who: Who<'_>) -> bool {
        match self {
            Self::Exact(text) => **text == *filter,
            Self::Levels(levels) => covers(levels, filter, who),
        }
    }

    /// Whether some topic matches both the pattern and the filter.
    pub(in crate::auth) fn overlaps(&self, filter: &str, who: Who<'_>) -> bool {
        match self {
            Self::Exact(text) => **text == *filter,
            Self::Levels(levels) => overlaps(levels, filter, who),
        }
    }
}

fn parts(mut text: &str, names: Names) -> Result<Box<[Part]>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    while let Some(at) = text.find('%').filter(|_| names != Names::None) {
        let (before, rest) = text.split_at(at);
        plain.push_str(before);
        let (name, len) = match (rest.as_bytes().get(1), names) {
            (Some(b'c'), _) => (Name::Client, 2),
            (Some(b'u'), _) => (Name::User, 2),
            (Some(b't'), Names::All) => (Name::Tenant, 2),
            (Some(b'd'), Names::All) => (Name::Device, 2),
            (Some(b'{'), Names::All) => {
                let end = rest
                    .find('}')
                    .ok_or("has \"%{\" without \"}\" in the same level")?;
                let name = &rest[2..end];
                if name.is_empty() {
                    return Err("has \"%{}\": name an attribute in it".to_owned());
                }
                (Name::Attribute(name.into()), end + 1)
            }
            _ => {
                plain.push('%');
                text = &rest[1..];
                continue;
            }
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain).into()));
        }
        parts.push(Part::Name(name));
        text = &rest[len..];
    }
    plain.push_str(text);
    if !plain.is_empty() || parts.is_empty() {
        parts.push(Part::Text(plain.into()));
    }
    Ok(parts.into())
}

/// Whether a level is the text of a pattern's level, names filled in. A name that would change the shape of the topic fits
/// nothing.
fn is_text(parts: &[Part], mut level: &str, who: Who<'_>) -> bool {
    for part in parts {
        let text = match part {
            Part::Text(text) => Some(&**text),
            Part::Name(name) => name.of(who).filter(|text| is_shapeless(text)),
        };
        match text.and_then(|text| level.strip_prefix(text)) {
            Some(rest) => level = rest,
            None => return false,
        }
    }
    level.is_empty()
}

fn is_shapeless(name: &str) -> bool {
    !(name.is_empty() || name.contains(['/', '+', '#', '\0']))
}

/// Whether pattern and filter cannot meet because of the `$` of one of them: wildcards at the first level do not reach
/// topics that begin with it, and names that are filled in do not make such a topic.
fn dollar_apart(levels: &[Level], filter: &str, who: Who<'_>) -> bool {
    let first = filter.split('/').next().unwrap_or_default();
    match levels.first() {
        Some(Level::Any | Level::Rest) => first.starts_with('$'),
        Some(Level::Text(parts)) => match parts.first() {
            Some(Part::Text(text)) => text.starts_with('$') && matches!(first, "+" | "#"),
            Some(Part::Name(name)) => {
                first.starts_with('$') || name.of(who).is_some_and(|name| name.starts_with('$'))
            }
            None => false,
        },
        None => false,
    }
}

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
