//! What is changed of a load while it runs: it stands still, or less of it is sent.
//!
//! While a load stands still its time does too: a ramp goes on where it was, and a duration counts
//! what is left of it. (k6 does the same: a paused test does not age.) Nothing here ever asks for
//! more than the plan says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hyperscale_model::WorkflowIndex;
use serde::{Deserialize, Serialize};

use crate::{Load, LoadKind, Slice, units};

/// A whole, in the parts in which shares are counted.
const MILLION: u32 = 1_000_000;

/// How much of a workflow's load is sent, by command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many users; of a load that follows a line at most so many.
    Users(u32),
    /// So many millionths of the users or starts that are planned.
    Share(u32),
}

/// Why a load does not take an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScaleError {
    /// It is written in no known form.
    #[error(
        "`{text}` is no amount; expected users such as `50`, a rate such as `200/s` or a share \
         such as `40%`"
    )]
    Malformed {
        /// What was written.
        text: String,
    },
    /// The load takes amounts of another kind.
    #[error("`{text}` does not fit a `{executor}` load; expected {expected}")]
    WrongKind {
        /// What was written.
        text: String,
        /// The load's executor.
        executor: &'static str,
        /// What would fit.
        expected: &'static str,
    },
    /// The plan allows less.
    #[error("`{text}` is more than the plan allows: at most {most}")]
    TooMuch {
        /// What was written.
        text: String,
        /// What the plan allows.
        most: String,
    },
    /// The load is a number of iterations.
    #[error("a `{executor}` load is a fixed number of iterations: it can be paused, not scaled")]
    Fixed {
        /// The load's executor.
        executor: &'static str,
    },
}

impl Amount {
    /// Reads an amount for a load: users such as `50`, a rate such as `200/s`, a share such as
    /// `40%`.
    ///
    /// # Errors
    ///
    /// If it is malformed, does not fit the load, or is more than the plan allows.
    pub fn parse(text: &str, load: &Load) -> Result<Self, ScaleError> {
        let text = text.trim();
        let (executor, shown) = (load.executor(), || crate::yaml::shorten(text));
        let wrong = |expected| ScaleError::WrongKind { text: shown(), executor, expected };
        let too_much = |most: String| ScaleError::TooMuch { text: shown(), most };
        if load.kind() == LoadKind::Iterations {
            return Err(ScaleError::Fixed { executor });
        }
        if text.ends_with('%') {
            let share = units::share(text).map_err(|error| match error {
                units::UnitError::TooMuch { .. } => too_much("100%".to_owned()),
                _ => ScaleError::Malformed { text: shown() },
            })?;
            return match load {
                Load::ExternallyControlled { .. } => Err(wrong("a number of users such as `50`")),
                _ => Ok(Self::share_of(share)),
            };
        }
        if text.contains('/') {
            let rate =
                units::rate(text).map_err(|_error| ScaleError::Malformed { text: shown() })?;
            return match load {
                Load::ConstantArrivalRate { rate: planned, .. } if rate <= *planned => {
                    Ok(Self::share_of(rate / planned))
                }
                Load::ConstantArrivalRate { rate: planned, .. } => {
                    Err(too_much(format!("its rate {planned}/s")))
                }
                Load::RampingArrivalRate { .. } => Err(wrong("a share of its line such as `40%`")),
                _ => Err(wrong("a number of users such as `50`")),
            };
        }
        let users: u32 = text.parse().map_err(|_error| ScaleError::Malformed { text: shown() })?;
        if load.kind() == LoadKind::Arrivals {
            return Err(wrong("a rate such as `200/s` or a share such as `40%`"));
        }
        if users > load.vus_max() {
            let name = match load {
                Load::ExternallyControlled { .. } => "`max_vus`",
                _ => "users",
            };
            return Err(too_much(format!("its {} {name}", load.vus_max())));
        }
        Ok(Self::Users(users))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share from 0 to 1 in millionths"
    )]
    fn share_of(share: f64) -> Self {
        Self::Share((share.clamp(0.0, 1.0) * f64::from(MILLION)).floor() as u32)
    }

    /// So many of planned users.
    #[must_use]
    pub fn of_users(self, planned: u32) -> u32 {
        match self {
            Self::Users(users) => planned.min(users),
            Self::Share(share) => {
                let part = u64::from(planned) * u64::from(share.min(MILLION)) / u64::from(MILLION);
                u32::try_from(part).unwrap_or(planned)
            }
        }
    }

    /// How many of the first `local` starts of a slice are sent.
    ///
    /// They lie evenly among all, and the slices of one cut take turns.
    #[must_use]
    pub fn of_starts(self, slice: &Slice, local: u64) -> u64 {
        match self {
            Self::Users(_) => local,
            Self::Share(share) => {
                let (share, whole) = (u128::from(share.min(MILLION)), u128::from(MILLION));
                let offset = u128::from(slice.global(0).unwrap_or(0)) * share % whole;
                u64::try_from((u128::from(local) * share + offset) / whole).unwrap_or(local)
            }
        }
    }

    /// From 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::Users(_) => 1.0,
            Self::Share(share) => f64::from(share.min(MILLION)) / f64::from(MILLION),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Users(1) => write!(f, "1 user"),
            Self::Users(users) => write!(f, "{users} users"),
            Self::Share(_) => write!(f, "{} % of its plan", self.share() * 100.0),
        }
    }
}

