//! Circuit breaker: what keeps failing is left alone, then tried once.
//!
//! A call carries the breaker's epoch, which every change of state ends. So the answer to a call
//! that was made before the breaker opened neither closes it nor counts as the probe's.
//!
//! ```text
//! Closed ── 3 errors in 30 s ──► Open ── 10 s, one call ──► Probing ── success ──► Closed
//!                                 ▲                            │
//!                                 └────────── failure ─────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hyperscale_model::Time;

/// Settings of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// So many errors open it; at least 1.
    pub errors: usize,
    /// Older errors are forgotten.
    pub within: Duration,
    /// How long nothing is tried, and how long a probe may stay without an answer. Longer keeps a
    /// target that is well again idle; shorter bothers one that is not.
    pub rest: Duration,
}

impl BreakerConfig {
    /// The defaults.
    pub const DEFAULT: Self =
        Self { errors: 3, within: Duration::from_secs(30), rest: Duration::from_secs(10) };
}

/// A call that a breaker let through; its answer is told with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call(u64);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Calls pass. The errors that still count are fewer than those that open it.
    Closed { errors: VecDeque<Time> },
    /// Nothing passes before `probe_at`.
    Open { probe_at: Time },
    /// A probe is on its way; one that stays without an answer is replaced at `next_probe`.
    Probing { next_probe: Time },
}

/// The breaker of one target.
#[derive(Debug, Clone)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    epoch: u64,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(config: BreakerConfig) -> Self {
        Self { config, state: State::Closed { errors: VecDeque::new() }, epoch: 0 }
    }

    /// Lets a call through, or says when the next may be tried.
    ///
    /// # Errors
    ///
    /// With that time.
    pub fn try_call(&mut self, now: Time) -> Result<Call, Time> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { probe_at: next } | State::Probing { next_probe: next } if now < next => {
                return Err(next);
            }
            State::Open { .. } | State::Probing { .. } => {
                self.enter(State::Probing { next_probe: now + self.config.rest });
            }
        }
        Ok(Call(self.epoch))
    }

    /// The call was answered.
    pub fn on_success(&mut self, call: Call) {
        if call.0 == self.epoch && !self.is_closed() {
            self.enter(State::Closed { errors: VecDeque::new() });
        }
    }

    /// The call failed.
    pub fn on_failure(&mut self, now: Time, call: Call) {
        if call.0 != self.epoch {
            return;
        }
        let open = State::Open { probe_at: now + self.config.rest };
        match &mut self.state {
            State::Closed { errors } => {
                let within = self.config.within;
                errors.retain(|&error| now < error + within);
                errors.push_back(now);
                if errors.len() >= self.config.errors {
                    self.enter(open);
                }
            }
            State::Probing { .. } => self.enter(open),
            State::Open { .. } => {} // No call has its epoch.
        }
    }

    /// Whether calls pass freely. An open breaker whose probe is due is still no place for work.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Whether nothing may be tried now: it is open and not due, or its probe is on its way.
    #[must_use]
    pub fn rests(&self, now: Time) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { probe_at: next } | State::Probing { next_probe: next } => now < next,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

/// A breaker for each target that has failed. Targets share nothing.
#[derive(Debug, Clone)]
pub struct Breakers<K> {
    config: BreakerConfig,
    /// Only of targets that were called and not forgotten: as many as the caller has targets.
    breakers: BTreeMap<K, Breaker>,
}

impl<K: Ord + Clone> Breakers<K> {
    /// No breakers yet.
    #[must_use]
    pub const fn new(config: BreakerConfig) -> Self {
        Self { config, breakers: BTreeMap::new() }
    }

    /// As [`Breaker::try_call`] of that target.
    ///
    /// # Errors
    ///
    /// With the time of the next try.
    pub fn try_call(&mut self, now: Time, target: &K) -> Result<Call, Time> {
        let new = || Breaker::new(self.config);
        self.breakers.entry(target.clone()).or_insert_with(new).try_call(now)
    }

    /// As [`Breaker::on_success`] of that target; nothing if it was forgotten.
    pub fn on_success(&mut self, target: &K, call: Call) {
        if let Some(breaker) = self.breakers.get_mut(target) {
            breaker.on_success(call);
        }
    }

    /// As [`Breaker::on_failure`] of that target; nothing if it was forgotten.
    pub fn on_failure(&mut self, now: Time, target: &K, call: Call) {
        if let Some(breaker) = self.breakers.get_mut(target) {
            breaker.on_failure(now, call);
        }
    }

    /// Whether calls to the target pass freely.
    #[must_use]
    pub fn is_closed(&self, target: &K) -> bool {
        self.breakers.get(target).is_none_or(Breaker::is_closed)
    }

    /// As [`Breaker::rests`] of that target.
    #[must_use]
    pub fn rests(&self, now: Time, target: &K) -> bool {
        self.breakers.get(target).is_some_and(|breaker| breaker.rests(now))
    }

    /// Something that was not asked through [`Breakers::try_call`] has shown how the target is.
    pub fn observe(&mut self, now: Time, target: &K, is_well: bool) {
        if is_well && self.is_closed(target) {
            return; // Nothing to remember.
        }
        let Ok(call) = self.try_call(now, target) else { return };
        match is_well {
            true => self.on_success(target, call),
            false => self.on_failure(now, target, call),
        }
    }

