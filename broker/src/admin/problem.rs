//! What is said when something is not done: problem details (RFC 9457).

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use serde_json::json;

use crate::registry::{Invalid, RegistryError};

/// The media type of a problem.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// A refusal, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// The end of its `type`, which programs may rely on.
    pub(crate) kind: &'static str,
    pub(crate) detail: String,
    /// The field of the request that is at fault.
    pub(crate) field: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
            field: None,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid", detail)
        }
    }

    pub(crate) fn unauthorized() -> Self {
        let words = "a token is needed: Authorization: Bearer <token>";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", words)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub(crate) fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "missing", detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "exists", detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }
}

impl Problem {
    /// The body, of the type `application/problem+json`.
    pub(crate) fn body(&self) -> String {
        let mut body = json!({
            "type": format!("urn:dunlin:problem:{}", self.kind),
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let (Some(field), Some(body)) = (&self.field, body.as_object_mut()) {
            body.insert("field".to_owned(), field.as_str().into());
        }
        body.to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = HeaderValue::from_static(PROBLEM);
        let mut response = (self.status, [(CONTENT_TYPE, kind)], self.body()).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, how);
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(invalid.field, invalid.text)
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::Invalid(invalid) => invalid.into(),
            RegistryError::Exists { .. } | RegistryError::Taken { .. } => Self::conflict(detail),
            RegistryError::Missing => Self::missing(detail),
            RegistryError::Changed { .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, "changed", detail)
            }
            RegistryError::Busy | RegistryError::Store(_) => Self::unavailable(detail),
            RegistryError::Damaged { .. } => {
                tracing::error!("{detail}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", detail)
            }
        }
    }
}

impl From<dunlin_sync::StoreError> for Problem {
    fn from(error: dunlin_sync::StoreError) -> Self {
        Self::unavailable(error.to_string())
    }
}
