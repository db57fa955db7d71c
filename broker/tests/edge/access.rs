//! Access rules.

use dunlin_broker::{
    auth::{Action, Decision, Method, Principal, Rules, Who},
    config::{self, Sources},
};
use dunlin_protocol::{QoS, topic};
use proptest::prelude::*;

const PUBLISH: Action = Action::Publish {
    qos: QoS::AtLeastOnce,
    retain: false,
};
const SUBSCRIBE: Action = Action::Subscribe {
    qos: QoS::AtLeastOnce,
};

/// Rules as they are written in the file.
fn rules(text: &str) -> Asked {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dunlin.toml");
    std::fs::write(&file, text).unwrap();
    match config::load(&Sources {
        file: Some(file),
        ..Sources::default()
    }) {
        Ok(loaded) => {
            Asked(Rules::compile(&loaded.config.auth.rules, loaded.config.auth.default).unwrap())
        }
        Err(problems) => panic!("{problems}"),
    }
}

/// Rules that are asked as if a name were all that is known of a client.
struct Asked(Rules);

impl Asked {
    fn allow(&self, user: Option<&str>, client: &str, action: Action, topic: &str) -> bool {
        let principal = Principal::new(Method::Users, user.map(Into::into));
        let who = Who {
            principal: &principal,
            client_id: client,
        };
        self.0.decide(who, action, topic).is_allowed()
    }
}

fn rule(effect: &str, topics: &str, more: &str) -> String {
    format!("[[auth.rules]]\neffect = \"{effect}\"\ntopics = [\"{topics}\"]\n{more}\n")
}

#[test]
fn without_rules_everything_is_allowed() {
    let open = rules("");
    assert!(open.allow(None, "c", PUBLISH, "a/b"));
    assert!(open.allow(None, "c", SUBSCRIBE, "#"));
    let closed = rules("[auth]\ndefault = \"deny\"");
    assert!(!closed.allow(None, "c", PUBLISH, "a/b"));
}

#[test]
fn with_rules_the_rest_is_denied_unless_said_otherwise() {
    let text = rule("allow", "a/#", "");
    assert!(!rules(&text).allow(None, "c", PUBLISH, "b"));
    assert!(rules(&format!("[auth]\ndefault = \"allow\"\n{text}")).allow(None, "c", PUBLISH, "b"));
}

#[test]
fn the_first_rule_that_fits_decides() {
    let text = rule("deny", "a/secret", "") + &rule("allow", "a/+", "") + &rule("deny", "a/b", "");
    let rules = rules(&text);
    assert!(!rules.allow(None, "c", PUBLISH, "a/secret"));
    assert!(rules.allow(None, "c", PUBLISH, "a/b"));
}

#[test]
fn an_allow_must_cover_a_subscription_and_a_deny_only_overlap_it() {
    let allow = rules(&rule("allow", "a/+/c", ""));
    for (filter, expected) in [
        ("a/b/c", true),
        ("a/+/c", true),
        ("$share/g/a/b/c", true),
        ("a/#", false),
        ("a/b/+", false),
        ("+/b/c", false),
        ("#", false),
        ("$share/g/#", false),
    ] {
        assert_eq!(
            allow.allow(None, "c", SUBSCRIBE, filter),
            expected,
            "{filter}"
        );
    }
    let deny =
        rules(&("[auth]\ndefault = \"allow\"\n".to_owned() + &rule("deny", "a/secret/#", "")));
    for (filter, expected) in [
        ("a/b", true),
        ("b/#", true),
        ("a/+/c/d", false),
        ("a/secret", false),
        ("a/#", false),
        ("#", false),
        ("+/+", false),
        ("+", true),
        ("$share/g/a/secret/x", false),
    ] {
        assert_eq!(
            deny.allow(None, "c", SUBSCRIBE, filter),
            expected,
            "{filter}"
        );
    }
}

#[test]
fn an_exact_rule_holds_for_that_text_only() {
    let text = "[auth]\ndefault = \"allow\"\n".to_owned()
        + &rule(
            "deny",
            "test/nosubscribe",
            "action = \"subscribe\"\nexact = true",
        );
    let rules = rules(&text);
    assert!(!rules.allow(None, "c", SUBSCRIBE, "test/nosubscribe"));
    assert!(rules.allow(None, "c", SUBSCRIBE, "test/+"));
    assert!(rules.allow(None, "c", SUBSCRIBE, "#"));
    assert!(rules.allow(None, "c", PUBLISH, "test/nosubscribe"));
}

