//! How much load is planned when: pure functions of time.
//!
//! Arrival schedules follow from the area under the rate: with N(t) starts planned up to t, start
//! number k (from 0) happens at the first t with N(t) ≥ k. For a line from rate a to rate b over d
//! seconds, N(t) = a·t + (b − a)·t²/2d, and its inverse is the root of a quadratic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A workflow's load. `rate` is starts per second of iterations over the whole workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "executor", rename_all = "kebab-case")]
pub enum Load {
    /// So many users, as fast as they go.
    ConstantVus {
        /// Users.
        vus: u32,
        /// For how long.
        duration: Duration,
    },
    /// Users follow a line.
    RampingVus {
        /// Users at the start.
        start_vus: u32,
        /// The line.
        stages: Vec<Stage<u32>>,
        /// How long a user that is too many may finish its iteration.
        graceful_ramp_down: Duration,
    },
    /// Each user so often.
    PerVuIterations {
        /// Users.
        vus: u32,
        /// Iterations of each.
        iterations: u64,
        /// For how long at most.
        max_duration: Duration,
    },
    /// So often in all.
    SharedIterations {
        /// Users.
        vus: u32,
        /// Iterations of all together.
        total: u64,
        /// For how long at most.
        max_duration: Duration,
    },
    /// Starts by the clock.
    ConstantArrivalRate {
        /// Starts per second.
        rate: f64,
        /// For how long.
        duration: Duration,
        /// Users that may be busy at once.
        max_vus: u32,
        /// How starts are spread.
        #[serde(default)]
        distribution: Distribution,
    },
    /// Starts by the clock along a line.
    RampingArrivalRate {
        /// Starts per second at the start.
        start_rate: f64,
        /// The line.
        stages: Vec<Stage<f64>>,
        /// Users that may be busy at once.
        max_vus: u32,
        /// How starts are spread.
        #[serde(default)]
        distribution: Distribution,
    },
    /// Users are set while it runs.
    ExternallyControlled {
        /// Users at the start.
        vus: u32,
        /// Users at most.
        max_vus: u32,
        /// For how long.
        duration: Duration,
    },
    /// One iteration in the whole job.
    Once {
        /// For how long at most.
        max_duration: Duration,
    },
}

/// A stretch of a line: to `to` over so long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stage<T> {
    /// The value at its end.
    pub to: T,
    /// How long it takes. Zero is a jump.
    pub over: Duration,
}

/// How the starts of an arrival rate are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// At equal distances.
    #[default]
    Even,
    /// At random, as independent visitors come.
    Poisson,
}

/// What a load is made of, for those who divide and count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadKind {
    /// Users that loop until the time is over: a lost shard goes on for the remaining time.
    Looping,
    /// A fixed number of iterations: a lost shard goes on with the remaining ones.
    Iterations,
    /// Starts by the clock: a lost shard goes on with the starts that are still due.
    Arrivals,
}

impl Load {
    /// What the load is made of.
    #[must_use]
    pub const fn kind(&self) -> LoadKind {
        match self {
            Self::ConstantVus { .. }
            | Self::RampingVus { .. }
            | Self::ExternallyControlled { .. } => LoadKind::Looping,
            Self::PerVuIterations { .. } | Self::SharedIterations { .. } | Self::Once { .. } => {
                LoadKind::Iterations
            }
            Self::ConstantArrivalRate { .. } | Self::RampingArrivalRate { .. } => {
                LoadKind::Arrivals
            }
        }
    }

    /// How long the load lasts, at most where it ends by itself.
    #[must_use]
    pub fn duration(&self) -> Duration {
        match self {
            Self::ConstantVus { duration, .. }
            | Self::ConstantArrivalRate { duration, .. }
            | Self::ExternallyControlled { duration, .. } => *duration,
            Self::RampingVus { stages, .. } => stages.iter().map(|stage| stage.over).sum(),
            Self::RampingArrivalRate { stages, .. } => stages.iter().map(|stage| stage.over).sum(),
            Self::PerVuIterations { max_duration, .. }
            | Self::SharedIterations { max_duration, .. }
            | Self::Once { max_duration } => *max_duration,
        }
    }

    /// How many users there are at most.
    #[must_use]
    pub fn vus_max(&self) -> u32 {
        match self {
            Self::ConstantVus { vus, .. }
            | Self::PerVuIterations { vus, .. }
            | Self::SharedIterations { vus, .. } => *vus,
            Self::RampingVus { start_vus, stages, .. } => {
                stages.iter().map(|stage| stage.to).fold(*start_vus, u32::max)
            }
            Self::ConstantArrivalRate { max_vus, .. }
            | Self::RampingArrivalRate { max_vus, .. }
            | Self::ExternallyControlled { max_vus, .. } => *max_vus,
            Self::Once { .. } => 1,
        }
    }

