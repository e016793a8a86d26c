//! A job as it runs.

use hyperscale_model::{JobId, JobState};
use hyperscale_plan::{Amount, Load, LoadKind, Workflow};
use serde::{Deserialize, Serialize};

use crate::{GapView, Latency, RowsView};

/// A job at one moment; whoever shows it needs nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveView {
    /// The job.
    pub job: JobId,
    /// The test's name.
    pub name: String,
    /// Where it stands.
    pub state: JobState,
    /// Since its start.
    pub elapsed_ms: u64,
    /// How long it is planned to take; nothing while only fixed numbers of iterations are left.
    pub planned_ms: Option<u64>,
    /// Iterations that it is planned to do, if that is fixed for all its workflows.
    #[serde(default)]
    pub planned_iterations: Option<u64>,
    /// Each workflow with where it stands.
    pub workflows: Vec<(String, String)>,
    /// Active users, and how many there may be.
    pub vus: u32,
    /// Users at most.
    pub vus_max: u32,
    /// Iterations that should start per second now, under arrival rates.
    pub planned_rate: f64,
    /// Requests per second over the last second.
    pub request_rate: f64,
    /// Iterations per second over the last second.
    pub iteration_rate: f64,
    /// Requests in all.
    pub requests: u64,
    /// Failed requests in all.
    pub failed: u64,
    /// Iterations in all.
    pub iterations: u64,
    /// Starts that found no free user.
    pub dropped: u64,
    /// Latency over all time.
    pub latency_us: Latency,
    /// The last windows: requests, failures, and the 95th percentile of latency in µs.
    pub recent: Vec<(u64, u64, f64)>,
    /// Each step.
    pub steps: Vec<LiveStep>,
    /// Each threshold.
    pub thresholds: Vec<ThresholdView>,
    /// Load that was not sent.
    pub gaps: Vec<GapView>,
    /// What became of the rows of each unique source that ends.
    #[serde(default)]
    pub rows: Vec<RowsView>,
    /// Each datacenter: name, workers, cores.
    pub datacenters: Vec<(String, u32, u32)>,
    /// Lag of starts at the 99th percentile, in µs.
    pub lag_p99_us: f64,
    /// The busiest core of the last second, from 0 to 1.
    pub busy_share: f64,
    /// Some of the exchanges that failed, the latest last.
    #[serde(default)]
    pub examples: Vec<ExampleView>,
    /// Whether its load was paused by command.
    #[serde(default)]
    pub paused: bool,
    /// How much of each workflow's load is sent, in the plan's order.
    #[serde(default)]
    pub scales: Vec<ScaleView>,
}

/// How much of a workflow's load is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleView {
    /// The workflow.
    pub workflow: String,
    /// Users, or per cent of the plan's starts; nothing of a load that cannot be scaled.
    pub amount: Option<u32>,
    /// The most that it takes.
    pub most: u32,
    /// Whether both are users.
    pub is_users: bool,
}

impl ScaleView {
    /// Of a workflow that was scaled to an amount, or never.
    #[must_use]
    pub fn of(workflow: &Workflow, amount: Option<Amount>) -> Self {
        let (load, name) = (&workflow.load, workflow.name.clone());
        let (most, initial, is_users) = match (load, load.kind()) {
            (Load::ExternallyControlled { vus, max_vus, .. }, _) => (*max_vus, *vus, true),
            (_, LoadKind::Looping) => (load.vus_max(), load.vus_max(), true),
            (_, LoadKind::Arrivals | LoadKind::Iterations) => (100, 100, false),
        };
        let amount = match amount {
            None => initial,
            Some(amount) if is_users => amount.of_users(most),
            // A share of a hundred, as of so many users.
            Some(amount) => amount.of_users(100),
        };
        let is_fixed = load.kind() == LoadKind::Iterations;
        Self { workflow: name, amount: (!is_fixed).then_some(amount), most, is_users }
    }
}

/// An exchange that failed, in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleView {
    /// `workflow/step`.
    pub step: String,
    /// How the request ended.
    pub outcome: String,
    /// When it started, in the job's time.
    pub at_ms: u64,
    /// The failure in words, or the first line of the answer.
    pub error: String,
}

/// A step as it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveStep {
    /// `workflow/step`.
    pub name: String,
    /// Requests in all.
    pub requests: u64,
    /// Failed requests in all.
    pub failed: u64,
    /// Requests per second over the last second.
    pub rate: f64,
    /// Latency over all time.
    pub latency_us: Latency,
    /// Outcomes that are not ok, with their counts.
    pub failures: Vec<(String, u64)>,
}

/// A threshold as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThresholdView {
    /// As written.
    pub expression: String,
    /// Whether it holds.
    pub passed: bool,
    /// The figure, in the unit in which it was written to.
    pub value: Option<f64>,
    /// Since which time of the job it has been broken.
    pub broken_since_ms: Option<u64>,
}
