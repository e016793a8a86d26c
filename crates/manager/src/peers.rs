//! The other managers of the datacenter: how its ledger is founded, and who holds which blobs.
//!
//! The ledger is founded once: by the manager with the lowest id, as soon as it is linked to each of
//! the others and none of them knows of a ledger. A manager that knows of one never founds another,
//! and one that has lost its disk hears of it from the others.
//!
//! An entry that names blobs is proposed only when a majority has stored them, so that whoever leads
//! next has them or has a peer that does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{BlobHash, NodeId, PartId, Time};
use hyperscale_wire::{Message, SOFTWARE};

use crate::{Leadership, Manager, Output};

/// How long a blob is kept that another manager counts on, from when it asked last: much longer
/// than from its question to the entry that names the blob.
const KEEP: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// Those that are linked, with what each has said of itself.
    linked: BTreeMap<NodeId, Option<Status>>,
    /// Whether the datacenter's ledger has been started, as far as this manager knows.
    pub(crate) is_founded: bool,
    next_beat: Time,
    /// Blobs that an entry may name soon, with the time until which they are kept.
    kept: BTreeMap<BlobHash, Time>,
    /// Who has said of a blob that it does not hold it.
    absent: BTreeMap<BlobHash, BTreeSet<NodeId>>,
}

#[derive(Debug)]
struct Status {
    is_founded: bool,
    software: String,
}

impl Peers {
    pub(crate) fn disconnect(&mut self, node: NodeId) {
        self.linked.remove(&node);
    }

    pub(crate) fn on_status(&mut self, from: NodeId, is_founded: bool, software: String) {
        if let Some(status) = self.linked.get_mut(&from) {
            *status = Some(Status { is_founded, software });
        }
    }

    /// Those that have said of themselves what they are.
    pub(crate) fn told(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let told = self.linked.iter();
        told.filter_map(|(&node, status)| Some((node, status.as_ref()?.software.as_str())))
    }

    pub(crate) fn keep(&mut self, now: Time, hash: BlobHash) {
        self.kept.insert(hash, now + KEEP);
    }

    /// Blobs that must not be dropped although no part needs them.
    pub(crate) fn kept(&mut self, now: Time) -> impl Iterator<Item = BlobHash> {
        self.kept.retain(|_, until| now < *until);
        self.kept.keys().copied()
    }
}

impl Manager {
    pub(crate) fn on_manager_connected(&mut self, manager: NodeId) {
        self.peers.linked.insert(manager, None);
        let status = self.manager_status();
        self.send(manager, status);
    }

    fn manager_status(&self) -> Message {
        Message::ManagerStatus { is_founded: self.peers.is_founded, software: SOFTWARE.to_owned() }
    }

    /// Founds the datacenter's ledger if that is this manager's to do.
    pub(crate) fn found(&mut self) {
        let Peers { linked, is_founded, .. } = &mut self.peers;
        let are_all_here = linked.len() + 1 == self.config.managers;
        let is_unknown =
            || linked.values().all(|status| status.as_ref().is_some_and(|s| !s.is_founded));
        let is_first = || linked.keys().all(|peer| self.config.node < *peer);
        if *is_founded || !are_all_here || !is_unknown() || !is_first() {
            return;
        }
        *is_founded = true;
        let voters = std::iter::once(self.config.node).chain(linked.keys().copied()).collect();
        self.outputs.push(Output::Found { voters });
    }

    /// When this manager says something to everybody, so that its links are heard of.
    pub(crate) fn next_beat(&self) -> Option<Time> {
        (self.config.managers > 1).then_some(self.peers.next_beat)
    }

    pub(crate) fn beat(&mut self, now: Time) {
        if self.config.managers == 1 || now < self.peers.next_beat {
            return;
        }
        self.peers.next_beat = now + self.config.report;
        let peers: Vec<NodeId> = self.peers.linked.keys().copied().collect();
        for peer in peers {
            let status = self.manager_status();
            self.send(peer, status);
        }
        self.fetch_what_is_needed(now);
        if self.leading_at(now).is_some() {
            return; // A leader tells more, and as often.
        }
        let leader = self.other_leader();
        let linked = self.workers.iter().filter(|(_, view)| view.is_connected);
        let workers: Vec<NodeId> = linked.map(|(&worker, _)| worker).collect();
        workers.into_iter().for_each(|worker| self.send(worker, Message::NotLeader { leader }));
        if self.leading().is_none() {
            let status = self.datacenter_status(now);
            for gate in self.gates.clone() {
                self.send(gate, Message::DatacenterStatus(status.clone()));
            }
        }
    }

