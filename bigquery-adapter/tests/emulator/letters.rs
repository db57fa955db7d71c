//! Dead letters are listed and tried again, each message once.

use std::sync::Arc;

use dunlin_bigquery_adapter::rules::Rules;
use dunlin_bigquery_adapter::sinks::bigquery::api::WriteApi;
use dunlin_bigquery_adapter::sinks::bigquery::dead::{DeadLetters, Filed, Letter};
use dunlin_bigquery_adapter::sinks::bigquery::letters::Letters;
use dunlin_bigquery_adapter::sinks::bigquery::tables::Catalog as _;
use dunlin_bigquery_adapter::sinks::bigquery::token::{Credentials, Tokens};

use crate::emulator::{DATASET, Emulator, PROJECT};
use crate::tables::{shared, text};

fn rules(kind: &str) -> Rules {
    Rules::parse(&format!(
        "[[rule]]\ntopic = \"plant/{{device}}\"\ntable = \"telemetry\"\n[rule.columns]\ndevice = \"topic.device\"\n\
         v = {{ from = \"$.v\", type = \"{kind}\" }}\nfw = \"user_property.fw\"\n"
    ))
    .unwrap()
}

fn letter(id: u64, payload: &str) -> Letter {
    Letter {
        received_at: 1_763_683_200_000_000,
        message_id: format!("m-{id}"),
        table: "telemetry".to_owned(),
        reason: "column \"v\": it's no number".to_owned(),
        topic: format!("plant/d{id}"),
        payload: payload.as_bytes().to_vec(),
        client_id: Some("c".to_owned()),
        qos: 1,
        retain: false,
        content_type: None,
        response_topic: None,
        correlation_data: Some(vec![0, 255]),
        user_properties: vec![("fw".to_owned(), format!("1.{id}"))],
        tenant: Some("acme".to_owned()),
        device_id: None,
    }
}

#[tokio::test]
async fn letters_are_tried_again_until_they_fit_and_stored_once() {
    let emulator = Emulator::start();
    emulator.make_dataset().await;
    let directory = tempfile::tempdir().unwrap();
    let shared = shared(&emulator, directory.path()).await;
    let letters_of = async || {
        let tokens = Tokens::open(&Credentials::None).await.unwrap();
        let api = WriteApi::new(&emulator.grpc, tokens).unwrap();
        let directory = directory.path().to_owned();
        Letters::new(api, emulator.tables().await, "dead_letters", directory)
    };
    let first = [
        letter(1, r#"{"v": "7"}"#),
        letter(2, r#"{"v": 9}"#),
        letter(3, "no json"),
    ];
    assert_eq!(shared.dead.store(&first).await.unwrap(), Filed::Table);
    // Written twice, as after a crash.
    shared.dead.store(&first[..1]).await.unwrap();
    // In a file, because the table was not to be had; one of them is in the table, too.
    let nowhere = DeadLetters::new(
        WriteApi::new(
            "http://127.0.0.1:1",
            Tokens::open(&Credentials::None).await.unwrap(),
        )
        .unwrap(),
        Arc::clone(&shared.tables),
        "dead_letters",
        directory.path().to_owned(),
    );
    let filed = [letter(2, r#"{"v": 9}"#), letter(4, r#"{"v": "x"}"#)];
    assert_eq!(nowhere.store(&filed).await.unwrap(), Filed::File);
    let letters = letters_of().await;
    let listed = letters.list(100).await.unwrap();
    let ids: Vec<&str> = listed
        .iter()
        .map(|letter| letter.message_id.as_str())
        .collect();
    assert_eq!(ids, ["m-1", "m-2", "m-3", "m-2", "m-4"]);
    assert_eq!(listed[0], first[0]);
    assert_eq!(letters.list(1).await.unwrap().len(), 2);
    // 1 and 2 fit, 3 and 4 do not.
    let replayed = letters.replay(&rules("INT64")).await.unwrap();
    assert_eq!(replayed.stored, 2);
    let unfit: Vec<&str> = replayed.unfit.iter().map(|(id, ..)| id.as_str()).collect();
    assert_eq!(unfit, ["m-3", "m-4"]);
    let rows = format!(
        "select message_id, device, v, fw from `{PROJECT}.{DATASET}.telemetry` order by message_id"
    );
    let stored = |id: &str, v: &str| {
        [
            text(&format!("m-{id}")),
            text(&format!("d{id}")),
            text(v),
            text(&format!("1.{id}")),
        ]
    };
    assert_eq!(
        emulator.query(&rows).await,
        [stored("1", "7"), stored("2", "9")]
    );
    // Again: nothing is stored twice, and those that wait are the same.
    let replayed = letters.replay(&rules("INT64")).await.unwrap();
    assert_eq!((replayed.stored, replayed.unfit.len()), (0, 2));
    let listed = letters.list(100).await.unwrap();
    let ids: Vec<&str> = listed
        .iter()
        .map(|letter| letter.message_id.as_str())
        .collect();
    assert_eq!(ids, ["m-3", "m-4"]);
    // The rule goes: that is said, and nothing is lost.
    let other = Rules::parse("").unwrap();
    let replayed = letters.replay(&other).await.unwrap();
    assert_eq!((replayed.stored, replayed.unfit.len()), (0, 2));
    assert!(
        replayed.unfit[0].2.contains("no rule writes to this table"),
        "{replayed:?}"
    );
    // The table that the letters are for is remade with another type: everything fits but what is no JSON.
    emulator
        .query(&format!("drop table `{PROJECT}.{DATASET}.telemetry`"))
        .await;
    let tables = emulator.tables().await;
    assert!(!tables.exists("telemetry").await.unwrap());
    tables.prepare(&rules("STRING").tables()[0]).await.unwrap();
    let replayed = letters.replay(&rules("STRING")).await.unwrap();
    assert_eq!(
        (replayed.stored, replayed.unfit.len()),
        (3, 1),
        "{replayed:?}"
    );
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "the file is done with"
    );
}
