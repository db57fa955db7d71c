//! Just enough of BigQuery's REST API for a dataset and its tables.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What is there, and what goes wrong.
#[derive(Debug)]
pub(crate) struct RestState {
    /// Path of the dataset below `projects/`.
    pub(crate) dataset: String,
    pub(crate) tables: BTreeMap<String, Value>,
    /// Rises with every change of a table, which has it as its etag.
    changes: u64,
    /// So many changes come too late: somebody else adds a column right before them.
    pub(crate) overtaken: u32,
    /// Every call is answered with this status, reason and text.
    pub(crate) fails: Option<(u16, &'static str, &'static str)>,
}

/// The server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Rest(Arc<Mutex<RestState>>);

impl Rest {
    pub(crate) fn new(dataset: &str) -> Self {
        Self(Arc::new(Mutex::new(RestState {
            dataset: dataset.to_owned(),
            tables: BTreeMap::new(),
            changes: 0,
            overtaken: 0,
            fails: None,
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, RestState> {
        self.0.lock().unwrap()
    }

    pub(crate) async fn serve(self, listener: tokio::net::TcpListener) {
        let router = axum::Router::new().fallback(answer).with_state(self);
        axum::serve(listener, router).await.unwrap();
    }

    fn answer(
        &self,
        method: &Method,
        path: &str,
        if_match: Option<&str>,
        body: &[u8],
    ) -> Result<Value, (u16, String)> {
        let mut state = self.state();
        if let Some((status, reason, text)) = state.fails {
            return Err((status, format!("{text} ({reason})")));
        }
        let not_found = |what: &str| (404, format!("Not found: {what}"));
        let path = path
            .strip_prefix("/bigquery/v2/projects/")
            .ok_or_else(|| not_found(path))?;
        let rest = path
            .strip_prefix(state.dataset.as_str())
            .ok_or_else(|| not_found("Dataset"))?;
        let parse =
            || serde_json::from_slice::<Value>(body).map_err(|_| (400, "no JSON".to_owned()));
        match (method.as_str(), rest) {
            ("GET", "") => Ok(json!({"datasetReference": {"projectId": "p", "datasetId": "d"}})),
            ("POST", "/tables") => {
                let table = parse()?;
                let name = table["tableReference"]["tableId"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                if state.tables.contains_key(&name) {
                    return Err((409, format!("Already Exists: Table {name}")));
                }
                Ok(state.put(&name, table))
            }
            (method, rest) => {
                let name = rest
                    .strip_prefix("/tables/")
                    .ok_or_else(|| not_found(rest))?;
                let there = state.tables.get(name).cloned();
                let there = there.ok_or_else(|| not_found(&format!("Table {name}")))?;
                if method == "GET" {
                    return Ok(there);
                }
                let change = parse()?;
                let mut there = there;
                if state.overtaken > 0 {
                    state.overtaken -= 1;
                    let column = format!("by_somebody_{}", state.overtaken);
                    let column = json!({"name": column, "type": "STRING"});
                    there["schema"]["fields"]
                        .as_array_mut()
                        .unwrap()
                        .push(column);
                    there = state.put(name, there);
                }
                if if_match.is_some_and(|etag| there["etag"] != etag) {
                    return Err((412, "Precondition check failed.".to_owned()));
                }
                let names = |table: &Value| -> Vec<String> {
                    let fields = table["schema"]["fields"].as_array().unwrap().iter();
                    fields
                        .map(|field| field["name"].as_str().unwrap().to_owned())
                        .collect()
                };
                let after = names(&change);
                if let Some(lost) = names(&there).iter().find(|name| !after.contains(name)) {
                    return Err((
                        400,
                        format!("Provided Schema does not match: {lost} is missing"),
                    ));
                }
                there["schema"] = change["schema"].clone();
                Ok(state.put(name, there))
            }
        }
    }
}

impl RestState {
    fn put(&mut self, name: &str, mut table: Value) -> Value {
        self.changes += 1;
        table["etag"] = json!(format!("e{}", self.changes));
        self.tables.insert(name.to_owned(), table.clone());
        table
    }
}

async fn answer(
    State(rest): State<Rest>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let if_match = headers
        .get(header::IF_MATCH)
        .map(|etag| etag.to_str().unwrap());
    let (status, body) = match rest.answer(&method, uri.path(), if_match, &body) {
        Ok(body) => (200, body),
        Err((status, message)) => {
            let error = json!({"code": status, "message": message, "status": "", "errors": [{"message": message, "reason": ""}]});
            (status, json!({"error": error}))
        }
    };
    let status = StatusCode::from_u16(status).unwrap();
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