#[test]
fn rules_can_be_for_some_only() {
    let text = rule("allow", "u/%u/#", "action = \"publish\"")
        + &rule("allow", "c/x-%c", "clients = [\"c1\", \"a/b\"]")
        + &rule("allow", "s/#", "users = [\"ann\"]");
    let rules = rules(&text);
    for (user, client, action, topic, expected) in [
        (Some("ann"), "c1", PUBLISH, "u/ann/t", true),
        (Some("ann"), "c1", PUBLISH, "u/bob/t", false),
        (Some("ann"), "c1", SUBSCRIBE, "u/ann/t", false),
        (None, "c1", PUBLISH, "u//t", false),
        (None, "c1", SUBSCRIBE, "c/x-c1", true),
        (None, "c2", SUBSCRIBE, "c/x-c2", false),
        // A name that would change the shape of the topic fits nothing.
        (None, "a/b", SUBSCRIBE, "c/x-a/b", false),
        (Some("+"), "c1", PUBLISH, "u/+/t", false),
        (Some("#"), "c1", PUBLISH, "u/#", false),
        (Some("ann"), "c9", SUBSCRIBE, "s/#", true),
        (Some("bob"), "c9", SUBSCRIBE, "s/#", false),
        (None, "c9", SUBSCRIBE, "s/#", false),
    ] {
        assert_eq!(
            rules.allow(user, client, action, topic),
            expected,
            "{user:?} {client} {topic}"
        );
    }
}

