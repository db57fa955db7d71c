//! Layers, problems, and the documentation of every key.

use std::{collections::BTreeMap, path::Path, time::Duration};

use dunlin_broker::config::{
    self, Durability, Limits, Loaded, Override, OverrideValue, QueueFull, Sources, StoreConfig,
};
use tempfile::TempDir;

use crate::certificates::Authority;

/// A file `dunlin.toml` in a folder of its own.
struct File {
    folder: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dunlin.toml"), text).unwrap();
        Self { folder }
    }

    fn sources(&self) -> Sources {
        Sources {
            file: Some(self.folder.path().join("dunlin.toml")),
            ..Sources::default()
        }
    }

    /// The problems, with the folder's name left out.
    fn problems(&self) -> String {
        problems(&self.sources()).replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn load(text: &str) -> Loaded {
    let file = File::new(text);
    match config::load(&file.sources()) {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{problems}"),
    }
}

fn problems(sources: &Sources) -> String {
    match config::load(sources) {
        Ok(_) => panic!("there are no problems"),
        Err(problems) => problems
            .0
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect(),
    }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn flag(flag: &str, key: &str, value: &str) -> Override {
    Override {
        flag: flag.to_owned(),
        key: key.to_owned(),
        value: OverrideValue::Text(value.to_owned()),
    }
}

#[test]
fn without_any_layer_the_defaults_hold() {
    let loaded = config::load(&Sources::default()).unwrap();
    assert_eq!(loaded.config.limits, Limits::default());
    let addresses: Vec<_> = loaded
        .config
        .listeners
        .iter()
        .map(|l| l.address.to_string())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:1883"]);
    assert!(loaded.config.anonymous_allowed(&loaded.config.listeners[0]));
    assert_eq!(loaded.warnings, []);
}

#[test]
fn the_later_layer_wins() {
    let file = File::new("[limits]\nmax_inflight = 1\nreceive_maximum = 1\nmax_keep_alive = 1\n");
    let mut sources = file.sources();
    sources.environment = environment(&[
        ("DUNLIN__LIMITS__MAX_INFLIGHT", "2"),
        ("DUNLIN__LIMITS__RECEIVE_MAXIMUM", "2"),
        ("UNRELATED", "x"),
    ]);
    sources.flags = vec![flag(
        "--set limits.max_inflight",
        "limits.max_inflight",
        "3",
    )];
    let limits = config::load(&sources).unwrap().config.limits;
    assert_eq!(
        (
            limits.max_inflight,
            limits.receive_maximum,
            limits.max_keep_alive
        ),
        (3, 2, 1)
    );
}

#[test]
fn text_layers_can_set_every_type() {
    let mut sources = Sources {
        environment: environment(&[
            ("DUNLIN__LISTEN", "127.0.0.1:1,localhost:2"),
            ("DUNLIN__LIMITS__MAX_PACKET_SIZE", "2_000_000"),
            ("DUNLIN__LIMITS__QUEUE_FULL", "drop-oldest"),
            ("DUNLIN__FEATURES__RETAIN_AVAILABLE", "false"),
            ("DUNLIN__STORE__PATH", "12345"),
        ]),
        ..Sources::default()
    };
    let config = config::load(&sources).unwrap().config;
    let addresses: Vec<_> = config
        .listeners
        .iter()
        .map(|l| l.address.to_string())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.1:2"]);
    assert_eq!(config.limits.max_packet_size, 2_000_000);
    assert_eq!(config.limits.queue_full, QueueFull::DropOldest);
    assert!(!config.features.retain_available);
    let durability = Durability::Always;
    assert_eq!(
        config.store,
        StoreConfig::Embedded {
            path: "12345".into(),
            durability
        }
    );

    sources.flags = vec![flag("--store", "store.kind", "memory")];
    assert_eq!(
        config::load(&sources).unwrap().config.store,
        StoreConfig::Memory
    );
}

#[test]
fn listeners_on_the_command_line_replace_those_of_the_file() {
    let file = File::new("listen = [\"127.0.0.1:1\"]\n[[listener]]\naddress = \"127.0.0.1:2\"\n");
    let both = config::load(&file.sources()).unwrap();
    assert_eq!(both.config.listeners.len(), 2);
    let mut sources = file.sources();
    let value = OverrideValue::List(vec!["127.0.0.1:3".to_owned()]);
    sources.flags = vec![Override {
        flag: "--listen".to_owned(),
        key: "listen".to_owned(),
        value,
    }];
    let replaced = config::load(&sources).unwrap();
    let addresses: Vec<_> = replaced
        .config
        .listeners
        .iter()
        .map(|l| l.address.to_string())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:3"]);
}

#[test]
fn every_problem_is_reported_at_once_with_its_place() {
    let file = File::new(
        r##"workers = "four"
colour = "red"

[limits]
max_paket_size = 5
max_inflight = 0
queue_full = "drop"

[[listener]]
type = "tls"
address = "0.0.0.0:8883"
tls = { certificate = "server.pem", key = "server.key" }

[[listener]]
adress = "127.0.0.1:1884"

[[listener]]
name = "ws-8083"
type = "ws"
address = "127.0.0.1"
path = "mqtt"

[store]
interval_ms = 5

[auth]
max_packet_size = 4

[[auth.rules]]
effect = "allow"
topics = ["a/#/b"]

[[auth.rules]]
topics = []
"##,
    );
    let expected = r##"DUN-0104 dunlin.toml:1:1: workers is "four": must be an integer from 1 to 1024
DUN-0103 dunlin.toml:2:1: unknown key "colour"
DUN-0103 dunlin.toml:5:1: unknown key "limits.max_paket_size": did you mean "limits.max_packet_size"?
DUN-0104 dunlin.toml:6:1: limits.max_inflight is 0: must be an integer from 1 to 65535
DUN-0104 dunlin.toml:7:1: limits.queue_full is "drop": must be one of "drop-newest", "drop-oldest"
DUN-0105 dunlin.toml:9:1: listener "tls-8883" on 0.0.0.0:8883 can be reached from other machines, and nothing says who may connect: either name a users file (auth.users = "users.txt", made by `broker passwd`), or let everybody in (auth.anonymous = true)
DUN-0201 dunlin.toml:12:9: cannot read server.pem: No such file or directory (os error 2)
DUN-0201 dunlin.toml:12:37: cannot read server.key: No such file or directory (os error 2)
DUN-0107 dunlin.toml:14:1: the listener has no address: add address = "127.0.0.1:1883"
DUN-0103 dunlin.toml:15:1: unknown key "listener[1].adress": did you mean "listener[1].address"?
DUN-0104 dunlin.toml:20:1: listener[2].address is "127.0.0.1": must be an address and a port, such as "127.0.0.1:1883" or "[::]:1883"
DUN-0104 dunlin.toml:21:1: listener[2].path is "mqtt": must begin with "/"
DUN-0107 dunlin.toml:24:1: store.interval_ms has a meaning only with store.durability = "interval"
DUN-0103 dunlin.toml:27:1: unknown key "auth.max_packet_size": did you mean "limits.max_packet_size"?
DUN-0303 dunlin.toml:31:1: the pattern "a/#/b" is not a topic filter: "#" must be the last level and stand alone in it
DUN-0107 dunlin.toml:33:1: the rule has no effect: add effect = "allow" or effect = "deny"
DUN-0107 dunlin.toml:34:1: the rule has no topics: add topics = ["#"] for all of them
"##;
    assert_eq!(file.problems(), expected);
}

#[test]
fn problems_of_other_layers_name_the_variable_and_the_flag() {
    let sources = Sources {
        environment: environment(&[
            ("DUNLIN__LIMITS__MAX_INFLIGHT", "many"),
            ("DUNLIN__LIMIT__MAX_INFLIGHT", "1"),
        ]),
        flags: vec![
            flag(
                "--set limits.receive_maximum",
                "limits.receive_maximum",
                "70000",
            ),
            flag(
                "--set listener[9].address",
                "listener[9].address",
                "127.0.0.1:1",
            ),
        ],
        ..Sources::default()
    };
    let expected = r#"DUN-0108 --set listener[9].address: a flag cannot reach into a list: give the whole list, or use the file
DUN-0104 environment variable DUNLIN__LIMITS__MAX_INFLIGHT: limits.max_inflight is "many": must be an integer from 1 to 65535
DUN-0104 --set limits.receive_maximum: limits.receive_maximum is "70000": must be an integer from 1 to 65535
DUN-0103 environment variable DUNLIN__LIMIT__MAX_INFLIGHT: unknown key "limit": did you mean "limits"?
"#;
    let found = problems(&sources);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&found), sorted(expected), "{found}");
}

