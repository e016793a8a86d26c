//! What happened, as counts and histograms that add up.

use std::time::Duration;

use hyperscale_model::{Outcome, OutcomeCounts};
use hyperscale_plan::{CheckIndex, MetricIndex, StepIndex};
use serde::{Deserialize, Serialize};

use crate::{Histogram, SparseHistogram};

/// One finished request, as the engine saw it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// How it ended.
    pub outcome: Outcome,
    /// The answer's status, if there was an answer.
    pub status: Option<u16>,
    /// From the intended start to the end.
    pub latency: Duration,
    /// From the real start to the end.
    pub service_time: Duration,
    /// From the real start to the first byte of the answer, if there was one.
    pub first_byte: Option<Duration>,
    /// How long the connection took to open, if this request opened it.
    pub connect: Option<Duration>,
    /// How long the TLS handshake took, if this request made it.
    pub tls: Option<Duration>,
    /// Bytes received, headers included.
    pub bytes_in: u64,
    /// Bytes sent, headers included.
    pub bytes_out: u64,
}

/// Figures of one step; `H` is [`Histogram`] where they are counted and [`SparseHistogram`] where
/// they travel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepFigures<H> {
    /// Requests by how they ended.
    pub outcomes: OutcomeCounts,
    /// Answers by status, ascending.
    pub statuses: Vec<(u16, u64)>,
    /// Further tries of requests; not among the outcomes.
    pub retries: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// From the intended start to the end; all outcomes but cancelled.
    pub latency: H,
    /// From the real start to the end; all outcomes but cancelled.
    pub service_time: H,
    /// From the real start to the first byte.
    pub first_byte: H,
    /// Opening of connections.
    pub connect: H,
    /// TLS handshakes.
    pub tls: H,
}

/// How often a check held and did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CheckCounts {
    /// Held.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
}

/// Values of an own metric. Values are kept in thousandths, so that they add up exactly.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MetricFigures<H> {
    /// How many values.
    pub count: u64,
    /// Their sum, in thousandths.
    pub sum_milli: i64,
    /// The smallest, in thousandths.
    pub min_milli: i64,
    /// The largest, in thousandths.
    pub max_milli: i64,
    /// The distribution: a value of 1 stands as 1 µs.
    pub values: H,
}

/// Everything that one source counted: of one attempt in one window, or of anything in any time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Figures<H> {
    /// Steps that had requests, ascending.
    pub steps: Vec<(StepIndex, StepFigures<H>)>,
    /// Checks that were judged, ascending.
    pub checks: Vec<(CheckIndex, CheckCounts)>,
    /// Own metrics that were recorded, ascending.
    pub metrics: Vec<(MetricIndex, MetricFigures<H>)>,
    /// Iterations that ended by themselves.
    pub iterations: u64,
    /// Iterations that were cut by a stop.
    pub iterations_cut: u64,
    /// Starts that were dropped: no user was free, or the generator came to them too late.
    pub dropped: u64,
    /// Those of them that the generator came to too late.
    #[serde(default)]
    pub dropped_late: u64,
    /// From the intended to the real start of iterations.
    pub lag: H,
}

impl StepFigures<Histogram> {
    /// Counts one request.
    pub fn record(&mut self, sample: &Sample) {
        self.outcomes[sample.outcome] += 1;
        self.bytes_in += sample.bytes_in;
        self.bytes_out += sample.bytes_out;
        if let Some(status) = sample.status {
            add_status(&mut self.statuses, status, 1);
        }
        if sample.outcome != Outcome::Cancelled {
            self.latency.record(sample.latency);
            self.service_time.record(sample.service_time);
        }
        if let Some(first_byte) = sample.first_byte {
            self.first_byte.record(first_byte);
        }
        if let Some(connect) = sample.connect {
            self.connect.record(connect);
        }
        if let Some(tls) = sample.tls {
            self.tls.record(tls);
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outcomes.total() == 0 && self.retries == 0
    }

    /// Takes what was counted and starts at zero.
    pub fn take_sparse(&mut self) -> StepFigures<SparseHistogram> {
        StepFigures {
            outcomes: std::mem::take(&mut self.outcomes),
            statuses: std::mem::take(&mut self.statuses),
            retries: std::mem::take(&mut self.retries),
            bytes_in: std::mem::take(&mut self.bytes_in),
            bytes_out: std::mem::take(&mut self.bytes_out),
            latency: self.latency.take_sparse(),
            service_time: self.service_time.take_sparse(),
            first_byte: self.first_byte.take_sparse(),
            connect: self.connect.take_sparse(),
            tls: self.tls.take_sparse(),
        }
    }
}

fn add_status(statuses: &mut Vec<(u16, u64)>, status: u16, count: u64) {
    // A handful of statuses at most: a scan beats a map.
    match statuses.iter_mut().find(|(known, _)| *known == status) {
        Some((_, total)) => *total += count,
        None => {
            let at = statuses.partition_point(|(known, _)| *known < status);
            statuses.insert(at, (status, count));
        }
    }
}

/// A histogram into which sparse ones merge.
pub trait Merge: Default {
    /// Adds what `other` counted.
    fn merge_sparse(&mut self, other: &SparseHistogram);
}

impl Merge for Histogram {
    fn merge_sparse(&mut self, other: &SparseHistogram) {
        self.merge(other);
    }
}

impl Merge for SparseHistogram {
    fn merge_sparse(&mut self, other: &SparseHistogram) {
        self.merge(other);
    }
}

impl<H: Merge> StepFigures<H> {
    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &StepFigures<SparseHistogram>) {
        self.outcomes += &other.outcomes;
        for &(status, count) in &other.statuses {
            add_status(&mut self.statuses, status, count);
        }
        self.retries += other.retries;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.latency.merge_sparse(&other.latency);
        self.service_time.merge_sparse(&other.service_time);
        self.first_byte.merge_sparse(&other.first_byte);
        self.connect.merge_sparse(&other.connect);
        self.tls.merge_sparse(&other.tls);
    }
}

