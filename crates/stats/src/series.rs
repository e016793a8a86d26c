//! Figures over the time of a job, in bounded memory for any duration.
//!
//! Windows are event time, numbered from the job's start. Old windows are merged into longer ones:
//! percentiles of each resolution are those of all its requests, never averages.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Delta, Figures, SparseHistogram};

/// How long windows of each length are kept; the first length is the job's own.
const TIERS: [(Duration, Duration); 4] = [
    (Duration::ZERO, Duration::from_secs(60)),
    (Duration::from_secs(1), Duration::from_secs(600)),
    (Duration::from_secs(10), Duration::from_secs(3_600)),
    (Duration::from_secs(60), Duration::from_secs(86_400)),
];

/// What happened in one stretch of time, over all sources.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Point {
    /// What was counted.
    pub figures: Figures<SparseHistogram>,
    /// The most users that were active at the end of one of its windows.
    pub vus: u32,
    /// The busiest core of all, in thousandths.
    pub busiest_core: u16,
}

/// Figures over time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    window: Duration,
    tiers: [BTreeMap<u64, Point>; 4],
    newest: Duration,
    /// Deltas that came after their window had been merged into a longer one.
    late: u64,
}

impl Series {
    /// A series of windows of this length.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, tiers: Default::default(), newest: Duration::ZERO, late: 0 }
    }

    /// The length of a window.
    #[must_use]
    pub const fn window(&self) -> Duration {
        self.window
    }

    fn length(&self, tier: usize) -> Duration {
        TIERS[tier].0.max(self.window)
    }

    /// Adds a delta, however late it is.
    pub fn add(&mut self, delta: &Delta) {
        let window = u32::try_from(delta.window).unwrap_or(u32::MAX);
        let at = self.window.saturating_mul(window);
        let tier = (0..TIERS.len()).find(|&tier| at >= self.horizon(tier)).unwrap_or(3);
        self.late += u64::from(tier > 0);
        let number = number(at, self.length(tier));
        let point = self.tiers[tier].entry(number).or_default();
        point.figures.merge(&delta.figures.figures);
        point.vus += delta.figures.vus;
        point.busiest_core = point.busiest_core.max(delta.figures.busiest_core);
        self.newest = self.newest.max(at + self.window * delta.span);
        self.age();
    }

    /// What starts before this is not kept in `tier`.
    fn horizon(&self, tier: usize) -> Duration {
        let next = if tier + 1 < TIERS.len() { self.length(tier + 1) } else { self.length(tier) };
        let horizon = self.newest.saturating_sub(TIERS[tier].1);
        // Only whole windows of the next length move, so that none is split.
        next.saturating_mul(u32::try_from(number(horizon, next)).unwrap_or(u32::MAX))
    }

    fn age(&mut self) {
        for tier in 0..TIERS.len() {
            let first_kept = number(self.horizon(tier), self.length(tier));
            while let Some(entry) = self.tiers[tier].first_entry() {
                if *entry.key() >= first_kept {
                    break;
                }
                let (old, point) = entry.remove_entry();
                let Some(next) = Some(tier + 1).filter(|&next| next < TIERS.len()) else {
                    continue; // Older than the longest memory: only totals remain.
                };
                let at = self.length(tier).saturating_mul(u32::try_from(old).unwrap_or(u32::MAX));
                let number = number(at, self.length(next));
                let longer = self.tiers[next].entry(number).or_default();
                longer.figures.merge(&point.figures);
                longer.vus = longer.vus.max(point.vus);
                longer.busiest_core = longer.busiest_core.max(point.busiest_core);
            }
        }
    }

    /// All points in the order of time: start, length, figures.
    pub fn iter(&self) -> impl Iterator<Item = (Duration, Duration, &Point)> + '_ {
        (0..TIERS.len()).rev().flat_map(move |tier| {
            let length = self.length(tier);
            self.tiers[tier].iter().map(move |(&number, point)| {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                (length.saturating_mul(number), length, point)
            })
        })
    }

    /// The points of the finest resolution whose windows lie in `from..to`.
    pub fn recent(
        &self,
        from: Duration,
        to: Duration,
    ) -> impl DoubleEndedIterator<Item = (Duration, &Point)> + '_ {
        let range =
            number(from, self.window)..number(to, self.window).max(number(from, self.window));
        self.tiers[0].range(range).map(|(&number, point)| {
            (self.window.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX)), point)
        })
    }

    /// All figures between two times of the job, exact to the kept resolution.
    #[must_use]
    pub fn between(&self, from: Duration, to: Duration) -> Figures<SparseHistogram> {
        let mut sum = Figures::default();
        for (at, _, point) in self.iter().filter(|(at, ..)| *at >= from && *at < to) {
            debug_assert!(at >= from);
            sum.merge(&point.figures);
        }
        sum
    }

    /// The end of the newest window.
    #[must_use]
    pub const fn newest(&self) -> Duration {
        self.newest
    }

    /// How many deltas came after their window had been merged into a longer one.
    #[must_use]
    pub const fn late(&self) -> u64 {
        self.late
    }
}

fn number(at: Duration, length: Duration) -> u64 {
    u64::try_from(at.as_nanos() / length.as_nanos().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use hyperscale_model::{AttemptId, AttemptNumber, DeltaSeq, JobId, Outcome, ShardId};
    use hyperscale_plan::StepIndex;

    use super::*;
    use crate::{Recorder, Sample, WindowFigures};

    fn delta(window: u64, requests: u64) -> Delta {
        let shard = ShardId {
            job: JobId::from_parts(0, 0),
            part: Default::default(),
            workflow: Default::default(),
            shard: Default::default(),
        };
        let mut recorder = Recorder::new(1, 0, 0);
        for _ in 0..requests {
            recorder.request(StepIndex(0), &sample());
        }
        Delta {
            attempt: AttemptId { shard, number: AttemptNumber(1) },
            seq: DeltaSeq(1),
            window,
            span: 1,
            figures: WindowFigures { figures: recorder.take(), vus: 1, ..Default::default() },
        }
    }

    fn sample() -> Sample {
        Sample {
            outcome: Outcome::Ok,
            status: Some(200),
            latency: Duration::from_millis(1),
            service_time: Duration::from_millis(1),
            first_byte: None,
            connect: None,
            tls: None,
            bytes_in: 1,
            bytes_out: 1,
        }
    }

    #[test]
    fn sta_07_a_long_job_keeps_all_counts_in_bounded_memory() {
        let mut series = Series::new(Duration::from_millis(250));
        let windows = 4 * 3_600 * 2;

        for window in 0..windows {
            series.add(&delta(window, 1));
        }

        let points = series.iter().count();
        assert!(points < 1_500, "{points} points are kept");
        let requests: u64 = series.iter().map(|(_, _, point)| point.figures.requests()).sum();
        assert_eq!(requests, windows, "aging must move counts, not drop them");
        let starts: Vec<Duration> = series.iter().map(|(at, ..)| at).collect();
        assert!(starts.is_sorted(), "points must come in the order of time");
    }

    #[test]
    fn late_delta_enters_the_longer_window_that_took_its_place() {
        let mut series = Series::new(Duration::from_millis(250));
        for window in 0..4 * 120 {
            series.add(&delta(window, 1));
        }

        series.add(&delta(3, 5));

        assert_eq!(series.late(), 1);
        let first = series.between(Duration::ZERO, Duration::from_secs(1));
        assert_eq!(first.requests(), 4 + 5);
    }
}
