//! Requests as bytes: those without holes are made once, the others for each use.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use hyperscale_model::{BlobHash, SplitMix};
use hyperscale_plan::expr::{EvalError, Scope, Template, Value, Var};
use hyperscale_plan::{Auth, Body, RequestStep, StepIndex};
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
pub(crate) struct Ready {
    /// Where its figures go.
    pub(crate) step: StepIndex,
    pub(crate) origin: Rc<Origin>,
    /// The absolute URL.
    pub(crate) url: Url,
    method: String,
    /// Headers beside those that the client makes itself.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Everything that is written to the connection.
    pub(crate) bytes: Vec<u8>,
    /// How long the whole exchange may take.
    pub(crate) timeout: Duration,
    /// How many redirects may still be followed.
    pub(crate) redirects: u32,
    is_proxied: bool,
}

/// What requests are made with, beside their steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Make<'a> {
    pub(crate) blobs: &'a BTreeMap<BlobHash, Arc<[u8]>>,
    /// Whether compressed answers are asked for.
    pub(crate) compression: bool,
    /// Whether they go through a proxy.
    pub(crate) is_proxied: bool,
}

/// Knows no variable, and notes whether chance was asked.
struct Nothing {
    random: SplitMix,
    is_asked: bool,
}

impl Scope for Nothing {
    fn variable(&self, _: &Var) -> Result<Value, EvalError> {
        Err(EvalError("there are no variables here".to_owned()))
    }

    fn random(&mut self) -> &mut SplitMix {
        self.is_asked = true;
        &mut self.random
    }
}

impl Ready {
    /// The request of a step whose bytes are always the same; `None` for any other.
    pub(crate) fn constant(step: &RequestStep, make: Make<'_>) -> Option<Self> {
        let mut nothing = Nothing { random: SplitMix::new(0), is_asked: false };
        let ready = Self::render(step, make, &mut nothing).ok()?;
        (!nothing.is_asked).then_some(ready)
    }

    /// The request of a step.
    ///
    /// # Errors
    ///
    /// If a hole has no value, or what comes out is no request.
    pub(crate) fn render(
        step: &RequestStep,
        make: Make<'_>,
        scope: &mut dyn Scope,
    ) -> Result<Self, EvalError> {
        let text = rendered(&step.url, scope)?;
        let mut url =
            Url::parse(&text).map_err(|error| EvalError(format!("`{text}` is no URL: {error}")))?;
        for (name, value) in &step.query {
            url.query_pairs_mut().append_pair(name, &rendered(value, scope)?);
        }
        let mut headers = Vec::with_capacity(step.headers.len() + 3);
        for (name, value) in &step.headers {
            let value = rendered(value, scope)?;
            if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                return Err(EvalError(format!("the header `{name}` has a line break in it")));
            }
            headers.push((name.clone(), value));
        }
        match &step.auth {
            None => {}
            Some(Auth::Bearer(token)) => {
                let token = rendered(token, scope)?;
                headers.push(("authorization".to_owned(), format!("Bearer {token}")));
            }
            Some(Auth::Basic { user, password }) => {
                let pair = format!("{}:{}", rendered(user, scope)?, rendered(password, scope)?);
                let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                headers.push(("authorization".to_owned(), format!("Basic {pair}")));
            }
        }
        let mut content_type = None;
        let body = match &step.body {
            Body::Empty => Vec::new(),
            Body::Text(text) => rendered(text, scope)?.into_bytes(),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Json(json) => {
                content_type = Some("application/json");
                let mut text = String::new();
                json.render(scope, &mut text)?;
                text.into_bytes()
            }
            Body::Form(fields) => {
                content_type = Some("application/x-www-form-urlencoded");
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                for (name, value) in fields {
                    form.append_pair(name, &rendered(value, scope)?);
                }
                form.finish().into_bytes()
            }
            Body::File(hash) => match make.blobs.get(hash) {
                Some(bytes) => bytes.to_vec(),
                None => return Err(EvalError("the body's file did not come along".to_owned())),
            },
        };
        let has = |headers: &[(String, String)], wanted: &str| {
            headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        if let Some(content_type) = content_type
            && !has(&headers, "content-type")
        {
            headers.push(("content-type".to_owned(), content_type.to_owned()));
        }
        if make.compression && !has(&headers, "accept-encoding") {
            headers.push(("accept-encoding".to_owned(), "gzip, deflate".to_owned()));
        }
        let origin = Rc::new(origin_of(&url).map_err(EvalError)?);
        let method = step.method.clone();
        let (timeout, redirects, is_proxied) = (step.timeout, step.redirects, make.is_proxied);
        let (step, bytes) = (step.step, Vec::new());
        let mut ready = Self {
            step,
            origin,
            url,
            method,
            headers,
            body,
            bytes,
            timeout,
            redirects,
            is_proxied,
        };
        ready.bytes = ready.to_bytes(None);
        Ok(ready)
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The same request with cookies.
    pub(crate) fn bytes_with_cookies(&self, cookies: &str) -> Vec<u8> {
        self.to_bytes(Some(cookies))
    }

    /// The request that a redirect asks for (RFC 9110, section 15.4).
    #[must_use]
    pub(crate) fn redirected(&self, status: u16, location: &str) -> Option<Self> {
        let url = self.url.join(location).ok()?;
        let origin = Rc::new(origin_of(&url).ok()?);
        let keeps_method =
            matches!(status, 307 | 308) || matches!(self.method.as_str(), "GET" | "HEAD");
        let mut next = self.clone();
        if !keeps_method {
            next.method = "GET".to_owned();
            next.body.clear();
            next.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        }
        if origin != self.origin {
            // Credentials are for the origin that they were written for.
            next.headers.retain(|(name, _)| {
                !name.eq_ignore_ascii_case("authorization") && !name.eq_ignore_ascii_case("cookie")
            });
        }
        (next.url, next.origin) = (url, origin);
        next.bytes = next.to_bytes(None);
        next.redirects = self.redirects.saturating_sub(1);
        Some(next)
    }

    fn to_bytes(&self, cookies: Option<&str>) -> Vec<u8> {
        let Self { method, url, origin, headers, body, .. } = self;
        let has = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let mut text = format!("{method} ");
        if self.is_proxied && !origin.is_tls {
            // A proxy wants the whole URL (RFC 9112, section 3.2.2); a tunnel is none of that.
            text.push_str(&url[..url::Position::BeforePath]);
        }
        text.push_str(url.path());
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
        if let Some(cookies) = cookies.filter(|_| !has("cookie")) {
            text.push_str(&format!("cookie: {cookies}\r\n"));
        }
        let has_body = !body.is_empty() || matches!(method.as_str(), "POST" | "PUT" | "PATCH");
        if has_body && !has("content-length") {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

fn rendered(template: &Template, scope: &mut dyn Scope) -> Result<String, EvalError> {
    let mut text = String::new();
    template.render(scope, &mut text)?;
    Ok(text)
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
