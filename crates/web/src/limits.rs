//! How much a client may ask: a token bucket for each client and operation.
//!
//! A bucket that has filled up again says nothing that a new one would not, so it is forgotten.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use hyperscale_model::{ClientId, Time};

/// How fast a client may ask for one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Requests at once after a rest.
    pub burst: u32,
    /// Requests per second for ever.
    pub per_second: u32,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    /// The holder of a token.
    Client(ClientId),
    /// Whoever sits at an address, as long as no token says who that is.
    Address(IpAddr),
}

/// What clients may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// How fast a client may ask for one thing; without a limit if absent.
    pub rate: Option<Rate>,
    /// The largest body of a request.
    pub body_bytes: usize,
    /// How long the head of a request may take, and how long a connection may idle before it.
    pub head_time: Duration,
    /// How long the body of a request may take; a large one gets a second more for each 128 KiB.
    pub body_time: Duration,
    /// How long an answer may take, other than a stream of events.
    pub answer_time: Duration,
    /// How long a client may take nothing of what it is sent.
    pub stall_time: Duration,
    /// Connections at once.
    pub connections: usize,
}

impl Limits {
    /// What holds unless it is set otherwise.
    pub const DEFAULT: Self = Self {
        rate: Some(Rate { burst: 100, per_second: 10 }),
        // A plan with its data, in base64.
        body_bytes: 96 << 20,
        head_time: Duration::from_secs(30),
        body_time: Duration::from_secs(30),
        answer_time: Duration::from_secs(60),
        stall_time: Duration::from_secs(30),
        connections: 1_000,
    };
}

/// Buckets by client and operation.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    rate: Rate,
    buckets_max: usize,
    buckets: BTreeMap<(Asker, &'static str), Bucket>,
    next_sweep: Time,
}

/// Its level is known by when it will be full: nothing has to fill it.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Time,
}

impl RateLimiter {
    pub(crate) fn new(rate: Rate, buckets_max: usize) -> Self {
        let rate = Rate { burst: rate.burst.max(1), per_second: rate.per_second.max(1) };
        Self { rate, buckets_max, buckets: BTreeMap::new(), next_sweep: Time::ZERO }
    }

    /// Takes a token, or says in how long there will be one.
    ///
    /// # Errors
    ///
    /// With that time.
    pub(crate) fn take(
        &mut self,
        now: Time,
        asker: Asker,
        operation: &'static str,
    ) -> Result<(), Duration> {
        let of_one = Duration::from_secs(1) / self.rate.per_second;
        let of_all = of_one * self.rate.burst;
        if now >= self.next_sweep || self.buckets.len() >= self.buckets_max {
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            self.next_sweep = now + of_all;
        }
        let key = (asker, operation);
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

    fn ann() -> Asker {
        Asker::Client(ClientId::from("ann"))
    }

    #[test]
    fn lim_01_a_burst_passes_then_only_the_rate() {
        let mut limiter = RateLimiter::new(RATE, 10);
        let now = Time::from_millis(5);

        for n in 0..100 {
            assert_eq!(limiter.take(now, ann(), "list"), Ok(()), "request {n} of the burst");
        }

        let wait = limiter.take(now, ann(), "list").unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        let early = now + (wait - Duration::from_nanos(1));
        assert!(limiter.take(early, ann(), "list").is_err());
        assert_eq!(limiter.take(now + wait, ann(), "list"), Ok(()), "after the wait it was told");
    }

    #[test]
    fn lim_01_clients_and_operations_do_not_share() {
        let mut limiter = RateLimiter::new(Rate { burst: 1, per_second: 1 }, 10);
        let now = Time::ZERO;
        let address = Asker::Address(IpAddr::from([127, 0, 0, 1]));

        assert!(limiter.take(now, ann(), "list").is_ok());
        assert!(limiter.take(now, ann(), "list").is_err());

        assert!(limiter.take(now, ann(), "get").is_ok());
        assert!(limiter.take(now, Asker::Client(ClientId::from("eve")), "list").is_ok());
        assert!(limiter.take(now, address, "list").is_ok());
    }

    #[test]
    fn lim_01_idle_buckets_are_forgotten_and_many_are_refused() {
        let mut limiter = RateLimiter::new(RATE, 50);
        let from = |n: u8| Asker::Address(IpAddr::from([10, 0, 0, n]));
        for n in 0..50 {
            assert!(limiter.take(Time::ZERO, from(n), "list").is_ok());
        }

        assert!(limiter.take(Time::ZERO, from(50), "list").is_err(), "there is no room");
        assert!(limiter.take(Time::from_millis(100), from(50), "list").is_ok());
        assert_eq!(limiter.buckets.len(), 1, "those that are full again are forgotten");
    }

    proptest! {
        #[test]
        fn lim_01_no_stretch_of_time_lets_more_pass_than_burst_and_rate(
            gaps_ms in proptest::collection::vec(0u64..400, 1..400),
            burst in 1u32..20,
            per_second in 1u32..50,
        ) {
            let mut limiter = RateLimiter::new(Rate { burst, per_second }, 10);
            let (mut now_ms, mut passed) = (0, Vec::new());
            for gap in gaps_ms {
                now_ms += gap;
                if limiter.take(Time::from_millis(now_ms), ann(), "list").is_ok() {
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
            let mut limiter = RateLimiter::new(Rate { burst, per_second }, 10);
            let mut now = Time::ZERO;
            for _ in 0..requests {
                if let Err(wait) = limiter.take(now, ann(), "list") {
                    now += wait;
                    prop_assert_eq!(limiter.take(now, ann(), "list"), Ok(()));
                }
            }
        }
    }
}
