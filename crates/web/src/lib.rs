//! The HTTP API of a gate, under `/api/v1`. The command line uses nothing else.
//!
//! | request | answer |
//! |---|---|
//! | `POST /jobs` [`Submission`] | `201` [`Accepted`]; the same for a repeated key |
//! | `GET /jobs` | [`JobView`]s, the newest first |
//! | `GET /jobs/{job}` | [`JobView`] |
//! | `POST /jobs/{job}/cancel` [`Cancellation`] | [`JobView`] |
//! | `GET /jobs/{job}/results` | [`JobResult`], or `409` while it runs |
//! | `GET /jobs/{job}/events` | server-sent events: `event` ([`EventRecord`], resumed after `Last-Event-ID`), `view` ([`LiveView`]), `end` |
//! | `GET /datacenters` | [`DatacenterView`]s |
//! | `GET /health` | `200` while the gate answers; needs no token |
//!
//! Errors are `application/problem+json` (RFC 9457) with a stable `type`.
//!
//! [`JobView`]: hyperscale_gate::JobView
//! [`DatacenterView`]: hyperscale_gate::DatacenterView
//! [`JobResult`]: hyperscale_report::JobResult
//! [`EventRecord`]: hyperscale_report::EventRecord
//! [`LiveView`]: hyperscale_report::LiveView

mod events;
mod problem;
mod tokens;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use hyperscale_gate::{Reply, Request};
use hyperscale_model::JobId;
use hyperscale_node::GateHandle;
use hyperscale_plan::{Plan, Secrets};
use hyperscale_wire::StopMode;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use crate::problem::Problem;
pub use crate::tokens::{Access, Token, Tokens};

/// The largest request: a plan with its data, in base64.
const BODY_BYTES_MAX: usize = 96 << 20;

/// A test to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Repeating a submission with its key changes nothing.
    pub key: String,
    /// The compiled test.
    pub plan: Plan,
    /// The blobs that the plan names, in base64.
    #[serde(default)]
    pub blobs: Vec<String>,
    /// The values of its secrets.
    #[serde(default)]
    pub secrets: Secrets,
}

/// A test that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Accepted {
    /// The job.
    pub job: JobId,
}

/// What shall stop, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancellation {
    /// One workflow instead of the whole job.
    #[serde(default)]
    pub workflow: Option<String>,
    /// Whether running requests are cut instead of finished.
    #[serde(default)]
    pub now: bool,
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    gate: GateHandle,
    tokens: Arc<Tokens>,
}

/// Serves the API until the listener breaks or the future is dropped.
///
/// # Errors
///
/// If the listener breaks.
pub async fn serve(listener: TcpListener, gate: GateHandle, tokens: Tokens) -> std::io::Result<()> {
    let api = Api { gate, tokens: Arc::new(tokens) };
    let jobs = axum::Router::new()
        .route("/jobs", get(list).post(submit))
        .route("/jobs/{job}", get(job))
        .route("/jobs/{job}/cancel", post(cancel))
        .route("/jobs/{job}/results", get(results))
        .route("/jobs/{job}/events", get(events::follow))
        .route("/datacenters", get(datacenters))
        .route("/health", get(async || StatusCode::OK))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not-found", "no such path"))
        .method_not_allowed_fallback(async || {
            let message = "this path takes no such method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "bad-method", message)
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api);
    let router = axum::Router::new().nest("/api/v1", jobs);
    axum::serve(listener, router).await
}

impl Api {
    /// Asks the gate in the name of whoever's token the request carries.
    pub(crate) async fn ask(
        &self,
        headers: &HeaderMap,
        needed: Access,
        request: Request,
    ) -> Result<Reply, Problem> {
        let client = self.tokens.check(headers, needed)?;
        let reply = self.gate.ask(client, request).await;
        match reply {
            Ok(Reply::Error(error)) => Err(Problem::from(error)),
            Ok(reply) => Ok(reply),
            Err(error) => {
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", &error.to_string()))
            }
        }
    }
}

fn parse_job(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|error| {
        let message = format!("`{text}` is no job id: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "bad-job-id", &message)
    })
}

fn unexpected() -> Response {
    let message = "the gate gave an answer to another question";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).into_response()
}

async fn submit(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Json<Submission>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(submission) =
        body.map_err(|error| Problem::new(error.status(), "bad-submission", &error.body_text()))?;
    let blobs = (submission.blobs.iter())
        .map(|text| base64::engine::general_purpose::STANDARD.decode(text).map(Arc::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| {
            let message = format!("a blob is not base64: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "bad-submission", &message)
        })?;
    let (key, plan, secrets) = (submission.key, submission.plan.to_bytes(), submission.secrets);
    let request = Request::Submit { key, plan, blobs, secrets };
    match api.ask(&headers, Access::Run, request).await? {
        Reply::Accepted { job } => {
            Ok((StatusCode::CREATED, Json(Accepted { job })).into_response())
        }
        _ => Ok(unexpected()),
    }
}

async fn list(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    match api.ask(&headers, Access::View, Request::List).await? {
        Reply::Jobs(jobs) => Ok(Json(jobs).into_response()),
        _ => Ok(unexpected()),
    }
}

async fn job(
    State(api): State<Api>,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = parse_job(&job)?;
    match api.ask(&headers, Access::View, Request::Get { job }).await? {
        Reply::Job(view) => Ok(Json(view).into_response()),
        _ => Ok(unexpected()),
    }
}

async fn cancel(
    State(api): State<Api>,
    Path(job): Path<String>,
    headers: HeaderMap,
    body: Result<Option<Json<Cancellation>>, JsonRejection>,
) -> Result<Response, Problem> {
    let job = parse_job(&job)?;
    let body =
        body.map_err(|error| Problem::new(error.status(), "bad-request", &error.body_text()))?;
    let Cancellation { workflow, now } = body.map(|Json(body)| body).unwrap_or_default();
    let mode = if now { StopMode::Now } else { StopMode::Graceful };
    match api.ask(&headers, Access::Run, Request::Cancel { job, workflow, mode }).await? {
        Reply::Job(view) => Ok(Json(view).into_response()),
        _ => Ok(unexpected()),
    }
}

async fn results(
    State(api): State<Api>,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = parse_job(&job)?;
    match api.ask(&headers, Access::View, Request::Results { job }).await? {
        Reply::Results(result) => Ok(Json(&*result).into_response()),
        _ => Ok(unexpected()),
    }
}

async fn datacenters(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    match api.ask(&headers, Access::View, Request::Datacenters).await? {
        Reply::Datacenters(views) => Ok(Json(views).into_response()),
        _ => Ok(unexpected()),
    }
}
