//! One window of one attempt, as it travels from worker to gate.

use std::time::Duration;

use hyperscale_model::{AttemptId, DeltaSeq, Outcome};
use hyperscale_plan::StepIndex;
use serde::{Deserialize, Serialize};

use crate::{Figures, SparseHistogram};

/// What one attempt did in one stretch of the job's time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WindowFigures {
    /// What was counted.
    pub figures: Figures<SparseHistogram>,
    /// Active users at its end.
    pub vus: u32,
    /// Work done by the busiest core as a share of its time, in thousandths.
    pub busiest_core: u16,
    /// Some of the exchanges that failed.
    pub exchanges: Vec<Exchange>,
}

/// [`WindowFigures`] with its place in the attempt and in the job's time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its order within the attempt.
    pub seq: DeltaSeq,
    /// The number of its first window, counted from the job's start.
    pub window: u64,
    /// How many windows it spans; more than 1 under backpressure.
    pub span: u32,
    /// What happened in it.
    pub figures: WindowFigures,
}

impl WindowFigures {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.figures == Figures::default() && self.exchanges.is_empty() && self.vus == 0
    }

    /// Joins what several cores or windows of one attempt did. `later` is not before `self`.
    pub fn join(&mut self, later: Self, same_window: bool) {
        self.figures.merge(&later.figures);
        self.vus = if same_window { self.vus + later.vus } else { later.vus };
        self.busiest_core = self.busiest_core.max(later.busiest_core);
        self.exchanges.extend(later.exchanges);
        self.exchanges.truncate(Exchange::PER_DELTA_MAX);
    }
}

/// A request and its answer, kept as an example of how a step failed. Secrets are masked and
/// bodies cut before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The step.
    pub step: StepIndex,
    /// How the request ended.
    pub outcome: Outcome,
    /// When it started, from the job's start.
    pub at: Duration,
    /// How long it took.
    pub latency: Duration,
    /// What was sent.
    pub request: String,
    /// What came back, as far as it did.
    pub answer: String,
    /// The failure in words.
    pub error: String,
}

impl Exchange {
    /// Most exchanges that travel with one delta.
    pub const PER_DELTA_MAX: usize = 32;
    /// Most bytes of a request or an answer that are kept.
    pub const TEXT_BYTES_MAX: usize = 4_096;
}
