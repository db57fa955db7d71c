//! What a device may do: its own rules, or the topics that every device has.
//!
//! The topics are those of Google's IoT Core, so that what was made for it goes on: `/devices/ID/events` with anything below it and
//! `/devices/ID/state` to publish to, `/devices/ID/config` and `/devices/ID/commands` with anything below it to subscribe to.

use std::sync::{Arc, LazyLock};

use dunlin_protocol::QoS;

use super::device::{Device, PolicyAction, PolicyEffect, PolicyRule};
use crate::auth::Rules;
use crate::config::{AccessRule, Effect, RuleAction};

/// Of all devices without rules of their own.
static OF_ALL: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    let rule = |action, topics: &[&str]| PolicyRule {
        effect: PolicyEffect::Allow,
        action,
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
    };
    let rules = [
        rule(
            PolicyAction::Publish,
            &["/devices/%d/events/#", "/devices/%d/state"],
        ),
        rule(
            PolicyAction::Subscribe,
            &["/devices/%d/config", "/devices/%d/commands/#"],
        ),
    ];
    Arc::new(compile(&rules))
});

/// The rules of a device.
#[must_use]
pub(super) fn rules_of(device: &Device) -> Arc<Rules> {
    match &device.policy {
        None => Arc::clone(&OF_ALL),
        Some(rules) => Arc::new(compile(rules)),
    }
}

/// Rules that cannot be used allow nothing; [`Device::check`] has let none through.
fn compile(rules: &[PolicyRule]) -> Rules {
    let rules: Vec<_> = rules.iter().map(access_rule).collect();
    Rules::compile(&rules, Effect::Deny).unwrap_or_else(|faults| {
        tracing::warn!(
            ?faults,
            "the policy of a device cannot be used: it allows nothing"
        );
        Rules::compile(&[], Effect::Deny).unwrap_or_default()
    })
}

fn access_rule(rule: &PolicyRule) -> AccessRule {
    AccessRule {
        effect: match rule.effect {
            PolicyEffect::Allow => Effect::Allow,
            PolicyEffect::Deny => Effect::Deny,
        },
        action: match rule.action {
            PolicyAction::Publish => RuleAction::Publish,
            PolicyAction::Subscribe => RuleAction::Subscribe,
            PolicyAction::Any => RuleAction::Any,
        },
        topics: rule.topics.clone(),
        exact: false,
        users: None,
        clients: None,
        tenants: None,
        roles: None,
        retain: None,
        max_qos: QoS::ExactlyOnce,
        key: "policy".to_owned(),
    }
}
