//! A target for load tests: a fast HTTP/1.1 server that counts what it receives, and misbehaves
//! where it is asked to.
//!
//! | path | answer |
//! |---|---|
//! | `/` | `200`, two bytes |
//! | `/bytes/N` | `200`, N bytes (at most 64 MiB) |
//! | `/delay/MS` | `200` after so many milliseconds |
//! | `/status/CODE` | that status |
//! | `/json` | `200`, a small JSON document |
//! | `/echo` | `200`, the request's body |
//! | `/headers` | `200`, the request's head |
//! | `/cookie/VALUE` | `200`, and sets the cookie `target` |
//! | `/redirect/N` | `302` to `/redirect/N-1`, or to `/` |
//! | `/stall` | none, ever |
//! | `/reset` | none; the connection is reset |
//! | `/_target/stats` | what was received since the start or the last reset; not counted itself |
//! | `POST /_target/reset` | counts from zero |

mod answer;
mod clock;
mod count;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

pub use crate::count::Stats;
pub use crate::tls::{TlsError, acceptor};

use crate::answer::{Answer, answer};
use crate::count::Counters;

/// The largest head and the largest body of a request.
const REQUEST_BYTES_MAX: usize = 64 << 20;
const HEADERS_MAX: usize = 64;
/// Connections that may wait to be accepted: thousands of users come at once, and one that finds no
/// place tries again after a second. The system may allow fewer.
const BACKLOG: u32 = 16 << 10;
const READ_BYTES: usize = 16 << 10;

/// A bound target.
pub struct Target {
    listener: TcpListener,
    counters: Arc<Counters>,
    tls: Option<TlsAcceptor>,
}

/// Reads what a target has counted.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Counters>);

impl Handle {
    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl Target {
    /// Binds an address; with an acceptor, the target speaks TLS.
    ///
    /// # Errors
    ///
    /// If the address cannot be had.
    pub async fn bind(address: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { listener, counters: Arc::new(Counters::new()), tls })
    }

    /// The address that was bound.
    ///
    /// # Errors
    ///
    /// If the system does not know it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What reads the counters while the target serves.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.counters))
    }

    /// Serves until it is dropped.
    pub async fn serve(self) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, most likely: connections must end before others begin.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let (counters, tls) = (Arc::clone(&self.counters), self.tls.clone());
            tokio::spawn(async move {
                counters.connection();
                // A client that goes away is not the target's failure, so nobody is told.
                drop(serve(stream, tls, &counters).await);
            });
        }
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, counters: &Counters) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => {
            let ends = exchange_all(stream, counters).await?;
            if let End::Reset(stream) = ends {
                stream.set_zero_linger()?;
            }
        }
        Some(tls) => {
            let ends = exchange_all(tls.accept(stream).await?, counters).await?;
            if let End::Reset(stream) = ends {
                stream.get_ref().0.set_zero_linger()?;
            }
        }
    }
    Ok(())
}

enum End<S> {
    Closed,
    Reset(S),
}

async fn exchange_all<S>(mut stream: S, counters: &Counters) -> io::Result<End<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Vec::with_capacity(READ_BYTES);
    let mut output = Vec::with_capacity(1 << 10);
    loop {
        input.reserve(READ_BYTES);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(End::Closed);
        }
        let mut begin = 0;
        while let Some(request) = parse(&input[begin..])? {
            let (head, body) = input[begin..begin + request.len].split_at(request.head_len);
            let is_keep_alive = request.is_keep_alive;
            let answer = answer(counters, &request, (head, body), &mut output);
            begin += request.len;
            match answer {
                Answer::Now => {}
                Answer::After(delay) => {
                    flush(&mut stream, &mut output, 0).await?;
                    tokio::time::sleep(delay).await;
                    answer::empty(counters, &mut output);
                }
                Answer::Never => std::future::pending().await,
                Answer::Reset => return Ok(End::Reset(stream)),
            }
            if !is_keep_alive {
                flush(&mut stream, &mut output, 0).await?;
                return Ok(End::Closed);
            }
        }
        input.drain(..begin);
        flush(&mut stream, &mut output, 1 << 20).await?;
    }
}

async fn flush<S>(stream: &mut S, output: &mut Vec<u8>, keep: usize) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(output).await?;
    stream.flush().await?;
    output.clear();
    if keep > 0 {
        output.shrink_to(keep);
    }
    Ok(())
}

/// A whole request at the start of a buffer.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    head_len: usize,
    len: usize,
    is_keep_alive: bool,
    /// Whether the answer has to promise that: HTTP/1.0 closes otherwise.
    pub(crate) promises_keep_alive: bool,
}

fn parse(bytes: &[u8]) -> io::Result<Option<Request>> {
    let bad = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() > REQUEST_BYTES_MAX => {
            return Err(bad("the request is too large"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    let mut body_len = 0;
    let mut is_keep_alive = request.version == Some(1);
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
            body_len = text.parse().map_err(|error| bad(&format!("`{text}`: {error}")))?;
        } else if header.name.eq_ignore_ascii_case("connection") {
            is_keep_alive = !header.value.eq_ignore_ascii_case(b"close")
                && (is_keep_alive || header.value.eq_ignore_ascii_case(b"keep-alive"));
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(bad("request bodies need a content length here"));
        }
    }
    if body_len > REQUEST_BYTES_MAX {
        return Err(bad("the request is too large"));
    }
    let len = head_len + body_len;
    if bytes.len() < len {
        return Ok(None);
    }
    let method = request.method.unwrap_or_default().to_owned();
    let path = match request.path.unwrap_or_default() {
        // Through a proxy the whole URL comes (RFC 9112, section 3.2.2).
        url if url.starts_with("http://") => {
            let path = url["http://".len()..].find('/').map(|at| &url["http://".len() + at..]);
            path.unwrap_or("/").to_owned()
        }
        path => path.to_owned(),
    };
    let promises_keep_alive = is_keep_alive && request.version != Some(1);
    Ok(Some(Request { method, path, head_len, len, is_keep_alive, promises_keep_alive }))
}
