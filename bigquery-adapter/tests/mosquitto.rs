//! The adapter against a real mosquitto: what arrives, what is stored, what happens when things go away.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::process::Command;

use support::{Mosquitto, Setup, wait_for};

/// Waits until this many rows are durable in this run, and ends the adapter in order.
fn finish(setup: &Setup, adapter: support::Process, rows: u64) {
    wait_for("the rows", || {
        (setup.metric("dunlin_adapter_committed_rows_total")? >= rows).then_some(())
    });
    assert!(adapter.terminate().success());
}

#[test]
fn every_field_of_a_message_can_be_read_by_duckdb_and_pandas() {
    let broker = Mosquitto::start();
    let setup =
        Setup::new(&broker.url()).and(&["--filter", "t/#", "--set", "mqtt.client_id_property=id"]);
    let adapter = setup.start_ready();
    broker.publish(&[
        "-t",
        "t/json",
        "-q",
        "1",
        "-m",
        r#"{"temperature": 21.50, "unit": "C"}"#,
    ]);
    let properties = "-q 2 -r -t t/all -m text -D PUBLISH content-type text/plain -D PUBLISH response-topic re/ply \
                      -D PUBLISH correlation-data c0 -D PUBLISH user-property id device-7 -D PUBLISH user-property k v1 \
                      -D PUBLISH user-property k v2";
    broker.publish(&properties.split_whitespace().collect::<Vec<_>>());
    broker.publish(&["-t", "t/empty", "-q", "0", "-n"]);
    finish(&setup, adapter, 3);
    let columns = "topic, payload, payload_json, qos, retain, client_id, content_type, response_topic, correlation_data";
    assert_eq!(
        setup.sql(&format!("select {columns} from messages order by topic")),
        "('t/all', b'text', None, 1, True, 'device-7', 'text/plain', 're/ply', b'c0')\n\
         ('t/empty', b'', None, 0, False, None, None, None, None)\n\
         ('t/json', b'{\"temperature\": 21.50, \"unit\": \"C\"}', '{\"temperature\": 21.50, \"unit\": \"C\"}', 1, False, None, None, None, None)"
    );
    assert_eq!(
        setup.sql("select user_properties from messages where topic = 't/all'"),
        "([{'key': 'id', 'value': 'device-7'}, {'key': 'k', 'value': 'v1'}, {'key': 'k', 'value': 'v2'}],)"
    );
    assert_eq!(setup.sql("select (payload_json->>'temperature')::decimal(4,2) from messages where topic = 't/json'"), "(Decimal('21.50'),)");
    assert_eq!(
        setup.sql("select count(*), count(distinct message_id), bool_and(now() - received_at between interval '0 s' and interval '1 hour'), \
                   bool_and(day = received_at::date) from messages"),
        "(3, 3, True, True)"
    );
    let pandas = "frame = pandas.read_parquet(warehouse + '/messages').sort_values('topic').reset_index(drop=True)\n\
                  print(list(frame['topic']), str(frame['received_at'].dtype), frame['user_properties'][0][2]['value'], \
                  bytes(frame['payload'][2])[:2], list(frame['qos']))";
    assert_eq!(
        setup.python(pandas),
        "['t/all', 't/empty', 't/json'] datetime64[us, UTC] v2 b'{\"' [1, 0, 1]"
    );
    setup.assert_log_has_only(&[]);
}

#[test]
fn what_counts_as_json_never_fails_a_query() {
    let broker = Mosquitto::start();
    let setup = Setup::new(&broker.url()).and(&["--filter", "j/#"]);
    let adapter = setup.start_ready();
    let texts = [
        "1",
        "-0.0",
        "1e308",
        "\"\\ud83d\\ude00\"",
        "[[[[1]]]]",
        "{\"a\":{\"b\":null}}",
        "123456789012345678901234567890",
        "{\"a\":1,\"a\":2}",
        "\"\\ud800\"",
        "1e999",
        "NaN",
        "{a:1}",
        "\"\\u0000\"",
        "",
        " 7 ",
    ];
    for (at, text) in texts.iter().enumerate() {
        broker.publish(
            &[
                "-t",
                &format!("j/{at:02}"),
                "-q",
                "1",
                if text.is_empty() { "-n" } else { "-m" },
                text,
            ][..if text.is_empty() { 5 } else { 6 }],
        );
    }
    finish(&setup, adapter, texts.len() as u64);
    // Each of these parses every text, and one that DuckDB refused would fail them.
    let kinds = setup.sql("select topic, json_type(payload_json), json_valid(payload_json) from messages where payload_json is not null order by topic");
    assert_eq!(kinds.lines().count(), 10, "{kinds}");
    assert!(!kinds.contains("False"), "{kinds}");
    assert_eq!(
        setup
            .sql("select payload_json->>'$.a' from messages where topic = 'j/07'")
            .lines()
            .count(),
        1
    );
    setup.sql("select payload_json::json, payload_json->'$.x' from messages");
}

