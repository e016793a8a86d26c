//! The summary of a job: schema 1, stable for scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{EndStatus, JobId, Outcome, OutcomeCounts, Verdict};
use hyperscale_plan::{OnEnd, Pick, Plan, StepIndex};
use hyperscale_stats::{Figures, Histogram};
use hyperscale_wire::{Gap, GapCause, RowsUsed};
use serde::{Deserialize, Serialize};

use crate::ThresholdView;

/// The version of [`Summary`]'s layout.
pub const SUMMARY_SCHEMA: u32 = 1;

/// A schedule lag above this, at the 99th percentile, makes the generator the bottleneck.
const LAG_LIMIT: Duration = Duration::from_millis(20);
/// A core busier than this, in thousandths, makes the generator the bottleneck.
const BUSY_LIMIT: u16 = 950;

/// A job's figures, as the JSON output has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_SCHEMA`].
    pub schema: u32,
    /// The job.
    pub job: JobId,
    /// The test's name.
    pub name: String,
    /// The job's labels.
    pub labels: BTreeMap<String, String>,
    /// How it ended: `completed`, `failed`, `cancelled`, `timed_out`.
    pub status: String,
    /// Why, if it did not complete.
    pub cause: Option<String>,
    /// The same for programs, if it failed: `threshold`, `placement`, `poison`, `test`, `context`
    /// or `lost`.
    #[serde(default)]
    pub cause_kind: Option<String>,
    /// What the thresholds say.
    pub verdict: Verdict,
    /// Whether load or statistics are missing.
    pub partial: bool,
    /// Load that was planned and not sent.
    pub gaps: Vec<GapView>,
    /// What became of the rows of each unique source that ends.
    #[serde(default)]
    pub rows: Vec<RowsView>,
    /// Requests that reached the gate too late to count.
    pub late_requests: u64,
    /// From the job's start to its end.
    pub duration_ms: u64,
    /// All steps together.
    pub totals: Totals,
    /// From the intended start to the end of requests.
    pub latency_us: Latency,
    /// From the real start to the end of requests.
    pub service_time_us: Latency,
    /// From the intended to the real start of iterations.
    pub lag_us: Latency,
    /// Each step.
    pub steps: Vec<StepSummary>,
    /// Each check with how often it held and did not.
    pub checks: Vec<CheckSummary>,
    /// Each threshold.
    pub thresholds: Vec<ThresholdView>,
    /// The load generator.
    pub generator: GeneratorView,
}

/// How often a check held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSummary {
    /// The step.
    pub step: String,
    /// The check.
    pub name: String,
    /// Held.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
}

/// A gap as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GapView {
    /// The workflow.
    pub workflow: String,
    /// Which shard of it.
    pub shard: u16,
    /// From this time of the job.
    pub from_ms: u64,
    /// To this time of the job.
    pub to_ms: u64,
    /// Iterations that would have started, under an arrival rate.
    pub starts: u64,
    /// Users times seconds that would have been active, otherwise.
    pub vu_seconds: f64,
    /// Why.
    pub cause: GapCause,
    /// The worker that was lost.
    pub worker: String,
}

/// What became of the rows of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsView {
    /// The source.
    pub source: String,
    /// All of them: the sum of what follows.
    pub rows: u64,
    /// Those that iterations have drawn.
    pub sent: u64,
    /// Those that nobody has drawn.
    pub left: u64,
    /// Those of which that is not known: their worker was lost.
    pub possibly_sent: u64,
}

/// Counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Requests, however they ended.
    pub requests: u64,
    /// Iterations that ended by themselves.
    pub iterations: u64,
    /// Iterations that a stop cut.
    pub iterations_cut: u64,
    /// Starts that were dropped: no user was free, or the generator came to them too late.
    pub dropped: u64,
    /// Those of them that the generator came to too late.
    #[serde(default)]
    pub dropped_late: u64,
    /// Further tries of requests.
    pub retries: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Requests by how they ended.
    pub outcomes: BTreeMap<String, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
}

/// A distribution of times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p99_9: f64,
    /// The largest.
    pub max: f64,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// `workflow/step`.
    pub name: String,
    /// Its counts; iterations and dropped starts are none of a step.
    pub totals: Totals,
    /// From the intended start to the end.
    pub latency_us: Latency,
    /// From the real start to the end.
    pub service_time_us: Latency,
    /// From the real start to the first byte.
    pub first_byte_us: Latency,
    /// Opening of connections.
    pub connect_us: Latency,
    /// TLS handshakes.
    pub tls_us: Latency,
}

