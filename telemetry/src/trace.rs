//! OpenTelemetry traces of messages, sent to a collector by OTLP over HTTP.
//!
//! A message that carries a W3C trace context (`traceparent`, `tracestate`, as user properties) is traced when its publisher has sampled it, and not when
//! it has not; one without is traced by chance (`trace.sample`). Whoever works on a message notes times in passing, and hands in a finished [`Span`]
//! with its parts. So nothing is under way in the library, no thread-local context exists, and a program without an endpoint has no [`Tracer`] at all.
//!
//! Spans wait in a bounded queue for one task that sends them. What does not fit, or what the collector does not take, is dropped and counted: nothing
//! waits for a trace.

use std::fmt;
use std::time::{Duration, SystemTime};

pub use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context as Propagated, InstrumentationScope};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanExporter, SpanLinks,
};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::log::Program;

/// Spans that may wait to be sent; each takes some hundred bytes.
const WAITING_MAX: usize = 8_192;
/// Spans in one request.
const REQUEST_MAX: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is traced, and where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `http://host:4318`.
    pub endpoint: String,
    /// Share of the messages without a trace context that are traced, 0 to 1.
    pub sample: f64,
}

impl Settings {
    /// Whether an address can be one: `http://host:port`, with or without a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
        let advice =
            "it must be the OTLP/HTTP address of a collector, such as \"http://collector:4318\"";
        if endpoint.starts_with("https://") {
            return Err(format!(
                "{advice}; TLS is the collector's to speak, which stands beside"
            ));
        }
        let host = endpoint.strip_prefix("http://").unwrap_or_default();
        let host = host.split('/').next().unwrap_or_default();
        match host.is_empty() || endpoint.contains(char::is_whitespace) {
            true => Err(advice.to_owned()),
            false => Ok(()),
        }
    }

    /// With the path of traces, unless one is given.
    fn url(&self) -> String {
        let endpoint = self.endpoint.trim_end_matches('/');
        let host = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        match host.contains('/') {
            true => endpoint.to_owned(),
            false => format!("{endpoint}/v1/traces"),
        }
    }
}

/// What becomes of spans.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Sent.
    pub sent: Counter,
    /// Dropped: the queue was full, or the collector did not take them.
    pub dropped: Counter,
}

/// The trace that a message belongs to, and the span that caused it.
#[derive(Debug, Clone)]
pub struct Context {
    trace: TraceId,
    parent: SpanId,
    state: TraceState,
}

impl Context {
    /// The trace id, as in `traceparent`.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace.to_string()
    }
}

/// Something that has taken place: a span, with its parts.
#[derive(Debug)]
pub struct Span {
    /// What was done.
    pub name: &'static str,
    /// Its beginning and end.
    pub times: (SystemTime, SystemTime),
    /// What it was about.
    pub attributes: Vec<KeyValue>,
    /// What it consisted of: name, beginning, end.
    pub parts: Vec<(&'static str, SystemTime, SystemTime)>,
}

/// Traces can not be switched on.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The settings make no sense.
    #[error("trace.endpoint: {0}")]
    Exporter(#[from] ExporterBuildError),
}

enum Job {
    Spans(Vec<SpanData>),
    Flush(oneshot::Sender<()>),
}

/// Decides what is traced, and takes finished spans. Cheap to clone.
#[derive(Clone)]
pub struct Tracer {
    jobs: mpsc::Sender<Job>,
    /// A new trace is sampled when the lower half of its id is below.
    bound: u64,
    scope: InstrumentationScope,
    counters: Counters,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").finish_non_exhaustive()
    }
}

/// The W3C trace context that a message carries, as user properties.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried<'a> {
    /// `traceparent`.
    pub parent: Option<&'a str>,
    /// `tracestate`.
    pub state: Option<&'a str>,
}

