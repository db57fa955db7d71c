//! The broker that is administered.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH};
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::http::{HttpClient, HttpError};

/// Bytes of an answer: a page of the largest devices.
const ANSWER_MAX: usize = 64 << 20;

/// Where the broker is administered, and by which token.
#[derive(Debug, Args)]
pub(crate) struct RemoteArgs {
    /// Where the broker is administered: admin.listen of its configuration
    #[arg(
        long,
        value_name = "URL",
        env = "DUNLIN_ADMIN_URL",
        default_value = "http://127.0.0.1:9443",
        global = true
    )]
    url: String,
    /// A file whose first line is the token; or the token itself in DUNLIN_ADMIN_TOKEN
    #[arg(
        long,
        value_name = "FILE",
        env = "DUNLIN_ADMIN_TOKEN_FILE",
        global = true
    )]
    token_file: Option<PathBuf>,
    /// PEM: who may have signed the broker's certificate; without it the system's authorities
    #[arg(long, value_name = "FILE", env = "DUNLIN_ADMIN_CA", global = true)]
    ca: Option<PathBuf>,
    /// The tenant that is meant
    #[arg(long, value_name = "NAME", global = true)]
    tenant: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Seconds that one answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, global = true)]
    timeout_s: u64,
}

/// Asks, and says in words what was refused.
pub(super) struct Remote {
    http: HttpClient,
    token: HeaderValue,
    pub(super) tenant: Option<String>,
    pub(super) json: bool,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Nobody could say.
    #[error("{0}")]
    Http(#[from] HttpError),
    /// The broker says no.
    #[error("{text}")]
    Problem { status: StatusCode, text: String },
}

impl Refused {
    /// Whether the same question may be answered later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Http(HttpError::Setup(_)) => false,
            Self::Http(_) => true,
            Self::Problem { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Remote {
    pub(super) fn new(args: &RemoteArgs) -> Result<Self, String> {
        let token = match &args.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|error| format!("cannot read the token in {}: {error}", file.display()))?;
                text.lines().next().unwrap_or_default().trim().to_owned()
            }
            None => std::env::var("DUNLIN_ADMIN_TOKEN").map_err(|_| {
                "no token: name its file with --token-file, or have it in DUNLIN_ADMIN_TOKEN (made by `broker token`)".to_owned()
            })?,
        };
        let mut token = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| "the token has characters that no token has".to_owned())?;
        token.set_sensitive(true);
        let timeout = Duration::from_secs(args.timeout_s.max(1));
        let http = HttpClient::new(&args.url, args.ca.as_deref(), timeout, ANSWER_MAX);
        Ok(Self {
            http: http.map_err(|error| error.to_string())?,
            token,
            tenant: args.tenant.clone(),
            json: args.json,
        })
    }

    /// For requests that name the tenant otherwise.
    pub(super) fn without_tenant(mut self) -> Self {
        self.tenant = None;
        self
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Bytes, Refused> {
        let mut all = vec![(AUTHORIZATION, self.token.clone())];
        all.extend_from_slice(headers);
        let answer = self.http.send(method, path, &all, body).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("(it says no more)");
        let field = problem["field"]
            .as_str()
            .map(|field| format!("{field}: "))
            .unwrap_or_default();
        Err(Refused::Problem {
            status: answer.status,
            text: format!("{}: {field}{detail}", answer.status),
        })
    }

    /// The parameters, and the tenant with them.
    fn query(&self, parameters: &[(&str, String)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters {
            query.append_pair(name, value);
        }
        if let Some(tenant) = &self.tenant {
            query.append_pair("tenant", tenant);
        }
        let query = query.finish();
        if query.is_empty() {
            query
        } else {
            format!("?{query}")
        }
    }

    pub(super) async fn get(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Value, String> {
        let path = format!("{path}{}", self.query(parameters));
        let body = self.ask(Method::GET, &path, &[], Bytes::new()).await;
        parse(&body.map_err(|error| error.to_string())?)
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        only: Option<u64>,
        body: &Value,
    ) -> Result<Value, String> {
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        headers.extend(if_match(only));
        let path = format!("{path}{}", self.query(&[]));
        let body = self
            .ask(method, &path, &headers, body.to_string().into())
            .await;
        parse(&body.map_err(|error| error.to_string())?)
    }

    pub(super) async fn delete(&self, path: &str, only: Option<u64>) -> Result<(), String> {
        let headers: Vec<_> = if_match(only).into_iter().collect();
        let path = format!("{path}{}", self.query(&[]));
        let done = self
            .ask(Method::DELETE, &path, &headers, Bytes::new())
            .await;
        done.map(drop).map_err(|error| error.to_string())
    }
}

fn if_match(only: Option<u64>) -> Option<(HeaderName, HeaderValue)> {
    let tag = only.map(|only| format!("\"{only}\""))?;
    Some((IF_MATCH, HeaderValue::from_str(&tag).ok()?))
}

fn parse(body: &[u8]) -> Result<Value, String> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON: {error}"))
}

/// One segment of a path.
pub(super) fn segment(text: &str) -> String {
    // A plus sign stands for itself in a path, and for a space in a query.
    form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}