#[test]
fn a_broker_that_restarts_loses_nothing() {
    let mut broker = Mosquitto::start();
    let setup =
        Setup::new(&broker.url()).and(&["--filter", "t", "--set", "mqtt.reconnect_max_ms=300"]);
    let adapter = setup.start_ready();
    for round in 0..3 {
        broker.publish(&["-t", "t", "-q", "1", "-m", &format!("before {round}")]);
        broker.stop();
        wait_for("the adapter to notice", || {
            (setup.get("/health/ready")?.0 == 503).then_some(())
        });
        broker.run();
        broker.publish(&["-t", "t", "-q", "1", "-m", &format!("after {round}")]);
        setup.wait_ready();
    }
    finish(&setup, adapter, 6);
    // The broker may end before it has read an acknowledgement; then it sends again, and the message keeps its id.
    assert_eq!(
        setup.sql("select count(distinct payload), count(distinct message_id) from messages"),
        "(6, 6)"
    );
    setup.assert_log_has_only(&["DUN-2030", "DUN-2040"]);
}

#[test]
fn what_is_published_while_the_adapter_is_away_is_stored_when_it_is_back() {
    let broker = Mosquitto::start();
    for qos in ["1", "2"] {
        let setup = Setup::new(&broker.url()).and(&[
            "--filter",
            "away/#",
            "--qos",
            qos,
            "--client-id",
            &format!("a{qos}"),
        ]);
        assert!(setup.start_ready().terminate().success());
        let mut publisher = broker.publisher(&["-t", &format!("away/{qos}"), "-q", qos, "-l"]);
        for n in 0..500 {
            publisher.line(&n.to_string());
        }
        publisher.finish();
        let adapter = setup.start_ready();
        finish(&setup, adapter, 500);
        assert_eq!(setup.sql(&format!("select count(*), count(distinct payload), max(qos) from messages where topic = 'away/{qos}'")), format!("(500, 500, {qos})"));
        setup.assert_log_has_only(&[]);
    }
}

#[test]
fn it_speaks_mqtt_3_1_1_too() {
    let broker = Mosquitto::start();
    let setup = Setup::new(&broker.url()).and(&[
        "--filter",
        "t/#",
        "--qos",
        "2",
        "--set",
        "mqtt.version=3.1.1",
    ]);
    let adapter = setup.start_ready();
    for qos in ["0", "1", "2"] {
        broker.publish(&["-t", &format!("t/{qos}"), "-q", qos, "-m", "x"]);
    }
    finish(&setup, adapter, 3);
    broker.publish(&["-t", "t/later", "-q", "2", "-m", "x"]);
    let adapter = setup.start_ready();
    finish(&setup, adapter, 1);
    assert_eq!(
        setup.sql("select topic, qos from messages order by topic"),
        "('t/0', 0)\n('t/1', 1)\n('t/2', 2)\n('t/later', 2)"
    );
    setup.assert_log_has_only(&[]);
}

#[test]
fn a_filter_that_is_no_longer_configured_is_unsubscribed() {
    let broker = Mosquitto::start();
    let mut setup = Setup::new(&broker.url()).and(&["--filter", "old/#", "--filter", "both"]);
    assert!(setup.start_ready().terminate().success());
    let first = setup
        .arguments
        .iter()
        .position(|argument| argument == "old/#")
        .unwrap();
    "new/#".clone_into(&mut setup.arguments[first]);
    let adapter = setup.start_ready();
    for topic in ["old/x", "new/x", "both"] {
        broker.publish(&["-t", topic, "-q", "1", "-m", "x"]);
    }
    finish(&setup, adapter, 2);
    assert_eq!(
        setup.sql("select topic from messages order by topic"),
        "('both',)\n('new/x',)"
    );
}

