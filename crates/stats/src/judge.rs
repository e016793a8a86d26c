//! Thresholds judged on merged figures.

use std::time::Duration;

use hyperscale_model::OutcomeCounts;
use hyperscale_plan::{
    Aggregate, DatacenterFilter, Filter, Plan, StepIndex, Threshold, ThresholdMetric,
};

use crate::{Figures, Histogram, Merge, SparseHistogram, StepFigures};

/// Fewer samples than this judge only at the end of the job.
const SAMPLES_MIN: u64 = 100;

/// Figures of one datacenter.
#[derive(Debug)]
pub struct Scoped<'a, H> {
    /// The datacenter's name.
    pub datacenter: &'a str,
    /// What it counted.
    pub figures: &'a Figures<H>,
    /// Active users.
    pub vus: u32,
}

impl<H> Clone for Scoped<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Scoped<'_, H> {}

/// What a threshold says now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The figure, in the threshold's unit. `None` if nothing was counted yet.
    pub value: Option<f64>,
    /// Whether it holds. A threshold over nothing holds while the job runs and not at its end.
    pub holds: bool,
    /// Whether there are too few samples to act on it before the end.
    pub is_tentative: bool,
}

/// Judges `threshold` on the figures of all datacenters over `elapsed` time.
#[must_use]
pub fn judge<H>(
    threshold: &Threshold,
    plan: &Plan,
    scopes: &[Scoped<'_, H>],
    elapsed: Duration,
    is_final: bool,
) -> Judged
where
    H: ToSparse,
{
    match &threshold.filter.datacenter {
        DatacenterFilter::All => judge_together(threshold, plan, scopes, elapsed, is_final),
        DatacenterFilter::Named(names) => {
            let chosen: Vec<_> =
                scopes.iter().filter(|s| matches_any(names, s.datacenter)).copied().collect();
            judge_together(threshold, plan, &chosen, elapsed, is_final)
        }
        DatacenterFilter::Each => scopes
            .iter()
            .map(|scope| judge_together(threshold, plan, &[*scope], elapsed, is_final))
            .reduce(|worst, next| if worst.holds { next } else { worst })
            .unwrap_or(Judged { value: None, holds: !is_final, is_tentative: true }),
    }
}

/// A histogram that can be read as sparse counts.
pub trait ToSparse {
    /// Adds its counts to `sum`.
    fn add_to(&self, sum: &mut Histogram);
}

impl ToSparse for Histogram {
    fn add_to(&self, sum: &mut Histogram) {
        sum.merge_dense(self);
    }
}

impl ToSparse for SparseHistogram {
    fn add_to(&self, sum: &mut Histogram) {
        sum.merge_sparse(self);
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures to compare need 53 bits")]
fn judge_together<H: ToSparse>(
    threshold: &Threshold,
    plan: &Plan,
    scopes: &[Scoped<'_, H>],
    elapsed: Duration,
    is_final: bool,
) -> Judged {
    let filter = &threshold.filter;
    let steps = || {
        scopes
            .iter()
            .flat_map(|scope| &scope.figures.steps)
            .filter(|(index, _)| is_step_chosen(filter, plan, *index))
            .map(|(_, figures)| figures)
    };
    let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let (value, samples) = match &threshold.metric {
        ThresholdMetric::Latency => of_histogram(threshold, steps().map(|s| &s.latency)),
        ThresholdMetric::ServiceTime => of_histogram(threshold, steps().map(|s| &s.service_time)),
        ThresholdMetric::Connect => of_histogram(threshold, steps().map(|s| &s.connect)),
        ThresholdMetric::Tls => of_histogram(threshold, steps().map(|s| &s.tls)),
        ThresholdMetric::FirstByte => of_histogram(threshold, steps().map(|s| &s.first_byte)),
        ThresholdMetric::Lag => of_histogram(threshold, scopes.iter().map(|s| &s.figures.lag)),
        ThresholdMetric::Requests => of_count(threshold, requests(filter, steps()), seconds),
        ThresholdMetric::BytesIn => of_count(threshold, steps().map(|s| s.bytes_in).sum(), seconds),
        ThresholdMetric::BytesOut => {
            of_count(threshold, steps().map(|s| s.bytes_out).sum(), seconds)
        }
        ThresholdMetric::Iterations => {
            of_count(threshold, scopes.iter().map(|s| s.figures.iterations).sum(), seconds)
        }
        ThresholdMetric::Dropped => {
            of_count(threshold, scopes.iter().map(|s| s.figures.dropped).sum(), seconds)
        }
        ThresholdMetric::Vus => {
            let vus: u32 = scopes.iter().map(|scope| scope.vus).sum();
            (Some(f64::from(vus)), SAMPLES_MIN)
        }
        ThresholdMetric::Failed => {
            let mut outcomes = OutcomeCounts::default();
            steps().for_each(|step| outcomes += &step.outcomes);
            of_share(threshold, outcomes.failed(), outcomes.total(), seconds)
        }
        ThresholdMetric::Checks => {
            let counts =
                scopes.iter().flat_map(|scope| &scope.figures.checks).filter(|(index, _)| {
                    plan.checks.get(index.get()).is_some_and(|check| {
                        matches_any(&filter.check, &check.name)
                            && is_step_chosen(filter, plan, check.step)
                    })
                });
            let (passed, failed) =
                counts.fold((0, 0), |(p, f), (_, counts)| (p + counts.passed, f + counts.failed));
            of_share(threshold, passed, passed + failed, seconds)
        }
        ThresholdMetric::Own(name) => {
            let metrics = scopes
                .iter()
                .flat_map(|scope| &scope.figures.metrics)
                .filter(|(index, _)| plan.metrics.get(index.get()).is_some_and(|m| m.name == *name))
                .map(|(_, figures)| figures);
            let (mut count, mut sum, mut min, mut max) = (0, 0_i64, i64::MAX, i64::MIN);
            let mut values = Histogram::new();
            for figures in metrics.filter(|figures| figures.count > 0) {
                count += figures.count;
                sum = sum.saturating_add(figures.sum_milli);
                min = min.min(figures.min_milli);
                max = max.max(figures.max_milli);
                figures.values.add_to(&mut values);
            }
            let value = match threshold.aggregate {
                Aggregate::Min => min as f64 / 1e3,
                Aggregate::Max => max as f64 / 1e3,
                Aggregate::Mean | Aggregate::Share => sum as f64 / 1e3 / count.max(1) as f64,
                Aggregate::Percentile(p) => values.percentile(p).as_nanos() as f64 / 1e3,
                Aggregate::Deviation => values.deviation().as_nanos() as f64 / 1e3,
                Aggregate::Count => sum as f64 / 1e3,
                Aggregate::Rate => sum as f64 / 1e3 / seconds,
            };
            ((count > 0).then_some(value), count)
        }
    };
    let holds = match value {
        Some(value) => threshold.op.holds(value, threshold.value),
        None => !is_final,
    };
    Judged { value, holds, is_tentative: samples < SAMPLES_MIN }
}

fn requests<'a, H: 'a>(filter: &Filter, steps: impl Iterator<Item = &'a StepFigures<H>>) -> u64 {
    if filter.status.is_empty() {
        return steps.map(|step| step.outcomes.total()).sum();
    }
    steps
        .flat_map(|step| &step.statuses)
        .filter(|(status, _)| matches_any(&filter.status, &status.to_string()))
        .map(|(_, count)| count)
        .sum()
}

#[expect(clippy::cast_precision_loss, reason = "figures to compare need 53 bits")]
fn of_histogram<'a, H: ToSparse + 'a>(
    threshold: &Threshold,
    histograms: impl Iterator<Item = &'a H>,
) -> (Option<f64>, u64) {
    let mut sum = Histogram::new();
    histograms.for_each(|histogram| histogram.add_to(&mut sum));
    let duration = match threshold.aggregate {
        Aggregate::Min => sum.min(),
        Aggregate::Mean => sum.mean(),
        Aggregate::Max => sum.max(),
        Aggregate::Percentile(percent) => sum.percentile(percent),
        Aggregate::Deviation => sum.deviation(),
        Aggregate::Count | Aggregate::Rate | Aggregate::Share => {
            return (Some(sum.count() as f64), sum.count());
        }
    };
    ((sum.count() > 0).then_some(duration.as_nanos() as f64), sum.count())
}

#[expect(clippy::cast_precision_loss, reason = "figures to compare need 53 bits")]
fn of_count(threshold: &Threshold, count: u64, seconds: f64) -> (Option<f64>, u64) {
    // A count of nothing is a figure, and few of something is what a count may be about.
    match threshold.aggregate {
        Aggregate::Rate => (Some(count as f64 / seconds), SAMPLES_MIN),
        _ => (Some(count as f64), SAMPLES_MIN),
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures to compare need 53 bits")]
fn of_share(threshold: &Threshold, part: u64, all: u64, seconds: f64) -> (Option<f64>, u64) {
    match threshold.aggregate {
        Aggregate::Count => (Some(part as f64), SAMPLES_MIN),
        Aggregate::Rate => (Some(part as f64 / seconds), SAMPLES_MIN),
        _ => ((all > 0).then(|| part as f64 / all as f64), all),
    }
}

fn is_step_chosen(filter: &Filter, plan: &Plan, index: StepIndex) -> bool {
    let Some(step) = plan.steps.get(index.get()) else { return false };
    let workflow = plan.workflow(step.workflow).map_or("", |workflow| workflow.name.as_str());
    matches_any(&filter.step, &step.name) && matches_any(&filter.workflow, workflow)
}

/// Whether `name` fits one of the patterns and none that begins with `!`. No pattern fits all.
fn matches_any(patterns: &[String], name: &str) -> bool {
    let mut is_chosen = patterns.iter().all(|pattern| pattern.starts_with('!'));
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches_glob(pattern, name) => return false,
            Some(_) => {}
            None => is_chosen |= matches_glob(pattern, name),
        }
    }
    is_chosen
}

/// `*` stands for anything, however long.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_and_exclude() {
        let rows: &[(&[&str], &str, bool)] = &[
            (&[], "anything", true),
            (&["browse/*"], "browse/pay", true),
            (&["browse/*"], "other/pay", false),
            (&["!404"], "404", false),
            (&["!404"], "200", true),
            (&["4*", "!404"], "404", false),
            (&["4*", "!404"], "403", true),
            (&["*a*b"], "xaxxb", true),
            (&["*a*b"], "xaxxbc", false),
            (&["ab"], "abc", false),
        ];
        for (patterns, name, expected) in rows {
            let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
            assert_eq!(matches_any(&patterns, name), *expected, "{patterns:?} against {name}");
        }
    }
}
