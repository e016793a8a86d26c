//! Errors as RFC 9457 wants them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyperscale_gate::{RequestError, RequestErrorKind};
use serde::{Deserialize, Serialize};

/// All types of problems, with their status and their meaning: the reference.
pub(crate) const KINDS: &[(&str, u16, &str)] = &[
    ("bad-json", 400, "the body is no JSON; the place is told"),
    ("bad-job-id", 400, "the path names no job"),
    ("broken-body", 400, "the body broke off"),
    ("no-token", 401, "a token is wanted"),
    ("bad-token", 401, "the token is not known"),
    ("forbidden", 403, "the token does not allow this"),
    ("no-such-path", 404, "there is nothing at this path"),
    ("not-found", 404, "there is no such job, workflow or node"),
    ("wrong-method", 405, "the path does not take this method; `allow` has those that it takes"),
    ("too-slow", 408, "the body was not there in time"),
    ("key-conflict", 409, "the key of a submission was used for another test"),
    ("not-ended", 409, "the job is still running"),
    ("cannot-steer", 409, "the job takes no such change: it ends, or its load is of another kind"),
    ("cannot-remove", 409, "the node is a worker, or the only one that votes"),
    ("too-large", 413, "the body is larger than allowed"),
    ("bad-content-type", 415, "the body is not said to be JSON"),
    ("bad-body", 422, "the body is JSON and not what is wanted; the place is told"),
    ("bad-plan", 422, "the test is no plan, or misses a secret or a file"),
    ("too-fast", 429, "too many requests of this kind by this client"),
    ("too-many-jobs", 429, "too many jobs live"),
    ("internal", 500, "something that should not happen"),
    ("no-datacenter", 503, "no datacenter can run the test"),
    ("not-ready", 503, "the gate does not lead yet, or no longer"),
    ("overloaded", 503, "the gate is too slow, or has too much of this kind in flight"),
    ("stopped", 503, "the gate is leaving"),
    ("too-many-connections", 503, "too many connections are open"),
    ("no-answer", 504, "the gate took too long"),
];

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
            RequestErrorKind::CannotSteer => (StatusCode::CONFLICT, "cannot-steer", None),
            RequestErrorKind::CannotRemove => (StatusCode::CONFLICT, "cannot-remove", None),
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