#[test]
fn a_shared_subscription_is_shared() {
    let broker = Mosquitto::start();
    let setups = ["one", "two"]
        .map(|id| Setup::new(&broker.url()).and(&["--filter", "$share/g/s/#", "--client-id", id]));
    let adapters = [setups[0].start_ready(), setups[1].start_ready()];
    let mut publisher = broker.publisher(&["-t", "s/x", "-q", "1", "-l"]);
    for n in 0..200 {
        publisher.line(&n.to_string());
    }
    publisher.finish();
    let rows = |setup: &Setup| setup.metric("dunlin_adapter_committed_rows_total");
    wait_for("all rows", || {
        (rows(&setups[0])? + rows(&setups[1])? == 200).then_some(())
    });
    assert!(setups.iter().all(|setup| rows(setup).unwrap() > 0));
    for adapter in adapters {
        assert!(adapter.terminate().success());
    }
}

#[test]
fn it_connects_with_tls_a_client_certificate_and_a_password() {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    // The authority's name must not be that of the certificates under it.
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "authority of a test");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (server, server_key) = issue("broker.test");
    let (client, client_key) = issue("adapter.test");
    let listener = "cafile {dir}/ca.pem\ncertfile {dir}/server.pem\nkeyfile {dir}/server.key\nrequire_certificate true\n\
                    allow_anonymous false\npassword_file {dir}/passwords\n";
    let hashed = tempfile::tempdir().unwrap();
    let passwords = hashed.path().join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["adapter", "s3cret"])
        .status()
        .unwrap();
    assert!(made.success());
    let passwords = fs::read_to_string(passwords).unwrap();
    let broker = Mosquitto::with(
        listener,
        &[
            ("ca.pem", &authority.pem()),
            ("server.pem", &server),
            ("server.key", &server_key),
            ("passwords", &passwords),
        ],
    );
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(files.path().join(name), text).unwrap();
        files.path().join(name).display().to_string()
    };
    let url = broker.url().replace("mqtt://", "mqtts://");
    let ca_file = format!("mqtt.ca_file={}", file("ca.pem", &authority.pem()));
    let certificate = format!("mqtt.certificate_file={}", file("client.pem", &client));
    let key = format!("mqtt.key_file={}", file("client.key", &client_key));
    let (good, bad) = (file("good", "s3cret\n"), file("bad", "guess"));
    let common = [
        "--username",
        "adapter",
        "--set",
        &ca_file,
        "--set",
        "mqtt.server_name=broker.test",
        "--set",
        "mqtt.reconnect_max_ms=200",
    ];
    let both = ["--set", &certificate, "--set", &key];

    let setup = Setup::new(&url)
        .and(&common)
        .and(&both)
        .and(&["--password-file", &good]);
    assert!(setup.start_ready().terminate().success());
    setup.assert_log_has_only(&[]);

    for (arguments, code, words) in [
        (
            vec!["--password-file", &bad, both[0], both[1], both[2], both[3]],
            "DUN-2031",
            "Not authorized",
        ),
        (vec!["--password-file", &good], "DUN-2036", "alert"),
        (
            vec![
                "--password-file",
                &good,
                both[0],
                both[1],
                both[2],
                both[3],
                "--set",
                "mqtt.server_name=other.test",
            ],
            "DUN-2036",
            "other.test",
        ),
    ] {
        let setup = Setup::new(&url).and(&common).and(&arguments);
        let adapter = setup.start();
        wait_for("the reason in the log", || {
            (setup.log().contains(code) && setup.log().contains(words)).then_some(())
        });
        assert_eq!(setup.get("/health/ready").unwrap().0, 503);
        assert!(adapter.terminate().success());
    }
}

#[test]
fn two_adapters_with_one_client_id_get_a_hint() {
    let broker = Mosquitto::start();
    let setups = [Setup::new(&broker.url()), Setup::new(&broker.url())];
    let first = setups[0].start_ready();
    let second = setups[1].start();
    // This broker does not say why it closes the older connection.
    let hint = "look for another client with the client id";
    wait_for("the hint", || setups[0].log().contains(hint).then_some(()));
    assert!(second.terminate().success());
    assert!(first.terminate().success());
}

#[test]
fn rows_can_be_queried_while_the_adapter_runs() {
    let broker = Mosquitto::start();
    let setup =
        Setup::new(&broker.url()).and(&["--filter", "live", "--set", "parquet.roll_ms=100"]);
    let adapter = setup.start_ready();
    for round in 1..=5 {
        broker.publish(&["-t", "live", "-q", "1", "-m", &round.to_string()]);
        wait_for("the row", || {
            (setup.has_rows()
                && setup.sql("select count(*) from messages") == format!("({round},)"))
            .then_some(())
        });
    }
    assert!(adapter.terminate().success());
}
