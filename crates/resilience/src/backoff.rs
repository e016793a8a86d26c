//! Growing delays between tries.

use std::time::Duration;

use hyperscale_model::SplitMix;

/// Full jitter: the k-th delay is uniform on `[0, min(cap, base · 2^k)]`
/// (Brooker, "Exponential Backoff And Jitter", 2015).
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
    random: SplitMix,
}

impl Backoff {
    /// The longest delay of any backoff unless [`Backoff::with_cap`] says otherwise.
    pub const CAP: Duration = Duration::from_secs(30);

    /// A backoff that starts at `base`, its draws following from `seed`.
    #[must_use]
    pub const fn seeded(base: Duration, seed: u64) -> Self {
        Self { base, cap: Self::CAP, tries: 0, random: SplitMix::new(seed) }
    }

    /// The same with another longest delay.
    #[must_use]
    pub const fn with_cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.tries.min(20)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        ceiling.mul_f64(self.random.unit())
    }

    /// How many delays were drawn since the start or the last reset.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// Starts again at the base: the last try succeeded.
    pub const fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dsp_15_delays_grow_spread_and_stay_under_the_cap() {
        let base = Duration::from_millis(100);
        for seed in 0..1_000 {
            let mut backoff = Backoff::seeded(base, seed);
            for k in 0..40 {
                let delay = backoff.next_delay();
                let ceiling = (base * (1 << k.min(20))).min(Backoff::CAP);
                assert!(delay <= ceiling, "try {k} waits {delay:?}, more than {ceiling:?}");
            }
        }
    }
}
