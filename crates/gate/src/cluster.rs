//! How the cluster is, as one gate sees it: who takes part, whether anything can be decided, which
//! datacenters answer, and who owns the jobs.
//!
//! Nobody is asked: a gate that is cut off answers as fast as any other, and says so.

use std::collections::{BTreeMap, BTreeSet};

use hyperscale_model::{Fence, JobId, NodeId, Time};
use hyperscale_wire::SOFTWARE;
use serde::{Deserialize, Serialize};

use crate::Gate;
use crate::federation::Standing;
use crate::request::DatacenterView;

/// The cluster as a gate sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The gate that says this.
    pub gate: NodeId,
    /// The gates that it knows of, itself first.
    pub gates: Vec<GateView>,
    /// Whether the gates can decide anything.
    pub quorum: QuorumView,
    /// The datacenters that it has heard of.
    pub datacenters: Vec<LedDatacenterView>,
    /// Who owns the jobs that run or ended lately.
    pub owners: Vec<OwnerView>,
    /// Nodes that were removed for good, the last at the end.
    pub removed: Vec<NodeId>,
}

/// A gate as another knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateView {
    /// Which.
    pub node: NodeId,
    /// Whether it takes part: it may own jobs.
    pub has_session: bool,
    /// Whether it votes in the gates' ledger; one that does not follows, as a spare.
    pub votes: bool,
    /// Whether it leads the gates' ledger, as far as is known.
    pub leads: bool,
    /// Whether there is a link to it.
    pub is_reached: bool,
    /// The version of its software; empty if it does not say.
    pub software: String,
}

/// Whether the gates' ledger can decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    /// Gates that vote.
    pub voters: usize,
    /// How many of them it takes to decide.
    pub needed: usize,
    /// How many this gate reaches, itself included.
    pub reached: usize,
    /// Whether this gate can have something decided now.
    pub can_decide: bool,
    /// If not: why, and what to do.
    pub why: Option<String>,
}

/// A datacenter, and who leads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedDatacenterView {
    /// The datacenter.
    #[serde(flatten)]
    pub view: DatacenterView,
    /// The manager that leads it.
    pub leader: Option<NodeId>,
    /// That leader's fence: a higher one is newer.
    pub fence: Option<Fence>,
    /// How it is reached.
    pub standing: Standing,
    /// How long ago its leader was heard of.
    pub heard_ms_ago: u64,
    /// The managers that vote in its ledger, by the leader's last word.
    pub voters: BTreeSet<NodeId>,
}

/// A gate with its jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerView {
    /// Which.
    pub gate: NodeId,
    /// Those that have not ended, the oldest first.
    pub live: Vec<JobId>,
    /// How many of its jobs ended lately.
    pub ended: usize,
}

impl Gate {
    pub(crate) fn cluster_view(&self, now: Time) -> ClusterView {
        ClusterView {
            gate: self.config.node,
            gates: self.gate_views(),
            quorum: self.quorum_view(),
            datacenters: (self.datacenter_views(now).into_iter())
                .map(|view| {
                    let (leader, heard) = self.last_word(&view.datacenter);
                    let ago = now.since(heard).as_millis();
                    let status = self.status_of(&view.datacenter);
                    let voters = status.map(|status| status.voters.clone()).unwrap_or_default();
                    let watch = self.federation.get(&view.datacenter);
                    LedDatacenterView {
                        standing: watch.map_or(Standing::Unknown, |watch| watch.standing(now)),
                        view,
                        voters,
                        leader: leader.map(|(node, _)| node),
                        fence: leader.map(|(_, fence)| fence),
                        heard_ms_ago: u64::try_from(ago).unwrap_or(u64::MAX),
                    }
                })
                .collect(),
            owners: self.owner_views(),
            removed: self.state.removed.iter().map(|(node, _)| *node).collect(),
        }
    }

    /// This gate, those with a session, and others that are linked or were heard of.
    fn gate_views(&self) -> Vec<GateView> {
        let own = self.config.node;
        let told: BTreeMap<NodeId, &str> = self.peers.told().collect();
        let mut others: BTreeSet<NodeId> = self.state.sessions.keys().copied().collect();
        others.extend(self.peers.linked());
        others.extend(self.heard.keys().filter(|gate| !self.state.is_removed(**gate)));
        others.extend(&self.peers.electorate().voters);
        others.remove(&own);
        let view = |node: NodeId| GateView {
            node,
            has_session: self.state.sessions.contains_key(&node),
            votes: self.peers.votes(node),
            leads: if node == own { self.leads } else { self.leader == Some(node) },
            is_reached: node == own || self.peers.is_linked(node),
            software: match node == own {
                true => SOFTWARE.to_owned(),
                false => told.get(&node).copied().unwrap_or_default().to_owned(),
            },
        };
        std::iter::once(own).chain(others).map(view).collect()
    }

    /// Whether a majority of gates, this one included, was heard of within a decision's time.
    #[must_use]
    pub fn has_quorum(&self, now: Time) -> bool {
        let is_heard = |gate: &NodeId| {
            let heard = self.heard.get(gate);
            heard.is_some_and(|&heard| now < heard + self.config.decision_wait)
        };
        let own = usize::from(self.peers.votes(self.config.node));
        own + self.peers.linked_voters().filter(is_heard).count() >= self.peers.majority()
    }

    /// Whether this gate hears neither of the others nor of a job: another may own it by now, and has
    /// news that this one has not.
    pub(crate) fn is_cut_off(&self, now: Time, job: JobId) -> bool {
        let Some(job) = self.state.jobs.get(&job).filter(|job| job.ended.is_none()) else {
            return false;
        };
        let is_in = |view: &DatacenterView| {
            job.parts.iter().any(|(target, _)| target.datacenter == view.datacenter)
        };
        let views = self.datacenter_views(now);
        let hears_of_it = views.iter().any(|view| view.is_fresh && is_in(view));
        self.config.gates > 1 && !hears_of_it && !self.has_quorum(now)
    }

    fn quorum_view(&self) -> QuorumView {
        let (voters, needed) = (self.peers.voters(), self.peers.majority());
        let reached = self.peers.reached();
        let why = match needed.checked_sub(reached).filter(|missing| *missing > 0) {
            Some(missing) => Some(format!(
                "{} of {voters} gates are out of reach, and nothing is decided before {missing} of \
                 them can be reached again: start {} again, with the data directory it had, or \
                 mend the network between the gates",
                voters - reached,
                if missing == 1 { "one" } else { "them" },
            )),
            None => self.why_not_ready(),
        };
        QuorumView { voters, needed, reached, can_decide: why.is_none(), why }
    }

    fn owner_views(&self) -> Vec<OwnerView> {
        let mut owners: BTreeMap<NodeId, OwnerView> = BTreeMap::new();
        for (&id, job) in &self.state.jobs {
            let new = OwnerView { gate: job.gate, live: Vec::new(), ended: 0 };
            let owner = owners.entry(job.gate).or_insert(new);
            match job.ended {
                None => owner.live.push(id),
                Some(_) => owner.ended += 1,
            }
        }
        owners.into_values().collect()
    }
}
