//! What a job's deltas add up to.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::{AttemptId, DeltaSeq, Outcome, PartIndex};
use hyperscale_plan::{Plan, StepIndex, Threshold};
use hyperscale_report::{ExampleView, Latency, LiveStep, ThresholdView};
use hyperscale_stats::{
    Arrival, Delta, Exchange, Figures, Histogram, Scoped, Series, SparseHistogram, Watermark, judge,
};
use serde::{Deserialize, Serialize};

/// How many exchanges of each step and outcome are kept: the first ones, and the last.
const EXCHANGES_KEPT: usize = 4;
/// A core busier than this, in thousandths, has no time left.
const BUSY: u16 = 950;

/// What one attempt has told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Source {
    watermark: Watermark,
    iterations: u64,
    until: Duration,
    /// Active users in its newest window.
    vus: u32,
    /// What the manager was told is counted for good.
    pub(crate) acknowledged: DeltaSeq,
}

/// Everything that was counted of one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Statistics {
    sources: BTreeMap<AttemptId, Source>,
    totals: BTreeMap<PartIndex, Figures<Histogram>>,
    series: Series,
    exchanges: Vec<Exchange>,
    busiest_core: u16,
    windows: u64,
    busy_windows: u64,
    /// Deltas that were dropped because they had been counted.
    pub(crate) duplicates: u64,
    /// Whether something was counted since the last checkpoint.
    #[serde(skip)]
    pub(crate) is_dirty: bool,
}

