//! Spans on their way to a collector: OTLP over HTTP, in its JSON encoding.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>. Roles put spans into a queue that never makes
//! them wait: when it is full the oldest goes, and is counted. A task of its own takes batches out of
//! it. A collector that is slow, gone or wrong costs spans, never load. A batch whose answer was lost
//! is sent again, so a collector may see a span twice, with the same ids.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use hyperscale_model::WallTime;
use hyperscale_resilience::Backoff;
use hyperscale_wire::SOFTWARE;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::gate::chain;
use crate::observe::{Count, Observer, Part};
use crate::storage::random;
use crate::traces::{Attribute, Source, Span, Value};

/// Spans that may wait: those of a job of some thousand attempts while a collector restarts, in a few
/// MiB.
const QUEUE_MAX: usize = 4_096;
/// Spans of one request: some 200 kB, which the node's thread writes in about a millisecond.
const BATCH_MAX: usize = 256;
/// How long a span waits for others to go with it.
const LINGER: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between tries, at first and at most.
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// What a node that leaves gives the collector for what is left.
const LAST: Duration = Duration::from_secs(2);
/// Answers say next to nothing.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where traces go: an OTLP endpoint over HTTP, such as `http://localhost:4318`; the path of traces
/// is added, as the specification wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// `host:port`, to connect to.
    address: String,
    /// The same as the URL has it.
    host: String,
    path: String,
}

/// Why a text is no place for traces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseOtlpEndpointError {
    /// Not the URL of a host.
    #[error("it is no URL such as http://localhost:4318")]
    NotUrl,
    /// TLS is left to the collector.
    #[error("only http is spoken: send to a collector on this machine, and have it speak TLS")]
    NotHttp,
    /// More than a place.
    #[error("a URL with a user or a query is no endpoint")]
    TooMuch,
}

impl FromStr for OtlpEndpoint {
    type Err = ParseOtlpEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_no_uri| ParseOtlpEndpointError::NotUrl)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(ParseOtlpEndpointError::NotHttp),
            Some(_) | None => return Err(ParseOtlpEndpointError::NotUrl),
        }
        let authority = uri.authority().ok_or(ParseOtlpEndpointError::NotUrl)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(ParseOtlpEndpointError::TooMuch);
        }
        Ok(Self {
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)),
            host: authority.to_string(),
            path: format!("{}/v1/traces", uri.path().trim_end_matches('/')),
        })
    }
}

/// Spans that wait for the collector, the oldest first.
#[derive(Debug)]
pub(crate) struct SpanQueue {
    waiting: Mutex<VecDeque<Span>>,
    news: Notify,
    observer: Arc<Observer>,
}

impl SpanQueue {
    pub(crate) fn new(observer: Arc<Observer>) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), news: Notify::new(), observer })
    }

    /// Never waits.
    pub(crate) fn push(&self, span: Span) {
        let mut waiting = self.waiting();
        waiting.push_back(span);
        self.bound(&mut waiting);
        drop(waiting);
        self.news.notify_one();
    }

    /// The next batch.
    pub(crate) fn take(&self) -> Vec<Span> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(BATCH_MAX);
        waiting.drain(..count).collect()
    }

    /// What could not be sent is sent again, before what came meanwhile.
    fn put_back(&self, batch: Vec<Span>) {
        let mut waiting = self.waiting();
        for span in batch.into_iter().rev() {
            waiting.push_front(span);
        }
        self.bound(&mut waiting);
    }

    fn len(&self) -> usize {
        self.waiting().len()
    }

    fn bound(&self, waiting: &mut VecDeque<Span>) {
        let excess = waiting.len().saturating_sub(QUEUE_MAX);
        waiting.drain(..excess);
        self.observer.add(Count::SpanDropped, excess as u64);
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the collector cannot be reached")]
    Unreachable(#[source] std::io::Error),
    #[error("the connection to the collector broke")]
    Broken(#[from] hyper::Error),
    #[error("the collector does not answer")]
    Silent,
    #[error("the collector answered {status}")]
    Busy { status: StatusCode, retry_after: Option<Duration> },
    #[error("the collector refused with {status}: {answer}")]
    Refused { status: StatusCode, answer: String },
    #[error("the spans cannot be written")]
    Unwritable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ExportError {
    /// Whether the same batch would fail again.
    const fn is_lasting(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Unwritable(_) => true,
            Self::Unreachable(_) | Self::Broken(_) | Self::Silent | Self::Busy { .. } => false,
        }
    }

    /// When the collector wants to be asked again, if it says so.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            Self::Unreachable(_)
            | Self::Broken(_)
            | Self::Silent
            | Self::Refused { .. }
            | Self::Unwritable(_) => None,
        }
    }
}

