//! How overloaded a node is: the worst of what its latency and its resources say.
//!
//! A single odd reading changes nothing: of latencies the median of three counts, and only three
//! gradings in a row move the state, by one step. It improves only when it is clearly better, so
//! that a value at a threshold does not swing it.

use std::time::Duration;

use hyperscale_model::{OverloadState, Time};

/// Settings of a detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverloadConfig {
    /// The smoothed latency over its baseline from which a node is busy, stressed, overloaded.
    pub over_baseline: [f64; 3],
    /// The same for the smoothed latency itself.
    pub latency: [Duration; 3],
    /// The same for the share of the processors and of the memory that is used.
    pub resources: [f64; 3],
    /// A baseline below this counts as this: twice of next to nothing is no load.
    pub baseline_min: Duration,
    /// A state is left for a better one at thresholds lowered by this factor.
    pub easing: f64,
    /// So many gradings in a row move the state.
    pub samples: u32,
    /// The state changes once in this time.
    pub debounce: Duration,
}

impl OverloadConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        over_baseline: [1.2, 1.5, 2.0],
        latency: [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(2)],
        resources: [0.70, 0.85, 0.95],
        baseline_min: Duration::from_millis(10),
        easing: 0.9,
        samples: 3,
        debounce: Duration::from_secs(1),
    };
}

/// What a node reads of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverloadSample {
    /// How long its requests took, if there were any.
    pub latency: Option<Duration>,
    /// The share of the processors that is busy.
    pub cpu: f64,
    /// The share of the memory that is used.
    pub memory: f64,
}

/// How fast the smoothed latency and its baseline follow.
const FAST: f64 = 0.3;
const SLOW: f64 = 0.01;

#[derive(Debug, Clone, Copy)]
struct Latency {
    fast: f64,
    slow: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trend {
    Level,
    Worse(u32),
    Better(u32),
}

/// The overload of one node.
#[derive(Debug, Clone)]
pub struct OverloadDetector {
    config: OverloadConfig,
    /// The last latencies, the oldest first; one odd among them is ignored.
    recent: [Option<Duration>; 3],
    latency: Option<Latency>,
    state: OverloadState,
    trend: Trend,
    changes_from: Time,
}

impl OverloadDetector {
    /// The detector of a healthy node.
    #[must_use]
    pub const fn new(config: OverloadConfig) -> Self {
        Self {
            config,
            recent: [None; 3],
            latency: None,
            state: OverloadState::Healthy,
            trend: Trend::Level,
            changes_from: Time::ZERO,
        }
    }

