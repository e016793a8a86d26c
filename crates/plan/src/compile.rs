//! From a test file to a plan.
//!
//! Three passes: the text becomes a tree under hard limits ([`crate::yaml`]), the tree is compared
//! with the table of keys ([`crate::shape`]), and what it means becomes the plan. A part that is
//! wrong does not hide what is wrong elsewhere: readers report and go on with a default, and only
//! a file without errors becomes a plan.

mod data;
mod load;
mod overrides;
mod request;
mod settings;
mod steps;
mod threshold;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::BlobHash;
use sha2::{Digest as _, Sha256};

use crate::context::Secrets;
use crate::diagnostics::{Collector, Diagnostic, Diagnostics, Draft, SourceText, Span, nearest};
use crate::expr::Value;
use crate::expr::check::{Budget, Names, Runtime, is_reserved};
use crate::ir::{
    CheckIndex, CheckName, DataSource, HttpSettings, Metric, MetricKind, PLAN_BYTES_MAX,
    PLAN_FORMAT, Plan, StepIndex, StepName,
};
use crate::keys;
use crate::shape::{Consts, Shape, expected, place};
use crate::yaml::{self, FILE_BYTES_MAX, Kind, Node};

/// Largest file of data or of a body.
const DATA_BYTES_MAX: usize = 64 << 20;
/// Most bytes of all files together.
const BLOB_BYTES_MAX: usize = 256 << 20;
/// Largest file of a secret or of certificates.
const SMALL_FILE_BYTES_MAX: usize = 256 << 10;

/// Reads a file by its path, as the test has it, if it has at most so many bytes.
pub type ReadFile<'a> = &'a dyn Fn(&str, usize) -> Result<Vec<u8>, String>;

/// What a test is compiled with.
#[expect(missing_debug_implementations, reason = "its functions have nothing to show")]
pub struct CompileOptions<'a> {
    /// The file's name, for messages and as the source of the test's default name.
    pub name: &'a str,
    /// Overrides (`--set path=value`), in order.
    pub sets: &'a [(String, String)],
    /// The value of an environment variable; only declared ones are asked for.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file that the test names, refusing one with more bytes than given.
    pub read_file: ReadFile<'a>,
}

/// A compiled test.
#[derive(Debug)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// The values of the declared secrets.
    pub secrets: Secrets,
    /// What the plan names by hash: rows and bodies, each once.
    pub blobs: Vec<(BlobHash, Vec<u8>)>,
    /// What its author should know.
    pub warnings: Vec<Diagnostic>,
    /// Files of results that the test asks for: kind and path, as `--out KIND=PATH` has them.
    pub outputs: Vec<(String, String)>,
}

/// Compiles a test file.
///
/// # Errors
///
/// Everything that is wrong with it, sorted by position.
pub fn compile(text: &[u8], options: &CompileOptions<'_>) -> Result<Compiled, Diagnostics> {
    let mut collector = Collector::default();
    let lossy;
    let text = if text.len() > FILE_BYTES_MAX {
        let name = options.name;
        let message = format!("{name} has more than {FILE_BYTES_MAX} bytes, which are allowed");
        collector.push(Draft::error(Span::default(), message).nowhere().link("limits"));
        ""
    } else {
        match std::str::from_utf8(text) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(error) => {
                lossy = String::from_utf8_lossy(text).into_owned();
                let start = u32::try_from(error.valid_up_to()).unwrap_or(u32::MAX);
                let span = Span { source: 0, start, end: start.saturating_add(3) };
                collector.push(
                    Draft::error(span, "the file is not UTF-8")
                        .note("save it with the encoding UTF-8"),
                );
                &lossy
            }
        }
    };
    let set_texts: Vec<String> =
        options.sets.iter().map(|(path, value)| format!("{path}={value}")).collect();
    let mut sources = vec![SourceText::new(options.name, text)];
    sources.extend(set_texts.iter().map(|text| SourceText::new("--set", text)));
    if collector.has_errors() {
        return Err(failed(collector, &sources));
    }
    let root = match yaml::parse(0, text) {
        Ok(mut root) => {
            overrides::apply(&mut root, options.sets, &mut collector);
            root
        }
        Err(drafts) => {
            drafts.into_iter().for_each(|draft| collector.push(draft));
            return Err(failed(collector, &sources));
        }
    };
    let mut compiler = Compiler::new(options, collector);
    let plan = compiler.test(&root, text);
    let Compiler { mut collector, secrets, blobs, unset, outputs, .. } = compiler;
    // What follows from a missing variable says nothing new.
    collector.forget_lines(&sources, |line| unset.iter().any(|name| line.contains(name)));
    let warnings = collector.finish(&sources)?;
    Ok(Compiled { plan, secrets, blobs: blobs.into_iter().collect(), warnings, outputs })
}

