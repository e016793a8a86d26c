//! What each path answers.

use std::io::Write;
use std::time::Duration;

use crate::count::Counters;
use crate::{REQUEST_BYTES_MAX, Request};

/// When an answer goes out.
pub(crate) enum Answer {
    /// It is in the output.
    Now,
    /// An empty one is due later.
    After(Duration),
    /// Not at all.
    Never,
    /// Not at all, and the connection is reset.
    Reset,
}

const JSON: &[u8] =
    br#"{"id":7,"name":"seven","items":[{"id":1,"price":9.5},{"id":2,"price":3}],"ok":true}"#;

pub(crate) fn answer(
    counters: &Counters,
    request: &Request,
    (head, body): (&[u8], &[u8]),
    output: &mut Vec<u8>,
) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    let is_head = request.method == "HEAD";
    match path {
        "/_target/stats" => {
            let stats = serde_json::to_vec(&counters.stats()).unwrap_or_default();
            write(output, 200, &[("content-type", "application/json")], &stats, is_head);
            return Answer::Now;
        }
        "/_target/reset" => {
            if request.method == "POST" {
                counters.reset();
            }
            write(output, if request.method == "POST" { 204 } else { 405 }, &[], b"", is_head);
            return Answer::Now;
        }
        _ => counters.request(request.len),
    }
    let before = output.len();
    let mut segments = path.trim_matches('/').split('/');
    let (first, second) = (segments.next().unwrap_or_default(), segments.next());
    let number = second.and_then(|text| text.parse::<u64>().ok());
    match (first, number) {
        ("", _) => write(output, 200, &[], b"ok", is_head),
        ("bytes", Some(bytes)) => {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(REQUEST_BYTES_MAX);
            write(output, 200, &[], &vec![b'x'; bytes], is_head);
        }
        ("delay", Some(millis)) => return Answer::After(Duration::from_millis(millis)),
        ("status", Some(status)) => {
            let status = u16::try_from(status).unwrap_or(500).clamp(200, 999);
            write(output, status, &[], b"", is_head);
        }
        ("json", _) => {
            write(output, 200, &[("content-type", "application/json")], JSON, is_head);
        }
        ("echo", _) => write(output, 200, &[], body, is_head),
        ("headers", _) => write(output, 200, &[], head, is_head),
        ("cookie", _) => {
            let cookie = format!("target={}; Path=/", second.unwrap_or_default());
            write(output, 200, &[("set-cookie", &cookie)], b"ok", is_head);
        }
        ("redirect", Some(left)) => {
            let to = match left.checked_sub(1) {
                Some(left) if left > 0 => format!("/redirect/{left}"),
                _ => "/".to_owned(),
            };
            write(output, 302, &[("location", &to)], b"", is_head);
        }
        ("stall", _) => return Answer::Never,
        ("reset", _) => return Answer::Reset,
        _ => write(output, 404, &[], b"no such path", is_head),
    }
    if request.promises_keep_alive
        && let Some(line) = output[before..].iter().position(|&byte| byte == b'\n')
    {
        let at = before + line + 1;
        output.splice(at..at, *b"connection: keep-alive\r\n");
    }
    counters.answer(output.len() - before);
    Answer::Now
}

/// A small answer that was due later.
pub(crate) fn empty(counters: &Counters, output: &mut Vec<u8>) {
    let before = output.len();
    write(output, 200, &[], b"ok", false);
    counters.answer(output.len() - before);
}

fn write(output: &mut Vec<u8>, status: u16, headers: &[(&str, &str)], body: &[u8], is_head: bool) {
    let mut head = Vec::with_capacity(128);
    let written = write_head(&mut head, status, headers, body.len());
    debug_assert!(written.is_ok(), "writing into memory does not fail");
    output.extend_from_slice(&head);
    if !is_head && !matches!(status, 204 | 304) {
        output.extend_from_slice(body);
    }
}

fn write_head(
    head: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    body_len: usize,
) -> std::io::Result<()> {
    write!(head, "HTTP/1.1 {status} -\r\n")?;
    if status != 204 {
        write!(head, "content-length: {body_len}\r\n")?;
    }
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n")?;
    }
    head.extend_from_slice(b"\r\n");
    Ok(())
}
