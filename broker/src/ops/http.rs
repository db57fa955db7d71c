//! Health and metrics over HTTP, on a port of their own.

use std::{future::Future, io, net::TcpListener, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Health, Metrics};

const INDEX: &str = "Dunlin, an MQTT broker\n\n\
    /health/started  200 when the start is over, 503 until then\n\
    /health/ready    200 when it should be given work, 503 with the reasons otherwise\n\
    /health/live     200 while the loops of all threads move, 503 when one does not\n\
    /metrics         for Prometheus (OpenMetrics)\n";

#[derive(Clone)]
struct Ops {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

/// Serves until `stop` resolves. Connections that are open then are given the time to finish.
///
/// # Errors
/// When the socket cannot be registered with the runtime, or fails.
pub async fn serve(
    socket: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(socket)?;
    axum::serve(listener, router(metrics, health))
        .with_graceful_shutdown(stop)
        .await
}

fn router(metrics: Arc<Metrics>, health: Arc<Health>) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/health/started", get(started))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(Ops { metrics, health })
}

async fn started(State(ops): State<Ops>) -> Response {
    let reasons = match ops.health.has_started() {
        true => Vec::new(),
        false => vec!["starting".to_owned()],
    };
    answer("started", &reasons)
}

async fn ready(State(ops): State<Ops>) -> Response {
    answer("ready", &ops.health.reasons())
}

async fn live(State(ops): State<Ops>) -> Response {
    answer("live", &ops.health.fatal_reasons())
}

fn answer(well: &str, reasons: &[String]) -> Response {
    if reasons.is_empty() {
        return format!("{well}\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn show_metrics(State(ops): State<Ops>) -> Response {
    ops.metrics.set_health(&ops.health);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], ops.metrics.render()).into_response()
}
