//! Counting on one core: plain counters, nothing shared, nothing allocated per request.

use std::time::Duration;

use hyperscale_plan::{CheckIndex, MetricIndex, StepIndex};

use crate::figures::{CheckCounts, Figures, MetricFigures, Sample, StepFigures};
use crate::{Histogram, SparseHistogram};

/// What one core counts for one attempt since its last window.
#[derive(Debug, Default)]
pub struct Recorder {
    steps: Vec<StepFigures<Histogram>>,
    checks: Vec<CheckCounts>,
    metrics: Vec<MetricFigures<Histogram>>,
    iterations: u64,
    iterations_cut: u64,
    dropped: u64,
    dropped_late: u64,
    lag: Histogram,
}

impl Recorder {
    /// A recorder for a plan with so many steps, checks and own metrics.
    #[must_use]
    pub fn new(steps: usize, checks: usize, metrics: usize) -> Self {
        Self {
            steps: std::iter::repeat_with(StepFigures::default).take(steps).collect(),
            checks: vec![CheckCounts::default(); checks],
            metrics: std::iter::repeat_with(MetricFigures::default).take(metrics).collect(),
            ..Self::default()
        }
    }

    /// Counts one request.
    pub fn request(&mut self, step: StepIndex, sample: &Sample) {
        self.steps[step.get()].record(sample);
    }

    /// Counts one further try of a request.
    pub fn retry(&mut self, step: StepIndex) {
        self.steps[step.get()].retries += 1;
    }

    /// Counts one judgement of a check.
    pub fn check(&mut self, check: CheckIndex, passed: bool) {
        let counts = &mut self.checks[check.get()];
        *(if passed { &mut counts.passed } else { &mut counts.failed }) += 1;
    }

    /// Counts one value of an own metric.
    pub fn metric(&mut self, metric: MetricIndex, value: f64) {
        self.metrics[metric.get()].record(value);
    }

    /// Counts the start of an iteration, so much later than intended.
    pub fn start(&mut self, lag: Duration) {
        self.lag.record(lag);
    }

    /// Counts the end of an iteration.
    pub fn iteration(&mut self, was_cut: bool) {
        *(if was_cut { &mut self.iterations_cut } else { &mut self.iterations }) += 1;
    }

    /// Counts starts that found no free user.
    pub fn drop_starts(&mut self, count: u64) {
        self.dropped += count;
    }

    /// Counts a start that was dropped because the generator came to it so late.
    pub fn drop_late_start(&mut self, lag: Duration) {
        self.dropped += 1;
        self.dropped_late += 1;
        self.lag.record(lag);
    }

    /// Takes what was counted and starts at zero.
    #[expect(clippy::cast_possible_truncation, reason = "a plan has fewer than 2^16 of each")]
    pub fn take(&mut self) -> Figures<SparseHistogram> {
        Figures {
            steps: (self.steps.iter_mut().enumerate())
                .filter(|(_, step)| !step.is_empty())
                .map(|(index, step)| (StepIndex(index as u16), step.take_sparse()))
                .collect(),
            checks: (self.checks.iter_mut().enumerate())
                .filter(|(_, counts)| counts.passed + counts.failed > 0)
                .map(|(index, counts)| (CheckIndex(index as u16), std::mem::take(counts)))
                .collect(),
            metrics: (self.metrics.iter_mut().enumerate())
                .filter(|(_, metric)| metric.count > 0)
                .map(|(index, metric)| (MetricIndex(index as u16), metric.take_sparse()))
                .collect(),
            iterations: std::mem::take(&mut self.iterations),
            iterations_cut: std::mem::take(&mut self.iterations_cut),
            dropped: std::mem::take(&mut self.dropped),
            dropped_late: std::mem::take(&mut self.dropped_late),
            lag: self.lag.take_sparse(),
        }
    }
}
