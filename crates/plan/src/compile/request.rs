//! Requests: URL, headers, body, checks, captures.

use std::time::Duration;

use base64::Engine as _;
use hyperscale_model::Outcome;

use super::settings::REDIRECTS_MAX;
use super::steps::Place;
use super::{Compiler, DATA_BYTES_MAX, Fields, cannot_read, items, scalar_json};
use crate::diagnostics::{Draft, Span};
use crate::expr::check::{PatternKind, compile_template, compile_whole};
use crate::expr::pattern::{check_json_path, check_regex};
use crate::expr::{Expr, Piece, Template, Value};
use crate::ir::{
    Auth, Body, Capture, CaptureFrom, CaptureIndex, Check, CheckIndex, CheckName, JsonTemplate,
    RequestStep, Retry, StepIndex, StepName,
};
use crate::keys::{BODIES, METHODS};
use crate::shape::{Consts, expected, place};
use crate::yaml::{Kind, Node, shorten};
use hyperscale_model::WorkflowIndex;

/// Most named requests of a test: its series.
const NAMES_MAX: usize = 2_048;
/// Most named checks of a test.
const CHECKS_MAX: usize = 10_000;
const NAME_CHARS_MAX: usize = 200;
const RETRIES_MAX: u32 = 100;
const BACKOFF_DEFAULT: Duration = Duration::from_millis(100);
/// Deepest body with holes in it.
const BODY_DEPTH_MAX: usize = 24;

