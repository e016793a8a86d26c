//! What must hold, as data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A condition over merged figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// The condition as written.
    pub expression: String,
    /// What is looked at.
    pub metric: ThresholdMetric,
    /// Which figure of it.
    pub aggregate: Aggregate,
    /// How it must compare.
    pub op: Comparison,
    /// With what: nanoseconds for times, bytes for sizes, shares from 0 to 1, per second for rates.
    pub value: f64,
    /// Which requests count.
    #[serde(default, skip_serializing_if = "Filter::is_everything")]
    pub filter: Filter,
    /// Whether breaking it stops the job.
    #[serde(default)]
    pub abort: bool,
    /// Judged only from so long after the job's start.
    #[serde(default)]
    pub after: Duration,
    /// Judged only over this time of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<(Duration, Duration)>,
    /// How long it must be broken before it stops the job.
    #[serde(default)]
    pub for_at_least: Duration,
}

/// What a threshold looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdMetric {
    /// From the intended start to the last byte.
    Latency,
    /// From the real start to the last byte.
    ServiceTime,
    /// Opening of connections.
    Connect,
    /// TLS handshakes.
    Tls,
    /// From the start to the first byte.
    FirstByte,
    /// From the intended to the real start.
    Lag,
    /// Requests.
    Requests,
    /// Iterations.
    Iterations,
    /// Bytes received.
    BytesIn,
    /// Bytes sent.
    BytesOut,
    /// Starts that found no free user.
    Dropped,
    /// Requests that failed.
    Failed,
    /// Checks that held.
    Checks,
    /// Users.
    Vus,
    /// An own metric, by its name.
    Own(String),
}

/// Which figure of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// The smallest.
    Min,
    /// The mean.
    Mean,
    /// The largest.
    Max,
    /// A percentile, from 0 to 100.
    Percentile(f64),
    /// The standard deviation.
    Deviation,
    /// How many.
    Count,
    /// How many per second.
    Rate,
    /// Which part of all, from 0 to 1.
    Share,
}

/// How a figure must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `<`
    #[serde(rename = "<")]
    Less,
    /// `<=`
    #[serde(rename = "<=")]
    LessEqual,
    /// `>`
    #[serde(rename = ">")]
    Greater,
    /// `>=`
    #[serde(rename = ">=")]
    GreaterEqual,
    /// `==`
    #[serde(rename = "==")]
    Equal,
    /// `!=`
    #[serde(rename = "!=")]
    NotEqual,
}

impl Threshold {
    /// Whether its figure is a time, in nanoseconds.
    #[must_use]
    pub const fn is_time(&self) -> bool {
        let is_duration = matches!(
            self.metric,
            ThresholdMetric::Latency
                | ThresholdMetric::ServiceTime
                | ThresholdMetric::Connect
                | ThresholdMetric::Tls
                | ThresholdMetric::FirstByte
                | ThresholdMetric::Lag
        );
        is_duration
            && !matches!(self.aggregate, Aggregate::Count | Aggregate::Rate | Aggregate::Share)
    }
}

impl Comparison {
    /// Whether `figure` compares with `value` as it must.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "the author asked for equality")]
    pub fn holds(self, figure: f64, value: f64) -> bool {
        match self {
            Self::Less => figure < value,
            Self::LessEqual => figure <= value,
            Self::Greater => figure > value,
            Self::GreaterEqual => figure >= value,
            Self::Equal => figure == value,
            Self::NotEqual => figure != value,
        }
    }
}

/// Which requests count. Each list is empty for "all"; a pattern may hold `*`, and one that starts
/// with `!` excludes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Names of workflows.
    pub workflow: Vec<String>,
    /// Names of steps with their workflow.
    pub step: Vec<String>,
    /// Names of checks.
    pub check: Vec<String>,
    /// Statuses.
    pub status: Vec<String>,
    /// Names of datacenters.
    pub datacenter: DatacenterFilter,
}

/// Which datacenters a threshold looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatacenterFilter {
    /// All together.
    #[default]
    All,
    /// Each by itself: it must hold in every one.
    Each,
    /// These together.
    Named(Vec<String>),
}

impl Filter {
    /// Whether nothing is left out.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}
