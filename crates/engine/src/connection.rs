//! One HTTP/1.1 connection: a request out, its answer in, parsed in place.
//!
//! Bytes are read into a buffer that all connections of a core share; only an answer that arrives
//! in pieces needs memory of its own, and only for its head. Bodies are counted and dropped unless
//! somebody asks to keep them.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use hyperscale_model::Outcome;
use hyperscale_plan::HttpSettings;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::request::Origin;
use crate::{clock, tls};

/// Bytes that a core reads at once.
pub const SCRATCH_BYTES: usize = 64 << 10;
/// The largest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of an answer.
const HEADERS_MAX: usize = 128;

/// Why an exchange failed, in the words of an outcome.
#[derive(Debug)]
pub struct Failure {
    /// The outcome.
    pub outcome: Outcome,
    /// What happened.
    pub message: String,
    /// Whether the connection had been used before and not one byte of an answer came: the server
    /// closed it while it was idle.
    pub is_stale: bool,
}

impl Failure {
    /// A failure with an outcome, in words.
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { outcome, message: message.into(), is_stale: false }
    }
}

/// What an exchange has come to. It outlives the exchange, so that one that is cut short still
/// tells how far it got.
#[derive(Debug, Default)]
pub struct Trace {
    /// When the first byte of the answer came.
    pub first_byte: Cell<Option<Instant>>,
    /// The status of the last answer.
    pub status: Cell<Option<u16>>,
    /// Bytes received, heads included.
    pub bytes_in: Cell<u64>,
    /// Bytes sent, heads included.
    pub bytes_out: Cell<u64>,
    /// How long the connection took to open, if this exchange opened it.
    pub connect: Cell<Option<Duration>>,
    /// How long the TLS handshake took, if this exchange made it.
    pub tls: Cell<Option<Duration>>,
}

/// An answer as it came, for those who look at it.
#[derive(Debug, Default)]
pub struct Kept {
    /// The status line and the headers.
    pub head: Vec<u8>,
    /// The body without its chunks; compressed as it came.
    pub body: Vec<u8>,
    /// Whether the body was longer than what may be kept.
    pub is_cut: bool,
}

/// Which answers are kept, and how much of their bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// None.
    Nothing,
    /// Those with a status of 400 or above, up to so many bytes of the body.
    Failed(usize),
    /// All, up to so many bytes of the body.
    All(usize),
}

impl Kept {
    /// Forgets the answer, and keeps the memory.
    pub fn clear(&mut self) {
        self.head.clear();
        self.body.clear();
        self.is_cut = false;
    }
}

/// Where body bytes go.
struct Sink<'a> {
    kept: Option<&'a mut Vec<u8>>,
    limit: usize,
    is_cut: bool,
}

impl Sink<'_> {
    fn take(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            let room = self.limit.saturating_sub(kept.len());
            self.is_cut |= bytes.len() > room;
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Where a redirect points.
    pub location: Option<String>,
    /// Cookies that it sets, as they came.
    pub cookies: Vec<String>,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The version, such as `TLS 1.3`.
    pub version: String,
    /// The cipher suite, by its name in the registry.
    pub cipher: String,
    /// The protocol that was agreed on, if the other side said one.
    pub alpn: Option<String>,
    /// The certificates that the other side showed (DER), its own first.
    pub chain: Vec<Vec<u8>>,
}

/// How long it took to open a connection.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Opening of the TCP connection.
    pub connect: Duration,
    /// The TLS handshake, if there was one.
    pub tls: Option<Duration>,
}

/// How an origin is reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way<'a> {
    /// The name that its certificate must have, if not its host.
    pub server_name: Option<&'a str>,
    /// The local address to connect from.
    pub source: Option<IpAddr>,
    /// Whether what is connected to is a proxy.
    pub is_proxied: bool,
}

