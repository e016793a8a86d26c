//! Errors as RFC 9457 wants them.

use axum::Json;
use axum::http::{StatusCode, header};
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
}

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(status: StatusCode, kind: &str, detail: &str) -> Self {
        Self { kind: kind.to_owned(), status: status.as_u16(), detail: detail.to_owned() }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        let (status, kind) = match error.kind {
            RequestErrorKind::BadPlan => (StatusCode::UNPROCESSABLE_ENTITY, "bad-plan"),
            RequestErrorKind::KeyConflict => (StatusCode::CONFLICT, "key-conflict"),
            RequestErrorKind::NoDatacenter => (StatusCode::SERVICE_UNAVAILABLE, "no-datacenter"),
            RequestErrorKind::TooManyJobs => (StatusCode::TOO_MANY_REQUESTS, "too-many-jobs"),
            RequestErrorKind::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            RequestErrorKind::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            RequestErrorKind::NotEnded => (StatusCode::CONFLICT, "not-ended"),
        };
        Self::new(status, kind, &error.message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, Json(self)).into_response()
    }
}
