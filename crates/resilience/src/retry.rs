//! Whether to try again, and when.
//!
//! What cannot succeed is not tried again, and a budget that is spent ends the rest: a retry that
//! nobody counts is what keeps an outage alive.

use std::time::Duration;

use crate::Backoff;

/// What an error says about another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may pass: a timeout, a lost link, a leader still to be elected.
    Passing,
    /// The server is there and wants to be left alone for so long.
    Busy {
        /// How long.
        retry_after: Duration,
    },
    /// The answer will be the same: the request is wrong, forbidden, or superseded.
    Lasting,
}

/// What to do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again after this.
    After(Duration),
    /// Do not try again.
    GiveUp(GiveUp),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// It cannot succeed.
    CannotSucceed,
    /// All tries are spent.
    BudgetSpent,
}

/// The tries of one request.
#[derive(Debug, Clone)]
pub struct Retry {
    backoff: Backoff,
    retries_left: u32,
}

impl Retry {
    /// At most `retries` tries after the first, spread by `backoff`. 0 is none.
    #[must_use]
    pub const fn new(backoff: Backoff, retries: u32) -> Self {
        Self { backoff, retries_left: retries }
    }

    /// Decides after an error. A busy server's wish wins over a shorter delay of ours, and our
    /// jitter comes on top: others were told the same.
    pub fn decide(&mut self, error: ErrorClass) -> RetryDecision {
        let at_least = match error {
            ErrorClass::Lasting => return RetryDecision::GiveUp(GiveUp::CannotSucceed),
            ErrorClass::Passing => Duration::ZERO,
            ErrorClass::Busy { retry_after } => retry_after,
        };
        match self.retries_left.checked_sub(1) {
            None => RetryDecision::GiveUp(GiveUp::BudgetSpent),
            Some(left) => {
                self.retries_left = left;
                RetryDecision::After(at_least + self.backoff.next_delay())
            }
        }
    }

    /// Tries that are left.
    #[must_use]
    pub const fn retries_left(&self) -> u32 {
        self.retries_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(500);

    fn retry(seed: u64, retries: u32) -> Retry {
        Retry::new(Backoff::seeded(BASE, seed), retries)
    }

    #[track_caller]
    fn delay(decision: RetryDecision) -> Duration {
        match decision {
            RetryDecision::After(delay) => delay,
            RetryDecision::GiveUp(why) => panic!("gave up: {why:?}"),
        }
    }

    #[test]
    fn dsp_15_what_cannot_succeed_is_tried_once() {
        let mut retry = retry(1, 5);

        let decision = retry.decide(ErrorClass::Lasting);

        assert_eq!(decision, RetryDecision::GiveUp(GiveUp::CannotSucceed));
    }

    #[test]
    fn dsp_15_a_spent_budget_ends_it_and_none_is_none() {
        let mut three = retry(1, 3);
        (0..3).for_each(|_| _ = delay(three.decide(ErrorClass::Passing)));

        let spent = RetryDecision::GiveUp(GiveUp::BudgetSpent);
        assert_eq!(three.decide(ErrorClass::Passing), spent);
        assert_eq!(three.decide(ErrorClass::Passing), spent, "a spent budget is no unlimited one");
        assert_eq!(retry(1, 0).decide(ErrorClass::Passing), spent);
    }

    #[test]
    fn dsp_15_a_servers_wish_wins_and_is_still_spread() {
        let retry_after = Duration::from_secs(7);
        let mut delays: Vec<Duration> = (0..100)
            .map(|seed| delay(retry(seed, 1).decide(ErrorClass::Busy { retry_after })))
            .collect();
        delays.sort();

        assert!(delays[0] >= retry_after, "{:?} is too early", delays[0]);
        assert!(delays[99] < retry_after + BASE);
        assert!(delays[75] - delays[25] > BASE / 4, "all come back at once");
    }

    /// Kolmogorov and Smirnov: below 1.628/√n in 99 of 100 draws of a uniform distribution.
    fn distance_from_uniform(mut shares: Vec<f64>) -> f64 {
        shares.sort_by(f64::total_cmp);
        let count = shares.len() as f64;
        let of_place = |(place, share): (usize, &f64)| {
            (share - place as f64 / count).abs().max((share - (place + 1) as f64 / count).abs())
        };
        shares.iter().enumerate().map(of_place).fold(0.0, f64::max)
    }

    #[test]
    fn dsp_15_delays_are_uniform_up_to_their_ceiling() {
        let mut clients: Vec<Retry> = (0..1_000).map(|seed| retry(seed, 10)).collect();

        for k in 0..10 {
            let ceiling = (BASE * (1 << k)).min(Duration::from_secs(30));
            let shares: Vec<f64> = (clients.iter_mut())
                .map(|client| delay(client.decide(ErrorClass::Passing)).div_duration_f64(ceiling))
                .collect();
            let distance = distance_from_uniform(shares);
            let allowed = 1.628 / 1_000f64.sqrt();
            assert!(distance < allowed, "retry {k}: {distance} from uniform, {allowed} allowed");
        }
    }

    #[test]
    fn dsp_15_a_thousand_clients_do_not_come_back_at_once() {
        let mut tries_in_bin = std::collections::BTreeMap::<u128, u32>::new();
        let mut tries = 0;
        for seed in 0..1_000 {
            let (mut client, mut at) = (retry(seed, 20), Duration::ZERO);
            while at < Duration::from_secs(60) {
                at += delay(client.decide(ErrorClass::Passing));
                *tries_in_bin.entry(at.as_millis() / 100).or_default() += 1;
                tries += 1;
            }
        }

        let most = tries_in_bin.values().max().unwrap();
        assert!(most * 20 <= tries, "{most} of {tries} retries within 100 ms");
    }
}
