//! The compiled test, as it travels and as the engine runs it.
//!
//! A plan is data: every name is resolved, every default applied, every block inlined, every
//! expression checked. Two plans with equal content have equal bytes ([`Plan::to_bytes`]), so a
//! plan is known by their hash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{BlobHash, WorkflowIndex};
use serde::{Deserialize, Serialize};

use crate::expr::{Expr, Template, Value};
use crate::load::Load;
use crate::threshold::Threshold;

/// The format of [`Plan`] that this version reads and writes.
pub const PLAN_FORMAT: u32 = 1;

/// The largest plan, in bytes, that travels.
pub const PLAN_BYTES_MAX: usize = 1 << 20;

/// A compiled test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_FORMAT`].
    pub format: u32,
    /// The test's name.
    pub name: String,
    /// What the author says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels that go into every output.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The values of `vars`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, Value>,
    /// The declared environment variables with the values that the client found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The names of the declared secrets. Their values never stand in a plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Where requests go and how.
    pub http: HttpSettings,
    /// Data sources, in the order of their indices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataSource>,
    /// Workflows, in the order of their indices.
    pub workflows: Vec<Workflow>,
    /// The named actions of all workflows: the units of statistics, in the order of their indices.
    pub steps: Vec<StepName>,
    /// Named checks of all steps, in the order of their indices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckName>,
    /// The test's own metrics, in the order of their indices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// What must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<Threshold>,
    /// How the job as a whole runs.
    pub run: RunSettings,
    /// The test file as it was written, for the report. Absent if the test came from a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Bytes that are no plan of a known format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodePlanError {
    /// The bytes are not what [`Plan::to_bytes`] writes.
    #[error("the plan cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// Another version wrote it.
    #[error("the plan has format {found}, this version reads {PLAN_FORMAT}")]
    Format {
        /// The format that the plan claims.
        found: u32,
    },
    /// It breaks a limit or refers to something that it does not contain.
    #[error("the plan is invalid: {0}")]
    Invalid(String),
}

impl Plan {
    /// The plan's canonical bytes.
    ///
    /// # Panics
    ///
    /// Never: a plan has string keys only and no value that JSON lacks.
    #[must_use]
    #[expect(clippy::expect_used, reason = "plans hold only what JSON can express")]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plan holds only what JSON can express")
    }

    /// Reads a plan that another node sent, and checks that its references and limits hold.
    ///
    /// # Errors
    ///
    /// If the bytes are malformed, of another format, or break an invariant of plans.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodePlanError> {
        let plan: Self = serde_json::from_slice(bytes)?;
        if plan.format != PLAN_FORMAT {
            return Err(DecodePlanError::Format { found: plan.format });
        }
        plan.validate().map_err(DecodePlanError::Invalid)?;
        Ok(plan)
    }

    /// All workflows that one waits for, in turn and directly: those whose values it can read.
    #[must_use]
    pub fn before(&self, workflow: WorkflowIndex) -> BTreeSet<WorkflowIndex> {
        let mut before = BTreeSet::new();
        let mut left = vec![workflow];
        while let Some(planned) = left.pop().and_then(|index| self.workflow(index)) {
            let new = planned.after.workflows.iter().filter(|index| before.insert(**index));
            left.extend(new.copied());
        }
        before
    }

    /// The blobs that the plan names: data and bodies.
    #[must_use]
    pub fn blobs(&self) -> BTreeSet<BlobHash> {
        fn of_steps(steps: &[Step], found: &mut BTreeSet<BlobHash>) {
            for step in steps {
                match &step.action {
                    Action::Request(request) => {
                        if let Body::File(hash) = request.body {
                            found.insert(hash);
                        }
                    }
                    Action::Group(steps)
                    | Action::Repeat { steps, .. }
                    | Action::While { steps, .. }
                    | Action::Parallel(steps) => of_steps(steps, found),
                    Action::If { then, otherwise, .. } => {
                        of_steps(then, found);
                        of_steps(otherwise, found);
                    }
                    Action::Choose(choices) => {
                        choices.iter().for_each(|choice| of_steps(&choice.steps, found));
                    }
                    Action::Pause(_)
                    | Action::Log(_)
                    | Action::Set { .. }
                    | Action::Stop(_)
                    | Action::Record { .. } => {}
                }
            }
        }
        let mut found: BTreeSet<BlobHash> = self.data.iter().map(|source| source.blob).collect();
        for workflow in &self.workflows {
            for steps in
                [&workflow.steps, &workflow.vu_setup, &workflow.vu_teardown, &workflow.finally]
            {
                of_steps(steps, &mut found);
            }
        }
        found
    }

    /// How long the test takes if everything goes as planned, along its longest chain of
    /// workflows. Loads of a fixed number of iterations count with their longest time.
    #[must_use]
    pub fn planned_duration(&self) -> Duration {
        let mut ends = vec![Duration::ZERO; self.workflows.len()];
        for index in self.start_order().unwrap_or_default() {
            let workflow = &self.workflows[index];
            let start = (workflow.after.workflows.iter())
                .filter_map(|needed| ends.get(usize::from(needed.0)))
                .max()
                .copied()
                .unwrap_or_default();
            ends[index] = start + workflow.start_after + workflow.load.duration();
        }
        ends.into_iter().max().unwrap_or_default().min(self.run.deadline)
    }

    /// When the loads that follow a clock end, by when workflows have started and ended so far;
    /// `None` if only fixed numbers of iterations are left, which take as long as they take.
    #[must_use]
    pub fn expected_end(
        &self,
        times: impl Fn(usize) -> (Option<Duration>, Option<Duration>),
    ) -> Option<Duration> {
        let mut ends = vec![Duration::ZERO; self.workflows.len()];
        let mut is_known = false;
        for index in self.start_order().unwrap_or_default() {
            let workflow = &self.workflows[index];
            let needed = workflow.after.workflows.iter();
            let ready = needed.filter_map(|needed| ends.get(usize::from(needed.0))).max().copied();
            let (started, ended) = times(index);
            let start = started.unwrap_or(ready.unwrap_or_default() + workflow.start_after);
            ends[index] = match (ended, workflow.load.iterations()) {
                (Some(ended), _) => ended,
                (None, Some(_)) => start,
                (None, None) => {
                    is_known = true;
                    start + workflow.load.duration()
                }
            };
        }
        is_known.then(|| ends.into_iter().max().unwrap_or_default().min(self.run.deadline))
    }

    /// The workflow at `index`, if the plan has it.
    #[must_use]
    pub fn workflow(&self, index: WorkflowIndex) -> Option<&Workflow> {
        self.workflows.get(usize::from(index.0))
    }
}

