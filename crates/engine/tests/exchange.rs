//! Exchanges with a real server on the loopback.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyperscale_engine::{Connection, Failure, Keep, Kept, Origin, SCRATCH_BYTES, Trace, Way};
use hyperscale_model::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Answers each request with the next of `answers`, in the given pieces, then closes.
async fn serve(listener: TcpListener, answers: Vec<Vec<&'static [u8]>>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    for answer in answers {
        let mut request = [0; REQUEST.len()];
        stream.read_exact(&mut request).await.unwrap();
        for piece in answer {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

async fn exchanges(answers: Vec<Vec<&'static [u8]>>, count: usize) -> Vec<Result<u16, Failure>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, answers));
    let origin =
        Rc::new(Origin { is_tls: false, host: "127.0.0.1".to_owned(), port: address.port() });
    let scratch = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
    let opened = Connection::open(&origin, address, None, Way::default(), TIMEOUTS).await;
    let (mut connection, _) = opened.unwrap();
    let mut results = Vec::new();
    for _ in 0..count {
        let answer = {
            let (trace, mut kept) = (Trace::default(), Kept::default());
            connection.exchange(REQUEST, false, &scratch, &trace, (Keep::Nothing, &mut kept)).await
        };
        results.push(answer.map(|answer| answer.status));
    }
    server.await.unwrap();
    results
}

#[tokio::test]
async fn a_connection_carries_answers_of_every_framing_in_turn() {
    let answers: Vec<Vec<&[u8]>> = vec![
        vec![b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"],
        vec![b"HTTP/1.1 2", b"01 Created\r\ncontent-le", b"ngth: 3\r\n\r\na", b"bc"],
        vec![b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n"],
        vec![b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", b"0\r\n\r\n"],
        vec![b"HTTP/1.0 500 Bad\r\n\r\nuntil the end"],
    ];

    let statuses: Vec<u16> = exchanges(answers, 5).await.into_iter().map(Result::unwrap).collect();

    assert_eq!(statuses, [200, 201, 204, 404, 500]);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_told_apart_from_a_cut_answer() {
    let idle: Vec<Vec<&[u8]>> = vec![vec![b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]];
    let cut: Vec<Vec<&[u8]>> = vec![vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"]];

    let idle = exchanges(idle, 2).await.pop().unwrap().unwrap_err();
    let cut = exchanges(cut, 1).await.pop().unwrap().unwrap_err();

    assert_eq!((idle.outcome, idle.is_stale), (Outcome::Reset, true));
    assert_eq!((cut.outcome, cut.is_stale), (Outcome::Reset, false));
}

#[tokio::test]
async fn a_refused_connection_is_a_connect_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let origin =
        Rc::new(Origin { is_tls: false, host: "127.0.0.1".to_owned(), port: address.port() });

    let failure =
        Connection::open(&origin, address, None, Way::default(), TIMEOUTS).await.unwrap_err();

    assert_eq!(failure.outcome, Outcome::Connect);
}