/// The task that exports.
#[derive(Debug)]
pub(crate) struct Export {
    queue: Arc<SpanQueue>,
    leaving: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Export {
    /// Starts to send what is put into the queue. Within a [`tokio::task::LocalSet`].
    pub(crate) fn start(endpoint: OtlpEndpoint, queue: Arc<SpanQueue>) -> Self {
        let (leaving, is_leaving) = watch::channel(false);
        let task = tokio::task::spawn_local(run(endpoint, Arc::clone(&queue), is_leaving));
        Self { queue, leaving, task }
    }

    /// Sends what is left, if that is soon done.
    pub(crate) async fn finish(self) {
        self.leaving.send_replace(true);
        let ended = self.task.await;
        let left = self.queue.len();
        if left > 0 {
            self.queue.observer.add(Count::SpanDropped, left as u64);
            tracing::warn!(left, ?ended, "not all spans were exported");
        }
    }
}

async fn run(endpoint: OtlpEndpoint, queue: Arc<SpanQueue>, mut is_leaving: watch::Receiver<bool>) {
    let seed = random().unwrap_or(0); // It only spreads retries.
    let mut backoff = Backoff::seeded(RETRY_BASE, seed).with_cap(RETRY_MAX);
    let mut leaves = is_leaving.clone();
    let mut too_late = std::pin::pin!(async move {
        left(&mut leaves).await;
        tokio::time::sleep(LAST).await;
    });
    loop {
        if queue.len() == 0 {
            tokio::select! {
                () = queue.news.notified() => {}
                () = left(&mut is_leaving) => {}
            }
        }
        if queue.len() < BATCH_MAX {
            pause(LINGER, &mut is_leaving).await;
        }
        let batch = queue.take();
        if batch.is_empty() {
            if *is_leaving.borrow() {
                return;
            }
            continue;
        }
        let sent = tokio::select! {
            sent = send(&endpoint, &queue.observer, &batch) => sent,
            () = &mut too_late => Err(ExportError::Silent),
        };
        let Err(error) = sent else {
            backoff.reset();
            continue;
        };
        if let Some(held_back) = queue.observer.trouble(Part::Traces, "export", &endpoint.host) {
            let spans = batch.len();
            tracing::warn!(error = chain(&error), spans, held_back, "spans were not exported");
        }
        if error.is_lasting() {
            queue.observer.add(Count::SpanRefused, batch.len() as u64);
            continue;
        }
        queue.put_back(batch);
        if *is_leaving.borrow() {
            return;
        }
        let wanted = error.retry_after().unwrap_or_default().min(RETRY_MAX);
        pause(backoff.next_delay().max(wanted), &mut is_leaving).await;
    }
}

/// Waits until the node leaves.
async fn left(is_leaving: &mut watch::Receiver<bool>) {
    // Whoever has dropped the sender leaves as well.
    drop(is_leaving.wait_for(|is_leaving| *is_leaving).await);
}

/// Waits, but not beyond that.
async fn pause(length: Duration, is_leaving: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        () = left(is_leaving) => {}
    }
}

async fn send(
    endpoint: &OtlpEndpoint,
    observer: &Observer,
    batch: &[Span],
) -> Result<(), ExportError> {
    let body = serde_json::to_vec(&request(batch));
    let body = body.map_err(|error| ExportError::Unwritable(error.into()))?;
    let answered = tokio::time::timeout(ANSWER, post(endpoint, body)).await;
    let answer = answered.map_err(|_late| ExportError::Silent)??;
    let partial = answer.partial_success.unwrap_or_default();
    let refused = partial.rejected_spans.as_u64().min(batch.len() as u64);
    observer.add(Count::SpanExported, batch.len() as u64 - refused);
    observer.add(Count::SpanRefused, refused);
    if refused > 0
        && let Some(held_back) = observer.trouble(Part::Traces, "refused spans", "")
    {
        let why = partial.error_message;
        tracing::warn!(refused, why, held_back, "the collector took only a part of the spans");
    }
    Ok(())
}