/// A unit of statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepName {
    /// The workflow that the step belongs to.
    pub workflow: WorkflowIndex,
    /// `workflow/step`, with the names of groups in between; unique in the plan.
    pub name: String,
}

/// A named check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckName {
    /// The step that it belongs to.
    pub step: StepIndex,
    /// Its name; the condition's text if it has none.
    pub name: String,
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u16);

        impl $name {
            /// The index as a position in a slice.
            #[must_use]
            pub const fn get(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index! {
    /// A place in [`Plan::steps`].
    StepIndex
}
index! {
    /// A place in [`Plan::checks`].
    CheckIndex
}
index! {
    /// A place in [`Plan::data`].
    DataIndex
}
index! {
    /// A place in [`Plan::metrics`].
    MetricIndex
}
index! {
    /// A place among the variables that one user of a workflow holds (captures and `set`).
    LocalIndex
}

/// A named load with its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workflow {
    /// Its name, unique in the plan.
    pub name: String,
    /// What must have happened before it starts.
    #[serde(default, skip_serializing_if = "After::is_nothing")]
    pub after: After,
    /// The load.
    pub load: Load,
    /// What a user does in one iteration.
    pub steps: Vec<Step>,
    /// Names of the variables that a user of this workflow holds, in the order of their indices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locals: Vec<String>,
    /// What it gives to the workflows after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// How long it waits after it could start.
    #[serde(default)]
    pub start_after: Duration,
    /// How long running iterations may go on once the load ends.
    pub graceful_stop: Duration,
    /// How many cores it may use in all; as many as fit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// What a failed step means for its user.
    #[serde(default)]
    pub on_error: OnError,
    /// Steps that each user runs once before its first iteration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vu_setup: Vec<Step>,
    /// Steps that each user runs once after its last iteration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vu_teardown: Vec<Step>,
    /// Steps that run for an iteration that was cut or failed, within `graceful_stop`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finally: Vec<Step>,
}

/// The predecessors of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct After {
    /// The workflows that it waits for.
    pub workflows: Vec<WorkflowIndex>,
    /// Whether they must have succeeded (`after: [a]`) or only ended (`after: { any: [a] }`).
    pub any_end: bool,
}

impl After {
    /// Whether the workflow starts with the job.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.workflows.is_empty()
    }
}

/// A value that a workflow gives to its dependents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The name by which dependents read it.
    pub name: String,
    /// The variable that it comes from.
    pub local: LocalIndex,
    /// How many values are kept: the last one if absent, else a list of at most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect: Option<u32>,
}

/// What a failed step means for its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// Go on with the next step.
    #[default]
    Continue,
    /// Start the next iteration.
    EndIteration,
    /// The user stops.
    EndVu,
    /// The job stops.
    Abort,
}

