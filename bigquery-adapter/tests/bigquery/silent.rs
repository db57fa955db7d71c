//! A server that takes connections and says nothing is not waited for.

use std::time::Duration;

use dunlin_bigquery_adapter::rules::Rules;
use dunlin_bigquery_adapter::sinks::bigquery::tables::{Catalog, TableError, Tables};
use dunlin_bigquery_adapter::sinks::bigquery::token::{Credentials, Tokens};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn tables_that_nobody_tells_of_are_not_waited_for() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/bigquery/v2", silent.local_addr().unwrap());
    let tokens = Tokens::open(&Credentials::None).await.unwrap();
    let tables = Tables::new(&endpoint, tokens, "p", "d").await.unwrap();
    let rules = Rules::parse("").unwrap();
    let begun = Instant::now();
    for answer in [
        tables.check_dataset().await,
        tables.prepare(&rules.tables()[0]).await,
        tables.query("select 1").await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert!(
            matches!(error, TableError::Unavailable { .. }) && error.may_pass(),
            "{error}"
        );
    }
    assert!(begun.elapsed() >= Duration::from_secs(100), "nobody waited");
}
