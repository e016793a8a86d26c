//! The first frame on a link, in both directions.

use std::cmp::Ordering;
use std::fmt;

use hyperscale_model::{DatacenterId, Incarnation, NodeId, Role};
use serde::{Deserialize, Serialize};

/// The lowest protocol version that this node speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The highest protocol version that this node speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// Who a node is. Cluster and environment come first: they are checked before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster's name.
    pub cluster: String,
    /// The environment within it, such as `production`.
    pub environment: String,
    /// The lowest protocol version that the node speaks.
    pub protocol_min: u32,
    /// The highest.
    pub protocol_max: u32,
    /// The node.
    pub node: NodeId,
    /// What the link is for: a process with several roles has one link for each pair of roles.
    pub role: Role,
    /// The role of the receiver that the link is for.
    pub to: Role,
    /// Where the node stands.
    pub datacenter: DatacenterId,
    /// How often it has started.
    pub incarnation: Incarnation,
    /// What else it can do.
    pub features: Vec<String>,
    /// Where others reach it, if it listens.
    pub address: Option<String>,
}

/// Why a link is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HelloError {
    /// The other node belongs elsewhere.
    #[error("it belongs to the cluster `{theirs}`, this node to `{ours}`")]
    Cluster {
        /// Its cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The other node belongs to another environment.
    #[error("it belongs to the environment `{theirs}`, this node to `{ours}`")]
    Environment {
        /// Its environment.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// No version in common.
    #[error("it speaks protocol {min} to {max}, this node {PROTOCOL_MIN} to {PROTOCOL_MAX}")]
    Protocol {
        /// Its lowest.
        min: u32,
        /// Its highest.
        max: u32,
    },
    /// These roles never talk.
    #[error("a {from} has no business with a {to}")]
    Roles {
        /// Its role.
        from: Role,
        /// Ours.
        to: Role,
    },
    /// Managers and workers talk within their datacenter only.
    #[error("it stands in the datacenter `{theirs}`, this node in `{ours}`")]
    Datacenter {
        /// Its datacenter.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Of two managers the one with the higher id calls, so that they have one link.
    #[error("it is this node that calls the other")]
    Callback,
    /// A node called itself.
    #[error("this is the node itself: the addresses of its peers name its own")]
    Itself,
    /// The certificate says otherwise.
    #[error("it claims to be a {claimed}, its certificate says {certified}")]
    Certificate {
        /// What it says of itself.
        claimed: String,
        /// What its certificate says.
        certified: String,
    },
}

impl Hello {
    /// Checks what another node says of itself against what this node is.
    ///
    /// # Errors
    ///
    /// The first thing that does not fit.
    pub fn check(&self, theirs: &Self) -> Result<(), HelloError> {
        let ours = self;
        if theirs.cluster != ours.cluster {
            let (theirs, ours) = (theirs.cluster.clone(), ours.cluster.clone());
            return Err(HelloError::Cluster { theirs, ours });
        }
        if theirs.environment != ours.environment {
            let (theirs, ours) = (theirs.environment.clone(), ours.environment.clone());
            return Err(HelloError::Environment { theirs, ours });
        }
        if theirs.protocol_max < PROTOCOL_MIN || theirs.protocol_min > PROTOCOL_MAX {
            let (min, max) = (theirs.protocol_min, theirs.protocol_max);
            return Err(HelloError::Protocol { min, max });
        }
        if !theirs.role.may_link(ours.role) {
            return Err(HelloError::Roles { from: theirs.role, to: ours.role });
        }
        let is_local = |role| matches!(role, Role::Manager | Role::Worker);
        if is_local(theirs.role) && is_local(ours.role) && theirs.datacenter != ours.datacenter {
            let (theirs, ours) = (theirs.datacenter.to_string(), ours.datacenter.to_string());
            return Err(HelloError::Datacenter { theirs, ours });
        }
        Ok(())
    }

    /// Whether a node may call this one: gates both know the other's address, as managers do, and
    /// of the two the one with the higher id calls.
    ///
    /// # Errors
    ///
    /// If this node calls the other, or they are one.
    pub fn check_caller(&self, theirs: &Self) -> Result<(), HelloError> {
        let are_peers = self.role == theirs.role;
        if !are_peers || !matches!(self.role, Role::Manager | Role::Gate) {
            return Ok(());
        }
        match theirs.node.cmp(&self.node) {
            Ordering::Greater => Ok(()),
            Ordering::Equal => Err(HelloError::Itself),
            Ordering::Less => Err(HelloError::Callback),
        }
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.role, self.node, self.datacenter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(role: Role) -> Hello {
        Hello {
            cluster: "prod".to_owned(),
            environment: "live".to_owned(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            node: NodeId(1),
            role,
            to: Role::Manager,
            datacenter: DatacenterId::from("eu"),
            incarnation: Incarnation(1),
            features: Vec::new(),
            address: None,
        }
    }

    #[test]
    fn sec_01_each_mismatch_is_refused_and_named() {
        let ours = hello(Role::Manager);
        type Change = fn(&mut Hello);
        let rows: [(Change, &str); 5] = [
            (|h| h.cluster = "test".to_owned(), "cluster `test`"),
            (|h| h.environment = "dev".to_owned(), "environment `dev`"),
            (|h| h.protocol_min = 9, "protocol 9"),
            (|h| h.role = Role::Client, "a client has no business with a manager"),
            (|h| h.datacenter = DatacenterId::from("us"), "datacenter `us`"),
        ];
        for (change, expected) in rows {
            let mut theirs = hello(Role::Worker);
            change(&mut theirs);
            theirs.protocol_max = theirs.protocol_max.max(theirs.protocol_min);
            let error = ours.check(&theirs).unwrap_err().to_string();
            assert!(error.contains(expected), "`{error}` does not name {expected}");
        }
        assert_eq!(ours.check(&hello(Role::Worker)), Ok(()));
    }

    #[test]
    fn of_two_managers_one_calls() {
        let (low, high) = (hello(Role::Manager), Hello { node: NodeId(2), ..hello(Role::Manager) });

        assert_eq!(low.check_caller(&high), Ok(()));
        assert_eq!(high.check_caller(&low), Err(HelloError::Callback));
        assert_eq!(low.check_caller(&low), Err(HelloError::Itself));
        assert_eq!(high.check_caller(&hello(Role::Worker)), Ok(()));
    }

    #[test]
    fn sec_01_a_gate_elsewhere_is_welcome() {
        let mut gate = hello(Role::Gate);
        gate.datacenter = DatacenterId::from("us");

        assert_eq!(hello(Role::Manager).check(&gate), Ok(()));
    }
}