/// What a collector says of a batch that it took.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    partial_success: Option<PartialSuccess>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PartialSuccess {
    rejected_spans: Count64,
    error_message: String,
}

/// 64 bits as JSON has them: as text, or as a number all the same.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Count64 {
    Number(u64),
    Text(String),
}

impl Default for Count64 {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Count64 {
    fn as_u64(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.parse().unwrap_or(0),
        }
    }
}

async fn post(endpoint: &OtlpEndpoint, body: Vec<u8>) -> Result<Answer, ExportError> {
    let stream = TcpStream::connect(&endpoint.address).await.map_err(ExportError::Unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this function, whatever the answer.
    let mut connections = JoinSet::new();
    connections.spawn_local(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(&endpoint.path)
        .header(HOST, &endpoint.host)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, format!("hyperscale/{SOFTWARE}"))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| ExportError::Unwritable(error.into()))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    // What cannot be read says nothing beside the status.
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let status = head.status;
    if status.is_success() {
        return Ok(serde_json::from_slice(&body).unwrap_or_default());
    }
    // Those that the specification wants to be tried again.
    if matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        return Err(ExportError::Busy { status, retry_after });
    }
    let answer: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
    Err(ExportError::Refused { status, answer })
}

/// An `ExportTraceServiceRequest`.
fn request(batch: &[Span]) -> Json {
    let mut by_source: BTreeMap<&Source, Vec<Json>> = BTreeMap::new();
    for span in batch {
        by_source.entry(&span.source).or_default().push(span_json(span));
    }
    let all = by_source.into_iter().map(|(source, spans)| {
        json!({
            "resource": { "attributes": resource(source) },
            "scopeSpans": [{
                "scope": { "name": "hyperscale", "version": SOFTWARE },
                "spans": spans,
            }],
        })
    });
    json!({ "resourceSpans": all.collect::<Vec<_>>() })
}

fn resource(source: &Source) -> Json {
    let Source { role, node, datacenter, cluster, environment } = source;
    let text = |text: &dyn std::fmt::Display| Value::Text(text.to_string());
    attributes(&[
        ("service.namespace", text(&"hyperscale")),
        ("service.name", text(&format_args!("hyperscale-{role}"))),
        ("service.version", text(&SOFTWARE)),
        ("service.instance.id", text(node)),
        ("deployment.environment.name", text(environment)),
        ("hyperscale.cluster", text(cluster)),
        ("hyperscale.datacenter", text(datacenter)),
        ("hyperscale.role", text(role)),
        ("hyperscale.node", text(node)),
    ])
}

fn span_json(span: &Span) -> Json {
    let moments = span.moments.iter().map(|moment| {
        json!({
            "timeUnixNano": nanos(moment.at),
            "name": moment.name,
            "attributes": attributes(&moment.attributes),
        })
    });
    let mut json = json!({
        "traceId": span.subject.trace().to_string(),
        "spanId": span.subject.span().to_string(),
        "name": span.subject.name(),
        "kind": 1, // Internal.
        "startTimeUnixNano": nanos(span.start),
        "endTimeUnixNano": nanos(span.end),
        "attributes": attributes(&span.attributes),
        "events": moments.collect::<Vec<_>>(),
        "droppedEventsCount": span.moments_dropped,
        "status": match &span.failure {
            Some(failure) => json!({ "code": 2, "message": failure.message }),
            None => json!({}), // Unset: nothing went wrong.
        },
    });
    if let Some(parent) = span.subject.parent() {
        json["parentSpanId"] = parent.to_string().into();
    }
    json
}

fn attributes(attributes: &[Attribute]) -> Json {
    let all = attributes.iter().map(|(key, value)| {
        let value = match value {
            Value::Text(text) => json!({ "stringValue": text }),
            Value::Number(number) => json!({ "intValue": number.to_string() }),
        };
        json!({ "key": key, "value": value })
    });
    all.collect()
}

/// 64 bits are text in JSON.
fn nanos(at: WallTime) -> String {
    (u128::from(at.as_millis()) * 1_000_000).to_string()
}

#[cfg(test)]
mod tests;