fn failed(collector: Collector, sources: &[SourceText<'_>]) -> Diagnostics {
    match collector.finish(sources) {
        Err(diagnostics) => diagnostics,
        Ok(items) => Diagnostics { items, more: 0 },
    }
}

/// The entries of a mapping.
#[derive(Debug, Clone, Copy)]
struct Fields<'n>(&'n [(Node, Node)]);

impl<'n> Fields<'n> {
    /// The entries of a node, which has none if it is no mapping.
    fn of(node: &'n Node) -> Self {
        match &node.kind {
            Kind::Map(entries) => Self(entries),
            Kind::Scalar(_) | Kind::List(_) => Self(&[]),
        }
    }

    fn entry(self, name: &str) -> Option<(&'n Node, &'n Node)> {
        let found = self.0.iter().find(|(key, _)| key.as_text() == Some(name));
        found.map(|(key, value)| (key, value))
    }

    fn get(self, name: &str) -> Option<&'n Node> {
        self.entry(name).map(|(_, value)| value)
    }

    /// The entries of a mapping below.
    fn below(self, name: &str) -> Self {
        self.get(name).map_or(Self(&[]), Self::of)
    }

    fn iter(self) -> impl Iterator<Item = (&'n str, &'n Node, &'n Node)> {
        self.0.iter().map(|(key, value)| (key.as_text().unwrap_or_default(), key, value))
    }
}

/// The items of a list.
fn items(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(items) => items,
        Kind::Scalar(_) | Kind::Map(_) => &[],
    }
}

/// What holds for all requests.
#[derive(Debug, Default)]
struct RequestDefaults<'n> {
    timeout: Duration,
    redirects: u32,
    headers: Option<&'n Node>,
    auth: Option<&'n Node>,
}

struct Compiler<'n> {
    options: &'n CompileOptions<'n>,
    collector: Collector,
    consts: Consts,
    target: Option<String>,
    defaults: RequestDefaults<'n>,
    secret_names: Vec<String>,
    secrets: Secrets,
    data: Vec<DataSource>,
    metrics: Vec<Metric>,
    blobs: BTreeMap<BlobHash, Vec<u8>>,
    blob_bytes: usize,
    blocks: BTreeMap<&'n str, &'n Node>,
    used_blocks: BTreeSet<&'n str>,
    /// What the steps that are being compiled may name.
    runtime: Runtime,
    steps: Vec<StepName>,
    /// Steps by workflow and name, with the place of the first of that name.
    step_places: BTreeMap<(u16, String), (StepIndex, Span)>,
    checks: Vec<CheckName>,
    check_places: BTreeMap<(StepIndex, String), CheckIndex>,
    /// Steps so far, blocks written out.
    step_count: usize,
    /// Declared variables without a value, as expressions name them.
    unset: Vec<String>,
    outputs: Vec<(String, String)>,
}

