//! Settings of requests and of the job: `defaults` and `run`.

use std::collections::BTreeMap;
use std::net::IpAddr; // An address as a value; nothing here opens a socket.
use std::time::Duration;

use super::{Compiler, Fields};
use crate::diagnostics::Draft;
use crate::expr::check::compile_template;
use crate::expr::{Expr, Piece, Var};
use crate::ir::{
    BestEffort, Connections, DEADLINE_DEFAULT, Datacenters, Dns, DnsFamily, DnsSelect,
    HttpSettings, Plan, Priority, Proxy, RunSettings, Split, Tls, TlsVersion,
};
use crate::load::Load;
use crate::shape::{Consts, expected, place};
use crate::units::show_duration;
use crate::yaml::{Kind, Node};

/// How long requests may take unless the test says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How many redirects are followed unless the test says otherwise.
const REDIRECTS_DEFAULT: u32 = 5;
/// Most redirects that are followed.
pub(super) const REDIRECTS_MAX: u32 = 100;
/// Connections of a pool unless the test says otherwise.
const POOL_DEFAULT: u32 = 100;
/// What a job may take beyond what its loads take.
const DEADLINE_SPARE: Duration = Duration::from_secs(300);

impl<'n> Compiler<'n> {
    pub(super) fn defaults(&mut self, file: Fields<'n>) {
        let fields = file.below("defaults");
        self.defaults.timeout =
            self.read(fields.get("timeout"), Consts::positive).unwrap_or(TIMEOUT_DEFAULT);
        let redirects = fields.below("http").get("redirects");
        self.defaults.redirects = self
            .read(redirects, |consts, node| consts.count_u32(node, 0, REDIRECTS_MAX))
            .unwrap_or(REDIRECTS_DEFAULT);
        self.defaults.headers = fields.get("headers");
        self.defaults.auth = fields.get("auth");
    }

    pub(super) fn http_settings(&mut self, file: Fields<'n>) -> HttpSettings {
        let basis = HttpSettings::default();
        let fields = file.below("defaults");
        let http = fields.below("http");
        let net = fields.below("net");
        if let Some(node) = http.get("version")
            && matches!(self.word(Some(node)).as_deref(), Some("2" | "3"))
        {
            self.collector.push(
                Draft::error(node.span, "this version of HTTP is not supported yet; 1.1 is")
                    .link("http"),
            );
        }
        let is_pool = self.word(http.get("connections")).as_deref() == Some("pool");
        let size = self.read(http.get("pool_size"), |c, node| c.count_u32(node, 1, 1_000_000));
        if let Some((key, _)) = http.entry("pool_size")
            && !is_pool
        {
            self.collector.push(
                Draft::error(key.span, "`pool_size` goes with `connections: pool`").link("http"),
            );
        }
        let tls_fields = fields.below("tls");
        HttpSettings {
            connections: if is_pool {
                Connections::Pool { size: size.unwrap_or(POOL_DEFAULT) }
            } else {
                Connections::PerVu
            },
            max_requests: self
                .read(http.get("max_requests"), |c, node| c.within(node, 1, u64::MAX)),
            max_age: self.read(http.get("max_age"), Consts::positive),
            idle: self.read(http.get("idle"), Consts::positive),
            cookies: self.read(http.get("cookies"), Consts::bool).unwrap_or(basis.cookies),
            compression: (self.read(http.get("compression"), Consts::bool))
                .unwrap_or(basis.compression),
            connect_timeout: (self.read(http.get("connect_timeout"), Consts::positive))
                .unwrap_or(basis.connect_timeout),
            tls_timeout: (self.read(tls_fields.get("handshake_timeout"), Consts::positive))
                .unwrap_or(basis.tls_timeout),
            first_byte_timeout: self.read(http.get("first_byte_timeout"), Consts::positive),
            source_ips: self.addresses(net.get("source_ips")),
            resolve: (net.below("resolve").iter())
                .map(|(host, _, node)| (host.to_owned(), self.addresses(Some(node))))
                .collect::<BTreeMap<_, _>>(),
            dns: self.dns(net.below("dns")),
            proxy: net.get("proxy").and_then(|node| self.proxy(node)),
            tls: self.tls(tls_fields),
            samples: (self.read(fields.get("samples"), |c, node| c.count_u32(node, 0, 100)))
                .unwrap_or(basis.samples),
        }
    }

