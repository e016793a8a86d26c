//! What each request leads to.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use hyperscale_gate::{Reply, Request as Ask};
use hyperscale_model::{ClientId, JobId, NodeId};
use hyperscale_node::Part;
use hyperscale_wire::StopMode;

use crate::problem::Problem;
use crate::{Accepted, Api, Caller, Cancellation, NodeRef, Steering, Submission, as_metrics, body};

type Answer = Result<Response, Problem>;

pub(crate) fn parse_job(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|error| {
        let message = format!("`{text}` is no job id: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "bad-job-id", &message)
    })
}

fn unexpected() -> Problem {
    let message = "the gate gave an answer to another question";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

pub(crate) async fn submit(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    request: Request,
) -> Answer {
    let Some(submission) = body::read::<Submission>(request, &api.front.limits).await? else {
        let message = "there is no body; this wants a submission in JSON";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-body", message));
    };
    let blobs = (submission.blobs.iter())
        .map(|text| base64::engine::general_purpose::STANDARD.decode(text).map(Arc::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| {
            let message = format!("a blob is not base64: {error}");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-body", &message)
        })?;
    let (key, plan, secrets) = (submission.key, submission.plan.to_bytes(), submission.secrets);
    match api.ask(client, Ask::Submit { key, plan, blobs, secrets }).await? {
        Reply::Accepted { job } => {
            Ok((StatusCode::CREATED, Json(Accepted { job })).into_response())
        }
        _ => Err(unexpected()),
    }
}

pub(crate) async fn list(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
) -> Answer {
    match api.ask(client, Ask::List).await? {
        Reply::Jobs(jobs) => Ok(Json(jobs).into_response()),
        _ => Err(unexpected()),
    }
}

/// What is asked of a job is answered with how it is then.
async fn job_after(api: &Api, client: ClientId, ask: Ask) -> Answer {
    match api.ask(client, ask).await? {
        Reply::Job(view) => Ok(Json(view).into_response()),
        _ => Err(unexpected()),
    }
}

pub(crate) async fn job(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    Path(job): Path<String>,
) -> Answer {
    let job = parse_job(&job)?;
    job_after(&api, client, Ask::Get { job }).await
}

pub(crate) async fn cancel(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    Path(job): Path<String>,
    request: Request,
) -> Answer {
    let job = parse_job(&job)?;
    let asked = body::read::<Cancellation>(request, &api.front.limits).await?;
    // No body asks for what most people want.
    let Cancellation { workflow, now } = asked.unwrap_or_default();
    let mode = if now { StopMode::Now } else { StopMode::Graceful };
    job_after(&api, client, Ask::Cancel { job, workflow, mode }).await
}

pub(crate) async fn steer(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    Path(job): Path<String>,
    request: Request,
) -> Answer {
    let job = parse_job(&job)?;
    let asked = body::read::<Steering>(request, &api.front.limits).await?;
    let Steering { pause, scale } = asked.unwrap_or_default();
    if pause.is_none() && scale.is_empty() {
        let message = "nothing is asked for; this wants `pause`, `scale` or both";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-body", message));
    }
    let scale = scale.into_iter().collect();
    job_after(&api, client, Ask::Steer { job, pause, scale }).await
}

pub(crate) async fn results(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    Path(job): Path<String>,
) -> Answer {
    let job = parse_job(&job)?;
    match api.ask(client, Ask::Results { job }).await? {
        Reply::Results(result) => Ok(Json(&*result).into_response()),
        _ => Err(unexpected()),
    }
}

pub(crate) async fn datacenters(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
) -> Answer {
    match api.ask(client, Ask::Datacenters).await? {
        Reply::Datacenters(views) => Ok(Json(views).into_response()),
        _ => Err(unexpected()),
    }
}

pub(crate) async fn nodes(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
) -> Answer {
    match api.ask(client, Ask::Nodes).await? {
        Reply::Nodes(views) => Ok(Json(views).into_response()),
        _ => Err(unexpected()),
    }
}

pub(crate) async fn cluster(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
) -> Answer {
    match api.ask(client, Ask::Cluster).await? {
        Reply::Cluster(view) => Ok(Json(view).into_response()),
        _ => Err(unexpected()),
    }
}

pub(crate) async fn remove_node(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    request: Request,
) -> Answer {
    let node = named_node(request, &api).await?;
    match api.ask(client, Ask::Remove { node }).await? {
        Reply::Removed { node } => Ok(Json(NodeRef { node }).into_response()),
        _ => Err(unexpected()),
    }
}

pub(crate) async fn drain_node(
    State(api): State<Api>,
    Extension(Caller(client)): Extension<Caller>,
    request: Request,
) -> Answer {
    let node = named_node(request, &api).await?;
    match api.ask(client, Ask::Drain { node }).await? {
        Reply::Draining { node } => {
            Ok((StatusCode::ACCEPTED, Json(NodeRef { node })).into_response())
        }
        _ => Err(unexpected()),
    }
}

/// The node that a body names.
async fn named_node(request: Request, api: &Api) -> Result<NodeId, Problem> {
    let asked = body::read::<NodeRef>(request, &api.front.limits).await?;
    asked.map(|NodeRef { node }| node).ok_or_else(|| {
        let message = "nothing is named; this wants `node`";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-body", message)
    })
}

pub(crate) async fn health() -> StatusCode {
    StatusCode::OK
}

pub(crate) async fn openapi() -> Response {
    Json(crate::openapi()).into_response()
}

/// Also answers if the gate does not: then its jobs are missing.
pub(crate) async fn metrics(State(api): State<Api>) -> Response {
    let jobs = match api.ask(ClientId::from("metrics"), Ask::List).await {
        Ok(Reply::Jobs(jobs)) => Some(jobs),
        Ok(_) => None,
        Err(Problem { kind, detail, .. }) => {
            if let Some(held_back) = api.front.observer.trouble(Part::Web, "metrics", &kind) {
                tracing::warn!(kind, detail, held_back, "metrics lack the gate's jobs");
            }
            None
        }
    };
    let text = api.front.observer.text() + &api.front.counts.text(jobs.as_deref());
    as_metrics(text)
}