impl<'n> Compiler<'n> {
    fn new(options: &'n CompileOptions<'n>, collector: Collector) -> Self {
        let consts = Consts { vars: BTreeMap::new(), env: BTreeMap::new(), budget: Budget::new() };
        Self {
            options,
            collector,
            consts,
            target: None,
            defaults: RequestDefaults::default(),
            secret_names: Vec::new(),
            secrets: Secrets::default(),
            data: Vec::new(),
            metrics: Vec::new(),
            blobs: BTreeMap::new(),
            blob_bytes: 0,
            blocks: BTreeMap::new(),
            used_blocks: BTreeSet::new(),
            runtime: Runtime::default(),
            steps: Vec::new(),
            step_places: BTreeMap::new(),
            checks: Vec::new(),
            check_places: BTreeMap::new(),
            step_count: 0,
            unset: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Reports an error, if it is one.
    fn ok<T>(&mut self, result: Result<T, Draft>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(draft) => {
                self.collector.push_once(draft.link("values"));
                None
            }
        }
    }

    fn error(&mut self, span: Span, message: impl Into<String>) {
        self.collector.push(Draft::error(span, message).link("values"));
    }

    /// Reads a value that may be absent.
    fn read<'a, T>(
        &mut self,
        node: Option<&'a Node>,
        reader: impl FnOnce(&Consts, &'a Node) -> Result<T, Draft>,
    ) -> Option<T> {
        let result = reader(&self.consts, node?);
        self.ok(result)
    }

    /// A word that is known before the test runs, as one of several that a key can have.
    fn word(&mut self, node: Option<&Node>) -> Option<String> {
        self.read(node, Consts::text)
    }

    /// What expressions in steps may name.
    const fn names(&self, answer: bool) -> Names<'_> {
        Names {
            vars: &self.consts.vars,
            env: &self.consts.env,
            runtime: Some(&self.runtime),
            answer,
            budget: &self.consts.budget,
        }
    }

    /// A name that expressions can use.
    fn identifier(&mut self, key: &Node, what: &str) -> Option<String> {
        let name = key.as_text().unwrap_or_default();
        let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_word || name.len() > 64 {
            self.collector.push_once(
                Draft::error(key.span, format!("`{}` is no name for {what}", yaml::shorten(name)))
                    .note("a name has at most 64 letters, digits and `_`, a letter first")
                    .link("values"),
            );
            return None;
        }
        if is_reserved(name) {
            self.collector.push_once(
                Draft::error(key.span, format!("`{name}` has a meaning in expressions already"))
                    .note(format!("choose another name for {what}"))
                    .link("expressions"),
            );
            return None;
        }
        Some(name.to_owned())
    }

    fn test(&mut self, root: &'n Node, text: &str) -> Plan {
        if !matches!(root.kind, Kind::Map(_)) {
            let draft = expected(root, "a mapping").link("the-file");
            self.collector.push(draft.note(
                "the smallest test: `workflows: { w: { load: { vus: 1, duration: 10s }, steps: [ { get: \"http://127.0.0.1\" } ] } }`",
            ));
        }
        let file = Fields::of(root);
        self.environment(file);
        self.vars(file);
        let start = Span { end: root.span.start.saturating_add(1), ..root.span };
        Shape { consts: &self.consts, collector: &mut self.collector }.section(
            root,
            &keys::TEST,
            start,
        );
        if self.collector.is_full() {
            return self.empty_plan();
        }
        let name = self.read(file.get("name"), Consts::text).unwrap_or_else(|| self.stem());
        if name.is_empty() || name.chars().count() > 200 {
            let span = file.get("name").map_or(start, |node| node.span);
            self.error(span, "a test's name has 1 to 200 characters");
        }
        let description = self.read(file.get("description"), Consts::text);
        let mut labels = BTreeMap::new();
        for (key, _, node) in file.below("labels").iter() {
            if let Some(value) = self.read(Some(node), Consts::text) {
                labels.insert(key.to_owned(), value);
            }
        }
        self.target(file);
        self.secrets(file);
        let http = self.http_settings(file);
        self.defaults(file);
        self.metrics(file);
        self.data_sources(file);
        self.blocks = file.below("blocks").iter().map(|(name, _, node)| (name, node)).collect();
        let workflows = self.workflows(file);
        self.unused_blocks(file);
        self.outputs(file);
        let mut plan = Plan {
            name,
            description,
            labels,
            vars: self.consts.vars.clone(),
            env: self.consts.env.clone(),
            secrets: std::mem::take(&mut self.secret_names),
            http,
            data: std::mem::take(&mut self.data),
            workflows,
            steps: std::mem::take(&mut self.steps),
            checks: std::mem::take(&mut self.checks),
            metrics: std::mem::take(&mut self.metrics),
            ..self.empty_plan()
        };
        self.data_use(file, &plan);
        plan.run = self.run(file, &plan);
        plan.thresholds = self.thresholds(file, &plan);
        if !self.collector.has_errors() {
            self.fit(&mut plan, text);
        }
        plan
    }

