//! Tables are made, told wrong ones, and filled; queries see each message once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use dunlin_bigquery_adapter::row::{Delivery, Row, UserPropertiesBuf};
use dunlin_bigquery_adapter::rules::Rules;
use dunlin_bigquery_adapter::sinks::bigquery::api::WriteApi;
use dunlin_bigquery_adapter::sinks::bigquery::dead::DeadLetters;
use dunlin_bigquery_adapter::sinks::bigquery::partition::{Messages, Partition, Settings, Shared};
use dunlin_bigquery_adapter::sinks::bigquery::tables::{Catalog, TableError, Tables};
use dunlin_bigquery_adapter::sinks::bigquery::token::{Credentials, Tokens};
use dunlin_bigquery_adapter::sinks::bigquery::writer::Kind;

use crate::emulator::{DATASET, Emulator, PROJECT};

const RULES: &str = r#"
[[rule]]
topic = "plant/{site}/{device}/telemetry"
table = "telemetry"
partition_by = "measured_at"
cluster_by = ["device"]
[rule.columns]
measured_at = { from = "$.ts", type = "TIMESTAMP", unit = "ms", required = true }
site = "topic.site"
device = "topic.device"
temperature = { from = "$.t", type = "FLOAT64" }
ok = { from = "$.ok", type = "BOOL" }
count = { from = "$.n", type = "INT64" }
all = { from = "payload", type = "JSON" }
"#;

/// 1 in 10 is no JSON, and every other one is for no rule.
struct Given(Range<u64>);