#[test]
fn syntax_errors_have_their_line() {
    let file = File::new("workers = 2\nlisten = [\n[limits\n");
    let found = file.problems();
    assert!(
        found
            .lines()
            .all(|line| line.starts_with("DUN-0102 dunlin.toml:")),
        "{found}"
    );
    assert!(found.contains("dunlin.toml:3:"), "{found}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources {
        file: Some("/nowhere/dunlin.toml".into()),
        ..Sources::default()
    };
    assert_eq!(
        problems(&sources),
        "DUN-0101 cannot read the configuration file /nowhere/dunlin.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn listeners_must_not_collide() {
    let file = File::new(
        "listen = [\"127.0.0.1:9100\"]\n\
         [[listener]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n\
         [[listener]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n",
    );
    let found = file.problems();
    assert!(found.contains("two listeners are named \"a\""), "{found}");
    assert!(
        found.contains("listeners \"a\" and \"a\" have the same address 127.0.0.1:1"),
        "{found}"
    );
    assert!(
        found.contains("listener \"tcp-9100\" and ops.listen have the same address"),
        "{found}"
    );
    assert_eq!(found.matches("DUN-0106").count(), 3, "{found}");
}

#[test]
fn port_zero_may_be_given_more_than_once() {
    let loaded = load("listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]");
    assert_eq!(loaded.config.listeners.len(), 2);
    assert_ne!(
        loaded.config.listeners[0].name,
        loaded.config.listeners[1].name
    );
}

#[test]
fn no_listener_at_all_is_a_problem() {
    assert!(
        File::new("listen = []")
            .problems()
            .contains("there is no listener")
    );
    assert!(
        File::new("listener = []")
            .problems()
            .contains("there is no listener")
    );
}

/// (configuration, whether it is accepted, whether the first listener lets clients without a name in)
#[test]
fn who_may_connect_must_be_said_where_others_can_reach() {
    let authority = Authority::new();
    authority.sign("server", |_| {});
    let users = authority.path("users");
    std::fs::write(&users, "").unwrap();
    let users = format!("[auth]\nusers = {users:?}\n");
    let tls = |rest: &str| {
        let path = |name: &str| authority.path(name).display().to_string();
        format!(
            "[[listener]]\ntype = \"tls\"\naddress = \"0.0.0.0:1\"\n[listener.tls]\ncertificate = {:?}\nkey = {:?}\n{}",
            path("server.pem"),
            path("server.key"),
            rest.replace("CA", &format!("{:?}", path("ca.pem"))),
        )
    };
    let open = "listen = [\"0.0.0.0:1\"]\n";
    let local = "listen = [\"[::1]:1\"]\n";
    for (text, anonymous) in [
        (local.to_owned(), Some(true)),
        (open.to_owned(), None),
        (format!("{open}[auth]\nanonymous = true\n"), Some(true)),
        (format!("{open}[auth]\nanonymous = false\n"), None),
        (format!("{open}{users}"), Some(false)),
        (format!("{local}{users}"), Some(false)),
        (format!("{open}{users}anonymous = true\n"), Some(true)),
        (
            "[[listener]]\naddress = \"0.0.0.0:1\"\nanonymous = true\n".to_owned(),
            Some(true),
        ),
        (
            format!("[[listener]]\naddress = \"0.0.0.0:1\"\nanonymous = true\n{users}"),
            Some(true),
        ),
        (tls(""), None),
        (tls("client_ca = CA\nclient_auth = \"optional\"\n"), None),
        (tls("client_ca = CA\n"), Some(true)),
        (
            tls("client_ca = CA\nname_from = \"cn\"\n[auth]\nanonymous = false\n"),
            Some(false),
        ),
    ] {
        let file = File::new(&text);
        match (config::load(&file.sources()), anonymous) {
            (Ok(loaded), Some(anonymous)) => {
                let config = loaded.config;
                assert_eq!(
                    config.anonymous_allowed(&config.listeners[0]),
                    anonymous,
                    "{text}"
                );
            }
            (Err(problems), None) => assert!(
                problems.to_string().contains("DUN-0105"),
                "{text}{problems}"
            ),
            (result, _) => panic!("{text}{:?}", result.map(|loaded| loaded.config)),
        }
    }
}

#[test]
fn tls_keys_must_fit_together() {
    let header = "[[listener]]\naddress = \"127.0.0.1:1\"\n";
    for (text, words) in [
        ("type = \"tls\"\n", "has no certificate: add tls = {"),
        (
            "type = \"tls\"\ntls = { key = \"k\" }\n",
            "tls has no certificate",
        ),
        (
            "type = \"tcp\"\ntls = { certificate = \"c\", key = \"k\" }\n",
            "which has no TLS",
        ),
        ("path = \"/mqtt\"\n", "which has no path"),
        (
            "type = \"wss\"\ntls = { certificate = \"c\", key = \"k\", client_auth = \"required\" }\n",
            "add client_ca",
        ),
        (
            "type = \"tls\"\ntls = { certificate = \"c\", key = \"k\", name_from = \"cn\" }\n",
            "name_from needs certificates",
        ),
        (
            "type = \"tls\"\ntls = { certificate = \"c\", key = \"k\", tenant_from = \"ou\" }\n",
            "tenant_from needs certificates",
        ),
        ("tls = 5\n", "must be a table"),
    ] {
        let found = File::new(&format!("{header}{text}")).problems();
        assert!(found.contains(words), "{text}{found}");
    }
}

#[test]
fn what_provisioning_needs_is_said_with_everything_else_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        format!("{:?}", file.to_str().unwrap())
    };
    let pair = rcgen::KeyPair::generate().unwrap();
    let good = put("line.pub", &pair.public_key_pem());
    let old = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
    let (empty, old) = (put("empty", "no PEM"), put("old.key", old));
    for (text, words) in [
        (
            format!("keys = [{good}]\n"),
            "add listen = \"127.0.0.1:9444\", or mqtt = true",
        ),
        ("mqtt = true\n".to_owned(), "nobody can ask: add keys"),
        (
            format!("listen = \"127.0.0.1:0\"\nkeys = [{good}]\nmqtt_client_ca = \"ca.pem\"\n"),
            "add mqtt = true, or remove it",
        ),
        (
            format!(
                "mqtt = true\nkeys = [{good}]\n[provisioning.tls]\ncertificate = \"c\"\nkey = \"k\"\n"
            ),
            "provisioning.tls is that of provisioning.listen, which is not there",
        ),
        (
            "mqtt = true\nmqtt_client_ca = \"ca.pem\"\n".to_owned(),
            "no listener that takes bootstrap credentials asks for certificates",
        ),
        (
            format!("mqtt = true\nkeys = [{good}]\n[auth]\nmethods = [\"users\"]\nusers = \"u\"\n"),
            "no listener asks for bootstrap credentials",
        ),
        (
            format!("mqtt = true\nkeys = [{good}, \"gone.pub\"]\n"),
            "cannot read gone.pub",
        ),
        (
            format!("mqtt = true\nkeys = [{empty}]\n"),
            "empty holds no key",
        ),
        (
            format!("mqtt = true\nkeys = [{good}]\nca_certificate = {empty}\nca_key = {old}\n"),
            "must have the form PKCS#8: openssl pkcs8 -topk8",
        ),
        (
            format!("mqtt = true\nkeys = [{good}]\nca_certificate = {empty}\nca_key = {empty}\n"),
            "holds no private key that can sign",
        ),
        (
            format!("mqtt = true\nkeys = [{good}]\nmqtt_client_ca = {empty}\n"),
            "empty holds no authorities that can be used",
        ),
        (
            format!("mqtt = true\nkeys = [{good}]\nhook_url = \"ftp://x\"\n"),
            "provisioning.hook_url is ",
        ),
    ] {
        let found = File::new(&format!("[provisioning]\n{text}")).problems();
        assert!(found.contains(words), "{text}{found}");
    }
}