impl Statistics {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            sources: BTreeMap::new(),
            totals: BTreeMap::new(),
            series: Series::new(window),
            exchanges: Vec::new(),
            busiest_core: 0,
            windows: 0,
            busy_windows: 0,
            duplicates: 0,
            is_dirty: false,
        }
    }

    /// Counts a delta unless it was counted before; true if it was not.
    pub(crate) fn add(&mut self, delta: &Delta) -> bool {
        let source = self.sources.entry(delta.attempt).or_default();
        if delta.seq > source.watermark.contiguous().next() {
            // The leader sends in order, and again what is missing. Counting above a hole would
            // make an acknowledgement say more iterations than its deltas hold, and could count
            // what the attempt's closing entry leaves out.
            return false;
        }
        match source.watermark.arrive(delta.seq) {
            Arrival::New => {}
            Arrival::Duplicate => {
                // Perhaps the acknowledgement was lost: the next checkpoint repeats it.
                source.acknowledged = DeltaSeq::NONE;
                self.duplicates += 1;
                self.is_dirty = true;
                return false;
            }
            Arrival::TooFar => return false,
        }
        self.is_dirty = true;
        source.iterations += delta.figures.figures.iterations;
        let end = delta.window.saturating_add(u64::from(delta.span));
        let end = self.series.window().saturating_mul(u32::try_from(end).unwrap_or(u32::MAX));
        if end >= source.until {
            source.until = end;
            source.vus = delta.figures.vus;
        }
        self.totals.entry(delta.attempt.shard.part).or_default().merge(&delta.figures.figures);
        self.series.add(delta);
        self.busiest_core = self.busiest_core.max(delta.figures.busiest_core);
        self.windows += 1;
        self.busy_windows += u64::from(delta.figures.busiest_core >= BUSY);
        for exchange in &delta.figures.exchanges {
            self.keep(exchange);
        }
        true
    }

    fn keep(&mut self, exchange: &Exchange) {
        let is_alike =
            |known: &Exchange| known.step == exchange.step && known.outcome == exchange.outcome;
        if self.exchanges.iter().filter(|known| is_alike(known)).count() < EXCHANGES_KEPT {
            self.exchanges.push(exchange.clone());
        } else if let Some(last) = self.exchanges.iter_mut().rev().find(|known| is_alike(known)) {
            last.clone_from(exchange);
        }
    }

    /// What was counted and not yet acknowledged: attempt, last delta, iterations, time reached.
    pub(crate) fn take_acknowledgements(&mut self) -> Vec<(AttemptId, DeltaSeq, u64, Duration)> {
        (self.sources.iter_mut())
            .filter(|(_, source)| source.acknowledged < source.watermark.contiguous())
            .map(|(&attempt, source)| {
                source.acknowledged = source.watermark.contiguous();
                (attempt, source.acknowledged, source.iterations, source.until)
            })
            .collect()
    }

    /// The next checkpoint acknowledges again everything that was counted.
    pub(crate) fn acknowledge_anew(&mut self) {
        for source in self.sources.values_mut() {
            source.acknowledged = DeltaSeq::NONE;
            self.is_dirty = true;
        }
    }

    /// A new leader asks what was counted of an attempt. Returns whether that is nothing; otherwise
    /// the next checkpoint answers, since an acknowledgement before it could be lost with the gate.
    pub(crate) fn inquire(&mut self, attempt: AttemptId) -> bool {
        let Some(source) = self.sources.get_mut(&attempt) else { return true };
        if source.watermark.contiguous() == DeltaSeq::NONE {
            return true;
        }
        source.acknowledged = DeltaSeq::NONE;
        self.is_dirty = true;
        false
    }

    /// Whether all deltas of these attempts have been counted.
    pub(crate) fn is_complete(&self, attempts: &[(AttemptId, DeltaSeq)]) -> bool {
        attempts.iter().all(|(attempt, last)| {
            let counted = self
                .sources
                .get(attempt)
                .map_or(DeltaSeq::NONE, |source| source.watermark.contiguous());
            counted >= *last
        })
    }

    /// An attempt that is over has no users.
    pub(crate) fn close(&mut self, attempts: &[(AttemptId, DeltaSeq)]) {
        for (attempt, _) in attempts {
            if let Some(source) = self.sources.get_mut(attempt) {
                source.vus = 0;
            }
        }
    }

    /// Active users, in the newest window of each attempt that told something lately.
    pub(crate) fn vus(&self, elapsed: Duration) -> u32 {
        let oldest = elapsed.saturating_sub(Duration::from_secs(5));
        self.sources.values().filter(|source| source.until >= oldest).map(|source| source.vus).sum()
    }

    /// All figures of all datacenters.
    pub(crate) fn merged(&self) -> Figures<Histogram> {
        let mut merged = Figures::default();
        for totals in self.totals.values() {
            merged.merge(&sparse(totals));
        }
        merged
    }

    pub(crate) const fn series(&self) -> &Series {
        &self.series
    }

    pub(crate) fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// An example of each step and outcome that failed: the latest.
    pub(crate) fn live_examples(&self, plan: &Plan) -> Vec<ExampleView> {
        let mut latest: BTreeMap<(StepIndex, &str), &Exchange> = BTreeMap::new();
        for exchange in &self.exchanges {
            latest.insert((exchange.step, exchange.outcome.as_str()), exchange);
        }
        let mut latest: Vec<&Exchange> = latest.into_values().collect();
        latest.sort_by_key(|exchange| exchange.at);
        let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        (latest.into_iter())
            .map(|exchange| ExampleView {
                step: (plan.steps.get(exchange.step.get()))
                    .map_or_else(String::new, |step| step.name.clone()),
                outcome: exchange.outcome.as_str().to_owned(),
                at_ms: u64::try_from(exchange.at.as_millis()).unwrap_or(u64::MAX),
                error: match first_line(&exchange.error) {
                    error if error.is_empty() => first_line(&exchange.answer),
                    error => error,
                },
            })
            .collect()
    }

    pub(crate) const fn busiest_core(&self) -> u16 {
        self.busiest_core
    }

    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn busy_time_share(&self) -> f64 {
        self.busy_windows as f64 / self.windows.max(1) as f64
    }

    /// Judges a threshold at `elapsed` of the job's time.
    pub(crate) fn judge(
        &self,
        threshold: &Threshold,
        plan: &Plan,
        names: &[&str],
        elapsed: Duration,
        is_final: bool,
    ) -> hyperscale_stats::Judged {
        let vus = self.vus(elapsed);
        if let Some((from, to)) = threshold.during {
            let figures = self.series.between(from, to);
            let scopes = [Scoped { datacenter: "", figures: &figures, vus }];
            let span = elapsed.min(to).saturating_sub(from);
            return judge(threshold, plan, &scopes, span, is_final);
        }
        let empty = Figures::default();
        let mut scopes: Vec<Scoped<'_, Histogram>> = (names.iter().zip(0..))
            .map(|(&datacenter, part)| Scoped {
                datacenter,
                figures: self.totals.get(&PartIndex(part)).unwrap_or(&empty),
                vus: 0,
            })
            .collect();
        if let Some(first) = scopes.first_mut() {
            first.vus = vus;
        }
        judge(threshold, plan, &scopes, elapsed, is_final)
    }

    /// The steps as they run.
    #[expect(clippy::cast_precision_loss, reason = "rates are shown with few digits")]
    pub(crate) fn live_steps(&self, plan: &Plan, merged: &Figures<Histogram>) -> Vec<LiveStep> {
        let second = Duration::from_secs(1);
        let newest = self.series.newest();
        let recent = self.series.between(newest.saturating_sub(second), newest);
        let seconds = second.min(newest).as_secs_f64().max(1e-3);
        (merged.steps.iter())
            .map(|(index, step)| LiveStep {
                name: plan.steps.get(index.get()).map_or_else(String::new, |s| s.name.clone()),
                requests: step.outcomes.total(),
                failed: step.outcomes.failed(),
                rate: recent.step(*index).map_or(0, |step| step.outcomes.total()) as f64 / seconds,
                latency_us: Latency::of(&step.latency),
                failures: (step.outcomes.iter())
                    .filter(|(outcome, count)| *count > 0 && *outcome != Outcome::Ok)
                    .map(|(outcome, count)| (outcome.as_str().to_owned(), count))
                    .collect(),
            })
            .collect()
    }
}

