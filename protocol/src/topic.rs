//! Topic names and topic filters (section 4.7) and shared subscriptions (section 4.8.2).

use thiserror::Error;

/// What is wrong with a topic name or a topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// [MQTT-4.7.3-1].
    #[error("it is empty")]
    Empty,
    /// [MQTT-4.7.3-3].
    #[error("it has {len} bytes, at most 65535 are allowed")]
    TooLong {
        /// Its bytes.
        len: usize,
    },
    /// [MQTT-4.7.3-2].
    #[error("it contains the null character")]
    NulCharacter,
    /// [MQTT-4.7.0-1].
    #[error("it contains a wildcard")]
    Wildcard,
    /// [MQTT-4.7.1-1].
    #[error("\"#\" must be the last level and stand alone in it")]
    MultiLevelWildcard,
    /// [MQTT-4.7.1-2].
    #[error("\"+\" must stand alone in its level")]
    SingleLevelWildcard,
    /// [MQTT-4.8.2-1].
    #[error("the share name of a shared subscription must not be empty nor contain \"+\" or \"#\"")]
    ShareName,
    /// [MQTT-4.8.2-2].
    #[error("a shared subscription has the form \"$share/name/filter\"")]
    ShareFilter,
}

const MAX_LEN: usize = 65_535;

/// Checks a topic name: not empty, at most 65,535 bytes, no U+0000, no wildcard.
///
/// # Errors
///
/// What is wrong with it.
#[inline]
pub fn check_name(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() || topic.len() > MAX_LEN || has_forbidden(topic.as_bytes()) {
        return Err(name_error(topic));
    }
    Ok(())
}

/// Checks a topic filter, one of a shared subscription included.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    match parse_shared(filter)? {
        // Its length and its characters have been seen with the whole.
        Some(_) => Ok(()),
        None => check_plain_filter(filter),
    }
}

/// Checks a topic filter in which `$share` has no meaning, as in MQTT 3.1 and 3.1.1.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_plain_filter(filter: &str) -> Result<(), TopicError> {
    if filter.is_empty() {
        return Err(TopicError::Empty);
    }
    if filter.len() > MAX_LEN {
        return Err(TopicError::TooLong { len: filter.len() });
    }
    if !has_forbidden(filter.as_bytes()) {
        return Ok(());
    }
    let mut levels = levels(filter).peekable();
    while let Some(level) = levels.next() {
        check_level(level, levels.peek().is_none())?;
    }
    Ok(())
}

fn check_level(level: &[u8], last: bool) -> Result<(), TopicError> {
    match level {
        b"+" => Ok(()),
        b"#" if last => Ok(()),
        _ if level.contains(&b'#') => Err(TopicError::MultiLevelWildcard),
        _ if level.contains(&b'+') => Err(TopicError::SingleLevelWildcard),
        _ if level.contains(&0) => Err(TopicError::NulCharacter),
        _ => Ok(()),
    }
}

/// The two parts of `$share/group/filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedFilter<'a> {
    /// The share name: not empty, without `/`, `+` and `#`.
    pub group: &'a str,
    /// The filter that topics are matched against; not empty.
    pub filter: &'a str,
}

/// Splits the filter of a shared subscription. `None`: it is not of the form `$share/…`.
///
/// # Errors
///
/// It begins with `$share/` but the rest is not a share name and a filter, or the filter breaks the grammar.
pub fn parse_shared(filter: &str) -> Result<Option<SharedFilter<'_>>, TopicError> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        return Ok(None);
    };
    if filter.len() > MAX_LEN {
        return Err(TopicError::TooLong { len: filter.len() });
    }
    let (group, filter) = rest.split_once('/').ok_or(TopicError::ShareFilter)?;
    if group.is_empty() || group.contains(['+', '#']) {
        return Err(TopicError::ShareName);
    }
    if group.contains('\0') {
        return Err(TopicError::NulCharacter);
    }
    if filter.is_empty() {
        return Err(TopicError::ShareFilter);
    }
    check_plain_filter(filter)?;
    Ok(Some(SharedFilter { group, filter }))
}

/// Whether a message on `topic` is for a subscription with `filter` (for a shared one: its inner filter).
///
/// Both must be valid. A filter that begins with a wildcard does not match a topic that begins with `$`
/// [MQTT-4.7.2-1].
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = levels(topic);
    for level in levels(filter) {
        match (level, topic_levels.next()) {
            // Matches the parent too: `sport/#` is for `sport`.
            (b"#", _) => return true,
            (_, None) => return false,
            (b"+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

/// Levels as bytes: a `/` is never part of another character, and nothing here needs characters.
fn levels(text: &str) -> impl Iterator<Item = &[u8]> {
    text.as_bytes().split(|&byte| byte == b'/')
}

#[cold]
fn name_error(topic: &str) -> TopicError {
    match topic {
        "" => TopicError::Empty,
        _ if topic.len() > MAX_LEN => TopicError::TooLong { len: topic.len() },
        _ if topic.contains('\0') => TopicError::NulCharacter,
        _ => TopicError::Wildcard,
    }
}

/// Whether one of NUL, `+` and `#` is there: eight bytes at a time, for this is on the path of every PUBLISH.
#[inline]
fn has_forbidden(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<8>();
    if words
        .iter()
        .any(|word| word_has_forbidden(u64::from_le_bytes(*word)))
    {
        return true;
    }
    match bytes.last_chunk::<8>() {
        // The last eight bytes again, some of them seen already: cheaper than one by one.
        Some(last) => !tail.is_empty() && word_has_forbidden(u64::from_le_bytes(*last)),
        None => tail.iter().any(|byte| matches!(byte, 0 | b'+' | b'#')),
    }
}

#[inline]
const fn word_has_forbidden(word: u64) -> bool {
    has_zero(word) | has_zero(word ^ repeat(b'+')) | has_zero(word ^ repeat(b'#'))
}

/// Whether one of the eight bytes is zero.
#[inline]
const fn has_zero(word: u64) -> bool {
    word.wrapping_sub(repeat(0x01)) & !word & repeat(0x80) != 0
}

const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}