impl<'n> Compiler<'n> {
    pub(super) fn request(
        &mut self,
        action: &str,
        key: &'n Node,
        value: &'n Node,
        fields: Fields<'n>,
        place: &mut Place<'n, '_>,
    ) -> Option<RequestStep> {
        let (method, url_node) = if METHODS.contains(&action) {
            (action.to_uppercase(), value)
        } else {
            let inner = Fields::of(value);
            (self.method(inner.get("method")?)?, inner.get("url")?)
        };
        let url = self.url(url_node);
        let step = self.step_index(&method, key, url_node, fields, place);
        let timeout =
            (self.read(fields.get("timeout"), Consts::positive)).unwrap_or(self.defaults.timeout);
        *place.longest = timeout.max(*place.longest);
        let redirects = self
            .read(fields.get("redirects"), |consts, node| consts.count_u32(node, 0, REDIRECTS_MAX))
            .unwrap_or(self.defaults.redirects);
        let mut headers = self.headers(fields.get("headers"));
        let query = self.templates(fields.get("query"));
        let body = self.body(fields).unwrap_or_default();
        if let Some(kind) = content_type(&body)
            && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            headers.push(("content-type".to_owned(), Template::literal(kind)));
        }
        let auth = fields.get("auth").or(self.defaults.auth).and_then(|node| self.auth(node));
        let step_index = step.unwrap_or(StepIndex(0));
        let checks = self.checks(step_index, fields.get("check"));
        let captures = self.captures(fields.get("capture"));
        let retry = fields.get("retry").map(|node| self.retry(node));
        Some(RequestStep {
            step: step?,
            method,
            url: url?,
            headers,
            query,
            body,
            auth,
            checks,
            captures,
            timeout,
            redirects,
            retry,
        })
    }

    fn method(&mut self, node: &Node) -> Option<String> {
        let method = self.read(Some(node), Consts::text)?;
        if method.is_empty() || method.len() > 32 || !method.bytes().all(is_token) {
            self.error(node.span, "a method is a word such as `PURGE`");
            return None;
        }
        Some(method)
    }

    fn template(&mut self, node: &Node) -> Option<Template> {
        let text = node.as_text().filter(|_| !node.is_null());
        let Some(text) = text else {
            self.collector.push_once(expected(node, "text"));
            return None;
        };
        let template = compile_template(text, &self.names(false)).map_err(|e| place(node, e));
        self.ok(template)
    }

    fn templates(&mut self, node: Option<&'n Node>) -> Vec<(String, Template)> {
        let mut found = Vec::new();
        for (name, key, node) in node.map(Fields::of).into_iter().flat_map(Fields::iter) {
            self.no_hole(key, name);
            if let Some(template) = self.template(node) {
                found.push((name.to_owned(), template));
            }
        }
        found
    }

    fn no_hole(&mut self, key: &Node, name: &str) {
        if name.contains("${") {
            self.collector.push_once(
                Draft::error(key.span, "a key cannot have holes")
                    .note("only values can")
                    .link("expressions"),
            );
        }
    }

    fn url(&mut self, node: &Node) -> Option<Template> {
        let mut template = self.template(node)?;
        let refuse = |problem: &str| {
            let draft = Draft::error(node.span, format!("the URL {problem}"));
            if problem.contains("credentials") { draft.hidden() } else { draft }
        };
        let problem = match template.0.first_mut() {
            None => Some(refuse("is empty").note("write `/` for the root of the target")),
            Some(Piece::Hole(_)) => None,
            Some(Piece::Text(text)) if text.starts_with('/') => match &self.target {
                Some(target) => {
                    text.insert_str(0, target);
                    check_url_text(text).err().map(|problem| refuse(&problem))
                }
                None if self.collector.has_errors() => None,
                None => Some(
                    refuse("is relative, but there is no `target`")
                        .note("write `target: http://…` at the top of the file, or the whole URL"),
                ),
            },
            Some(Piece::Text(text)) => {
                if text.contains("://") {
                    check_url(text).err().map(|problem| refuse(&problem))
                } else {
                    Some(
                        refuse("is neither absolute nor begins with `/`")
                            .note(format!("did you mean `/{}`?", shorten(text))),
                    )
                }
            }
        };
        if let Some(draft) = problem {
            self.collector.push_once(draft.link("steps"));
            return None;
        }
        for piece in template.0.iter().skip(1) {
            if let Piece::Text(text) = piece
                && let Err(problem) = check_url_text(text)
            {
                self.collector.push_once(refuse(&problem).link("steps"));
            }
        }
        Some(template)
    }

    /// The step by its name, or by its method and path.
    fn step_index(
        &mut self,
        method: &str,
        key: &Node,
        url: &Node,
        fields: Fields<'n>,
        place: &Place<'n, '_>,
    ) -> Option<StepIndex> {
        let name_node = fields.get("name");
        let name = match name_node {
            Some(node) => self.read(Some(node), Consts::text)?,
            None => {
                let template = self.template(url)?;
                let name = format!("{method} {}", path_of(&template));
                name.chars().take(NAME_CHARS_MAX).collect()
            }
        };
        let span = name_node.map_or(key.span, |node| node.span);
        if name.trim().is_empty()
            || name.chars().count() > NAME_CHARS_MAX
            || name.chars().any(char::is_control)
        {
            let message = format!("a step's name has 1 to {NAME_CHARS_MAX} printable characters");
            self.collector.push_once(Draft::error(span, message).link("steps"));
            return None;
        }
        let full = format!("{}{name}", place.prefix);
        let known = (place.workflow, full);
        if let Some((index, first)) = self.step_places.get(&known) {
            let index = *index;
            if *first != span && name_node.is_some() {
                self.collector.push(
                    Draft::warning(span, format!("two steps have the name `{}`", known.1))
                        .note("their figures are added together")
                        .link("steps"),
                );
            }
            return Some(index);
        }
        if self.steps.len() >= NAMES_MAX {
            let message = format!("a test has at most {NAMES_MAX} named requests");
            self.collector.push_once(Draft::error(span, message).link("limits"));
            return None;
        }
        let index = StepIndex(u16::try_from(self.steps.len()).unwrap_or(u16::MAX));
        let workflow = WorkflowIndex(place.workflow);
        self.steps.push(StepName { workflow, name: known.1.clone() });
        self.step_places.insert(known, (index, span));
        Some(index)
    }

    /// The step's headers with those of `defaults` that it does not give itself.
    fn headers(&mut self, own: Option<&'n Node>) -> Vec<(String, Template)> {
        let of = |node: Option<&'n Node>| node.map_or(Fields(&[]), Fields::of);
        let own = of(own);
        let mut headers: Vec<(String, Template)> = Vec::new();
        let inherited = of(self.defaults.headers)
            .iter()
            .filter(|(name, ..)| !own.iter().any(|(other, ..)| other.eq_ignore_ascii_case(name)));
        let all: Vec<_> = inherited.chain(own.iter()).collect();
        for (name, key, node) in all {
            if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token) {
                let message = format!("`{}` is no name of a header", shorten(name));
                self.collector.push_once(Draft::error(key.span, message).link("steps"));
                continue;
            }
            if ["content-length", "transfer-encoding", "connection"]
                .iter()
                .any(|fixed| fixed.eq_ignore_ascii_case(name))
            {
                let message = format!("the header `{name}` is set by the connection itself");
                self.collector.push_once(Draft::error(key.span, message).link("steps"));
                continue;
            }
            if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                let message = format!("the header `{name}` is given twice");
                self.collector.push_once(Draft::error(key.span, message).link("steps"));
                continue;
            }
            let Some(template) = self.template(node) else { continue };
            let is_broken = template.0.iter().any(|piece| {
                matches!(piece, Piece::Text(text) if text.chars().any(|c| c.is_control() && c != '\t'))
            });
            if is_broken {
                let message = "a header's value has one line";
                self.collector.push_once(Draft::error(node.span, message).link("steps"));
            }
            let is_secret = ["authorization", "cookie", "x-api-key", "proxy-authorization"]
                .iter()
                .any(|secret| secret.eq_ignore_ascii_case(name));
            let is_written = node.as_text().is_some_and(|text| !text.contains("${"));
            if is_secret && is_written {
                self.warn_secret(node.span, &format!("the header `{name}`"));
            }
            headers.push((name.to_owned(), template));
        }
        headers
    }

    fn auth(&mut self, node: &'n Node) -> Option<Auth> {
        let fields = Fields::of(node);
        match (fields.get("basic"), fields.entry("bearer")) {
            (Some(basic), None) => {
                let basic = Fields::of(basic);
                let user = basic.get("user").and_then(|node| self.template(node));
                let password_node = basic.get("password")?;
                let password = self.template(password_node)?;
                if password_node.as_text().is_some_and(|text| !text.contains("${")) {
                    self.warn_secret(password_node.span, "the password");
                }
                Some(Auth::Basic { user: user?, password })
            }
            (None, Some((_, bearer))) => {
                if bearer.as_text().is_some_and(|text| !text.contains("${")) {
                    self.warn_secret(bearer.span, "the token");
                }
                self.template(bearer).map(Auth::Bearer)
            }
            _ => {
                let draft = Draft::error(
                    super::steps::begin(node),
                    "credentials are `basic` or `bearer`, one of both",
                );
                self.collector.push_once(draft.link("credentials"));
                None
            }
        }
    }

    fn body(&mut self, fields: Fields<'n>) -> Option<Body> {
        let mut bodies = BODIES.iter().filter_map(|name| fields.entry(name));
        let (key, node) = bodies.next()?;
        let kind = key.as_text().unwrap_or_default();
        if let Some((second, _)) = bodies.next() {
            let message = format!(
                "a request has one body, not `{kind}` and `{}`",
                second.as_text().unwrap_or_default()
            );
            self.collector.push_once(Draft::error(second.span, message).link("steps"));
            return None;
        }
        match kind {
            "json" => self.json_template(node, BODY_DEPTH_MAX).map(Body::Json),
            "form" => Some(Body::Form(self.templates(Some(node)))),
            "text" => self.template(node).map(Body::Text),
            "file" => {
                let path = self.read(Some(node), Consts::text)?;
                let bytes = (self.options.read_file)(&path, DATA_BYTES_MAX)
                    .map_err(|error| cannot_read(node, &path, &error));
                let bytes = self.ok(bytes)?;
                Some(Body::File(self.blob(node.span, bytes)))
            }
            "base64" => {
                let text = self.read(Some(node), Consts::text)?;
                let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .map_err(|_where| Draft::error(node.span, "this is not base64").link("steps"));
                self.ok(bytes).map(Body::Bytes)
            }
            // Multipart was refused with the table.
            _ => None,
        }
    }

    /// A JSON body. Parts without holes become text at once.
    fn json_template(&mut self, node: &Node, depth: usize) -> Option<JsonTemplate> {
        if depth == 0 {
            let message = format!("a body with holes nests at most {BODY_DEPTH_MAX} levels deep");
            self.collector.push_once(Draft::error(node.span, message).link("limits"));
            return None;
        }
        if !has_hole(node) {
            return Some(JsonTemplate::Constant(constant(node).to_string()));
        }
        match &node.kind {
            Kind::List(items) => {
                let items: Option<Vec<_>> =
                    items.iter().map(|item| self.json_template(item, depth - 1)).collect();
                items.map(JsonTemplate::List)
            }
            Kind::Map(entries) => {
                let mut object = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let name = key.as_text().unwrap_or_default();
                    self.no_hole(key, name);
                    object.push((name.to_owned(), self.json_template(value, depth - 1)?));
                }
                Some(JsonTemplate::Object(object))
            }
            Kind::Scalar(scalar) => {
                let whole = compile_whole(&scalar.text, &self.names(false));
                let whole = self.ok(whole.map_err(|error| place(node, error)))?;
                match whole.map(|typed| typed.expr) {
                    Some(Expr::Literal(value)) => {
                        Some(JsonTemplate::Constant(value.to_json().to_string()))
                    }
                    Some(expr) => Some(JsonTemplate::Hole(expr)),
                    None => {
                        let template = self.template(node)?;
                        Some(match template.as_literal() {
                            Some(text) => {
                                JsonTemplate::Constant(serde_json::Value::from(text).to_string())
                            }
                            None => JsonTemplate::Text(template),
                        })
                    }
                }
            }
        }
    }

    fn checks(&mut self, step: StepIndex, node: Option<&'n Node>) -> Vec<Check> {
        let mut checks = Vec::new();
        for item in node.map(items).unwrap_or_default() {
            let (expect, name, warn) = match &item.kind {
                Kind::Map(_) => {
                    let fields = Fields::of(item);
                    let name = self.read(fields.get("name"), Consts::text);
                    let warn = self.read(fields.get("warn"), Consts::bool).unwrap_or(false);
                    let Some(expect) = fields.get("expect") else { continue };
                    (expect, name, warn)
                }
                Kind::Scalar(_) => (item, None, false),
                Kind::List(_) => continue,
            };
            let Some(condition) = self.condition(expect, true) else { continue };
            let name = name.unwrap_or_else(|| {
                let text = expect.as_text().unwrap_or_default();
                text.split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
                    .chars()
                    .take(NAME_CHARS_MAX)
                    .collect()
            });
            if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
                self.error(
                    item.span,
                    format!("a check's name has 1 to {NAME_CHARS_MAX} characters"),
                );
                continue;
            }
            let Some(check) = self.check_index(step, name, item.span) else { return checks };
            checks.push(Check { check, condition, warn });
        }
        checks
    }

    fn check_index(&mut self, step: StepIndex, name: String, span: Span) -> Option<CheckIndex> {
        let key = (step, name);
        if let Some(index) = self.check_places.get(&key) {
            return Some(*index);
        }
        if self.checks.len() >= CHECKS_MAX {
            let message = format!("a test has at most {CHECKS_MAX} checks");
            self.collector.push_once(Draft::error(span, message).link("limits"));
            return None;
        }
        let index = CheckIndex(u16::try_from(self.checks.len()).unwrap_or(u16::MAX));
        self.checks.push(CheckName { step, name: key.1.clone() });
        self.check_places.insert(key, index);
        Some(index)
    }

    fn captures(&mut self, node: Option<&'n Node>) -> Vec<Capture> {
        let mut captures = Vec::new();
        for (name, key, node) in node.map(Fields::of).into_iter().flat_map(Fields::iter) {
            let fields = Fields::of(node);
            let Some(from) = self.capture_from(key, node) else { continue };
            let default = fields.get("default").and_then(|node| {
                if node.is_null() {
                    let draft = Draft::error(node.span, "a default of nothing is none")
                        .note("write `\"\"` for empty text, or leave `default` out");
                    self.collector.push_once(draft.link("captures"));
                    return None;
                }
                let json = self.constant_json(node);
                self.ok(json).map(|json| Value::from_json(&json))
            });
            let index = match self.word(fields.get("index")).as_deref() {
                Some("all") => CaptureIndex::All,
                Some("random") => CaptureIndex::Random,
                _ => CaptureIndex::First,
            };
            // Without an index the name was refused before.
            if let Some(local) = self.local_index(name) {
                captures.push(Capture { local, from, default, index });
            }
        }
        captures
    }

    fn capture_from(&mut self, key: &Node, node: &'n Node) -> Option<CaptureFrom> {
        const SOURCES: &[&str] = &["json", "regex", "header", "cookie", "body"];
        let fields = Fields::of(node);
        let mut found = SOURCES.iter().filter_map(|name| fields.entry(name));
        let (Some((source, value)), None) = (found.next(), found.next()) else {
            let is_mapping = matches!(node.kind, Kind::Map(_));
            if is_mapping && fields.get("css").is_none() && fields.get("xpath").is_none() {
                self.collector.push_once(
                    Draft::error(key.span, "a capture has one source")
                        .note("it is one of: json, regex, header, cookie, body; for example `{ json: \"$.id\" }`")
                        .link("captures"),
                );
            }
            return None;
        };
        if source.as_text() == Some("body") {
            if self.read(Some(value), Consts::bool) == Some(false) {
                self.error(value.span, "`body: true` captures the body; `false` captures nothing");
            }
            return Some(CaptureFrom::Body);
        }
        let text = self.read(Some(value), Consts::text)?;
        let refuse = |problem: String| Draft::error(value.span, problem).link("captures");
        let kind = match source.as_text() {
            Some("json") => Some(PatternKind::Json),
            Some("regex") => Some(PatternKind::Regex),
            _ => None,
        };
        let is_new = if let Some(kind) = kind {
            let whole = 0..text.len().max(1);
            let taken = self.consts.budget.take_pattern(&whole, kind, &text);
            self.ok(taken.map_err(|error| place(value, error)))?
        } else {
            false
        };
        let from = match source.as_text().unwrap_or_default() {
            "json" if !is_new => Ok(CaptureFrom::Json(text)),
            "regex" if !is_new => Ok(CaptureFrom::Regex(text)),
            "json" => match check_json_path(&text) {
                Ok(()) => Ok(CaptureFrom::Json(text)),
                Err(error) => Err(refuse(format!("`{}` is no JSONPath: {error}", shorten(&text)))),
            },
            "regex" => match check_regex(&text) {
                Ok(()) => Ok(CaptureFrom::Regex(text)),
                Err(error) => Err(refuse(format!("this is no regular expression: {error}"))),
            },
            "header" if text.is_empty() || !text.bytes().all(is_token) => {
                Err(refuse(format!("`{}` is no name of a header", shorten(&text))))
            }
            "header" => Ok(CaptureFrom::Header(text)),
            _ if text.is_empty() => Err(refuse("a cookie has a name".to_owned())),
            _ => Ok(CaptureFrom::Cookie(text)),
        };
        self.ok(from)
    }

    fn retry(&mut self, node: &'n Node) -> Retry {
        let fields = Fields::of(node);
        let times = self
            .read(fields.get("times"), |consts, node| consts.count_u32(node, 1, RETRIES_MAX))
            .unwrap_or(1);
        let failures = || Outcome::ALL.into_iter().filter(|outcome| outcome.is_failure());
        let any = || failures().map(|outcome| outcome.as_str().to_owned());
        let mut on: Vec<String> = Vec::new();
        for (name, node) in self.read(fields.get("on"), Consts::texts).unwrap_or_default() {
            let is_status = name.parse::<u16>().is_ok_and(|status| (100..=599).contains(&status));
            if name == "any" {
                on.extend(any());
            } else if is_status || failures().any(|outcome| outcome.as_str() == name) {
                on.push(name);
            } else {
                let known = failures().map(Outcome::as_str).chain(["any"]);
                let draft = Self::unknown(node.span, "outcome", &name, known);
                self.collector.push_once(draft.note("or a status such as 503").link("retries"));
            }
        }
        if on.is_empty() {
            on = any().collect();
        }
        let mut seen = std::collections::BTreeSet::new();
        on.retain(|name| seen.insert(name.clone()));
        let backoff =
            (self.read(fields.get("backoff"), Consts::duration)).unwrap_or(BACKOFF_DEFAULT);
        Retry { times, on, backoff }
    }
}