#[test]
fn lines_of_the_users_file_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(
        &users,
        "# people\nann:secret\nnobody\n\nbob:$7$0$AA==$AA==\n",
    )
    .unwrap();
    let found = File::new(&format!("[auth]\nusers = {users:?}\n")).problems();
    for (line, words) in [
        (2, "not hashed"),
        (3, "there is no colon"),
        (5, "the number of iterations"),
    ] {
        let place = format!("DUN-0302 {}:{line}:1: ", users.display());
        assert!(
            found
                .lines()
                .any(|text| text.starts_with(&place) && text.contains(words)),
            "{found}"
        );
    }
    let found = File::new("[auth]\nusers = \"absent.txt\"\n").problems();
    assert!(
        found.contains("make it with `broker passwd absent.txt NAME`"),
        "{found}"
    );
}

#[test]
fn a_users_file_open_to_all_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "").unwrap();
    let text = format!("[auth]\ndefault = \"allow\"\nusers = {users:?}\n");
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load(&text).warnings[0].to_string().contains("DUN-0304"));
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(load(&text).warnings, []);
}

#[test]
fn methods_without_rules_deny_everything_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "").unwrap();
    let loaded = |more: &str| load(&format!("[auth]\nusers = {users:?}\n{more}"));
    let unsaid = loaded("");
    assert!(unsaid.rules.deny_all());
    let warnings: Vec<_> = unsaid.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.iter().any(|warning| warning.contains("DUN-0307")),
        "{warnings:?}"
    );
    for said in [
        "default = \"deny\"",
        "default = \"allow\"",
        "[[auth.rules]]\neffect = \"allow\"\ntopics = [\"a\"]",
    ] {
        let warnings: Vec<_> = loaded(said)
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            !warnings.iter().any(|warning| warning.contains("DUN-0307")),
            "{said}: {warnings:?}"
        );
    }
}

