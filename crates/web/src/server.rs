//! Connections of clients: how many there may be, and how slow they may be.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyperscale_node::{Observer, Part};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower_service::Service as _;

use crate::counts::Counts;
use crate::limits::Limits;
use crate::patience::Patient;

/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Before the next try to accept after one has failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// What a connection hears that is one too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\ncontent-length: 109\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"type\":\"too-many-connections\",\"status\":503,\"detail\":\"too many connections are open\",\
    \"retry_after_seconds\":1}";

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What connections share, whatever is served over them.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) limits: Limits,
    pub(crate) counts: Counts,
    pub(crate) observer: Arc<Observer>,
}

impl Front {
    pub(crate) fn new(limits: Limits, observer: Arc<Observer>) -> Arc<Self> {
        Arc::new(Self { limits, counts: Counts::default(), observer })
    }
}

/// A connection that is counted as long as it lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves connections until the future is dropped, and then cuts them.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    front: Arc<Front>,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(front.limits.connections));
    let mut running = JoinSet::new();
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: connections must end before others begin.
                    if let Some(held_back) = front.observer.trouble(Part::Web, "accept", "") {
                        tracing::error!(%error, held_back, "a client cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
            Some(ended) = running.join_next() => {
                if let Err(error) = ended
                    && let Some(held_back) = front.observer.trouble(Part::Web, "panic", "")
                {
                    tracing::error!(%error, held_back, "a connection's task failed");
                }
                continue;
            }
        };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let (router, front) = (router.clone(), Arc::clone(&front));
                running.spawn(async move {
                    one(stream, from, router, &front).await;
                    drop(permit);
                });
            }
            Err(_full) => {
                front.counts.connections_refused.fetch_add(1, Ordering::Relaxed);
                // Best effort: whoever is one too many is not waited for.
                if let Err(error) = stream.try_write(FULL) {
                    tracing::debug!(%from, %error, "one too many, and already gone");
                }
            }
        }
    }
}

async fn one(stream: TcpStream, from: SocketAddr, router: Router, front: &Front) {
    let _counted = Counted::new(&front.counts.connections);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%from, %error, "a client is gone already");
        return;
    }
    let stream = Patient::new(stream, front.limits.stall_time);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(from.ip()));
        router.clone().call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(front.limits.head_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    match served {
        Ok(()) => {}
        // An idle connection that was closed, or a client that is too slow or gone: their matter.
        Err(error) if error.is_timeout() || error.is_incomplete_message() || error.is_closed() => {
            tracing::debug!(%from, %error, "a connection ended");
        }
        Err(error) => {
            if let Some(held_back) = front.observer.trouble(Part::Web, "connection", from.ip()) {
                tracing::info!(%from, %error, held_back, "a client's connection broke");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_too_many_hears_is_a_whole_answer() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();

        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        let problem: crate::Problem = serde_json::from_str(body).unwrap();
        assert_eq!((problem.status, problem.retry_after_seconds), (503, Some(1)));
    }
}