    /// How many users should be active `at` after the load's start. Loads by arrival have none
    /// planned: `None`.
    #[must_use]
    pub fn vus_at(&self, at: Duration) -> Option<u32> {
        match self {
            Self::ConstantVus { vus, duration }
            | Self::ExternallyControlled { vus, duration, .. } => {
                Some(if at < *duration { *vus } else { 0 })
            }
            Self::RampingVus { start_vus, stages, .. } => Some(ramp_at(*start_vus, stages, at)),
            Self::PerVuIterations { vus, max_duration, .. }
            | Self::SharedIterations { vus, max_duration, .. } => {
                Some(if at < *max_duration { *vus } else { 0 })
            }
            Self::Once { max_duration } => Some(u32::from(at < *max_duration)),
            Self::ConstantArrivalRate { .. } | Self::RampingArrivalRate { .. } => None,
        }
    }

    /// How many iterations there are in all, if that is fixed.
    #[must_use]
    pub fn iterations(&self) -> Option<u64> {
        match self {
            Self::PerVuIterations { vus, iterations, .. } => {
                Some(u64::from(*vus).saturating_mul(*iterations))
            }
            Self::SharedIterations { total, .. } => Some(*total),
            Self::Once { .. } => Some(1),
            Self::ConstantVus { .. }
            | Self::RampingVus { .. }
            | Self::ConstantArrivalRate { .. }
            | Self::RampingArrivalRate { .. }
            | Self::ExternallyControlled { .. } => None,
        }
    }

    /// The arrival schedule, if starts come by the clock.
    #[must_use]
    pub fn arrivals(&self) -> Option<Arrivals> {
        match self {
            Self::ConstantArrivalRate { rate, duration, .. } => {
                Some(Arrivals::new(*rate, &[Stage { to: *rate, over: *duration }]))
            }
            Self::RampingArrivalRate { start_rate, stages, .. } => {
                Some(Arrivals::new(*start_rate, stages))
            }
            Self::ConstantVus { .. }
            | Self::RampingVus { .. }
            | Self::PerVuIterations { .. }
            | Self::SharedIterations { .. }
            | Self::ExternallyControlled { .. }
            | Self::Once { .. } => None,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a value between two u32 is one"
)]
fn ramp_at(start: u32, stages: &[Stage<u32>], at: Duration) -> u32 {
    let mut from = f64::from(start);
    let mut begin = Duration::ZERO;
    for stage in stages {
        let end = begin + stage.over;
        let to = f64::from(stage.to);
        if at < end {
            let share = (at - begin).as_secs_f64() / stage.over.as_secs_f64();
            return (from + (to - from) * share).round() as u32;
        }
        from = to;
        begin = end;
    }
    0
}

/// When starts are due: the area under a rate that follows a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrivals {
    segments: Vec<Segment>,
    /// Starts planned in all, as an area.
    area: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Segment {
    /// Seconds since the load's start.
    begin: f64,
    seconds: f64,
    from: f64,
    to: f64,
    /// Area before this segment.
    before: f64,
}

impl Segment {
    fn area_until(&self, t: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        self.before + self.from * t + slope * t * t / 2.0
    }

    /// When, within the segment, the area reaches `area`.
    fn time_of(&self, area: f64) -> f64 {
        let wanted = area - self.before;
        let slope = (self.to - self.from) / self.seconds;
        // The stable form of the root: 2c / (b + √(b² + 2ac)); a line without slope is its limit.
        let root = (self.from * self.from + 2.0 * slope * wanted).max(0.0).sqrt();
        let t = 2.0 * wanted / (self.from + root);
        if t.is_finite() { t.clamp(0.0, self.seconds) } else { 0.0 }
    }
}

impl Arrivals {
    fn new(start_rate: f64, stages: &[Stage<f64>]) -> Self {
        let mut segments = Vec::with_capacity(stages.len());
        let (mut begin, mut from, mut area) = (0.0, start_rate, 0.0);
        for stage in stages {
            let seconds = stage.over.as_secs_f64();
            if seconds > 0.0 {
                segments.push(Segment { begin, seconds, from, to: stage.to, before: area });
                area += (from + stage.to) / 2.0 * seconds;
                begin += seconds;
            }
            from = stage.to;
        }
        Self { segments, area }
    }