/// The load generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorView {
    /// Whether it, and not the target, was the bottleneck.
    pub limited: bool,
    /// Why, in words.
    pub reason: Option<String>,
    /// The busiest core of all, from 0 to 1.
    pub busy_share: f64,
}

impl Latency {
    /// The distribution of a histogram.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        let us = |duration: Duration| duration.as_secs_f64() * 1e6;
        Self {
            count: histogram.count(),
            min: us(histogram.min()),
            mean: us(histogram.mean()),
            p50: us(histogram.percentile(50.0)),
            p90: us(histogram.percentile(90.0)),
            p95: us(histogram.percentile(95.0)),
            p99: us(histogram.percentile(99.0)),
            p99_9: us(histogram.percentile(99.9)),
            max: us(histogram.max()),
        }
    }
}

impl Totals {
    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let is_failure = |name: &str| {
            Outcome::ALL.iter().any(|outcome| outcome.as_str() == name && outcome.is_failure())
        };
        self.outcomes.iter().filter(|(name, _)| is_failure(name)).map(|(_, count)| count).sum()
    }

    fn add(&mut self, outcomes: &OutcomeCounts, statuses: &[(u16, u64)]) {
        self.requests += outcomes.total();
        for (outcome, count) in outcomes.iter() {
            *self.outcomes.entry(outcome.as_str().to_owned()).or_default() += count;
        }
        for &(status, count) in statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }
}

/// What a summary is made of.
#[derive(Debug, Clone, Copy)]
pub struct SummaryInput<'a> {
    /// The job.
    pub job: JobId,
    /// The plan.
    pub plan: &'a Plan,
    /// How it ended.
    pub status: &'a EndStatus,
    /// What the thresholds say.
    pub verdict: Verdict,
    /// Each threshold as it stands.
    pub thresholds: &'a [ThresholdView],
    /// Load that was not sent.
    pub gaps: &'a [Gap],
    /// What became of unique rows, as each part reports it.
    pub rows: &'a [RowsUsed],
    /// Requests that came too late to count.
    pub late_requests: u64,
    /// Whether statistics or datacenters are missing.
    pub is_incomplete: bool,
    /// How long the job took.
    pub duration: Duration,
    /// All that was counted.
    pub figures: &'a Figures<Histogram>,
    /// The busiest core of all, in thousandths.
    pub busiest_core: u16,
    /// How much of the time, from 0 to 1, a core was too busy.
    pub busy_time_share: f64,
}

impl Summary {
    /// The summary of a job.
    #[must_use]
    pub fn build(input: SummaryInput<'_>) -> Self {
        let SummaryInput { plan, figures, .. } = input;
        let mut totals = Totals {
            iterations: figures.iterations,
            iterations_cut: figures.iterations_cut,
            dropped: figures.dropped,
            dropped_late: figures.dropped_late,
            ..Totals::default()
        };
        totals.add(&OutcomeCounts::default(), &[]); // Every outcome is listed, if only with 0.
        let (mut latency, mut service_time) = (Histogram::new(), Histogram::new());
        let mut steps = Vec::with_capacity(figures.steps.len());
        for (index, step) in &figures.steps {
            let mut own = Totals {
                bytes_in: step.bytes_in,
                bytes_out: step.bytes_out,
                retries: step.retries,
                ..Totals::default()
            };
            own.add(&step.outcomes, &step.statuses);
            totals.add(&step.outcomes, &step.statuses);
            totals.bytes_in += step.bytes_in;
            totals.bytes_out += step.bytes_out;
            totals.retries += step.retries;
            latency.merge_dense(&step.latency);
            service_time.merge_dense(&step.service_time);
            steps.push(StepSummary {
                name: step_name(plan, *index),
                totals: own,
                latency_us: Latency::of(&step.latency),
                service_time_us: Latency::of(&step.service_time),
                first_byte_us: Latency::of(&step.first_byte),
                connect_us: Latency::of(&step.connect),
                tls_us: Latency::of(&step.tls),
            });
        }
        let lag_us = Latency::of(&figures.lag);
        Self {
            schema: SUMMARY_SCHEMA,
            job: input.job,
            name: plan.name.clone(),
            labels: plan.labels.clone(),
            status: input.status.as_str().to_owned(),
            cause: match input.status {
                EndStatus::Failed { cause } => Some(cause.to_string()),
                EndStatus::Cancelled { by } => Some(format!("cancelled by {by}")),
                EndStatus::TimedOut => Some("its time was over".to_owned()),
                EndStatus::Completed | EndStatus::Skipped { .. } => None,
            },
            cause_kind: match input.status {
                EndStatus::Failed { cause } => Some(cause.kind().to_owned()),
                EndStatus::Cancelled { .. }
                | EndStatus::TimedOut
                | EndStatus::Completed
                | EndStatus::Skipped { .. } => None,
            },
            verdict: input.verdict,
            partial: input.is_incomplete || !input.gaps.is_empty(),
            gaps: input.gaps.iter().map(|gap| gap_view(plan, gap)).collect(),
            rows: rows_views(plan, input.rows),
            late_requests: input.late_requests,
            duration_ms: millis(input.duration),
            generator: generator(&input, &figures.lag),
            totals,
            latency_us: Latency::of(&latency),
            service_time_us: Latency::of(&service_time),
            lag_us,
            steps,
            checks: (figures.checks.iter())
                .filter_map(|(index, counts)| {
                    let check = plan.checks.get(index.get())?;
                    Some(CheckSummary {
                        step: step_name(plan, check.step),
                        name: check.name.clone(),
                        passed: counts.passed,
                        failed: counts.failed,
                    })
                })
                .collect(),
            thresholds: input.thresholds.to_vec(),
        }
    }
}

