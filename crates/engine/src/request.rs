//! Requests as bytes, made once.

use hyperscale_plan::{Body, RequestStep, StepIndex};
use std::rc::Rc;
use std::time::Duration;
use url::Url;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// The host, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A request that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where its figures go.
    pub step: StepIndex,
    /// Where it goes.
    pub origin: Rc<Origin>,
    /// The absolute URL.
    pub url: Url,
    /// The method.
    pub method: String,
    /// Headers beside those that the client makes itself.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Everything that is written to the connection.
    pub bytes: Vec<u8>,
    /// How long the whole exchange may take.
    pub timeout: Duration,
    /// How many redirects may still be followed.
    pub redirects: u32,
}

impl Ready {
    /// The request of a step without holes.
    ///
    /// # Errors
    ///
    /// If the step needs something that this client cannot do yet, or its URL is none.
    pub fn new(step: &RequestStep) -> Result<Self, String> {
        let literal = |template: &hyperscale_plan::expr::Template| {
            let text = template.as_literal().map(str::to_owned);
            text.ok_or_else(|| "this engine sends requests without expressions only".to_owned())
        };
        let text = literal(&step.url)?;
        let mut url = Url::parse(&text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
        for (name, value) in &step.query {
            url.query_pairs_mut().append_pair(name, &literal(value)?);
        }
        let headers = (step.headers.iter())
            .map(|(name, value)| Ok((name.clone(), literal(value)?)))
            .collect::<Result<Vec<_>, String>>()?;
        let body = match &step.body {
            Body::Empty => Vec::new(),
            Body::Text(text) => literal(text)?.into_bytes(),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Json(_) | Body::Form(_) | Body::File(_) => {
                return Err("this engine sends text bodies only".to_owned());
            }
        };
        if !step.checks.is_empty() || !step.captures.is_empty() || step.auth.is_some() {
            return Err("this engine runs no checks, captures or credentials".to_owned());
        }
        let origin = Rc::new(origin_of(&url)?);
        let method = step.method.clone();
        let bytes = render(&method, &url, &origin, &headers, &body);
        let (timeout, redirects) = (step.timeout, step.redirects);
        let step = step.step;
        Ok(Self { step, origin, url, method, headers, body, bytes, timeout, redirects })
    }

    /// The request that a redirect asks for (RFC 9110, section 15.4).
    #[must_use]
    pub fn redirected(&self, status: u16, location: &str) -> Option<Self> {
        let url = self.url.join(location).ok()?;
        let origin = Rc::new(origin_of(&url).ok()?);
        let keeps_method =
            matches!(status, 307 | 308) || matches!(self.method.as_str(), "GET" | "HEAD");
        let mut next = self.clone();
        if !keeps_method {
            next.method = "GET".to_owned();
            next.body.clear();
        }
        if origin != self.origin {
            // Credentials are for the origin that they were written for.
            next.headers.retain(|(name, _)| {
                !name.eq_ignore_ascii_case("authorization") && !name.eq_ignore_ascii_case("cookie")
            });
        }
        next.bytes = render(&next.method, &url, &origin, &next.headers, &next.body);
        (next.url, next.origin) = (url, origin);
        next.redirects = self.redirects.saturating_sub(1);
        Some(next)
    }
}

fn origin_of(url: &Url) -> Result<Origin, String> {
    let is_tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(format!("`{other}` is no protocol of this engine")),
    };
    let host = url.host_str().ok_or_else(|| format!("`{url}` has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().unwrap_or(if is_tls { 443 } else { 80 });
    Ok(Origin { is_tls, host, port })
}

fn render(
    method: &str,
    url: &Url,
    origin: &Origin,
    headers: &[(String, String)],
    body: &[u8],
) -> Vec<u8> {
    let has = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mut text = format!("{method} {}", url.path());
    if let Some(query) = url.query() {
        text.push('?');
        text.push_str(query);
    }
    text.push_str(" HTTP/1.1\r\n");
    if !has("host") {
        let host = url.host_str().unwrap_or(&origin.host);
        match url.port() {
            Some(port) => text.push_str(&format!("host: {host}:{port}\r\n")),
            None => text.push_str(&format!("host: {host}\r\n")),
        }
    }
    if !has("user-agent") {
        text.push_str(concat!("user-agent: hyperscale/", env!("CARGO_PKG_VERSION"), "\r\n"));
    }
    if !has("accept") {
        text.push_str("accept: */*\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !has("content-length") && (!body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH")) {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