impl<H: Merge> MetricFigures<H> {
    fn merge(&mut self, other: &MetricFigures<SparseHistogram>) {
        if other.count == 0 {
            return;
        }
        let is_first = self.count == 0;
        self.min_milli =
            if is_first { other.min_milli } else { self.min_milli.min(other.min_milli) };
        self.max_milli =
            if is_first { other.max_milli } else { self.max_milli.max(other.max_milli) };
        self.count += other.count;
        self.sum_milli = self.sum_milli.saturating_add(other.sum_milli);
        self.values.merge_sparse(&other.values);
    }
}

impl MetricFigures<Histogram> {
    /// Counts one value.
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which a float cast does")]
    #[expect(clippy::cast_sign_loss, reason = "negative values stand at 0 in the distribution")]
    pub fn record(&mut self, value: f64) {
        let milli = (value * 1_000.0).round() as i64;
        self.min_milli = if self.count == 0 { milli } else { self.min_milli.min(milli) };
        self.max_milli = if self.count == 0 { milli } else { self.max_milli.max(milli) };
        self.count += 1;
        self.sum_milli = self.sum_milli.saturating_add(milli);
        self.values.record_ns(milli.max(0) as u64);
    }

    /// Takes what was counted and starts at zero.
    pub fn take_sparse(&mut self) -> MetricFigures<SparseHistogram> {
        MetricFigures {
            count: std::mem::take(&mut self.count),
            sum_milli: std::mem::take(&mut self.sum_milli),
            min_milli: std::mem::take(&mut self.min_milli),
            max_milli: std::mem::take(&mut self.max_milli),
            values: self.values.take_sparse(),
        }
    }
}

impl<H: Merge> Figures<H> {
    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Figures<SparseHistogram>) {
        for (step, figures) in &other.steps {
            entry(&mut self.steps, *step).merge(figures);
        }
        for (check, counts) in &other.checks {
            let mine = entry(&mut self.checks, *check);
            mine.passed += counts.passed;
            mine.failed += counts.failed;
        }
        for (metric, figures) in &other.metrics {
            entry(&mut self.metrics, *metric).merge(figures);
        }
        self.iterations += other.iterations;
        self.iterations_cut += other.iterations_cut;
        self.dropped += other.dropped;
        self.dropped_late += other.dropped_late;
        self.lag.merge_sparse(&other.lag);
    }
}

impl<H> Figures<H> {
    /// All requests of all steps.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.steps.iter().map(|(_, step)| step.outcomes.total()).sum()
    }

    /// All requests by how they ended.
    #[must_use]
    pub fn outcomes(&self) -> OutcomeCounts {
        let mut sum = OutcomeCounts::default();
        for (_, step) in &self.steps {
            sum += &step.outcomes;
        }
        sum
    }

    /// The figures of one step, if it had requests.
    #[must_use]
    pub fn step(&self, step: StepIndex) -> Option<&StepFigures<H>> {
        self.steps.iter().find(|(index, _)| *index == step).map(|(_, figures)| figures)
    }
}

fn entry<K: Ord + Copy, V: Default>(entries: &mut Vec<(K, V)>, key: K) -> &mut V {
    let at = entries.partition_point(|(known, _)| *known < key);
    if entries.get(at).is_none_or(|(known, _)| *known != key) {
        entries.insert(at, (key, V::default()));
    }
    &mut entries[at].1
}
