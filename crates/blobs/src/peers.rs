//! The other nodes of one cluster: how its ledger is founded, and who keeps which blobs.
//!
//! A ledger is founded once: by the node with the lowest id, as soon as it is linked to each of the
//! others and none of them knows of a ledger. A node that knows of one never founds another, and one
//! that has lost its disk hears of it from the others.
//!
//! An entry that names blobs is proposed only when a majority has stored them, so that whoever
//! leads next has them or has a peer that does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{BlobHash, DatacenterId, NodeId, Time};
use hyperscale_wire::{Message, SOFTWARE};

use crate::Blobs;

/// How long a blob is kept that another node counts on, from when it asked last: much longer than
/// from its question to the entry that names the blob.
const KEEP: Duration = Duration::from_secs(600);

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
}

impl Peers {
    /// Nobody is linked yet.
    #[must_use]
    pub const fn new(node: NodeId, founders: usize) -> Self {
        Self {
            node,
            founders,
            linked: BTreeMap::new(),
            is_founded: false,
            lost: Vec::new(),
            kept: BTreeMap::new(),
            absent: BTreeMap::new(),
        }
    }

    /// A link to a peer is up; it is to be told this.
    pub fn connect(&mut self, peer: NodeId) -> Message {
        self.linked.insert(peer, None);
        self.status()
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

    /// What this node says of itself.
    #[must_use]
    pub fn status(&self) -> Message {
        let (is_founded, lost) = (self.is_founded, self.lost.clone());
        Message::PeerStatus { is_founded, lost, software: SOFTWARE.to_owned() }
    }

    /// What a peer says of itself.
    pub fn on_status(
        &mut self,
        from: NodeId,
        is_founded: bool,
        lost: Vec<DatacenterId>,
        software: String,
    ) {
        if let Some(status) = self.linked.get_mut(&from) {
            *status = Some(Status { is_founded, lost, software });
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