fn sparse(figures: &Figures<Histogram>) -> Figures<SparseHistogram> {
    use hyperscale_stats::{MetricFigures, StepFigures};
    let of_step = |step: &StepFigures<Histogram>| StepFigures {
        outcomes: step.outcomes,
        statuses: step.statuses.clone(),
        retries: step.retries,
        bytes_in: step.bytes_in,
        bytes_out: step.bytes_out,
        latency: step.latency.to_sparse(),
        service_time: step.service_time.to_sparse(),
        first_byte: step.first_byte.to_sparse(),
        connect: step.connect.to_sparse(),
        tls: step.tls.to_sparse(),
    };
    let steps = figures.steps.iter().map(|(index, step): &(StepIndex, _)| (*index, of_step(step)));
    let metrics = figures.metrics.iter().map(|(index, metric)| {
        let values = metric.values.to_sparse();
        let MetricFigures { count, sum_milli, min_milli, max_milli, .. } = *metric;
        (*index, MetricFigures { count, sum_milli, min_milli, max_milli, values })
    });
    Figures {
        steps: steps.collect(),
        checks: figures.checks.clone(),
        metrics: metrics.collect(),
        iterations: figures.iterations,
        iterations_cut: figures.iterations_cut,
        dropped: figures.dropped,
        dropped_late: figures.dropped_late,
        lag: figures.lag.to_sparse(),
    }
}

/// A threshold's figure in the unit in which people write it: times in milliseconds.
pub(crate) fn threshold_view(
    threshold: &Threshold,
    judged: &hyperscale_stats::Judged,
    broken_since: Option<Duration>,
) -> ThresholdView {
    let since = broken_since.filter(|_| !judged.holds).map(|since| since.as_millis());
    ThresholdView {
        expression: threshold.expression.clone(),
        passed: judged.holds,
        value: judged.value.map(|value| if threshold.is_time() { value / 1e6 } else { value }),
        broken_since_ms: since.and_then(|since| u64::try_from(since).ok()),
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::{AttemptNumber, JobId, ShardId};
    use hyperscale_stats::WindowFigures;
    use hyperscale_wire::{decode_value, encode_value};

    use super::*;

    fn delta(seq: u64) -> Delta {
        let shard = ShardId {
            job: JobId::from_parts(1, 1),
            part: PartIndex(0),
            workflow: Default::default(),
            shard: Default::default(),
        };
        Delta {
            attempt: AttemptId { shard, number: AttemptNumber(1) },
            seq: DeltaSeq(seq),
            window: seq - 1,
            span: 1,
            figures: WindowFigures {
                figures: Figures { iterations: 2, ..Figures::default() },
                ..WindowFigures::default()
            },
        }
    }

    #[test]
    fn sta_05_an_inquiry_is_answered_only_by_a_checkpoint() {
        let mut statistics = Statistics::new(Duration::from_secs(1));
        let attempt = delta(1).attempt;
        assert!(statistics.inquire(attempt), "nothing was counted: that can be said at once");
        statistics.add(&delta(1));
        statistics.take_acknowledgements();
        statistics.is_dirty = false;

        let is_nothing = statistics.inquire(attempt);

        assert!(!is_nothing && statistics.is_dirty, "a checkpoint must come first");
        let again = statistics.take_acknowledgements();
        assert_eq!(again, [(attempt, DeltaSeq(1), 2, Duration::from_secs(1))]);
    }

    #[test]
    fn a_checkpoint_remembers_what_was_counted() {
        let mut statistics = Statistics::new(Duration::from_secs(1));
        statistics.add(&delta(1));
        statistics.add(&delta(2));

        let bytes = encode_value(&statistics).unwrap();
        let mut restored: Statistics = decode_value(&bytes).unwrap();
        restored.add(&delta(2));

        assert_eq!(restored.merged().iterations, 4);
        assert_eq!(restored.duplicates, 1);
    }

    #[test]
    fn sta_04_nothing_above_a_hole_is_counted() {
        let mut statistics = Statistics::new(Duration::from_secs(1));

        statistics.add(&delta(1));
        statistics.add(&delta(3));

        let attempt = delta(1).attempt;
        let acknowledged = statistics.take_acknowledgements();
        assert_eq!(acknowledged, [(attempt, DeltaSeq(1), 2, Duration::from_secs(1))]);
        assert_eq!(statistics.merged().iterations, 2);
    }
}
