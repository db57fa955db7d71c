//! The Storage Write API: the generated client on a channel of ours, with tokens and routing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::append_rows_request::{
    ProtoData, Rows as RequestRows,
};
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::big_query_write_client::BigQueryWriteClient;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::{
    AppendRowsRequest, AppendRowsResponse, CreateWriteStreamRequest, FinalizeWriteStreamRequest,
    ProtoRows, ProtoSchema, WriteStream, write_stream,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use super::token::Tokens;
use super::window::Append;

/// Google's own endpoint.
pub const ENDPOINT: &str = "https://bigquerystorage.googleapis.com";
/// A request must stay below 10 MB as a whole.
pub const MAX_REQUEST: usize = 9 << 20;
/// The largest answer: a schema and as many row errors as a request has rows.
const MAX_ANSWER: usize = 20 << 20;
/// Unary calls are given up after this.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a sign of life for this long is taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// So is a call for appends that answers nothing for this long, though its connection lives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bigquery.endpoint {address:?} cannot be used: {reason}")]
pub struct EndpointError {
    /// The address.
    pub address: String,
    /// Why not.
    pub reason: String,
}

/// Calls of the Storage Write API. Cheap to clone; connects by itself, again and again.
#[derive(Clone, Debug)]
pub struct WriteApi {
    client: BigQueryWriteClient<Channel>,
    tokens: Tokens,
}

impl WriteApi {
    /// For an address such as [`ENDPOINT`], or `http://127.0.0.1:9060` for an emulator. Does not connect yet.
    ///
    /// # Errors
    /// When it is no address.
    pub fn new(address: &str, tokens: Tokens) -> Result<Self, EndpointError> {
        let refuse = |reason: String| EndpointError {
            address: address.to_owned(),
            reason,
        };
        let endpoint = Endpoint::from_shared(address.to_owned());
        let mut endpoint = endpoint
            .map_err(|error| refuse(error.to_string()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if address.starts_with("https://") {
            let tls = ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|error| refuse(error.to_string()))?;
        }
        Ok(Self::with_channel(endpoint.connect_lazy(), tokens))
    }

    /// Over a channel of one's own.
    #[must_use]
    pub fn with_channel(channel: Channel, tokens: Tokens) -> Self {
        let client = BigQueryWriteClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER)
            .max_encoding_message_size(MAX_REQUEST + (1 << 20));
        Self { client, tokens }
    }

    /// A new committed stream of a table (`projects/P/datasets/D/tables/T`): its name.
    ///
    /// # Errors
    /// What the call has answered.
    pub async fn create_stream(&self, table: &str) -> Result<String, Status> {
        let stream = WriteStream {
            r#type: write_stream::Type::Committed as i32,
            ..WriteStream::default()
        };
        let request = CreateWriteStreamRequest {
            parent: table.to_owned(),
            write_stream: Some(stream),
        };
        let mut request = self.request(request, &format!("parent={table}")).await?;
        request.set_timeout(CALL_TIMEOUT);
        let created = self.client.clone().create_write_stream(request).await?;
        Ok(created.into_inner().name)
    }

    /// Ends a stream: nothing can be appended any more. How many rows it has. May be repeated.
    ///
    /// # Errors
    /// What the call has answered.
    pub async fn finalize(&self, stream: &str) -> Result<u64, Status> {
        let request = FinalizeWriteStreamRequest {
            name: stream.to_owned(),
        };
        let mut request = self.request(request, &format!("name={stream}")).await?;
        request.set_timeout(CALL_TIMEOUT);
        let finalized = self.client.clone().finalize_write_stream(request).await?;
        let rows = finalized.into_inner().row_count;
        u64::try_from(rows).map_err(|_| Status::internal(format!("a stream of {rows} rows")))
    }

    /// Fetches a new token, because the one there is was refused. Failures show in the next call.
    pub async fn renew_token(&self) {
        if let Err(error) = self.tokens.renew().await {
            tracing::warn!("{error}");
        }
    }

    /// Opens a connection for appends to one stream, with room for `in_flight` requests.
    #[must_use]
    pub fn connect(&self, stream: &str, schema: Arc<ProtoSchema>, in_flight: usize) -> Connection {
        let (requests, receiver) = mpsc::channel(in_flight.max(1));
        let (api, routing) = (self.clone(), format!("write_stream={stream}"));
        let opening = async move {
            let request = api.request(ReceiverStream::new(receiver), &routing).await?;
            Ok(api.client.clone().append_rows(request).await?.into_inner())
        };
        Connection {
            stream: stream.into(),
            schema: Some(schema),
            requests,
            side: Side::Opening(Box::pin(opening)),
            unanswered: 0,
            deadline: Box::pin(sleep(ANSWER_TIMEOUT)),
        }
    }

    /// Adds the token and the header by which Google's front ends find the stream's server.
    async fn request<T>(&self, message: T, routing: &str) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        let token = self
            .tokens
            .token()
            .await
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        if let Some(token) = token {
            let value = MetadataValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| Status::unauthenticated("the token is no text"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let routing = routing.replace('/', "%2F");
        let value = MetadataValue::try_from(routing)
            .map_err(|_| Status::invalid_argument("the table or stream has a strange name"))?;
        request
            .metadata_mut()
            .insert("x-goog-request-params", value);
        Ok(request)
    }
}

enum Side {
    Opening(BoxFuture<'static, Result<Streaming<AppendRowsResponse>, Status>>),
    Open(Box<Streaming<AppendRowsResponse>>),
}

/// One `AppendRows` call: many requests, an answer for each in their order.
pub struct Connection {
    stream: Arc<str>,
    /// Goes with the first request.
    schema: Option<Arc<ProtoSchema>>,
    requests: mpsc::Sender<AppendRowsRequest>,
    side: Side,
    unanswered: usize,
    /// Until the next answer must be there, if one is awaited. Kept here: it has to wake up whoever asks for that answer, again and again.
    deadline: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Sends a request, and never waits: the caller keeps to the number of requests in flight.
    ///
    /// # Errors
    /// The connection is gone, or the caller did not keep to the number.
    pub fn send(&mut self, append: &Append) -> Result<(), Status> {
        let schema = self.schema.take();
        let first = schema.is_some();
        let rows = ProtoRows {
            serialized_rows: append.rows.rows().iter().map(|row| row.to_vec()).collect(),
        };
        let data = ProtoData {
            writer_schema: schema.map(Arc::unwrap_or_clone),
            rows: Some(rows),
        };
        let request = AppendRowsRequest {
            write_stream: if first {
                self.stream.to_string()
            } else {
                String::new()
            },
            // The default stream knows no offsets.
            offset: (append.offset >= 0).then_some(append.offset),
            trace_id: if first {
                "dunlin".to_owned()
            } else {
                String::new()
            },
            rows: Some(RequestRows::ProtoRows(data)),
            ..AppendRowsRequest::default()
        };
        self.requests
            .try_send(request)
            .map_err(|_| Status::unavailable("the connection for appends is closed"))?;
        if self.unanswered == 0 {
            self.expect_answer();
        }
        self.unanswered += 1;
        Ok(())
    }

    fn expect_answer(&mut self) {
        self.deadline
            .as_mut()
            .reset(Instant::now() + ANSWER_TIMEOUT);
    }

    /// The next answer. Cancel safe.
    ///
    /// # Errors
    /// The call has ended, or does not answer; what was not answered has been done or not.
    pub async fn next(&mut self) -> Result<AppendRowsResponse, Status> {
        let answer = tokio::select! {
            biased;
            answer = self.side.receive() => answer?,
            () = self.deadline.as_mut(), if self.unanswered > 0 => {
                return Err(Status::deadline_exceeded("no answer to an append within 60 s"));
            }
        };
        self.unanswered = self.unanswered.saturating_sub(1);
        self.expect_answer();
        Ok(answer)
    }
}

impl Side {
    async fn receive(&mut self) -> Result<AppendRowsResponse, Status> {
        loop {
            match self {
                Self::Opening(opening) => {
                    let opened = opening.await?;
                    *self = Self::Open(Box::new(opened));
                }
                Self::Open(answers) => {
                    return answers
                        .message()
                        .await?
                        .ok_or_else(|| Status::unavailable("the server has ended the call"));
                }
            }
        }
    }
}
