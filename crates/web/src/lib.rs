//! The HTTP API of a gate, under `/api/v1`, and its metrics at `/metrics`. The command line uses
//! nothing else.
//!
//! One table says what there is (`operations.rs`): routes, who may use them, limits, metrics and the
//! OpenAPI document come from it. `docs/openapi.json` is that document.
//!
//! Errors are `application/problem+json` (RFC 9457) with a stable `type`.

mod body;
mod counts;
mod events;
mod handlers;
mod limits;
mod openapi;
mod operations;
mod patience;
mod problem;
mod schemas;
mod server;
mod tokens;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyperscale_gate::{Reply, Request as Ask};
use hyperscale_model::{Class, ClientId, JobId, NodeId};
use hyperscale_node::{GateHandle, Observer};
use hyperscale_plan::{Plan, Secrets};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use crate::limits::Limits;
pub use crate::openapi::document as openapi;
pub use crate::problem::Problem;
pub use crate::tokens::{Access, Token, Tokens};
pub use hyperscale_resilience::Rate;

use hyperscale_resilience::{Shed, ShedReason, Shedder, ShedderConfig};

use crate::limits::{Asker, RateLimiter};
use crate::operations::{OPERATIONS, Operation, methods_of};
use crate::server::{Front, Peer};

/// Buckets of rate limits at once.
const BUCKETS_MAX: usize = 10_000;

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

/// How a job is steered from now on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steering {
    /// Whether its load stands still; as before if absent.
    #[serde(default)]
    pub pause: Option<bool>,
    /// Workflows, each with how much of its load is sent: users such as `50`, a rate such as
    /// `200/s`, or a share of the plan such as `40%`.
    #[serde(default)]
    pub scale: BTreeMap<String, String>,
}

/// A node, by its id.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRef {
    /// Which.
    pub node: NodeId,
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    gate: GateHandle,
    tokens: Arc<Tokens>,
    limiter: Option<Arc<Mutex<RateLimiter>>>,
    shedder: Arc<Mutex<Shedder>>,
    front: Arc<Front>,
}

/// In whose name a request is made.
#[derive(Debug, Clone)]
pub(crate) struct Caller(ClientId);

/// Serves the API until the listener breaks or the future is dropped.
///
/// # Errors
///
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    gate: GateHandle,
    tokens: Tokens,
    limits: Limits,
) -> std::io::Result<()> {
    let api = Api::new(gate, tokens, limits);
    server::serve(listener, router(&api), Arc::clone(&api.front)).await
}

/// Serves what a process counts, at `/metrics`: for one that has no gate.
///
/// # Errors
///
/// If the listener breaks.
pub async fn serve_metrics(
    listener: TcpListener,
    observer: Arc<Observer>,
    tokens: Tokens,
    limits: Limits,
) -> std::io::Result<()> {
    let front = Front::new(limits, Arc::clone(&observer));
    let show = async move |headers: HeaderMap| {
        tokens.check(&headers, Access::View).map(|_client| as_metrics(observer.text()))
    };
    let router = axum::Router::new().route("/metrics", get(show)).fallback(async || {
        let message = "there is nothing here but /metrics";
        Problem::new(StatusCode::NOT_FOUND, "no-such-path", message)
    });
    server::serve(listener, router, front).await
}

