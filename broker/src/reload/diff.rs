//! Which keys of the configuration differ, and which of them can change while the broker runs.

use std::collections::BTreeSet;

use toml::Value;

/// Keys that come into force when the configuration is read again; a table stands for all of its keys. The numbers of
/// listeners and rules are left out. `docs/configuration.md` has the same list.
pub(super) const LIVE: &[&str] = &[
    "admin.tls",
    "admin.tokens_file",
    "audit",
    "auth",
    "bans",
    "drain_delay_ms",
    "drain_rate",
    "drain_server_moved",
    "drain_server_reference",
    "drain_timeout_ms",
    "limits.connect_burst",
    "limits.connect_rate",
    "limits.connect_rate_per_address",
    "limits.connections_per_address",
    "limits.handshakes_per_address",
    "limits.login_failures",
    "limits.login_pause_max",
    "limits.max_connections",
    "limits.max_keep_alive",
    "limits.max_retained",
    "limits.max_retained_bytes",
    "limits.max_session_expiry",
    "limits.max_sessions",
    "limits.max_shared_group_members",
    "limits.max_subscriptions_per_client",
    "limits.max_wildcard_subscriptions_per_client",
    "limits.over_rate",
    "limits.publish_byte_rate",
    "limits.publish_rate",
    "listener.anonymous",
    "listener.auth",
    "listener.tls.certificate",
    "listener.tls.client_auth",
    "listener.tls.client_ca",
    "listener.tls.crl",
    "listener.tls.key",
    "listener.tls.min_version",
    "listener.tls.sni",
    "log.level",
    "tenant",
    "watch_files_ms",
];

/// Whether a key comes into force without a restart.
pub(super) fn is_live(key: &str) -> bool {
    let mut plain = String::new();
    let mut within = false;
    for c in key.chars() {
        match c {
            '[' => within = true,
            ']' => within = false,
            c if !within => plain.push(c),
            _ => {}
        }
    }
    LIVE.iter().any(|live| {
        let rest = plain.strip_prefix(live);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The keys in which two configurations differ, in order.
pub(super) fn between(old: &toml::Table, new: &toml::Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    tables("", old, new, &mut found);
    found
}

fn tables(path: &str, old: &toml::Table, new: &toml::Table, found: &mut BTreeSet<String>) {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        values(path, old.get(key), new.get(key), found);
    }
}

fn values(path: String, old: Option<&Value>, new: Option<&Value>, found: &mut BTreeSet<String>) {
    match (old, new) {
        (Some(Value::Table(old)), Some(Value::Table(new))) => tables(&path, old, new, found),
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                if let (Value::Table(old), Value::Table(new)) = (old, new) {
                    tables(&format!("{path}[{index}]"), old, new, found);
                } else if old != new {
                    found.insert(path.clone());
                }
            }
        }
        (old, new) if old == new => {}
        _ => {
            found.insert(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn what_differs_is_named_with_its_place() {
        let old = table(
            "a = 1\nsame = 2\n[limits]\nx = 1\n[[listener]]\nname = \"a\"\n[listener.tls]\nkey = \"k\"\n",
        );
        let new = table(
            "b = 1\nsame = 2\n[limits]\nx = 2\n[[listener]]\nname = \"a\"\n[listener.tls]\nkey = \"l\"\n",
        );
        let found: Vec<_> = between(&old, &new).into_iter().collect();
        assert_eq!(found, ["a", "b", "limits.x", "listener[0].tls.key"]);
    }

    #[test]
    fn one_listener_more_is_a_change_of_the_list() {
        let old = table("[[listener]]\nname = \"a\"\n");
        let new = table("[[listener]]\nname = \"a\"\n[[listener]]\nname = \"b\"\n");
        let found: Vec<_> = between(&old, &new).into_iter().collect();
        assert_eq!(found, ["listener"]);
        assert!(!is_live("listener"));
    }

    #[test]
    fn what_is_live_is_documented_and_nothing_else() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let text = std::fs::read_to_string(file).unwrap();
        let (_, section) = text.split_once("\n## Reading it again\n").unwrap();
        let list = section.split("\n**").next().unwrap();
        let list = list.split_once("In force at once are:").unwrap().1;
        let mut documented: Vec<_> = list.split('`').skip(1).step_by(2).collect();
        documented.sort_unstable();
        assert_eq!(documented, LIVE);
    }

    #[test]
    fn keys_of_live_tables_and_of_any_listener_are_live() {
        for key in [
            "auth.users",
            "auth.rules[3].topics",
            "listener[12].tls.key",
            "log.level",
        ] {
            assert!(is_live(key), "{key}");
        }
        for key in [
            "authority",
            "listener[0].address",
            "log.format",
            "limits.read_buffer",
            "limits",
        ] {
            assert!(!is_live(key), "{key}");
        }
    }
}
