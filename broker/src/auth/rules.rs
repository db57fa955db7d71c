//! Access rules: the first that fits decides.
//!
//! For a publish a rule fits when its pattern matches the topic. For a subscription it depends on
//! what the rule says: an *allow* fits when its pattern covers the filter, so that every topic the
//! filter can match is allowed; a *deny* fits when the two overlap, so that a wider filter does not
//! bring what a narrower one may not. `exact` rules compare texts instead.
//!
//! Where no rule fits, an access file of mosquitto is asked, if there is one ([`acl`](super::acl)). It has its own idea of
//! subscriptions: a filter that is wider than what may be read is taken, and what may not be read is not delivered.

use dunlin_protocol::{QoS, topic};

use super::acl::Acl;
use super::{Action, Principal};
use crate::config::{AccessRule, Effect, RuleAction};

pub(super) mod pattern;

use pattern::{Names, Pattern};

/// Topics of tenants in the names that the broker uses inside: nobody without a tenant may have them, unless a rule names them.
pub(crate) const TENANTS: [&str; 2] = ["$tenant/", "$tenant$/"];

/// Compiled rules. The default allows everything.
#[derive(Debug)]
pub struct Rules {
    rules: Box<[Rule]>,
    acl: Option<Acl>,
    default: Effect,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rules: Box::default(),
            acl: None,
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
    tenants: Option<Box<[String]>>,
    roles: Option<Box<[String]>>,
    retain: Option<bool>,
    max_qos: QoS,
}

/// The client that asks.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// What is known of it.
    pub principal: &'a Principal,
    /// Its client id as it gave it: without its tenant.
    pub client_id: &'a str,
}

/// What is said to a client that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No.
    Denied,
    /// Yes; a subscription gets this QoS at the most.
    Granted(QoS),
    /// A subscription of which each message is to be looked at: not all that it matches may be read.
    Filtered(QoS),
}

impl Decision {
    /// Whether it is not denied.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        self != Self::Denied
    }
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
                .map(|text| Pattern::compile(text, rule.exact, Names::All))
                .collect();
            match patterns {
                Ok(patterns) => compiled.push(Rule {
                    effect: rule.effect,
                    action: rule.action,
                    patterns: patterns.into(),
                    users: rule.users.clone().map(Into::into),
                    clients: rule.clients.clone().map(Into::into),
                    tenants: rule.tenants.clone().map(Into::into),
                    roles: rule.roles.clone().map(Into::into),
                    retain: rule.retain,
                    max_qos: rule.max_qos,
                }),
                Err(fault) => faults.push((index, fault)),
            }
        }
        if faults.is_empty() {
            Ok(Self {
                rules: compiled.into(),
                acl: None,
                default,
            })
        } else {
            Err(faults)
        }
    }

    /// Whether every client may do everything.
    #[must_use]
    pub fn allow_all(&self) -> bool {
        self.rules.is_empty() && self.acl.is_none() && self.default == Effect::Allow
    }

    /// With an access file, which decides where no rule fits.
    #[must_use]
    pub fn with_acl(self, acl: Option<Acl>) -> Self {
        Self { acl, ..self }
    }

    /// Nothing is said of what anybody may do, and everything is denied.
    #[must_use]
    pub fn deny_all(&self) -> bool {
        self.rules.is_empty() && self.acl.is_none() && self.default == Effect::Deny
    }

    /// Whether a client may do something with a topic name, or with a topic filter as it was sent.
    #[must_use]
    pub fn decide(&self, who: Who<'_>, action: Action, topic: &str) -> Decision {
        let shared = without_share(topic);
        let filter = match action {
            Action::Subscribe { .. } => shared.unwrap_or(topic),
            Action::Publish { .. } => topic,
        };
        let policy = who.principal.policy.as_deref();
        let fitting = policy
            .and_then(|policy| policy.first(who, action, filter))
            .or_else(|| self.first(who, action, filter));
        if let Some(rule) = fitting {
            return rule.decision(action);
        }
        if is_of_tenants(filter) && who.principal.tenant.is_none() {
            return Decision::Denied;
        }
        if let Some(acl) = &self.acl {
            return acl.decide(who, action, filter, shared.is_some());
        }
        // A device with rules of its own may not do more because nothing is said of others.
        let default = match policy {
            Some(policy) if policy.default == Effect::Deny => Effect::Deny,
            _ => self.default,
        };
        match (default, action) {
            (Effect::Deny, _) => Decision::Denied,
            (Effect::Allow, Action::Subscribe { qos } | Action::Publish { qos, .. }) => {
                Decision::Granted(qos)
            }
        }
    }

    fn first(&self, who: Who<'_>, action: Action, topic: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(who, action, topic))
    }
}

/// Whether a topic or filter is in the names of tenants as the broker has them inside.
pub(crate) fn is_of_tenants(topic: &str) -> bool {
    topic.starts_with('$')
        && TENANTS
            .iter()
            .any(|prefix| topic.starts_with(prefix) || topic == prefix.trim_end_matches('/'))
}

/// The filter inside `$share/group/filter`; `None`: it is no shared subscription, also where it only looks like one.
fn without_share(filter: &str) -> Option<&str> {
    let shared = topic::parse_shared(filter).ok().flatten();
    shared.map(|shared| shared.filter)
}

fn has(list: Option<&[String]>, name: Option<&str>) -> bool {
    match (list, name) {
        (None, _) => true,
        (Some(list), Some(name)) => list.iter().any(|entry| entry == name),
        (Some(_), None) => false,
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
        let kind = match action {
            Action::Publish { qos, retain } => {
                qos <= self.max_qos && self.retain.is_none_or(|wanted| wanted == retain)
            }
            Action::Subscribe { .. } => true,
        };
        about && kind && self.is_for(who) && self.is_about(who, subscribe, topic)
    }

    fn is_for(&self, who: Who<'_>) -> bool {
        let principal = who.principal;
        has(self.users.as_deref(), principal.username.as_deref())
            && has(self.clients.as_deref(), Some(who.client_id))
            && has(self.tenants.as_deref(), principal.tenant.as_deref())
            && self.roles.as_ref().is_none_or(|roles| {
                let mut held = principal.roles.iter();
                held.any(|role| roles.iter().any(|wanted| **wanted == **role))
            })
    }

    fn is_about(&self, who: Who<'_>, subscribe: bool, topic: &str) -> bool {
        // Tenants are reached by patterns that name them, never by one that happens to match.
        let apart = who.principal.tenant.is_none() && is_of_tenants(topic);
        let overlaps = subscribe && self.effect == Effect::Deny;
        self.patterns.iter().any(|pattern| {
            (!apart || pattern.is_reserved())
                && match overlaps {
                    true => pattern.overlaps(topic, who),
                    // A topic name is a filter without wildcards: covered means matched.
                    false => pattern.covers(topic, who),
                }
        })
    }

    fn decision(&self, action: Action) -> Decision {
        match (self.effect, action) {
            (Effect::Deny, _) => Decision::Denied,
            (Effect::Allow, Action::Publish { qos, .. }) => Decision::Granted(qos),
            (Effect::Allow, Action::Subscribe { qos }) => Decision::Granted(qos.min(self.max_qos)),
        }
    }
}
