//! A gate's HTTP API, from the client's side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use hyperscale_model::JobId;
use hyperscale_report::{EventRecord, JobResult, LiveView};
use hyperscale_resilience::{Backoff, ErrorClass, Retry, RetryDecision};
use hyperscale_web::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// How often a request is sent again because the gate said when.
const RETRIES_MAX: u32 = 4;
/// What comes on top of the pause that the gate asked for: it asked others for the same.
const SPREAD: Duration = Duration::from_millis(200);
/// A gate that wants to be left alone for longer has refused.
const WAIT_MAX: Duration = Duration::from_secs(60);
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
    /// Whether the gate said when to come again: then it was waited for already.
    pub(crate) const fn was_waited_for(&self) -> bool {
        matches!(self, Self::Refused(Problem { retry_after_seconds: Some(_), .. }))
    }

    /// Whether the gate does not know what was asked for, or not how it ended: another may.
    pub(crate) fn is_unheard(&self) -> bool {
        matches!(self, Self::Refused(problem) if ["not-found", "not-ended"].contains(&&*problem.kind))
    }

    /// What it says of another try at the same gates. Without a word of theirs, the caller decides.
    fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(Problem { retry_after_seconds: Some(seconds), .. })
                if Duration::from_secs(*seconds) <= WAIT_MAX =>
            {
                ErrorClass::Busy { retry_after: Duration::from_secs(*seconds) }
            }
            Self::Refused(_) | Self::Unreachable { .. } | Self::Broken(_) | Self::Unreadable(_) => {
                ErrorClass::Lasting
            }
        }
    }

    /// Whether the same request may succeed later or at another gate.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) => true,
            Self::Unreadable(_) => false,
            Self::Refused(problem) => {
                ["not-ready", "overloaded"].contains(&&*problem.kind) || problem.status == 429
            }
        }
    }
}

/// One or several gates of a cluster, each of which can answer everything.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// `host:port` of each.
    addresses: Vec<String>,
    /// The one that answered last.
    current: Arc<AtomicUsize>,
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
    pub(crate) fn new(addresses: Vec<String>, token: Option<String>) -> Self {
        Self { addresses, current: Arc::default(), token }
    }

    /// Sends a request to a gate, to the others if that fails, and again when they say that it may
    /// be. Each of ours may be repeated: submissions have keys, and a second stop stops nothing
    /// more.
    async fn send(
        &self,
        method: Method,
        path: &str,
        last_event: Option<u64>,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ApiError> {
        let body = Bytes::from(body.unwrap_or_default());
        let seed = getrandom::u64().unwrap_or(0); // It only spreads retries.
        let mut retry = Retry::new(Backoff::seeded(SPREAD, seed), RETRIES_MAX);
        loop {
            let error = match self.ask_each(&method, path, last_event, &body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match retry.decide(error.class()) {
                RetryDecision::After(pause) => {
                    tracing::debug!(path, ?pause, %error, "the gate asks for a pause");
                    tokio::time::sleep(pause).await;
                }
                RetryDecision::GiveUp(_) => return Err(error),
            }
        }
    }

    /// Asks one gate after the other until one can answer.
    async fn ask_each(
        &self,
        method: &Method,
        path: &str,
        last_event: Option<u64>,
        body: &Bytes,
    ) -> Result<Response<Incoming>, ApiError> {
        let mut failure = None;
        for _ in &self.addresses {
            let place = self.current.load(Ordering::Relaxed) % self.addresses.len();
            let address = &self.addresses[place];
            let asked = self.send_once(address, method.clone(), path, last_event, body.clone());
            match asked.await {
                Err(error) if error.is_transient() && self.addresses.len() > 1 => {
                    tracing::debug!(%address, path, %error, "asking another gate");
                    self.current.store(place + 1, Ordering::Relaxed);
                    // A gate that says when to come again knows more than one that is gone.
                    if failure.as_ref().is_none_or(|known: &ApiError| !known.was_waited_for()) {
                        failure = Some(error);
                    }
                }
                answered => return answered,
            }
        }
        Err(failure.unwrap_or_else(|| ApiError::Unreadable("no gate was named".to_owned())))
    }

    async fn send_once(
        &self,
        address: &str,
        method: Method,
        path: &str,
        last_event: Option<u64>,
        body: Bytes,
    ) -> Result<Response<Incoming>, ApiError> {
        let unreachable = |source| ApiError::Unreachable { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
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
            .header(HOST, address)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(last_event) = last_event {
            request = request.header("last-event-id", last_event);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| ApiError::Unreadable(error.to_string()))?;
        let answer = sender.send_request(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        // Whatever stands between may say it too, in words that are not ours.
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok());
        let bytes = read(answer).await?;
        let mut problem: Problem = serde_json::from_slice(&bytes).unwrap_or_else(|_not_ours| {
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            Problem::new(status, "unknown", &format!("the gate answered {status}: {text}"))
        });
        problem.retry_after_seconds = retry_after.or(problem.retry_after_seconds);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A gate that refuses so many times with a pause, and then has no jobs.
    async fn busy_gate(refusals: usize, pause: u64) -> (Api, tokio::task::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Api::new(vec![listener.local_addr().unwrap().to_string()], None);
        let asked = tokio::spawn(async move {
            for refused in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1_024];
                assert!(stream.read(&mut head).await.unwrap() > 0);
                let is_last = refused == refusals;
                let answer = if is_last {
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".to_owned()
                } else {
                    format!(
                        "HTTP/1.1 429 Too Many Requests\r\nretry-after: {pause}\r\n\
                         content-length: 0\r\n\r\n"
                    )
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
                if is_last {
                    return refused;
                }
            }
            0
        });
        (api, asked)
    }

    #[tokio::test]
    async fn lim_05_a_client_comes_again_when_it_is_told_to() {
        let (api, asked) = busy_gate(3, 0).await;

        let jobs: Vec<String> = api.get("/jobs").await.unwrap();

        assert_eq!((jobs.len(), asked.await.unwrap()), (0, 3));
    }

    #[tokio::test]
    async fn orp_07_a_client_asks_the_next_gate_when_one_is_gone() {
        let (gate, asked) = busy_gate(0, 0).await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let api = Api::new(vec![gone.to_string(), gate.addresses[0].clone()], None);

        let jobs: Vec<String> = api.get("/jobs").await.unwrap();

        assert_eq!((jobs.len(), asked.await.unwrap()), (0, 0));
        assert_eq!(api.current.load(Ordering::Relaxed), 1, "the next question goes there too");
    }

    #[tokio::test]
    async fn lim_05_a_client_does_not_wait_for_hours() {
        let (api, asked) = busy_gate(1, 3_600).await;

        let error = api.get::<Vec<String>>("/jobs").await.unwrap_err();

        assert!(matches!(error, ApiError::Refused(problem) if problem.status == 429));
        asked.abort();
    }
}