    fn empty_plan(&self) -> Plan {
        Plan {
            format: PLAN_FORMAT,
            name: String::new(),
            description: None,
            labels: BTreeMap::new(),
            vars: BTreeMap::new(),
            env: BTreeMap::new(),
            secrets: Vec::new(),
            http: HttpSettings::default(),
            data: Vec::new(),
            workflows: Vec::new(),
            steps: Vec::new(),
            checks: Vec::new(),
            metrics: Vec::new(),
            thresholds: Vec::new(),
            run: crate::ir::RunSettings::default(),
            source: None,
        }
    }

    /// Whether the plan can travel, with the file's text in it if there is room.
    fn fit(&mut self, plan: &mut Plan, text: &str) {
        let mut counter = ByteCounter(0);
        let is_small = serde_json::to_writer(&mut counter, plan).is_ok();
        if !is_small {
            let message = format!("the compiled test has more than {PLAN_BYTES_MAX} bytes");
            let draft = Draft::error(Span::default(), message).nowhere().link("limits");
            self.collector.push(draft.note(
                "put large values into `data`, which travels apart; a block counts as often as it is used",
            ));
            return;
        }
        // A character of the text takes at most six bytes in JSON.
        if counter.0 + 6 * text.len() + 64 <= PLAN_BYTES_MAX {
            plan.source = Some(text.to_owned());
        }
        let problem = match Plan::from_bytes(&plan.to_bytes()) {
            Ok(decoded) if decoded == *plan => return,
            Ok(_) => "the compiled test does not read back as it was written".to_owned(),
            Err(error) => match std::error::Error::source(&error) {
                Some(source) if source.to_string().contains("recursion limit") => {
                    "steps, bodies and expressions together nest too deep".to_owned()
                }
                _ => error.to_string(),
            },
        };
        self.collector.push(Draft::error(Span::default(), problem).nowhere().link("limits"));
    }

    fn stem(&self) -> String {
        let file = self.options.name.rsplit(['/', '\\']).next().unwrap_or_default();
        let stem = file.strip_suffix(".yaml").or_else(|| file.strip_suffix(".yml")).unwrap_or(file);
        let stem: String = stem.chars().take(200).collect();
        if stem.is_empty() { "test".to_owned() } else { stem }
    }

    fn environment(&mut self, file: Fields<'n>) {
        for (name, key, node) in file.below("env").iter() {
            if self.identifier(key, "an environment variable").is_none() {
                continue;
            }
            let default = self.read(Fields::of(node).get("default"), Consts::text);
            let value = (self.options.environment)(name).or(default);
            if value.is_none() {
                self.collector.push(
                    Draft::error(key.span, format!("the environment variable `{name}` is not set"))
                        .note(format!("set it, or give a default: `{name}: {{ default: … }}`"))
                        .link("environment"),
                );
                self.unset.push(format!("env.{name}"));
            }
            self.consts.env.insert(name.to_owned(), value.unwrap_or_default());
        }
    }

    fn vars(&mut self, file: Fields<'n>) {
        for (_, key, node) in file.below("vars").iter() {
            let Some(name) = self.identifier(key, "a constant") else { continue };
            let json = self.constant_json(node);
            if let Some(json) = self.ok(json) {
                let is_secret = ["password", "passwd", "secret", "token", "api_key", "apikey"]
                    .iter()
                    .any(|word| name.to_lowercase().contains(word));
                if is_secret && json.as_str().is_some_and(|text| !text.is_empty()) {
                    self.warn_secret(node.span, &format!("`{name}`"));
                }
                self.consts.vars.insert(name, Value::from_json(&json));
            }
        }
    }

