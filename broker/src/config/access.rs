//! Who may connect, and what they may do: the raw form of `[auth]`.

use std::path::PathBuf;
use std::sync::Arc;

use config::ValueKind;
use dunlin_protocol::QoS;

use super::{
    methods::{HookConfig, JwtConfig, UserConfig},
    reader::Section,
    setting::{Setting, word_setting},
};
use crate::auth::Method;
use crate::error::Code;

/// Methods that are asked who a client is, in order; none stands twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods(pub Arc<[Method]>);

impl Default for Methods {
    fn default() -> Self {
        Self(Arc::new(Method::ASKED))
    }
}

impl Setting for Methods {
    type Bounds = ();
    fn parse(kind: &ValueKind, text: bool, (): &()) -> Result<Self, String> {
        let fault = || {
            let words = Method::ASKED.map(|method| format!("\"{}\"", method.as_str()));
            format!("a list of methods, each once, out of {}", words.join(", "))
        };
        let words = Vec::<String>::parse(kind, text, &()).map_err(|_| fault())?;
        let mut methods = Vec::with_capacity(words.len());
        for word in words {
            let method = Method::from_word(&word).ok_or_else(fault)?;
            if methods.contains(&method) {
                return Err(fault());
            }
            methods.push(method);
        }
        Ok(Self(methods.into()))
    }
    fn show(&self) -> toml::Value {
        let words = self.0.iter().map(|method| method.as_str().to_owned());
        words.collect::<Vec<_>>().show()
    }
}

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
    /// Topic patterns: MQTT filters in which `%c` is the client id, `%u` the user name, `%t` the tenant, `%d` the device and
    /// `%{name}` an attribute.
    pub topics: Vec<String>,
    /// Whether a topic or filter must be the same text as a pattern, wildcards without meaning.
    pub exact: bool,
    /// The user names it is for; `None` is everybody.
    pub users: Option<Vec<String>>,
    /// The client ids it is for; `None` is everybody.
    pub clients: Option<Vec<String>>,
    /// The tenants it is for; `None` is everybody, with a tenant or without.
    pub tenants: Option<Vec<String>>,
    /// The roles of which one is needed; `None` is everybody.
    pub roles: Option<Vec<String>>,
    /// Of publishes those alone that are to be retained, or those alone that are not.
    pub retain: Option<bool>,
    /// Publishes up to this QoS; the QoS that subscriptions get at the most.
    pub max_qos: QoS,
    /// Its place in the configuration.
    pub(crate) key: String,
}

/// The table `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Whether clients without a name are accepted; `None` when nothing is said.
    pub anonymous: Option<bool>,
    /// The methods that are asked who a client is, in order, where its listener says nothing else.
    pub methods: Option<Methods>,
    /// The users file.
    pub users: Option<PathBuf>,
    /// What is known of names.
    pub people: Vec<UserConfig>,
    /// Tokens.
    pub jwt: Option<JwtConfig>,
    /// The web service that is asked.
    pub http: Option<HookConfig>,
    /// Whether devices of the registry may connect.
    pub registry: bool,
    /// Whether bootstrap credentials are taken: `provisioning.mqtt`.
    pub bootstrap: bool,
    /// What tokens of devices must be for, but for the client ids of IoT Core; empty: anything.
    pub registry_audiences: Vec<String>,
    /// What holds when no rule fits.
    pub default: Effect,
    /// The access rules.
    pub rules: Vec<AccessRule>,
    /// An access file of mosquitto, for what no rule is about.
    pub acl_file: Option<PathBuf>,
    /// Nothing says what clients that show who they are may do.
    pub(crate) unsaid: bool,
}

impl AuthConfig {
    /// `certificates`: a listener takes names from them; `bootstrap`: `provisioning.mqtt`.
    pub(super) fn read(section: &mut Section<'_>, certificates: bool, bootstrap: bool) -> Self {
        let anonymous = section.optional("anonymous", &());
        let methods = section.optional("methods", &());
        let users = section.optional::<String>("users", &()).map(PathBuf::from);
        let people: Vec<_> = section.tables("user", UserConfig::read).unwrap_or_default();
        let jwt = section.with_table("jwt", JwtConfig::read);
        let http = section.with_table("http", HookConfig::read);
        let registry = section.get("registry", false, &());
        let registry_audiences = section.get("registry_audiences", Vec::new(), &());
        let rules: Vec<_> = section.tables("rules", read_rule).unwrap_or_default();
        let acl_file = section
            .optional::<String>("acl_file", &())
            .map(PathBuf::from);
        let mut this = Self {
            anonymous,
            methods,
            users,
            people: people.into_iter().flatten().collect(),
            jwt,
            http,
            registry,
            bootstrap,
            registry_audiences,
            default: Effect::Allow,
            rules,
            acl_file,
            unsaid: false,
        };
        let said = section.has("rules") || section.has("acl_file");
        let methods = certificates
            || Method::ASKED
                .iter()
                .any(|method| *method != Method::Anonymous && this.verifies(*method));
        this.unsaid = methods && !said && !section.has("default");
        let default = match said || methods {
            true => Effect::Deny,
            false => Effect::Allow,
        };
        this.default = section.get("default", default, &());
        this
    }
}

impl AuthConfig {
    /// The key without which a method that verifies what CONNECT says has nothing to go by; `None`: it is there.
    pub(super) fn lacks(&self, method: Method) -> Option<&'static str> {
        let (there, key) = match method {
            Method::Users | Method::Scram => (self.users.is_some(), "auth.users"),
            Method::Jwt => (self.jwt.is_some(), "auth.jwt"),
            Method::Http => (self.http.is_some(), "auth.http"),
            Method::Registry => (self.registry, "auth.registry = true"),
            Method::Provisioning => (self.bootstrap, "provisioning.mqtt = true"),
            // Its names come with the listener's tls.name_from.
            Method::Certificate | Method::Anonymous => return None,
        };
        (!there).then_some(key)
    }

    /// Whether a method can verify what a client says in CONNECT.
    pub(super) fn verifies(&self, method: Method) -> bool {
        method != Method::Certificate && self.lacks(method).is_none()
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
    let action = section.get("action", RuleAction::Any, &());
    let retain = section.optional("retain", &());
    let max_qos: Option<u8> = section.optional("max_qos", &(0..=2));
    if retain.is_some() && action == RuleAction::Subscribe {
        section.problem(
            Code::Contradiction,
            "retain",
            "retain is about publishes, and the rule is about subscriptions: remove it, or write action = \"publish\"",
        );
    }
    if max_qos.is_some() && effect == Some(Effect::Deny) {
        section.problem(
            Code::Contradiction,
            "max_qos",
            "max_qos says what is allowed: write it into a rule with effect = \"allow\", and let what is above it fit no rule",
        );
    }
    AccessRule {
        effect: effect.unwrap_or(Effect::Deny),
        action,
        retain,
        max_qos: max_qos
            .and_then(|qos| QoS::try_from(qos).ok())
            .unwrap_or(QoS::ExactlyOnce),
        tenants: section.optional("tenants", &()),
        roles: section.optional("roles", &()),
        topics: topics.unwrap_or_default(),
        exact: section.get("exact", false, &()),
        users: section.optional("users", &()),
        clients: section.optional("clients", &()),
        key: key.trim_end_matches(".effect").to_owned(),
    }
}
