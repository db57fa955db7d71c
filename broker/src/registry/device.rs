//! What the registry knows of a device, and how it is stored.
//!
//! A record is JSON with short names: a device with one P-256 key is about 250 bytes. Fields that a later version adds
//! are read as absent by this one and kept out of records that do not need them; a record of a later `v` is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::credential::Credential;

/// Longest id of a device, in bytes.
pub const ID_MAX: usize = 255;
/// Longest name of a tenant, in bytes.
pub const TENANT_MAX: usize = 64;
/// Credentials of one device.
pub const CREDENTIALS_MAX: usize = 8;
/// Attributes of one device.
pub const ATTRIBUTES_MAX: usize = 32;
/// Longest name of an attribute, in bytes.
pub const ATTRIBUTE_NAME_MAX: usize = 64;
/// Longest value of an attribute, in bytes.
pub const ATTRIBUTE_VALUE_MAX: usize = 512;
/// Rules of one device.
pub const POLICY_MAX: usize = 32;
/// Topic patterns of one rule.
pub const POLICY_TOPICS_MAX: usize = 16;
/// Longest topic pattern of a rule, in bytes.
pub const POLICY_TOPIC_MAX: usize = 512;
/// Longest reason why a device is blocked, in bytes.
pub const REASON_MAX: usize = 256;

/// The version of the records that this broker writes.
const VERSION: u8 = 1;

/// What is wrong with a device that somebody wants to have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {text}")]
pub struct Invalid {
    /// Which field, such as `credentials[0].public_key`.
    pub field: String,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            text: text.into(),
        }
    }
}

/// Names a device: its tenant (empty: none) and its id within the tenant. Written as `tenant/id`, as records name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceKey {
    tenant: Option<Box<str>>,
    id: Box<str>,
}

impl DeviceKey {
    /// Checks both names.
    ///
    /// # Errors
    /// A name that is empty, too long, or has characters that would mean something in a topic.
    pub fn new(tenant: Option<&str>, id: &str) -> Result<Self, Invalid> {
        if let Some(tenant) = tenant {
            check_name("tenant", tenant, TENANT_MAX)?;
        }
        check_name("id", id, ID_MAX)?;
        Ok(Self {
            tenant: tenant.map(Into::into),
            id: id.into(),
        })
    }

    /// From `tenant/id`; `None` when that names no device.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (tenant, id) = text.split_once('/')?;
        Self::new(Some(tenant).filter(|tenant| !tenant.is_empty()), id).ok()
    }

    /// The tenant; `None`: the device has none.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The id within the tenant.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl std::fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.tenant().unwrap_or_default(), self.id)
    }
}

/// A name becomes a level of topics and a part of client ids and log lines: nothing in it may have a meaning there.
pub(crate) fn check_name(field: &str, name: &str, max: usize) -> Result<(), Invalid> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~%:@=".contains(c);
    if name.is_empty() || name.len() > max {
        let text = format!("{} bytes: a name has from 1 to {max} of them", name.len());
        return Err(Invalid::new(field, text));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
        return Err(Invalid::new(
            field,
            format!(
                "{name:?} is no name: it begins with a letter or digit, and has letters, digits and - . _ ~ % : @ = only"
            ),
        ));
    }
    Ok(())
}

/// Whether a device may connect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It may.
    #[default]
    Active,
    /// Whatever it shows, it is refused; who is connected is ended.
    Blocked,
}

/// Whether a rule of a device's policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyEffect {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
}

/// What a rule of a device's policy is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyAction {
    /// Publishing, wills included.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    #[default]
    Any,
}

/// One rule of a device's policy; the first that fits decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// What it says.
    pub effect: PolicyEffect,
    /// What it is about.
    #[serde(default, skip_serializing_if = "is_default")]
    pub action: PolicyAction,
    /// Topic patterns, as in `auth.rules` of the configuration.
    pub topics: Vec<String>,
}

/// A device. Its key is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    v: u8,
    /// Whether it may connect.
    #[serde(rename = "s", default, skip_serializing_if = "is_default")]
    pub state: State,
    /// Why it is blocked, in an operator's words.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it may show, any of them.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// What rules and rows may use.
    #[serde(rename = "a", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// What it may do, in place of the topics that every device has.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Vec<PolicyRule>>,
    /// The serial number that it was provisioned by.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When it was made, in Unix seconds.
    #[serde(rename = "m")]
    pub created_at: u64,
    /// When it was changed last, in Unix seconds.
    #[serde(rename = "u", default, skip_serializing_if = "is_default")]
    pub updated_at: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Device {
    /// An active device without anything; `now` in Unix seconds.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self {
            v: VERSION,
            state: State::Active,
            reason: None,
            credentials: Vec::new(),
            attributes: BTreeMap::new(),
            policy: None,
            serial: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// The bytes of its record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Maps with text keys and plain values: there is nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Bytes that are no device, or one of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let device: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("not a device: {error}"))?;
        if device.v == VERSION {
            Ok(device)
        } else {
            Err(format!(
                "a device of version {}, and this broker knows version {VERSION}",
                device.v
            ))
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.credentials.len() > CREDENTIALS_MAX {
            let text = format!(
                "{} of them: a device has {CREDENTIALS_MAX} at the most",
                self.credentials.len()
            );
            return Err(Invalid::new("credentials", text));
        }
        for (index, credential) in self.credentials.iter().enumerate() {
            let field = format!("credentials[{index}]");
            credential.check(&field)?;
            if self.credentials[..index]
                .iter()
                .any(|other| other.id == credential.id)
            {
                let text = format!("there are two of id {:?}", credential.id);
                return Err(Invalid::new(format!("{field}.id"), text));
            }
        }
        if let Some(reason) = &self.reason {
            check_text("reason", reason, REASON_MAX)?;
        }
        self.check_attributes()?;
        check_policy(self.policy.as_deref().unwrap_or_default())
    }

    fn check_attributes(&self) -> Result<(), Invalid> {
        if self.attributes.len() > ATTRIBUTES_MAX {
            let text = format!(
                "{} of them: a device has {ATTRIBUTES_MAX} at the most",
                self.attributes.len()
            );
            return Err(Invalid::new("attributes", text));
        }
        for (name, value) in &self.attributes {
            check_name("attributes", name, ATTRIBUTE_NAME_MAX)?;
            check_text(&format!("attributes.{name}"), value, ATTRIBUTE_VALUE_MAX)?;
        }
        Ok(())
    }

    /// The same but for when it was made and changed: what an import that is repeated finds.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let of = |device: &Self| Self {
            created_at: 0,
            updated_at: 0,
            ..device.clone()
        };
        of(self) == of(other)
    }
}