    /// The target is gone.
    pub fn forget(&mut self, target: &K) {
        self.breakers.remove(target);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerConfig::DEFAULT)
    }

    #[track_caller]
    fn fail(breaker: &mut Breaker, at: Time) {
        let call = breaker.try_call(at).unwrap();
        breaker.on_failure(at, call);
    }

    #[track_caller]
    fn opened_at(at: Time) -> Breaker {
        let mut breaker = breaker();
        (0..3).for_each(|_| fail(&mut breaker, at));
        breaker
    }

    #[test]
    fn mem_10_three_errors_in_30_s_open_it() {
        let mut breaker = breaker();

        fail(&mut breaker, Time::from_secs(0));
        fail(&mut breaker, Time::from_secs(15));
        assert!(breaker.is_closed());
        fail(&mut breaker, Time::from_secs(29));

        assert!(!breaker.is_closed());
        assert_eq!(breaker.try_call(Time::from_secs(30)), Err(Time::from_secs(39)));
    }

    #[test]
    fn mem_10_errors_far_apart_leave_it_closed() {
        let mut breaker = breaker();

        for n in 0..10 {
            fail(&mut breaker, Time::from_secs(n * 16));
        }

        assert!(breaker.is_closed(), "no three errors lie within 30 s");
    }

    #[test]
    fn mem_10_successes_between_do_not_hide_errors() {
        let mut breaker = breaker();

        for n in 0..3 {
            let call = breaker.try_call(Time::from_secs(n)).unwrap();
            breaker.on_success(call);
            fail(&mut breaker, Time::from_secs(n));
        }

        assert!(!breaker.is_closed());
    }

    #[test]
    fn mem_10_one_probe_closes_or_opens_it_again() {
        let mut breaker = opened_at(Time::ZERO);

        let probe = breaker.try_call(Time::from_secs(10)).unwrap();
        assert!(breaker.try_call(Time::from_secs(11)).is_err(), "one probe at a time");
        breaker.on_failure(Time::from_secs(12), probe);
        assert_eq!(breaker.try_call(Time::from_secs(13)), Err(Time::from_secs(22)));

        let probe = breaker.try_call(Time::from_secs(22)).unwrap();
        breaker.on_success(probe);
        assert!(breaker.is_closed());
        fail(&mut breaker, Time::from_secs(22));
        assert!(breaker.is_closed(), "errors from before do not count any more");
    }

    #[test]
    fn mem_10_a_probe_without_an_answer_is_replaced() {
        let mut breaker = opened_at(Time::ZERO);
        let lost = breaker.try_call(Time::from_secs(10)).unwrap();

        assert!(breaker.try_call(Time::from_secs(19)).is_err());
        let second = breaker.try_call(Time::from_secs(20)).unwrap();

        breaker.on_failure(Time::from_secs(21), lost);
        breaker.on_success(second);
        assert!(breaker.is_closed(), "only the newest probe's answer counts");
    }

    #[test]
    fn mem_08_a_success_from_before_the_failure_closes_nothing() {
        let mut breaker = breaker();
        let early = breaker.try_call(Time::ZERO).unwrap();
        (0..3).for_each(|_| fail(&mut breaker, Time::from_secs(1)));

        breaker.on_success(early);
        assert!(!breaker.is_closed());
        let _probe = breaker.try_call(Time::from_secs(11)).unwrap();
        breaker.on_success(early);
        breaker.on_failure(Time::from_secs(12), early);
        assert_eq!(breaker.try_call(Time::from_secs(12)), Err(Time::from_secs(21)));
    }

    #[test]
    fn mem_10_targets_share_nothing_and_are_forgotten() {
        let mut breakers = Breakers::new(BreakerConfig::DEFAULT);
        for _ in 0..3 {
            let call = breakers.try_call(Time::ZERO, &"a").unwrap();
            breakers.on_failure(Time::ZERO, &"a", call);
        }

        assert!(!breakers.is_closed(&"a"));
        assert!(breakers.is_closed(&"b"));
        breakers.forget(&"a");
        assert!(breakers.try_call(Time::ZERO, &"a").is_ok());
        breakers.forget(&"a");
        assert!(breakers.breakers.is_empty());
    }

    proptest! {
        #[test]
        fn mem_10_an_open_breaker_lets_one_call_pass_in_10_s(
            gaps_ms in proptest::collection::vec(0u64..4_000, 1..200),
            answers in proptest::collection::vec(0u8..3, 200),
        ) {
            let mut breaker = opened_at(Time::ZERO);
            let (mut now_ms, mut last_ms) = (0, 0);
            for (gap, answer) in gaps_ms.into_iter().zip(answers) {
                now_ms += gap;
                let now = Time::from_millis(now_ms);
                if let Ok(call) = breaker.try_call(now) {
                    prop_assert!(now_ms - last_ms >= 10_000, "probes {} ms apart", now_ms - last_ms);
                    last_ms = now_ms;
                    // Fails, or stays without an answer.
                    if answer == 0 {
                        breaker.on_failure(now, call);
                    }
                }
            }
        }
    }

    #[test]
    fn mem_10_what_is_seen_by_the_way_opens_and_closes_it_too() {
        let mut breakers = Breakers::new(BreakerConfig::DEFAULT);
        (0..3).for_each(|second| breakers.observe(Time::from_secs(second), &1, false));

        assert!(breakers.rests(Time::from_secs(3), &1) && !breakers.rests(Time::from_secs(3), &2));
        assert!(!breakers.rests(Time::from_secs(12), &1), "one try is due");
        breakers.observe(Time::from_secs(12), &1, false);
        assert!(breakers.rests(Time::from_secs(13), &1), "it failed");
        breakers.observe(Time::from_secs(22), &1, true);
        assert!(breakers.is_closed(&1) && !breakers.rests(Time::from_secs(22), &1));
    }
}