/// Asks a proxy for a tunnel (RFC 9110, section 9.3.6).
async fn tunnel(stream: &mut TcpStream, origin: &Origin) -> Result<(), String> {
    let host = if origin.host.contains(':') {
        format!("[{}]:{}", origin.host, origin.port)
    } else {
        format!("{}:{}", origin.host, origin.port)
    };
    let request = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let lost = |error: io::Error| format!("the proxy is gone: {error}");
    stream.write_all(request.as_bytes()).await.map_err(lost)?;
    let mut head = Vec::new();
    // One byte at a time: what follows the head is the tunnel's.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX {
            return Err("the proxy's answer has no end".to_owned());
        }
        head.push(stream.read_u8().await.map_err(lost)?);
    }
    match parse_head(&head, true) {
        Ok(Some(head)) if (200..300).contains(&head.status) => Ok(()),
        Ok(Some(head)) => Err(format!("the proxy refuses a tunnel with {}", head.status)),
        Ok(None) => Err("the proxy's answer has no end".to_owned()),
        Err(failure) => Err(format!("the proxy gives {}", failure.message)),
    }
}

/// A connection to an origin, kept alive as long as both sides want.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Where it leads.
    pub origin: Rc<Origin>,
    opened: Instant,
    last_used: Instant,
    requests: u64,
    is_reusable: bool,
}

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// Where in a chunked body the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size {
        value: u64,
        digits: u32,
        is_extension: bool,
    },
    Data {
        left: u64,
    },
    DataEnd,
    /// In the trailer; `line` is the length of the line so far.
    Trailer {
        line: u32,
    },
    Done,
}

struct Head {
    status: u16,
    framing: Framing,
    is_keep_alive: bool,
    location: Option<String>,
    cookies: Vec<String>,
    len: usize,
}