#[test]
fn a_variable_with_single_underscores_is_a_warning() {
    let sources = Sources {
        environment: environment(&[
            ("DUNLIN_LIMITS_MAX_INFLIGHT", "3"),
            ("DUNLIN_SERVICE_HOST", "10.0.0.1"),
        ]),
        ..Sources::default()
    };
    let loaded = config::load(&sources).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "DUN-0108 environment variable DUNLIN_LIMITS_MAX_INFLIGHT: has no effect: did you mean \
          DUNLIN__LIMITS__MAX_INFLIGHT (two underscores between the parts)?"
        ]
    );
}

#[test]
fn what_is_printed_is_the_same_configuration() {
    let text = "workers = 3\ndrain_timeout_ms = 7\n[limits]\nmax_session_expiry = 4294967295\nqueue_full = \"drop-oldest\"\n\
                [store]\ndurability = \"interval\"\ninterval_ms = 50\n[ops]\nenabled = false\n\
                [[listener]]\nname = \"w\"\ntype = \"ws\"\naddress = \"127.0.0.1:8083\"\npath = \"/x\"\n\
                [[auth.rules]]\neffect = \"deny\"\ntopics = [\"a\", \"b\"]\nexact = true\n";
    let first = load(text);
    assert_eq!(first.config.drain.timeout, Duration::from_millis(7));
    let printed = toml::to_string(&first.effective).unwrap();
    let second = load(&printed);
    assert_eq!(first.config, second.config);
    assert_eq!(printed, toml::to_string(&second.effective).unwrap());
}

