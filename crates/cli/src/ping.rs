//! `hyperscale ping`: one request in every detail, by the code that sends load.
//!
//! What fails is told by its phase: resolve, connect, tls, exchange. An answer of any status is one.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyperscale_engine::{
    Connection, Failure as Lost, Keep, Kept, Origin, SCRATCH_BYTES, Session, Trace, Way,
    probe_connector,
};
use hyperscale_model::Outcome;
use hyperscale_plan::Tls;
use hyperscale_report::{bytes, duration, plain};
use serde::Serialize;
use url::Url;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::args::PingArgs;
use crate::exit::{Exit, Failure};
use crate::jobs::{print, print_json};
use crate::source;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Nobody looks at the body; only its size is told.
const BODY_BYTES_KEPT: usize = 0;

/// What one request and its answer were.
#[derive(Debug, Default, Serialize)]
struct Hop {
    method: String,
    url: String,
    addresses: Vec<String>,
    resolve_us: Option<u128>,
    /// Addresses that did not take the connection, each with the reason.
    refused: Vec<String>,
    address: Option<String>,
    connect_us: Option<u128>,
    tls: Option<TlsPart>,
    tls_us: Option<u128>,
    request: Vec<String>,
    request_bytes: u64,
    status: Option<u16>,
    answer: Vec<String>,
    head_bytes: u64,
    body_bytes: u64,
    first_byte_us: Option<u128>,
    body_us: Option<u128>,
    total_us: Option<u128>,
    redirect: Option<String>,
    failure: Option<Broken>,
}

#[derive(Debug, Serialize)]
struct TlsPart {
    version: String,
    cipher: String,
    alpn: Option<String>,
    verified: bool,
    certificates: Vec<Certificate>,
}

#[derive(Debug, Serialize)]
struct Certificate {
    subject: String,
    issuer: String,
    names: Vec<String>,
    not_before: String,
    not_after: String,
    days_left: i64,
}

/// Where it broke off, and why.
#[derive(Debug, Clone, Serialize)]
struct Broken {
    phase: &'static str,
    why: String,
}

/// The request as it goes on over redirects.
struct Wanted {
    method: String,
    url: Url,
    headers: Vec<(String, String)>,
    body: String,
}

#[expect(clippy::disallowed_methods, reason = "phases are measured, and nothing decides by it")]
fn now() -> Instant {
    Instant::now()
}

pub(crate) async fn ping(args: PingArgs) -> Result<Exit, Failure> {
    let mut wanted = wanted(&args)?;
    let mut hops = Vec::new();
    loop {
        let (hop, next) = one(&wanted, &args).await;
        if args.output == "text" {
            print(&shown(&hop))?;
        }
        hops.push(hop);
        let Some(next) = next else { break };
        if hops.len() > REDIRECTS_MAX {
            let message = format!("there are more than {REDIRECTS_MAX} redirects");
            return Err(Failure::new(Exit::Unanswered, message));
        }
        print_gap(&args)?;
        wanted = next;
    }
    if args.output == "json" {
        print_json(&hops)?;
    }
    match hops.last().and_then(|hop| hop.failure.clone()) {
        None => Ok(Exit::Passed),
        Some(Broken { phase, why }) => {
            Err(Failure::new(Exit::Unanswered, format!("{phase} failed: {why}")))
        }
    }
}

fn print_gap(args: &PingArgs) -> Result<(), Failure> {
    if args.output == "text" { print("") } else { Ok(()) }
}

