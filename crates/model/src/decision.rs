//! What was decided, for people who look back.

use serde::{Deserialize, Serialize};

use crate::{JobId, NodeId};

/// An entry of a ledger that took effect, without what only nodes need of it, and without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The index of the entry: decisions of one ledger are in its order.
    pub index: u64,
    /// What it is, for programs.
    pub what: String,
    /// The job that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Who wanted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// More of it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Decision {
    /// One of which nothing else is to be said.
    #[must_use]
    pub fn new(index: u64, what: &str) -> Self {
        Self {
            index,
            what: what.to_owned(),
            job: None,
            node: None,
            by: None,
            detail: String::new(),
        }
    }
}