/// What a body is, unless the test says otherwise. Of bytes and files nothing is known.
const fn content_type(body: &Body) -> Option<&'static str> {
    match body {
        Body::Json(_) => Some("application/json"),
        Body::Form(_) => Some("application/x-www-form-urlencoded"),
        Body::Text(_) => Some("text/plain; charset=utf-8"),
        Body::Empty | Body::Bytes(_) | Body::File(_) => None,
    }
}

fn has_hole(node: &Node) -> bool {
    match &node.kind {
        Kind::Scalar(scalar) => scalar.text.contains("${"),
        Kind::List(items) => items.iter().any(has_hole),
        Kind::Map(entries) => entries.iter().any(|(key, value)| {
            key.as_text().is_some_and(|text| text.contains("${")) || has_hole(value)
        }),
    }
}

fn constant(node: &Node) -> serde_json::Value {
    match &node.kind {
        Kind::Scalar(scalar) => scalar_json(scalar),
        Kind::List(items) => items.iter().map(constant).collect(),
        Kind::Map(entries) => serde_json::Value::Object(
            entries
                .iter()
                .map(|(key, value)| (key.as_text().unwrap_or_default().to_owned(), constant(value)))
                .collect(),
        ),
    }
}

/// A character of a method or a header's name (RFC 9110).
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// The path with `{}` for holes, or all if the URL has no path that could be told.
fn path_of(template: &Template) -> String {
    let mut text = String::new();
    for piece in &template.0 {
        match piece {
            Piece::Text(piece) => text.push_str(piece),
            Piece::Hole(_) => text.push_str("{}"),
        }
    }
    let end = text.find(['?', '#']).unwrap_or(text.len());
    text.truncate(end);
    match text.split_once("://") {
        Some((_, rest)) if rest.contains('/') => rest.to_owned(),
        Some((_, rest)) => format!("{rest}/"),
        None => text,
    }
}