impl Messages for Given {
    fn positions(&self) -> Range<u64> {
        self.0.clone()
    }
    fn gap(&self) -> Range<u64> {
        self.0.start..self.0.start
    }
    fn bytes(&self) -> usize {
        1000
    }
    fn each(&self, take: &mut dyn FnMut(u64, &str, &Row<'_>)) {
        let mut properties = UserPropertiesBuf::default();
        properties.push("fw", "1.2");
        properties.push("fw", "1.3");
        for position in self.0.clone() {
            let topic = if position % 2 == 0 {
                "plant/b/d7/telemetry"
            } else {
                "other"
            };
            let payload = match position % 10 {
                0 => b"\xff\xfe".to_vec(),
                _ => format!(
                    r#"{{"ts": {}, "t": 21.5, "ok": true, "n": {position}}}"#,
                    1_000 * position
                )
                .into_bytes(),
            };
            let row = Row {
                received_at: 1_763_683_200_000_000 + position.cast_signed(),
                number: position,
                delivery: Delivery::ExactlyOnce(1),
                fingerprint: 0,
                retain: true,
                topic,
                payload: &payload,
                client_id: Some("c-1"),
                tenant: None,
                device_id: None,
                content_type: None,
                response_topic: Some("re/ply"),
                origin: None,
                correlation_data: Some(&[1, 2]),
                user_properties: properties.as_properties(),
            };
            take(position, &format!("m-{position:05}"), &row);
        }
    }
}

pub(crate) async fn shared(emulator: &Emulator, directory: &std::path::Path) -> Shared {
    let tokens = Tokens::open(&Credentials::None).await.unwrap();
    let api = WriteApi::new(&emulator.grpc, tokens.clone()).unwrap();
    let tables = Tables::new(&emulator.rest, tokens, PROJECT, DATASET)
        .await
        .unwrap();
    let tables: Arc<dyn Catalog> = Arc::new(tables);
    Shared {
        dead: DeadLetters::new(
            api.clone(),
            Arc::clone(&tables),
            "dead_letters",
            directory.to_owned(),
        ),
        api,
        tables,
        metrics: Arc::default(),
        health: Arc::default(),
        settings: Arc::new(Settings {
            stream: Kind::Committed,
            rows: 500,
            bytes: 1 << 20,
            age: Duration::from_millis(10),
            in_flight: 4,
            ahead_bytes: 1 << 20,
        }),
    }
}

async fn write(
    shared: &Shared,
    rules: &Arc<Rules>,
    from: (u64, Vec<u8>),
    to: u64,
) -> (u64, Vec<u8>) {
    let mut partition =
        Partition::<Given>::take_up(shared.clone(), Arc::clone(rules), from.0, &from.1)
            .await
            .unwrap();
    let mut next = from.0;
    let mut kept = from;
    while kept.0 < to {
        while next < to && partition.wants_more() {
            let end = to.min(next + 100);
            partition.give(Given(next..end));
            next = end;
        }
        let acknowledge = partition.next().await;
        kept = (acknowledge.upto, acknowledge.checkpoint);
        partition.confirmed();
    }
    kept
}

pub(crate) fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn messages_are_rows_of_their_tables_and_queries_see_each_once() {
    let emulator = Emulator::start();
    emulator.make_dataset().await;
    let directory = tempfile::tempdir().unwrap();
    let shared = shared(&emulator, directory.path()).await;
    let rules = Arc::new(Rules::parse(RULES).unwrap());
    let halfway = write(&shared, &rules, (1, Vec::new()), 1_001).await;
    // Taken up anew at an old checkpoint: what is there already is not written again.
    let end = write(&shared, &rules, halfway, 2_001).await;
    assert_eq!(end.0, 2_001);
    let count = "select count(*), count(distinct message_id), min(message_id), max(message_id)";
    assert_eq!(
        emulator
            .query(&format!("{count} from `{PROJECT}.{DATASET}.messages`"))
            .await,
        [[text("1000"), text("1000"), text("m-00001"), text("m-01999")]]
    );
    assert_eq!(
        emulator
            .query(&format!("{count} from `{PROJECT}.{DATASET}.telemetry`"))
            .await,
        [[text("800"), text("800"), text("m-00002"), text("m-01998")]]
    );
    assert_eq!(
        emulator.query(&format!("select count(*), count(distinct message_id), min(table_name) from `{PROJECT}.{DATASET}.dead_letters`")).await,
        [[text("200"), text("200"), text("telemetry")]]
    );
    let one = emulator
        .query(&format!(
            "select site, device, temperature, ok, count, json_value(`all`, '$.n'), unix_millis(measured_at) \
             from `{PROJECT}.{DATASET}.telemetry` where message_id = 'm-00042'"
        ))
        .await;
    assert_eq!(
        one,
        [[
            text("b"),
            text("d7"),
            text("21.5"),
            text("true"),
            text("42"),
            text("42"),
            text("42000")
        ]]
    );
    let one = emulator
        .query(&format!(
            "select topic, to_hex(payload), json_value(payload_json, '$.t'), qos, retain, client_id, content_type, response_topic, \
             to_hex(correlation_data), array_length(user_properties), user_properties[offset(1)].value, unix_micros(received_at) \
             from `{PROJECT}.{DATASET}.messages` where message_id = 'm-00001'"
        ))
        .await;
    let [row] = one.as_slice() else {
        panic!("one row, not {one:?}")
    };
    assert_eq!(
        row.iter()
            .map(|cell| cell.as_deref().unwrap_or("NULL"))
            .collect::<Vec<_>>(),
        [
            "other",
            "7b227473223a20313030302c202274223a2032312e352c20226f6b223a20747275652c20226e223a20317d",
            "21.5",
            "2",
            "true",
            "c-1",
            "NULL",
            "re/ply",
            "0102",
            "2",
            "1.3",
            "1763683200000001"
        ]
    );
}

#[tokio::test]
async fn the_default_stream_repeats_what_was_not_acknowledged_and_a_view_shows_each_message_once() {
    let emulator = Emulator::start();
    emulator.make_dataset().await;
    let directory = tempfile::tempdir().unwrap();
    let mut shared = shared(&emulator, directory.path()).await;
    shared.settings = Arc::new(Settings {
        stream: Kind::Default,
        ..(*shared.settings).clone()
    });
    let rules = Arc::new(Rules::parse("").unwrap());
    let end = write(&shared, &rules, (1, Vec::new()), 1_001).await;
    assert_eq!(end.0, 1_001);
    // Nothing but a position is kept for the default stream.
    let end = write(&shared, &rules, (801, end.1), 1_201).await;
    assert_eq!(end.0, 1_201);
    let count = "select count(*), count(distinct message_id), min(message_id), max(message_id)";
    assert_eq!(
        emulator
            .query(&format!("{count} from `{PROJECT}.{DATASET}.messages`"))
            .await,
        [[text("1400"), text("1200"), text("m-00001"), text("m-01200")]]
    );
    let view = include_str!("../../sql/messages_once.sql");
    emulator
        .query(&view.replace("DATASET", &format!("{PROJECT}.{DATASET}")))
        .await;
    assert_eq!(
        emulator
            .query(&format!("{count} from `{PROJECT}.{DATASET}.messages_once`"))
            .await,
        [[text("1200"), text("1200"), text("m-00001"), text("m-01200")]]
    );
}

#[tokio::test]
async fn what_is_wrong_with_dataset_or_table_is_told_with_what_to_do() {
    let emulator = Emulator::start();
    let tokens = Tokens::open(&Credentials::None).await.unwrap();
    let tables = Tables::new(&emulator.rest, tokens, PROJECT, DATASET)
        .await
        .unwrap();
    let error = tables.check_dataset().await.unwrap_err();
    assert!(matches!(error, TableError::NoDataset { .. }), "{error}");
    emulator.make_dataset().await;
    tables.check_dataset().await.unwrap();
    let number = Rules::parse("[[rule]]\ntopic = \"a\"\ntable = \"t\"\ncolumns = { v = { from = \"$.v\", type = \"INT64\" } }").unwrap();
    tables.prepare(&number.tables()[0]).await.unwrap();
    tables.prepare(&number.tables()[0]).await.unwrap();
    let texts = Rules::parse("[[rule]]\ntopic = \"a\"\ntable = \"t\"\ncolumns = { v = { from = \"$.v\", type = \"STRING\" } }").unwrap();
    let error = tables.prepare(&texts.tables()[0]).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("table t has column \"v\" as NULLABLE Integer"),
        "{error}"
    );
}
