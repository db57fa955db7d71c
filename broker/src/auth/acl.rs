//! Access files of mosquitto, read as they are.
//!
//! `user NAME` begins the lines of one user; `topic` lines before the first are for clients without a name. `pattern` lines are
//! for everybody, with `%c` and `%u` filled in. A line says `read`, `write`, `readwrite` (the default) or `deny`.
//!
//! The user's lines are asked before the patterns, and in each of the two what is denied before what is allowed; what no line
//! allows is denied. Reading is judged message by message: a subscription may be wider than what may be read.
//!
//! Stricter than mosquitto in two places: a client id or user name with `/` in it fits no pattern (it would reach into the
//! levels of others), and a shared subscription must be covered as a whole, as what one member may not read would be lost.

use std::collections::HashMap;

use super::Action;
use super::rules::pattern::{Names, Pattern};
use super::rules::{Decision, Who};

/// Longest line, in bytes.
const LINE_MAX: usize = 70_000;

/// A compiled access file.
#[derive(Debug, Default)]
pub struct Acl {
    anonymous: Lines,
    users: HashMap<Box<str>, Lines>,
    patterns: Lines,
}

#[derive(Debug, Default)]
struct Lines {
    denied: Vec<Pattern>,
    allowed: Vec<Allowed>,
}

#[derive(Debug)]
struct Allowed {
    pattern: Pattern,
    read: bool,
    write: bool,
}

impl Acl {
    /// Reads a file's text. Gives back what is wrong too: the number of the line from 1, and why.
    #[must_use]
    pub fn parse(text: &str) -> (Self, Vec<(usize, String)>) {
        let mut acl = Self::default();
        let mut faults = Vec::new();
        let mut user: Option<Box<str>> = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let rest = rest.trim();
            let done = match word {
                _ if line.len() > LINE_MAX => {
                    Err("the line is longer than a topic can be".to_owned())
                }
                _ if rest.is_empty() => {
                    Err(format!("{word:?} stands alone: something must follow it"))
                }
                "user" => {
                    acl.users.entry(rest.into()).or_default();
                    user = Some(rest.into());
                    Ok(())
                }
                "topic" => match &user {
                    Some(user) => acl
                        .users
                        .entry(user.clone())
                        .or_default()
                        .add(rest, Names::None),
                    None => acl.anonymous.add(rest, Names::None),
                },
                "pattern" => acl.patterns.add(rest, Names::Mosquitto),
                other => Err(format!(
                    "{other:?} is not known: a line begins with user, topic, pattern or #"
                )),
            };
            if let Err(fault) = done {
                faults.push((index + 1, fault));
            }
        }
        (acl, faults)
    }

    /// What the file says; what it does not allow is denied.
    pub(super) fn decide(
        &self,
        who: Who<'_>,
        action: Action,
        topic: &str,
        shared: bool,
    ) -> Decision {
        let own = match who.principal.username.as_deref() {
            Some(name) => self.users.get(name),
            None => Some(&self.anonymous),
        };
        // A name with a wildcard in it would be one in a pattern.
        let names = [who.principal.username.as_deref(), Some(who.client_id)];
        let wild = names
            .into_iter()
            .flatten()
            .any(|name| name.contains(['+', '#']));
        let patterns = Some(&self.patterns).filter(|_| !wild);
        match action {
            Action::Publish { qos, .. } => {
                match own
                    .into_iter()
                    .chain(patterns)
                    .find_map(|lines| lines.write(who, topic))
                {
                    Some(true) => Decision::Granted(qos),
                    _ => Decision::Denied,
                }
            }
            Action::Subscribe { qos } => {
                let own_denied = own.is_some_and(|lines| lines.denies(who, topic));
                let whole = own.is_some_and(|lines| !own_denied && lines.reads_all(who, topic))
                    || patterns.is_some_and(|lines| {
                        !own_denied && !lines.denies(who, topic) && lines.reads_all(who, topic)
                    });
                let some = || {
                    own.into_iter()
                        .chain(patterns)
                        .any(|lines| lines.reads_some(who, topic))
                };
                match whole {
                    true => Decision::Granted(qos),
                    // A topic has no part that may be read.
                    false if !shared && topic.contains(['+', '#']) && some() => {
                        Decision::Filtered(qos)
                    }
                    false => Decision::Denied,
                }
            }
        }
    }
}

impl Lines {
    fn add(&mut self, text: &str, names: Names) -> Result<(), String> {
        let (word, rest) = text.split_once([' ', '\t']).unwrap_or(("", text));
        let (read, write, topic) = match word {
            "read" => (true, false, rest),
            "write" => (false, true, rest),
            "readwrite" => (true, true, rest),
            "deny" => (false, false, rest),
            // Topics may have spaces in them.
            _ => (true, true, text),
        };
        let pattern = Pattern::compile(topic.trim(), false, names)?;
        match read || write {
            true => self.allowed.push(Allowed {
                pattern,
                read,
                write,
            }),
            false => self.denied.push(pattern),
        }
        Ok(())
    }

    fn denies(&self, who: Who<'_>, filter: &str) -> bool {
        let mut denied = self.denied.iter();
        denied.any(|pattern| pattern.overlaps(filter, who))
    }

    fn write(&self, who: Who<'_>, topic: &str) -> Option<bool> {
        if self.denied.iter().any(|pattern| pattern.covers(topic, who)) {
            return Some(false);
        }
        let mut writable = self.allowed.iter().filter(|line| line.write);
        writable
            .any(|line| line.pattern.covers(topic, who))
            .then_some(true)
    }

    fn reads_all(&self, who: Who<'_>, filter: &str) -> bool {
        let mut readable = self.allowed.iter().filter(|line| line.read);
        readable.any(|line| line.pattern.covers(filter, who))
    }

    fn reads_some(&self, who: Who<'_>, filter: &str) -> bool {
        let mut readable = self.allowed.iter().filter(|line| line.read);
        readable.any(|line| line.pattern.overlaps(filter, who))
    }
}
