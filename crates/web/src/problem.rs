//! Errors as RFC 9457 wants them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyperscale_gate::{RequestError, RequestErrorKind};
use serde::{Deserialize, Serialize};

/// An answer that says what went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For programs: stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// For people.
    pub detail: String,
    /// In how long the same request may succeed; the header `retry-after` says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(status: StatusCode, kind: &str, detail: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            status: status.as_u16(),
            detail: detail.to_owned(),
            retry_after_seconds: None,
        }
    }

    /// The same, with the time after which a client should try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        let (status, kind, retry_after_seconds) = match error.kind {
            RequestErrorKind::BadPlan => (StatusCode::UNPROCESSABLE_ENTITY, "bad-plan", None),
            RequestErrorKind::KeyConflict => (StatusCode::CONFLICT, "key-conflict", None),
            RequestErrorKind::NoDatacenter => {
                (StatusCode::SERVICE_UNAVAILABLE, "no-datacenter", None)
            }
            RequestErrorKind::TooManyJobs => {
                (StatusCode::TOO_MANY_REQUESTS, "too-many-jobs", Some(5))
            }
            RequestErrorKind::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", Some(1)),
            RequestErrorKind::NotFound => (StatusCode::NOT_FOUND, "not-found", None),
            RequestErrorKind::NotEnded => (StatusCode::CONFLICT, "not-ended", None),
        };
        Self { retry_after_seconds, ..Self::new(status, kind, &error.message) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after_seconds;
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
