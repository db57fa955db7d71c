//! The BigQuery emulator as a process of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use dunlin_bigquery_adapter::sinks::bigquery::tables::Tables;
use dunlin_bigquery_adapter::sinks::bigquery::token::{Credentials, Tokens};
use gcp_bigquery_client::Client;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::model::dataset::Dataset;
use gcp_bigquery_client::model::query_request::QueryRequest;

/// Project and dataset that the tests use.
pub(crate) const PROJECT: &str = "test-project";
pub(crate) const DATASET: &str = "fleet";

/// Killed when dropped.
pub(crate) struct Emulator {
    child: Child,
    pub(crate) rest: String,
    pub(crate) grpc: String,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Emulator {
    /// Starts it on free ports and waits until it listens.
    pub(crate) fn start() -> Self {
        let python = python();
        let launcher = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/emulator/launch.py");
        let mut child = Command::new(&python)
            .arg(launcher)
            .args([
                "start",
                "--rest-port",
                "0",
                "--grpc-port",
                "0",
                "--project",
                PROJECT,
                "--log-format",
                "json",
                "--log-level",
                "info",
            ])
            // Its end is the emulator's.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{} cannot be started: {error}; run `make deps`",
                    python.display()
                )
            });
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut rest, mut grpc) = (None, None);
        while rest.is_none() || grpc.is_none() {
            let line = lines
                .next()
                .expect(
                    "the emulator says where it listens; is bqemulator installed? run `make deps`",
                )
                .unwrap();
            let Ok(said) = serde_json::from_str::<serde_json::Value>(&line) else {
                continue;
            };
            let address = format!("http://127.0.0.1:{}", said["port"]);
            match said["event"].as_str() {
                Some("rest.listen") => rest = Some(format!("{address}/bigquery/v2")),
                Some("grpc.listen") => grpc = Some(address),
                _ => {}
            }
        }
        // Whoever does not read holds it up when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            rest: rest.unwrap(),
            grpc: grpc.unwrap(),
        }
    }

    pub(crate) async fn client(&self) -> Client {
        let tokens = Tokens::open(&Credentials::None).await.unwrap();
        ClientBuilder::new()
            .with_v2_base_url(self.rest.clone())
            .build_from_authenticator(Arc::new(tokens))
            .await
            .unwrap()
    }

    pub(crate) async fn make_dataset(&self) {
        self.client()
            .await
            .dataset()
            .create(Dataset::new(PROJECT, DATASET))
            .await
            .unwrap();
    }

    /// Tables as the adapter sees them.
    pub(crate) async fn tables(&self) -> Tables {
        let tokens = Tokens::open(&Credentials::None).await.unwrap();
        Tables::new(&self.rest, tokens, PROJECT, DATASET)
            .await
            .unwrap()
    }

    /// Rows of a query, as texts; NULL is `None`.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let response = self
            .client()
            .await
            .job()
            .query(PROJECT, QueryRequest::new(sql))
            .await
            .unwrap();
        assert!(
            response.errors.is_none() && response.job_complete != Some(false),
            "{sql}: {:?}",
            response.errors
        );
        let rows = response.rows.unwrap_or_default();
        rows.into_iter()
            .map(|row| {
                let cells = row.columns.unwrap_or_default();
                cells
                    .into_iter()
                    .map(|cell| match cell.value {
                        None | Some(serde_json::Value::Null) => None,
                        Some(serde_json::Value::String(text)) => Some(text),
                        Some(other) => Some(other.to_string()),
                    })
                    .collect()
            })
            .collect()
    }
}

fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("DUNLIN_PYTHON") {
        return PathBuf::from(python);
    }
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python")
}