#[test]
fn wildcards_at_the_first_level_do_not_reach_dollar_topics() {
    let rules = rules(&rule("allow", "#", ""));
    assert!(rules.allow(None, "c", SUBSCRIBE, "#"));
    assert!(!rules.allow(None, "c", SUBSCRIBE, "$SYS/#"));
    assert!(!rules.allow(None, "c", PUBLISH, "$SYS/x"));
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("$c".to_owned()),
        Just(String::new())
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |name| !name.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(prop_oneof![level(), Just("+".to_owned())], 1..4);
    (levels, any::<bool>())
        .prop_map(|(levels, rest)| levels.join("/") + if rest { "/#" } else { "" })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

#[test]
fn the_policy_of_a_device_comes_first_and_is_never_widened_by_a_default() {
    let of = |text: &str| rules(text).0;
    let policy = of(&(rule("deny", "d/secret", "") + &rule("allow", "d/#", "")));
    let mut device = Principal::new(Method::Registry, Some("d".into()));
    device.policy = Some(std::sync::Arc::new(policy));
    let nobody = Principal::new(Method::Users, Some("d".into()));
    let decide = |rules: &Rules, principal: &Principal, topic: &str| {
        let who = Who {
            principal,
            client_id: "d",
        };
        rules.decide(who, PUBLISH, topic).is_allowed()
    };
    let open = of("");
    let more = of(&rule("allow", "all/#", ""));
    let everything = of(&rule("allow", "#", ""));
    for (rules, topic, with_policy, without) in [
        (&open, "d/x", true, true),
        (&open, "other", false, true),
        (&more, "all/x", true, true),
        (&more, "d/x", true, false),
        (&more, "other", false, false),
        (&everything, "d/secret", false, true),
    ] {
        assert_eq!(decide(rules, &device, topic), with_policy, "{topic}");
        assert_eq!(decide(rules, &nobody, topic), without, "{topic}");
    }
}

#[test]
fn rules_look_at_tenant_role_attributes_retain_and_qos() {
    let asked = rules(
        &(rule("deny", "+/secret/#", "tenants = [\"acme\"]")
            + &rule("allow", "sites/%{site}/#", "roles = [\"operator\"]")
            + &rule("allow", "t/%t/%d", "")
            + &rule(
                "allow",
                "up/%c",
                "action = \"publish\"\nretain = false\nmax_qos = 1",
            )
            + &rule("allow", "low/#", "action = \"subscribe\"\nmax_qos = 0")),
    )
    .0;
    let mut principal = Principal::new(Method::Jwt, Some("u".into()));
    let decide = |principal: &Principal, action: Action, topic: &str| {
        let who = Who {
            principal,
            client_id: "c",
        };
        asked.decide(who, action, topic)
    };
    let publish = |qos: QoS, retain: bool| Action::Publish { qos, retain };
    assert!(decide(&principal, publish(QoS::AtLeastOnce, false), "up/c").is_allowed());
    assert!(!decide(&principal, publish(QoS::ExactlyOnce, false), "up/c").is_allowed());
    assert!(!decide(&principal, publish(QoS::AtLeastOnce, true), "up/c").is_allowed());
    let wanted = Action::Subscribe {
        qos: QoS::ExactlyOnce,
    };
    let granted = Decision::Granted(QoS::AtMostOnce);
    assert_eq!(decide(&principal, wanted, "low/#"), granted);
    assert!(!decide(&principal, PUBLISH, "sites/north/x").is_allowed());
    principal.roles = ["operator".into()].into();
    assert!(!decide(&principal, PUBLISH, "sites/north/x").is_allowed());
    principal.attributes.insert("site".into(), "north".into());
    assert!(decide(&principal, PUBLISH, "sites/north/x").is_allowed());
    assert!(!decide(&principal, SUBSCRIBE, "sites/+/x").is_allowed());
    // What would be more than a level fits nothing.
    for evil in ["+", "#", "north/x", "", "$SYS"] {
        principal.attributes.insert("site".into(), evil.into());
        let topic = format!("sites/{evil}/x");
        assert_eq!(
            decide(&principal, PUBLISH, &topic).is_allowed(),
            evil == "$SYS",
            "{topic}"
        );
    }
    assert!(!decide(&principal, PUBLISH, "t/acme/d1").is_allowed());
    principal.tenant = Some("acme".into());
    principal.device = Some("d1".into());
    assert!(decide(&principal, PUBLISH, "t/acme/d1").is_allowed());
    principal.attributes.insert("site".into(), "secret".into());
    assert!(!decide(&principal, PUBLISH, "sites/secret/x").is_allowed());
}

#[test]
fn mount_points_are_for_those_whom_a_rule_names_them() {
    let named =
        rules(&(rule("allow", "$tenant/+/#", "clients = [\"auditor\"]") + &rule("allow", "#", "")));
    let open = rules("");
    for topic in [
        "$tenant/acme/a",
        "$tenant$/acme/$x",
        "$tenant/+/#",
        "$share/g/$tenant/acme/#",
    ] {
        assert!(!open.allow(None, "c", SUBSCRIBE, topic), "{topic}");
        assert!(!named.allow(None, "c", SUBSCRIBE, topic), "{topic}");
    }
    assert!(named.allow(None, "auditor", SUBSCRIBE, "$tenant/+/#"));
    assert!(!named.allow(None, "auditor", SUBSCRIBE, "$tenant$/+/#"));
    // Names that are filled in make no such topic.
    let by_name = rules(&rule("allow", "%u/acme/#", ""));
    assert!(!by_name.allow(Some("$tenant"), "c", SUBSCRIBE, "$tenant/acme/#"));
    assert!(by_name.allow(Some("ann"), "c", SUBSCRIBE, "ann/acme/#"));
}

proptest! {
    /// What the two kinds of rules promise, against the matching of topics itself.
    #[test]
    fn rules_agree_with_the_matching_of_topics(pattern in filter(), filter in filter(), names in prop::collection::vec(name(), 40)) {
        let allow = rules(&rule("allow", &pattern, ""));
        let deny = rules(&("[auth]\ndefault = \"allow\"\n".to_owned() + &rule("deny", &pattern, "")));
        let covered = allow.allow(None, "c", SUBSCRIBE, &filter);
        let apart = deny.allow(None, "c", SUBSCRIBE, &filter);
        for name in &names {
            let matches = topic::matches(&pattern, name);
            prop_assert_eq!(allow.allow(None, "c", PUBLISH, name), matches);
            prop_assert_eq!(deny.allow(None, "c", PUBLISH, name), !matches);
            if topic::matches(&filter, name) {
                prop_assert!(!covered || matches, "{} lets {} through {}", pattern, name, filter);
                prop_assert!(!apart || !matches, "{} does not stop {} in {}", pattern, name, filter);
            }
        }
    }
}