    fn addresses(&mut self, node: Option<&Node>) -> Vec<IpAddr> {
        let Some(texts) = self.read(node, Consts::texts) else { return Vec::new() };
        let mut addresses = Vec::new();
        for (text, node) in texts {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    let draft = expected(node, "an IP address such as `10.0.0.7`");
                    self.collector.push_once(draft.link("network"));
                }
            }
        }
        addresses
    }

    fn proxy(&mut self, node: &Node) -> Option<Proxy> {
        let text = self.read(Some(node), Consts::text)?;
        let proxy = || -> Result<Proxy, String> {
            if text.contains('@') {
                return Err("has a user or a password".to_owned());
            }
            super::request::check_url(&text)?;
            let authority = text.strip_prefix("http://").ok_or("is not reached by `http://`")?;
            let authority = authority.trim_end_matches('/');
            if authority.contains(['/', '?', '#']) {
                return Err("has a path".to_owned());
            }
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => {
                    (host, port.parse().map_err(|error| format!("has a bad port: {error}"))?)
                }
                Some(_) | None => (authority, 80),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Ok(Proxy { host, port })
        };
        match proxy() {
            Ok(proxy) => Some(proxy),
            Err(problem) => {
                self.collector.push_once(
                    Draft::error(node.span, format!("the proxy {problem}"))
                        .note("write it as `http://host:port`")
                        .link("network"),
                );
                None
            }
        }
    }

    fn dns(&mut self, fields: Fields<'n>) -> Dns {
        Dns {
            family: match self.word(fields.get("family")).as_deref() {
                Some("v4") => DnsFamily::V4,
                Some("v6") => DnsFamily::V6,
                _ => DnsFamily::Auto,
            },
            select: match self.word(fields.get("select")).as_deref() {
                Some("first") => DnsSelect::First,
                Some("random") => DnsSelect::Random,
                _ => DnsSelect::RoundRobin,
            },
            ttl: self.read(fields.get("ttl"), Consts::duration),
        }
    }

    fn tls(&mut self, fields: Fields<'n>) -> Tls {
        let mut version = |name| match self.word(fields.get(name)).as_deref() {
            Some("1.2") => Some(TlsVersion::V1_2),
            Some("1.3") => Some(TlsVersion::V1_3),
            _ => None,
        };
        let (min, max) = (version("min"), version("max"));
        if let (Some(min), Some(max), Some((key, _))) = (min, max, fields.entry("max"))
            && min > max
        {
            self.error(key.span, "`max` is below `min`");
        }
        if let (Some((key, _)), None) = (fields.entry("cert"), fields.get("key")) {
            let draft = Draft::error(key.span, "a certificate needs its `key`").link("tls");
            self.collector.push(draft);
        }
        Tls {
            ca: self.certificates(fields.get("ca")),
            cert: self.certificates(fields.get("cert")),
            key_secret: fields.get("key").and_then(|node| self.tls_key(node)),
            server_name: self.read(fields.get("server_name"), Consts::text),
            min,
            max,
            insecure: self.read(fields.get("insecure"), Consts::bool).unwrap_or(false),
        }
    }

    fn certificates(&mut self, node: Option<&'n Node>) -> Option<String> {
        let node = node?;
        let text = self.small_file(node)?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            self.error(node.span, "the file holds no certificate in PEM form");
        }
        Some(text)
    }

    /// The name of the secret that holds the client's key. A key from a file becomes one.
    fn tls_key(&mut self, node: &'n Node) -> Option<String> {
        let text = node.as_text()?;
        if text.contains("${secrets.") {
            self.runtime.secrets.clone_from(&self.secret_names);
            let template =
                compile_template(text, &self.names(false)).map_err(|error| place(node, error));
            let template = self.ok(template)?;
            let [Piece::Hole(Expr::Var(Var::Secret(index)))] = template.0.as_slice() else {
                self.error(node.span, "the key must be one secret, or a file");
                return None;
            };
            return self.secret_names.get(usize::from(*index)).cloned();
        }
        let key = self.small_file(node)?;
        // A name that no declared secret can have.
        let name = "defaults.tls.key".to_owned();
        self.secrets.0.insert(name.clone(), key);
        self.secret_names.push(name.clone());
        Some(name)
    }

    pub(super) fn run(&mut self, file: Fields<'n>, plan: &Plan) -> RunSettings {
        let fields = file.below("run");
        let is_each = self.read(fields.get("each"), Consts::bool).unwrap_or(false);
        let split = self.split(fields, is_each);
        let mut settings = RunSettings {
            datacenters: self.datacenters(fields, &split),
            split,
            deadline: Duration::MAX,
            priority: match self.word(fields.get("priority")).as_deref() {
                Some("critical") => Priority::Critical,
                Some("high") => Priority::High,
                Some("low") => Priority::Low,
                _ => Priority::Normal,
            },
            best_effort: self.best_effort(fields),
            max_latency: self.read(fields.get("max_latency"), Consts::positive),
            seed: self.read(fields.get("seed"), Consts::count).unwrap_or(0),
            start_at: self.read(fields.get("start_at"), Consts::instant),
        };
        let unlimited = Plan { run: settings.clone(), ..plan.clone() };
        let planned = unlimited.planned_duration();
        let stop = plan.workflows.iter().map(|workflow| workflow.graceful_stop).max();
        let least = planned.saturating_add(stop.unwrap_or_default());
        settings.deadline = match fields.get("deadline") {
            None => DEADLINE_DEFAULT.max(least.saturating_add(DEADLINE_SPARE)),
            Some(node) => {
                let deadline = self.read(Some(node), Consts::positive).unwrap_or(DEADLINE_DEFAULT);
                let certain = certain_duration(&unlimited);
                if deadline < certain {
                    self.collector.push(
                        Draft::warning(
                            node.span,
                            format!(
                                "the loads take {}: the deadline will cut them",
                                show_duration(certain)
                            ),
                        )
                        .link("run"),
                    );
                }
                deadline
            }
        };
        settings
    }

    fn datacenters(&mut self, fields: Fields<'n>, split: &Split) -> Datacenters {
        let Some((key, node)) = fields.entry("datacenters") else {
            return match split {
                Split::Shares(shares) => Datacenters::Named(shares.keys().cloned().collect()),
                Split::Weighted | Split::Even | Split::Each => Datacenters::Choose(1),
            };
        };
        let datacenters = match &node.kind {
            Kind::Scalar(_) if self.word(Some(node)).as_deref() == Some("all") => Datacenters::All,
            Kind::Scalar(_) => {
                let count = self.read(Some(node), |c, node| c.count_u32(node, 1, 1_000));
                Datacenters::Choose(count.and_then(|n| u16::try_from(n).ok()).unwrap_or(1))
            }
            Kind::List(_) | Kind::Map(_) => {
                let texts = self.read(Some(node), Consts::texts).unwrap_or_default();
                let mut names: Vec<String> = Vec::new();
                for (name, node) in texts {
                    if names.contains(&name) {
                        self.error(node.span, format!("the datacenter `{name}` is named twice"));
                    } else {
                        names.push(name);
                    }
                }
                if names.is_empty() {
                    self.collector.push_once(Draft::error(node.span, "no datacenter is named"));
                }
                Datacenters::Named(names)
            }
        };
        if let Split::Shares(shares) = split {
            let agrees = matches!(&datacenters, Datacenters::Named(names)
                if names.len() == shares.len() && names.iter().all(|name| shares.contains_key(name)));
            if !agrees {
                self.collector.push(
                    Draft::error(key.span, "`split` and `datacenters` name different datacenters")
                        .link("run"),
                );
            }
        }
        datacenters
    }

    fn split(&mut self, fields: Fields<'n>, is_each: bool) -> Split {
        let Some((key, node)) = fields.entry("split") else {
            return if is_each { Split::Each } else { Split::Weighted };
        };
        if is_each {
            self.collector.push(
                Draft::error(
                    key.span,
                    "`each: true` gives every datacenter the whole load; there is nothing to split",
                )
                .link("run"),
            );
        }
        let Kind::Map(entries) = &node.kind else {
            let is_even = self.word(Some(node)).as_deref() == Some("even");
            return if is_even { Split::Even } else { Split::Weighted };
        };
        // In hundredths of a percent.
        let mut shares = BTreeMap::new();
        for (name, node) in entries {
            let share = self.read(Some(node), Consts::share).unwrap_or(0.0);
            let name = name.as_text().unwrap_or_default().to_owned();
            shares.insert(name, hundredths(share));
        }
        let sum: u32 = shares.values().fold(0, |sum, share| sum.saturating_add(*share));
        if sum != 10_000 && !self.collector.has_errors() {
            let percent = f64::from(sum) / 100.0;
            self.collector.push(
                Draft::error(key.span, format!("the shares make {percent}%, not 100%")).link("run"),
            );
        }
        Split::Shares(shares)
    }

    fn best_effort(&mut self, fields: Fields<'n>) -> Option<BestEffort> {
        let fields = Fields::of(fields.get("best_effort")?);
        let count = self.read(fields.get("min_datacenters"), |c, node| c.count_u32(node, 1, 1_000));
        let deadline = self.read(fields.get("deadline"), Consts::positive);
        Some(BestEffort {
            min_datacenters: count.and_then(|n| u16::try_from(n).ok()).unwrap_or(1),
            deadline: deadline.unwrap_or_default(),
        })
    }
}

/// How long the test takes at least: loads of a fixed number of iterations may be over at once.
fn certain_duration(plan: &Plan) -> Duration {
    let mut plan = plan.clone();
    for workflow in &mut plan.workflows {
        match &mut workflow.load {
            Load::PerVuIterations { max_duration, .. }
            | Load::SharedIterations { max_duration, .. }
            | Load::Once { max_duration } => *max_duration = Duration::ZERO,
            Load::ConstantVus { .. }
            | Load::RampingVus { .. }
            | Load::ConstantArrivalRate { .. }
            | Load::RampingArrivalRate { .. }
            | Load::ExternallyControlled { .. } => {}
        }
    }
    plan.planned_duration()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is between 0 and 1"
)]
fn hundredths(share: f64) -> u32 {
    (share * 10_000.0).round() as u32
}