impl Connection {
    /// Connects, and shakes hands if there is a connector for TLS.
    ///
    /// # Errors
    ///
    /// With the outcome `connect` or `tls`.
    pub async fn open(
        origin: &Rc<Origin>,
        address: SocketAddr,
        connector: Option<&TlsConnector>,
        way: Way<'_>,
        (connect_timeout, tls_timeout): (Duration, Duration),
    ) -> Result<(Self, Opened), Failure> {
        let start = clock::now();
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(|error| Failure::new(Outcome::Connect, error.to_string()))?;
        if let Some(source) = way.source
            && let Err(error) = socket.bind(SocketAddr::new(source, 0))
        {
            let message = format!("no connection can be made from {source}: {error}");
            return Err(Failure::new(Outcome::Connect, message));
        }
        let stream = tokio::time::timeout(connect_timeout, socket.connect(address)).await;
        let mut stream = match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(Failure::new(Outcome::Connect, format!("{address}: {error}")));
            }
            Err(_) => {
                let message = format!("{address}: no connection within {connect_timeout:?}");
                return Err(Failure::new(Outcome::Connect, message));
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            return Err(Failure::new(Outcome::Connect, error.to_string()));
        }
        if way.is_proxied && connector.is_some() {
            let opened = tokio::time::timeout(connect_timeout, tunnel(&mut stream, origin)).await;
            let opened =
                opened.unwrap_or_else(|_| Err(format!("no tunnel within {connect_timeout:?}")));
            opened.map_err(|why| Failure::new(Outcome::Connect, format!("{address}: {why}")))?;
        }
        let connect = clock::now() - start;
        let (stream, tls) = if let Some(connector) = connector {
            let name = way.server_name.unwrap_or(&origin.host).to_owned();
            let name = ServerName::try_from(name)
                .map_err(|error| Failure::new(Outcome::Tls, error.to_string()))?;
            let handshake = connector.connect(name, stream);
            let stream = match tokio::time::timeout(tls_timeout, handshake).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(Failure::new(Outcome::Tls, tls::in_words(&error))),
                Err(_) => {
                    let message = format!("no TLS session within {tls_timeout:?}");
                    return Err(Failure::new(Outcome::Tls, message));
                }
            };
            let tls = clock::now() - start - connect;
            (Stream::Tls(Box::new(stream)), Some(tls))
        } else {
            (Stream::Tcp(stream), None)
        };
        let origin = Rc::clone(origin);
        let last_used = clock::now();
        let connection =
            Self { stream, origin, opened: start, last_used, requests: 0, is_reusable: true };
        Ok((connection, Opened { connect, tls }))
    }

    /// What the TLS handshake agreed on, if there was one.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        let Stream::Tls(stream) = &self.stream else { return None };
        let tls = stream.get_ref().1;
        let shown = |protocol: &[u8]| String::from_utf8_lossy(protocol).into_owned();
        let chain = tls.peer_certificates().unwrap_or_default();
        Some(Session {
            version: tls.protocol_version()?.as_str()?.replace("TLSv1_", "TLS 1."),
            cipher: tls.negotiated_cipher_suite()?.suite().as_str()?.to_owned(),
            alpn: tls.alpn_protocol().map(shown),
            chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
        })
    }

    /// Whether another request may be sent.
    #[must_use]
    pub const fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// Whether it may carry another request now, by the limits of the plan.
    #[must_use]
    pub fn is_usable(&self, settings: &HttpSettings) -> bool {
        let is_within = |since: Instant, max: Option<Duration>| {
            max.is_none_or(|max| clock::now().saturating_duration_since(since) < max)
        };
        self.is_reusable
            && settings.max_requests.is_none_or(|max| self.requests < max)
            && is_within(self.opened, settings.max_age)
            && is_within(self.last_used, settings.idle)
    }

    /// Sends a request and reads its answer to the end.
    ///
    /// # Errors
    ///
    /// With the outcome `reset` or `protocol`.
    pub async fn exchange(
        &mut self,
        request: &[u8],
        is_head: bool,
        scratch: &RefCell<Box<[u8]>>,
        trace: &Trace,
        (keep, kept): (Keep, &mut Kept),
    ) -> Result<Answer, Failure> {
        let is_first = self.requests == 0;
        self.requests += 1;
        // Whatever goes wrong, or whoever drops this future: an answer may still be on its way.
        self.is_reusable = false;
        let lost = |error: &io::Error, has_answer: bool| Failure {
            outcome: Outcome::Reset,
            message: error.to_string(),
            is_stale: !is_first && !has_answer,
        };
        self.write(request).await.map_err(|error| lost(&error, false))?;
        trace.bytes_out.set(trace.bytes_out.get() + request.len() as u64);
        kept.clear();
        let mut has_answer = false;
        // Only an answer whose head comes in pieces needs this.
        let mut pieces: Vec<u8> = Vec::new();
        let (head, mut framing, mut rest_len, mut sink) = loop {
            let read = self.read(scratch).await.map_err(|error| lost(&error, has_answer))?;
            if read == 0 {
                return Err(Failure {
                    outcome: Outcome::Reset,
                    message: "the connection was closed before the answer".to_owned(),
                    is_stale: !is_first && !has_answer,
                });
            }
            if trace.first_byte.get().is_none() {
                trace.first_byte.set(Some(clock::now()));
            }
            has_answer = true;
            trace.bytes_in.set(trace.bytes_in.get() + read as u64);
            let buffer = scratch.borrow();
            let bytes = if pieces.is_empty() {
                &buffer[..read]
            } else {
                pieces.extend_from_slice(&buffer[..read]);
                &pieces
            };
            // Interim answers come first; the real one may follow in the same bytes.
            let mut begin = 0;
            let whole = loop {
                match parse_head(&bytes[begin..], is_head)? {
                    Some(head) if head.status < 200 => begin += head.len,
                    other => break other,
                }
            };
            if let Some(head) = whole {
                trace.status.set(Some(head.status));
                let limit = match keep {
                    Keep::All(limit) => Some(limit),
                    Keep::Failed(limit) => (head.status >= 400).then_some(limit),
                    Keep::Nothing => None,
                };
                if limit.is_some() {
                    kept.head.extend_from_slice(&bytes[begin..begin + head.len]);
                }
                let Kept { body, .. } = kept;
                let mut sink = Sink {
                    kept: limit.is_some().then_some(body),
                    limit: limit.unwrap_or(0),
                    is_cut: false,
                };
                let mut framing = head.framing;
                let left = consume(&mut framing, &bytes[begin + head.len..], &mut sink)?;
                break (head, framing, left, sink);
            }
            if pieces.is_empty() {
                pieces.extend_from_slice(&buffer[begin..read]);
            } else {
                pieces.drain(..begin);
            }
            if pieces.len() > HEAD_BYTES_MAX {
                let message = format!("the answer's head has more than {HEAD_BYTES_MAX} bytes");
                return Err(Failure::new(Outcome::Protocol, message));
            }
        };
        while !is_done(framing) {
            let read = self.read(scratch).await.map_err(|error| lost(&error, true))?;
            if read == 0 {
                if framing == Framing::UntilClose {
                    break;
                }
                let message = "the connection was closed within the answer";
                return Err(Failure::new(Outcome::Reset, message));
            }
            trace.bytes_in.set(trace.bytes_in.get() + read as u64);
            rest_len = consume(&mut framing, &scratch.borrow()[..read], &mut sink)?;
        }
        let is_cut = sink.is_cut;
        kept.is_cut = is_cut;
        if rest_len > 0 {
            let message = "bytes follow the answer that nobody asked for";
            return Err(Failure::new(Outcome::Protocol, message));
        }
        self.is_reusable = head.is_keep_alive && head.framing != Framing::UntilClose;
        self.last_used = trace.first_byte.get().unwrap_or(self.last_used);
        let Head { status, location, cookies, .. } = head;
        Ok(Answer { status, location, cookies })
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => {
                // The socket is nearly always ready: trying first saves a round through the poller.
                match stream.try_write(bytes) {
                    Ok(written) if written == bytes.len() => Ok(()),
                    Ok(written) => stream.write_all(&bytes[written..]).await,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        stream.write_all(bytes).await
                    }
                    Err(error) => Err(error),
                }
            }
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn read(&mut self, scratch: &RefCell<Box<[u8]>>) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut scratch = scratch.borrow_mut();
            match &mut self.stream {
                Stream::Tcp(stream) => loop {
                    ready!(stream.poll_read_ready(cx))?;
                    match stream.try_read(&mut scratch) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        result => return Poll::Ready(result),
                    }
                },
                Stream::Tls(stream) => {
                    let mut buffer = ReadBuf::new(&mut scratch);
                    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
                    Poll::Ready(Ok(buffer.filled().len()))
                }
            }
        })
        .await
    }
}

