//! How jobs, parts, workflows and requests end.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};

use serde::{Deserialize, Serialize};

/// Why something failed, in words for a person and a closed kind for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FailureCause {
    /// A threshold that aborts the job was broken.
    Threshold {
        /// The threshold as written.
        expression: String,
    },
    /// No worker could take the load, each with its reason.
    Placement {
        /// What each try ended with.
        reasons: Vec<String>,
    },
    /// A shard took too many workers down.
    Poison {
        /// How many workers it took.
        workers: u32,
    },
    /// The test itself asked to stop (`on_error: abort`, a panic in its steps).
    Test {
        /// What happened.
        message: String,
    },
    /// A value that a later workflow needs was never published.
    Context {
        /// The missing value.
        name: String,
    },
    /// Neither the job nor its part is known any more, after data was lost.
    Lost {
        /// What was lost.
        message: String,
    },
}

impl FailureCause {
    /// The cause as one word, for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Threshold { .. } => "threshold",
            Self::Placement { .. } => "placement",
            Self::Poison { .. } => "poison",
            Self::Test { .. } => "test",
            Self::Context { .. } => "context",
            Self::Lost { .. } => "lost",
        }
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threshold { expression } => write!(f, "threshold `{expression}` was broken"),
            Self::Placement { reasons } => {
                write!(f, "no worker could run it: {}", reasons.join("; "))
            }
            Self::Poison { workers } => write!(f, "it took {workers} workers down"),
            Self::Test { message } | Self::Lost { message } => f.write_str(message),
            Self::Context { name } => write!(f, "the value `{name}` was never published"),
        }
    }
}

/// How a job, a part or a workflow ended. Final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum EndStatus {
    /// Everything that was planned ran, apart from counted gaps.
    Completed,
    /// It could not run, or had to stop.
    Failed {
        /// Why.
        cause: FailureCause,
    },
    /// Someone stopped it.
    Cancelled {
        /// Who.
        by: String,
    },
    /// Its time was over.
    TimedOut,
    /// It never started because what it needs did not succeed. Workflows only.
    Skipped {
        /// The workflow that it waited for.
        because: String,
    },
}

impl EndStatus {
    /// Which of several ends wins, highest first: Failed > Cancelled > `TimedOut` > Completed.
    /// Skipped never decides by itself.
    #[must_use]
    pub const fn precedence(&self) -> u8 {
        match self {
            Self::Failed { .. } => 4,
            Self::Cancelled { .. } => 3,
            Self::TimedOut => 2,
            Self::Completed => 1,
            Self::Skipped { .. } => 0,
        }
    }

    /// The status as one word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// The end of a whole from the ends of its pieces; Failed if there are none.
    #[must_use]
    pub fn combine<'a>(ends: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut combined: Option<&Self> = None;
        for end in ends {
            if combined.is_none_or(|best| best.precedence() < end.precedence()) {
                combined = Some(end);
            }
        }
        match combined {
            Some(Self::Skipped { .. }) => Self::Completed,
            Some(end) => end.clone(),
            None => Self::Failed {
                cause: FailureCause::Lost { message: "nothing was reported".to_owned() },
            },
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// The ledger holds it; no datacenter has it yet.
    Accepted,
    /// A datacenter holds it and waits for cores.
    Queued,
    /// Load is being sent.
    Running,
    /// It has been told to stop.
    Stopping {
        /// Why.
        why: String,
    },
    /// It is over.
    Ended(EndStatus),
}

/// What the thresholds say of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All held.
    Passed,
    /// At least one was broken.
    Broken,
    /// There were none, or nothing to judge.
    NotJudged,
}

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// How a request ended: exactly one of these.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum Outcome {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Outcome {
            /// All outcomes, in the order in which they are shown.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name,)*];

            /// The outcome's name in every output.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

outcomes! {
    /// An answer that passed its checks.
    Ok = "ok",
    /// An answer that broke a check.
    CheckFailed = "check_failed",
    /// A status 400–499 that no check allowed.
    Http4xx = "http_4xx",
    /// A status 500–599 that no check allowed.
    Http5xx = "http_5xx",
    /// Any other status that could not be accepted.
    HttpOther = "http_other",
    /// No whole answer in time.
    Timeout = "timeout",
    /// No connection.
    Connect = "connect",
    /// No address for the name.
    Dns = "dns",
    /// No TLS session, or its certificate was refused.
    Tls = "tls",
    /// The connection ended before the answer did.
    Reset = "reset",
    /// An answer that breaks the protocol or its limits.
    Protocol = "protocol",
    /// Cut by a stop of the test.
    Cancelled = "cancelled",
}

impl Outcome {
    /// How many outcomes there are.
    pub const COUNT: usize = 12;

    /// Whether the request counts as failed. A cancelled one is neither good nor bad.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Ok | Self::Cancelled)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Requests counted by how they ended. Serialized as the list of counts in the order of
/// [`Outcome::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OutcomeCounts([u64; Outcome::COUNT]);

impl OutcomeCounts {
    /// All requests, however they ended.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.iter().filter(|(outcome, _)| outcome.is_failure()).map(|(_, count)| count).sum()
    }

    /// Each outcome with its count, in the order in which outcomes are shown.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.into_iter().zip(self.0)
    }
}

impl Index<Outcome> for OutcomeCounts {
    type Output = u64;

    fn index(&self, outcome: Outcome) -> &u64 {
        &self.0[outcome as usize]
    }
}

impl IndexMut<Outcome> for OutcomeCounts {
    fn index_mut(&mut self, outcome: Outcome) -> &mut u64 {
        &mut self.0[outcome as usize]
    }
}

impl AddAssign<&Self> for OutcomeCounts {
    fn add_assign(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn res_04_the_end_of_a_whole_follows_the_precedence_in_any_order() {
        let failed = EndStatus::Failed { cause: FailureCause::Poison { workers: 3 } };
        let cancelled = EndStatus::Cancelled { by: "ann".to_owned() };
        let all = [failed, cancelled, EndStatus::TimedOut, EndStatus::Completed];
        for a in &all {
            for b in &all {
                for c in &all {
                    let highest = [a, b, c].into_iter().max_by_key(|end| end.precedence());

                    assert_eq!(Some(&EndStatus::combine([a, b, c])), highest);
                }
            }
        }
    }

    #[test]
    fn res_04_nothing_reported_is_a_failure() {
        assert_eq!(EndStatus::combine([]).as_str(), "failed");
    }

    #[test]
    fn outcome_names_are_distinct_and_serialize_as_themselves() {
        for outcome in Outcome::ALL {
            let json = serde_json::to_string(&outcome).unwrap();
            assert_eq!(json, format!("\"{outcome}\""));
        }
    }
}
