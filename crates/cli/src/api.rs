//! A gate's HTTP API, from the client's side.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use hyperscale_model::JobId;
use hyperscale_report::{EventRecord, JobResult, LiveView};
use hyperscale_web::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// Larger answers than this are refused.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Why a request to a gate failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the gate at {address} cannot be reached")]
    Unreachable { address: String, source: std::io::Error },
    #[error("the connection to the gate broke")]
    Broken(#[from] hyper::Error),
    #[error("the gate's answer cannot be read: {0}")]
    Unreadable(String),
    #[error("{}", .0.detail)]
    Refused(Problem),
}

impl ApiError {
    /// Whether the same request may succeed later or at another gate.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) => true,
            Self::Unreadable(_) => false,
            Self::Refused(problem) => problem.kind == "not-ready" || problem.status == 429,
        }
    }
}

/// A gate.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// `host:port`.
    address: String,
    token: Option<String>,
}

/// What a stream of events brings.
#[derive(Debug)]
pub(crate) enum News {
    Event(EventRecord),
    View(Box<LiveView>),
    End,
}

impl Api {
    pub(crate) fn new(address: String, token: Option<String>) -> Self {
        Self { address, token }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        last_event: Option<u64>,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ApiError> {
        let unreachable = |source| ApiError::Unreachable { address: self.address.clone(), source };
        let stream = TcpStream::connect(&self.address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the gate ended");
            }
        });
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(last_event) = last_event {
            request = request.header("last-event-id", last_event);
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| ApiError::Unreadable(error.to_string()))?;
        let answer = sender.send_request(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = read(answer).await?;
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_not_ours| {
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            Problem::new(status, "unknown", &format!("the gate answered {status}: {text}"))
        });
        Err(ApiError::Refused(problem))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        parse(&read(self.send(Method::GET, path, None, None).await?).await?)
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ApiError::Unreadable(error.to_string()))?;
        parse(&read(self.send(Method::POST, path, None, Some(body)).await?).await?)
    }

    pub(crate) async fn results(&self, job: JobId) -> Result<JobResult, ApiError> {
        self.get(&format!("/jobs/{job}/results")).await
    }

    /// The news of a job after an event.
    pub(crate) async fn events(&self, job: JobId, after: u64) -> Result<Events, ApiError> {
        let path = format!("/jobs/{job}/events");
        let body = self.send(Method::GET, &path, Some(after), None).await?.into_body();
        Ok(Events { body, text: Vec::new() })
    }
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, ApiError> {
    match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(ApiError::Unreadable(error.to_string())),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::Unreadable(error.to_string()))
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    text: Vec<u8>,
}

impl Events {
    /// The next news; `None` if the stream ended before the job.
    pub(crate) async fn next(&mut self) -> Result<Option<News>, ApiError> {
        loop {
            while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(news) = parse_block(&String::from_utf8_lossy(&block))? {
                    return Ok(Some(news));
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.text.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

fn parse_block(block: &str) -> Result<Option<News>, ApiError> {
    let (mut name, mut data) = ("", String::new());
    for line in block.lines() {
        if let Some(value) = line.strip_prefix("event:") {
            name = value.trim();
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push_str(value.trim_start());
        }
    }
    Ok(match name {
        "event" => Some(News::Event(parse(data.as_bytes())?)),
        "view" => Some(News::View(Box::new(parse(data.as_bytes())?))),
        "end" => Some(News::End),
        "problem" => return Err(ApiError::Refused(parse(data.as_bytes())?)),
        // A comment that keeps the connection alive, or something newer than this client.
        _ => None,
    })
}