fn parse_head(bytes: &[u8], is_head: bool) -> Result<Option<Head>, Failure> {
    // Left unwritten: most answers have few headers, and this is done for each.
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let len = match parser.parse_response_with_uninit_headers(&mut response, bytes, &mut headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => {
            return Err(Failure::new(Outcome::Protocol, format!("no HTTP/1.1 answer: {error}")));
        }
    };
    let status = response.code.unwrap_or(0);
    let mut is_keep_alive = response.version == Some(1);
    let (mut length, mut is_chunked, mut location) = (None, false, None);
    let mut cookies = Vec::new();
    for header in response.headers.iter() {
        let name = header.name;
        if name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
            match text.parse::<u64>() {
                Ok(value) if length.is_none_or(|known| known == value) => length = Some(value),
                Ok(_) | Err(_) => {
                    let message = format!("`{text}` is no content length");
                    return Err(Failure::new(Outcome::Protocol, message));
                }
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = words(header.value).last().is_some_and(|word| is(word, b"chunked"));
        } else if name.eq_ignore_ascii_case("connection") {
            let has = |wanted| words(header.value).any(|word| is(word, wanted));
            is_keep_alive = (is_keep_alive || has(b"keep-alive")) && !has(b"close");
        } else if name.eq_ignore_ascii_case("location") {
            location = std::str::from_utf8(header.value).ok().map(str::to_owned);
        } else if name.eq_ignore_ascii_case("set-cookie") {
            cookies.extend(std::str::from_utf8(header.value).ok().map(str::to_owned));
        }
    }
    let framing = if is_head || status < 200 || matches!(status, 204 | 304) {
        Framing::Length(0)
    } else if is_chunked {
        Framing::Chunked(Chunk::Size { value: 0, digits: 0, is_extension: false })
    } else {
        length.map_or(Framing::UntilClose, Framing::Length)
    };
    Ok(Some(Head { status, framing, is_keep_alive, location, cookies, len }))
}