impl<'a> Carried<'a> {
    /// The first property of each name.
    pub fn of(properties: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut carried = Self::default();
        for (name, value) in properties {
            match name {
                "traceparent" => carried.parent = carried.parent.or(Some(value)),
                "tracestate" => carried.state = carried.state.or(Some(value)),
                _ => {}
            }
        }
        carried
    }
}

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.parent,
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Tracer {
    /// Starts the task that sends spans, on the runtime of the caller.
    ///
    /// # Errors
    /// The endpoint is no address.
    pub fn start(
        settings: &Settings,
        program: Program,
        counters: Counters,
    ) -> Result<Self, TraceError> {
        let mut exporter = Otlp::builder()
            .with_http()
            .with_http_client(HyperClient::with_default_connector(PATIENCE, None))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(settings.url())
            .with_timeout(PATIENCE)
            .build()?;
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.namespace", "dunlin"),
            KeyValue::new("service.name", program.name),
            KeyValue::new("service.version", program.version),
            KeyValue::new("service.instance.id", instance()),
        ]);
        exporter.set_resource(&resource.build());
        let (jobs, queue) = mpsc::channel(WAITING_MAX);
        tokio::spawn(send(queue, exporter, counters.clone()));
        Ok(Self {
            jobs,
            bound: bound(settings.sample),
            scope: InstrumentationScope::builder(program.name)
                .with_version(program.version)
                .build(),
            counters,
        })
    }

    /// The trace that a message belongs to, if it is to be traced.
    #[must_use]
    pub fn of_message(&self, carried: Carried<'_>) -> Option<Context> {
        match Self::of_publisher(carried) {
            Some(sampled) => sampled,
            None => self.by_chance(),
        }
    }

    /// The same for who works on it later: only what its publisher has sampled.
    #[must_use]
    pub fn sampled_before(&self, carried: Carried<'_>) -> Option<Context> {
        Self::of_publisher(carried).flatten()
    }

    /// `None`: the publisher says nothing of a trace. `Some(None)`: it does not want this one traced.
    #[expect(
        clippy::option_option,
        reason = "said or not, and if so, sampled or not"
    )]
    fn of_publisher(carried: Carried<'_>) -> Option<Option<Context>> {
        carried.parent?;
        let propagator = TraceContextPropagator::new();
        let extracted = propagator.extract_with_context(&Propagated::new(), &carried);
        let span = extracted.span();
        let context = span.span_context();
        if !context.is_valid() {
            return None;
        }
        Some(context.is_sampled().then(|| Context {
            trace: context.trace_id(),
            parent: context.span_id(),
            state: context.trace_state().clone(),
        }))
    }

    fn by_chance(&self) -> Option<Context> {
        if self.bound == 0 {
            return None;
        }
        let trace = RandomIdGenerator::default().new_trace_id();
        let [_, _, _, _, _, _, _, _, low @ ..] = trace.to_bytes();
        (u64::from_be_bytes(low) >> 1 < self.bound).then(|| Context {
            trace,
            parent: SpanId::INVALID,
            state: TraceState::default(),
        })
    }

    /// Takes a span. Never waits.
    pub fn finish(&self, context: &Context, span: Span) {
        let own = RandomIdGenerator::default().new_span_id();
        tracing::debug!(trace_id = %context.trace, span_id = %own, span = span.name, "traced");
        let remote = context.parent != SpanId::INVALID;
        let parent = (context.parent, remote);
        let mut spans = Vec::with_capacity(1 + span.parts.len());
        for (name, start, end) in span.parts {
            let id = RandomIdGenerator::default().new_span_id();
            let part = (name, SpanKind::Internal, (start, end), Vec::new());
            spans.push(self.data(context, id, (own, false), part));
        }
        let whole = (span.name, SpanKind::Consumer, span.times, span.attributes);
        spans.push(self.data(context, own, parent, whole));
        let count = spans.len() as u64;
        if self.jobs.try_send(Job::Spans(spans)).is_err() {
            self.counters.dropped.inc_by(count);
        }
    }

    fn data(
        &self,
        context: &Context,
        id: SpanId,
        (parent_span_id, parent_span_is_remote): (SpanId, bool),
        (name, span_kind, (start_time, end_time), attributes): (
            &'static str,
            SpanKind,
            (SystemTime, SystemTime),
            Vec<KeyValue>,
        ),
    ) -> SpanData {
        let state = context.state.clone();
        SpanData {
            span_context: SpanContext::new(context.trace, id, TraceFlags::SAMPLED, false, state),
            parent_span_id,
            parent_span_is_remote,
            span_kind,
            name: name.into(),
            start_time,
            // Clocks may have been set meanwhile.
            end_time: end_time.max(start_time),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }

    /// Resolves when what was handed in before has been sent or given up, or `limit` is over.
    pub async fn flush(&self, limit: Duration) {
        let flushed = async {
            let (done, told) = oneshot::channel();
            if self.jobs.send(Job::Flush(done)).await.is_ok() {
                // The task has ended when it says nothing.
                drop(told.await);
            }
        };
        if timeout(limit, flushed).await.is_err() {
            tracing::debug!("traces were not all sent at the end");
        }
    }
}

