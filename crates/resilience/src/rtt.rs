//! How far away another is: a smoothed round trip with its error and its age.
//!
//! A distance that was never measured is absent, not zero: zero would be the nearest of all.

use std::time::Duration;

use hyperscale_model::Time;

/// Round trips to one other, smoothed as in RFC 6298, but twice as slowly: distances between
/// datacenters jitter more than they change. The first samples weigh the same, so that an odd first
/// one is soon forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtt {
    mean: Duration,
    deviation: Duration,
    samples: u32,
    measured_at: Time,
}

/// A measurement older than this says less and less, and nothing at twice the age.
const FRESH: Duration = Duration::from_secs(300);
/// So many samples make an estimate.
const SAMPLES_FULL: u32 = 10;
/// An error up to this does no harm.
const ERROR_FULL: Duration = Duration::from_millis(20);

impl Rtt {
    /// The first measurement. Half of it may be wrong.
    #[must_use]
    pub fn first(now: Time, rtt: Duration) -> Self {
        Self { mean: rtt, deviation: rtt / 2, samples: 1, measured_at: now }
    }

    /// Another measurement.
    pub fn measure(&mut self, now: Time, rtt: Duration) {
        self.samples = self.samples.saturating_add(1);
        let error = self.mean.abs_diff(rtt);
        self.deviation = towards(self.deviation, error, self.samples.min(4));
        self.mean = towards(self.mean, rtt, self.samples.min(16));
        self.measured_at = now;
    }

    /// The estimate.
    #[must_use]
    pub const fn mean(&self) -> Duration {
        self.mean
    }

    /// How far single round trips are off the estimate.
    #[must_use]
    pub const fn error(&self) -> Duration {
        self.deviation
    }

    /// How long ago the last measurement was.
    #[must_use]
    pub const fn age(&self, now: Time) -> Duration {
        now.since(self.measured_at)
    }

    /// What nearly every round trip stays under.
    #[must_use]
    pub fn upper_bound(&self) -> Duration {
        self.mean + 2 * self.deviation
    }

    /// How much the estimate is worth: 0 nothing, 1 all.
    #[must_use]
    pub fn quality(&self, now: Time) -> f64 {
        let by_samples = f64::from(self.samples.min(SAMPLES_FULL)) / f64::from(SAMPLES_FULL);
        let by_error = ERROR_FULL.div_duration_f64(self.deviation.max(ERROR_FULL));
        let over_age = self.age(now).saturating_sub(FRESH).div_duration_f64(FRESH);
        by_samples * by_error * (1.0 - over_age).max(0.0)
    }
}

/// One step of `1/share` of the way.
fn towards(from: Duration, to: Duration, share: u32) -> Duration {
    if to >= from { from + (to - from) / share } else { from - (from - to) / share }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::SplitMix;

    use super::*;

    const JITTER: Duration = Duration::from_millis(100);

    #[test]
    fn fed_02_the_estimate_is_within_a_fifth_after_20_probes() {
        let is_near = |&seed: &u64| {
            let mut random = SplitMix::new(seed);
            let real = Duration::from_millis(200 + random.below(101));
            let mut sample = || real + Duration::from_millis(random.below(201)) - JITTER;
            let mut rtt = Rtt::first(Time::ZERO, sample());
            (1..20).for_each(|n| rtt.measure(Time::from_secs(2 * n), sample()));
            rtt.mean().abs_diff(real) * 5 <= real
        };

        let near = (0..1_000).filter(is_near).count();

        // 20 draws of such a jitter have a mean that is off by 40 ms once in 500.
        assert!(near >= 990, "only {near} of 1000 estimates are near");
    }

    #[test]
    fn fed_02_one_slow_answer_moves_the_estimate_little() {
        let usual = Duration::from_millis(100);
        let mut rtt = Rtt::first(Time::ZERO, usual);
        (0..20).for_each(|n| rtt.measure(Time::from_secs(n), usual));

        rtt.measure(Time::from_secs(20), Duration::from_millis(600));

        assert!(rtt.mean() < Duration::from_millis(170), "{:?}", rtt.mean());
    }

    #[test]
    fn dsp_05_quality_follows_samples_error_and_age() {
        let steady = Duration::from_millis(50);
        let mut rtt = Rtt::first(Time::ZERO, steady);
        let young = rtt.quality(Time::ZERO);
        (0..40).for_each(|_| rtt.measure(Time::ZERO, steady));
        let at = |secs| rtt.quality(Time::from_secs(secs));

        assert!(young < 0.1, "{young}: one sample is no estimate");
        assert!((at(300) - 1.0).abs() < 1e-9, "many, steady and fresh");
        assert!((at(450) - 0.5).abs() < 1e-9);
        assert!(at(600) < 1e-9 && at(6_000) < 1e-9);

        (0..40).for_each(|n| rtt.measure(Time::ZERO, steady * (n % 2 * 4)));
        assert!(rtt.quality(Time::ZERO) < 0.3, "an error of 100 ms is five times too much");
    }
}