/// One element of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Runs only if this is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expr>,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Send a request.
    Request(Box<RequestStep>),
    /// Wait.
    Pause(Pause),
    /// Write a line to the worker's log (at most a few per second and core).
    Log(Template),
    /// Set a variable.
    Set {
        /// The variable.
        local: LocalIndex,
        /// Its new value.
        value: Expr,
    },
    /// Steps that belong together; their names carry the group's.
    Group(Vec<Step>),
    /// Steps several times.
    Repeat {
        /// How often.
        times: Expr,
        /// The steps.
        steps: Vec<Step>,
    },
    /// Steps as long as a condition holds.
    While {
        /// The condition.
        condition: Expr,
        /// How often at most.
        max: u32,
        /// The steps.
        steps: Vec<Step>,
    },
    /// Steps by a condition.
    If {
        /// The condition.
        condition: Expr,
        /// If it is true.
        then: Vec<Step>,
        /// If it is not.
        otherwise: Vec<Step>,
    },
    /// One of several, by weight.
    Choose(Vec<Choice>),
    /// All at once.
    Parallel(Vec<Step>),
    /// End something.
    Stop(StopScope),
    /// Record a value of an own metric.
    Record {
        /// The metric.
        metric: MetricIndex,
        /// The value.
        value: Expr,
    },
}

/// What a `stop` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopScope {
    /// The iteration.
    Iteration,
    /// The user.
    Vu,
}

/// One way of a `choose`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its weight among the others.
    pub weight: u32,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// A wait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pause {
    /// Always so long.
    Constant(Duration),
    /// Anything in between.
    Uniform {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// A normal distribution, cut at zero.
    Normal {
        /// Its mean.
        mean: Duration,
        /// Its standard deviation.
        sd: Duration,
    },
    /// An exponential distribution.
    Exponential {
        /// Its mean.
        mean: Duration,
    },
}

/// One HTTP exchange.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestStep {
    /// Where its figures go.
    pub step: StepIndex,
    /// The method.
    pub method: String,
    /// The absolute URL: a relative one of the test file has its target in front.
    pub url: Template,
    /// Headers, those of `defaults` included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Template)>,
    /// Query parameters; encoded when they are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<(String, Template)>,
    /// The body.
    #[serde(default, skip_serializing_if = "Body::is_empty")]
    pub body: Body,
    /// Credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Conditions over the answer. Without any, a status of 400 or above fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// What to take from the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<Capture>,
    /// How long the whole exchange may take, redirects included.
    pub timeout: Duration,
    /// How many redirects are followed.
    pub redirects: u32,
    /// When and how often it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// A request's body.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// JSON; the template renders to its text.
    Json(JsonTemplate),
    /// URL-encoded fields.
    Form(Vec<(String, Template)>),
    /// Text as it is.
    Text(Template),
    /// Bytes as they are, base64 in the test file.
    Bytes(#[serde(with = "crate::hex_bytes")] Vec<u8>),
    /// A file that travels with the plan.
    File(BlobHash),
}

impl Body {
    /// Whether nothing is sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// JSON with holes. A hole that is a whole value keeps its type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonTemplate {
    /// JSON text without holes.
    Constant(String),
    /// A string with holes in it.
    Text(Template),
    /// A whole value.
    Hole(Expr),
    /// A list.
    List(Vec<JsonTemplate>),
    /// An object.
    Object(Vec<(String, JsonTemplate)>),
}

/// Credentials of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// RFC 7617.
    Basic {
        /// The user.
        user: Template,
        /// The password.
        password: Template,
    },
    /// RFC 6750.
    Bearer(Template),
}

/// A condition over an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Where its figures go.
    pub check: CheckIndex,
    /// The condition.
    pub condition: Expr,
    /// Whether it only counts, without failing the request.
    #[serde(default)]
    pub warn: bool,
}

/// A value taken from an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// The variable that receives it.
    pub local: LocalIndex,
    /// Where it is.
    pub from: CaptureFrom,
    /// What it is if the answer has none; without it a missing value fails the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Which of several.
    #[serde(default)]
    pub index: CaptureIndex,
}

/// Where a captured value is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureFrom {
    /// A `JSONPath` (RFC 9535).
    Json(String),
    /// A regular expression's first group, or its whole match.
    Regex(String),
    /// A header.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// The whole body.
    Body,
}

/// Which of several matches a capture takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureIndex {
    /// The first.
    #[default]
    First,
    /// All, as a list.
    All,
    /// Any one.
    Random,
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How often, after the first try.
    pub times: u32,
    /// After which outcomes (their names) or statuses.
    pub on: Vec<String>,
    /// The delay before the first retry; it doubles with each.
    pub backoff: Duration,
}

