//! The other nodes of one cluster: how its ledger is founded, and who keeps which blobs.
//!
//! A ledger is founded once: by the node with the lowest id, as soon as it is linked to each of the
//! others and none of them knows of a ledger. A node that knows of one never founds another, and one
//! that has lost its disk hears of it from the others: it is a new node, which the leader has follow,
//! and which votes once one of the voters has been removed. So there are never more voters than
//! founders.
//!
//! An entry that names blobs is proposed only when a majority has stored them, so that whoever
//! leads next has them or has a peer that does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{
    BlobHash, DatacenterId, Electorate, ElectorateChange, NodeId, OverloadState, Time,
};
use hyperscale_wire::{Message, SOFTWARE};

use crate::Blobs;

/// How long a blob is kept that another node counts on, from when it asked last: much longer than
/// from its question to the entry that names the blob.
const KEEP: Duration = Duration::from_secs(600);

/// How often a leader looks at who votes, and how long it waits for what it has changed.
const REVIEW: Duration = Duration::from_secs(1);

/// Nodes that follow without a vote: a spare for each of two voters that may be lost.
const LEARNERS_MAX: usize = 2;

/// How long a node that follows without a vote may be without a link before another takes its place.
const LEARNER_GRACE: Duration = Duration::from_secs(60);

/// The other nodes of a node's cluster.
#[derive(Debug)]
pub struct Peers {
    node: NodeId,
    /// How many nodes found the ledger, this one included.
    founders: usize,
    /// Those that are linked, with what each has said of itself.
    linked: BTreeMap<NodeId, Option<Status>>,
    /// Whether the cluster's ledger has been started, as far as this node knows.
    is_founded: bool,
    /// Who votes and who follows, once that is known.
    electorate: Electorate,
    /// Nodes that take no part any more, the one that was removed last at the end.
    removed: Vec<NodeId>,
    /// Since when the nodes that follow without a vote have no link.
    unlinked: BTreeMap<NodeId, Time>,
    next_review: Time,
    overload: OverloadState,
    /// Datacenters that this node does not reach, if it is a gate.
    lost: Vec<DatacenterId>,
    /// Blobs that an entry may name soon, with the time until which they are kept.
    kept: BTreeMap<BlobHash, Time>,
    /// Who has said of a blob that it does not hold it.
    absent: BTreeMap<BlobHash, BTreeSet<NodeId>>,
}

#[derive(Debug)]
struct Status {
    is_founded: bool,
    lost: Vec<DatacenterId>,
    software: String,
    overload: OverloadState,
}

impl Peers {
    /// Nobody is linked yet.
    #[must_use]
    pub fn new(node: NodeId, founders: usize) -> Self {
        Self {
            node,
            founders,
            linked: BTreeMap::new(),
            is_founded: false,
            electorate: Electorate::default(),
            removed: Vec::new(),
            unlinked: BTreeMap::new(),
            next_review: Time::ZERO,
            overload: OverloadState::Healthy,
            lost: Vec::new(),
            kept: BTreeMap::new(),
            absent: BTreeMap::new(),
        }
    }

    /// A link to a peer is up; it is to be told this.
    pub fn connect(&mut self, peer: NodeId) -> Message {
        self.linked.insert(peer, None);
        self.status(peer)
    }

    /// A link is down.
    pub fn disconnect(&mut self, peer: NodeId) {
        self.linked.remove(&peer);
    }

    /// Whether there is a link to a peer.
    #[must_use]
    pub fn is_linked(&self, peer: NodeId) -> bool {
        self.linked.contains_key(&peer)
    }

    /// The peers that are linked.
    pub fn linked(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.linked.keys().copied()
    }