/// Metrics as an answer.
pub(crate) fn as_metrics(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn router(api: &Api) -> axum::Router {
    let mut router = axum::Router::new();
    for operation in OPERATIONS {
        let guarded = from_fn_with_state((api.clone(), operation), guard);
        router = router.route(operation.path, (operation.handler)().route_layer(guarded));
    }
    router
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        // What axum refuses by itself is too large for nothing: bodies have limits of their own.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(api.clone())
}

/// Lets a request through to its handler if its client may ask for that, now.
async fn guard(
    State((api, operation)): State<(Api, &'static Operation)>,
    mut request: Request,
    next: Next,
) -> Response {
    let admitted = api.admit(operation, &request);
    let admitted = admitted.and_then(|client| Ok((client, api.take_on(operation.class)?)));
    let answer = match admitted {
        Ok((client, _in_flight)) => {
            request.extensions_mut().insert(Caller(client));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    api.front.counts.answered(Some(operation), answer.status());
    answer
}

/// A request that was taken on, as long as it lives.
#[derive(Debug)]
struct InFlight {
    shedder: Arc<Mutex<Shedder>>,
    class: Class,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shedder.lock().unwrap_or_else(PoisonError::into_inner).finish(self.class);
    }
}

async fn no_path(State(api): State<Api>, request: Request) -> Response {
    let message = format!("there is no path {}; see /api/v1/openapi.json", request.uri().path());
    let answer = Problem::new(StatusCode::NOT_FOUND, "no-such-path", &message).into_response();
    api.front.counts.answered(None, answer.status());
    answer
}

async fn no_method(State(api): State<Api>, request: Request) -> Response {
    let allowed = methods_of(request.uri().path()).join(", ");
    let message = format!("{} takes {allowed}, and not {}", request.uri().path(), request.method());
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", &message);
    let mut answer = problem.into_response();
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        answer.headers_mut().insert(header::ALLOW, allowed);
    }
    api.front.counts.answered(None, answer.status());
    answer
}

impl Api {
    fn new(gate: GateHandle, tokens: Tokens, limits: Limits) -> Self {
        let limiter =
            limits.rate.map(|rate| Arc::new(Mutex::new(RateLimiter::new(rate, BUCKETS_MAX))));
        let front = Front::new(limits, Arc::clone(gate.observer()));
        let shedder = Arc::new(Mutex::new(Shedder::new(ShedderConfig::DEFAULT)));
        Self { gate, tokens: Arc::new(tokens), limiter, shedder, front }
    }

    /// Takes a request on, unless the gate has too much to do already.
    fn take_on(&self, class: Class) -> Result<InFlight, Problem> {
        let state = self.front.observer.overload();
        let mut shedder = self.shedder.lock().unwrap_or_else(PoisonError::into_inner);
        match shedder.admit(state, class) {
            Ok(()) => Ok(InFlight { shedder: Arc::clone(&self.shedder), class }),
            Err(Shed { reason, retry_after }) => {
                self.front.counts.shed.fetch_add(1, Ordering::Relaxed);
                let message = match reason {
                    ShedReason::Overload(state) => {
                        format!("the gate is slow just now ({state:?}); try again, or ask another")
                    }
                    ShedReason::ClassFull | ShedReason::AllFull => {
                        "the gate has too many requests in flight; try again".to_owned()
                    }
                };
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", &message)
                    .retry_after(retry_after.as_secs().max(1)))
            }
        }
    }

    /// Whether a request may pass, and in whose name.
    fn admit(&self, operation: &'static Operation, request: &Request) -> Result<ClientId, Problem> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
        let from_peer = Asker::Address(peer);
        let (client, asker) = match operation.needs.map(|n| self.tokens.check(request.headers(), n))
        {
            None => (ClientId::from("anonymous"), from_peer),
            Some(Ok(client)) if self.tokens.0.is_empty() => (client, from_peer),
            Some(Ok(client)) => (client.clone(), Asker::Client(client)),
            Some(Err(problem)) => {
                // Guessing tokens is slow, too.
                self.take(from_peer, "refused")?;
                return Err(problem);
            }
        };
        if operation.is_limited {
            self.take(asker, operation.id)?;
        }
        Ok(client)
    }

    fn take(&self, asker: Asker, operation: &'static str) -> Result<(), Problem> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let now = self.front.observer.clock().now();
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.take(now, (asker, operation)).map_err(|wait: Duration| {
            self.front.counts.rate_limited.fetch_add(1, Ordering::Relaxed);
            let message = format!("too many requests of this kind; the next may come in {wait:?}");
            // Whole seconds, and never too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-fast", &message).retry_after(seconds)
        })
    }

    /// Asks the gate, and waits only so long.
    pub(crate) async fn ask(&self, client: ClientId, ask: Ask) -> Result<Reply, Problem> {
        match tokio::time::timeout(self.front.limits.answer_time, self.watch(client, ask)).await {
            Ok(reply) => reply,
            Err(_late) => {
                let message =
                    format!("the gate has no answer after {:?}", self.front.limits.answer_time);
                Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "no-answer", &message).retry_after(1))
            }
        }
    }

    /// Asks the gate something that has no answer before something happens.
    pub(crate) async fn watch(&self, client: ClientId, ask: Ask) -> Result<Reply, Problem> {
        match self.gate.ask(client, ask).await {
            Ok(Reply::Error(error)) => Err(Problem::from(error)),
            Ok(reply) => Ok(reply),
            Err(error) => {
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", &error.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