#[test]
fn the_example_file_is_the_defaults_and_has_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let example = root.join("dunlin.example.toml");
    let text = std::fs::read_to_string(&example).unwrap();
    let loaded = config::load(&Sources {
        file: Some(example),
        ..Sources::default()
    })
    .unwrap();
    let defaults = config::load(&Sources::default()).unwrap();
    assert_eq!(loaded.effective, defaults.effective);
    for key in keys().keys() {
        let last = key.rsplit('.').next().unwrap();
        let named = text.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{last} = "))
        });
        assert!(named, "{key} is missing in dunlin.example.toml");
    }
}

#[test]
fn every_key_is_documented_with_its_default() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let documented: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.split(" | ");
            let key = cells.next()?.strip_prefix("| `")?.strip_suffix('`')?;
            Some((key, cells.next()?))
        })
        .filter(|(key, _)| !key.starts_with('-'))
        .collect();
    let keys = keys();
    for (key, default) in &keys {
        let written = documented.get(key.as_str());
        let written =
            written.unwrap_or_else(|| panic!("{key} is missing in docs/configuration.md"));
        if let Some(default) = default {
            assert_eq!(
                *written,
                format!("`{default}`"),
                "the default of {key} in docs/configuration.md"
            );
        }
    }
    for key in documented.keys() {
        assert!(
            keys.contains_key(*key),
            "{key} in docs/configuration.md does not exist"
        );
    }
}