/// A source of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSource {
    /// Its name.
    pub name: String,
    /// Its rows: a blob of JSON values, one a line.
    pub blob: BlobHash,
    /// How many.
    pub rows: u64,
    /// The names of a row's fields if rows are lists; rows are whole values if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Which row an iteration takes.
    pub pick: Pick,
    /// What happens when `unique` rows are used up.
    #[serde(default)]
    pub on_end: OnEnd,
}

/// Which row an iteration takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// One after the other, from the start again at the end.
    #[default]
    Sequential,
    /// Any.
    Random,
    /// Each once in a random order, then again.
    Shuffle,
    /// None twice in the whole run.
    Unique,
}

/// What happens when unique rows are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEnd {
    /// From the start again.
    Recycle,
    /// The user stops.
    #[default]
    Stop,
}

/// An own metric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// What is recorded.
    pub kind: MetricKind,
    /// The unit of its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// What an own metric records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// A sum.
    Counter,
    /// The last value, with the smallest and the largest.
    Gauge,
    /// The share of true values.
    Rate,
    /// Percentiles of values.
    Distribution,
}

/// How requests are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpSettings {
    /// Whose connections are they.
    pub connections: Connections,
    /// How many requests a connection may carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    /// How old a connection may become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// How long a connection may idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// Whether users keep cookies.
    pub cookies: bool,
    /// Whether compressed answers are asked for and undone.
    pub compression: bool,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take.
    pub tls_timeout: Duration,
    /// How long the first byte of an answer may take; the request's timeout if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_timeout: Option<Duration>,
    /// Local addresses to send from, in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<std::net::IpAddr>,
    /// Addresses of names, before any lookup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resolve: BTreeMap<String, Vec<std::net::IpAddr>>,
    /// How names are looked up.
    pub dns: Dns,
    /// The HTTP proxy that everything goes through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// TLS.
    pub tls: Tls,
    /// How many exchanges of each step and outcome that is not ok are kept.
    pub samples: u32,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            connections: Connections::PerVu,
            max_requests: None,
            max_age: None,
            idle: None,
            cookies: true,
            compression: true,
            connect_timeout: Duration::from_secs(10),
            tls_timeout: Duration::from_secs(10),
            first_byte_timeout: None,
            source_ips: Vec::new(),
            resolve: BTreeMap::new(),
            dns: Dns::default(),
            proxy: None,
            tls: Tls::default(),
            samples: 5,
        }
    }
}

/// Whose connections are they.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// Each user has its own, as a browser does.
    PerVu,
    /// Each core has a pool, as a service client does.
    Pool {
        /// How many per core and host at most.
        size: u32,
    },
}

/// An HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Its host, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// How names are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Which addresses count.
    pub family: DnsFamily,
    /// Which of several addresses a connection takes.
    pub select: DnsSelect,
    /// How long an answer is used; for the whole run if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// Which addresses count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsFamily {
    /// All.
    #[default]
    Auto,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Which of several addresses a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsSelect {
    /// The first.
    First,
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Any.
    Random,
}

/// TLS towards the target.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tls {
    /// Trusted certificates (PEM) instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The client's certificate chain (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// The name of the secret that holds the client's key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
    /// The name to ask for and to check, instead of the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The lowest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<TlsVersion>,
    /// The highest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<TlsVersion>,
    /// Whether any certificate will do.
    #[serde(default)]
    pub insecure: bool,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// How a job as a whole runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// Where it runs.
    pub datacenters: Datacenters,
    /// How its load is divided over them.
    pub split: Split,
    /// How long the job may take in all.
    pub deadline: Duration,
    /// Its rank among jobs that wait for cores.
    pub priority: Priority,
    /// Ends with the datacenters that have reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_effort: Option<BestEffort>,
    /// The slowest way to a datacenter that is acceptable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<Duration>,
    /// The seed of all choices that users make.
    pub seed: u64,
    /// When it starts, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<u64>,
}

/// How long a job may take unless it says otherwise.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(3_600);

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            datacenters: Datacenters::Choose(1),
            split: Split::Weighted,
            deadline: DEADLINE_DEFAULT,
            priority: Priority::Normal,
            best_effort: None,
            max_latency: None,
            seed: 0,
            start_at: None,
        }
    }
}

/// Where a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datacenters {
    /// In all that are there.
    All,
    /// In so many, chosen by the gate.
    Choose(u16),
    /// In these.
    Named(Vec<String>),
}

/// How a job's load is divided over its datacenters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// By their free cores.
    Weighted,
    /// In equal parts.
    Even,
    /// By these weights.
    Shares(BTreeMap<String, u32>),
    /// Each gets the whole load.
    Each,
}

/// A job's rank among jobs that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After all others.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// Before all others.
    Critical,
}

/// Ends with the datacenters that have reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BestEffort {
    /// How many must have reported.
    pub min_datacenters: u16,
    /// How long the others are waited for.
    pub deadline: Duration,
}
