//! Nodes that leave because somebody wants it: those that are removed for good, gates and managers of
//! datacenters, and those that are asked to leave.
//!
//! The entry is the memory: the leader of the gates' ledger has a removed gate vote no more, and
//! each datacenter is told with every probe which managers it has lost. Whoever has caught up votes
//! instead. A removed node that comes back hears of it, and stops.

use hyperscale_model::{DatacenterId, NodeId, Role, Time};
use hyperscale_wire::Message;

use crate::request::{RequestError, RequestErrorKind, RequestId};
use crate::state::Entry;
use crate::{About, Gate, Output, Reply};

/// Someone waits for a removal to be decided.
#[derive(Debug)]
pub(crate) struct WaitingRemoval {
    pub(crate) id: RequestId,
    node: NodeId,
    entry: Entry,
    since: Time,
}

impl Gate {
    pub(crate) fn remove_node(&mut self, now: Time, id: RequestId, by: &str, node: NodeId) {
        if self.state.is_removed(node) {
            return self.reply(id, Reply::Removed { node });
        }
        match self.may_remove(now, node) {
            Ok(datacenter) => {
                let entry = Entry::NodeRemoved { node, datacenter, by: by.to_owned() };
                self.removals.push(WaitingRemoval { id, node, entry, since: now });
                self.review_removals(now);
            }
            Err(RequestError { kind, message }) => self.reply_error(id, kind, &message),
        }
    }

    /// The datacenter of a node that may be removed; none if it is a gate.
    fn may_remove(&self, now: Time, node: NodeId) -> Result<Option<DatacenterId>, RequestError> {
        let refuse = |kind, message: String| Err(RequestError { kind, message });
        let Some((role, datacenter)) = self.place_of(now, node) else {
            return Err(self.unknown_node(node));
        };
        if role == Role::Worker {
            let message = format!("{node} is a worker, which has no vote: stop it, and it is gone");
            return refuse(RequestErrorKind::CannotRemove, message);
        }
        let voters = match &datacenter {
            None => Some(&self.peers.electorate().voters),
            Some(datacenter) => self.status_of(datacenter).map(|status| &status.voters),
        };
        if voters.is_some_and(|voters| voters.len() == 1 && voters.contains(&node)) {
            let message = format!("{node} is the only one that votes: nobody could decide");
            return refuse(RequestErrorKind::CannotRemove, message);
        }
        match self.why_not_ready() {
            Some(why) => refuse(RequestErrorKind::NotReady, why),
            None => Ok(datacenter),
        }
    }

    /// Asks a node to leave. Nothing remembers it: who sees that the node stays asks again.
    pub(crate) fn drain_node(&mut self, now: Time, id: RequestId, node: NodeId) {
        let place = self.place_of(now, node);
        let way = match &place {
            Some((Role::Gate, _)) if node == self.config.node => None,
            Some((Role::Gate, _)) => Some(node).filter(|gate| self.peers.is_linked(*gate)),
            Some((_, Some(datacenter))) => self.leader_of(datacenter),
            Some((_, None)) | None => None,
        };
        match (place, way) {
            (None, _) => {
                let RequestError { kind, message } = self.unknown_node(node);
                return self.reply_error(id, kind, &message);
            }
            (Some(_), Some(way)) => self.send(way, Message::Drain { node }),
            (Some(_), None) if node == self.config.node => self.outputs.push(Output::Leave),
            (Some(_), None) => {
                let message = format!("there is no way to {node} just now; try again");
                return self.reply_error(id, RequestErrorKind::NotReady, &message);
            }
        }
        self.reply(id, Reply::Draining { node });
    }

    /// Why a node that was named is not found. A gate that takes no part knows of nobody: another
    /// may know better.
    fn unknown_node(&self, node: NodeId) -> RequestError {
        if let Some(message) = self.why_not_ready() {
            return RequestError { kind: RequestErrorKind::NotReady, message };
        }
        let message =
            format!("no node {node} is known here; `hyperscale nodes` lists those that are");
        RequestError { kind: RequestErrorKind::NotFound, message }
    }

    /// What a node is and where, as far as this gate has heard.
    fn place_of(&self, now: Time, node: NodeId) -> Option<(Role, Option<DatacenterId>)> {
        let electorate = self.peers.electorate();
        let is_gate = node == self.config.node
            || electorate.voters.contains(&node)
            || electorate.learners.contains_key(&node)
            || self.peers.is_linked(node);
        if is_gate {
            return Some((Role::Gate, None));
        }
        self.statuses(now).find_map(|(datacenter, _, status)| {
            let known = status.nodes.iter().find(|known| known.node == node);
            let role = known.map(|known| known.role);
            let role = role.or_else(|| status.voters.contains(&node).then_some(Role::Manager))?;
            Some((role, Some(datacenter.clone())))
        })
    }

    /// Proposes removals that wait for it, and gives up what has waited too long.
    pub(crate) fn review_removals(&mut self, now: Time) {
        let entries: Vec<(NodeId, Entry)> =
            self.removals.iter().map(|asked| (asked.node, asked.entry.clone())).collect();
        for (node, entry) in entries {
            self.propose(now, About::Removal(node), &entry);
        }
        let wait = self.config.decision_wait;
        let (late, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.removals)
            .into_iter()
            .partition(|asked| now >= asked.since + wait);
        self.removals = waiting;
        for asked in late {
            let why = "the gates have not decided in time; try again";
            self.reply_error(asked.id, RequestErrorKind::NotReady, why);
        }
    }

    /// Removals were decided: whoever asked for one is told, and each node that is out will be.
    pub(crate) fn note_removed(&mut self) {
        let removed: Vec<NodeId> = self.state.removed.iter().map(|(node, _)| *node).collect();
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.removals)
            .into_iter()
            .partition(|asked| removed.contains(&asked.node));
        self.removals = waiting;
        removed.iter().for_each(|node| self.breakers.forget(node));
        self.peers.set_removed(removed);
        for asked in done {
            self.reply(asked.id, Reply::Removed { node: asked.node });
        }
    }

    /// The leader of the gates' ledger has who is there vote instead of who is out.
    pub(crate) fn review_electorate(&mut self, now: Time) {
        let change = if self.leads { self.peers.review_electorate(now) } else { None };
        self.outputs.extend(change.map(Output::ChangeElectorate));
    }

    /// The nodes of a datacenter that were removed.
    pub(crate) fn removed_of(&self, datacenter: &DatacenterId) -> Vec<NodeId> {
        let removed = self.state.removed.iter();
        let here = removed.filter(|(_, place)| place.as_ref() == Some(datacenter));
        here.map(|(node, _)| *node).collect()
    }
}