/// Every key, with its default where that is one value.
fn keys() -> BTreeMap<String, Option<String>> {
    let defaults = config::load(&Sources::default()).unwrap().effective;
    let mut keys = BTreeMap::new();
    for (key, value) in &defaults {
        match value {
            toml::Value::Table(table) => {
                for (inner, value) in table {
                    keys.insert(format!("{key}.{inner}"), Some(value.to_string()));
                }
            }
            value => {
                keys.insert(key.clone(), Some(value.to_string()));
            }
        }
    }
    // A cluster's keys mean something only with a Redis.
    let cluster = Sources {
        flags: vec![Override {
            flag: "--redis".to_owned(),
            key: "redis.url".to_owned(),
            value: OverrideValue::Text("redis://localhost".to_owned()),
        }],
        ..Sources::default()
    };
    let cluster = config::load(&cluster).unwrap().effective;
    for (inner, value) in cluster["redis"].as_table().unwrap() {
        keys.insert(format!("redis.{inner}"), Some(value.to_string()));
    }
    // Methods of authentication have keys once they are asked.
    let asked = |key: &str, value: &str| Override {
        flag: format!("--set {key}"),
        key: key.to_owned(),
        value: OverrideValue::Text(value.to_owned()),
    };
    let methods = Sources {
        flags: vec![
            asked("auth.jwt.jwks_url", "http://localhost/keys"),
            asked("auth.http.url", "http://localhost/auth"),
        ],
        ..Sources::default()
    };
    let methods = config::load(&methods).unwrap().effective;
    for method in ["jwt", "http"] {
        for (inner, value) in methods["auth"][method].as_table().unwrap() {
            let default = (!inner.ends_with("url")).then(|| value.to_string());
            keys.insert(format!("auth.{method}.{inner}"), default);
        }
    }
    // The default is the machine's number of cores.
    keys.insert("workers".to_owned(), None);
    // Beside the defaults there are the keys that have none, or depend on others.
    for key in [
        "drain_server_reference",
        "store.interval_ms",
        "provisioning.listen",
        "provisioning.keys",
        "provisioning.plain",
        "provisioning.audience",
        "provisioning.listed_only",
        "provisioning.ca_certificate",
        "provisioning.ca_key",
        "provisioning.validity_days",
        "provisioning.hook_url",
        "provisioning.hook_ca_file",
        "provisioning.hook_timeout_ms",
        "provisioning.per_minute",
        "provisioning.tls.certificate",
        "provisioning.tls.key",
        "provisioning.tls.client_ca",
        "provisioning.tls.client_auth",
        "provisioning.tls.crl",
        "provisioning.mqtt",
        "provisioning.mqtt_client_ca",
        "provisioning.mqtt_lifetime_ms",
        "admin.listen",
        "admin.tokens_file",
        "admin.plain",
        "admin.tls.certificate",
        "admin.tls.key",
        "admin.tls.client_ca",
        "admin.tls.client_auth",
        "trace.endpoint",
        "redis.url",
        "redis.password_file",
        "redis.ca_file",
        "redis.server_name",
        "redis.cert_file",
        "redis.key_file",
        "auth.methods",
        "auth.users",
        "auth.user.name",
        "auth.user.tenant",
        "auth.user.roles",
        "auth.jwt.keys",
        "auth.jwt.secret_file",
        "auth.jwt.jwks_url",
        "auth.jwt.jwks_ca",
        "auth.jwt.issuers",
        "auth.jwt.audiences",
        "auth.jwt.client_id_claim",
        "auth.jwt.tenant_claim",
        "auth.jwt.roles_claim",
        "auth.jwt.attribute_claims",
        "auth.http.url",
        "auth.http.ca",
        "auth.http.token_file",
        "auth.anonymous",
        "auth.default",
        "auth.rules.effect",
        "auth.rules.topics",
        "auth.rules.action",
        "auth.rules.users",
        "auth.rules.clients",
        "auth.rules.exact",
        "auth.rules.tenants",
        "auth.rules.roles",
        "auth.rules.retain",
        "auth.rules.max_qos",
        "auth.acl_file",
        "tenant.name",
        "tenant.max_connections",
        "tenant.messages_per_second",
        "tenant.bytes_per_second",
        "tenant.max_sessions",
        "tenant.max_retained",
        "tenant.max_retained_bytes",
        "tenant.max_queued_bytes",
        "listener.tenant",
        "listener.address",
        "listener.type",
        "listener.name",
        "listener.path",
        "listener.proxy_protocol",
        "listener.max_connections",
        "listener.anonymous",
        "listener.auth",
        "listener.tls.certificate",
        "listener.tls.key",
        "listener.tls.client_ca",
        "listener.tls.client_auth",
        "listener.tls.crl",
        "listener.tls.min_version",
        "listener.tls.name_from",
        "listener.tls.tenant_from",
        "listener.tls.sni.certificate",
        "listener.tls.sni.key",
        "listener.tls.sni.names",
    ] {
        keys.insert(key.to_owned(), None);
    }
    keys
}
