//! Columns that several adapters add to one table at once are all there afterwards.

use dunlin_bigquery_adapter::rules::Rules;
use dunlin_bigquery_adapter::sinks::bigquery::tables::{Catalog, Tables};
use dunlin_bigquery_adapter::sinks::bigquery::token::{Credentials, Tokens};

use crate::rest::Rest;

const ADAPTERS: usize = 8;

async fn tables(rest: &Rest) -> Tables {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/bigquery/v2", listener.local_addr().unwrap());
    tokio::spawn(rest.clone().serve(listener));
    let tokens = Tokens::open(&Credentials::None).await.unwrap();
    Tables::new(&endpoint, tokens, "p", "d").await.unwrap()
}

fn rules(column: &str) -> Rules {
    Rules::parse(&format!(
        "[[rule]]\ntopic = \"a/+\"\ntable = \"t\"\ncolumns = {{ {column} = \"payload\" }}"
    ))
    .unwrap()
}

fn columns(rest: &Rest) -> Vec<String> {
    let state = rest.state();
    let fields = state.tables["t"]["schema"]["fields"].as_array().unwrap();
    let names = fields.iter().map(|field| field["name"].as_str().unwrap());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adapters_with_different_columns_extend_a_table_together() {
    let rest = Rest::new("p/datasets/d");
    let tables = std::sync::Arc::new(tables(&rest).await);
    let mut adapters = tokio::task::JoinSet::new();
    for number in 0..ADAPTERS {
        let tables = std::sync::Arc::clone(&tables);
        adapters.spawn(async move {
            let rules = rules(&format!("column_{number}"));
            tables.prepare(&rules.tables()[0]).await
        });
    }
    while let Some(prepared) = adapters.join_next().await {
        prepared.unwrap().unwrap();
    }
    let mut expected: Vec<String> = (0..ADAPTERS)
        .map(|number| format!("column_{number}"))
        .collect();
    expected.extend(["message_id".to_owned(), "received_at".to_owned()]);
    assert_eq!(columns(&rest), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_overtaken_looks_again_and_gives_up_one_day() {
    let rest = Rest::new("p/datasets/d");
    let tables = tables(&rest).await;
    tables.prepare(&rules("first").tables()[0]).await.unwrap();
    rest.state().overtaken = 3;
    tables.prepare(&rules("second").tables()[0]).await.unwrap();
    assert_eq!(
        columns(&rest),
        [
            "by_somebody_0",
            "by_somebody_1",
            "by_somebody_2",
            "first",
            "message_id",
            "received_at",
            "second"
        ]
    );
    rest.state().overtaken = 1_000;
    let error = tables.prepare(&rules("third").tables()[0]).await;
    let error = error.unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert!(!columns(&rest).contains(&"third".to_owned()));
}