    fn warn_secret(&mut self, span: Span, what: &str) {
        self.collector.push(
            Draft::warning(span, format!("{what} looks like a secret written in clear"))
                .hidden()
                .note("declare it under `secrets` and write `${secrets.NAME}`: it is then masked in every output")
                .link("secrets"),
        );
    }

    /// A value that is known before the test runs; its holes are filled.
    fn constant_json(&self, node: &Node) -> Result<serde_json::Value, Draft> {
        use crate::expr::check::{compile_template, compile_whole};
        use crate::expr::{Expr, Piece};
        match &node.kind {
            Kind::List(items) => items.iter().map(|item| self.constant_json(item)).collect(),
            Kind::Map(entries) => {
                let entries: Result<serde_json::Map<_, _>, Draft> = entries
                    .iter()
                    .map(|(key, value)| {
                        let key = key.as_text().unwrap_or_default().to_owned();
                        Ok((key, self.constant_json(value)?))
                    })
                    .collect();
                entries.map(serde_json::Value::Object)
            }
            Kind::Scalar(scalar) if scalar.text.contains("${") => {
                let names = self.consts.names();
                let late = || Draft::error(node.span, "this must be known before the test runs");
                let whole = compile_whole(&scalar.text, &names).map_err(|e| place(node, e))?;
                if let Some(whole) = whole {
                    return match whole.expr {
                        Expr::Literal(value) => Ok(value.to_json()),
                        _ => Err(late()),
                    };
                }
                let template =
                    compile_template(&scalar.text, &names).map_err(|e| place(node, e))?;
                match template.0.as_slice() {
                    [Piece::Text(text)] => Ok(text.as_str().into()),
                    _ => Err(late()),
                }
            }
            Kind::Scalar(scalar) => Ok(scalar_json(scalar)),
        }
    }

    fn outputs(&mut self, file: Fields<'n>) {
        for node in file.get("outputs").map(items).unwrap_or_default() {
            let mut fields = Fields::of(node).iter();
            match (fields.next(), fields.next()) {
                (Some((kind, _, path)), None) => {
                    let Some(path) = self.read(Some(path), Consts::text) else { continue };
                    if self.outputs.iter().any(|(known, _)| known == kind) {
                        let message = format!("a second output of the kind `{kind}`");
                        self.collector.push(Draft::error(node.span, message).link("outputs"));
                    }
                    self.outputs.push((kind.to_owned(), path));
                }
                _ => self.collector.push(
                    Draft::error(node.span, "an output has one kind and its path")
                        .note("write each as `json: out.json`")
                        .link("outputs"),
                ),
            }
        }
    }

    fn target(&mut self, file: Fields<'n>) {
        let Some(node) = file.get("target") else { return };
        let Some(target) = self.read(Some(node), Consts::text) else { return };
        match request::check_url(&target) {
            Ok(()) => self.target = Some(target.trim_end_matches('/').to_owned()),
            Err(problem) => {
                self.collector.push_once(
                    Draft::error(node.span, format!("the target {problem}"))
                        .note("write it as `http://host`, `https://host:port` or with a path")
                        .link("the-file"),
                );
            }
        }
    }

    fn secrets(&mut self, file: Fields<'n>) {
        for (_, key, node) in file.below("secrets").iter() {
            let Some(name) = self.identifier(key, "a secret") else { continue };
            let fields = Fields::of(node);
            let value = match (fields.get("env"), fields.get("file")) {
                (Some(node), None) => self.read(Some(node), Consts::text).and_then(|variable| {
                    let value = (self.options.environment)(&variable);
                    if value.is_none() {
                        self.collector.push(
                            Draft::error(
                                node.span,
                                format!("the environment variable `{variable}` of the secret `{name}` is not set"),
                            )
                            .link("secrets"),
                        );
                    }
                    value
                }),
                (None, Some(node)) => self
                    .small_file(node)
                    .map(|text| text.trim_end_matches(['\r', '\n']).to_owned()),
                _ => {
                    self.collector.push_once(
                        Draft::error(key.span, "a secret comes from `env` or from a `file`")
                            .note(format!("for example `{name}: {{ env: {name} }}`"))
                            .link("secrets"),
                    );
                    None
                }
            };
            if value.as_ref().is_some_and(String::is_empty) {
                self.error(key.span, format!("the secret `{name}` is empty"));
            }
            // Without a value, uses of the name are no further errors.
            self.secrets.0.insert(name.clone(), value.unwrap_or_default());
            self.secret_names.push(name);
        }
    }