impl Device {
    /// The same, made and changed when the other one was.
    #[must_use]
    pub(crate) fn with_times_of(mut self, other: &Self) -> Self {
        self.created_at = other.created_at;
        self.updated_at = other.updated_at;
        self
    }
}

fn check_text(field: &str, text: &str, max: usize) -> Result<(), Invalid> {
    if text.len() > max {
        let words = format!("{} bytes: {max} at the most", text.len());
        return Err(Invalid::new(field, words));
    }
    if text.contains(char::is_control) {
        return Err(Invalid::new(field, "control characters are not allowed"));
    }
    Ok(())
}

fn check_policy(rules: &[PolicyRule]) -> Result<(), Invalid> {
    if rules.len() > POLICY_MAX {
        let text = format!("{} rules: {POLICY_MAX} at the most", rules.len());
        return Err(Invalid::new("policy", text));
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("policy[{index}].topics");
        if rule.topics.is_empty() || rule.topics.len() > POLICY_TOPICS_MAX {
            let text = format!(
                "{} of them: a rule has from 1 to {POLICY_TOPICS_MAX}",
                rule.topics.len()
            );
            return Err(Invalid::new(field, text));
        }
        for topic in &rule.topics {
            check_text(&field, topic, POLICY_TOPIC_MAX)?;
            if let Err(error) = dunlin_protocol::topic::check_filter(topic) {
                return Err(Invalid::new(field, format!("{topic:?}: {error}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_mean_something_in_a_topic_are_none() {
        for id in ["a", "pump-7", "sn:00.11~22%3A", "Z9=@"] {
            assert!(DeviceKey::new(None, id).is_ok(), "{id}");
        }
        let long = "a".repeat(ID_MAX + 1);
        for id in [
            "", "/", "a/b", "a+b", "a#", "$a", "-a", " a", "a b", "ä", "a\0", "..", &long,
        ] {
            assert!(DeviceKey::new(None, id).is_err(), "{id}");
            assert!(DeviceKey::new(Some(id), "a").is_err(), "{id}");
        }
    }

    #[test]
    fn a_key_is_read_as_it_is_written() {
        for (tenant, id, text) in [(None, "a", "/a"), (Some("t"), "a.b", "t/a.b")] {
            let key = DeviceKey::new(tenant, id).unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(DeviceKey::parse(text), Some(key));
        }
        for text in ["", "a", "/", "t/", "t/a/b", "$/a"] {
            assert_eq!(DeviceKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_later_versions_are_refused() {
        let mut device = Device::new(1_700_000_000);
        device.attributes.insert("site".to_owned(), "a".to_owned());
        device.state = State::Blocked;
        device.policy = Some(vec![PolicyRule {
            effect: PolicyEffect::Allow,
            action: PolicyAction::Any,
            topics: vec!["a/%c/#".to_owned()],
        }]);
        device.check().unwrap();
        let bytes = device.encode();
        assert_eq!(Device::decode(&bytes).as_ref(), Ok(&device));
        let later = String::from_utf8(bytes)
            .unwrap()
            .replace("\"v\":1", "\"v\":2");
        assert!(
            Device::decode(later.as_bytes())
                .unwrap_err()
                .contains("version 2")
        );
        assert!(Device::decode(b"{}").is_err());
    }

    #[test]
    fn bounds_are_kept() {
        let mut device = Device::new(0);
        for n in 0..=ATTRIBUTES_MAX {
            device.attributes.insert(format!("a{n}"), String::new());
        }
        assert_eq!(device.check().unwrap_err().field, "attributes");
        let mut device = Device::new(0);
        device
            .attributes
            .insert("a".to_owned(), "x".repeat(ATTRIBUTE_VALUE_MAX + 1));
        assert_eq!(device.check().unwrap_err().field, "attributes.a");
        let mut device = Device::new(0);
        let rule = |topics: &[&str]| PolicyRule {
            effect: PolicyEffect::Deny,
            action: PolicyAction::Publish,
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
        };
        for topics in [&[][..], &["a/#/b"][..], &["a"; POLICY_TOPICS_MAX + 1][..]] {
            device.policy = Some(vec![rule(topics)]);
            assert_eq!(device.check().unwrap_err().field, "policy[0].topics");
        }
        device.policy = Some(vec![rule(&["a"]); POLICY_MAX + 1]);
        assert_eq!(device.check().unwrap_err().field, "policy");
    }
}
