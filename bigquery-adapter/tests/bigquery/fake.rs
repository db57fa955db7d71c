//! A small BigQuery for what the emulator cannot be made to do: gRPC of the Storage Write API over a pipe in the process, with faults on
//! request, and just enough REST for tables. It keeps to offsets strictly, as the documentation says it.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use gcp_bigquery_client::google::cloud::bigquery::storage::v1::append_rows_request::Rows;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::append_rows_response::{
    AppendResult, Response as Answer,
};
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::{
    AppendRowsRequest, AppendRowsResponse, CreateWriteStreamRequest, FinalizeWriteStreamRequest,
    FinalizeWriteStreamResponse, RowError, WriteStream,
};
use gcp_bigquery_client::google::rpc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{Body, StdError, http};
use tonic::{Code, Request, Response, Status, Streaming};

/// What happens to an append instead of what should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with this code, in the answer; nothing is stored.
    Refuse(Code),
    /// The call ends with this code before the rows are stored.
    End(Code),
    /// The rows are stored, and the call ends before the answer.
    LoseReply,
    /// The stream is gone: finalized behind the writer's back.
    Finalized,
    /// The rows are stored, and the call lives on and answers nothing any more.
    Silence,
}

impl Fault {
    /// One of them; the same for the same number.
    pub(crate) fn numbered(number: u64) -> Self {
        match number % 9 {
            0 => Self::Refuse(Code::Aborted),
            1 => Self::Refuse(Code::Internal),
            2 => Self::Refuse(Code::Unavailable),
            3 => Self::Refuse(Code::OutOfRange),
            4 => Self::End(Code::Unavailable),
            5 => Self::End(Code::Unauthenticated),
            6 => Self::Finalized,
            _ => Self::LoseReply,
        }
    }
}

#[derive(Debug, Default)]
struct Stream {
    table: String,
    rows: u64,
    finalized: bool,
}

/// State and knobs.
#[derive(Debug, Default)]
pub(crate) struct State {
    streams: BTreeMap<String, Stream>,
    /// Rows by table, as they were encoded.
    pub tables: BTreeMap<String, Vec<Vec<u8>>>,
    /// Faults for the next appends; `None`: as it should be.
    pub faults: VecDeque<Option<Fault>>,
    /// Rows that contain these bytes are refused one by one.
    pub poison: Option<Vec<u8>>,
    /// Unary calls fail with this code, so many times.
    pub calls_fail: Option<(Code, u32)>,
    /// Appends that were answered with an offset error.
    pub offset_errors: u32,
    /// Streams that were made.
    pub created: u32,
    /// No call is answered.
    pub down: bool,
    /// Appends are executed up to so many milliseconds after they have come.
    pub late_ms: u64,
    turns: u64,
    /// Tokens that came with calls.
    pub tokens: Vec<String>,
}

