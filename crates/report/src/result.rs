//! Everything that a report shows.

use hyperscale_model::WallTime;
use hyperscale_plan::Plan;
use hyperscale_stats::{Exchange, Figures, Series, SparseHistogram};
use serde::{Deserialize, Serialize};

use crate::Summary;
use crate::summary::millis;

/// A finished job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The figures.
    pub summary: Summary,
    /// The plan.
    pub plan: Plan,
    /// When it started, if it did.
    pub started: Option<WallTime>,
    /// When each of the plan's workflows started first, by the job's time.
    #[serde(default)]
    pub workflow_starts_ms: Vec<Option<u64>>,
    /// The figures over time.
    pub series: Vec<SeriesPoint>,
    /// Some of the exchanges that failed.
    pub exchanges: Vec<Exchange>,
    /// What happened, in order.
    pub events: Vec<EventRecord>,
}

/// Figures of one stretch of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesPoint {
    /// From this time of the job.
    pub at_ms: u64,
    /// For so long.
    pub length_ms: u64,
    /// Active users.
    pub vus: u32,
    /// The busiest core, in thousandths.
    pub busiest_core: u16,
    /// What was counted.
    pub figures: Figures<SparseHistogram>,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number within the job, from 1.
    pub id: u64,
    /// The job's time.
    pub at_ms: u64,
    /// What, as one word.
    pub kind: String,
    /// What, for people.
    pub text: String,
}

impl SeriesPoint {
    /// The points of a series, in the order of time.
    #[must_use]
    pub fn all(series: &Series) -> Vec<Self> {
        series
            .iter()
            .map(|(at, length, point)| Self {
                at_ms: millis(at),
                length_ms: millis(length),
                vus: point.vus,
                busiest_core: point.busiest_core,
                figures: point.figures.clone(),
            })
            .collect()
    }
}
