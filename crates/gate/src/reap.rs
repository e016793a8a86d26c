//! Voters that have been missed for long give way to spares, where the operator allows it.
//!
//! Only for a spare: fewer voters would be no safer. What is proposed is what an operator would: the
//! node that is removed, and stops if it comes back. So it returns as a new one, with an empty disk,
//! and nobody takes it for one that has seen what was decided without it.

use std::collections::{BTreeMap, BTreeSet};

use hyperscale_model::{DatacenterId, NodeId, Role, Time};

use crate::state::Entry;
use crate::{About, Gate};

/// Since when voters have been missed, by their cluster: the gates', or a datacenter's.
pub(crate) type Missed = BTreeMap<Option<DatacenterId>, BTreeMap<NodeId, Time>>;

/// Who votes in a cluster, who of them is there, and whether somebody could vote instead.
#[derive(Debug)]
struct Seen {
    cluster: Option<DatacenterId>,
    voters: BTreeSet<NodeId>,
    here: BTreeSet<NodeId>,
    has_spare: bool,
}

impl Gate {
    /// The leader of the gates' ledger looks for voters that have been missed for too long.
    pub(crate) fn review_missed(&mut self, now: Time) {
        let Some(after) = self.config.reap_voters_after.filter(|_| self.leads) else {
            self.missed.clear();
            return;
        };
        for Seen { cluster, voters, here, has_spare } in self.seen_voters(now) {
            let missed = self.missed.entry(cluster.clone()).or_default();
            missed.retain(|node, _| voters.contains(node) && !here.contains(node));
            for gone in voters.difference(&here) {
                missed.entry(*gone).or_insert(now);
            }
            // One at a time: the next one when this one's place is taken.
            let is_changing = voters.iter().any(|voter| self.state.is_removed(*voter));
            let over = missed.iter().find(|(_, since)| now >= **since + after);
            if let (Some((&node, &since)), true, false) = (over, has_spare, is_changing) {
                let by = format!("nobody: it has been missed for {} s", now.since(since).as_secs());
                let entry = Entry::NodeRemoved { node, datacenter: cluster, by };
                self.propose(now, About::Removal(node), &entry);
            }
        }
    }

    /// The clusters whose state is known just now.
    fn seen_voters(&self, now: Time) -> Vec<Seen> {
        let electorate = self.peers.electorate();
        let own = std::iter::once(self.config.node);
        let gates = Seen {
            cluster: None,
            voters: electorate.voters.clone(),
            here: own.chain(self.peers.linked()).collect(),
            has_spare: electorate
                .learners
                .iter()
                .any(|(node, has_caught_up)| *has_caught_up && self.peers.is_linked(*node)),
        };
        let datacenters = self.statuses(now).filter(|(_, is_fresh, status)| {
            // Only its leader knows who is there.
            *is_fresh && status.leading.is_some()
        });
        let datacenters = datacenters.map(|(datacenter, _, status)| {
            let managers = status.nodes.iter().filter(|node| node.role == Role::Manager);
            let here: BTreeSet<NodeId> = managers.map(|node| node.node).collect();
            let has_spare = here
                .iter()
                .any(|node| !status.voters.contains(node) && !self.state.is_removed(*node));
            Seen {
                cluster: Some(datacenter.clone()),
                voters: status.voters.clone(),
                here,
                has_spare,
            }
        });
        std::iter::once(gates).chain(datacenters).collect()
    }
}