/// The server. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A channel to it, over pipes; each connection is served by a task of its own.
    pub(crate) fn channel(&self) -> tonic::transport::Channel {
        let fake = self.clone();
        let (pipes, incoming) = mpsc::channel::<Result<tokio::io::DuplexStream, std::io::Error>>(8);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(fake)
                .serve_with_incoming(ReceiverStream::new(incoming)),
        );
        let connector = tower::service_fn(move |_: http::Uri| {
            let pipes = pipes.clone();
            async move {
                let (client, server) = tokio::io::duplex(1 << 20);
                pipes
                    .send(Ok(server))
                    .await
                    .map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(client))
            }
        });
        tonic::transport::Endpoint::from_static("http://fake")
            .connect_with_connector_lazy(connector)
    }

    /// Serves over TCP.
    pub(crate) async fn serve(self, listener: tokio::net::TcpListener) {
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(self);
        server.serve_with_incoming(incoming).await.unwrap();
    }

    fn late(&self) -> u64 {
        let mut state = self.state();
        let most = state.late_ms;
        if most == 0 {
            return 0;
        }
        state.turns = state
            .turns
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state.turns >> 33) % most
    }

    fn call(&self) -> Result<(), Status> {
        if self.state().down {
            return Err(Status::unavailable("as the test wants it"));
        }
        match &mut self.state().calls_fail {
            Some((code, left)) if *left > 0 => {
                *left -= 1;
                Err(Status::new(*code, "as the test wants it"))
            }
            _ => Ok(()),
        }
    }

    fn create(&self, request: CreateWriteStreamRequest) -> Result<WriteStream, Status> {
        self.call()?;
        let mut state = self.state();
        state.created += 1;
        let name = format!("{}/streams/s{}", request.parent, state.created);
        let stream = Stream {
            table: request.parent,
            ..Stream::default()
        };
        state.streams.insert(name.clone(), stream);
        Ok(WriteStream {
            name,
            ..WriteStream::default()
        })
    }

    fn finalize(
        &self,
        request: &FinalizeWriteStreamRequest,
    ) -> Result<FinalizeWriteStreamResponse, Status> {
        self.call()?;
        let mut state = self.state();
        let stream = state.streams.get_mut(&request.name);
        let stream =
            stream.ok_or_else(|| Status::not_found("Requested entity was not found: stream"))?;
        stream.finalized = true;
        Ok(FinalizeWriteStreamResponse {
            row_count: stream.rows.cast_signed(),
        })
    }

    /// Executes one append; an error ends the call, an empty answer is the last one that comes, and is not sent.
    fn append(
        &self,
        stream: &str,
        request: AppendRowsRequest,
    ) -> Result<AppendRowsResponse, Status> {
        let Some(Rows::ProtoRows(data)) = request.rows else {
            return Err(Status::invalid_argument("no rows"));
        };
        let rows = data.rows.unwrap_or_default().serialized_rows;
        let mut state = self.state();
        if state.down {
            return Err(Status::unavailable("as the test wants it"));
        }
        let fault = state.faults.pop_front().flatten();
        match fault {
            Some(Fault::End(code)) => return Err(Status::new(code, "as the test wants it")),
            Some(Fault::Refuse(code)) => return Ok(error(code, Vec::new())),
            Some(Fault::Finalized) => {
                if let Some(stream) = state.streams.get_mut(stream) {
                    stream.finalized = true;
                }
            }
            Some(Fault::LoseReply | Fault::Silence) | None => {}
        }
        if let Some(poison) = &state.poison
            && !stream.contains("/tables/dead_letters/")
        {
            let bad: Vec<RowError> = rows
                .iter()
                .zip(0..)
                .filter(|(row, _)| {
                    row.windows(poison.len())
                        .any(|part| part == poison.as_slice())
                })
                .map(|(_, index)| RowError {
                    index,
                    code: 1,
                    message: "poisoned".to_owned(),
                })
                .collect();
            if !bad.is_empty() {
                return Ok(error(Code::InvalidArgument, bad));
            }
        }
        let State {
            streams,
            tables,
            offset_errors,
            ..
        } = &mut *state;
        let offset = match stream.strip_suffix("/streams/_default") {
            Some(table) => {
                tables.entry(table.to_owned()).or_default().extend(rows);
                None
            }
            None => {
                let Some(stream) = streams.get_mut(stream) else {
                    return Ok(error(Code::NotFound, Vec::new()));
                };
                if stream.finalized {
                    return Ok(error(Code::FailedPrecondition, Vec::new()));
                }
                let offset = request.offset.unwrap_or(stream.rows.cast_signed());
                match offset.cmp(&stream.rows.cast_signed()) {
                    std::cmp::Ordering::Less => {
                        *offset_errors += 1;
                        return Ok(error(Code::AlreadyExists, Vec::new()));
                    }
                    std::cmp::Ordering::Greater => {
                        *offset_errors += 1;
                        return Ok(error(Code::OutOfRange, Vec::new()));
                    }
                    std::cmp::Ordering::Equal => {}
                }
                stream.rows += rows.len() as u64;
                tables.entry(stream.table.clone()).or_default().extend(rows);
                Some(offset)
            }
        };
        match fault {
            Some(Fault::LoseReply) => Err(Status::unavailable("the reply is lost")),
            Some(Fault::Silence) => Ok(AppendRowsResponse::default()),
            _ => Ok(AppendRowsResponse {
                response: Some(Answer::AppendResult(AppendResult { offset })),
                ..AppendRowsResponse::default()
            }),
        }
    }

    fn appends(
        &self,
        mut requests: Streaming<AppendRowsRequest>,
    ) -> ReceiverStream<Result<AppendRowsResponse, Status>> {
        let (answers, receiver) = mpsc::channel(16);
        let fake = self.clone();
        tokio::spawn(async move {
            let (mut stream, mut silent) = (String::new(), false);
            while let Ok(Some(request)) = requests.message().await {
                if !request.write_stream.is_empty() {
                    stream.clone_from(&request.write_stream);
                }
                // What has come is executed, also when who sent it is dead by then.
                let late = fake.late();
                if late > 0 {
                    tokio::time::sleep(Duration::from_millis(late)).await;
                }
                let answer = fake.append(&stream, request);
                let ends = answer.is_err();
                silent |= (answer.as_ref()).is_ok_and(|answer| answer.response.is_none());
                if silent {
                    continue;
                }
                if answers.send(answer).await.is_err() || ends {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }
}

fn error(code: Code, row_errors: Vec<RowError>) -> AppendRowsResponse {
    AppendRowsResponse {
        row_errors,
        response: Some(Answer::Error(rpc::Status {
            code: code as i32,
            message: "as the test wants it".to_owned(),
            details: Vec::new(),
        })),
        ..AppendRowsResponse::default()
    }
}

struct Create(Fake);
impl tonic::server::UnaryService<CreateWriteStreamRequest> for Create {
    type Response = WriteStream;
    type Future = BoxFuture<Result<Response<WriteStream>, Status>>;
    fn call(&mut self, request: Request<CreateWriteStreamRequest>) -> Self::Future {
        let fake = self.0.clone();
        Box::pin(async move { fake.create(request.into_inner()).map(Response::new) })
    }
}

struct Finalize(Fake);
impl tonic::server::UnaryService<FinalizeWriteStreamRequest> for Finalize {
    type Response = FinalizeWriteStreamResponse;
    type Future = BoxFuture<Result<Response<FinalizeWriteStreamResponse>, Status>>;
    fn call(&mut self, request: Request<FinalizeWriteStreamRequest>) -> Self::Future {
        let fake = self.0.clone();
        Box::pin(async move { fake.finalize(request.get_ref()).map(Response::new) })
    }
}

struct Appends(Fake);
impl tonic::server::StreamingService<AppendRowsRequest> for Appends {
    type Response = AppendRowsResponse;
    type ResponseStream = ReceiverStream<Result<AppendRowsResponse, Status>>;
    type Future = BoxFuture<Result<Response<Self::ResponseStream>, Status>>;
    fn call(&mut self, request: Request<Streaming<AppendRowsRequest>>) -> Self::Future {
        let fake = self.0.clone();
        Box::pin(async move { Ok(Response::new(fake.appends(request.into_inner()))) })
    }
}

impl tonic::server::NamedService for Fake {
    const NAME: &'static str = "google.cloud.bigquery.storage.v1.BigQueryWrite";
}

impl<B> tonic::codegen::Service<http::Request<B>> for Fake
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let fake = self.clone();
        if let Some(token) = request.headers().get("authorization") {
            fake.state().tokens.push(token.to_str().unwrap().to_owned());
        }
        Box::pin(async move {
            let method = request
                .uri()
                .path()
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned();
            let answer = match method.as_str() {
                "CreateWriteStream" => {
                    let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
                    grpc.unary(Create(fake), request).await
                }
                "FinalizeWriteStream" => {
                    let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
                    grpc.unary(Finalize(fake), request).await
                }
                "AppendRows" => {
                    let codec = tonic_prost::ProstCodec::default();
                    let mut grpc =
                        tonic::server::Grpc::new(codec).max_decoding_message_size(16 << 20);
                    grpc.streaming(Appends(fake), request).await
                }
                other => panic!("nobody calls {other}"),
            };
            Ok(answer)
        })
    }
}
