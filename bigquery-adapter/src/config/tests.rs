//! Layers, problems, and the effective configuration.

use super::*;

fn layers(
    file: Option<&str>,
    environment: &[(&str, &str)],
    flags: &[(&str, &str, &[&str])],
) -> (tempfile::TempDir, Layers) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    let owned = |text: &&str| (*text).to_owned();
    let layers = Layers {
        file: file.map(|_| path),
        environment: environment
            .iter()
            .map(|(name, value)| (owned(name), owned(value)))
            .collect(),
        flags: flags
            .iter()
            .map(|(flag, key, values)| {
                (owned(flag), owned(key), values.iter().map(owned).collect())
            })
            .collect(),
    };
    (dir, layers)
}

fn problems(layers: &(tempfile::TempDir, Layers)) -> Vec<String> {
    let dir = layers.0.path().display().to_string() + "/";
    let problems = Config::load(&layers.1).expect_err("the configuration was taken");
    problems
        .iter()
        .map(|problem| problem.to_string().replace(&dir, ""))
        .collect()
}

#[test]
fn without_anything_the_defaults_hold() {
    let config = Config::load(&Layers::default()).unwrap();
    assert_eq!(config.mqtt.address.to_string(), "mqtt://127.0.0.1:1883");
    assert_eq!(config.mqtt.filters, ["#"]);
    assert_eq!(config.mqtt.session_expiry, 604_800);
    assert_eq!(config.parquet.roll_after, Duration::from_secs(5));
    assert_eq!(config.parquet.window, config.mqtt.receive_maximum);
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let file =
        "[mqtt]\nqos = 0\nclient_id = \"file\"\nfilters = [\"file/#\"]\nkeep_alive_seconds = 77\n";
    let environment = [
        ("DUNLIN_ADAPTER__MQTT__CLIENT_ID", "environment"),
        ("DUNLIN_ADAPTER__MQTT__QOS", "1"),
        ("DUNLIN_ADAPTER__PARQUET__COMPACT", "false"),
        ("UNRELATED", "x"),
    ];
    let flags = [
        ("--qos", "mqtt.qos", ["2"].as_slice()),
        ("--filter", "mqtt.filters", ["a/#", "b"].as_slice()),
    ];
    let (_dir, layers) = layers(Some(file), &environment, &flags);
    let config = Config::load(&layers).unwrap();
    assert_eq!(config.mqtt.client_id, "environment");
    assert_eq!(config.mqtt.qos, QoS::ExactlyOnce);
    assert_eq!(config.mqtt.filters, ["a/#", "b"]);
    assert_eq!(config.mqtt.keep_alive, 77);
    assert!(!config.parquet.compact);
}

#[test]
fn all_problems_are_told_at_once_with_their_place() {
    let file = "[mqtt]\nurl = \"localhost\"\nqos = 3\nfliters = [\"a\"]\nfilters = [\"a/#/b\"]\n\n[parquet]\nroll_ms = \"5s\"\ncompression = \"zstd\"\n";
    let environment = [("DUNLIN_ADAPTER__BATCH__ROWS", "many")];
    let flags = [("--set", "ops.lisen", ["off"].as_slice())];
    let found = problems(&layers(Some(file), &environment, &flags));
    assert_eq!(
        found,
        [
            "DUN-2000 adapter.toml:2: mqtt.url \"localhost\" cannot be used: it must begin with mqtt:// or mqtts://",
            "DUN-2000 adapter.toml:5: mqtt.filters: \"a/#/b\" is not a topic filter: \"#\" must be the last level and stand alone in it",
            "DUN-2000 adapter.toml:3: mqtt.qos must be an integer from 0 to 2, not 3",
            "DUN-2000 DUNLIN_ADAPTER__BATCH__ROWS: batch.rows must be an integer from 1 to 1000000, not \"many\"",
            "DUN-2000 adapter.toml:8: parquet.roll_ms must be an integer from 50 to 86400000, not \"5s\"",
            "DUN-2000 adapter.toml:9: parquet.compression must be one of \"snappy\", \"lz4\", \"none\", not \"zstd\"",
            "DUN-2000 adapter.toml:4: mqtt.fliters is not a setting; did you mean mqtt.filters?",
            "DUN-2000 flag --set: ops.lisen is not a setting; did you mean ops.listen?",
        ]
    );
}

#[test]
fn a_file_that_is_not_toml_is_a_problem_with_a_line() {
    let found = problems(&layers(Some("[mqtt]\nqos = \n"), &[], &[]));
    assert!(
        found[0].starts_with("DUN-2000 adapter.toml:2: "),
        "{found:?}"
    );
    let missing = Layers {
        file: Some("/nowhere/adapter.toml".into()),
        ..Layers::default()
    };
    let found = Config::load(&missing).unwrap_err();
    assert_eq!(found[0].code, Code::CONFIGURATION_FILE);
}

#[test]
fn settings_for_tls_need_an_address_with_tls_and_files_that_can_be_read() {
    let found = problems(&layers(Some("[mqtt]\nca_file = \"ca.pem\"\n"), &[], &[]));
    assert!(found[0].contains("mqtts://"), "{found:?}");
    let found = problems(&layers(
        Some("[mqtt]\nurl = \"mqtts://a\"\nca_file = \"/nowhere/ca.pem\"\n"),
        &[],
        &[],
    ));
    assert!(
        found[0].contains("/nowhere/ca.pem cannot be read as certificates"),
        "{found:?}"
    );
}

#[test]
fn passwords_are_read_from_a_file_and_never_shown() {
    let (dir, mut layers) = layers(None, &[], &[]);
    let path = dir.path().join("password");
    std::fs::write(&path, "secret\n").unwrap();
    layers.flags.push((
        "--set".to_owned(),
        "mqtt.password_file".to_owned(),
        vec![path.display().to_string()],
    ));
    let config = Config::load(&layers).unwrap();
    assert_eq!(config.mqtt.password.as_deref(), Some(b"secret".as_slice()));
    layers.flags.clear();
    layers.flags.push((
        "--set".to_owned(),
        "mqtt.password".to_owned(),
        vec!["hidden".to_owned()],
    ));
    let config = Config::load(&layers).unwrap();
    assert!(!config.to_toml().contains("hidden") && !format!("{config:?}").contains("hidden"));
    assert!(config.to_toml().contains("password = \"********\""));
}

#[test]
fn the_effective_configuration_can_be_read_again_and_means_the_same() {
    let first = Config::load(&Layers::default()).unwrap().to_toml();
    let (_dir, layers) = layers(Some(&first), &[], &[]);
    assert_eq!(Config::load(&layers).unwrap().to_toml(), first);
}

#[test]
fn the_readme_documents_every_setting_with_its_default() {
    let readme = include_str!("../../README.md");
    let config = Config::load(&Layers::default()).unwrap();
    for (key, value) in &config.effective {
        assert!(
            readme.contains(&format!("| `{key}` | `{value}` |")),
            "| `{key}` | `{value}` | is missing in README.md"
        );
    }
}
