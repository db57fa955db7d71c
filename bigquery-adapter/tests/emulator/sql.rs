//! Each file in `sql/` is run, and its answer is the right one.

use std::path::PathBuf;

use dunlin_bigquery_adapter::rules::Rules;
use dunlin_bigquery_adapter::sinks::bigquery::dead;
use dunlin_bigquery_adapter::sinks::bigquery::tables::Catalog as _;

use crate::emulator::{DATASET, Emulator, PROJECT};

/// 2025-11-21 00:00:00 UTC.
const MIDNIGHT: u64 = 1_763_683_200;

fn of_dataset(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("sql")
        .join(name);
    let sql = std::fs::read_to_string(path).unwrap();
    sql.replace("DATASET", &format!("{PROJECT}.{DATASET}"))
}

fn lines(rows: Vec<Vec<Option<String>>>) -> Vec<String> {
    rows.into_iter()
        .map(|row| {
            let cells = row
                .into_iter()
                .map(|cell| cell.unwrap_or("NULL".to_owned()));
            cells.collect::<Vec<_>>().join(" ")
        })
        .collect()
}

async fn ask(emulator: &Emulator, sql: &str) -> Vec<String> {
    let sql = sql.replace("D.", &format!("{PROJECT}.{DATASET}."));
    lines(emulator.query(&sql).await)
}

async fn trace_ids_come_from_the_first_traceparent(emulator: &Emulator) {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (id, properties) in [
        (
            "t1",
            format!(
                "struct('a' as key, 'b' as value), struct('traceparent' as key, '00-{trace}-00f067aa0ba902b7-01' as value)"
            ),
        ),
        (
            "t2",
            format!(
                "struct('traceparent' as key, '00-{trace}-00f067aa0ba902b8-00' as value), struct('traceparent' as key, 'x' as value)"
            ),
        ),
        (
            "t3",
            "struct('traceparent' as key, 'nonsense' as value)".to_owned(),
        ),
    ] {
        let sql = format!(
            "insert into `D.messages` (received_at, topic, payload, qos, retain, client_id, message_id, user_properties) \
             values (timestamp_seconds({MIDNIGHT}), 'traced', b'', 1, false, 'd3', '{id}', [{properties}])"
        );
        ask(emulator, &sql).await;
    }
    let sql = "select message_id, trace_id, parent_span_id, sampled from `D.traces` order by 1";
    assert_eq!(
        ask(emulator, sql).await,
        [
            format!("t1 {trace} 00f067aa0ba902b7 true"),
            format!("t2 {trace} 00f067aa0ba902b8 false"),
        ]
    );
    ask(emulator, "delete from `D.messages` where topic = 'traced'").await;
}

#[tokio::test]
async fn every_view_and_query_for_analysts_gives_the_right_answer() {
    let emulator = Emulator::start();
    emulator.make_dataset().await;
    let tables = emulator.tables().await;
    tables
        .prepare(&Rules::parse("").unwrap().tables()[0])
        .await
        .unwrap();
    tables.prepare(&dead::table("dead_letters")).await.unwrap();
    // (Seconds after midnight, client, topic, body, message id); one is there twice.
    for (at, client, topic, body, id) in [
        (
            0,
            "d1",
            "plant/a/d1",
            r#"{"t": 21.5, "name": "x", "n": 3}"#,
            1,
        ),
        (30, "d1", "plant/a/d1", r#"{"t": 22.5}"#, 2),
        (30, "d1", "plant/a/d1", r#"{"t": 22.5}"#, 2),
        (1_000, "d1", "plant/a/d1", r#"{"t": 25}"#, 3),
        (40, "d2", "plant/a/d2", r#"{"t": -1}"#, 4),
        (86_400, "d2", "plant/b/d2", "garbage", 5),
    ] {
        let json = if body == "garbage" {
            "null".to_owned()
        } else {
            format!("parse_json('{body}')")
        };
        let sql = format!(
            "insert into `D.messages` (received_at, topic, payload, payload_json, qos, retain, client_id, message_id) \
             values (timestamp_seconds({}), '{topic}', b'{body}', {json}, 1, false, '{client}', 'm{id}')",
            MIDNIGHT + at
        );
        ask(&emulator, &sql).await;
    }
    for id in ["m8", "m9", "m9"] {
        let sql = format!(
            "insert into `D.dead_letters` (failed_at, received_at, message_id, table_name, reason, topic) \
             values (timestamp_seconds({MIDNIGHT}), timestamp_seconds({MIDNIGHT}), '{id}', 'telemetry', 'no number', 'a/b')"
        );
        ask(&emulator, &sql).await;
    }
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut views: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".sql") && name != "days.sql")
        .collect();
    // Those that stand on others come after them.
    views.sort_by_key(|name| (name == "per_minute.sql", name.clone()));
    assert_eq!(views.len(), 8);
    for view in &views {
        emulator.query(&of_dataset(view)).await;
    }
    for (sql, expected) in [
        ("select count(*) from `D.messages_once`", vec!["5"]),
        (
            "select topic, json_value(payload_json, '$.t') from `D.latest` order by topic",
            vec!["plant/a/d1 25", "plant/a/d2 -1", "plant/b/d2 NULL"],
        ),
        (
            "select device, metric, value, unix_seconds(time) - 1763683200 from `D.telemetry_values` order by 1, 2, 4",
            vec![
                "d1 n 3.0 0",
                "d1 t 21.5 0",
                "d1 t 22.5 30",
                "d1 t 22.5 30",
                "d1 t 25.0 1000",
                "d2 t -1.0 40",
            ],
        ),
        (
            "select device, metric, unix_seconds(minute) - 1763683200, samples, least, greatest from `D.telemetry_by_minute` \
             where metric = 't' order by 1, 3",
            vec![
                "d1 t 0 3 21.5 22.5",
                "d1 t 960 1 25.0 25.0",
                "d2 t 0 1 -1.0 -1.0",
            ],
        ),
        (
            "select device, unix_seconds(silent_from) - 1763683200, seconds from `D.gaps` order by device",
            vec!["d1 30 970", "d2 40 86360"],
        ),
        (
            "select device, messages, payload_bytes, topics, unix_seconds(last_seen) - 1763683200 from `D.fleet` order by 1",
            vec!["d1 4 63 1 1000", "d2 2 16 2 86400"],
        ),
        (
            "select table_name, reason, messages, example_topic from `D.dead_letters_by_reason`",
            vec!["telemetry no number 2 a/b"],
        ),
        // The worked queries of the README.
        (
            "select device, unix_seconds(minute) - 1763683200, mean from `D.telemetry_by_minute` where metric = 't' \
             qualify row_number() over (partition by device order by mean desc) = 1 order by device",
            vec!["d1 960 25.0", "d2 0 -1.0"],
        ),
        (
            "select device from `D.fleet` where last_seen < timestamp_sub(current_timestamp(), interval 1 hour) order by last_seen",
            vec!["d1", "d2"],
        ),
        (
            "select topic, (select property.value from unnest(user_properties) as property where property.key = 'site' limit 1) as site from `D.messages` \
             where message_id = 'm4'",
            vec!["plant/a/d2 NULL"],
        ),
    ] {
        assert_eq!(ask(&emulator, sql).await, expected, "{sql}");
    }
    trace_ids_come_from_the_first_traceparent(&emulator).await;
    let days = lines(emulator.query(&of_dataset("days.sql")).await);
    assert_eq!(days.len(), 2, "{days:?}");
    assert!(days[0].starts_with("20251121 5 "), "{days:?}");
}