/// How a job is steered, in full.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Steering {
    /// Orders what was decided: the index of the entry; 0 for a job that was never steered.
    pub version: u64,
    /// Whether its loads stand still.
    pub is_paused: bool,
    /// Workflows whose load was scaled.
    pub amounts: BTreeMap<WorkflowIndex, Amount>,
}

/// When loads stood still, in the job's time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pauses(
    /// From and to, in order, without overlaps. The last may have no end yet.
    Vec<(Duration, Option<Duration>)>,
);

impl Pauses {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Loads stand still from then on.
    pub fn pause(&mut self, at: Duration) {
        match self.0.last_mut() {
            Some((_, None)) => {}
            // Before the last one was over: it never was.
            Some((_, to)) if to.is_some_and(|to| at <= to) => *to = None,
            Some(_) | None => self.0.push((at, None)),
        }
    }

    /// Loads go on from then on.
    pub fn resume(&mut self, at: Duration) {
        if let Some((from, to @ None)) = self.0.last_mut() {
            *to = Some(at.max(*from));
        }
    }

    /// Each with its beginning and, if it is known, its end.
    pub fn iter(&self) -> impl Iterator<Item = (Duration, Option<Duration>)> + '_ {
        self.0.iter().copied()
    }

    /// Whether loads stand still at a time of the job.
    #[must_use]
    pub fn is_paused(&self, at: Duration) -> bool {
        self.iter().any(|(from, to)| from <= at && to.is_none_or(|to| at < to))
    }

    /// Whether the last one has no end yet. Where the job's time is told a little late, it may not
    /// have begun: whoever sends load waits for it rather than begin something new.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.last().is_some_and(|(_, to)| to.is_none())
    }

    /// The next time after `at` at which loads stop or go on.
    #[must_use]
    pub fn next_turn(&self, at: Duration) -> Option<Duration> {
        self.iter().flat_map(|(from, to)| [Some(from), to]).flatten().find(|turn| *turn > at)
    }

    /// How long loads stood still between two times of the job.
    #[must_use]
    pub fn between(&self, from: Duration, to: Duration) -> Duration {
        let within = |(begin, end): (Duration, Option<Duration>)| {
            end.map_or(to, |end| end.min(to)).saturating_sub(begin.max(from))
        };
        self.iter().map(within).sum()
    }

    /// The time of a load that has started at `started`, when the job's time is `at`.
    #[must_use]
    pub fn load_time(&self, started: Duration, at: Duration) -> Duration {
        at.saturating_sub(started).saturating_sub(self.between(started, at))
    }

    /// The job's time at which a load that has started at `started` is at `load`; `None` if that
    /// waits for the end of a pause.
    #[must_use]
    pub fn job_time(&self, started: Duration, load: Duration) -> Option<Duration> {
        let mut at = started + load;
        for (from, to) in self.iter().filter(|(_, to)| to.is_none_or(|to| to > started)) {
            let from = from.max(started);
            if at < from {
                break;
            }
            at += to?.saturating_sub(from);
        }
        Some(at)
    }
}

/// What of a job's steering concerns one load.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoadSteering {
    /// As in [`Steering`].
    pub version: u64,
    /// When it stood still.
    pub pauses: Pauses,
    /// How much of it is sent; all of it if absent.
    pub amount: Option<Amount>,
}