    /// A file that the test names, as text.
    fn small_file(&mut self, node: &Node) -> Option<String> {
        let path = self.read(Some(node), Consts::text)?;
        let bytes = (self.options.read_file)(&path, SMALL_FILE_BYTES_MAX)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_not_text| "it is no text".into()));
        self.ok(bytes.map_err(|error| cannot_read(node, &path, &error)))
    }

    /// Keeps bytes that travel beside the plan.
    fn blob(&mut self, span: Span, bytes: Vec<u8>) -> BlobHash {
        let hash = BlobHash(Sha256::digest(&bytes).into());
        if !self.blobs.contains_key(&hash) {
            self.blob_bytes = self.blob_bytes.saturating_add(bytes.len());
            if self.blob_bytes > BLOB_BYTES_MAX {
                let message = format!("the files of a test have more than {BLOB_BYTES_MAX} bytes");
                self.collector.push(Draft::error(span, message).link("limits"));
                return hash;
            }
            self.blobs.insert(hash, bytes);
        }
        hash
    }

    fn metrics(&mut self, file: Fields<'n>) {
        for (_, key, node) in file.below("metrics").iter() {
            let Some(name) = self.identifier(key, "a metric") else { continue };
            if threshold::is_builtin(&name) {
                self.error(key.span, format!("`{name}` is a metric already"));
                continue;
            }
            let fields = Fields::of(node);
            let kind = match self.word(fields.get("kind")).as_deref() {
                Some("counter") => MetricKind::Counter,
                Some("gauge") => MetricKind::Gauge,
                Some("rate") => MetricKind::Rate,
                _ => MetricKind::Distribution,
            };
            let unit = self.read(fields.get("unit"), Consts::text);
            self.metrics.push(Metric { name, kind, unit });
            if self.metrics.len() > 256 {
                self.error(key.span, "a test has at most 256 own metrics");
                return;
            }
        }
    }

    fn unused_blocks(&mut self, file: Fields<'n>) {
        for (name, key, _) in file.below("blocks").iter() {
            if !self.used_blocks.contains(name) {
                self.collector.push(
                    Draft::warning(key.span, format!("the block `{name}` is never used"))
                        .link("steps"),
                );
            }
        }
    }

    /// An error about a name that should be one of those known.
    fn unknown<'k>(
        span: Span,
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> Draft {
        let known: Vec<&str> = known.into_iter().collect();
        let draft = Draft::error(span, format!("unknown {what} `{}`", yaml::shorten(name)));
        match nearest(name, known.iter().copied()) {
            Some(near) => draft.note(format!("did you mean `{near}`?")),
            None if known.is_empty() => draft.note("none is declared"),
            None => draft.note(format!("known: {}", crate::diagnostics::one_of(known))),
        }
    }
}

fn cannot_read(node: &Node, path: &str, error: &str) -> Draft {
    Draft::error(node.span, format!("the file `{}` cannot be read: {error}", yaml::shorten(path)))
        .note("paths are relative to the test file")
        .link("values")
}

/// A scalar without holes as JSON.
fn scalar_json(scalar: &yaml::Scalar) -> serde_json::Value {
    // JSON has whole numbers that our own do not reach: ids, for example.
    if scalar.is_plain
        && let Ok(number) = scalar.text.parse::<u64>()
    {
        return number.into();
    }
    match scalar.meaning() {
        yaml::Plain::Null => serde_json::Value::Null,
        yaml::Plain::Bool(value) => value.into(),
        yaml::Plain::Int(number) => number.into(),
        yaml::Plain::Float(number) => number.into(),
        yaml::Plain::Text(text) => text.into(),
    }
}

/// Counts bytes up to the largest plan.
struct ByteCounter(usize);

impl std::io::Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        if self.0 > PLAN_BYTES_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