    pub(crate) fn on_keep_blob(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        self.peers.keep(now, hash);
        if self.blobs.get(hash).is_some() {
            self.send(from, Message::BlobKept { hash });
        } else {
            self.blobs.fetch(now, hash, from);
        }
    }

    pub(crate) fn on_blob_stored(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        self.peers.absent.remove(&hash);
        if self.peers.linked.contains_key(&from) && self.peers.kept.contains_key(&hash) {
            self.send(from, Message::BlobKept { hash });
        }
        self.fetch_what_is_needed(now); // A plan names more.
    }

    pub(crate) fn on_blob_kept(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        if let Leadership::Leading(leading) = &mut self.leadership {
            leading.kept.entry(hash).or_default().insert(from);
            self.accept_what_is_fetched(now);
        }
    }

    pub(crate) fn on_blob_missing(&mut self, now: Time, from: NodeId, hash: BlobHash) {
        self.peers.absent.entry(hash).or_default().insert(from);
        self.fetch_what_is_needed(now);
    }

    /// Whether a majority of managers, this one included, has stored these blobs; asks for it if not.
    pub(crate) fn is_with_majority(
        &mut self,
        now: Time,
        part: PartId,
        hashes: &BTreeSet<BlobHash>,
    ) -> bool {
        let Leadership::Leading(leading) = &self.leadership else { return false };
        // What it names must not be dropped while its entry is on its way.
        hashes.iter().for_each(|&hash| self.peers.keep(now, hash));
        let majority = self.config.managers / 2 + 1;
        let holders = |hash| leading.kept.get(hash).map_or(0, BTreeSet::len) + 1;
        if hashes.iter().all(|hash| holders(hash) >= majority) {
            return true;
        }
        let Some(offered) = self.offers.get_mut(&part) else { return false };
        if offered.asked_at.is_none_or(|asked| now >= asked + self.config.resend) {
            offered.asked_at = Some(now);
            let peers: Vec<NodeId> = self.peers.linked.keys().copied().collect();
            for (&hash, peer) in
                hashes.iter().flat_map(|hash| peers.iter().map(move |p| (hash, *p)))
            {
                self.send(peer, Message::KeepBlob { hash });
            }
        }
        false
    }

    /// Fetches what the state names and this manager does not hold, from whoever holds it.
    pub(crate) fn fetch_what_is_needed(&mut self, now: Time) {
        let parts: Vec<(BlobHash, NodeId)> =
            self.state.parts.values().map(|part| (part.plan, part.gate)).collect();
        for (plan, gate) in parts {
            if self.blobs.get(plan).is_none() {
                self.fetch_from_any(now, plan, gate);
                continue;
            }
            let named = self.plan(plan).map(|plan| plan.blobs()).unwrap_or_default();
            for hash in named {
                if self.blobs.get(hash).is_none() {
                    self.fetch_from_any(now, hash, gate);
                }
            }
        }
    }

    fn fetch_from_any(&mut self, now: Time, hash: BlobHash, gate: NodeId) {
        let leader = self.other_leader().filter(|leader| self.peers.linked.contains_key(leader));
        let peers = self.peers.linked.keys().copied();
        let gate = self.gates.get(&gate).copied();
        let sources: Vec<NodeId> = leader.into_iter().chain(peers).chain(gate).collect();
        let absent = self.peers.absent.entry(hash).or_default();
        let is_good = |source: &NodeId| sources.contains(source) && !absent.contains(source);
        if self.blobs.source(hash).is_some_and(|source| is_good(&source)) {
            return;
        }
        match sources.iter().copied().find(is_good) {
            Some(source) => self.blobs.fetch(now, hash, source),
            None => absent.clear(), // Asked again with the next beat.
        }
    }
}
