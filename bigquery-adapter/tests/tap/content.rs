//! What is in the messages: a poisoned one among ten thousand, columns that change while messages flow.

use std::collections::BTreeSet;

use prost::Message as _;
use serde_json::Value;

use crate::support::wait_for;
use crate::world::{Stored, World};

#[test]
fn one_poisoned_row_among_ten_thousand_is_the_only_dead_letter() {
    let world = World::start();
    world.fake.state().poison = Some(b"poison".to_vec());
    let setup = world.adapter().and(&["--set", "bigquery.rows=500"]);
    let adapter = setup.start_ready();
    let mut publisher = world.publisher("p", "a/b", "1");
    for number in 0..10_000 {
        let text = if number == 5_432 {
            "poison".to_owned()
        } else {
            number.to_string()
        };
        publisher.line(&text);
    }
    publisher.finish();
    wait_for("all rows", || {
        (world.count("messages") >= 9_999).then_some(())
    });
    wait_for("everything to be acknowledged", || {
        (world.messages_left() == 0).then_some(())
    });
    let numbers = world.by_client().remove("p").unwrap();
    let expected: Vec<u64> = (0..10_000).filter(|number| *number != 5_432).collect();
    assert_eq!(numbers, expected, "{} rows", numbers.len());
    #[derive(Clone, PartialEq, prost::Message)]
    struct Dead {
        #[prost(string, optional, tag = "4")]
        table: Option<String>,
        #[prost(string, optional, tag = "5")]
        reason: Option<String>,
        #[prost(bytes = "vec", optional, tag = "7")]
        payload: Option<Vec<u8>>,
    }
    let dead: Vec<Dead> = world
        .rows("dead_letters")
        .iter()
        .map(|row| Dead::decode(row.as_slice()).unwrap())
        .collect();
    let [letter] = dead.as_slice() else {
        panic!("one letter, not {dead:?}")
    };
    assert_eq!(letter.table.as_deref(), Some("messages"));
    assert_eq!(
        letter.reason.as_deref(),
        Some("BigQuery refuses the row: poisoned")
    );
    assert_eq!(letter.payload.as_deref(), Some(&b"poison"[..]));
    wait_for("the lag to be told", || {
        (setup.metric("dunlin_adapter_tap_lag_messages") == Some(0)).then_some(())
    });
    let metrics = setup.get("/metrics").unwrap().1;
    for line in [
        "dunlin_adapter_bigquery_rows_total{table=\"messages\"} 9999",
        "dunlin_adapter_dead_letters_total{place=\"table\"} 1",
        "dunlin_adapter_tap_lag_messages 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in: {metrics}");
    }
    assert!(adapter.terminate().success());
}

/// Of the table `t`: received_at, message_id, n, and later x.
#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(string, optional, tag = "2")]
    message_id: Option<String>,
    #[prost(int64, optional, tag = "3")]
    n: Option<i64>,
    #[prost(string, optional, tag = "4")]
    x: Option<String>,
}