/// What tells processes of one program apart: in a pod its name, and the process.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

/// The share of ids below, of those of 63 bits.
fn bound(share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share; casts saturate"
    )]
    let bound = (share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
    bound
}

/// Sends what comes, until no [`Tracer`] is left.
async fn send(mut queue: mpsc::Receiver<Job>, exporter: Otlp, counters: Counters) {
    let mut failing = false;
    while let Some(job) = queue.recv().await {
        let mut spans = Vec::new();
        let mut flushes = Vec::new();
        let due = Instant::now() + GATHER;
        let mut next = Some(job);
        while let Some(job) = next.take() {
            match job {
                Job::Spans(more) => spans.extend(more),
                Job::Flush(done) => flushes.push(done),
            }
            if flushes.is_empty() && spans.len() < REQUEST_MAX {
                next = timeout_at(due, queue.recv()).await.ok().flatten();
            }
        }
        let count = spans.len() as u64;
        if count > 0 {
            match exporter.export(spans).await {
                Ok(()) => {
                    counters.sent.inc_by(count);
                    failing = false;
                }
                Err(error) => {
                    counters.dropped.inc_by(count);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the collector does not take traces (trace.endpoint); they are dropped until it does");
                    }
                }
            }
        }
        for done in flushes {
            // Who asked may have stopped waiting.
            let _gone = done.send(()).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program {
        name: "broker",
        version: "1",
    };
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn tracer(sample: f64) -> Tracer {
        let settings = Settings {
            endpoint: "http://127.0.0.1:9".to_owned(),
            sample,
        };
        Tracer::start(&settings, PROGRAM, Counters::default()).unwrap()
    }

    fn with(parent: &str) -> Carried<'_> {
        Carried::of([("a", "b"), ("traceparent", parent), ("traceparent", "x")].into_iter())
    }

    #[tokio::test]
    async fn the_publisher_decides_where_it_says_something() {
        let (all, none) = (tracer(1.0), tracer(0.0));
        let sampled = with("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let not = with("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert_eq!(none.of_message(sampled).unwrap().trace_id(), TRACE);
        assert!(all.of_message(not).is_none());
        assert_eq!(none.sampled_before(sampled).unwrap().trace_id(), TRACE);
        assert!(all.sampled_before(not).is_none());
    }

    #[tokio::test]
    async fn without_a_context_chance_decides_and_a_broken_one_is_none() {
        let nothing = Carried::default();
        let broken = with("00-zz-1-01");
        let (all, half, none) = (tracer(1.0), tracer(0.5), tracer(0.0));
        for _ in 0..100 {
            assert!(all.of_message(nothing).is_some());
            assert!(none.of_message(nothing).is_none());
            assert!(all.of_message(broken).unwrap().trace_id() != TRACE);
        }
        assert!(all.sampled_before(nothing).is_none());
        assert!(all.sampled_before(broken).is_none());
        let taken = (0..1_000).filter(|_| half.of_message(nothing).is_some());
        let taken = taken.count();
        assert!((350..650).contains(&taken), "{taken} of 1000");
    }

    #[test]
    fn an_endpoint_is_the_address_of_a_collector() {
        for good in [
            "http://collector:4318",
            "http://[::1]:4318/",
            "http://c/otlp/v1/traces",
        ] {
            assert_eq!(Settings::check_endpoint(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "collector:4318",
            "https://c:4318",
            "http://",
            "http:// c",
        ] {
            assert!(Settings::check_endpoint(bad).is_err(), "{bad}");
        }
        let url = |endpoint: &str| {
            let endpoint = endpoint.to_owned();
            Settings {
                endpoint,
                sample: 0.0,
            }
            .url()
        };
        assert_eq!(url("http://c:4318/"), "http://c:4318/v1/traces");
        assert_eq!(url("http://c:4318/otlp"), "http://c:4318/otlp");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_collector_that_is_not_there() {
        let tracer = tracer(1.0);
        let context = tracer.by_chance().unwrap();
        let now = SystemTime::now();
        for _ in 0..3 {
            let span = Span {
                name: "publish",
                times: (now, now),
                attributes: Vec::new(),
                parts: vec![("route", now, now)],
            };
            tracer.finish(&context, span);
        }
        tracer.flush(Duration::from_secs(20)).await;
        assert_eq!(tracer.counters.sent.get(), 0);
        assert_eq!(tracer.counters.dropped.get(), 6);
    }
}