    /// Takes a sample; answers with the state if it has changed.
    pub fn sample(&mut self, now: Time, sample: OverloadSample) -> Option<OverloadState> {
        if let Some(latency) = sample.latency {
            self.smooth(latency);
        }
        let is_worse = self.grade(&sample, 1.0) > self.state;
        let is_better = self.grade(&sample, self.config.easing) < self.state;
        self.trend = match self.trend {
            Trend::Worse(n) if is_worse => Trend::Worse(n.saturating_add(1)),
            Trend::Better(n) if is_better => Trend::Better(n.saturating_add(1)),
            Trend::Level | Trend::Worse(_) | Trend::Better(_) if is_worse => Trend::Worse(1),
            Trend::Level | Trend::Worse(_) | Trend::Better(_) if is_better => Trend::Better(1),
            Trend::Level | Trend::Worse(_) | Trend::Better(_) => Trend::Level,
        };
        let moved = match self.trend {
            Trend::Worse(n) if n >= self.config.samples => self.state.worsened(),
            Trend::Better(n) if n >= self.config.samples => self.state.eased(),
            Trend::Level | Trend::Worse(_) | Trend::Better(_) => return None,
        };
        if now < self.changes_from {
            return None;
        }
        self.state = moved;
        self.changes_from = now + self.config.debounce;
        Some(moved)
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> OverloadState {
        self.state
    }

    fn smooth(&mut self, latency: Duration) {
        self.recent.rotate_left(1);
        self.recent[2] = Some(latency);
        let [Some(a), Some(b), Some(c)] = self.recent else { return };
        let median = a.max(b).min(a.min(b).max(c)).as_secs_f64();
        let latency = self.latency.get_or_insert(Latency { fast: median, slow: median });
        latency.fast += FAST * (median - latency.fast);
        latency.slow += SLOW * (median - latency.slow);
    }

    /// The worst grade, all thresholds multiplied by `easing`.
    fn grade(&self, sample: &OverloadSample, easing: f64) -> OverloadState {
        let grade = |value: f64, thresholds: [f64; 3]| {
            let above = thresholds.iter().filter(|&&threshold| value >= threshold * easing).count();
            OverloadState::ALL[above]
        };
        let by_latency = self.latency.map_or(OverloadState::Healthy, |latency| {
            let baseline = latency.slow.max(self.config.baseline_min.as_secs_f64());
            let absolute = self.config.latency.map(|threshold| threshold.as_secs_f64());
            grade(latency.fast / baseline, self.config.over_baseline)
                .max(grade(latency.fast, absolute))
        });
        by_latency
            .max(grade(sample.cpu, self.config.resources))
            .max(grade(sample.memory, self.config.resources))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: OverloadSample = OverloadSample { latency: None, cpu: 0.1, memory: 0.1 };

    fn took(ms: u64) -> OverloadSample {
        OverloadSample { latency: Some(Duration::from_millis(ms)), ..IDLE }
    }

    fn busy(cpu: f64) -> OverloadSample {
        OverloadSample { cpu, ..IDLE }
    }

    /// A detector fed once a second, from the end of the last call on.
    #[derive(Debug)]
    struct Bench {
        detector: OverloadDetector,
        second: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { detector: OverloadDetector::new(OverloadConfig::DEFAULT), second: 0 }
        }

        fn feed(&mut self, count: usize, sample: OverloadSample) -> Vec<OverloadState> {
            (0..count)
                .filter_map(|_| {
                    self.second += 1;
                    self.detector.sample(Time::from_secs(self.second), sample)
                })
                .collect()
        }
    }

    #[test]
    fn bpr_01_resources_are_graded_at_70_85_and_95_percent() {
        let rows = [
            (0.69, OverloadState::Healthy),
            (0.70, OverloadState::Busy),
            (0.85, OverloadState::Stressed),
            (0.95, OverloadState::Overloaded),
        ];
        for (share, state) in rows {
            let mut by_cpu = Bench::new();
            by_cpu.feed(20, busy(share));
            assert_eq!(by_cpu.detector.state(), state, "processors at {share}");

            let mut by_memory = Bench::new();
            by_memory.feed(20, OverloadSample { memory: share, ..IDLE });
            assert_eq!(by_memory.detector.state(), state, "memory at {share}");
        }
    }

    #[test]
    fn bpr_01_latency_is_graded_by_itself_and_over_its_baseline() {
        // Always slow is no change, and still slow.
        for (ms, state) in [
            (199, OverloadState::Healthy),
            (200, OverloadState::Busy),
            (500, OverloadState::Stressed),
            (2_000, OverloadState::Overloaded),
        ] {
            let mut bench = Bench::new();
            bench.feed(20, took(ms));
            assert_eq!(bench.detector.state(), state, "always {ms} ms");
        }
        // Slower than usual, but fast by itself. The baseline has begun to follow.
        for (ms, state) in [
            (115, OverloadState::Healthy),
            (130, OverloadState::Busy),
            (165, OverloadState::Stressed),
            (198, OverloadState::Stressed),
        ] {
            let mut bench = Bench::new();
            bench.feed(100, took(100));
            bench.feed(14, took(ms));
            assert_eq!(bench.detector.state(), state, "{ms} ms in place of 100 ms");
        }
        let mut bench = Bench::new();
        bench.feed(100, took(50));
        bench.feed(14, took(120));
        assert_eq!(bench.detector.state(), OverloadState::Overloaded, "120 ms in place of 50 ms");
    }

    #[test]
    fn bpr_01_twice_of_next_to_nothing_is_no_load() {
        let mut bench = Bench::new();
        bench.feed(100, took(1));

        assert_eq!(bench.feed(20, took(9)), []);
    }

    #[test]
    fn bpr_01_the_worst_grade_counts() {
        let mut bench = Bench::new();

        bench.feed(20, OverloadSample { cpu: 0.9, memory: 0.75, ..took(1) });

        assert_eq!(bench.detector.state(), OverloadState::Stressed);
    }

    #[test]
    fn mem_08_one_bad_sample_changes_nothing() {
        let mut bench = Bench::new();
        bench.feed(50, took(20));

        for odd in [took(60_000), busy(1.0), OverloadSample { memory: 1.0, ..took(20) }] {
            assert_eq!(bench.feed(1, odd), [], "{odd:?}");
            assert_eq!(bench.feed(20, took(20)), [], "after {odd:?}");
        }
    }

    #[test]
    fn mem_08_states_move_one_step_at_a_time_both_ways() {
        let mut bench = Bench::new();
        let [healthy, up, high, top] = OverloadState::ALL;

        assert_eq!(bench.feed(2, busy(1.0)), [], "two samples are too few");
        assert_eq!(bench.feed(3, busy(1.0)), [up, high, top]);
        assert_eq!(bench.feed(2, busy(0.0)), []);
        assert_eq!(bench.feed(10, busy(0.0)), [high, up, healthy]);
    }

    #[test]
    fn mem_08_a_value_at_a_threshold_does_not_swing_the_state() {
        let mut bench = Bench::new();
        bench.feed(10, busy(0.71));

        for n in 0..100 {
            let share = if n % 7 < 4 { 0.66 } else { 0.72 };
            assert_eq!(bench.feed(1, busy(share)), [], "sample {n}");
        }
        assert_eq!(bench.feed(3, busy(0.6)), [OverloadState::Healthy]);
    }

    proptest! {
        #[test]
        fn mem_08_changes_are_adjacent_and_apart(
            samples in proptest::collection::vec(
                (0u64..1_500, 0.0..1.0f64, 0.0..1.0f64, proptest::option::of(0u64..5_000)), 1..300,
            ),
        ) {
            let mut detector = OverloadDetector::new(OverloadConfig::DEFAULT);
            let (mut now_ms, mut changed_ms) = (0, None::<u64>);
            for (gap_ms, cpu, memory, latency) in samples {
                now_ms += gap_ms;
                let before = detector.state();
                let latency = latency.map(Duration::from_millis);
                let sample = OverloadSample { latency, cpu, memory };
                if let Some(after) = detector.sample(Time::from_millis(now_ms), sample) {
                    prop_assert!(after == before.worsened() || after == before.eased());
                    prop_assert_ne!(after, before);
                    let apart = changed_ms.map(|changed| now_ms - changed);
                    prop_assert!(apart.is_none_or(|ms| ms >= 1_000), "changes {apart:?} ms apart");
                    changed_ms = Some(now_ms);
                }
            }
        }
    }
}
