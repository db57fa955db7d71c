//! Who may connect, and what they may do: the raw form of `[auth]`.

use std::path::PathBuf;

use super::{reader::Section, setting::word_setting};
use crate::error::Code;

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
}
word_setting!(Effect { "allow" => Effect::Allow, "deny" => Effect::Deny });

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// Publishing, wills included.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    Any,
}
word_setting!(RuleAction {
    "publish" => RuleAction::Publish,
    "subscribe" => RuleAction::Subscribe,
    "any" => RuleAction::Any,
});

/// One access rule as it is written. The first rule that fits decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// What it says.
    pub effect: Effect,
    /// What it is about.
    pub action: RuleAction,
    /// Topic patterns: MQTT filters in which `%c` is the client id and `%u` the user name.
    pub topics: Vec<String>,
    /// Whether a topic or filter must be the same text as a pattern, wildcards without meaning.
    pub exact: bool,
    /// The user names it is for; `None` is everybody.
    pub users: Option<Vec<String>>,
    /// The client ids it is for; `None` is everybody.
    pub clients: Option<Vec<String>>,
    /// Its place in the configuration.
    pub(crate) key: String,
}

/// The table `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Whether clients without a name are accepted; `None` when nothing is said.
    pub anonymous: Option<bool>,
    /// The users file.
    pub users: Option<PathBuf>,
    /// What holds when no rule fits.
    pub default: Effect,
    /// The access rules.
    pub rules: Vec<AccessRule>,
}

impl AuthConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let anonymous = section.optional("anonymous", &());
        let users = section.optional::<String>("users", &()).map(PathBuf::from);
        let rules: Vec<_> = section.tables("rules", read_rule).unwrap_or_default();
        let default = if section.has("rules") {
            Effect::Deny
        } else {
            Effect::Allow
        };
        let default = section.get("default", default, &());
        Self {
            anonymous,
            users,
            default,
            rules,
        }
    }
}

fn read_rule(section: &mut Section<'_>) -> AccessRule {
    let effect = section.optional("effect", &());
    if effect.is_none() && !section.has("effect") {
        section.problem(
            Code::Contradiction,
            "effect",
            "the rule has no effect: add effect = \"allow\" or effect = \"deny\"",
        );
    }
    let topics = section.optional::<Vec<String>>("topics", &());
    if topics.as_ref().is_none_or(Vec::is_empty) && (topics.is_some() || !section.has("topics")) {
        section.problem(
            Code::Contradiction,
            "topics",
            "the rule has no topics: add topics = [\"#\"] for all of them",
        );
    }
    let key = section.path("effect");
    AccessRule {
        effect: effect.unwrap_or(Effect::Deny),
        action: section.get("action", RuleAction::Any, &()),
        topics: topics.unwrap_or_default(),
        exact: section.get("exact", false, &()),
        users: section.optional("users", &()),
        clients: section.optional("clients", &()),
        key: key.trim_end_matches(".effect").to_owned(),
    }
}