    /// Starts planned in all: start number k happens if k < this.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "areas are positive and far below 2^53"
    )]
    pub fn total(&self) -> u64 {
        // 10/s for 3 s are the starts at 0, 0.1, … 2.9: 30. An area that misses a whole number by
        // rounding only counts as that number.
        (self.area - 1e-6).ceil().max(0.0) as u64
    }

    /// When start number `k` (from 0) is due, after the load's start.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "start numbers are far below 2^53")]
    pub fn time_of(&self, k: u64) -> Option<Duration> {
        if k >= self.total() {
            return None;
        }
        self.time_of_area(k as f64)
    }

    /// When the area under the rate reaches `area`; `None` beyond its whole.
    #[must_use]
    pub fn time_of_area(&self, area: f64) -> Option<Duration> {
        if area >= self.area {
            return None;
        }
        let next = self.segments.partition_point(|segment| segment.before <= area);
        let segment = self.segments.get(next.checked_sub(1)?)?;
        Some(Duration::from_secs_f64(segment.begin + segment.time_of(area)))
    }

    /// How many starts are due before `at`.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "areas are positive and far below 2^53"
    )]
    pub fn due_before(&self, at: Duration) -> u64 {
        let area = self.area_at(at);
        ((area - 1e-6).ceil().max(0.0) as u64).min(self.total())
    }

    /// The area under the rate up to `at`.
    #[must_use]
    pub fn area_at(&self, at: Duration) -> f64 {
        let at = at.as_secs_f64();
        let next = self.segments.partition_point(|segment| segment.begin <= at);
        let Some(segment) = next.checked_sub(1).and_then(|index| self.segments.get(index)) else {
            return 0.0;
        };
        segment.area_until((at - segment.begin).min(segment.seconds))
    }

    /// Starts per second at `at`.
    #[must_use]
    pub fn rate_at(&self, at: Duration) -> f64 {
        let at = at.as_secs_f64();
        self.segments
            .iter()
            .find(|segment| at < segment.begin + segment.seconds)
            .map_or(0.0, |s| s.from + (s.to - s.from) * (at - s.begin).max(0.0) / s.seconds)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Slice;

    fn constant(rate: f64, seconds: u64) -> Arrivals {
        let duration = Duration::from_secs(seconds);
        Load::ConstantArrivalRate { rate, duration, max_vus: 1, distribution: Distribution::Even }
            .arrivals()
            .unwrap()
    }

    fn ramp(start: f64, stages: &[(f64, u64)]) -> Arrivals {
        let stages: Vec<Stage<f64>> = stages
            .iter()
            .map(|&(to, seconds)| Stage { to, over: Duration::from_secs(seconds) })
            .collect();
        Arrivals::new(start, &stages)
    }

    #[test]
    fn constant_starts_stand_at_equal_distances() {
        let arrivals = constant(10.0, 3);

        assert_eq!(arrivals.total(), 30);
        assert_eq!(arrivals.time_of(0), Some(Duration::ZERO));
        assert_eq!(arrivals.time_of(1), Some(Duration::from_millis(100)));
        assert_eq!(arrivals.time_of(29), Some(Duration::from_millis(2_900)));
        assert_eq!(arrivals.time_of(30), None);
    }

    #[test]
    fn a_ramp_puts_starts_where_the_area_says() {
        // From 0/s to 10/s over 10 s are 50 starts; the k-th is due when t²/2 = k.
        let arrivals = ramp(0.0, &[(10.0, 10)]);

        assert_eq!(arrivals.total(), 50);
        for k in [0u32, 1, 8, 32] {
            let due = arrivals.time_of(u64::from(k)).unwrap().as_secs_f64();
            assert!((due - f64::from(2 * k).sqrt()).abs() < 1e-9, "start {k} at {due}");
        }
    }

    #[test]
    fn ramping_users_follow_the_line_and_end_at_zero() {
        let load = Load::RampingVus {
            start_vus: 0,
            stages: vec![
                Stage { to: 100, over: Duration::from_secs(10) },
                Stage { to: 100, over: Duration::from_secs(5) },
                Stage { to: 0, over: Duration::ZERO },
            ],
            graceful_ramp_down: Duration::ZERO,
        };

        assert_eq!(load.vus_at(Duration::ZERO), Some(0));
        assert_eq!(load.vus_at(Duration::from_secs(5)), Some(50));
        assert_eq!(load.vus_at(Duration::from_secs(12)), Some(100));
        assert_eq!(load.vus_at(Duration::from_secs(15)), Some(0));
        assert_eq!(load.duration(), Duration::from_secs(15));
    }

    proptest! {
        #[test]
        fn starts_rise_and_agree_with_the_count(
            start in 0.0..500.0f64,
            stages in proptest::collection::vec((0.0..500.0f64, 0u64..20), 1..5),
        ) {
            let arrivals = ramp(start, &stages);

            let mut last = Duration::ZERO;
            for k in (0..arrivals.total()).step_by(7) {
                let due = arrivals.time_of(k).unwrap();
                prop_assert!(due >= last, "start {k} at {due:?}, after {last:?}");
                let before = arrivals.due_before(due);
                prop_assert!(before.abs_diff(k) <= 1, "{before} starts due before number {k}");
                last = due;
            }
        }

        #[test]
        fn slices_of_a_rate_sum_to_it_at_every_instant(
            rate in 0.1..5_000.0f64, n in 1usize..9, millis in 0u64..30_000,
        ) {
            let arrivals = constant(rate, 30);
            let at = Duration::from_millis(millis);

            let due = arrivals.due_before(at);
            let sum: u64 =
                Slice::whole().split_evenly(n).iter().map(|slice| slice.count(due)).sum();

            prop_assert_eq!(sum, due);
        }
    }
}