    /// Those of them that vote.
    pub fn linked_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.linked().filter(|peer| self.votes(*peer))
    }

    /// What this node says of itself to a peer.
    #[must_use]
    pub fn status(&self, peer: NodeId) -> Message {
        Message::PeerStatus {
            is_founded: self.is_founded,
            lost: self.lost.clone(),
            software: SOFTWARE.to_owned(),
            is_removed: self.removed.contains(&peer),
            overload: self.overload,
        }
    }

    /// How overloaded this node is; peers are told with its next status.
    pub const fn set_overload(&mut self, state: OverloadState) {
        self.overload = state;
    }

    /// How overloaded this node is.
    #[must_use]
    pub const fn overload(&self) -> OverloadState {
        self.overload
    }

    /// How overloaded the peers are that are linked and have said so.
    pub fn overloads(&self) -> impl Iterator<Item = (NodeId, OverloadState)> {
        let told = self.linked.iter();
        told.filter_map(|(&node, status)| Some((node, status.as_ref()?.overload)))
    }

    /// What a peer says of itself.
    pub fn on_status(
        &mut self,
        from: NodeId,
        is_founded: bool,
        lost: Vec<DatacenterId>,
        software: String,
        overload: OverloadState,
    ) {
        if let Some(status) = self.linked.get_mut(&from) {
            *status = Some(Status { is_founded, lost, software, overload });
        }
    }

    /// The datacenters that this node does not reach; peers are told with its next status.
    pub fn set_lost(&mut self, lost: Vec<DatacenterId>) {
        self.lost = lost;
    }

    /// How many peers do not reach a datacenter, by their own word.
    #[must_use]
    pub fn lost_by(&self, datacenter: &DatacenterId) -> usize {
        let told = self.linked.values().flatten();
        told.filter(|status| status.lost.contains(datacenter)).count()
    }

    /// Those that have said of themselves what they are, with the version of their software.
    pub fn told(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let told = self.linked.iter();
        told.filter_map(|(&node, status)| Some((node, status.as_ref()?.software.as_str())))
    }

    /// The ledger has been started.
    pub const fn note_founded(&mut self) {
        self.is_founded = true;
    }

    /// The voters of the ledger that this node is to found now, if it is.
    pub fn found(&mut self) -> Option<Vec<NodeId>> {
        let are_all_here = self.linked.len() + 1 == self.founders;
        let is_unknown =
            || self.linked.values().all(|status| status.as_ref().is_some_and(|s| !s.is_founded));
        let is_first = || self.linked.keys().all(|peer| self.node < *peer);
        if self.is_founded || !are_all_here || !is_unknown() || !is_first() {
            return None;
        }
        self.is_founded = true;
        Some(std::iter::once(self.node).chain(self.linked.keys().copied()).collect())
    }

    /// Who takes part, as the ledger has it.
    pub fn set_electorate(&mut self, electorate: Electorate) {
        self.electorate = electorate;
    }

    /// Who takes part; nobody while the ledger has not said.
    #[must_use]
    pub const fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// Nodes that take no part any more, in place of those that were told before.
    pub fn set_removed(&mut self, removed: Vec<NodeId>) {
        self.removed = removed;
    }

    /// How many nodes vote, or will once the ledger is founded.
    #[must_use]
    pub fn voters(&self) -> usize {
        match self.electorate.voters.len() {
            0 => self.founders,
            voters => voters,
        }
    }

    /// Whether a node votes, as far as that is known.
    #[must_use]
    pub fn votes(&self, node: NodeId) -> bool {
        self.electorate.voters.is_empty() || self.electorate.voters.contains(&node)
    }

    /// How many voters are a majority of them.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters() / 2 + 1
    }

    /// How many voters this node reaches, itself included if it is one.
    #[must_use]
    pub fn reached(&self) -> usize {
        let all = std::iter::once(self.node).chain(self.linked());
        all.filter(|node| self.votes(*node)).count()
    }

    /// When a leader is to look again at who votes, while somebody follows or is to vote no more.
    #[must_use]
    pub fn next_review(&self) -> Option<Time> {
        let Electorate { learners, is_changing, .. } = &self.electorate;
        let is_settled = learners.is_empty() && !is_changing && self.stranger().is_none();
        let has_left = |node: &NodeId| self.electorate.voters.contains(node);
        (!is_settled || self.removed.iter().any(has_left)).then_some(self.next_review)
    }

    /// What the leader of the ledger is to change about who takes part.
    ///
    /// Who was removed votes no more, and who has caught up votes in its place, if a majority of the
    /// voters to be is there. Whoever else comes follows without a vote, as a spare.
    pub fn review_electorate(&mut self, now: Time) -> Option<ElectorateChange> {
        let Electorate { voters, learners, is_changing } = &self.electorate;
        if voters.is_empty() || now < self.next_review {
            return None;
        }
        self.next_review = now + REVIEW;
        let is_here = |node: &NodeId| *node == self.node || self.linked.contains_key(node);
        let is_out = |node: &NodeId| self.removed.contains(node);
        let mut wanted: BTreeSet<NodeId> =
            voters.iter().filter(|voter| !is_out(voter)).copied().collect();
        let ready = |(node, has_caught_up): (&NodeId, &bool)| {
            (*has_caught_up && is_here(node) && !is_out(node)).then_some(*node)
        };
        let vacant = self.founders.saturating_sub(wanted.len());
        wanted.extend(learners.iter().filter_map(ready).take(vacant));
        let here = wanted.iter().filter(|voter| is_here(voter)).count();
        // A leader that was lost amid a change leaves it to the next to complete it.
        if (wanted != *voters || *is_changing) && here > wanted.len() / 2 {
            return Some(ElectorateChange::Vote(wanted));
        }
        self.unlinked
            .retain(|node, _| learners.contains_key(node) && !self.linked.contains_key(node));
        for learner in learners.keys().filter(|learner| !is_here(learner)) {
            self.unlinked.entry(*learner).or_insert(now);
        }
        let is_over = |node: &NodeId| {
            is_out(node)
                || self.unlinked.get(node).is_some_and(|&since| now >= since + LEARNER_GRACE)
        };
        if let Some(&learner) = learners.keys().find(|learner| is_over(learner)) {
            return Some(ElectorateChange::Forget(learner));
        }
        let stranger = self.stranger().filter(|_| learners.len() < LEARNERS_MAX);
        stranger.map(ElectorateChange::Learn)
    }

    /// A peer that is there and takes no part in the ledger, although it may.
    fn stranger(&self) -> Option<NodeId> {
        let Electorate { voters, learners, .. } = &self.electorate;
        let is_known = |node: &NodeId| {
            voters.contains(node) || learners.contains_key(node) || self.removed.contains(node)
        };
        self.linked.keys().find(|node| !is_known(node)).copied()
    }

    /// Keeps a blob for a while although nothing may name it.
    pub fn keep(&mut self, now: Time, hash: BlobHash) {
        self.kept.insert(hash, now + KEEP);
    }

    /// Blobs that must not be dropped although nothing names them.
    pub fn kept(&mut self, now: Time) -> impl Iterator<Item = BlobHash> {
        self.kept.retain(|_, until| now < *until);
        self.kept.keys().copied()
    }

    /// A peer counts on this node to keep a blob. Returns what to answer, if it is held already.
    pub fn on_keep(
        &mut self,
        now: Time,
        from: NodeId,
        hash: BlobHash,
        blobs: &mut Blobs,
    ) -> Option<Message> {
        self.keep(now, hash);
        if blobs.get(hash).is_some() {
            return Some(Message::BlobKept { hash });
        }
        blobs.fetch(now, hash, from);
        None
    }

    /// A blob has come. Returns what to tell its sender, if that counts on it.
    pub fn on_stored(&mut self, from: NodeId, hash: BlobHash) -> Option<Message> {
        self.absent.remove(&hash);
        let is_awaited = self.is_linked(from) && self.kept.contains_key(&hash);
        is_awaited.then_some(Message::BlobKept { hash })
    }

    /// A node does not hold a blob.
    pub fn on_missing(&mut self, from: NodeId, hash: BlobHash) {
        self.absent.entry(hash).or_default().insert(from);
    }

    /// Fetches a blob from the first of these that may hold it, unless it comes from one already.
    pub fn fetch(&mut self, now: Time, hash: BlobHash, sources: &[NodeId], blobs: &mut Blobs) {
        if blobs.get(hash).is_some() {
            return;
        }
        let absent = self.absent.entry(hash).or_default();
        let is_good = |source: &NodeId| sources.contains(source) && !absent.contains(source);
        if blobs.source(hash).is_some_and(|source| is_good(&source)) {
            return;
        }
        match sources.iter().copied().find(is_good) {
            Some(source) => blobs.fetch(now, hash, source),
            None => absent.clear(), // Asked again with the next beat.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(n: u64) -> Time {
        Time::from_millis(n * 1_000)
    }

    /// Node 1 leads 1, 2 and 3; those in `here` are linked, and those in `learners` follow.
    fn leader(here: &[u64], learners: &[(u64, bool)]) -> Peers {
        let mut peers = Peers::new(NodeId(1), 3);
        for &peer in here {
            peers.connect(NodeId(peer));
        }
        let voters = [1, 2, 3].map(NodeId).into();
        let learners = learners.iter().map(|&(node, ready)| (NodeId(node), ready)).collect();
        peers.set_electorate(Electorate { voters, learners, is_changing: false });
        peers
    }

    fn vote(nodes: &[u64]) -> Option<ElectorateChange> {
        Some(ElectorateChange::Vote(nodes.iter().copied().map(NodeId).collect()))
    }

    #[test]
    fn a_stranger_follows_and_votes_only_where_a_voter_was_removed() {
        let mut peers = leader(&[2, 4], &[]);
        assert_eq!(peers.review_electorate(second(1)), Some(ElectorateChange::Learn(NodeId(4))));

        let mut peers = leader(&[2, 4], &[(4, true)]);
        assert_eq!(peers.review_electorate(second(1)), None, "three vote already, dead or not");

        peers.set_removed(vec![NodeId(3)]);
        assert_eq!(peers.review_electorate(second(2)), vote(&[1, 2, 4]));
    }

    #[test]
    fn who_has_not_caught_up_does_not_vote() {
        let mut peers = leader(&[2, 4], &[(4, false)]);
        peers.set_removed(vec![NodeId(3)]);

        assert_eq!(peers.review_electorate(second(1)), vote(&[1, 2]));
    }

    #[test]
    fn a_change_that_its_leader_has_left_amid_is_completed_by_the_next() {
        let mut peers = leader(&[2, 3], &[]);
        assert_eq!(peers.next_review(), None);
        let voters = [1, 2, 3].map(NodeId).into();
        peers.set_electorate(Electorate { voters, is_changing: true, ..Electorate::default() });

        assert!(peers.next_review().is_some());
        assert_eq!(peers.review_electorate(second(1)), vote(&[1, 2, 3]));
    }

    #[test]
    fn no_change_leaves_fewer_than_a_majority_there() {
        let mut peers = leader(&[], &[]);
        peers.set_removed(vec![NodeId(3)]);

        assert_eq!(peers.review_electorate(second(1)), None, "1 of 1 and 2 is no majority");
    }

    #[test]
    fn who_was_removed_neither_follows_nor_votes_again() {
        let mut peers = leader(&[2, 3, 4], &[(4, true)]);
        peers.set_removed(vec![NodeId(3), NodeId(4)]);
        assert_eq!(peers.review_electorate(second(1)), vote(&[1, 2]));
        let voters = [1, 2].map(NodeId).into();
        let learners = BTreeMap::from([(NodeId(4), true)]);
        peers.set_electorate(Electorate { voters, learners, is_changing: false });

        assert_eq!(peers.review_electorate(second(2)), Some(ElectorateChange::Forget(NodeId(4))));
        let voters = [1, 2].map(NodeId).into();
        peers.set_electorate(Electorate { voters, ..Electorate::default() });
        assert_eq!(peers.review_electorate(second(3)), None);
        let Message::PeerStatus { is_removed, .. } = peers.status(NodeId(3)) else { panic!() };
        assert!(is_removed, "it is told, and stops");
    }

    #[test]
    fn a_spare_that_is_gone_makes_room_after_a_while() {
        let mut peers = leader(&[2, 3, 6], &[(4, true), (5, true)]);
        assert_eq!(peers.review_electorate(second(1)), None, "two spares are enough");
        assert_eq!(peers.review_electorate(second(60)), None, "they may come back");

        assert_eq!(peers.review_electorate(second(61)), Some(ElectorateChange::Forget(NodeId(4))));
    }

    #[test]
    fn spares_count_for_nothing_that_a_majority_must_have() {
        let peers = leader(&[2, 4], &[(4, true)]);

        assert_eq!((peers.voters(), peers.majority(), peers.reached()), (3, 2, 2));
        assert_eq!(peers.linked_voters().collect::<Vec<_>>(), [NodeId(2)]);
    }
}
