//! Just enough HTTP to read the target's counters.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::Context as _;

/// The body of an answer.
pub(crate) fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("asking the target")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the target's answer")?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = head.map(|head| answer.split_off(head + 4));
    body.context("the target's answer has no end of its head")
}