/// The words of a header's list, compared in place: this runs for every answer.
fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

fn is(word: &[u8], wanted: &[u8]) -> bool {
    word.eq_ignore_ascii_case(wanted)
}

const fn is_done(framing: Framing) -> bool {
    matches!(framing, Framing::Length(0) | Framing::Chunked(Chunk::Done))
}

/// Counts body bytes off; returns how many are left that belong to no body.
fn consume(framing: &mut Framing, bytes: &[u8], sink: &mut Sink<'_>) -> Result<usize, Failure> {
    match framing {
        Framing::UntilClose => {
            sink.take(bytes);
            Ok(0)
        }
        Framing::Length(left) => {
            let taken = usize::try_from(*left).unwrap_or(bytes.len()).min(bytes.len());
            *left -= taken as u64;
            sink.take(&bytes[..taken]);
            Ok(bytes.len() - taken)
        }
        Framing::Chunked(chunk) => consume_chunks(chunk, bytes, sink),
    }
}

fn consume_chunks(
    chunk: &mut Chunk,
    mut bytes: &[u8],
    sink: &mut Sink<'_>,
) -> Result<usize, Failure> {
    let malformed = || Failure::new(Outcome::Protocol, "the body's chunks are malformed");
    while let Some((&byte, rest)) = bytes.split_first() {
        match chunk {
            Chunk::Size { value, digits, is_extension } => {
                bytes = rest;
                match (byte, char::from(byte).to_digit(16)) {
                    (b'\n', _) if *digits > 0 => {
                        *chunk = match *value {
                            0 => Chunk::Trailer { line: 0 },
                            left => Chunk::Data { left },
                        };
                    }
                    (b'\r', _) => {}
                    (_, Some(digit)) if !*is_extension => {
                        *digits += 1;
                        if *digits > 15 {
                            return Err(malformed());
                        }
                        *value = *value << 4 | u64::from(digit);
                    }
                    (b';' | b' ' | b'\t', _) if *digits > 0 => *is_extension = true,
                    _ if *is_extension => {}
                    _ => return Err(malformed()),
                }
            }
            Chunk::Data { left } => {
                let taken = usize::try_from(*left).unwrap_or(bytes.len()).min(bytes.len());
                *left -= taken as u64;
                sink.take(&bytes[..taken]);
                bytes = &bytes[taken..];
                if *left == 0 {
                    *chunk = Chunk::DataEnd;
                }
            }
            Chunk::DataEnd => {
                bytes = rest;
                match byte {
                    b'\r' => {}
                    b'\n' => *chunk = Chunk::Size { value: 0, digits: 0, is_extension: false },
                    _ => return Err(malformed()),
                }
            }
            Chunk::Trailer { line } => {
                bytes = rest;
                match byte {
                    b'\n' if *line == 0 => *chunk = Chunk::Done,
                    b'\n' => *line = 0,
                    b'\r' => {}
                    _ => *line += 1,
                }
            }
            Chunk::Done => return Ok(bytes.len()),
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunked() -> Framing {
        Framing::Chunked(Chunk::Size { value: 0, digits: 0, is_extension: false })
    }

    fn sink(kept: &mut Vec<u8>) -> Sink<'_> {
        Sink { kept: Some(kept), limit: 100, is_cut: false }
    }

    #[test]
    fn a_chunked_body_ends_at_the_same_place_however_it_is_cut() {
        let body = b"4\r\nWiki\r\n6;x=y\r\npedia \r\n0\r\nTrailer: a\r\n\r\n";
        for cut in 0..body.len() {
            let mut framing = chunked();
            let mut kept = Vec::new();
            let first = consume(&mut framing, &body[..cut], &mut sink(&mut kept)).unwrap();
            assert!(!is_done(framing), "done after {cut} of {} bytes", body.len());
            let second = consume(&mut framing, &body[cut..], &mut sink(&mut kept)).unwrap();
            assert!(is_done(framing), "not done when cut at {cut}");
            assert_eq!((first, second), (0, 0));
            assert_eq!(kept, b"Wikipedia ", "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_http_is_a_protocol_failure() {
        let cases: [&[u8]; 4] = [
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
        ];
        for bytes in cases {
            let failure = parse_head(bytes, false).err().map(|failure| failure.outcome);
            assert_eq!(failure, Some(Outcome::Protocol), "{}", bytes.escape_ascii());
        }
        assert!(consume(&mut chunked(), b"zz\r\n", &mut sink(&mut Vec::new())).is_err());
        assert!(
            consume(&mut chunked(), b"fffffffffffffffff\r\n", &mut sink(&mut Vec::new())).is_err()
        );
    }

    #[test]
    fn framing_follows_the_rfc() {
        let rows: [(&[u8], bool, Framing, bool); 6] = [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false, Framing::Length(5), true),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true, Framing::Length(0), true),
            (b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", false, Framing::Length(0), true),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n",
                false,
                chunked(),
                true,
            ),
            (b"HTTP/1.0 200 OK\r\n\r\n", false, Framing::UntilClose, false),
            (
                b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\ncontent-length: 0\r\n\r\n",
                false,
                Framing::Length(0),
                true,
            ),
        ];
        for (bytes, is_head, framing, is_keep_alive) in rows {
            let head = parse_head(bytes, is_head).unwrap().unwrap();
            assert_eq!(head.framing, framing, "{}", bytes.escape_ascii());
            assert_eq!(head.is_keep_alive, is_keep_alive, "{}", bytes.escape_ascii());
        }
    }

    /// What a body comes to, however it is cut: an error, or whether it is whole and how many bytes
    /// follow it.
    fn read_in(framing: Framing, pieces: &[&[u8]]) -> Option<(bool, usize, Vec<u8>)> {
        let (mut framing, mut kept, mut left) = (framing, Vec::new(), 0);
        let mut sink = Sink { kept: Some(&mut kept), limit: 64, is_cut: false };
        for piece in pieces {
            left += consume(&mut framing, piece, &mut sink).ok()?;
        }
        Some((is_done(framing), left, kept))
    }

    proptest! {
        #[test]
        fn pro_03_no_bytes_make_the_parser_of_answers_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), is_head in any::<bool>(),
        ) {
            let with_status = [b"HTTP/1.1 200 OK\r\n", bytes.as_slice()].concat();
            for bytes in [bytes, with_status] {
                if let Ok(Some(head)) = parse_head(&bytes, is_head) {
                    prop_assert!(head.len <= bytes.len());
                }
            }
        }

        #[test]
        fn pro_03_damaged_answers_never_panic(
            at in 0usize..140, flip in 1u8..=255, cut in 0usize..140,
        ) {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
                Set-Cookie: a=b; Path=/\r\nConnection: keep-alive\r\n\r\n\
                a;x=y\r\n0123456789\r\n0\r\nx: y\r\n\r\n"
                .to_vec();
            let length = bytes.len();
            bytes[at % length] ^= flip;
            bytes.truncate(cut.max(1));
            if let Ok(Some(head)) = parse_head(&bytes, false) {
                let _read = read_in(head.framing, &[&bytes[head.len..]]);
            }
        }

        #[test]
        fn pro_02_any_cut_of_any_chunks_comes_to_the_same(
            bytes in proptest::collection::vec(
                prop::sample::select(b"0123af;xyz \r\n\r\n\r\n\xff".to_vec()), 0..60,
            ),
            cut in 0usize..60,
        ) {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(read_in(chunked(), &[&bytes]), read_in(chunked(), &[first, second]));
        }
    }
}