impl Load {
    /// The executor's name in a test file.
    #[must_use]
    pub const fn executor(&self) -> &'static str {
        match self {
            Self::ConstantVus { .. } => "constant-vus",
            Self::RampingVus { .. } => "ramping-vus",
            Self::PerVuIterations { .. } => "per-vu-iterations",
            Self::SharedIterations { .. } => "shared-iterations",
            Self::ConstantArrivalRate { .. } => "constant-arrival-rate",
            Self::RampingArrivalRate { .. } => "ramping-arrival-rate",
            Self::ExternallyControlled { .. } => "externally-controlled",
            Self::Once { .. } => "once",
        }
    }

    /// As [`Load::vus_at`], with the load scaled.
    #[must_use]
    pub fn scaled_vus_at(&self, at: Duration, amount: Option<Amount>) -> Option<u32> {
        match (self, amount) {
            (Self::ExternallyControlled { max_vus, duration, .. }, Some(Amount::Users(users))) => {
                Some(if at < *duration { users.min(*max_vus) } else { 0 })
            }
            (_, Some(amount)) => self.vus_at(at).map(|planned| amount.of_users(planned)),
            (_, None) => self.vus_at(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Distribution, Stage};

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rate() -> Load {
        let (duration, distribution) = (secs(10), Distribution::Even);
        Load::ConstantArrivalRate { rate: 500.0, duration, max_vus: 10, distribution }
    }

    #[test]
    fn amounts_fit_their_load() {
        let external = Load::ExternallyControlled { vus: 5, max_vus: 40, duration: secs(10) };
        let line = vec![Stage { to: 9, over: secs(1) }];
        let ramp = Load::RampingVus { start_vus: 1, stages: line, graceful_ramp_down: secs(0) };
        let once = Load::Once { max_duration: secs(1) };

        assert_eq!(Amount::parse("40", &external), Ok(Amount::Users(40)));
        assert_eq!(Amount::parse("50%", &ramp), Ok(Amount::Share(500_000)));
        assert_eq!(Amount::parse("200/s", &rate()), Ok(Amount::Share(400_000)));
        assert_eq!(Amount::parse(" 6000/m", &rate()), Ok(Amount::Share(200_000)));
        for (text, load, part) in [
            ("41", &external, "at most its 40 `max_vus`"),
            ("50%", &external, "expected a number of users"),
            ("10", &ramp, "at most its 9 users"),
            ("10/s", &ramp, "expected a number of users"),
            ("501/s", &rate(), "at most its rate 500/s"),
            ("101%", &rate(), "at most 100%"),
            ("7", &rate(), "expected a rate"),
            ("much", &rate(), "is no amount"),
            ("-1", &external, "is no amount"),
            ("1", &once, "can be paused, not scaled"),
        ] {
            let error = Amount::parse(text, load).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn time_stands_still_while_a_load_is_paused() {
        let mut pauses = Pauses::default();
        pauses.pause(secs(5));
        pauses.resume(secs(8));
        pauses.pause(secs(10));

        assert_eq!(pauses.load_time(secs(1), secs(4)), secs(3));
        assert_eq!(pauses.load_time(secs(1), secs(7)), secs(4));
        assert_eq!(pauses.load_time(secs(6), secs(9)), secs(1), "it started within a pause");
        assert_eq!(pauses.job_time(secs(1), secs(5)), Some(secs(9)));
        assert_eq!(pauses.job_time(secs(1), secs(6)), None);
        assert!(pauses.is_paused(secs(5)) && !pauses.is_paused(secs(8)));
        assert_eq!(pauses.next_turn(secs(5)), Some(secs(8)));
    }

    #[test]
    fn a_pause_before_the_end_of_the_last_one_goes_on_with_it() {
        let mut pauses = Pauses::default();
        pauses.pause(secs(5));
        pauses.resume(secs(8));
        pauses.pause(secs(7));

        assert_eq!(pauses.load_time(secs(0), secs(20)), secs(5));
    }

    proptest! {
        #[test]
        fn load_and_job_time_agree(
            turns in proptest::collection::vec(0u64..100, 0..7), started in 0u64..100, at in 0u64..200,
        ) {
            let mut turns = turns;
            turns.sort_unstable();
            let mut pauses = Pauses::default();
            for (number, turn) in turns.into_iter().enumerate() {
                if number % 2 == 0 { pauses.pause(secs(turn)) } else { pauses.resume(secs(turn)) }
            }
            let (started, at) = (secs(started), secs(started + at));

            let load = pauses.load_time(started, at);

            match pauses.job_time(started, load) {
                Some(back) if pauses.is_paused(at) => prop_assert!(back >= at),
                Some(back) => prop_assert_eq!(back, at),
                None => prop_assert!(pauses.is_paused(at)),
            }
        }

        #[test]
        fn slices_of_a_scaled_rate_sum_to_their_share(
            share in 0u32..=MILLION, slices in 1usize..9, starts in 0u64..20_000,
        ) {
            let amount = Amount::Share(share);

            let cut = Slice::whole().split_evenly(slices);
            let kept: u64 = cut.iter().map(|s| amount.of_starts(s, s.count(starts))).sum();

            #[expect(clippy::cast_precision_loss, reason = "small")]
            let (ideal, kept) = (starts as f64 * amount.share(), kept as f64);
            prop_assert!((kept - ideal).abs() <= slices as f64 + 1.0, "{kept} instead of {ideal}");
        }

        #[test]
        fn nothing_is_ever_more_than_planned(users in 0u32..1_000, share in 0u32..u32::MAX) {
            prop_assert!(Amount::Share(share).of_users(users) <= users);
            prop_assert!(Amount::Users(share).of_users(users) <= users);
        }
    }
}
