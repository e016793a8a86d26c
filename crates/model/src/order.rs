//! Numbers that order things. Each orders one thing, so none converts into another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! ordered {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Below every number that was ever given out.
            pub const NONE: Self = Self(0);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($text, "{}"), self.0)
            }
        }
    };
}

ordered! {
    /// Proof of authority: the index of the ledger entry that granted it. Fences of different
    /// ledgers are never compared, and none is ever made by counting.
    Fence, "fence "
}
ordered! {
    /// Order of progress updates from one source under one fence; compared as (fence, sequence).
    ProgressSeq, "progress "
}
ordered! {
    /// Order of the deltas of one attempt, from 1 without holes.
    DeltaSeq, "delta "
}
ordered! {
    /// How often a node has started or refuted a suspicion. Written to disk before it is used.
    Incarnation, "incarnation "
}
ordered! {
    /// Order of a node's metadata within one incarnation.
    Version, "version "
}

ordered! {
    /// A proposal to a ledger, by the number that its proposer gave it.
    ProposalId, "proposal "
}

impl ProposalId {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ProgressSeq {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl DeltaSeq {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Incarnation {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Version {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
