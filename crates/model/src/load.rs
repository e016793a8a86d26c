//! How loaded a node is, and what it does about it: words that nodes tell each other.

use serde::{Deserialize, Serialize};

/// Which work waits or is dropped first when there is too much of it. The most important is the
/// least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Leases, stops, ends, acknowledgements: never dropped.
    Control,
    /// Offers and starts.
    Dispatch,
    /// Progress and status.
    Progress,
    /// Statistics and blobs.
    Bulk,
}

/// How much a receiver of statistics can take.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub enum Pressure {
    /// All.
    #[default]
    None,
    /// Windows of 2 s.
    Throttle,
    /// Windows of 5 s.
    Batch,
    /// Totals only.
    Reject,
}

/// How close a node is to doing less the more it is asked. The worst is the greatest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum OverloadState {
    /// Room for everything.
    #[default]
    Healthy,
    /// Slower than usual: details can wait.
    Busy,
    /// Much slower: progress can wait too.
    Stressed,
    /// It keeps to what must not fail.
    Overloaded,
}

impl OverloadState {
    /// All states, the best first.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Busy, Self::Stressed, Self::Overloaded];

    /// The next better state.
    #[must_use]
    pub const fn eased(self) -> Self {
        match self {
            Self::Healthy | Self::Busy => Self::Healthy,
            Self::Stressed => Self::Busy,
            Self::Overloaded => Self::Stressed,
        }
    }

    /// The next worse state.
    #[must_use]
    pub const fn worsened(self) -> Self {
        match self {
            Self::Healthy => Self::Busy,
            Self::Busy => Self::Stressed,
            Self::Stressed | Self::Overloaded => Self::Overloaded,
        }
    }
}

impl Pressure {
    /// The next weaker level.
    #[must_use]
    pub const fn eased(self) -> Self {
        match self {
            Self::None | Self::Throttle => Self::None,
            Self::Batch => Self::Throttle,
            Self::Reject => Self::Batch,
        }
    }
}