/// Whether text can be the beginning of an absolute URL, else what is wrong with it.
pub(super) fn check_url(text: &str) -> Result<(), String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("has no `http://` or `https://` at its start".to_owned());
    };
    if !["http", "https"].contains(&scheme) {
        return Err(format!("has the scheme `{}`; known are http and https", shorten(scheme)));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    if authority.contains('@') {
        return Err("holds credentials; use `auth`".to_owned());
    }
    let port = match authority.rsplit_once(']') {
        Some((_, after)) => after.strip_prefix(':'),
        None => authority.rsplit_once(':').map(|(_, port)| port),
    };
    if authority.is_empty() || authority.starts_with(':') {
        return Err("has no host".to_owned());
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) && end < rest.len() {
        return Err(format!("has the port `{}`", shorten(port.unwrap_or_default())));
    }
    check_url_text(text)
}

/// Whether text can stand in a URL as it is.
fn check_url_text(text: &str) -> Result<(), String> {
    let refused =
        text.chars().find(|c| c.is_whitespace() || c.is_control() || "\"<>\\^`{}|".contains(*c));
    match refused {
        Some(c) if c.is_ascii_graphic() || c == ' ' => {
            Err(format!("holds `{c}`, which must be written as `%{:02X}`", u32::from(c)))
        }
        Some(c) => Err(format!("holds {c:?}, which must be encoded")),
        None if text.contains('#') => Err("holds `#`: fragments are never sent".to_owned()),
        None => Ok(()),
    }
}
