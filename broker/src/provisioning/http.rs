//! `POST /v1/provision`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State as From};
use axum::response::Response;
use axum::routing::post;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap};

use super::{Bootstrap, Caller, Provisioner, Refusal, Request};
use crate::admin::problem::Problem;
use crate::admin::request::{answer, json};
use crate::auth::jwt::Token;
use crate::http::server::Peer;
use crate::net::ClientCertificate;

impl std::convert::From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Invalid { field, text } => Self::invalid(field, text),
            Refusal::Forbidden(_) => Self::forbidden(detail),
            Refusal::Taken => Self::conflict(detail),
            Refusal::Replayed => Self::new(StatusCode::CONFLICT, "replayed", detail),
            Refusal::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail),
            Refusal::Unavailable(_) => Self::unavailable(detail),
        }
    }
}

/// By a token, or by a certificate of the bootstrap authority, which TLS has verified.
fn bootstrap(provisioner: &Provisioner, headers: &HeaderMap, peer: &Peer) -> Option<Bootstrap> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let token = Token::parse(token.trim().as_bytes())?;
        return provisioner.of_token(&token).map(|token| token.bootstrap);
    }
    let certificate = ClientCertificate::read(&peer.certificates).ok()?;
    Provisioner::of_certificate(&certificate)
}

async fn provision(
    From(provisioner): From<Arc<Provisioner>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let caller = Caller {
        peer: peer.address,
        client: None,
    };
    let Some(who) = bootstrap(&provisioner, &headers, &peer) else {
        provisioner.stranger(caller);
        return Err(Problem::unauthorized());
    };
    provisioner.count(&who, caller)?;
    let request: Request = match json(&headers, body).await {
        Ok(request) => request,
        Err(problem) => {
            provisioner.refused(&who, caller, None, &problem.detail);
            return Err(problem);
        }
    };
    let identity = provisioner.ask(&who, caller, &request).await?;
    Ok(answer(StatusCode::OK, None, &identity))
}

pub(super) fn router(provisioner: Arc<Provisioner>) -> Router {
    Router::new()
        .route("/v1/provision", post(provision))
        .fallback(|| async {
            Problem::missing("there is nothing at this path: POST /v1/provision")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "POST /v1/provision",
            )
        })
        .with_state(provisioner)
}