#[test]
fn rules_and_columns_change_under_load_and_no_row_is_lost_or_repeated() {
    let world = World::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.toml");
    let rules = |more: &str| {
        let text = format!(
            "[[rule]]\ntopic = \"data/#\"\ntable = \"t\"\n[rule.columns]\nn = {{ from = \"$.n\", type = \"INT64\" }}\n{more}"
        );
        std::fs::write(&path, text).unwrap();
    };
    rules("");
    let setup = world
        .adapter()
        .and(&["--rules", &path.display().to_string()]);
    let adapter = setup.start_ready();
    let mut publisher = world.publisher("p", "data/p", "1");
    let mut sent = 0;
    let mut some = |count: u64| {
        for _ in 0..count {
            // One in a hundred is of another type.
            if sent % 100 == 99 {
                publisher.line(&format!("{{\"n\": \"no number {sent}\", \"x\": \"y\"}}"));
            } else {
                publisher.line(&format!("{{\"n\": {sent}, \"x\": \"y{sent}\"}}"));
            }
            sent += 1;
        }
    };
    some(1_000);
    wait_for("rows", || (world.count("t") > 500).then_some(()));
    some(500);
    rules("x = { from = \"$.x\", type = \"STRING\" }\n");
    adapter.signal("-HUP");
    some(500);
    wait_for("the column", || {
        let state = world.rest.state();
        let fields = state.tables.get("t")?["schema"]["fields"]
            .as_array()?
            .clone();
        let has = |field: &Value| field["name"] == "x";
        fields.iter().any(has).then_some(())
    });
    some(500);
    // A mistake changes nothing.
    rules("x = { from = \"nowhere\" }\n");
    adapter.signal("-HUP");
    wait_for("the mistake to be told", || {
        setup.log().contains("DUN-2052").then_some(())
    });
    some(500);
    publisher.finish();
    wait_for("all rows", || (world.count("t") >= 2_970).then_some(()));
    wait_for("everything to be acknowledged", || {
        (world.messages_left() == 0).then_some(())
    });
    let rows: Vec<Row> = world
        .rows("t")
        .iter()
        .map(|row| Row::decode(row.as_slice()).unwrap())
        .collect();
    let numbers: Vec<i64> = rows.iter().map(|row| row.n.unwrap()).collect();
    let expected: Vec<i64> = (0..3_000).filter(|number| number % 100 != 99).collect();
    assert_eq!(numbers, expected, "{} rows", numbers.len());
    let changed = rows.iter().position(|row| row.x.is_some()).unwrap();
    assert!(changed >= 500 && rows[changed..].iter().all(|row| row.x.is_some()));
    let last = &rows[rows.len() - 300..];
    assert!(
        last.iter()
            .all(|row| row.x == Some(format!("y{}", row.n.unwrap())))
    );
    let ids: BTreeSet<_> = rows.iter().map(|row| row.message_id.clone()).collect();
    assert_eq!(ids.len(), rows.len());
    assert_eq!(world.count("dead_letters"), 30);
    // What no rule matches is in the default table.
    let probes = world.rows("messages");
    assert!(
        probes
            .iter()
            .all(|row| Stored::decode(row.as_slice()).unwrap().topic.as_deref() == Some("probe"))
    );
    assert!(adapter.terminate().success());
}

#[test]
fn bodies_that_are_no_text_and_the_longest_topics_are_rows() {
    let world = World::start();
    let setup = world.adapter();
    let adapter = setup.start_ready();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let binary = [0xff, 0x00, 0xfe, 0x80];
    let large: Vec<u8> = (0..256 * 1024).map(|n: u32| (n % 251) as u8).collect();
    let topic = "t/".to_owned() + &"x".repeat(65_533);
    world.publish(&[
        "-i",
        "c",
        "-q",
        "1",
        "-t",
        "binary",
        "-f",
        &file("binary", &binary),
    ]);
    world.publish(&[
        "-i",
        "c",
        "-q",
        "1",
        "-t",
        "large",
        "-f",
        &file("large", &large),
    ]);
    world.publish(&["-i", "c", "-q", "1", "-t", &topic, "-m", "far"]);
    world.publish(&["-i", "c", "-q", "1", "-t", "empty", "-n"]);
    wait_for("the rows", || (world.count("messages") >= 4).then_some(()));
    let rows: Vec<Stored> = world
        .rows("messages")
        .iter()
        .map(|row| Stored::decode(row.as_slice()).unwrap())
        .filter(|row| row.client_id.as_deref() == Some("c"))
        .collect();
    let found: Vec<(&str, &[u8])> = rows
        .iter()
        .map(|row| {
            (
                row.topic.as_deref().unwrap(),
                row.payload.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    let expected: Vec<(&str, &[u8])> = vec![
        ("binary", &binary),
        ("large", &large),
        (&topic, b"far"),
        ("empty", b""),
    ];
    assert!(
        found == expected,
        "{:?}",
        found
            .iter()
            .map(|(topic, body)| (topic.len(), body.len()))
            .collect::<Vec<_>>()
    );
    assert!(adapter.terminate().success());
    setup.assert_log_has_only(&[]);
}
