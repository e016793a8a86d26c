//! Token buckets: a burst at once, then a rate for ever, for each key of its own.
//!
//! A bucket that has filled up again says nothing that a new one would not, so it is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_model::Time;

/// How fast something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How often at once after a rest.
    pub burst: u32,
    /// How often per second for ever.
    pub per_second: u32,
}

/// Buckets of one rate, by key.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    buckets_max: usize,
    buckets: BTreeMap<K, Bucket>,
    next_sweep: Time,
}

/// Its level is known by when it will be full: nothing has to fill it.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Time,
}

impl<K: Ord> Buckets<K> {
    /// At most `buckets_max` keys at once; a rate of nothing counts as one of 1.
    #[must_use]
    pub fn new(rate: Rate, buckets_max: usize) -> Self {
        let rate = Rate { burst: rate.burst.max(1), per_second: rate.per_second.max(1) };
        Self { rate, buckets_max, buckets: BTreeMap::new(), next_sweep: Time::ZERO }
    }

    /// Takes a token, or says in how long there will be one.
    ///
    /// # Errors
    ///
    /// With that time.
    pub fn take(&mut self, now: Time, key: K) -> Result<(), Duration> {
        let of_one = Duration::from_secs(1) / self.rate.per_second;
        let of_all = of_one * self.rate.burst;
        if now >= self.next_sweep || self.buckets.len() >= self.buckets_max {
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            self.next_sweep = now + of_all;
        }
        if self.buckets.len() >= self.buckets_max && !self.buckets.contains_key(&key) {
            return Err(of_all); // So many at once are no clients.
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { full_at: now });
        // Each token taken puts off the time when the bucket is full by the time of one.
        let full_at = bucket.full_at.max(now) + of_one;
        let wait = full_at.since(now).saturating_sub(of_all);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        bucket.full_at = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { burst: 100, per_second: 10 };

    #[test]
    fn lim_01_a_burst_passes_then_only_the_rate() {
        let mut buckets = Buckets::new(RATE, 10);
        let now = Time::from_millis(5);

        for n in 0..100 {
            assert_eq!(buckets.take(now, "ann"), Ok(()), "request {n} of the burst");
        }

        let wait = buckets.take(now, "ann").unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        let early = now + (wait - Duration::from_nanos(1));
        assert!(buckets.take(early, "ann").is_err());
        assert_eq!(buckets.take(now + wait, "ann"), Ok(()), "after the wait it was told");
    }

    #[test]
    fn lim_01_idle_buckets_are_forgotten_and_many_are_refused() {
        let mut buckets = Buckets::new(RATE, 50);
        for n in 0..50 {
            assert!(buckets.take(Time::ZERO, n).is_ok());
        }

        assert!(buckets.take(Time::ZERO, 50).is_err(), "there is no room");
        assert!(buckets.take(Time::from_millis(100), 50).is_ok());
        assert_eq!(buckets.buckets.len(), 1, "those that are full again are forgotten");
    }

    proptest! {
        #[test]
        fn lim_01_no_stretch_of_time_lets_more_pass_than_burst_and_rate(
            gaps_ms in proptest::collection::vec(0u64..400, 1..400),
            burst in 1u32..20,
            per_second in 1u32..50,
        ) {
            let mut buckets = Buckets::new(Rate { burst, per_second }, 10);
            let (mut now_ms, mut passed) = (0, Vec::new());
            for gap in gaps_ms {
                now_ms += gap;
                if buckets.take(Time::from_millis(now_ms), "ann").is_ok() {
                    passed.push(now_ms);
                }
            }
            for (at, &from) in passed.iter().enumerate() {
                for (more, &to) in passed[at..].iter().enumerate() {
                    // One nanosecond is lost for each token of a rate that does not divide 10^9.
                    let allowed = u64::from(burst) * 1_000 + (to - from + 1) * u64::from(per_second);
                    let passed = (more as u64 + 1) * 1_000;
                    prop_assert!(passed <= allowed, "{passed} of {allowed} from {from} to {to}");
                }
            }
        }

        #[test]
        fn lim_01_a_client_that_waits_as_told_is_let_through(
            burst in 1u32..20, per_second in 1u32..50, requests in 1usize..100,
        ) {
            let mut buckets = Buckets::new(Rate { burst, per_second }, 10);
            let mut now = Time::ZERO;
            for _ in 0..requests {
                if let Err(wait) = buckets.take(now, "ann") {
                    now += wait;
                    prop_assert_eq!(buckets.take(now, "ann"), Ok(()));
                }
            }
        }
    }
}
