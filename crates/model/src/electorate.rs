//! Who takes part in a cluster's ledger.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Who takes part in a ledger, as its log says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Electorate {
    /// Those whose majority decides.
    pub voters: BTreeSet<NodeId>,
    /// Those that follow without a vote, each with whether it has caught up, as far as the leader
    /// knows; elsewhere that is never so.
    pub learners: BTreeMap<NodeId, bool>,
    /// Whether a change of the voters is not complete: until it is, a majority of those before and
    /// one of those after it must agree, and `voters` are all of them.
    pub is_changing: bool,
}

/// A change of who takes part in a ledger. Only its leader can make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectorateChange {
    /// Have a node follow without a vote.
    Learn(NodeId),
    /// Have a node that follows without a vote be told no more.
    Forget(NodeId),
    /// Have these nodes vote, and no others. Each must follow already.
    Vote(BTreeSet<NodeId>),
}