fn generator(input: &SummaryInput<'_>, lag: &Histogram) -> GeneratorView {
    let lag_p99 = lag.percentile(99.0);
    // One busy window is a burst; a tenth of the time is a limit.
    let is_busy = input.busiest_core >= BUSY_LIMIT && input.busy_time_share >= 0.1;
    let reason = if lag_p99 > LAG_LIMIT {
        Some(format!("starts came {} late at the 99th percentile", crate::duration(lag_p99)))
    } else if is_busy {
        Some("a core of the generator had no time left".to_owned())
    } else {
        None
    };
    GeneratorView {
        limited: reason.is_some(),
        reason,
        busy_share: f64::from(input.busiest_core) / 1_000.0,
    }
}

fn step_name(plan: &Plan, index: StepIndex) -> String {
    plan.steps.get(index.get()).map_or_else(|| index.0.to_string(), |step| step.name.clone())
}

/// A gap as it is shown.
#[must_use]
pub fn gap_view(plan: &Plan, gap: &Gap) -> GapView {
    GapView {
        workflow: plan
            .workflow(gap.shard.workflow)
            .map_or_else(String::new, |workflow| workflow.name.clone()),
        shard: gap.shard.shard.0,
        from_ms: millis(gap.from),
        to_ms: millis(gap.to),
        starts: gap.starts,
        vu_seconds: gap.vu_seconds,
        cause: gap.cause,
        worker: gap.worker.to_string(),
    }
}

/// What became of unique rows, from what all parts report of them.
#[must_use]
pub fn rows_views(plan: &Plan, used: &[RowsUsed]) -> Vec<RowsView> {
    let sources = (plan.data.iter().enumerate())
        .filter(|(_, source)| source.pick == Pick::Unique && source.on_end == OnEnd::Stop);
    let views = sources.map(|(index, source)| {
        let of_source = || used.iter().filter(|used| used.source.get() == index);
        let sent: u64 = of_source().map(|used| used.sent).sum();
        let possibly_sent: u64 = of_source().map(|used| used.possibly_sent).sum();
        RowsView {
            source: source.name.clone(),
            rows: source.rows,
            sent,
            left: source.rows.saturating_sub(sent).saturating_sub(possibly_sent),
            possibly_sent,
        }
    });
    views.collect()
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use hyperscale_plan::{DataIndex, DataSource};

    use super::*;

    #[test]
    fn dat_01_rows_are_what_was_sent_what_is_left_and_what_nobody_knows() {
        let source = |name: &str, pick, on_end| DataSource {
            name: name.to_owned(),
            blob: hyperscale_model::BlobHash([0; 32]),
            rows: 100,
            columns: None,
            pick,
            on_end,
        };
        let data = vec![
            source("again", Pick::Unique, OnEnd::Recycle),
            source("users", Pick::Unique, OnEnd::Stop),
            source("any", Pick::Random, OnEnd::Stop),
        ];
        let plan = Plan { data, ..crate::sample::result().plan };
        let part = |source, sent, possibly_sent| RowsUsed {
            source: DataIndex(source),
            sent,
            possibly_sent,
        };

        let views = rows_views(&plan, &[part(1, 40, 0), part(1, 20, 7)]);

        assert_eq!(views.len(), 1, "rows that come again are never used up");
        let RowsView { rows, sent, left, possibly_sent, .. } = views[0];
        assert_eq!((rows, sent, left, possibly_sent), (100, 60, 33, 7));
    }
}