fn wanted(args: &PingArgs) -> Result<Wanted, Failure> {
    let invalid = |message: String| Err(Failure::new(Exit::Invalid, message));
    let text =
        if args.url.contains("://") { args.url.clone() } else { format!("http://{}", args.url) };
    let url = Url::parse(&text).map_err(|error| {
        Failure::caused(Exit::Invalid, &format!("`{}` is no URL", args.url), &error)
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return invalid(format!(
            "`{}` speaks {}; http and https are known",
            args.url,
            url.scheme()
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return invalid(format!("`{}` names no host", args.url));
    }
    let is_token = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    if !is_token(&args.method) {
        return invalid(format!("`{}` is no method", args.method));
    }
    let headers = source::headers(&args.headers)?;
    for (name, value) in &headers {
        if !is_token(name) || value.chars().any(|c| c.is_control() && c != '\t') {
            return invalid(format!("`{}` is no header", plain(&format!("{name}: {value}"))));
        }
    }
    let (method, body) = (args.method.to_ascii_uppercase(), args.body.clone().unwrap_or_default());
    Ok(Wanted { method, url, headers, body })
}

/// One request; with it the next one, if the answer redirects and that is followed.
async fn one(wanted: &Wanted, args: &PingArgs) -> (Hop, Option<Wanted>) {
    let mut hop =
        Hop { method: wanted.method.clone(), url: wanted.url.to_string(), ..Hop::default() };
    match exchange(wanted, args, &mut hop).await {
        Ok(()) => {}
        Err(broken) => hop.failure = Some(broken),
    }
    let Some(location) = hop.redirect.as_ref().filter(|_| args.follow) else {
        return (hop, None);
    };
    match redirected(wanted, hop.status, location) {
        Ok(next) => (hop, next),
        Err(broken) => {
            hop.failure = Some(broken);
            (hop, None)
        }
    }
}

/// The request that a redirect asks for (RFC 9110, section 15.4).
fn redirected(
    wanted: &Wanted,
    status: Option<u16>,
    location: &str,
) -> Result<Option<Wanted>, Broken> {
    let Some(status) = status.filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308)) else {
        return Ok(None);
    };
    let broken = |why: String| Broken { phase: "redirect", why };
    let location = plain_text(location);
    let url = wanted.url.join(&location);
    let url = url.map_err(|error| broken(format!("`{location}` is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(broken(format!("`{location}` speaks {}", url.scheme())));
    }
    let becomes_get = (status == 303 && wanted.method != "HEAD")
        || (matches!(status, 301 | 302) && wanted.method == "POST");
    let is_elsewhere = url.origin() != wanted.url.origin();
    let is_kept = |name: &str| {
        let is_secret = matches!(name, "authorization" | "cookie" | "host");
        let is_of_body = name.starts_with("content-");
        !(is_elsewhere && is_secret || becomes_get && is_of_body)
    };
    Ok(Some(Wanted {
        method: if becomes_get { "GET".to_owned() } else { wanted.method.clone() },
        headers: wanted.headers.iter().filter(|(name, _)| is_kept(name)).cloned().collect(),
        body: if becomes_get { String::new() } else { wanted.body.clone() },
        url,
    }))
}

async fn exchange(wanted: &Wanted, args: &PingArgs, hop: &mut Hop) -> Result<(), Broken> {
    let begin = now();
    let is_tls = wanted.url.scheme() == "https";
    let host = wanted.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = wanted.url.port_or_known_default().unwrap_or(80);
    let addresses = resolve(&host, port, args.timeout).await?;
    hop.resolve_us = Some(begin.elapsed().as_micros());
    hop.addresses = addresses.iter().map(|address| address.ip().to_string()).collect();
    let connector = if is_tls {
        let settings = Tls { insecure: args.insecure, ..Tls::default() };
        Some(probe_connector(&settings).map_err(|why| Broken { phase: "tls", why })?)
    } else {
        None
    };
    let origin = Rc::new(Origin { is_tls, host, port });
    let timeouts = (args.timeout, args.timeout);
    let mut opened = None;
    for address in addresses {
        hop.address = Some(address.to_string());
        let open = Connection::open(&origin, address, connector.as_ref(), Way::default(), timeouts);
        match open.await {
            Ok(connection) => {
                opened = Some(connection);
                break;
            }
            Err(Lost { outcome: Outcome::Connect, message, .. }) => hop.refused.push(message),
            Err(Lost { message, .. }) => {
                let hint = if args.insecure || !message.contains("certificate") {
                    ""
                } else {
                    "; --insecure takes any"
                };
                return Err(Broken { phase: "tls", why: format!("{message}{hint}") });
            }
        }
    }
    let Some((mut connection, times)) = opened else {
        hop.address = None;
        return Err(Broken { phase: "connect", why: hop.refused.join("; ") });
    };
    hop.connect_us = Some(times.connect.as_micros());
    hop.tls_us = times.tls.map(|time| time.as_micros());
    hop.tls = connection.session().map(|session| tls_part(session, !args.insecure));
    let (request, lines) = rendered(wanted);
    (hop.request, hop.request_bytes) = (lines, request.len() as u64);
    let scratch = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
    let (trace, mut kept) = (Trace::default(), Kept::default());
    let is_head = wanted.method == "HEAD";
    let sent = now();
    let answer = {
        let keep = (Keep::All(BODY_BYTES_KEPT), &mut kept);
        let exchange = connection.exchange(&request, is_head, &scratch, &trace, keep);
        tokio::time::timeout(args.timeout, exchange).await
    };
    let first_byte = trace.first_byte.get();
    hop.first_byte_us = first_byte.map(|at| at.duration_since(sent).as_micros());
    hop.status = trace.status.get();
    let head = String::from_utf8_lossy(&kept.head).into_owned();
    hop.answer = head.lines().filter(|line| !line.is_empty()).map(plain_text).collect();
    hop.head_bytes = kept.head.len() as u64;
    hop.body_bytes = trace.bytes_in.get().saturating_sub(hop.head_bytes);
    match answer {
        Ok(Ok(answer)) => {
            hop.body_us = first_byte.map(|at| at.elapsed().as_micros());
            hop.total_us = Some(begin.elapsed().as_micros());
            hop.redirect = answer.location;
            Ok(())
        }
        Ok(Err(lost)) => Err(Broken { phase: "exchange", why: lost.message }),
        Err(_late) => {
            let within = duration(args.timeout);
            let what = if first_byte.is_some() {
                format!("the answer was not whole within {within}")
            } else {
                format!("no byte of an answer came within {within}")
            };
            Err(Broken { phase: "exchange", why: what })
        }
    }
}

fn plain_text(text: &str) -> String {
    plain(text).to_string()
}

async fn resolve(host: &str, port: u16, timeout: Duration) -> Result<Vec<SocketAddr>, Broken> {
    let broken = |why: String| Broken { phase: "resolve", why };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = match tokio::time::timeout(timeout, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(broken(format!("`{host}` has no address: {error}"))),
        Err(_late) => {
            return Err(broken(format!("`{host}` had no address within {}", duration(timeout))));
        }
    };
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(broken(format!("`{host}` has no address")));
    }
    Ok(addresses)
}

/// The request's bytes, and its lines for people.
fn rendered(wanted: &Wanted) -> (Vec<u8>, Vec<String>) {
    let url = &wanted.url;
    let query = url.query().map_or(String::new(), |query| format!("?{query}"));
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let mut lines = vec![format!("{} {}{query} HTTP/1.1", wanted.method, url.path())];
    let own = [
        ("host", format!("{}{port}", url.host_str().unwrap_or_default())),
        ("user-agent", format!("hyperscale/{}", env!("CARGO_PKG_VERSION"))),
        ("accept", "*/*".to_owned()),
        ("connection", "close".to_owned()),
    ];
    let is_given = |name: &str| wanted.headers.iter().any(|(given, _)| given == name);
    for (name, value) in own {
        if !is_given(name) {
            lines.push(format!("{name}: {value}"));
        }
    }
    lines.extend(wanted.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    if !wanted.body.is_empty() && !is_given("content-length") {
        lines.push(format!("content-length: {}", wanted.body.len()));
    }
    let bytes = format!("{}\r\n\r\n{}", lines.join("\r\n"), wanted.body).into_bytes();
    (bytes, lines.iter().map(|line| masked(line)).collect())
}

/// A line of the request as it may be shown: credentials are not.
fn masked(line: &str) -> String {
    match line.split_once(": ") {
        Some((name @ ("authorization" | "cookie" | "proxy-authorization"), _)) => {
            format!("{name}: ********")
        }
        Some(_) | None => plain_text(line),
    }
}

fn tls_part(session: Session, verified: bool) -> TlsPart {
    let certificates = session.chain.iter().map(|der| certificate(der)).collect();
    let Session { version, cipher, alpn, .. } = session;
    TlsPart { version, cipher, alpn, verified, certificates }
}

fn certificate(der: &[u8]) -> Certificate {
    let Ok((_, read)) = X509Certificate::from_der(der) else {
        let unreadable = "unreadable".to_owned();
        return Certificate {
            subject: unreadable.clone(),
            issuer: unreadable,
            names: Vec::new(),
            not_before: String::new(),
            not_after: String::new(),
            days_left: 0,
        };
    };
    let mut names = Vec::new();
    if let Ok(Some(found)) = read.subject_alternative_name() {
        for name in &found.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(plain_text(name)),
                GeneralName::IPAddress(bytes) => names.push(address(bytes)),
                _ => {}
            }
        }
    }
    let left =
        read.validity().not_after.timestamp() - x509_parser::time::ASN1Time::now().timestamp();
    Certificate {
        subject: plain_text(&read.subject().to_string()),
        issuer: plain_text(&read.issuer().to_string()),
        names,
        not_before: read.validity().not_before.to_string(),
        not_after: read.validity().not_after.to_string(),
        days_left: left.div_euclid(86_400),
    }
}

fn address(bytes: &[u8]) -> String {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(four), _) => IpAddr::from(four).to_string(),
        (_, Ok(sixteen)) => IpAddr::from(sixteen).to_string(),
        _ => "unreadable".to_owned(),
    }
}

fn shown(hop: &Hop) -> String {
    let mut lines = vec![format!("{} {}", hop.method, hop.url)];
    let us = |us: Option<u128>| {
        let us = us.and_then(|us| u64::try_from(us).ok());
        us.map_or(String::new(), |us| duration(Duration::from_micros(us)))
    };
    let mut row = |name: &str, what: &str, time: String| {
        lines.push(format!("{name:<9} {what:<54} {time:>9}").trim_end().to_owned());
    };
    if hop.resolve_us.is_some() {
        row("resolve", &hop.addresses.join(", "), us(hop.resolve_us));
    }
    for refused in &hop.refused {
        row("connect", refused, String::new());
    }
    if let Some(address) = &hop.address {
        row("connect", address, us(hop.connect_us));
    }
    if let Some(tls) = &hop.tls {
        let alpn = tls.alpn.as_deref().unwrap_or("no ALPN");
        row("tls", &format!("{}, {}, {alpn}", tls.version, tls.cipher), us(hop.tls_us));
        if !tls.verified {
            row("", "the certificate was not checked (--insecure)", String::new());
        }
        for (at, one) in tls.certificates.iter().enumerate() {
            let number = at + 1;
            row("", &format!("{number}. {}, issued by {}", one.subject, one.issuer), String::new());
            let left = match one.days_left {
                days if days < 0 => format!("EXPIRED {} days ago", -days),
                days => format!("{days} days left"),
            };
            let valid = format!("   valid {} to {}, {left}", one.not_before, one.not_after);
            row("", &valid, String::new());
            if !one.names.is_empty() {
                row("", &format!("   for {}", one.names.join(", ")), String::new());
            }
        }
    }
    if !hop.request.is_empty() {
        row("request", &bytes(hop.request_bytes), String::new());
    }
    lines.extend(hop.request.iter().map(|line| format!("  > {line}")));
    if hop.status.is_some() {
        let sizes = format!("{} head, {} body", bytes(hop.head_bytes), bytes(hop.body_bytes));
        lines.push(format!("{:<9} {sizes}", "answer"));
    }
    lines.extend(hop.answer.iter().map(|line| format!("  < {line}")));
    if hop.total_us.is_some() {
        lines.push(format!(
            "times     first byte {}, body {}, in all {}",
            us(hop.first_byte_us),
            us(hop.body_us),
            us(hop.total_us)
        ));
    }
    if let Some(redirect) = &hop.redirect {
        lines.push(format!("redirect  {}", plain_text(redirect)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn args(line: &[&str]) -> PingArgs {
        let line = ["hyperscale", "ping"].iter().chain(line);
        let Command::Ping(args) = Args::try_parse_from(line).unwrap().command else {
            panic!("not ping")
        };
        args
    }

    async fn hop_of(line: &[&str]) -> Hop {
        let args = args(line);
        one(&wanted(&args).unwrap(), &args).await.0
    }

    async fn target(is_tls: bool) -> SocketAddr {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let acceptor = is_tls.then(|| hyperscale_target::acceptor(names).unwrap().0);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let target = hyperscale_target::Target::bind(any, acceptor).await.unwrap();
        let address = target.address().unwrap();
        tokio::spawn(target.serve());
        address
    }

    #[tokio::test]
    async fn png_01_every_phase_of_an_exchange_is_shown() {
        let address = target(true).await;
        let url = format!("https://{address}/json");

        let hop = hop_of(&[&url, "--insecure", "-H", "authorization: Bearer s3cret"]).await;

        assert!(hop.failure.is_none(), "{:?}", hop.failure);
        assert_eq!(hop.status, Some(200));
        let tls = hop.tls.as_ref().unwrap();
        assert_eq!((tls.version.as_str(), tls.certificates.len()), ("TLS 1.3", 1));
        assert!(tls.certificates[0].names.contains(&"127.0.0.1".to_owned()));
        let text = shown(&hop);
        for part in ["resolve", "connect", "tls", "> GET /json", "< HTTP/1.1 200", "first byte"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[tokio::test]
    async fn png_02_a_failure_names_its_phase() {
        let (plain, tls) = (target(false).await, target(true).await);
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = silent.local_addr().map(|at| (silent, at)).unwrap();
        let rows = [
            ("http://no-such-host.invalid/".to_owned(), "resolve"),
            (format!("http://{closed}/"), "connect"),
            (format!("https://{tls}/"), "tls"),
            (format!("https://{plain}/"), "tls"),
            (format!("http://{}/", silent.1), "exchange"),
        ];
        for (url, phase) in rows {
            let hop = hop_of(&[&url, "--timeout", "200ms"]).await;

            let broken = hop.failure.unwrap_or_else(|| panic!("{url} answered"));
            assert_eq!(broken.phase, phase, "{url}: {}", broken.why);
        }
    }

    #[test]
    fn png_03_redirects_keep_no_secrets_for_others() {
        let args = args(&["http://a/x", "-m", "post", "-b", "hi", "-H", "authorization: Bearer t"]);
        let wanted = wanted(&args).unwrap();
        let to = |status, location| redirected(&wanted, Some(status), location);

        let same = to(307, "/y").unwrap().unwrap();
        let other = to(302, "http://b/").unwrap().unwrap();

        assert_eq!(
            (same.method.as_str(), same.headers.len(), same.body.as_str()),
            ("POST", 1, "hi")
        );
        assert_eq!(
            (other.method.as_str(), other.headers.len(), other.body.as_str()),
            ("GET", 0, "")
        );
        assert!(to(200, "/y").unwrap().is_none());
        assert!(to(302, "ftp://b/").is_err() && to(302, "http://[").is_err());
    }

    #[test]
    fn png_04_what_is_no_request_is_refused_before_anything_is_sent() {
        for line in [
            &["ftp://a/"][..],
            &["http://"],
            &["http://a/", "-m", "G T"],
            &["http://a/", "-H", "no colon"],
            &["http://a/", "-H", "a b: c"],
        ] {
            assert!(wanted(&args(line)).is_err(), "{line:?}");
        }
    }
}
